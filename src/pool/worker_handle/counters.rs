//! What a worker has done, as its pool counts it, and as the worker measures it as far as that can
//! be true.

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

/// Nanoseconds; an item that takes longer is as good as one that takes this, as the pool plans its
/// work.
const MAX_ITEM_NANOS: u64 = 1_000_000_000;

/// What the pool counts of a worker.
#[derive(Debug)]
pub(crate) struct WorkerCounters {
    /// When it was started.
    born: Instant,
    /// Items that were sent and not taken back, and of these, items that were answered.
    pub(crate) sent: u64,
    pub(crate) answered: u64,
    /// Items that will have been answered when the worker drops a context, which may run a
    /// destructor of the user's.
    drops_at: Option<u64>,
    /// What `answered` is after the last item that failed by a panic or could not be encoded.
    answered_after_failure: Option<u64>,
    /// Busy nanoseconds and items done, by the worker's word, when that was last looked at.
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
    /// Notes that items were answered.
    pub(crate) fn count_answers(&mut self, count: u32) {
        self.items -= count;
        self.counters.answered += u64::from(count);
    }

    /// Notes that the worker is sent a context to drop.
    pub(crate) fn note_drop(&mut self) {
        self.counters.drops_at = Some(self.counters.answered + u64::from(self.items));
    }

    /// Whether it may run the destructor of a context before its next item.
    pub(crate) fn may_destroy(&self) -> bool {
        let drops_at = self.counters.drops_at;
        drops_at.is_some_and(|it| self.counters.answered <= it)
    }

    /// Nanoseconds an item took on average since this was last asked.
    pub(crate) fn take_mean_item_nanos(&mut self) -> Option<u64> {
        let (busy, done) = self.page.measured();
        let (busy_before, done_before) = mem::replace(&mut self.counters.measured, (busy, done));
        let nanos = busy
            .wrapping_sub(busy_before)
            .checked_div(done.wrapping_sub(done_before))?;
        Some(nanos.min(MAX_ITEM_NANOS))
    }

    /// How long the first item in flight runs, as far as is known; `None` if it does not run.
    ///
    /// An item before which the worker read its clock has noted when it started. Any other runs
    /// since the pool saw it run first, at least: a worker can pretend that an item runs for
    /// longer, and not that it runs for less.
    pub(crate) fn running_time(&self, now: Instant) -> Option<Duration> {
        let item = self.front().filter(|it| self.is_running(*it))?;
        let seen = self.progress.running.filter(|it| it.0 == item);
        let seen = seen.map(|it| now.duration_since(it.1));
        let age = self
            .page
            .reported_run_time(item)
            .max(seen)
            .unwrap_or_default();
        Some(age.min(now.duration_since(self.counters.born)))
    }

    /// Notes that the reply which is taken next is a failure.
    pub(crate) fn note_failure(&mut self) {
        self.counters.answered_after_failure = Some(self.counters.answered + 1);
    }

    /// Whether the last reply was a failure. Where panics abort, the worker replies with the panic
    /// and then dies of it: the item that would start next has no part in that.
    pub(crate) fn has_just_failed(&self) -> bool {
        self.counters.answered_after_failure == Some(self.counters.answered)
    }

    /// Whether a task has run in it.
    pub(crate) fn has_run_tasks(&self) -> bool {
        self.counters.answered > 0 || !self.in_flight.is_empty()
    }

    /// How long it was at work for what it has finished, by its own word.
    fn busy(&self) -> Duration {
        let busy = Duration::from_nanos(self.page.measured().0);
        busy.min(Io::now().duration_since(self.counters.born))
    }

    /// What it has done by now.
    pub(crate) fn totals(&self) -> WorkTotals {
        let mut work = WorkTotals {
            tasks: self.counters.answered,
            busy: self.busy(),
            ..WorkTotals::default()
        };
        let [waiting, running] = self.page.times();
        work.waiting.add(waiting);
        work.running.add(running);
        let most = self.counters.sent;
        if work.waiting.count().max(work.running.count()) > most {
            // More than it was sent: a task has written to the page.
            (work.waiting, work.running) = Default::default();
        }
        work
    }

    /// What it has done when it has ended. It may have had no time to measure its last items: what
    /// is in flight ran for so long until then, the others are answered and tiny.
    pub(crate) fn totals_after_death(&self, ran: Duration) -> WorkTotals {
        let mut work = self.totals();
        let answered = u32::try_from(work.tasks).unwrap_or(u32::MAX).max(1);
        let mean = work.busy / answered;
        let left = u64::from(self.items);
        work.tasks += left;
        let unmeasured = work.tasks.saturating_sub(work.running.count());
        work.running.record(mean, unmeasured.saturating_sub(left));
        if let Some(sent) = self.in_flight.front() {
            let waited = Io::since(sent.work_item.submitted()).saturating_sub(ran);
            work.waiting.record(waited, unmeasured);
            work.running.record(ran, left);
            work.busy += ran;
        }
        work
    }

    /// What it has done and does, as the worker with this number.
    pub(crate) fn stats(&self, id: usize) -> WorkerStats {
        let running = self.in_flight.front().zip(self.running_time(Io::now()));
        WorkerStats {
            id,
            pid: self.pid,
            tasks_done: self.counters.answered,
            busy: self.busy(),
            running: running.map(|(sent, elapsed)| sent.work_item.running_for(elapsed)),
        }
    }
}

impl WorkItem {
    /// Its first item as one that runs.
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
