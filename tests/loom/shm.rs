//! Stands for `src/shm`: memory of loom's atomics, and of bytes that report a race.
//!
//! A word or byte is made at its first use, which must come before the threads of a model start:
//! loom fails a model in which another thread then uses it without having synchronized.

#![expect(unsafe_code, reason = "loom hands out pointers to what it watches")]

use crate::error::Result;
use crate::sys::atomic::{AtomicU32, AtomicU64, Ordering};
use loom::cell::UnsafeCell;
use serde::{Deserializer, Serializer};
use std::{
    fmt, io,
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, OnceLock},
};

/// Bytes of memory whose places are listed together.
const GROUP_LEN: usize = 256;

/// Bytes of an object's file after the part that its users map: two blocks of a queue of each of
/// the two smallest sizes.
pub(crate) const BLOCKS_LEN: usize = 2 * 32 + 2 * 64;

/// What lies at each place of a group. A place that is used as a word holds no other bytes.
struct Group {
    arrays: [OnceLock<Vec<AtomicU64>>; GROUP_LEN / 8],
    doubles: [OnceLock<AtomicU64>; GROUP_LEN / 8],
    words: [OnceLock<AtomicU32>; GROUP_LEN / 4],
    bytes: [OnceLock<Byte>; GROUP_LEN],
}

/// A byte that several threads use. A race fails the model.
pub(crate) struct Byte(UnsafeCell<u8>);

// SAFETY: loom fails the model at two accesses of which none happens before the other.
unsafe impl Sync for Byte {}

impl Byte {
    pub(crate) fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    pub(crate) fn read(&self) -> u8 {
        // SAFETY: the pointer is valid in the closure, and loom has looked for a race.
        self.0.with(|it| unsafe { *it })
    }

    pub(crate) fn write(&self, byte: u8) {
        // SAFETY: as above.
        self.0.with_mut(|it| unsafe { *it = byte });
    }
}

/// A part of some memory. Clones see the same.
#[derive(Clone)]
pub(crate) struct View {
    groups: Arc<Vec<OnceLock<Box<Group>>>>,
    part: Range<usize>,
}

pub(crate) type Mapping = View;

impl View {
    fn new(bytes: usize) -> Self {
        let groups = std::iter::repeat_with(OnceLock::new);
        let count = (bytes + BLOCKS_LEN).div_ceil(GROUP_LEN);
        Self {
            groups: Arc::new(groups.take(count).collect()),
            part: 0..bytes,
        }
    }

    pub(crate) fn map_part(&self, part: Range<usize>) -> io::Result<Self> {
        let groups = Arc::clone(&self.groups);
        Ok(Self { groups, part })
    }

    pub(crate) fn len(&self) -> usize {
        self.part.len()
    }

    pub(crate) fn atomic_u32(&self, offset: usize) -> &AtomicU32 {
        let (group, at) = self.place(offset, 4);
        group.words[at / 4].get_or_init(|| AtomicU32::new(0))
    }

    pub(crate) fn atomic_u64(&self, offset: usize) -> &AtomicU64 {
        let (group, at) = self.place(offset, 8);
        group.doubles[at / 8].get_or_init(|| AtomicU64::new(0))
    }

    pub(crate) fn atomic_u64s<const N: usize>(&self, offset: usize) -> &[AtomicU64; N] {
        let (group, at) = self.place(offset, 8);
        let words = || (0..N).map(|_| AtomicU64::new(0)).collect();
        let words = group.arrays[at / 8].get_or_init(words);
        words.first_chunk().expect("the same length at each use")
    }

    fn byte(&self, offset: usize) -> &Byte {
        let (group, at) = self.place(offset, 1);
        group.bytes[at].get_or_init(Byte::new)
    }

    fn place(&self, offset: usize, length: usize) -> (&Group, usize) {
        assert!(offset + length <= self.len() && offset.is_multiple_of(length));
        let at = self.part.start + offset;
        let group = self.groups[at / GROUP_LEN].get_or_init(|| {
            Box::new(Group {
                arrays: [const { OnceLock::new() }; _],
                doubles: [const { OnceLock::new() }; _],
                words: [const { OnceLock::new() }; _],
                bytes: [const { OnceLock::new() }; _],
            })
        });
        (group, at % GROUP_LEN)
    }

    pub(crate) fn copy_in(&self, offset: usize, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            self.byte(at).write(*byte);
        }
    }

    pub(crate) fn copy_out(&self, offset: usize, length: usize, into: &mut Vec<u8>) {
        into.extend((offset..offset + length).map(|it| self.byte(it).read()));
    }

    /// Makes a part zeros, and the words and bytes there if they are not made yet.
    pub(crate) fn clear(&self, part: Range<usize>) {
        for at in part {
            self.byte(at).write(0);
            if at.is_multiple_of(8) {
                self.atomic_u64(at).store(0, Ordering::Relaxed);
            }
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("View").field(&self.part).finish()
    }
}

impl AsFd for View {
    fn as_fd(&self) -> BorrowedFd<'_> {
        unreachable!("no model sends memory")
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Segment(View);

impl Segment {
    pub(crate) fn anonymous(bytes: usize) -> Result<Self> {
        Ok(Self(View::new(bytes)))
    }

    pub(crate) fn from_fd(_file: OwnedFd) -> Result<Self> {
        unreachable!("no model sends memory")
    }

    pub(crate) fn close_file(&mut self) {}

    pub(crate) fn view(&self) -> &View {
        &self.0
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ObjectKind {
    Semaphore,
    BoundedSemaphore,
    Event,
    SimpleQueue,
}

#[derive(Debug, Clone)]
pub(crate) struct Object(View);

impl Object {
    pub(crate) const BODY: usize = 64;

    pub(crate) fn create(_kind: ObjectKind, _fingerprint: u64, bytes: usize) -> Result<Self> {
        Ok(Self(View::new(Self::BODY + bytes)))
    }

    pub(crate) fn view(&self) -> &View {
        &self.0
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.0
    }

    pub(crate) fn serialize<S: Serializer>(
        &self,
        _kind: ObjectKind,
        _serializer: S,
    ) -> Result<S::Ok, S::Error> {
        unreachable!("no model sends an object")
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        _deserializer: D,
        _kind: ObjectKind,
        _fingerprint: u64,
        _least: usize,
    ) -> Result<Self, D::Error> {
        unreachable!("no model sends an object")
    }
}
