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

use super::histogram::{BUCKETS, bucket_of};
use crate::error::Result;
use crate::shm::Segment;
use crate::sys::{clock, futex};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
    time::Duration,
};

/// Offsets in bytes, each in a cache line of its own: one side writes it while the other polls its neighbour.
const WORD: usize = 0;
const TAIL: usize = 64;
const HEAD: usize = 128;
const BELL: usize = 192;
const WANTS_ROOM: usize = 256;
const BUSY_NANOS: usize = 320;
const ITEMS_DONE: usize = 328;
const STARTED_ITEM: usize = 384;
const STARTED_AT: usize = 392;
const STOP: usize = 448;
/// Not 0 once the pool has the worker end: written by the pool before it sends SIGTERM, read by the worker's handler.
const END: usize = 456;
/// Not 0 once a thread of the worker has overflowed its stack: written by the worker's handler of that, read after its death.
const OVERFLOW: usize = 460;
const PANIC_ITEM: usize = 512;
const PANIC_SINCE: usize = 520;
/// Histograms, in a page of their own: an idle worker touches none of it.
const WAIT_TIMES: usize = 4096;
const RUN_TIMES: usize = WAIT_TIMES + BUCKETS * size_of::<u64>();
const RING: usize = 8192;

/// Bytes; twice the largest record, which is `SPILL` and a header (shm/buffer.rs).
const RING_BYTES: usize = 128 << 10;

/// How long a worker sleeps at most before it looks for room again.
const ROOM_LIMIT: Duration = Duration::from_millis(100);

/// How long a panic stops the clock of its item. As long as a task may go on after SIGTERM, so that a limit keeps its meaning.
const PANIC_GRACE: Duration = Duration::from_secs(1);

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

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// An encoded result.
    Value = 0,
    /// An encoded [`Fault`](crate::process::fault::Fault).
    Fault = 1,
    /// Where an encoded result lies: [`InSlab`](super::protocol::InSlab).
    Slab = 2,
    /// Setup is done.
    Ready = 3,
    /// Setup failed: an encoded fault.
    SetupFault = 4,
    /// The worker has dropped the slab with this number.
    SlabGone = 5,
    /// Descriptors lie in the socket, for the item's result: [`Batch`](super::descriptors::Batch).
    Handles = 6,
    /// The worker takes up more memory than it may.
    Full = 7,
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

/// The shared page, for both sides. Clones see the same.
#[derive(Debug, Clone)]
pub(super) struct Page(Segment);

impl Page {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(Segment::anonymous(RING + RING_BYTES)?))
    }

    pub(super) fn from_fd(file: OwnedFd) -> Result<Self> {
        Ok(Self(Segment::from_fd(file)?))
    }

    fn word(&self) -> &AtomicU64 {
        self.0.view().atomic_u64(WORD)
    }

    fn tail(&self) -> &AtomicU64 {
        self.0.view().atomic_u64(TAIL)
    }

    fn head(&self) -> &AtomicU64 {
        self.0.view().atomic_u64(HEAD)
    }

    fn bell_word(&self) -> &AtomicU32 {
        self.0.view().atomic_u32(BELL)
    }

    fn wants_room(&self) -> &AtomicU32 {
        self.0.view().atomic_u32(WANTS_ROOM)
    }
}

/// The worker's side.
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
        if used as usize + size > RING_BYTES {
            return false;
        }
        self.copy_in(tail, &head.to_bytes());
        self.copy_in(tail + RecordHead::SIZE as u64, bytes);
        // Release: whoever sees the tail sees the record.
        self.tail().store(tail + size as u64, Ordering::Release);
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
        used as usize + RecordHead::SIZE + length <= RING_BYTES
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

    /// Notes when an item starts: the first of a frame, for which the clock is read in any case. For each of the others that would
    /// take a tenth of the time of a tiny item; the pool goes by when it has seen them run.
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
        // Relaxed: nobody else stores these.
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

    /// Adds to what the pool measures tasks by: some items that waited for so long and took so long together.
    pub(super) fn account(&self, waited: u64, busy: u64, items: u64) {
        self.add(BUSY_NANOS, busy);
        self.add(ITEMS_DONE, items);
        if let Some(each) = busy.checked_div(items) {
            self.add(WAIT_TIMES + bucket_of(waited) * size_of::<u64>(), items);
            self.add(RUN_TIMES + bucket_of(each) * size_of::<u64>(), items);
        }
    }

    fn add(&self, at: usize, amount: u64) {
        let word = self.0.view().atomic_u64(at);
        // Relaxed, and no read-modify-write: one writer, and the reader wants an average.
        let sum = word.load(Ordering::Relaxed).wrapping_add(amount);
        word.store(sum, Ordering::Relaxed);
    }
}

/// The pool's side.
impl Page {
    /// How long an item runs that has noted its start; none if it has not.
    pub(super) fn age(&self, item: u32) -> Option<Duration> {
        let view = self.0.view();
        let noted = view.atomic_u32(STARTED_ITEM).load(Ordering::Acquire);
        // Should the next item note its start between the two, it is not this one that runs.
        let then = view.atomic_u64(STARTED_AT).load(Ordering::Relaxed);
        (noted == item && then > 0).then(|| clock::since(then))
    }

    /// Returns how long a panic has stopped the item's clock.
    pub(super) fn time_in_panic(&self, item: u32) -> Duration {
        let view = self.0.view();
        let noted = view.atomic_u32(PANIC_ITEM).load(Ordering::Acquire);
        let since = view.atomic_u64(PANIC_SINCE).load(Ordering::Relaxed);
        if noted != item || since == 0 {
            return Duration::ZERO;
        }
        clock::since(since).min(PANIC_GRACE)
    }

    /// Whether a thread of the worker has overflowed its stack.
    pub(super) fn has_overflowed(&self) -> bool {
        self.0.view().atomic_u32(OVERFLOW).load(Ordering::Acquire) != 0
    }

    /// Asks the item to stop, which it may notice.
    pub(super) fn request_stop(&self, item: u32) {
        let word = 1 << 32 | u64::from(item);
        self.0
            .view()
            .atomic_u64(STOP)
            .store(word, Ordering::Relaxed);
    }

    /// Tells the worker that the SIGTERM that comes next is the pool's.
    pub(super) fn tell_to_end(&self) {
        let word = self.0.view().atomic_u32(END);
        // Release: pairs with the handler's load.
        word.store(1, Ordering::Release);
    }

    /// The number of the item that would start next.
    pub(super) fn started(&self) -> u32 {
        halves(self.word().load(Ordering::Acquire)).0
    }

    /// Allows `count` more items from `first` on, which must be the next number never used.
    pub(super) fn allow(&self, first: u32, count: u32) {
        let mut word = self.word().load(Ordering::Relaxed);
        loop {
            let (started, allowed) = halves(word);
            // Behind items that were taken back the numbers go on after them.
            let started = if started == allowed { first } else { started };
            let next = joined(started, first.wrapping_add(count));
            match self
                .word()
                .compare_exchange_weak(word, next, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(seen) => word = seen,
            }
        }
    }

    /// Takes back every item from `from` on that has not started, and says which is the first of them; `to` is one past
    /// the last item allowed.
    pub(super) fn take_back(&self, from: u32, to: u32) -> u32 {
        let mut word = self.word().load(Ordering::Relaxed);
        loop {
            let (started, allowed) = halves(word);
            // Nothing outstanding: what `allow` set last has all started.
            let kept = if to.wrapping_sub(started) < to.wrapping_sub(from) {
                started
            } else {
                from
            };
            if allowed == started {
                return to;
            }
            let next = joined(started, kept);
            match self
                .word()
                .compare_exchange_weak(word, next, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return kept,
                Err(seen) => word = seen,
            }
        }
    }

    /// Whether a record is there.
    #[inline]
    pub(super) fn has_records(&self) -> bool {
        self.tail().load(Ordering::Acquire) != self.head().load(Ordering::Relaxed)
    }

    /// Moves all records to the end of `into`. An error if the worker has written nonsense.
    pub(super) fn drain(&self, into: &mut Vec<u8>) -> std::result::Result<(), ()> {
        let head = self.head().load(Ordering::Relaxed);
        let length = self.tail().load(Ordering::Acquire).wrapping_sub(head) as usize;
        if length == 0 {
            return Ok(());
        }
        if length > RING_BYTES {
            return Err(());
        }
        let offset = head as usize % RING_BYTES;
        let first = length.min(RING_BYTES - offset);
        self.0.view().copy_out(RING + offset, first, into);
        self.0.view().copy_out(RING, length - first, into);
        // SeqCst: the copies are done before the room is given, and the store is seen before the question below.
        self.head()
            .store(head.wrapping_add(length as u64), Ordering::SeqCst);
        if self.wants_room().load(Ordering::SeqCst) != 0 {
            self.wants_room().store(0, Ordering::SeqCst);
            futex::wake_all(self.wants_room());
        }
        Ok(())
    }

    /// Says when the worker must ring. Before sleeping, follow it with [`full_barrier`] and a look at the ring.
    pub(super) fn set_bell(&self, bell: Bell) {
        self.bell_word().store(bell as u32, Ordering::Relaxed);
    }

    /// How many items waited, and ran, for how long: by bucket.
    pub(super) fn times(&self) -> [impl Iterator<Item = u64>; 2] {
        let view = self.0.view();
        [WAIT_TIMES, RUN_TIMES].map(|at| {
            let buckets = (at..).step_by(size_of::<u64>()).take(BUCKETS);
            buckets.map(move |it| view.atomic_u64(it).load(Ordering::Relaxed))
        })
    }

    /// Nanoseconds the worker was busy, and the items it did in them, both since its start.
    pub(super) fn measured(&self) -> (u64, u64) {
        let view = self.0.view();
        let load = |at| view.atomic_u64(at).load(Ordering::Relaxed);
        (load(BUSY_NANOS), load(ITEMS_DONE))
    }
}

/// A full barrier behind [`Page::try_start`], whose compare-and-swap is one by itself where it is a locked instruction.
#[inline]
pub(super) fn barrier_behind_start() {
    #[cfg(not(target_arch = "x86_64"))]
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

fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

fn joined(started: u32, allowed: u32) -> u64 {
    u64::from(started) | u64::from(allowed) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        Page::new().expect("shared memory")
    }

    fn record(item: u32, bytes: &[u8]) -> RecordHead {
        RecordHead {
            item,
            tag: Tag::Value,
            length: bytes.len(),
        }
    }

    #[test]
    fn items_start_in_order_and_only_when_allowed() {
        let page = page();
        assert!(!page.try_start(0));
        page.allow(0, 2);
        assert!(!page.try_start(1));
        assert!(page.try_start(0) && page.try_start(1));
        assert!(!page.try_start(2) && !page.try_start(1));
    }

    #[test]
    fn what_was_taken_back_never_starts_and_its_numbers_are_not_used_again() {
        let page = page();
        page.allow(0, 5);
        assert!(page.try_start(0));
        assert_eq!(page.take_back(0, 5), 1);
        assert!(!page.try_start(1));
        page.allow(5, 1);
        assert!((1..5).all(|it| !page.try_start(it)));
        assert!(page.try_start(5));
    }

    #[test]
    fn a_part_can_be_taken_back() {
        let page = page();
        page.allow(0, 5);
        assert_eq!(page.take_back(3, 5), 3);
        assert!((0..3).all(|it| page.try_start(it)));
        assert!(!page.try_start(3));
        assert_eq!(page.take_back(0, 3), 3);
    }

    #[test]
    fn numbers_wrap() {
        let page = page();
        page.allow(u32::MAX - 1, 3);
        assert!(page.try_start(u32::MAX - 1) && page.try_start(u32::MAX));
        assert_eq!(page.take_back(u32::MAX - 1, 1), 0);
        assert!(!page.try_start(0));
    }

    #[test]
    fn the_first_panic_of_an_item_stops_its_clock_for_a_second() {
        let page = page();
        assert_eq!(page.time_in_panic(0), Duration::ZERO);
        page.stop_clock(7);
        assert_eq!(page.time_in_panic(8), Duration::ZERO);
        let since = page.0.view().atomic_u64(PANIC_SINCE);
        since.store(1, Ordering::Relaxed);
        page.stop_clock(7);
        assert_eq!(page.time_in_panic(7), PANIC_GRACE);
        page.stop_clock(8);
        assert!(since.load(Ordering::Relaxed) > 1);
        assert_eq!(page.time_in_panic(7), Duration::ZERO);
    }

    #[test]
    fn records_wrap_around_the_end_of_the_ring() {
        let page = page();
        let bytes: Vec<u8> = (0..=255).cycle().take(50_000).collect();
        let mut drained = Vec::new();
        for item in 0..20 {
            assert!(page.append(record(item, &bytes), &bytes));
            assert!(page.append(record(item, &bytes), &bytes));
            assert!(!page.append(record(item, &bytes), &bytes));
            drained.clear();
            page.drain(&mut drained).expect("records");
            assert_eq!(RecordHead::parse(&drained), Some(record(item, &bytes)));
            assert_eq!(drained[RecordHead::SIZE..][..bytes.len()], bytes);
            assert_eq!(drained.len(), 2 * (RecordHead::SIZE + bytes.len()));
        }
        assert!(!page.has_records());
    }
}
