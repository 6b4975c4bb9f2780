//! A worker's [`SharedRegion`] as its pool uses it: what lies there is not believed, as a task can
//! write anything to it.
//!
//! The pool keeps its own account of the words that it stores (`head`, `allowed`) and of what it
//! has seen of the worker's (`started`). A word that does not follow from that account is no word
//! of this crate: the worker is broken, and is to be killed. Words that the pool stores are stored
//! again whenever it falls asleep, so that a worker which waits for one of them goes on.

use crate::error::Result;
use crate::pool::{
    histogram::BUCKETS,
    protocol::region::{
        BUSY_NANOS, END, ITEMS_DONE, OVERFLOW, PANIC_GRACE, PANIC_ITEM, PANIC_SINCE, RING,
        RING_BYTES, RUN_TIMES, STARTED_AT, STARTED_ITEM, STOP, SharedRegion, WAIT_TIMES, WakeMode,
        full_barrier, pack_start_word, unpack_start_word,
    },
};
use crate::sys::{
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    clock, futex,
};
use std::{
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

/// The page of one worker, and what the pool knows of it.
///
/// Relaxed, as for all of the account: it is stored under the pool's lock, and read without it only
/// to find out whether it is worth to take that.
#[derive(Debug)]
pub(crate) struct CheckedRegion {
    page: SharedRegion,
    /// Bytes of records that have been read.
    head: AtomicU64,
    /// The item that would start next, as last seen.
    started: AtomicU32,
    /// One past the last item that may start.
    allowed: AtomicU32,
    is_broken: AtomicBool,
}

/// Something that no worker of this crate writes.
#[derive(Debug)]
pub(crate) struct ProtocolViolation;

impl CheckedRegion {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self::from_region(SharedRegion::new()?))
    }

    pub(crate) fn from_region(page: SharedRegion) -> Self {
        Self {
            page,
            head: AtomicU64::new(0),
            started: AtomicU32::new(0),
            allowed: AtomicU32::new(0),
            is_broken: AtomicBool::new(false),
        }
    }

    /// Closes the descriptor, once the worker has its own.
    pub(crate) fn close_file(&mut self) {
        self.page.close_file();
    }

    /// Whether the worker has written nonsense.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Notes that the worker has written nonsense.
    pub(crate) fn mark_broken(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
    }

    /// The number of the item that would start next.
    pub(crate) fn started(&self) -> u32 {
        self.accept_start_word(self.page.start_word().load(Ordering::Acquire));
        self.started.load(Ordering::Relaxed)
    }

    /// As [`started`](Self::started), of a worker that has ended; none if its word does not tell.
    pub(crate) fn started_at_end(&self) -> Option<u32> {
        let is_sound = self.accept_start_word(self.page.start_word().load(Ordering::Acquire));
        is_sound.then(|| self.started.load(Ordering::Relaxed))
    }

    /// Takes in what the worker has started; false if this word does not follow from what was
    /// known.
    fn accept_start_word(&self, word: u64) -> bool {
        let (started, allowed) = unpack_start_word(word);
        let known = self.started.load(Ordering::Relaxed);
        let own = self.allowed.load(Ordering::Relaxed);
        // What has started never goes back, and not beyond what may start. Distances, as the
        // numbers wrap.
        let is_sound = allowed == own && started.wrapping_sub(known) <= own.wrapping_sub(known);
        if is_sound {
            self.started.store(started, Ordering::Relaxed);
        } else {
            self.mark_broken();
        }
        is_sound
    }

    /// Allows `count` more items from `first` on, which must be the next number never used.
    pub(crate) fn allow(&self, first: u32, count: u32) {
        let end = first.wrapping_add(count);
        self.change(|started, allowed| {
            // Behind items that were taken back the numbers go on after them.
            let started = if started == allowed { first } else { started };
            Some((started, end))
        });
    }

    /// Takes back every item from `from` on that has not started, and says which is the first of
    /// them; `to` is one past the last item allowed. Nothing is taken back from a worker that is
    /// broken: what it has started is not known.
    pub(crate) fn revoke(&self, from: u32, to: u32) -> u32 {
        let changed = self.change(|started, allowed| {
            // Nothing outstanding: what `allow` set last has all started.
            if allowed == started {
                return None;
            }
            let has_started = to.wrapping_sub(started) < to.wrapping_sub(from);
            Some((started, if has_started { started } else { from }))
        });
        changed.map_or(to, |it| it.1)
    }

    /// Changes the word, unless `change` says no or the worker is broken, and says to what.
    ///
    /// The loop ends: each further round has seen more items start, of which there are so many, or
    /// nonsense.
    fn change(&self, change: impl Fn(u32, u32) -> Option<(u32, u32)>) -> Option<(u32, u32)> {
        let word = self.page.start_word();
        let mut seen = word.load(Ordering::Relaxed);
        while self.accept_start_word(seen) {
            let (started, allowed) = unpack_start_word(seen);
            let (started, allowed) = change(started, allowed)?;
            let next = pack_start_word(started, allowed);
            match word.compare_exchange(seen, next, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => {
                    self.started.store(started, Ordering::Relaxed);
                    self.allowed.store(allowed, Ordering::Relaxed);
                    return Some((started, allowed));
                }
                Err(word) => seen = word,
            }
        }
        None
    }

    /// How long an item runs that has noted its start; none if it has not. The worker may lie.
    pub(crate) fn reported_run_time(&self, item: u32) -> Option<Duration> {
        let view = self.page.view();
        let noted = view.atomic_u32(STARTED_ITEM).load(Ordering::Acquire);
        // Should the next item note its start between the two, it is not this one that runs.
        let then = view.atomic_u64(STARTED_AT).load(Ordering::Relaxed);
        (noted == item && then > 0).then(|| clock::since(then))
    }

    /// Returns how long a panic has stopped the item's clock.
    pub(crate) fn panic_time(&self, item: u32) -> Duration {
        let view = self.page.view();
        let noted = view.atomic_u32(PANIC_ITEM).load(Ordering::Acquire);
        let since = view.atomic_u64(PANIC_SINCE).load(Ordering::Relaxed);
        if noted != item || since == 0 {
            return Duration::ZERO;
        }
        clock::since(since).min(PANIC_GRACE)
    }

    /// Whether a thread of the worker has overflowed its stack, as the worker says.
    pub(crate) fn has_overflowed(&self) -> bool {
        let word = self.page.view().atomic_u32(OVERFLOW);
        word.load(Ordering::Acquire) != 0
    }

    /// Tells the worker that the SIGTERM that comes next is the pool's.
    pub(crate) fn announce_sigterm(&self) {
        let word = self.page.view().atomic_u32(END);
        // Release: pairs with the handler's load.
        word.store(1, Ordering::Release);
    }

    /// Asks the item to stop, which it may notice.
    pub(crate) fn request_stop(&self, item: u32) {
        let word = 1 << 32 | u64::from(item);
        let view = self.page.view();
        view.atomic_u64(STOP).store(word, Ordering::Relaxed);
    }

    /// Whether a record is there.
    #[inline]
    pub(crate) fn has_records(&self) -> bool {
        self.page.tail().load(Ordering::Acquire) != self.head.load(Ordering::Relaxed)
    }

    /// Moves all records to the end of `into`. An error if there cannot be so many.
    pub(crate) fn drain(&self, into: &mut Vec<u8>) -> std::result::Result<(), ProtocolViolation> {
        let head = self.head.load(Ordering::Relaxed);
        let tail = self.page.tail().load(Ordering::Acquire);
        let length = tail.wrapping_sub(head);
        self.head.store(tail, Ordering::Relaxed);
        if length > RING_BYTES as u64 {
            return Err(ProtocolViolation);
        }
        let (length, offset) = (length as usize, head as usize % RING_BYTES);
        let first = length.min(RING_BYTES - offset);
        let view = self.page.view();
        view.copy_out(RING + offset, first, into);
        view.copy_out(RING, length - first, into);
        self.publish_head();
        Ok(())
    }

    /// Tells the worker what has been read.
    fn publish_head(&self) {
        let head = self.head.load(Ordering::Relaxed);
        // SeqCst: the copies are done before the room is given, and the store is seen before the
        // question below.
        self.page.head().store(head, Ordering::SeqCst);
        let wanted = self.page.wants_room();
        if wanted.load(Ordering::SeqCst) != 0 {
            wanted.store(0, Ordering::SeqCst);
            futex::wake_all(wanted);
        }
    }

    /// Says when the worker must ring. Before sleeping, [`may_sleep`] looks at the ring.
    pub(crate) fn set_wake_mode(&self, bell: WakeMode) {
        self.page
            .wake_mode_word()
            .store(bell as u32, Ordering::Relaxed);
    }

    /// Says when the worker must ring while the pool sleeps, and once more what has been read.
    pub(crate) fn prepare_sleep(&self, bell: WakeMode) {
        self.set_wake_mode(bell);
        let head = self.head.load(Ordering::Relaxed);
        // Relaxed: the same as is there, unless a task has written to it. Then the worker looks
        // again after a while.
        self.page.head().store(head, Ordering::Relaxed);
    }

    /// How many items waited, and ran, for how long: by bucket, as the worker says.
    pub(crate) fn times(&self) -> [impl Iterator<Item = u64>; 2] {
        let view = self.page.view();
        [WAIT_TIMES, RUN_TIMES].map(|at| {
            let buckets = (at..).step_by(size_of::<u64>()).take(BUCKETS);
            buckets.map(move |it| view.atomic_u64(it).load(Ordering::Relaxed))
        })
    }

    /// Nanoseconds the worker was busy, and the items it did in them, both since its start, as it
    /// says.
    pub(crate) fn measured(&self) -> (u64, u64) {
        let load = |at| self.page.view().atomic_u64(at).load(Ordering::Relaxed);
        (load(BUSY_NANOS), load(ITEMS_DONE))
    }
}

/// Returns whether the pool may sleep until one of these workers rings, which it has told them to:
/// no record is there.
pub(crate) fn may_sleep<'a>(pages: impl IntoIterator<Item = &'a CheckedRegion>) -> bool {
    // Without the barrier: (1) the look finds no record; (2) the worker appends one and finds that
    // it need not ring; (3) the word of the bell becomes visible.
    full_barrier();
    !pages.into_iter().any(CheckedRegion::has_records)
}

impl AsFd for CheckedRegion {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.page.as_fd()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::pool::protocol::region::{ReplyHeader, ReplyKind};

    /// The page as the worker and as the pool have it.
    fn both() -> (SharedRegion, CheckedRegion) {
        let page = SharedRegion::new().expect("shared memory");
        (page.clone(), CheckedRegion::from_region(page))
    }

    fn record(item: u32, bytes: &[u8]) -> ReplyHeader {
        ReplyHeader {
            item,
            kind: ReplyKind::Value,
            len: bytes.len(),
        }
    }

    #[test]
    fn items_start_in_order_and_only_when_allowed() {
        let (worker, pool) = both();
        assert!(!worker.try_start(0));
        pool.allow(0, 2);
        assert!(!worker.try_start(1));
        assert!(worker.try_start(0) && worker.try_start(1));
        assert!(!worker.try_start(2) && !worker.try_start(1));
    }

    #[test]
    fn what_was_taken_back_never_starts_and_its_numbers_are_not_used_again() {
        let (worker, pool) = both();
        pool.allow(0, 5);
        assert!(worker.try_start(0));
        assert_eq!(pool.revoke(0, 5), 1);
        assert!(!worker.try_start(1));
        pool.allow(5, 1);
        assert!((1..5).all(|it| !worker.try_start(it)));
        assert!(worker.try_start(5));
        assert!(!pool.is_broken());
    }

    #[test]
    fn a_part_can_be_taken_back() {
        let (worker, pool) = both();
        pool.allow(0, 5);
        assert_eq!(pool.revoke(3, 5), 3);
        assert!((0..3).all(|it| worker.try_start(it)));
        assert!(!worker.try_start(3));
        assert_eq!(pool.revoke(0, 3), 3);
    }

    #[test]
    fn numbers_wrap() {
        let (worker, pool) = both();
        pool.allow(u32::MAX - 1, 3);
        assert!(worker.try_start(u32::MAX - 1) && worker.try_start(u32::MAX));
        assert_eq!(pool.revoke(u32::MAX - 1, 1), 0);
        assert!(!worker.try_start(0) && !pool.is_broken());
    }

    #[test]
    fn a_word_that_does_not_follow_is_not_believed() {
        for word in [
            pack_start_word(1, 4),
            pack_start_word(5, 4),
            pack_start_word(2, 5),
            pack_start_word(3, 3),
            u64::MAX,
            0,
        ] {
            let (worker, pool) = both();
            pool.allow(0, 4);
            assert!(worker.try_start(0) && worker.try_start(1));
            assert_eq!(pool.started(), 2);
            worker.start_word().store(word, Ordering::Relaxed);
            assert_eq!((pool.started(), pool.is_broken()), (2, true));
            assert_eq!(pool.revoke(0, 4), 4);
            pool.allow(4, 1);
            assert_eq!(worker.start_word().load(Ordering::Relaxed), word);
        }
    }

    #[test]
    fn a_tail_that_cannot_be_is_nonsense_once() {
        let (worker, pool) = both();
        let mut records = Vec::new();
        for tail in [RING_BYTES as u64 + 1, u64::MAX, 1 << 40] {
            worker.tail().store(tail, Ordering::Relaxed);
            assert!(pool.drain(&mut records).is_err() && records.is_empty());
            assert!(!pool.has_records());
        }
    }

    #[test]
    fn a_worker_that_lost_the_head_gets_it_again() {
        let (worker, pool) = both();
        worker.head().store(1 << 40, Ordering::Relaxed);
        assert!(!worker.append(record(0, b"one"), b"one"));
        pool.prepare_sleep(WakeMode::Immediate);
        assert!(worker.append(record(0, b"one"), b"one"));
    }

    #[test]
    fn the_first_panic_of_an_item_stops_its_clock_for_a_second() {
        let (worker, pool) = both();
        assert_eq!(pool.panic_time(0), Duration::ZERO);
        worker.pause_clock(7);
        assert_eq!(pool.panic_time(8), Duration::ZERO);
        let since = worker.view().atomic_u64(PANIC_SINCE);
        since.store(1, Ordering::Relaxed);
        worker.pause_clock(7);
        assert_eq!(pool.panic_time(7), PANIC_GRACE);
        worker.pause_clock(8);
        assert!(since.load(Ordering::Relaxed) > 1);
        assert_eq!(pool.panic_time(7), Duration::ZERO);
    }

    #[test]
    fn records_wrap_around_the_end_of_the_ring() {
        let (worker, pool) = both();
        let bytes: Vec<u8> = (0..=255).cycle().take(50_000).collect();
        let mut drained = Vec::new();
        for item in 0..20 {
            assert!(worker.append(record(item, &bytes), &bytes));
            assert!(worker.append(record(item, &bytes), &bytes));
            assert!(!worker.append(record(item, &bytes), &bytes));
            drained.clear();
            pool.drain(&mut drained).expect("records");
            assert_eq!(ReplyHeader::parse(&drained), Some(record(item, &bytes)));
            assert_eq!(drained[ReplyHeader::SIZE..][..bytes.len()], bytes);
            assert_eq!(drained.len(), 2 * (ReplyHeader::SIZE + bytes.len()));
        }
        assert!(!pool.has_records());
    }
}
