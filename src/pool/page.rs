//! The page that a worker shares with its pool: which items it may start, and the ring of its replies.
//!
//! # The word
//!
//! One 64-bit word says which items may start: `started` in its low half, `allowed` in its high half, both counting items
//! from the worker's first. Numbers are never used twice, and compared for equality only, so that they may wrap.
//!
//! | word | meaning |
//! |---|---|
//! | started = n, allowed = n | nothing may start |
//! | started = n, allowed > n | items n to allowed - 1 may start, n first |
//!
//! | step | by | |
//! |---|---|---|
//! | (n, a) → (n + 1, a), n ≠ a | worker | starts item n; fails if n is not the next, that is, it was taken back |
//! | (s, a) → (s, a + k) | pool | k more items were sent |
//! | (s, a) → (s, b), b between s and a | pool | items b to a - 1 are taken back |
//! | (s, s) → (a, a) | pool | the next item sent gets a number beyond all that were ever allowed |
//!
//! A frame whose items were taken back may still be in the pipe. Its numbers are below `started` or beyond `allowed` when
//! the worker comes to it, so that it is skipped.
//!
//! # The ring
//!
//! Replies are records (item, tag and length, bytes) in a ring of bytes that the worker appends to and the pool empties. A
//! record counts from the moment when `tail` is stored behind it: it is there whole or not at all, whenever the worker is
//! killed, and it outlives the worker. So a death costs the one item that had started and not replied.
//!
//! # The clock of a panic
//!
//! A panic stops the clock of its item for a second, once: a limit that passes while the panic is on its way would hide it. The
//! worker stores when the first panic of an item began, then the item; the pool loads them in the opposite order. If the limit
//! has passed before the worker stores the item, the pool may end the worker: then the panic came too late.
//!
//! # The bell
//!
//! The pool empties rings when it is awake. Before it sleeps it says when it wants to be rung for ([`Bell`]) and looks at the
//! rings once more; the worker appends, then looks at the bell. With a full barrier between the two on either side, one of
//! them sees the other.
//!
//! `tests/loom/pool` runs this file, its user in the pool and the worker's in every order that the
//! memory model allows, and without each of what the text above asks for.
//!
//! # Who may write what
//!
//! The worker can write all of it, and so can a task that runs there. The pool reads it through
//! [`WorkerPage`](super::worker_page::WorkerPage), which keeps an account of its own.

use super::{
    histogram::{BUCKETS, bucket_of},
    stopwatch::Lap,
};
use crate::error::Result;
use crate::shm::{Segment, View};
use crate::sys::{
    atomic::{AtomicU32, AtomicU64, Ordering, fence},
    clock, futex,
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

/// Offsets in bytes, each in a cache line of its own: one side writes it while the other polls its neighbour.
const WORD: usize = 0;
const TAIL: usize = 64;
const HEAD: usize = 128;
const BELL: usize = 192;
const WANTS_ROOM: usize = 256;
pub(super) const BUSY_NANOS: usize = 320;
pub(super) const ITEMS_DONE: usize = 328;
pub(super) const STARTED_ITEM: usize = 384;
pub(super) const STARTED_AT: usize = 392;
pub(super) const STOP: usize = 448;
/// Not 0 once the pool has the worker end: written by the pool before it sends SIGTERM, read by the
/// worker's handler.
pub(super) const END: usize = 456;
/// Not 0 once a thread of the worker has overflowed its stack: written by the worker's handler of that, read after its death.
pub(super) const OVERFLOW: usize = 460;
pub(super) const PANIC_ITEM: usize = 512;
pub(super) const PANIC_SINCE: usize = 520;
/// Histograms, in a page of their own: an idle worker touches none of it.
pub(super) const WAIT_TIMES: usize = 4096;
pub(super) const RUN_TIMES: usize = WAIT_TIMES + BUCKETS * size_of::<u64>();
pub(super) const RING: usize = 8192;

/// Bytes; twice the largest record, which is `SPILL` and a header (shm/buffer.rs). A model has room
/// for three small ones.
pub(super) const RING_BYTES: usize = if cfg!(loom) { 32 } else { 128 << 10 };

/// How long a worker sleeps at most before it looks for room again.
const ROOM_LIMIT: Duration = Duration::from_millis(100);

/// How long a panic stops the clock of its item. As long as a task may go on after SIGTERM, so that a limit keeps its meaning.
pub(super) const PANIC_GRACE: Duration = Duration::from_secs(1);

/// When a worker is to ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bell {
    /// Not at all: the pool is awake, or has been rung for.
    Off = 0,
    /// When it runs out of work, and now and then before that: the pool looks by itself, too.
    NowAndThen = 1,
    /// At its next reply: the pool sleeps until then.
    AtOnce = 2,
}

/// What a record holds. Never 0: bytes that nobody has written are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// An encoded result.
    Value = 1,
    /// An encoded [`Fault`](crate::process::fault::Fault).
    Fault = 2,
    /// Where an encoded result lies: [`InSlab`](super::protocol::InSlab).
    Slab = 3,
    /// Setup is done.
    Ready = 4,
    /// Setup failed: an encoded fault.
    SetupFault = 5,
    /// The worker has dropped the slab with this number.
    SlabGone = 6,
    /// Descriptors lie in the socket, for the item's result: [`Batch`](super::descriptors::Batch).
    Handles = 7,
    /// The worker takes up more memory than it may.
    Full = 8,
}

impl Tag {
    fn from_bits(bits: u32) -> Option<Self> {
        let all = [
            Self::Fault,
            Self::Slab,
            Self::Ready,
            Self::SetupFault,
            Self::SlabGone,
            Self::Handles,
            Self::Full,
        ];
        // Nearly all are values.
        if bits == Self::Value as u32 {
            Some(Self::Value)
        } else {
            all.into_iter().find(|it| *it as u32 == bits)
        }
    }
}

/// The head of a record: the item's number, then tag and length in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHead {
    pub(super) item: u32,
    pub(super) tag: Tag,
    pub(super) length: usize,
}

impl RecordHead {
    pub(super) const SIZE: usize = 8;
    /// Bits of the second word that are the length; the rest is the tag.
    const LENGTH_BITS: u32 = 28;

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let second = (self.tag as u32) << Self::LENGTH_BITS | self.length as u32;
        (u64::from(self.item) | u64::from(second) << 32).to_le_bytes()
    }

    /// Reads a head from the start of `bytes`; none when there is none, or it is not one that this crate writes.
    #[inline]
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let word = u64::from_le_bytes(*bytes.first_chunk::<{ Self::SIZE }>()?);
        let second = (word >> 32) as u32;
        let length = (second & ((1 << Self::LENGTH_BITS) - 1)) as usize;
        Some(Self {
            item: word as u32,
            tag: Tag::from_bits(second >> Self::LENGTH_BITS)?,
            length,
        })
    }
}

/// The shared page, as both sides map it, and the worker's way to use it. Clones see the same.
#[derive(Debug, Clone)]
pub(super) struct Page(Segment);

impl Page {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(Segment::anonymous(RING + RING_BYTES)?))
    }

    /// Maps the page that a pool has made. Its descriptor is closed: what a task writes to all of them does not hit it.
    pub(super) fn from_fd(file: OwnedFd) -> Result<Self> {
        let mut page = Self(Segment::from_fd(file)?);
        page.close_file();
        Ok(page)
    }

    /// Closes the descriptor, once nobody is to be given it any more.
    pub(super) fn close_file(&mut self) {
        self.0.close_file();
    }

    pub(super) fn word(&self) -> &AtomicU64 {
        self.0.view().atomic_u64(WORD)
    }

    pub(super) fn tail(&self) -> &AtomicU64 {
        self.0.view().atomic_u64(TAIL)
    }

    pub(super) fn head(&self) -> &AtomicU64 {
        self.0.view().atomic_u64(HEAD)
    }

    pub(super) fn bell_word(&self) -> &AtomicU32 {
        self.0.view().atomic_u32(BELL)
    }

    pub(super) fn wants_room(&self) -> &AtomicU32 {
        self.0.view().atomic_u32(WANTS_ROOM)
    }

    pub(super) fn view(&self) -> &View {
        self.0.view()
    }
}

impl Page {
    /// Claims item `item`; false when it was taken back.
    #[inline]
    pub(super) fn try_start(&self, item: u32) -> bool {
        // Relaxed: the frame with the item came through a pipe, which orders this after `allow`.
        let mut word = self.word().load(Ordering::Relaxed);
        loop {
            let (started, allowed) = halves(word);
            if started != item || allowed == item {
                return false;
            }
            let next = joined(item.wrapping_add(1), allowed);
            // SeqCst: see `barrier_behind_start`.
            match self
                .word()
                .compare_exchange_weak(word, next, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(seen) => word = seen,
            }
        }
    }

    /// Whether an item is there that may start, or will be in a moment: it is allowed before it is written.
    pub(super) fn may_start(&self) -> bool {
        let (started, allowed) = halves(self.word().load(Ordering::Relaxed));
        started != allowed
    }

    /// Appends a record. False when there is no room for it.
    #[inline]
    pub(super) fn append(&self, head: RecordHead, bytes: &[u8]) -> bool {
        debug_assert_eq!(head.length, bytes.len());
        // Relaxed: nobody else stores the tail.
        let tail = self.tail().load(Ordering::Relaxed);
        // Acquire: the pool has read what lay before the head; it may be overwritten.
        let used = tail.wrapping_sub(self.head().load(Ordering::Acquire));
        let size = RecordHead::SIZE + bytes.len();
        if used.saturating_add(size as u64) > RING_BYTES as u64 {
            return false;
        }
        self.copy_in(tail, &head.to_bytes());
        self.copy_in(tail.wrapping_add(RecordHead::SIZE as u64), bytes);
        // Release: whoever sees the tail sees the record.
        self.tail()
            .store(tail.wrapping_add(size as u64), Ordering::Release);
        true
    }

    fn copy_in(&self, at: u64, bytes: &[u8]) {
        let offset = at as usize % RING_BYTES;
        let (first, rest) = bytes.split_at(bytes.len().min(RING_BYTES - offset));
        self.0.view().copy_in(RING + offset, first);
        if !rest.is_empty() {
            self.0.view().copy_in(RING, rest);
        }
    }

    /// Sleeps until the pool has made room, or a moment has passed.
    pub(super) fn wait_for_room(&self, would_fit: impl Fn() -> bool) {
        self.wants_room().store(1, Ordering::SeqCst);
        // Room made before the store above is seen here, room made after it wakes.
        if !would_fit() {
            futex::wait(self.wants_room(), 1, ROOM_LIMIT);
        }
    }

    /// Whether a record of `length` bytes fits now.
    pub(super) fn has_room(&self, length: usize) -> bool {
        let used = self
            .tail()
            .load(Ordering::Relaxed)
            .wrapping_sub(self.head().load(Ordering::SeqCst));
        used.saturating_add((RecordHead::SIZE + length) as u64) <= RING_BYTES as u64
    }

    /// Whether the pool has not read all records.
    pub(super) fn has_unread(&self) -> bool {
        self.tail().load(Ordering::Relaxed) != self.head().load(Ordering::Relaxed)
    }

    /// When to ring. Call behind a full barrier.
    #[inline]
    pub(super) fn bell(&self) -> Bell {
        match self.bell_word().load(Ordering::Relaxed) {
            0 => Bell::Off,
            1 => Bell::NowAndThen,
            _ => Bell::AtOnce,
        }
    }

    /// Takes the duty to ring; false when it has been done. Call behind a full barrier.
    pub(super) fn take_bell(&self) -> bool {
        // Relaxed: the barrier orders it after the store of the record.
        self.bell_word().swap(Bell::Off as u32, Ordering::Relaxed) != Bell::Off as u32
    }

    /// Notes when an item starts: one before which the clock was read.
    pub(super) fn note_start(&self, item: u32, now: u64) {
        let view = self.0.view();
        view.atomic_u64(STARTED_AT).store(now, Ordering::Relaxed);
        // Release: whoever sees the item sees its time.
        view.atomic_u32(STARTED_ITEM).store(item, Ordering::Release);
    }

    /// Stops the item's clock for a second, if it is the first panic of the item.
    pub(super) fn stop_clock(&self, item: u32) {
        let view = self.0.view();
        let (noted, since) = (view.atomic_u32(PANIC_ITEM), view.atomic_u64(PANIC_SINCE));
        // Relaxed: no other thread stores these.
        if noted.load(Ordering::Relaxed) != item || since.load(Ordering::Relaxed) == 0 {
            since.store(clock::now(), Ordering::Relaxed);
            // Release: whoever sees the item sees the time.
            noted.store(item, Ordering::Release);
        }
    }

    /// Whether the pool has asked this item to stop.
    pub(super) fn is_stop_requested(&self, item: u32) -> bool {
        let word = self.0.view().atomic_u64(STOP).load(Ordering::Relaxed);
        word == 1 << 32 | u64::from(item)
    }

    /// Returns the word that is not 0 once the pool ends this worker.
    pub(super) fn end_word(&self) -> &'static AtomicU32 {
        self.word_of_a_handler(END)
    }

    /// Returns the word that is not 0 once a thread of this worker has overflowed its stack.
    pub(super) fn overflow_word(&self) -> &'static AtomicU32 {
        self.word_of_a_handler(OVERFLOW)
    }

    /// Returns a word that a handler uses at any time, so that the page is never unmapped.
    fn word_of_a_handler(&self, at: usize) -> &'static AtomicU32 {
        let page: &'static Self = Box::leak(Box::new(self.clone()));
        page.0.view().atomic_u32(at)
    }

    /// Adds to what the pool measures tasks by: some items, how long they waited (a bucket), and how long they ran.
    pub(super) fn account(&self, waited: usize, lap: Lap) {
        let items = u64::from(lap.items) + u64::from(lap.long.is_some());
        self.add(BUSY_NANOS, lap.nanos);
        self.add(ITEMS_DONE, items);
        self.add(WAIT_TIMES + waited * size_of::<u64>(), items);
        if lap.items > 0 {
            self.add_run_time(lap.each, lap.items.into());
        }
        if let Some(long) = lap.long {
            self.add_run_time(long, 1);
        }
    }

    fn add_run_time(&self, nanos: u64, items: u64) {
        self.add(RUN_TIMES + bucket_of(nanos) * size_of::<u64>(), items);
    }

    fn add(&self, at: usize, amount: u64) {
        let word = self.0.view().atomic_u64(at);
        // Relaxed, and no read-modify-write: one writer, and the reader wants an average.
        let sum = word.load(Ordering::Relaxed).wrapping_add(amount);
        word.store(sum, Ordering::Relaxed);
    }
}

/// A full barrier behind [`Page::try_start`], whose compare-and-swap is one by itself where it is a locked instruction.
#[inline]
pub(super) fn barrier_behind_start() {
    #[cfg(any(loom, not(target_arch = "x86_64")))]
    full_barrier();
}

/// Orders every load and store before it before every one behind it.
pub(super) fn full_barrier() {
    fence(Ordering::SeqCst);
}

impl AsFd for Page {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(super) fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

pub(super) fn joined(started: u32, allowed: u32) -> u64 {
    u64::from(started) | u64::from(allowed) << 32
}
