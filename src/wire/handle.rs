//! Descriptors inside serde values. They are sent next to the bytes; the bytes hold indices into a
//! list.
//!
//! Serializing a [`Descriptor`] adds it to the list of this thread's current encoding, and
//! deserializing one takes it from the list of the current decoding. So a handle can be a field of
//! any struct, collection or enum of the user. The code that sends the bytes sends the list too
//! ([`collect`] on one side, [`provide`] on the other). Serializing a handle elsewhere, for example
//! into a file, is an error.
//!
//! The list also says which [`ObjectKind`] each descriptor is a part of, and a descriptor can be
//! claimed only as that kind. Otherwise safe code could get a file that backs a borrow, or shared
//! memory made of a file that it writes to. The bytes cannot carry the kind, because
//! implementations of serde's traits choose them.

pub use super::descriptor::Descriptor;

use super::kind::ObjectKind;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};
use std::{
    cell::{Cell, RefCell},
    fmt,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// The serde error of a handle in a value that is not being sent to another process.
const OUTSIDE_OF_A_MESSAGE: &str =
    "a handle can only travel as an argument, a result or through a connection";

thread_local! {
    /// The lists of this thread's nested encodings, one after the other. Encodings nest because an
    /// implementation of serde's traits may send values itself.
    static ENCODING: RefCell<Vec<Attached>> = const { RefCell::new(Vec::new()) };
    /// The start of the innermost encoding's list; `NOWHERE` outside of an encoding. This and `END`
    /// are separate cells because every value reads them, and almost none contains a handle.
    static START: Cell<usize> = const { Cell::new(NOWHERE) };
    /// The total length of the lists.
    static END: Cell<usize> = const { Cell::new(0) };
    /// The receiver of the innermost encoding.
    static AUDIENCE: Cell<u64> = const { Cell::new(ANY_AUDIENCE) };
    /// The list of the innermost decoding; `None` outside of a decoding. A claimed descriptor
    /// leaves `None` in its entry.
    static DECODING: Cell<Option<Vec<Option<Attached>>>> = const { Cell::new(None) };
}

/// The audience of a value that any process may receive.
pub(crate) const ANY_AUDIENCE: u64 = 0;

/// The value of `START` outside of an encoding.
const NOWHERE: usize = usize::MAX;

/// A descriptor that is sent next to a value, and the kind of handle it is a part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attached {
    /// The number of an [`ObjectKind`], if the sender follows the protocol.
    kind: u8,
    descriptor: Descriptor,
}

impl Attached {
    /// Pairs received descriptors with their kinds. Returns an empty list if the counts differ.
    pub(crate) fn received(fds: Vec<OwnedFd>, kinds: &[u8]) -> Vec<Self> {
        if fds.len() != kinds.len() {
            return Vec::new();
        }
        let pairs = fds.into_iter().zip(kinds);
        let attached = pairs.map(|(fd, kind)| Self {
            kind: *kind,
            descriptor: fd.into(),
        });
        attached.collect()
    }

    /// Splits a list into descriptors and kinds, to send it.
    pub(crate) fn split(attached: &[Self]) -> (Vec<BorrowedFd<'_>>, Vec<u8>) {
        let pairs = attached.iter().map(|part| (part.as_fd(), part.kind));
        pairs.unzip()
    }
}

impl AsFd for Attached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Runs `encode`, and appends the descriptors in the encoded value to `list`, in the order of their
/// indices in the bytes.
///
/// The list shares the descriptors with the value, so they stay open at least as long as the list.
#[inline]
pub(crate) fn collect<T>(list: &mut Vec<Attached>, encode: impl FnOnce() -> T) -> T {
    /// Restores the outer list, also after a panic.
    struct RestoreEncoding(usize, u64);
    impl Drop for RestoreEncoding {
        #[inline]
        fn drop(&mut self) {
            AUDIENCE.set(self.1);
            let start = START.replace(self.0);
            if END.get() > start {
                drop(split_off(start));
            }
        }
    }
    let start = END.get();
    let _outer = RestoreEncoding(START.replace(start), AUDIENCE.replace(ANY_AUDIENCE));
    let encoded = encode();
    // The list is not touched for a value without handles: that would cost as much as encoding a
    // number.
    if END.get() > start {
        list.append(&mut split_off(start));
    }
    encoded
}

/// Runs `encode` with `audience` as the receiver of the innermost encoding. Implementations of
/// `Serialize` read that number with [`audience`].
#[inline]
pub(crate) fn with_audience<T>(audience: u64, encode: impl FnOnce() -> T) -> T {
    struct RestoreAudience(u64);
    impl Drop for RestoreAudience {
        #[inline]
        fn drop(&mut self) {
            AUDIENCE.set(self.0);
        }
    }
    let _outer = RestoreAudience(AUDIENCE.replace(audience));
    encode()
}

/// Returns the receiver of the innermost encoding.
pub(crate) fn audience() -> u64 {
    AUDIENCE.get()
}

/// Removes and returns the lists from `start` on.
#[cold]
fn split_off(start: usize) -> Vec<Attached> {
    // After the thread-locals of this thread are destroyed, there are no lists.
    let list = ENCODING.try_with(|lists| lists.borrow_mut().split_off(start));
    END.set(start);
    list.unwrap_or_default()
}

/// Runs `decode` with the descriptors that came with a value encoded in [`collect`], in the same
/// order.
///
/// Each descriptor can be claimed once. Those that are not claimed are closed.
#[inline]
pub(crate) fn provide<T>(descriptors: Vec<Attached>, decode: impl FnOnce() -> T) -> T {
    /// Restores the outer list, also after a panic.
    struct RestoreDecoding(Option<Vec<Option<Attached>>>);
    impl Drop for RestoreDecoding {
        fn drop(&mut self) {
            replace_decoding(self.0.take());
        }
    }
    let list = descriptors.into_iter().map(Some).collect();
    let _outer = RestoreDecoding(replace_decoding(Some(list)));
    decode()
}

/// Replaces the list of the innermost decoding. Returns `None` after the thread-locals of this
/// thread are destroyed; then handles cannot be received.
#[inline]
fn replace_decoding(list: Option<Vec<Option<Attached>>>) -> Option<Vec<Option<Attached>>> {
    DECODING.try_with(|it| it.replace(list)).ok().flatten()
}

/// Adds a descriptor to the list of the innermost encoding and returns its index. Returns `None`
/// outside of an encoding.
fn add_to_encoding(kind: u8, descriptor: &Descriptor) -> Option<u32> {
    let (start, end) = (START.get(), END.get());
    let number = u32::try_from(end.checked_sub(start)?).ok()?;
    let attached = Attached {
        kind,
        descriptor: descriptor.clone(),
    };
    let pushed = ENCODING.try_with(|lists| lists.borrow_mut().push(attached));
    pushed.ok()?;
    END.set(end + 1);
    Some(number)
}

/// The reason why a descriptor cannot be claimed.
enum ClaimError {
    OutsideOfMessage,
    Lost,
    /// The kind that was sent, and the kind that is expected.
    WrongKind(u8, u8),
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |number| {
            let kind = ObjectKind::of_number(number);
            kind.map_or("an unknown kind of handle".to_owned(), |it| it.to_string())
        };
        match *self {
            Self::OutsideOfMessage => f.write_str(OUTSIDE_OF_A_MESSAGE),
            Self::Lost => f.write_str("a handle has lost its descriptor"),
            Self::WrongKind(sent, expected) => {
                let (sent, expected) = (name(sent), name(expected));
                write!(
                    f,
                    "a handle was sent as {sent} and cannot be received as {expected}"
                )
            }
        }
    }
}

/// Takes a descriptor from the list of the innermost decoding, if its kind matches.
fn claim(kind: u8, number: u32) -> Result<Descriptor, ClaimError> {
    let mut list = replace_decoding(None).ok_or(ClaimError::OutsideOfMessage)?;
    let claimed = take_from(&mut list, kind, number);
    replace_decoding(Some(list));
    claimed
}

fn take_from(
    list: &mut [Option<Attached>],
    kind: u8,
    number: u32,
) -> Result<Descriptor, ClaimError> {
    let entry = list.get_mut(number as usize).ok_or(ClaimError::Lost)?;
    match entry {
        Some(attached) if attached.kind != kind => Err(ClaimError::WrongKind(attached.kind, kind)),
        entry => {
            let claimed = entry.take().map(|it| it.descriptor);
            claimed.ok_or(ClaimError::Lost)
        }
    }
}

/// Serializes a descriptor that is a part of a handle of this kind.
pub(crate) fn serialize_as<S: Serializer>(
    kind: u8,
    descriptor: &Descriptor,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let number =
        add_to_encoding(kind, descriptor).ok_or_else(|| S::Error::custom(OUTSIDE_OF_A_MESSAGE))?;
    number.serialize(serializer)
}

/// Deserializes a descriptor that is a part of a handle of this kind. Fails if another kind was
/// sent.
pub(crate) fn deserialize_as<'de, D: Deserializer<'de>>(
    kind: u8,
    deserializer: D,
) -> Result<Descriptor, D::Error> {
    let number = u32::deserialize(deserializer)?;
    claim(kind, number).map_err(D::Error::custom)
}

/// A descriptor that is a part of a handle of the [`ObjectKind`] with the number `KIND`.
pub(crate) struct PartOf<const KIND: u8>(Descriptor);

impl<const KIND: u8> From<Descriptor> for PartOf<KIND> {
    fn from(descriptor: Descriptor) -> Self {
        Self(descriptor)
    }
}

impl<const KIND: u8> From<PartOf<KIND>> for Descriptor {
    fn from(part: PartOf<KIND>) -> Self {
        part.0
    }
}

impl<const KIND: u8> Serialize for PartOf<KIND> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_as(KIND, &self.0, serializer)
    }
}

impl<'de, const KIND: u8> Deserialize<'de> for PartOf<KIND> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_as(KIND, deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{pipe, poll};
    use crate::wire::{Wire, codec};
    use std::{panic, time::Duration};

    fn encode<T: Wire>(value: &T) -> (Result<Vec<u8>, codec::CodecErrorText>, Vec<Attached>) {
        let (mut list, mut bytes) = (Vec::new(), Vec::new());
        let encoded = collect(&mut list, || codec::encode(value, &mut bytes));
        (encoded.map(|()| bytes), list)
    }

    fn decode<T: Wire>(bytes: &[u8], fds: Vec<Attached>) -> Result<T, codec::CodecErrorText> {
        provide(fds, || codec::decode(&mut bytes.to_vec()))
    }

    fn ends() -> (Descriptor, Descriptor) {
        let (reader, writer) = pipe::pipe().expect("a pipe");
        (reader.into(), writer.into())
    }

    /// Returns the list as the receiver gets it.
    fn received(sent: &[Attached]) -> Vec<Attached> {
        let (fds, kinds) = Attached::split(sent);
        let copies: Result<_, _> = fds.iter().map(|it| it.try_clone_to_owned()).collect();
        Attached::received(copies.expect("room for copies"), &kinds)
    }

    fn attached(descriptor: Descriptor) -> Attached {
        let kind = ObjectKind::Descriptor as u8;
        Attached { kind, descriptor }
    }

    fn is_at_end(reader: &Descriptor) -> bool {
        poll::is_readable(reader, Some(Duration::ZERO)).expect("a pipe")
            && pipe::read(reader, &mut [0]).expect("a pipe") == 0
    }

    #[test]
    fn descriptors_find_their_places_again() {
        let (reader, writer) = ends();
        let value = (Some(writer), 7, vec![reader.clone()]);
        let (bytes, fds) = encode(&value);
        let bytes = bytes.expect("a value that can be encoded");
        let (writer, seven, _): (Option<Descriptor>, i32, Vec<Descriptor>) =
            decode(&bytes, received(&fds)).expect("the same value");
        drop((value, fds));
        pipe::write(writer.expect("it was there"), b"x").expect("the pipe's end");
        assert_eq!((pipe::read(&reader, &mut [0; 2]).ok(), seven), (Some(1), 7));
        assert!(is_at_end(&reader));
    }

    #[test]
    fn a_descriptor_travels_nowhere_else() {
        let (reader, _) = ends();
        let refusal = codec::encode(&reader, &mut Vec::new()).expect_err("no list");
        assert_eq!(refusal, OUTSIDE_OF_A_MESSAGE);
        let refusal = codec::decode::<Descriptor>(&mut vec![0; 4]).expect_err("no list");
        assert_eq!(refusal, OUTSIDE_OF_A_MESSAGE);
    }

    #[test]
    fn each_descriptor_is_claimed_once_and_the_unclaimed_are_closed() {
        let (reader, writer) = ends();
        let twice = [0, 0, 0, 0, 0, 0, 0, 0];
        let fds = received(&[writer.clone(), writer.clone()].map(attached));
        assert!(decode::<(Descriptor, Descriptor)>(&twice, fds).is_err());
        assert!(decode::<Descriptor>(&[1, 0, 0, 0], received(&[attached(writer)])).is_err());
        assert!(is_at_end(&reader));
    }

    #[test]
    fn lists_nest_and_survive_a_panic() {
        let (reader, writer) = ends();
        let mut outer = Vec::new();
        let numbers = collect(&mut outer, || {
            let kind = ObjectKind::Descriptor as u8;
            let first = add_to_encoding(kind, &reader);
            let (inner, list) = encode(&writer);
            assert_eq!((inner.expect("it has a list"), list.len()), (vec![0; 4], 1));
            let panics = panic::catch_unwind(|| {
                collect(&mut Vec::new(), || {
                    add_to_encoding(kind, &writer);
                    panic::resume_unwind(Box::new(()));
                })
            });
            assert!(panics.is_err());
            (first, add_to_encoding(kind, &writer))
        });
        assert_eq!((numbers, outer.len()), ((Some(0), Some(1)), 2));
        assert_eq!(add_to_encoding(ObjectKind::Descriptor as u8, &reader), None);
    }
    #[test]
    fn a_descriptor_is_claimed_only_as_what_it_is_a_part_of() {
        type Part = PartOf<{ ObjectKind::Array as u8 }>;
        let (_, writer) = ends();
        let (bytes, list) = encode(&Part::from(writer));
        let bytes = bytes.expect("a value that can be encoded");
        let refusal = decode::<Descriptor>(&bytes, received(&list)).expect_err("another kind");
        let sentence = "a handle was sent as Array and cannot be received as Descriptor";
        assert_eq!(refusal, sentence);
        assert!(decode::<Part>(&bytes, received(&list)).is_ok());
        let (fds, _) = Attached::split(&list);
        let fds = vec![fds[0].try_clone_to_owned().expect("room for a copy")];
        let unknown = Attached::received(fds, &[200]);
        let refusal = decode::<Part>(&bytes, unknown).map(drop);
        let refusal = refusal.expect_err("no kind");
        assert!(refusal.contains("an unknown kind of handle"), "{refusal}");
    }

    #[test]
    fn descriptors_without_their_kinds_are_dropped() {
        let (reader, _) = pipe::pipe().expect("a pipe");
        assert!(Attached::received(vec![reader], &[]).is_empty());
    }

    #[test]
    fn each_kind_is_found_by_its_number() {
        for number in 1..=ObjectKind::Descriptor as u8 {
            let kind = ObjectKind::of_number(number).expect("a kind");
            assert_eq!(kind as u8, number);
        }
        assert_eq!(ObjectKind::of_number(0), None);
    }
}
