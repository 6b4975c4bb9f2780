//! `Target`, which every program of `fuzz/` runs, and the fuzz target of values with handles.

use super::{
    codec,
    handle::{self, Attached, Descriptor},
    kind::ObjectKind,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::File,
    hint,
    os::fd::{AsFd, OwnedFd},
    sync::LazyLock,
};

/// A part of the crate that reads bytes from another process, which may be hostile.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of its program in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Runs one input. A panic is a finding.
    pub run: fn(&[u8]),
    /// Returns inputs that the crate itself could have sent.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// An input, read as a script from its start: bytes choose the actions and their arguments. Missing
/// bytes are zeros.
#[derive(Debug)]
pub(crate) struct Script<'a>(pub(crate) &'a [u8]);

impl<'a> Script<'a> {
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub(crate) fn word(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.bytes(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// Takes `count` bytes, or all if fewer are left.
    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Takes bytes that [`part`] encoded.
    pub(crate) fn part(&mut self) -> &'a [u8] {
        let length = u16::from_le_bytes(self.array());
        self.bytes(length.into())
    }
}

/// Encodes bytes with their length in front.
pub(crate) fn part(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("seeds are short");
    [&length.to_le_bytes(), bytes].concat()
}

/// Keeps the compiler from removing the call that returned `value`.
pub(crate) fn ignore<T>(value: T) {
    hint::black_box(value);
}

/// Returns descriptors of `/dev/null`.
pub(crate) fn descriptors(count: usize) -> Vec<OwnedFd> {
    static FILE: LazyLock<File> =
        LazyLock::new(|| File::open("/dev/null").expect("it is there everywhere"));
    let copy = |_| FILE.as_fd().try_clone_to_owned();
    let copies: Result<_, _> = (0..count).map(copy).collect();
    copies.expect("room for descriptors")
}

/// Returns descriptors of `/dev/null` as handles of a kind.
pub(crate) fn attached(count: usize, kind: u8) -> Vec<Attached> {
    Attached::received(descriptors(count), &vec![kind; count])
}

/// A value of every kind that the encoding knows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Tree {
    Leaf,
    Number(i64),
    Wide(u128),
    Real(f64),
    Flag(bool),
    Char(char),
    Text(String),
    Bytes(#[serde(with = "serde_bytes")] Vec<u8>),
    Handle(Descriptor),
    Maybe(Option<Box<Tree>>),
    Branches(Vec<Tree>),
    Units(Vec<()>),
    Table(BTreeMap<String, Tree>),
    Pair {
        left: Box<Tree>,
        right: (Box<Tree>, [u8; 3]),
    },
}

impl Tree {
    /// Returns a tree with most of the kinds in it, and a handle if there is one.
    pub(crate) fn example(handle: Option<Descriptor>) -> Self {
        let table = BTreeMap::from([
            ("a".to_owned(), Self::Char('ß')),
            ("b".to_owned(), Self::Flag(true)),
        ]);
        let left = Box::new(Self::Branches(vec![Self::Number(-1), Self::Real(0.5)]));
        let right = (Box::new(Self::Table(table)), [1, 2, 3]);
        let pair = Self::Pair { left, right };
        let bytes = Self::Bytes(b"bytes".to_vec());
        let handle = handle.map_or(Self::Leaf, Self::Handle);
        let maybe = Self::Maybe(Some(Box::new(Self::Text("text".to_owned()))));
        let rest = [Self::Units(vec![(); 2]), Self::Wide(u128::MAX)];
        Self::Branches(
            [pair, bytes, handle, maybe]
                .into_iter()
                .chain(rest)
                .collect(),
        )
    }
}

/// Decodes a value if the bytes are valid, then encodes and decodes it again.
fn comes_back<T: super::Wire>(bytes: &[u8], descriptors: Vec<Attached>) {
    let decode = |bytes: &[u8], descriptors: Vec<Attached>| {
        handle::provide(descriptors, || codec::decode::<T>(&mut bytes.to_vec()))
    };
    let encode = |value: &T| {
        let (mut list, mut bytes) = (Vec::new(), Vec::new());
        handle::collect(&mut list, || codec::encode(value, &mut bytes))
            .expect("what was decoded can be encoded");
        (bytes, list)
    };
    if let Ok(value) = decode(bytes, descriptors) {
        let (bytes, list) = encode(&value);
        let again = decode(&bytes, list).expect("what was encoded can be decoded");
        assert_eq!(encode(&again).0, bytes);
    }
}

pub(crate) const VALUES: Target = Target {
    name: "values",
    run: |input| {
        let mut script = Script(input);
        let kind = script.byte();
        let handles = attached(usize::from(script.byte() % 4), ObjectKind::Descriptor as u8);
        match kind % 5 {
            0 => comes_back::<Tree>(script.0, handles),
            1 => comes_back::<Vec<u8>>(script.0, handles),
            2 => comes_back::<(String, Vec<Option<Descriptor>>)>(script.0, handles),
            3 => comes_back::<Vec<(u16, char, Tree)>>(script.0, handles),
            _ => comes_back::<BTreeMap<Option<bool>, Vec<String>>>(script.0, handles),
        }
    },
    seeds: || {
        let (mut list, mut bytes) = (Vec::new(), vec![0, 1]);
        let handle = descriptors(1).pop().map(Descriptor::from);
        handle::collect(&mut list, || {
            codec::encode(&Tree::example(handle), &mut bytes)
        })
        .expect("an example can be encoded");
        let mut tuple = vec![2, 0];
        codec::encode(&("a", vec![None::<u8>; 2]), &mut tuple).expect("text");
        let mut row = vec![3, 0];
        codec::encode(&vec![(7u16, '🦀', Tree::Leaf)], &mut row).expect("a row");
        let mut map = vec![4, 0];
        let value = BTreeMap::from([(None, vec![]), (Some(true), vec!["x".to_owned()])]);
        codec::encode(&value, &mut map).expect("a map");
        vec![bytes, b"\x01\x00raw bytes".to_vec(), tuple, row, map]
    },
};
