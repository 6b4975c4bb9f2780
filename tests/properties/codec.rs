//! Values come back as they were sent, and bytes that were changed on their way are an error or
//! another value.

use crate::runner;
use nix::sys::resource::{Resource, setrlimit};
use procpool::{ErrorKind, Receiver, Result, Sender, Wire, one_way};
use proptest::{collection::vec, prelude::*, sample::Index};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};
use std::fmt;

/// A value of everything that values are made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Value {
    Nothing,
    Flag(bool),
    Small(u8, i16, u32),
    Large {
        number: i64,
        wide: u128,
    },
    Letter(char),
    Floats(f32, f64),
    Text(String),
    #[serde(with = "serde_bytes")]
    Bytes(Vec<u8>),
    Perhaps(Option<Box<Value>>),
    Ok(std::result::Result<Box<Value>, String>),
    Tuple((Box<Value>, u8, Box<Value>)),
    Array([i8; 3]),
    List(Vec<Value>),
    Map(Pairs),
}

/// A map that keeps the order of its entries, and those with the same key: its encoding is the only
/// one.
#[derive(Debug, Clone, PartialEq)]
struct Pairs(Vec<(String, Value)>);

impl Serialize for Pairs {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Pairs;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a map")
            }

            fn visit_map<A>(self, mut map: A) -> std::result::Result<Pairs, A::Error>
            where
                A: serde::de::MapAccess<'de>,
            {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        from.deserialize_map(Entries)
    }
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nothing),
        any::<bool>().prop_map(Value::Flag),
        any::<(u8, i16, u32)>().prop_map(|it| Value::Small(it.0, it.1, it.2)),
        any::<(i64, u128)>().prop_map(|(number, wide)| Value::Large { number, wide }),
        any::<char>().prop_map(Value::Letter),
        any::<(u32, u64)>()
            .prop_map(|it| Value::Floats(f32::from_bits(it.0), f64::from_bits(it.1))),
        "\\PC{0,20}".prop_map(Value::Text),
        vec(any::<u8>(), 0..200).prop_map(Value::Bytes),
        any::<[i8; 3]>().prop_map(Value::Array),
    ];
    leaf.prop_recursive(6, 48, 6, |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        prop_oneof![
            proptest::option::of(boxed.clone()).prop_map(Value::Perhaps),
            proptest::result::maybe_ok(boxed.clone(), "[a-z]{0,9}").prop_map(Value::Ok),
            (boxed.clone(), any::<u8>(), boxed).prop_map(Value::Tuple),
            vec(inner.clone(), 0..6).prop_map(Value::List),
            vec(("[a-c]{0,2}", inner), 0..6).prop_map(|it| Value::Map(Pairs(it))),
        ]
    })
}

/// What becomes of bytes on their way.
#[derive(Debug, Clone)]
enum Change {
    Flip(Index, u8),
    Set(Index, [u8; 8]),
    Cut(Index),
    Extend(Vec<u8>),
    Remove(Index),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let at = |index: &Index, bytes: &[u8]| index.index(bytes.len().max(1)).min(bytes.len());
        match self {
            Self::Flip(index, bit) => {
                let at = at(index, bytes);
                bytes[at..]
                    .iter_mut()
                    .take(1)
                    .for_each(|it| *it ^= 1 << bit);
            }
            Self::Set(index, value) => {
                let at = at(index, bytes);
                bytes[at..]
                    .iter_mut()
                    .zip(value)
                    .for_each(|(byte, it)| *byte = *it);
            }
            Self::Cut(index) => bytes.truncate(at(index, bytes)),
            Self::Extend(more) => bytes.extend(more),
            Self::Remove(index) => {
                let at = at(index, bytes);
                bytes.drain(at..).take(1).for_each(drop);
            }
        }
    }
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let index = any::<Index>;
    let lengths = prop_oneof![
        Just([0xff; 8]),
        Just((1u64 << 40).to_le_bytes()),
        any::<[u8; 8]>()
    ];
    let change = prop_oneof![
        4 => (index(), 0..8u8).prop_map(|it| Change::Flip(it.0, it.1)),
        2 => (index(), lengths).prop_map(|it| Change::Set(it.0, it.1)),
        1 => index().prop_map(Change::Cut),
        1 => vec(any::<u8>(), 1..20).prop_map(Change::Extend),
        1 => index().prop_map(Change::Remove),
    ];
    vec(change, 1..4)
}

/// A pipe from this process to itself.
struct Way<T>(Receiver<T>, Sender<T>);

impl<T: Wire> Way<T> {
    fn new() -> Self {
        let (receiver, sender) = one_way().expect("a pipe");
        Self(receiver, sender)
    }

    fn encoded(&self, value: &T) -> Vec<u8> {
        self.1.send(value).expect("room in a pipe");
        self.0.recv_bytes().expect("a message")
    }

    fn decoded(&self, bytes: &[u8]) -> Result<T> {
        self.1.send_bytes(bytes).expect("room in a pipe");
        self.0.recv()
    }
}

#[test]
fn a_value_comes_back_as_it_was_sent() {
    let way = Way::new();
    let checked = runner(512).run(&values(), |value| {
        let bytes = way.encoded(&value);
        let back = way.decoded(&bytes).expect("a value");
        prop_assert_eq!(format!("{back:?}"), format!("{value:?}"));
        // By its bytes: NaN is not equal to itself.
        prop_assert_eq!(way.encoded(&back), bytes);
        Ok(())
    });
    checked.unwrap_or_else(|it| panic!("{it}"));
}

/// Bytes of memory that this process may have: no length that bytes tell makes it ask for more.
const MOST_MEMORY: u64 = 1 << 30;

#[test]
fn bytes_that_were_changed_are_an_error_or_the_value_that_they_encode() {
    setrlimit(Resource::RLIMIT_DATA, MOST_MEMORY, MOST_MEMORY).expect("a lower limit");
    let way = Way::new();
    let checked = runner(1024).run(&(values(), changes()), |(value, changes)| {
        let mut bytes = way.encoded(&value);
        changes.iter().for_each(|it| it.apply(&mut bytes));
        match way.decoded(&bytes) {
            Ok(value) => prop_assert_eq!(way.encoded(&value), bytes),
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Codec),
        }
        Ok(())
    });
    checked.unwrap_or_else(|it| panic!("{it}"));
}

#[test]
fn random_bytes_are_an_error_or_the_value_that_they_encode() {
    let way = Way::<Vec<Value>>::new();
    let checked = runner(1024).run(&vec(0..20u8, 0..64), |bytes| {
        match way.decoded(&bytes) {
            Ok(value) => prop_assert_eq!(way.encoded(&value), bytes),
            Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Codec),
        }
        Ok(())
    });
    checked.unwrap_or_else(|it| panic!("{it}"));
}
