//! The memory that a worker shares with its pool: which items it may start, and the ring of its
//! replies.
//!
//! # The start word
//!
//! One 64-bit word holds which items may start: `started` in its low half, `allowed` in its high
//! half. Both count items from the worker's first. Numbers are never reused and are compared by
//! distance, so they may wrap.
//!
//! | word | meaning |
//! |---|---|
//! | started = n, allowed = n | nothing may start |
//! | started = n, allowed > n | items n to allowed - 1 may start, n first |
//!
//! | step | by | |
//! |---|---|---|
//! | (n, a) → (n + 1, a), n ≠ a | worker | starts item n; fails if n was revoked |
//! | (s, a) → (s, a + k) | pool | k more items were sent |
//! | (s, a) → (s, b), b between s and a | pool | items b to a - 1 are revoked |
//! | (s, s) → (a, a) | pool | the next item gets a number above all that were ever allowed |
//!
//! A frame with revoked items may still be in the pipe. When the worker reads it, its numbers are
//! below `started` or beyond `allowed`, so it is skipped.
//!
//! # The ring
//!
//! Replies are records (item, kind and length, bytes) in a ring of bytes. The worker appends them
//! and the pool reads them. A record is published when `tail` is stored after it. A killed worker
//! has therefore written it completely or not at all, and the record outlives the worker. So a
//! death costs only the item that had started and not replied.
//!
//! # The clock of a panic
//!
//! The first panic of an item stops the item's clock for a second: a limit that passes during the
//! panic would hide it. The worker stores when the panic began, then the item; the pool loads them
//! in the opposite order. If the limit passes before the worker stores the item, the pool may end
//! the worker and the panic is not reported.
//!
//! # Wake-ups
//!
//! The pool reads the rings while it is awake. Before it sleeps, it stores when it wants to be
//! woken ([`WakeMode`]) and checks the rings again. The worker appends a record, then loads the
//! mode. Each side has a full barrier between its two steps, so one of them sees the other.
//!
//! `tests/loom/pool` runs this file with its users in the pool and the worker, in every order that
//! the memory model allows, and also without each requirement above.
//!
//! # Trust
//!
//! The worker can write the whole region, and so can its tasks. The pool reads it through
//! [`CheckedRegion`](crate::pool::worker_handle::checked_region::CheckedRegion), which keeps its
//! own record of the protocol's state.

use crate::error::Result;
use crate::pool::{
    histogram::{BUCKETS, bucket_of},
    worker::stopwatch::Lap,
};
use crate::shm::{Segment, View};
use crate::sys::{
    atomic::{AtomicU32, AtomicU64, Ordering, fence},
    clock, futex,
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

/// Offsets in bytes, in separate cache lines, because one side writes a word while the other polls
/// the next.
const START_WORD: usize = 0;
const TAIL: usize = 64;
const HEAD: usize = 128;
const WAKE_MODE: usize = 192;
const WANTS_ROOM: usize = 256;
pub(crate) const BUSY_NANOS: usize = 320;
pub(crate) const ITEMS_DONE: usize = 328;
pub(crate) const STARTED_ITEM: usize = 384;
pub(crate) const STARTED_AT: usize = 392;
pub(crate) const STOP: usize = 448;
/// Not 0 when the pool ends the worker. The pool writes it before it sends SIGTERM; the worker's
/// signal handler reads it.
pub(crate) const END: usize = 456;
/// Not 0 after a thread of the worker has overflowed its stack. The worker's signal handler writes
/// it; the pool reads it after the worker's death.
pub(crate) const OVERFLOW: usize = 460;
pub(crate) const PANIC_ITEM: usize = 512;
pub(crate) const PANIC_SINCE: usize = 520;
/// Histograms, in a separate page, which an idle worker does not touch.
pub(crate) const WAIT_TIMES: usize = 4096;
pub(crate) const RUN_TIMES: usize = WAIT_TIMES + BUCKETS * size_of::<u64>();
pub(crate) const RING: usize = 8192;

/// Bytes; twice the largest record, which is `SPILL` and a header (shm/buffer.rs). In a loom model
/// it holds three small records.
pub(crate) const RING_BYTES: usize = if cfg!(loom) { 32 } else { 128 << 10 };

/// The longest time that a worker sleeps before it checks for room again.
const ROOM_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long a panic stops the clock of its item: as long as a task may run after SIGTERM, so that a
/// limit keeps its meaning.
pub(crate) const PANIC_GRACE: Duration = Duration::from_secs(1);

/// When a worker must wake the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WakeMode {
    /// Never: the pool is awake or has been woken.
    Never = 0,
    /// When it runs out of items, and every millisecond before that. The pool also polls.
    Batched = 1,
    /// At its next reply, because the pool sleeps until then.
    Immediate = 2,
}

/// The kind of a record. Never 0, so that unwritten bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplyKind {
    /// An encoded result.
    Value = 1,
    /// An encoded [`TaskError`](crate::process::task_error::TaskError).
    Fault = 2,
    /// The slab that holds an encoded result: [`SlabRef`](crate::pool::protocol::SlabRef).
    Slab = 3,
    /// Setup is done.
    Ready = 4,
    /// Setup failed: an encoded [`TaskError`](crate::process::task_error::TaskError).
    SetupFault = 5,
    /// The worker has dropped the slab with this number.
    SlabGone = 6,
    /// Descriptors for the item's result are in the socket:
    /// [`FdRange`](crate::pool::protocol::fds::FdRange).
    Fds = 7,
    /// The worker exceeds its memory limit.
    MemoryExceeded = 8,
}

impl ReplyKind {
    #[inline]
    fn from_bits(bits: u32) -> Option<Self> {
        let all = [
            Self::Fault,
            Self::Slab,
            Self::Ready,
            Self::SetupFault,
            Self::SlabGone,
            Self::Fds,
            Self::MemoryExceeded,
        ];
        // The common case first.
        if bits == Self::Value as u32 {
            Some(Self::Value)
        } else {
            all.into_iter().find(|kind| *kind as u32 == bits)
        }
    }
}

/// The header of a record: the item's number, then kind and length in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReplyHeader {
    pub(crate) item: u32,
    pub(crate) kind: ReplyKind,
    pub(crate) len: usize,
}

impl ReplyHeader {
    pub(crate) const SIZE: usize = 8;
    /// The number of bits of the length in the second word; the kind has the rest.
    const LEN_BITS: u32 = 28;

    fn to_bytes(self) -> [u8; Self::SIZE] {
        let second = (self.kind as u32) << Self::LEN_BITS | self.len as u32;
        (u64::from(self.item) | u64::from(second) << 32).to_le_bytes()
    }

    /// Reads a header from the start of `bytes`. `None` if `bytes` is too short or the kind is
    /// unknown.
    #[inline]
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let word = u64::from_le_bytes(*bytes.first_chunk::<{ Self::SIZE }>()?);
        let second = (word >> 32) as u32;
        let len = (second & ((1 << Self::LEN_BITS) - 1)) as usize;
        Some(Self {
            item: word as u32,
            kind: ReplyKind::from_bits(second >> Self::LEN_BITS)?,
            len,
        })
    }
}

/// The shared region, as both sides map it, and the worker's operations on it. Clones share the
/// memory.
#[derive(Debug, Clone)]
pub(crate) struct SharedRegion(Segment);

impl SharedRegion {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(Segment::anonymous(RING + RING_BYTES)?))
    }

    /// Maps a region that a pool created, and closes the descriptor: a task that writes to all open
    /// descriptors does not reach the region.
    pub(crate) fn from_fd(file: OwnedFd) -> Result<Self> {
        let mut region = Self(Segment::from_fd(file)?);
        region.close_file();
        Ok(region)
    }

    /// Closes the descriptor, after the last process has received it.
    pub(crate) fn close_file(&mut self) {
        self.0.close_file();
    }

    #[inline]
    pub(crate) fn start_word(&self) -> &AtomicU64 {
        self.0.view().atomic_u64(START_WORD)
    }

    #[inline]
    pub(crate) fn tail(&self) -> &AtomicU64 {
        self.0.view().atomic_u64(TAIL)
    }

    #[inline]
    pub(crate) fn head(&self) -> &AtomicU64 {
        self.0.view().atomic_u64(HEAD)
    }

    #[inline]
    pub(crate) fn wake_mode_word(&self) -> &AtomicU32 {
        self.0.view().atomic_u32(WAKE_MODE)
    }

    pub(crate) fn wants_room(&self) -> &AtomicU32 {
        self.0.view().atomic_u32(WANTS_ROOM)
    }

    #[inline]
    pub(crate) fn view(&self) -> &View {
        self.0.view()
    }
}

impl SharedRegion {
    /// Claims item `item`. Returns false if it was revoked.
    #[inline]
    pub(crate) fn try_start(&self, item: u32) -> bool {
        // Relaxed: the frame with the item came through a pipe, which orders this after `allow`.
        let mut word = self.start_word().load(Ordering::Relaxed);
        loop {
            let (started, allowed) = unpack_start_word(word);
            // By distance, as the numbers wrap. A revoked item is at or after `allowed`, also if a
            // task has changed `started`.
            let is_allowed = item.wrapping_sub(allowed) > u32::MAX / 2;
            if started != item || !is_allowed {
                return false;
            }
            let next = pack_start_word(item.wrapping_add(1), allowed);
            // SeqCst: see `barrier_after_start`.
            match self.start_word().compare_exchange_weak(
                word,
                next,
                Ordering::SeqCst,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                // (1) This thread loaded (n, a); (2) the pool revoked items or sent more; (3) the
                //     swap fails. The loop checks the word that the pool stored.
                Err(seen) => word = seen,
            }
        }
    }

    /// Whether an item may start. It may not be in the pipe yet, because it is allowed before it is
    /// written.
    pub(crate) fn may_start(&self) -> bool {
        let (started, allowed) = unpack_start_word(self.start_word().load(Ordering::Relaxed));
        started != allowed
    }

    /// Appends a record. Returns false if it does not fit.
    #[inline]
    pub(crate) fn append(&self, header: ReplyHeader, bytes: &[u8]) -> bool {
        debug_assert_eq!(header.len, bytes.len());
        // Relaxed: only this thread stores the tail.
        let tail = self.tail().load(Ordering::Relaxed);
        // Acquire: pairs with the pool's store of the head after it has read the bytes before the
        // head, so they may be overwritten.
        let used = tail.wrapping_sub(self.head().load(Ordering::Acquire));
        let size = ReplyHeader::SIZE + bytes.len();
        if used.saturating_add(size as u64) > RING_BYTES as u64 {
            return false;
        }
        self.copy_in(tail, &header.to_bytes());
        self.copy_in(tail.wrapping_add(ReplyHeader::SIZE as u64), bytes);
        // Release: a pool that sees the tail sees the record. A worker that is killed before this
        // store has written no record.
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

    /// Sleeps until the pool has made room, or for `ROOM_POLL_INTERVAL`.
    pub(crate) fn wait_for_room(&self, would_fit: impl Fn() -> bool) {
        self.wants_room().store(1, Ordering::SeqCst);
        // Room made before the store above is seen here; room made after it wakes this thread.
        if !would_fit() {
            futex::wait(self.wants_room(), 1, ROOM_POLL_INTERVAL);
        }
    }

    /// Whether a record of `len` bytes fits now.
    pub(crate) fn has_room(&self, len: usize) -> bool {
        let used = self
            .tail()
            .load(Ordering::Relaxed)
            .wrapping_sub(self.head().load(Ordering::SeqCst));
        used.saturating_add((ReplyHeader::SIZE + len) as u64) <= RING_BYTES as u64
    }

    /// Whether the pool has unread records.
    pub(crate) fn has_unread(&self) -> bool {
        self.tail().load(Ordering::Relaxed) != self.head().load(Ordering::Relaxed)
    }

    /// Returns when to wake the pool. Call after a full barrier.
    #[inline]
    pub(crate) fn wake_mode(&self) -> WakeMode {
        match self.wake_mode_word().load(Ordering::Relaxed) {
            0 => WakeMode::Never,
            1 => WakeMode::Batched,
            _ => WakeMode::Immediate,
        }
    }

    /// Claims the duty to wake the pool. Returns false if the pool is awake or was woken. Call
    /// after a full barrier.
    pub(crate) fn take_wake_duty(&self) -> bool {
        // Relaxed: the barrier orders it after the store of the record.
        self.wake_mode_word()
            .swap(WakeMode::Never as u32, Ordering::Relaxed)
            != WakeMode::Never as u32
    }

    /// Records the start of an item for which the clock was read.
    pub(crate) fn record_start(&self, item: u32, now: u64) {
        let view = self.0.view();
        view.atomic_u64(STARTED_AT).store(now, Ordering::Relaxed);
        // Release, after the time. In the other order: (1) the item is stored; (2) the pool
        // combines it with the start of an earlier item and ends the worker too early; (3) the time
        // is stored.
        view.atomic_u32(STARTED_ITEM).store(item, Ordering::Release);
    }

    /// Stops the item's clock for `PANIC_GRACE` if it is the first panic of the item.
    pub(crate) fn pause_clock(&self, item: u32) {
        let view = self.0.view();
        let noted = view.atomic_u32(PANIC_ITEM);
        let since = view.atomic_u64(PANIC_SINCE);
        // Relaxed: no other thread stores these.
        if noted.load(Ordering::Relaxed) != item || since.load(Ordering::Relaxed) == 0 {
            since.store(clock::now(), Ordering::Relaxed);
            // Release, after the time: a pool that sees the item sees the time, and not that of an
            // earlier panic.
            noted.store(item, Ordering::Release);
        }
    }

    /// Whether the pool has asked this item to stop.
    pub(crate) fn is_stop_requested(&self, item: u32) -> bool {
        let word = self.0.view().atomic_u64(STOP).load(Ordering::Relaxed);
        word == 1 << 32 | u64::from(item)
    }

    /// Returns the word that is not 0 when the pool ends this worker.
    pub(crate) fn end_word(&self) -> &'static AtomicU32 {
        self.leaked_word(END)
    }

    /// Returns the word that is not 0 after a thread of this worker has overflowed its stack.
    pub(crate) fn overflow_word(&self) -> &'static AtomicU32 {
        self.leaked_word(OVERFLOW)
    }

    /// Returns a word for a signal handler, which may run at any time, so the region is never
    /// unmapped.
    fn leaked_word(&self, at: usize) -> &'static AtomicU32 {
        let region: &'static Self = Box::leak(Box::new(self.clone()));
        region.0.view().atomic_u32(at)
    }

    /// Adds a lap of items to the counters that the pool reads. `waited` is the bucket of their
    /// waiting time.
    pub(crate) fn add_lap(&self, waited: usize, lap: Lap) {
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
        // Relaxed, and no read-modify-write: there is one writer, and the reader needs only an
        // average.
        let sum = word.load(Ordering::Relaxed).wrapping_add(amount);
        word.store(sum, Ordering::Relaxed);
    }
}

/// A full barrier after [`SharedRegion::try_start`]. Its compare-and-swap is one by itself on
/// architectures where that is a locked instruction.
#[inline]
pub(crate) fn barrier_after_start() {
    #[cfg(any(loom, not(target_arch = "x86_64")))]
    full_barrier();
}

/// Orders all earlier loads and stores before all later ones.
pub(crate) fn full_barrier() {
    fence(Ordering::SeqCst);
}

impl AsFd for SharedRegion {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(crate) fn unpack_start_word(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

pub(crate) fn pack_start_word(started: u32, allowed: u32) -> u64 {
    u64::from(started) | u64::from(allowed) << 32
}
