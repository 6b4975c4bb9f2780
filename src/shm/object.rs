//! Objects: segments that handles refer to. Each describes its content, so that it is never
//! mistaken for an object of another type.
//!
//! An object starts with a header. Only its creator writes it, before any other process can have
//! the object:
//!
//! | bytes | content |
//! |---|---|
//! | 0..8 | `procpool` |
//! | 8..16 | the [`ObjectKind`] |
//! | 16..24 | the [`fingerprint`] of the type, if the kind has one |
//! | 24..32 | the number of mapped bytes, including the header; the file may be longer |
//! | 32..40 | a random number that identifies the object |
//!
//! A process maps an object only once, even if it receives several handles to it. If one thread
//! took a mutex through two addresses, its list of held mutexes would keep one of them.

use crate::error::{Error, Result};
use crate::shm::View;
use crate::sys::memory::{self, Mapping, WeakMapping};
use crate::wire::{
    handle::{self, Descriptor},
    kind::ObjectKind,
};
use parking_lot::Mutex;
use serde::{Deserializer, Serializer, de::Error as _};
use std::{
    any::type_name,
    collections::HashMap,
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{Arc, LazyLock},
};

const MAGIC: u64 = u64::from_le_bytes(*b"procpool");

/// The header's length in bytes.
const HEADER: usize = 40;

/// Returns a hash of a type's name, size and alignment.
pub(crate) fn fingerprint<T>() -> u64 {
    let layout = [size_of::<T>(), align_of::<T>()].map(usize::to_le_bytes);
    let bytes = type_name::<T>().bytes().chain(layout.into_iter().flatten());
    // FNV-1a, which gives the same hash in every process.
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A segment with a header, mapped to the length in the header. Clones share it.
#[derive(Clone)]
pub(crate) struct Object(View);

impl Object {
    /// Offset of the content in bytes, after the header.
    pub(crate) const BODY: usize = 64;

    /// Creates an object with room for `bytes` zeros after the header. No other process has it yet.
    pub(crate) fn create(kind: ObjectKind, fingerprint: u64, bytes: usize) -> Result<Self> {
        let failed = |error| Error::io(format_args!("failed to create a {kind}"), error);
        let length = Self::BODY.saturating_add(bytes);
        let file = memory::anonymous_file(length).map_err(failed)?;
        let number = getrandom::u64().map_err(|error| failed(error.into()))?;
        let header = ObjectHeader {
            kind: kind as u64,
            fingerprint,
            length,
            number,
        };
        header.write(&file).map_err(failed)?;
        let mapping = Mapping::part(Arc::new(file), 0, length).map_err(failed)?;
        REGISTRY.lock().insert(header, mapping.downgrade());
        Ok(Self(View::new(mapping)))
    }

    /// Opens the object of a descriptor. Fails if it has another kind or type, or fewer than
    /// `least` bytes.
    fn open(
        file: Arc<OwnedFd>,
        kind: ObjectKind,
        fingerprint: u64,
        least: usize,
    ) -> Result<Self, String> {
        let is_valid = |header: &ObjectHeader| {
            header.kind == kind as u64 && memory::is_sealed(&file) && header.length >= least
        };
        let header = ObjectHeader::read(&file).filter(is_valid);
        let header = header.ok_or_else(|| format!("this handle is not of kind {kind}"))?;
        if header.fingerprint != fingerprint {
            return Err(format!("this {kind} holds another type"));
        }
        let mapping = REGISTRY.lock().find_or_map(file, &header);
        let mapping = mapping.map_err(|error| format!("failed to map a {kind}: {error}"))?;
        Ok(Self(View::new(mapping)))
    }

    pub(crate) fn view(&self) -> &View {
        &self.0
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        self.0.mapping()
    }

    /// Serialises the object as its descriptor.
    pub(crate) fn serialize<S: Serializer>(
        &self,
        kind: ObjectKind,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let file = Descriptor::shared(self.mapping().file().clone());
        handle::serialize_as(kind as u8, &file, serializer)
    }

    /// Deserialises an object. Fails if it has another kind or type, or fewer than `least` bytes.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
        kind: ObjectKind,
        fingerprint: u64,
        least: usize,
    ) -> Result<Self, D::Error> {
        let file = handle::deserialize_as(kind as u8, deserializer)?.into_shared();
        Self::open(file, kind, fingerprint, least).map_err(D::Error::custom)
    }
}

impl AsFd for Object {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Prints the number of the descriptor.
impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_fd().as_raw_fd().fmt(f)
    }
}

/// The decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ObjectHeader {
    pub(super) kind: u64,
    pub(super) fingerprint: u64,
    pub(super) length: usize,
    pub(super) number: u64,
}

impl ObjectHeader {
    /// Writes the header to a file that no other process has yet.
    pub(super) fn write(&self, file: impl AsFd) -> io::Result<()> {
        memory::write_at(file, 0, &self.to_bytes())
    }

    fn to_bytes(self) -> [u8; HEADER] {
        let length = self.length as u64;
        let words = [MAGIC, self.kind, self.fingerprint, length, self.number];
        let mut bytes = [0; HEADER];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Returns `None` if the file is not an object, or is shorter than its header says.
    pub(super) fn read(file: &OwnedFd) -> Option<Self> {
        let mut bytes = [0; HEADER];
        memory::read_at(file, 0, &mut bytes).ok()?;
        let mut words = bytes
            .chunks_exact(8)
            .map(|chunk| u64::from_le_bytes(chunk.try_into().expect("chunks of eight bytes")));
        let mut word = || words.next().expect("there are five");
        if word() != MAGIC {
            return None;
        }
        let header = Self {
            kind: word(),
            fingerprint: word(),
            length: usize::try_from(word()).ok()?,
            number: word(),
        };
        let is_there = memory::len(file).is_ok_and(|len| len >= header.length);
        (is_there && header.length >= Object::BODY).then_some(header)
    }
}

/// The objects that this process has mapped, by their numbers.
///
/// It refers to mappings, not to objects: an object may be dropped while a thread holds its mutex,
/// and its mapping, which then stays forever, is found again.
static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Registry {
    mapped: HashMap<u64, (ObjectHeader, WeakMapping)>,
    /// The number of entries at which those of unmapped objects are removed.
    crowded: usize,
}

impl Registry {
    fn insert(&mut self, header: ObjectHeader, mapping: WeakMapping) {
        if self.mapped.len() >= self.crowded {
            self.mapped.retain(|_, it| it.1.is_alive());
            self.crowded = 2 * self.mapped.len() + 16;
        }
        self.mapped.insert(header.number, (header, mapping));
    }

    fn find_or_map(&mut self, file: Arc<OwnedFd>, header: &ObjectHeader) -> io::Result<Mapping> {
        let known = self.mapped.get(&header.number);
        match known.and_then(|entry| Some((entry.0, entry.1.upgrade()?))) {
            Some((known, mapping)) if known == *header => return Ok(mapping),
            // Returning the mapping would mistake one object for another.
            Some(_) => return Err(io::Error::other("its number belongs to another object")),
            None => {}
        }
        let mapping = Mapping::part(file, 0, header.length)?;
        self.insert(*header, mapping.downgrade());
        Ok(mapping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy_of(object: &Object) -> Arc<OwnedFd> {
        let file = object.as_fd().try_clone_to_owned();
        Arc::new(file.expect("room for a descriptor"))
    }

    #[test]
    fn an_object_is_mapped_once_in_a_process() {
        let object = Object::create(ObjectKind::Event, 0, 64).expect("shared memory");
        let again = Object::open(copy_of(&object), ObjectKind::Event, 0, 128).expect("the same");
        assert_eq!(object.mapping().start(), again.mapping().start());
        assert_eq!(again.view().len(), 128);
    }

    #[test]
    fn an_object_is_not_taken_for_another() {
        let object =
            Object::create(ObjectKind::Value, fingerprint::<u64>(), 8).expect("shared memory");
        let open = |kind, fingerprint| Object::open(copy_of(&object), kind, fingerprint, 72);
        assert!(open(ObjectKind::Value, fingerprint::<u64>()).is_ok());
        for other in [
            fingerprint::<i64>(),
            fingerprint::<u32>(),
            fingerprint::<[u64; 1]>(),
        ] {
            let error = open(ObjectKind::Value, other).map(drop);
            assert_eq!(error, Err("this Value holds another type".to_owned()));
        }
        let error = open(ObjectKind::Array, fingerprint::<u64>()).map(drop);
        assert_eq!(error, Err("this handle is not of kind Array".to_owned()));
    }

    #[test]
    fn another_file_is_no_object() {
        let empty = memory::anonymous_file(4096).expect("a file");
        let (pipe, _writer) = crate::sys::pipe::pipe().expect("a pipe");
        let lies = memory::anonymous_file(4096).expect("a file");
        let header = ObjectHeader {
            kind: ObjectKind::Lock as u64,
            fingerprint: 0,
            length: 8192,
            number: 1,
        };
        header.write(&lies).expect("a file");
        for file in [empty, pipe, lies] {
            assert!(Object::open(Arc::new(file), ObjectKind::Lock, 0, 64).is_err());
        }
    }

    #[test]
    fn a_file_with_the_number_of_another_object_is_refused() {
        let lock = Object::create(ObjectKind::Lock, 0, 64).expect("shared memory");
        let header = ObjectHeader::read(&copy_of(&lock)).expect("an object");
        let forged = memory::anonymous_file(1 << 20).expect("a file");
        let lies = ObjectHeader {
            kind: ObjectKind::Array as u64,
            length: 1 << 20,
            ..header
        };
        lies.write(&forged).expect("a file");
        let opened = Object::open(Arc::new(forged), ObjectKind::Array, 0, 64);
        assert!(opened.is_err());
    }

    #[test]
    fn what_is_gone_leaves_the_registry() {
        let mut registry = Registry::default();
        for number in 0..1000 {
            let file = memory::anonymous_file(64).expect("a file");
            let header = ObjectHeader {
                kind: 1,
                fingerprint: 0,
                length: 64,
                number,
            };
            drop(
                registry
                    .find_or_map(Arc::new(file), &header)
                    .expect("a mapping"),
            );
        }
        assert!(registry.mapped.len() < 100);
    }
}
