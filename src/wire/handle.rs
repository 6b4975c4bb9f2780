//! Descriptors inside serde values: they travel beside the bytes, which hold their places in a list.
//!
//! A [`Descriptor`] anywhere in a value puts itself into the list of the encoding that is under way on this thread, and takes
//! itself out of that of the decoding. So a handle can lie in any struct, collection or enum of the user's, and whoever
//! moves the bytes moves the list with them ([`collect`] on one side, [`provide`] on the other). Elsewhere, in a file say, a
//! handle makes no sense, and serialising one is an error.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};
use std::{
    cell::Cell,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    thread::LocalKey,
};

/// What serde is told about a handle in a value that is not on its way to another process.
const NOT_HERE: &str = "a handle can only travel as an argument, a result or through a connection";

/// The list of the innermost encoding or decoding of this thread; none outside of one.
type List<T> = Cell<Option<Vec<T>>>;

thread_local! {
    static ENCODING: List<Descriptor> = const { Cell::new(None) };
    /// What has been claimed is gone.
    static DECODING: List<Option<OwnedFd>> = const { Cell::new(None) };
}

/// An open descriptor that can be a part of a [`Wire`](crate::Wire) value. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Descriptor(Arc<OwnedFd>);

/// Encodes, and hands out the descriptors of what was encoded, in the order of their numbers in the bytes.
///
/// They are shared with the value and stay open at least as long as the list does.
#[inline]
pub(crate) fn collect<T>(encode: impl FnOnce() -> T) -> (T, Vec<Descriptor>) {
    within(&ENCODING, Vec::new(), encode)
}

/// Decodes what was encoded in [`collect`], given the descriptors that came with it, in their order.
///
/// Each can be claimed once; one that is not claimed is closed.
#[inline]
pub(crate) fn provide<T>(descriptors: Vec<OwnedFd>, decode: impl FnOnce() -> T) -> T {
    let list = descriptors.into_iter().map(Some).collect();
    within(&DECODING, list, decode).0
}

/// Runs something with a list in its place, and puts back the one that was there, also when it panics.
///
/// An implementation of serde's traits may send and receive values itself, so that lists nest.
#[inline]
fn within<L, T>(
    place: &'static LocalKey<List<L>>,
    list: Vec<L>,
    run: impl FnOnce() -> T,
) -> (T, Vec<L>) {
    struct PutBack<L: 'static>(&'static LocalKey<List<L>>, Option<Vec<L>>);
    impl<L> Drop for PutBack<L> {
        fn drop(&mut self) {
            swap(self.0, self.1.take());
        }
    }
    let outer = PutBack(place, swap(place, Some(list)));
    let outcome = run();
    let list = swap(place, None);
    drop(outer);
    (outcome, list.unwrap_or_default())
}

/// Replaces a list. On a thread whose thread-locals are gone already there is none, and handles do not travel.
#[inline]
fn swap<L>(place: &'static LocalKey<List<L>>, list: Option<Vec<L>>) -> Option<Vec<L>> {
    place.try_with(|it| it.replace(list)).ok().flatten()
}

/// Puts a descriptor into the list of the encoding that is under way; its number there.
fn enlist(descriptor: &Descriptor) -> Option<u32> {
    let mut list = swap(&ENCODING, None)?;
    let number = u32::try_from(list.len()).ok();
    list.push(descriptor.clone());
    swap(&ENCODING, Some(list));
    number
}

/// Takes a descriptor out of the list of the decoding that is under way.
fn claim(number: u32) -> Result<OwnedFd, &'static str> {
    let mut list = swap(&DECODING, None).ok_or(NOT_HERE)?;
    let claimed = list.get_mut(number as usize).and_then(Option::take);
    swap(&DECODING, Some(list));
    claimed.ok_or("a handle has lost its descriptor")
}

impl From<OwnedFd> for Descriptor {
    fn from(fd: OwnedFd) -> Self {
        Self(Arc::new(fd))
    }
}

impl From<Arc<OwnedFd>> for Descriptor {
    fn from(fd: Arc<OwnedFd>) -> Self {
        Self(fd)
    }
}

impl From<Descriptor> for Arc<OwnedFd> {
    fn from(descriptor: Descriptor) -> Self {
        descriptor.0
    }
}

impl AsFd for Descriptor {
    #[inline]
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Serialize for Descriptor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number = enlist(self).ok_or_else(|| S::Error::custom(NOT_HERE))?;
        number.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Descriptor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(deserializer)?;
        claim(number).map(Self::from).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{pipe, poll};
    use crate::wire::{Wire, codec};
    use std::{panic, time::Duration};

    fn encode<T: Wire>(value: &T) -> (Result<Vec<u8>, codec::Reason>, Vec<Descriptor>) {
        collect(|| {
            let mut bytes = Vec::new();
            codec::encode(value, &mut bytes).map(|()| bytes)
        })
    }

    fn decode<T: Wire>(bytes: &[u8], fds: Vec<OwnedFd>) -> Result<T, codec::Reason> {
        provide(fds, || codec::decode(&mut bytes.to_vec()))
    }

    fn ends() -> (Descriptor, Descriptor) {
        let (reader, writer) = pipe::pipe().expect("a pipe");
        (reader.into(), writer.into())
    }

    /// What the receiver gets of a list.
    fn received(sent: &[Descriptor]) -> Vec<OwnedFd> {
        let copies = sent.iter().map(|it| it.0.try_clone());
        copies.collect::<Result<_, _>>().expect("room for copies")
    }

    fn is_at_end(reader: &Descriptor) -> bool {
        poll::readable(reader, Some(Duration::ZERO)).expect("a pipe")
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
        assert_eq!(refusal, NOT_HERE);
        let refusal = codec::decode::<Descriptor>(&mut vec![0; 4]).expect_err("no list");
        assert_eq!(refusal, NOT_HERE);
    }

    #[test]
    fn each_descriptor_is_claimed_once_and_the_unclaimed_are_closed() {
        let (reader, writer) = ends();
        let twice = [0, 0, 0, 0, 0, 0, 0, 0];
        let fds = received(&[writer.clone(), writer.clone()]);
        assert!(decode::<(Descriptor, Descriptor)>(&twice, fds).is_err());
        assert!(decode::<Descriptor>(&[1, 0, 0, 0], received(&[writer])).is_err());
        assert!(is_at_end(&reader));
    }

    #[test]
    fn lists_nest_and_survive_a_panic() {
        let (reader, writer) = ends();
        let (numbers, outer) = collect(|| {
            let first = enlist(&reader);
            let (inner, list) = encode(&writer);
            assert_eq!((inner.expect("it has a list"), list.len()), (vec![0; 4], 1));
            let panics = panic::catch_unwind(|| collect(|| panic::resume_unwind(Box::new(()))).0);
            assert!(panics.is_err());
            (first, enlist(&writer))
        });
        assert_eq!((numbers, outer.len()), ((Some(0), Some(1)), 2));
        assert_eq!(enlist(&reader), None);
    }
}
