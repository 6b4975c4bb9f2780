//! Progress of a worker: which item it runs, since when, and whether it makes any.

use crate::pool::{
    protocol::region::WakeMode,
    worker_handle::{WorkerHandle, io::WorkerIo, is_before},
};
use std::time::{Duration, Instant};

/// How long replies may stay unread while a long item runs. Longer than the interval at which a
/// worker with batched wake-ups wakes the pool.
const BATCHED_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// How long a pool with items in flight sleeps at most. A worker may send no wake-up if a task
/// wrote to its shared region.
pub(crate) const MAX_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How long a worker may sleep with an item to start. After that its requests are lost: a task read
/// them from the pipe, or replaced the descriptor.
const LONGEST_SLEEP: Duration = Duration::from_secs(2);

/// The last observations of a worker.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The item that was next to start, and when that was first observed. Tells a long item from
    /// many short ones. Written by `sample_started`.
    seen: (u32, Instant),
    /// Whether the ring was polled again `BATCHED_POLL_INTERVAL` after that.
    was_polled_again: bool,
    /// The first item in flight, if it runs, and when that was first observed.
    pub(crate) running: Option<(u32, Instant)>,
    /// The first item in flight, if the worker could start it and does not, and when that was first
    /// observed. Only set if the worker is stuck. Written by `is_deaf`.
    waiting: Option<(u32, Instant)>,
    /// How long the program stood still while the first item in flight ran.
    standstill: Duration,
}

impl Progress {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            seen: (0, now),
            was_polled_again: false,
            running: None,
            waiting: None,
            standstill: Duration::ZERO,
        }
    }
}

impl<Io: WorkerIo> WorkerHandle<Io> {
    /// Records which item is next to start. Called before the replies are read.
    pub(crate) fn sample_started(&mut self) {
        let (started, now) = (self.region.started(), Io::now());
        if self.progress.seen.0 != started {
            self.progress.seen = (started, now);
            self.progress.was_polled_again = false;
        } else if now.duration_since(self.progress.seen.1) >= BATCHED_POLL_INTERVAL {
            self.progress.was_polled_again = true;
        }
    }

    /// Chooses how the worker wakes the pool while it sleeps. Returns when the pool must poll
    /// without a wake-up.
    ///
    /// With batched wake-ups: 1. The worker replies to short items, and wakes no thread. 2. It
    /// starts a long item. 3. The replies stay unread. The deadline bounds that.
    pub(crate) fn choose_wake_mode(&self, items_are_short: bool) -> Option<Instant> {
        let is_batched = items_are_short && self.items > 1 && !self.is_stuck();
        let (mode, interval) = if is_batched {
            (WakeMode::Batched, BATCHED_POLL_INTERVAL)
        } else {
            (WakeMode::Immediate, MAX_POLL_INTERVAL)
        };
        self.region.prepare_sleep(mode);
        (self.items > 0).then(|| Io::now() + interval)
    }

    /// Whether this item has started, and no reply read so far answers it.
    pub(crate) fn is_running(&self, item: u32) -> bool {
        self.front() == Some(item) && is_before(item, self.region.started())
    }

    /// Records when the first item in flight was first observed to run.
    pub(crate) fn sample_running(&mut self, now: Instant) {
        let item = self.front().filter(|item| self.is_running(*item));
        if self.progress.running.map(|(item, _)| item) != item {
            self.progress.running = item.map(|item| (item, now));
            self.progress.standstill = Duration::ZERO;
        }
    }

    /// Whether an item has started although the item before it is not answered, which is a protocol
    /// violation. Called after the replies were read. Compares with `seen`, which was sampled
    /// before: the worker may have replied and started another item since.
    pub(crate) fn has_skipped(&self) -> bool {
        let mut entries = self.in_flight.iter();
        let second = entries
            .next()
            .and_then(|front| match front.work_item.count() {
                1 => entries.next().map(|it| it.item),
                _ => Some(front.item.wrapping_add(1)),
            });
        second.is_some_and(|item| is_before(item, self.progress.seen.0))
    }

    /// Whether the worker has lost its requests: it sleeps, and does not start the item that it
    /// could.
    pub(crate) fn is_deaf(&mut self, now: Instant) -> bool {
        if !self.is_stuck() {
            return false;
        }
        let may_start = self.is_ready && !self.may_destroy();
        let item = self
            .front()
            .filter(|item| may_start && !self.is_running(*item));
        if self.progress.waiting.map(|(item, _)| item) != item {
            self.progress.waiting = item.map(|item| (item, now));
        }
        let waiting = self.progress.waiting;
        waiting.is_some_and(|(_, since)| now.duration_since(since) >= LONGEST_SLEEP)
            // A worker that is awake may be about to start the item on a busy machine.
            && self.io.is_asleep()
    }

    /// Adds a time in which the whole program stood still. It does not count against the limit of
    /// the item that runs, except the part before that item was submitted.
    pub(crate) fn add_standstill(&mut self, away: Duration) {
        self.progress.waiting = None;
        if let Some(entry) = self.in_flight.front() {
            self.progress.standstill += away.min(Io::since(entry.work_item.submitted()));
        }
    }

    /// Returns how much of its limit the first item in flight has used; `None` if it does not run.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        let item = self.front()?;
        let ran = self.running_time(now)?;
        let stood_still = self
            .progress
            .standstill
            .saturating_add(self.region.panic_time(item));
        Some(ran.saturating_sub(stood_still))
    }

    /// Whether the worker has started no item for `BATCHED_POLL_INTERVAL`.
    pub(crate) fn is_stuck(&self) -> bool {
        self.progress.was_polled_again && self.progress.seen.0 == self.region.started()
    }
}
