//! What a worker is seen to do: which item it runs, since when, and whether that is as it should be.

use super::{Link, is_before};
use crate::pool::page::Bell;
use crate::sys::{clock, pid};
use std::time::{Duration, Instant};

/// How long replies may lie unread behind a long item; far above the interval at which a worker
/// rings.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// How long a pool with items in flight sleeps at most: a worker whose page was written to by a
/// task may not ring.
pub(in crate::pool) const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// How long a worker may sleep with something to start. It has lost what it was sent: a task has read it from the pipe, or put
/// another descriptor in the place of that.
const LONGEST_SLEEP: Duration = Duration::from_secs(2);

/// What was seen of a worker.
#[derive(Debug)]
pub(super) struct Progress {
    /// The item that was next to start, and when that was first seen: tells a long item from many
    /// short ones.
    seen: (u32, Instant),
    /// Whether its replies have been read since that was `LOOK_AGAIN` ago.
    looked_again: bool,
    /// The first item in flight, if it runs, and when it was first seen to.
    pub(super) running: Option<(u32, Instant)>,
    /// The first item in flight, if the worker could start it and does not, and when that was first seen. Kept only of a worker
    /// that starts nothing for long.
    waiting: Option<(u32, Instant)>,
    /// For how long it could not, as all of the program stood still.
    excused: Duration,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            seen: (0, Instant::now()),
            looked_again: false,
            running: None,
            waiting: None,
            excused: Duration::ZERO,
        }
    }
}

impl Link {
    /// Notes what starts when. Comes before a look at the replies.
    pub(in crate::pool) fn look(&mut self) {
        let (started, now) = (self.page.started(), Instant::now());
        if self.progress.seen.0 != started {
            self.progress.seen = (started, now);
            self.progress.looked_again = false;
        } else if now.duration_since(self.progress.seen.1) >= LOOK_AGAIN {
            self.progress.looked_again = true;
        }
    }

    /// Says when the worker is to ring while the pool sleeps, and when the pool must look without having been called:
    /// behind short items, whose replies it is told of only now and then, a long one may come.
    pub(in crate::pool) fn fall_asleep(&self, items_are_short: bool) -> Option<Instant> {
        let is_batched = items_are_short && self.items > 1 && !self.is_stuck();
        let (bell, longest) = if is_batched {
            (Bell::NowAndThen, LOOK_AGAIN)
        } else {
            (Bell::AtOnce, LONGEST_LOOK)
        };
        self.page.fall_asleep(bell);
        (self.items > 0).then(|| Instant::now() + longest)
    }

    /// Whether this item has started and is not answered, as far as replies have been read.
    pub(in crate::pool) fn runs(&self, item: u32) -> bool {
        self.front() == Some(item) && is_before(item, self.page.started())
    }

    /// Notes since when the first item in flight is known to run.
    pub(in crate::pool) fn see_what_runs(&mut self, now: Instant) {
        let item = self.front().filter(|it| self.runs(*it));
        if self.progress.running.map(|it| it.0) != item {
            self.progress.running = item.map(|it| (it, now));
            self.progress.excused = Duration::ZERO;
        }
    }

    /// Whether an item that has started cannot have, as the one before is not answered. Comes after a look at the replies.
    pub(in crate::pool) fn has_skipped(&self) -> bool {
        let mut sent = self.in_flight.iter();
        let second = sent.next().and_then(|front| match front.unit.count() {
            1 => sent.next().map(|it| it.item),
            _ => Some(front.item.wrapping_add(1)),
        });
        second.is_some_and(|it| is_before(it, self.progress.seen.0))
    }

    /// Whether the worker has lost what it was sent: it sleeps, and does not start what it could.
    pub(in crate::pool) fn is_deaf(&mut self, now: Instant) -> bool {
        if !self.is_stuck() {
            return false;
        }
        let may_start = self.is_ready && !self.may_destroy();
        let item = self.front().filter(|it| may_start && !self.runs(*it));
        if self.progress.waiting.map(|it| it.0) != item {
            self.progress.waiting = item.map(|it| (it, now));
        }
        let waiting = self.progress.waiting;
        waiting.is_some_and(|it| now.duration_since(it.1) >= LONGEST_SLEEP)
            && pid::is_asleep(self.pid)
    }

    /// Excuses what runs for a time in which all of the program stood still, as far as it was submitted by then.
    pub(in crate::pool) fn excuse(&mut self, away: Duration) {
        self.progress.waiting = None;
        if let Some(sent) = self.in_flight.front() {
            self.progress.excused += away.min(clock::since(sent.unit.submitted()));
        }
    }

    /// How much of its limit the first item in flight has used up; `None` if it does not run.
    pub(in crate::pool) fn age(&self, now: Instant) -> Option<Duration> {
        let item = self.front()?;
        let ran = self.runs_for(now)?;
        let stood_still = self
            .progress
            .excused
            .saturating_add(self.page.time_in_panic(item));
        Some(ran.saturating_sub(stood_still))
    }

    /// Whether the item that runs has been seen to run for long.
    pub(in crate::pool) fn is_stuck(&self) -> bool {
        self.progress.looked_again && self.progress.seen.0 == self.page.started()
    }
}
