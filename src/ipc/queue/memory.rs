//! The file of a queue, as far as this process has it mapped: the page that everybody shares, and
//! blocks.

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

/// Bytes of two cache lines, which processors fetch together. What one side writes lies apart from
/// what the other does.
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

/// Those who go through the blocks, one behind the other.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Producers,
    Consumers,
}

/// A queue's memory.
pub(super) struct QueueMemory {
    object: Object,
    /// Bytes of the file, which never change.
    len: usize,
    /// Blocks that stay mapped once they were used.
    hot: [OnceLock<View>; HOT_BLOCKS],
    /// The larger one that a side was in last.
    large: [Mutex<Option<(Block, View)>>; 2],
}

impl QueueMemory {
    /// Makes one for at most so many items at a time, and its locks. It takes up a page until there
    /// are items.
    pub(super) fn create(
        kind: ObjectKind,
        fingerprint: u64,
        capacity: u64,
    ) -> Result<(Self, RobustMutex, RobustMutex)> {
        let object = Object::create(kind, fingerprint, CONTROL_LEN - Object::BODY)?;
        let make = || -> io::Result<_> {
            // All blocks at once: a length costs nothing, and what is not done under a lock cannot
            // fail there.
            memory::set_len(&object, file_len(memory::longest_file()?))?;
            let mapping = object.mapping();
            let lock = |offset| RobustMutex::create(mapping.clone(), offset, MutexKind::ErrorCheck);
            Ok((lock(PRODUCERS_LOCK)?, lock(CONSUMERS_LOCK)?))
        };
        let (producers, consumers) =
            make().map_err(|it| Error::io("failed to make a queue", it))?;
        let memory = Self::from_object(object)?;
        memory.tail().init();
        memory.head().init();
        memory.generations()[Block::FIRST.number()].store(1, Ordering::Relaxed);
        // Relaxed, as above: nobody else knows the queue yet.
        memory.capacity_word().store(capacity, Ordering::Relaxed);
        Ok((memory, producers, consumers))
    }

    /// One that its maker has made, and its locks.
    pub(super) fn open(object: Object) -> Result<(Self, RobustMutex, RobustMutex)> {
        let lock = |offset| RobustMutex::open(object.mapping().clone(), offset);
        let (producers, consumers) = (lock(PRODUCERS_LOCK), lock(CONSUMERS_LOCK));
        Ok((Self::from_object(object)?, producers, consumers))
    }

    fn from_object(object: Object) -> Result<Self> {
        let len = memory::len(&object);
        Ok(Self {
            len: len.map_err(|it| Error::io("failed to open a queue", it))?,
            object,
            hot: [const { OnceLock::new() }; HOT_BLOCKS],
            large: [const { Mutex::new(None) }; 2],
        })
    }

    pub(super) fn object(&self) -> &Object {
        &self.object
    }

    /// Where the producers stand.
    #[inline]
    pub(super) fn tail(&self) -> AtomicPosition<'_> {
        AtomicPosition(self.object.view().atomic_u64s(TAIL))
    }

    /// Where the consumers stand.
    #[inline]
    pub(super) fn head(&self) -> AtomicPosition<'_> {
        AtomicPosition(self.object.view().atomic_u64s(HEAD))
    }

    /// For each block, the producers' generation in which they entered it last, or meant to: see
    /// [`Writer`](super::writer::Writer).
    pub(super) fn generations(&self) -> &[AtomicU64; BLOCKS] {
        self.object.view().atomic_u64s(GENERATIONS)
    }

    /// Items that may wait at a time.
    #[inline]
    pub(super) fn capacity(&self) -> u64 {
        // Relaxed: it does not change.
        self.capacity_word().load(Ordering::Relaxed)
    }

    fn capacity_word(&self) -> &AtomicU64 {
        self.object.view().atomic_u64(CAPACITY)
    }

    /// Items that were done with.
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

    /// A block, mapped when it is first asked for.
    #[inline]
    pub(super) fn block(&self, side: Side, block: Block) -> Result<Cow<'_, View>> {
        let Some(place) = self.hot.get(block.number()) else {
            return self.large(side, block).map(Cow::Owned);
        };
        if let Some(view) = place.get() {
            return Ok(Cow::Borrowed(view));
        }
        let view = self.map(block)?;
        // Another thread may have been faster; then its mapping stays.
        Ok(Cow::Borrowed(place.get_or_init(|| view)))
    }

    fn large(&self, side: Side, block: Block) -> Result<View> {
        let mut last = self.large[side as usize].lock();
        if let Some((_, view)) = last.as_ref().filter(|it| it.0 == block) {
            return Ok(view.clone());
        }
        // First, so that both are never mapped because of this.
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
        mapped.map_err(|it| Error::io("failed to map a part of a queue", it))
    }

    /// Forgets the mapping of the large block that a side has left.
    pub(super) fn unmap_large(&self, side: Side) {
        *self.large[side as usize].lock() = None;
    }

    /// Gives the memory of whole pages in a part of a block back to the system.
    pub(super) fn release(&self, block: Block, part: Range<usize>) {
        let start = block.range().start;
        let part = start + part.start..start + part.end;
        // Where this is refused, the memory goes with the queue.
        let _ = memory::punch_hole(&self.object, part);
    }
}

impl fmt::Debug for QueueMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("object", &self.object)
            .finish_non_exhaustive()
    }
}
