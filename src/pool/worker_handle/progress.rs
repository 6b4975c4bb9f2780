//! What a worker is seen to do: which item it runs, since when, and whether that is as it should
//! be.

use crate::pool::{
    protocol::region::WakeMode,
    worker_handle::{WorkerHandle, io::WorkerIo, is_before},
};
use std::time::{Duration, Instant};

/// How long replies may lie unread behind a long item; far above the interval at which a worker
/// rings.
const BATCHED_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// How long a pool with items in flight sleeps at most: a worker whose page was written to by a
/// task may not ring.
pub(crate) const MAX_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How long a worker may sleep with something to start. It has lost what it was sent: a task has
/// read it from the pipe, or put another descriptor in the place of that.
const LONGEST_SLEEP: Duration = Duration::from_secs(2);

/// What was seen of a worker.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The item that was next to start, and when that was first seen: tells a long item from many
    /// short ones.
    seen: (u32, Instant),
    /// Whether its replies have been read since that was `BATCHED_POLL_INTERVAL` ago.
    was_polled_again: bool,
    /// The first item in flight, if it runs, and when it was first seen to.
    pub(crate) running: Option<(u32, Instant)>,
    /// The first item in flight, if the worker could start it and does not, and when that was first
    /// seen. Kept only of a worker that starts nothing for long.
    waiting: Option<(u32, Instant)>,
    /// For how long it could not, as all of the program stood still.
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
    /// Notes what starts when. Comes before a look at the replies.
    pub(crate) fn sample_started(&mut self) {
        let (started, now) = (self.page.started(), Io::now());
        if self.progress.seen.0 != started {
            self.progress.seen = (started, now);
            self.progress.was_polled_again = false;
        } else if now.duration_since(self.progress.seen.1) >= BATCHED_POLL_INTERVAL {
            self.progress.was_polled_again = true;
        }
    }

    /// Says when the worker is to ring while the pool sleeps, and when the pool must look without
    /// having been called: behind short items, whose replies it is told of only now and then, a
    /// long one may come.
    pub(crate) fn choose_wake_mode(&self, items_are_short: bool) -> Option<Instant> {
        let is_batched = items_are_short && self.items > 1 && !self.is_stuck();
        let (bell, longest) = if is_batched {
            (WakeMode::Batched, BATCHED_POLL_INTERVAL)
        } else {
            (WakeMode::Immediate, MAX_POLL_INTERVAL)
        };
        self.page.prepare_sleep(bell);
        (self.items > 0).then(|| Io::now() + longest)
    }

    /// Whether this item has started and is not answered, as far as replies have been read.
    pub(crate) fn is_running(&self, item: u32) -> bool {
        self.front() == Some(item) && is_before(item, self.page.started())
    }

    /// Notes since when the first item in flight is known to run.
    pub(crate) fn sample_running(&mut self, now: Instant) {
        let item = self.front().filter(|it| self.is_running(*it));
        if self.progress.running.map(|it| it.0) != item {
            self.progress.running = item.map(|it| (it, now));
            self.progress.standstill = Duration::ZERO;
        }
    }

    /// Whether an item that has started cannot have, as the one before is not answered. Comes after
    /// a look at the replies.
    pub(crate) fn has_skipped(&self) -> bool {
        let mut sent = self.in_flight.iter();
        let second = sent.next().and_then(|front| match front.work_item.count() {
            1 => sent.next().map(|it| it.item),
            _ => Some(front.item.wrapping_add(1)),
        });
        second.is_some_and(|it| is_before(it, self.progress.seen.0))
    }

    /// Whether the worker has lost what it was sent: it sleeps, and does not start what it could.
    pub(crate) fn is_deaf(&mut self, now: Instant) -> bool {
        if !self.is_stuck() {
            return false;
        }
        let may_start = self.is_ready && !self.may_destroy();
        let item = self.front().filter(|it| may_start && !self.is_running(*it));
        if self.progress.waiting.map(|it| it.0) != item {
            self.progress.waiting = item.map(|it| (it, now));
        }
        let waiting = self.progress.waiting;
        waiting.is_some_and(|it| now.duration_since(it.1) >= LONGEST_SLEEP) && self.io.is_asleep()
    }

    /// Excuses what runs for a time in which all of the program stood still, as far as it was
    /// submitted by then.
    pub(crate) fn add_standstill(&mut self, away: Duration) {
        self.progress.waiting = None;
        if let Some(sent) = self.in_flight.front() {
            self.progress.standstill += away.min(Io::since(sent.work_item.submitted()));
        }
    }

    /// How much of its limit the first item in flight has used up; `None` if it does not run.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        let item = self.front()?;
        let ran = self.running_time(now)?;
        let stood_still = self
            .progress
            .standstill
            .saturating_add(self.page.panic_time(item));
        Some(ran.saturating_sub(stood_still))
    }

    /// Whether the item that runs has been seen to run for long.
    pub(crate) fn is_stuck(&self) -> bool {
        self.progress.was_polled_again && self.progress.seen.0 == self.page.started()
    }
}
