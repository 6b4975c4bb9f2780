//! Counters of a worker: those of the pool, and the worker's own measurements within plausible
//! bounds.

use crate::pool::{
    scheduler::totals::WorkTotals,
    stats::{RunningTask, WorkerStats},
    task::work_item::WorkItem,
    worker_handle::{WorkerHandle, io::WorkerIo},
};
use std::{
    mem,
    time::{Duration, Instant},
};

/// Nanoseconds; the longest run time that the scheduler distinguishes.
const MAX_ITEM_NANOS: u64 = 1_000_000_000;

/// The pool's counters of one worker.
#[derive(Debug)]
pub(crate) struct WorkerCounters {
    /// When the worker was started.
    born: Instant,
    /// Items that were sent and not revoked, and how many of these were answered.
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    /// The value of `answered` when the worker drops a context, which may run a destructor of the
    /// user.
    drops_at: Option<u64>,
    /// The value of `answered` after the last failure: a panic, or a result that cannot be encoded.
    answered_after_failure: Option<u64>,
    /// Busy nanoseconds and items run, by the worker's measurement, as last read.
    measured: (u64, u64),
}

impl WorkerCounters {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            born: now,
            sent: 0,
            answered: 0,
            drops_at: None,
            answered_after_failure: None,
            measured: (0, 0),
        }
    }
}

impl<Io: WorkerIo> WorkerHandle<Io> {
    /// Counts answered items.
    pub(crate) fn count_answers(&mut self, count: u32) {
        self.items -= count;
        self.counters.answered += u64::from(count);
    }

    /// Records that the worker drops a context after the items in flight.
    pub(crate) fn note_drop(&mut self) {
        self.counters.drops_at = Some(self.counters.answered + u64::from(self.items));
    }

    /// Whether the worker may run the destructor of a context before its next item.
    pub(crate) fn may_destroy(&self) -> bool {
        let drops_at = self.counters.drops_at;
        drops_at.is_some_and(|drops_at| self.counters.answered <= drops_at)
    }

    /// Returns the mean run time of items since the last call, in nanoseconds.
    pub(crate) fn take_mean_item_nanos(&mut self) -> Option<u64> {
        let (busy, done) = self.region.measured();
        let (busy_before, done_before) = mem::replace(&mut self.counters.measured, (busy, done));
        let nanos = busy
            .wrapping_sub(busy_before)
            .checked_div(done.wrapping_sub(done_before))?;
        Some(nanos.min(MAX_ITEM_NANOS))
    }

    /// Returns how long the first item in flight has run; `None` if it does not run.
    ///
    /// The worker stores the start of an item before which it reads its clock. For others, this
    /// counts from the time when the pool first saw them run. Returns the longer of the two: a
    /// worker can pretend a longer time, but not a shorter one.
    pub(crate) fn running_time(&self, now: Instant) -> Option<Duration> {
        let item = self.front().filter(|it| self.is_running(*it))?;
        let seen = self
            .progress
            .running
            .filter(|(running, _)| *running == item);
        let seen = seen.map(|(_, since)| now.duration_since(since));
        let age = self
            .region
            .reported_run_time(item)
            .max(seen)
            .unwrap_or_default();
        Some(age.min(now.duration_since(self.counters.born)))
    }

    /// Records that the next reply is a failure.
    pub(crate) fn note_failure(&mut self) {
        self.counters.answered_after_failure = Some(self.counters.answered + 1);
    }

    /// Whether the last reply was a failure. If panics abort, the worker replies with the panic and
    /// then dies of it: the item that is next to start did not cause that.
    pub(crate) fn has_just_failed(&self) -> bool {
        self.counters.answered_after_failure == Some(self.counters.answered)
    }

    /// Whether the worker has run a task.
    pub(crate) fn has_run_tasks(&self) -> bool {
        self.counters.answered > 0 || !self.in_flight.is_empty()
    }

    /// Returns the time that answered items took, by the worker's measurement.
    fn busy(&self) -> Duration {
        let busy = Duration::from_nanos(self.region.measured().0);
        busy.min(Io::now().duration_since(self.counters.born))
    }

    /// Returns the totals so far.
    pub(crate) fn totals(&self) -> WorkTotals {
        let mut work = WorkTotals {
            tasks: self.counters.answered,
            busy: self.busy(),
            ..WorkTotals::default()
        };
        let [waiting, running] = self.region.times();
        work.waiting.add(waiting);
        work.running.add(running);
        let max = self.counters.sent;
        if work.waiting.count().max(work.running.count()) > max {
            // More items than were sent: a task has written to the shared region.
            (work.waiting, work.running) = Default::default();
        }
        work
    }

    /// Returns the totals of a dead worker, whose first item in flight ran for `ran`. The worker
    /// may not have measured its last answered items, which were short: they count with the mean.
    pub(crate) fn totals_after_death(&self, ran: Duration) -> WorkTotals {
        let mut work = self.totals();
        let answered = u32::try_from(work.tasks).unwrap_or(u32::MAX).max(1);
        let mean = work.busy / answered;
        let left = u64::from(self.items);
        work.tasks += left;
        let unmeasured = work.tasks.saturating_sub(work.running.count());
        work.running.record(mean, unmeasured.saturating_sub(left));
        if let Some(entry) = self.in_flight.front() {
            let waited = Io::since(entry.work_item.submitted()).saturating_sub(ran);
            work.waiting.record(waited, unmeasured);
            work.running.record(ran, left);
            work.busy += ran;
        }
        work
    }

    /// Returns the public statistics of the worker, with this number.
    pub(crate) fn stats(&self, id: usize) -> WorkerStats {
        let running = self.in_flight.front().zip(self.running_time(Io::now()));
        WorkerStats {
            id,
            pid: self.pid,
            tasks_done: self.counters.answered,
            busy: self.busy(),
            running: running.map(|(entry, elapsed)| entry.work_item.running_for(elapsed)),
        }
    }
}

impl WorkItem {
    /// Describes its first item as a running task.
    fn running_for(&self, elapsed: Duration) -> RunningTask {
        let (task, item) = match self {
            Self::Call(task) => (Some(task.id), None),
            Self::Slice(items) => (items.chunk.map.task_id(), Some(items.index())),
        };
        RunningTask {
            task,
            item,
            elapsed,
        }
    }
}
