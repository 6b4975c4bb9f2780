//! The pool's view of a worker's [`SharedRegion`]. A task can write anything to the region, so the
//! pool checks all that it reads.
//!
//! The pool keeps copies of the words that it stores (`head`, `allowed`), and of the last valid
//! value of the worker's (`started`). A word that cannot follow from these is a protocol violation:
//! the worker is marked as broken, and killed. The pool stores its words again before it sleeps, so
//! that a worker that waits for one of them goes on.

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

/// The shared region of one worker, and the pool's copies of its words.
///
/// The copies need only relaxed loads and stores: they are stored under the pool's lock. Reads
/// without the lock only decide whether to take it.
#[derive(Debug)]
pub(crate) struct CheckedRegion {
    region: SharedRegion,
    /// The number of record bytes read so far.
    head: AtomicU64,
    /// The item that would start next, as last read.
    started: AtomicU32,
    /// The number after the last item that may start.
    allowed: AtomicU32,
    is_broken: AtomicBool,
}

/// The worker wrote a value that no worker of this crate writes.
#[derive(Debug)]
pub(crate) struct ProtocolViolation;

impl CheckedRegion {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self::from_region(SharedRegion::new()?))
    }

    pub(crate) fn from_region(region: SharedRegion) -> Self {
        Self {
            region,
            head: AtomicU64::new(0),
            started: AtomicU32::new(0),
            allowed: AtomicU32::new(0),
            is_broken: AtomicBool::new(false),
        }
    }

    /// Closes the descriptor. Called once the worker has its own.
    pub(crate) fn close_file(&mut self) {
        self.region.close_file();
    }

    /// Whether the worker has violated the protocol.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Records that the worker has violated the protocol.
    pub(crate) fn mark_broken(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
    }

    /// Returns the number of the item that would start next.
    pub(crate) fn started(&self) -> u32 {
        self.accept_start_word(self.region.start_word().load(Ordering::Acquire));
        self.started.load(Ordering::Relaxed)
    }

    /// Like [`started`](Self::started), for a dead worker. Returns `None` if its word is invalid.
    pub(crate) fn started_at_end(&self) -> Option<u32> {
        let is_sound = self.accept_start_word(self.region.start_word().load(Ordering::Acquire));
        is_sound.then(|| self.started.load(Ordering::Relaxed))
    }

    /// Updates `started` from the start word. Returns false, and marks the worker as broken, if the
    /// word cannot follow from the copies.
    fn accept_start_word(&self, word: u64) -> bool {
        let (started, allowed) = unpack_start_word(word);
        let known = self.started.load(Ordering::Relaxed);
        let own = self.allowed.load(Ordering::Relaxed);
        // `started` never decreases, and never exceeds `allowed`. Compares distances, as the
        // numbers wrap.
        let is_sound = allowed == own && started.wrapping_sub(known) <= own.wrapping_sub(known);
        if is_sound {
            self.started.store(started, Ordering::Relaxed);
        } else {
            self.mark_broken();
        }
        is_sound
    }

    /// Allows `count` more items from `first` on, which must be the next unused number.
    pub(crate) fn allow(&self, first: u32, count: u32) {
        let end = first.wrapping_add(count);
        self.change(|started, allowed| {
            // The numbers of revoked items are skipped: the worker must never start them.
            let started = if started == allowed { first } else { started };
            Some((started, end))
        });
    }

    /// Revokes all unstarted items from `from` on, and returns the first of them. `to` is the
    /// number after the last item in flight. Revokes nothing if the worker is broken: it is not
    /// known which items have started.
    pub(crate) fn revoke(&self, from: u32, to: u32) -> u32 {
        let changed = self.change(|started, allowed| {
            // All allowed items have started.
            if allowed == started {
                return None;
            }
            let has_started = to.wrapping_sub(started) < to.wrapping_sub(from);
            Some((started, if has_started { started } else { from }))
        });
        changed.map_or(to, |(_, allowed)| allowed)
    }

    /// Changes the start word by compare-and-swap, and returns the new values. Returns `None` if
    /// `change` does, or if the worker is broken.
    ///
    /// The loop ends: 1. The word is loaded. 2. The worker starts an item. 3. The swap fails. Each
    /// round needs another start, of at most `allowed` items, or an invalid word.
    fn change(&self, change: impl Fn(u32, u32) -> Option<(u32, u32)>) -> Option<(u32, u32)> {
        let word = self.region.start_word();
        let mut seen = word.load(Ordering::Relaxed);
        while self.accept_start_word(seen) {
            let (started, allowed) = unpack_start_word(seen);
            let (started, allowed) = change(started, allowed)?;
            let next = pack_start_word(started, allowed);
            match word.compare_exchange(seen, next, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => {
                    // The copies follow the word, never precede it: a failed swap leaves them
                    // valid.
                    self.started.store(started, Ordering::Relaxed);
                    self.allowed.store(allowed, Ordering::Relaxed);
                    return Some((started, allowed));
                }
                Err(word) => seen = word,
            }
        }
        None
    }

    /// Returns how long an item has run, by the start time that the worker stored. Returns `None`
    /// if the stored time is not of this item. Not trusted.
    pub(crate) fn reported_run_time(&self, item: u32) -> Option<Duration> {
        let view = self.region.view();
        let noted = view.atomic_u32(STARTED_ITEM).load(Ordering::Acquire);
        // Acquire above:
        // 1. `STARTED_ITEM` is loaded.
        // 2. The next item stores its start.
        // 3. `STARTED_AT` is loaded, too late.
        // Harmless: then this item has ended, and its time is not used.
        let then = view.atomic_u64(STARTED_AT).load(Ordering::Relaxed);
        (noted == item && then > 0).then(|| clock::since(then))
    }

    /// Returns how long a panic has stopped the item's clock.
    pub(crate) fn panic_time(&self, item: u32) -> Duration {
        let view = self.region.view();
        // Acquire: pairs with the worker's store of the item, which comes after that of the time.
        // So a matching item has its own time, or a later one.
        let noted = view.atomic_u32(PANIC_ITEM).load(Ordering::Acquire);
        let since = view.atomic_u64(PANIC_SINCE).load(Ordering::Relaxed);
        if noted != item || since == 0 {
            return Duration::ZERO;
        }
        clock::since(since).min(PANIC_GRACE)
    }

    /// Whether a thread of the worker has overflowed its stack, by the worker's own record.
    pub(crate) fn has_overflowed(&self) -> bool {
        let word = self.region.view().atomic_u32(OVERFLOW);
        word.load(Ordering::Acquire) != 0
    }

    /// Tells the worker that the next SIGTERM comes from the pool.
    pub(crate) fn announce_sigterm(&self) {
        let word = self.region.view().atomic_u32(END);
        // Release: pairs with the handler's load.
        word.store(1, Ordering::Release);
    }

    /// Asks the item to stop. The item may poll for that.
    pub(crate) fn request_stop(&self, item: u32) {
        let word = 1 << 32 | u64::from(item);
        let view = self.region.view();
        view.atomic_u64(STOP).store(word, Ordering::Relaxed);
    }

    /// Whether the ring has a record.
    #[inline]
    pub(crate) fn has_records(&self) -> bool {
        self.region.tail().load(Ordering::Acquire) != self.head.load(Ordering::Relaxed)
    }

    /// Moves all records to the end of `into`. Fails if `tail` is beyond the size of the ring.
    pub(crate) fn drain(&self, into: &mut Vec<u8>) -> std::result::Result<(), ProtocolViolation> {
        let head = self.head.load(Ordering::Relaxed);
        let tail = self.region.tail().load(Ordering::Acquire);
        let length = tail.wrapping_sub(head);
        // Also if the length is invalid: the violation is reported once, not at each tick.
        self.head.store(tail, Ordering::Relaxed);
        if length > RING_BYTES as u64 {
            return Err(ProtocolViolation);
        }
        let (length, offset) = (length as usize, head as usize % RING_BYTES);
        let first = length.min(RING_BYTES - offset);
        let view = self.region.view();
        view.copy_out(RING + offset, first, into);
        view.copy_out(RING, length - first, into);
        self.publish_head();
        Ok(())
    }

    /// Publishes `head`, and wakes the worker if it waits for room.
    fn publish_head(&self) {
        let head = self.head.load(Ordering::Relaxed);
        // SeqCst: the copies happen before the worker may overwrite the bytes, and the store
        // happens before the load below. In the other order:
        // 1. `wanted` is loaded: 0.
        // 2. The worker sets it, loads the old `head`, and sleeps.
        // 3. `head` is stored, and no thread wakes the worker.
        self.region.head().store(head, Ordering::SeqCst);
        let wanted = self.region.wants_room();
        if wanted.load(Ordering::SeqCst) != 0 {
            wanted.store(0, Ordering::SeqCst);
            futex::wake_all(wanted);
        }
    }

    /// Sets when the worker must wake the pool. Before a thread sleeps, [`may_sleep`] polls the
    /// rings.
    pub(crate) fn set_wake_mode(&self, mode: WakeMode) {
        self.region
            .wake_mode_word()
            .store(mode as u32, Ordering::Relaxed);
    }

    /// Sets when the worker must wake the pool, and stores `head` again.
    pub(crate) fn prepare_sleep(&self, mode: WakeMode) {
        self.set_wake_mode(mode);
        let head = self.head.load(Ordering::Relaxed);
        // Relaxed: the value is there already, unless a task has overwritten it. Then the worker
        // polls again after at most `ROOM_POLL_INTERVAL`.
        self.region.head().store(head, Ordering::Relaxed);
    }

    /// Returns the buckets of the histograms of wait and run times. Not trusted.
    pub(crate) fn times(&self) -> [impl Iterator<Item = u64>; 2] {
        let view = self.region.view();
        [WAIT_TIMES, RUN_TIMES].map(|at| {
            let buckets = (at..).step_by(size_of::<u64>()).take(BUCKETS);
            buckets.map(move |offset| view.atomic_u64(offset).load(Ordering::Relaxed))
        })
    }

    /// Returns the worker's busy time in nanoseconds, and the items that it ran in that time, since
    /// its start. Not trusted.
    pub(crate) fn measured(&self) -> (u64, u64) {
        let load = |at| self.region.view().atomic_u64(at).load(Ordering::Relaxed);
        (load(BUSY_NANOS), load(ITEMS_DONE))
    }
}

/// Whether the pool may sleep until one of these workers wakes it: no ring has a record. The caller
/// has set the wake modes.
pub(crate) fn may_sleep<'a>(regions: impl IntoIterator<Item = &'a CheckedRegion>) -> bool {
    // Without the barrier:
    // 1. This poll finds no record.
    // 2. The worker appends a record, reads the old wake mode, and wakes no thread.
    // 3. The store of the wake mode becomes visible.
    full_barrier();
    !regions.into_iter().any(CheckedRegion::has_records)
}

impl AsFd for CheckedRegion {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.region.as_fd()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::pool::protocol::region::{ReplyHeader, ReplyKind};

    /// Returns a region as the worker and as the pool see it.
    fn both() -> (SharedRegion, CheckedRegion) {
        let region = SharedRegion::new().expect("shared memory");
        (region.clone(), CheckedRegion::from_region(region))
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
        assert!((1..5).all(|item| !worker.try_start(item)));
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
