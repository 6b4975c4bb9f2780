//! The file of a queue, as far as this process has it mapped: the page that everybody shares, and chunks.

use super::chunk::{CHUNKS, CONTROL, Chunk, HOT, file_length};
use super::damaged::damaged;
use super::position::{Mark, WORDS};
use crate::error::{Error, Result};
use crate::shm::{Kind, Object, View};
use crate::sync::bell::Bell;
use crate::sys::atomic::{AtomicU64, Ordering};
use crate::sys::memory;
use crate::sys::robust::{Reentry, RobustMutex};
use parking_lot::Mutex;
use std::{borrow::Cow, fmt, io, ops::Range, sync::OnceLock};

/// Bytes of two cache lines, which processors fetch together. What one side writes lies apart from what the other does.
const LINE: usize = 128;

const PRODUCERS_LOCK: usize = Object::BODY.next_multiple_of(LINE);
const CONSUMERS_LOCK: usize = PRODUCERS_LOCK + LINE;
const TAIL: usize = CONSUMERS_LOCK + LINE;
const HEAD: usize = TAIL + LINE;
const NOT_EMPTY: usize = HEAD + LINE;
const NOT_FULL: usize = NOT_EMPTY + LINE;
const ALL_DONE: usize = NOT_FULL + LINE;
const DONE: usize = ALL_DONE + 8;
const CAPACITY: usize = ALL_DONE + LINE;
const VISITS: usize = CAPACITY + LINE;

const _: () = assert!(WORDS * 8 <= LINE && VISITS + CHUNKS * 8 <= CONTROL);

/// Those who go through the chunks, one behind the other.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Producers,
    Consumers,
}

/// A queue's memory.
pub(super) struct Memory {
    object: Object,
    /// Bytes of the file, which never change.
    length: usize,
    /// Chunks that stay mapped once they were used.
    hot: [OnceLock<View>; HOT],
    /// The larger one that a side was in last.
    large: [Mutex<Option<(Chunk, View)>>; 2],
}

impl Memory {
    /// Makes one for at most so many items at a time, and its locks. It takes up a page until there are items.
    pub(super) fn create(
        kind: Kind,
        fingerprint: u64,
        capacity: u64,
    ) -> Result<(Self, RobustMutex, RobustMutex)> {
        let object = Object::create(kind, fingerprint, CONTROL - Object::BODY)?;
        let make = || -> io::Result<_> {
            // All chunks at once: a length costs nothing, and what is not done under a lock cannot fail there.
            memory::set_length(&object, file_length(memory::longest_file()?))?;
            let mapping = object.mapping();
            let lock = |offset| RobustMutex::create(mapping.clone(), offset, Reentry::Refused);
            Ok((lock(PRODUCERS_LOCK)?, lock(CONSUMERS_LOCK)?))
        };
        let (producers, consumers) =
            make().map_err(|it| Error::io("failed to make a queue", it))?;
        let memory = Self::of_object(object)?;
        memory.tail().init();
        memory.head().init();
        memory.visits()[Chunk::FIRST.number()].store(1, Ordering::Relaxed);
        // Relaxed, as above: nobody else knows the queue yet.
        memory.capacity_word().store(capacity, Ordering::Relaxed);
        Ok((memory, producers, consumers))
    }

    /// One that its maker has made, and its locks.
    pub(super) fn open(object: Object) -> Result<(Self, RobustMutex, RobustMutex)> {
        let lock = |offset| RobustMutex::open(object.mapping().clone(), offset);
        let (producers, consumers) = (lock(PRODUCERS_LOCK), lock(CONSUMERS_LOCK));
        Ok((Self::of_object(object)?, producers, consumers))
    }

    fn of_object(object: Object) -> Result<Self> {
        let length = memory::length(&object);
        Ok(Self {
            length: length.map_err(|it| Error::io("failed to open a queue", it))?,
            object,
            hot: [const { OnceLock::new() }; HOT],
            large: [const { Mutex::new(None) }; 2],
        })
    }

    pub(super) fn object(&self) -> &Object {
        &self.object
    }

    /// Where the producers stand.
    #[inline]
    pub(super) fn tail(&self) -> Mark<'_> {
        Mark(self.object.view().atomic_u64s(TAIL))
    }

    /// Where the consumers stand.
    #[inline]
    pub(super) fn head(&self) -> Mark<'_> {
        Mark(self.object.view().atomic_u64s(HEAD))
    }

    /// For each chunk, the producers' visit in which they entered it last, or meant to: see [`Writer`](super::writer::Writer).
    pub(super) fn visits(&self) -> &[AtomicU64; CHUNKS] {
        self.object.view().atomic_u64s(VISITS)
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
    pub(super) fn done(&self) -> &AtomicU64 {
        self.object.view().atomic_u64(DONE)
    }

    #[inline]
    pub(super) fn not_empty(&self) -> Bell<'_> {
        self.bell(NOT_EMPTY)
    }

    pub(super) fn not_full(&self) -> Bell<'_> {
        self.bell(NOT_FULL)
    }

    pub(super) fn all_done(&self) -> Bell<'_> {
        self.bell(ALL_DONE)
    }

    fn bell(&self, offset: usize) -> Bell<'_> {
        let view = self.object.view();
        Bell {
            word: view.atomic_u32(offset),
            sleepers: view.atomic_u32(offset + 4),
        }
    }

    /// Whether the file is long enough for a chunk.
    pub(super) fn has(&self, chunk: Chunk) -> bool {
        chunk.range().end <= self.length
    }

    /// A chunk, mapped when it is first asked for.
    #[inline]
    pub(super) fn chunk(&self, side: Side, chunk: Chunk) -> Result<Cow<'_, View>> {
        let Some(place) = self.hot.get(chunk.number()) else {
            return self.large(side, chunk).map(Cow::Owned);
        };
        if let Some(view) = place.get() {
            return Ok(Cow::Borrowed(view));
        }
        let view = self.map(chunk)?;
        // Another thread may have been faster; then its mapping stays.
        Ok(Cow::Borrowed(place.get_or_init(|| view)))
    }

    fn large(&self, side: Side, chunk: Chunk) -> Result<View> {
        let mut last = self.large[side as usize].lock();
        if let Some((_, view)) = last.as_ref().filter(|it| it.0 == chunk) {
            return Ok(view.clone());
        }
        // First, so that both are never mapped because of this.
        *last = None;
        let view = self.map(chunk)?;
        *last = Some((chunk, view.clone()));
        Ok(view)
    }

    #[cold]
    fn map(&self, chunk: Chunk) -> Result<View> {
        if !self.has(chunk) {
            return Err(damaged());
        }
        let mapped = self.object.view().map_part(chunk.range());
        mapped.map_err(|it| Error::io("failed to map a part of a queue", it))
    }

    /// Forgets the mapping of the large chunk that a side has left.
    pub(super) fn unmap_large(&self, side: Side) {
        *self.large[side as usize].lock() = None;
    }

    /// Gives the memory of whole pages in a part of a chunk back to the system.
    pub(super) fn give_back(&self, chunk: Chunk, part: Range<usize>) {
        let start = chunk.range().start;
        let part = start + part.start..start + part.end;
        // Where this is refused, the memory goes with the queue.
        let _ = memory::punch(&self.object, part);
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("object", &self.object)
            .finish_non_exhaustive()
    }
}
