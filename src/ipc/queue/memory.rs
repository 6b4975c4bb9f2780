//! The mapped parts of a queue's file: the control area that every user maps, and blocks.

use super::block::{BLOCKS, Block, CONTROL_LEN, HOT_BLOCKS, file_len};
use super::corrupted::err_corrupted;
use super::position::{AtomicPosition, WORDS};
use crate::error::{Error, Result};
use crate::shm::{Object, ObjectKind, View};
use crate::sync::event_count::EventCount;
use crate::sys::atomic::{AtomicU64, Ordering};
use crate::sys::memory;
use crate::sys::robust::{MutexKind, RobustMutex};
use parking_lot::Mutex;
use std::{borrow::Cow, fmt, io, ops::Range, sync::OnceLock};

/// Length in bytes of two cache lines, which processors fetch together. The words of one side are
/// kept this far from those of the other.
const LINE_PAIR: usize = 128;

const PRODUCERS_LOCK: usize = Object::BODY.next_multiple_of(LINE_PAIR);
const CONSUMERS_LOCK: usize = PRODUCERS_LOCK + LINE_PAIR;
const TAIL: usize = CONSUMERS_LOCK + LINE_PAIR;
const HEAD: usize = TAIL + LINE_PAIR;
const NOT_EMPTY: usize = HEAD + LINE_PAIR;
const NOT_FULL: usize = NOT_EMPTY + LINE_PAIR;
const ALL_DONE: usize = NOT_FULL + LINE_PAIR;
const DONE: usize = ALL_DONE + 8;
const CAPACITY: usize = ALL_DONE + LINE_PAIR;
const GENERATIONS: usize = CAPACITY + LINE_PAIR;

const _: () = assert!(WORDS * 8 <= LINE_PAIR && GENERATIONS + BLOCKS * 8 <= CONTROL_LEN);

/// The users of blocks: one at a time on each side, as each side has a lock.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Producers,
    Consumers,
}

/// A queue's memory.
pub(super) struct QueueMemory {
    object: Object,
    /// Length of the file in bytes, which never changes.
    len: usize,
    /// Small blocks, which stay mapped after their first use.
    hot: [OnceLock<View>; HOT_BLOCKS],
    /// For each side, the last larger block that it has used.
    large: [Mutex<Option<(Block, View)>>; 2],
}

impl QueueMemory {
    /// Creates the memory of a queue for at most `capacity` items, and its locks. It uses one page
    /// until items are put.
    pub(super) fn create(
        kind: ObjectKind,
        fingerprint: u64,
        capacity: u64,
    ) -> Result<(Self, RobustMutex, RobustMutex)> {
        let object = Object::create(kind, fingerprint, CONTROL_LEN - Object::BODY)?;
        let make = || -> io::Result<_> {
            // The length covers all blocks: it costs no memory, and growing the file later, under a
            // lock, could fail.
            memory::set_len(&object, file_len(memory::longest_file()?))?;
            let mapping = object.mapping();
            let lock = |offset| RobustMutex::create(mapping.clone(), offset, MutexKind::ErrorCheck);
            Ok((lock(PRODUCERS_LOCK)?, lock(CONSUMERS_LOCK)?))
        };
        let (producers, consumers) =
            make().map_err(|error| Error::io("failed to create a queue", error))?;
        let memory = Self::from_object(object)?;
        memory.tail().init();
        memory.head().init();
        memory.generations()[Block::FIRST.number()].store(1, Ordering::Relaxed);
        // Relaxed, like above: no other process has the queue yet.
        memory.capacity_word().store(capacity, Ordering::Relaxed);
        Ok((memory, producers, consumers))
    }

    /// Opens the memory of a queue that another process has created, and its locks.
    pub(super) fn open(object: Object) -> Result<(Self, RobustMutex, RobustMutex)> {
        let lock = |offset| RobustMutex::open(object.mapping().clone(), offset);
        let (producers, consumers) = (lock(PRODUCERS_LOCK), lock(CONSUMERS_LOCK));
        Ok((Self::from_object(object)?, producers, consumers))
    }

    fn from_object(object: Object) -> Result<Self> {
        let len = memory::len(&object);
        Ok(Self {
            len: len.map_err(|error| Error::io("failed to open a queue", error))?,
            object,
            hot: [const { OnceLock::new() }; HOT_BLOCKS],
            large: [const { Mutex::new(None) }; 2],
        })
    }

    pub(super) fn object(&self) -> &Object {
        &self.object
    }

    /// Returns the position of the producers.
    #[inline]
    pub(super) fn tail(&self) -> AtomicPosition<'_> {
        AtomicPosition(self.object.view().atomic_u64s(TAIL))
    }

    /// Returns the position of the consumers.
    #[inline]
    pub(super) fn head(&self) -> AtomicPosition<'_> {
        AtomicPosition(self.object.view().atomic_u64s(HEAD))
    }

    /// Returns, for each block, the generation in which the producers last entered it, or meant to:
    /// see [`Writer`](super::writer::Writer).
    pub(super) fn generations(&self) -> &[AtomicU64; BLOCKS] {
        self.object.view().atomic_u64s(GENERATIONS)
    }

    /// Returns the maximum number of items.
    #[inline]
    pub(super) fn capacity(&self) -> u64 {
        // Relaxed: it does not change.
        self.capacity_word().load(Ordering::Relaxed)
    }

    fn capacity_word(&self) -> &AtomicU64 {
        self.object.view().atomic_u64(CAPACITY)
    }

    /// Returns the number of items reported as processed.
    pub(super) fn done_count(&self) -> &AtomicU64 {
        self.object.view().atomic_u64(DONE)
    }

    #[inline]
    pub(super) fn not_empty(&self) -> EventCount<'_> {
        self.event_count(NOT_EMPTY)
    }

    pub(super) fn not_full(&self) -> EventCount<'_> {
        self.event_count(NOT_FULL)
    }

    pub(super) fn all_done(&self) -> EventCount<'_> {
        self.event_count(ALL_DONE)
    }

    fn event_count(&self, offset: usize) -> EventCount<'_> {
        let view = self.object.view();
        EventCount {
            word: view.atomic_u32(offset),
            sleepers: view.atomic_u32(offset + 4),
        }
    }

    /// Whether the file is long enough for a block.
    pub(super) fn contains(&self, block: Block) -> bool {
        block.range().end <= self.len
    }

    /// Returns a block, mapped at its first use.
    #[inline]
    pub(super) fn block(&self, side: Side, block: Block) -> Result<Cow<'_, View>> {
        let Some(slot) = self.hot.get(block.number()) else {
            return self.large(side, block).map(Cow::Owned);
        };
        if let Some(view) = slot.get() {
            return Ok(Cow::Borrowed(view));
        }
        let view = self.map(block)?;
        // Another thread may have set it first; its mapping stays.
        Ok(Cow::Borrowed(slot.get_or_init(|| view)))
    }

    fn large(&self, side: Side, block: Block) -> Result<View> {
        let mut last = self.large[side as usize].lock();
        if let Some((_, view)) = last.as_ref().filter(|entry| entry.0 == block) {
            return Ok(view.clone());
        }
        // Unmap first, so that this call never has two large blocks mapped.
        *last = None;
        let view = self.map(block)?;
        *last = Some((block, view.clone()));
        Ok(view)
    }

    #[cold]
    fn map(&self, block: Block) -> Result<View> {
        if !self.contains(block) {
            return Err(err_corrupted());
        }
        let mapped = self.object.view().map_part(block.range());
        mapped.map_err(|error| Error::io("failed to map a part of a queue", error))
    }

    /// Unmaps the large block that a side has left.
    pub(super) fn unmap_large(&self, side: Side) {
        *self.large[side as usize].lock() = None;
    }

    /// Returns the whole pages in a part of a block to the system.
    pub(super) fn release(&self, block: Block, part: Range<usize>) {
        let start = block.range().start;
        let part = start + part.start..start + part.end;
        // If this fails, the memory is freed together with the queue.
        let _ = memory::punch_hole(&self.object, part);
    }
}

impl fmt::Debug for QueueMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueMemory")
            .field("object", &self.object)
            .finish_non_exhaustive()
    }
}
