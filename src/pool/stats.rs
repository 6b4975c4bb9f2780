//! What a pool has done and is doing, in numbers.

use crate::error::{Error, ErrorKind};
use crate::pool::{histogram::Histogram, scheduler::totals::WorkTotals};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a pool has done since it was built, and is doing; see
/// [`ProcessPoolExecutor::stats`](crate::ProcessPoolExecutor::stats).
///
/// Items of maps count as tasks.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStats {
    /// Tasks that have not started.
    pub queued: u64,
    /// Tasks that run.
    pub running: u64,
    /// Tasks that have a result.
    pub done: u64,
    /// Tasks that have an error instead, those that were cancelled among them.
    pub failed: u64,
    /// Of those, tasks that panicked.
    pub panicked: u64,
    /// Of those, tasks whose workers died.
    pub workers_died: u64,
    /// Of those, tasks that ran longer than they may.
    pub timed_out: u64,
    /// Of those, tasks that were cancelled or killed.
    pub cancelled: u64,
    /// Of those, tasks whose argument or result could not be encoded or decoded in a worker.
    pub codec: u64,
    /// Of those, tasks that were cut off by the end of the pool.
    pub shut_down: u64,
    /// Of those, tasks of a pool whose workers could not be started.
    pub start_failed: u64,
    /// Tries of tasks that were followed by another.
    pub retried: u64,
    /// Tasks that workers have run, also those that are no more. A task that was tried again counts
    /// with each try, and one that has ended its worker counts, too.
    pub tasks_run: u64,
    /// How long workers were busy with these tasks.
    pub busy: Duration,
    /// How long these tasks waited: from their submission, or that of their chunk, to their start,
    /// or that of their chunk.
    pub wait_times: Histogram,
    /// How long these tasks ran.
    ///
    /// Items of a map that take less than a microsecond are measured in groups of at most 64, and
    /// count with the mean of their group. An item that takes far longer than the others of its
    /// group counts with its own time.
    pub run_times: Histogram,
    /// Workers that were started in the place of others.
    pub restarts: u64,
    /// Of those, by what became of the others.
    pub restart_reasons: RestartReasons,
    /// The workers that live.
    pub workers: Vec<WorkerStats>,
}

/// Why workers were started in the place of others.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartReasons {
    /// They died, by what a task did or by somebody else's hand.
    pub died: u64,
    /// They were stopped in the middle of a task, which took too long or was killed.
    pub stopped: u64,
    /// They had done their share of tasks.
    pub max_tasks: u64,
    /// They took up too much memory.
    pub max_memory: u64,
}

impl RestartReasons {
    fn sum(self) -> u64 {
        self.died + self.stopped + self.max_tasks + self.max_memory
    }
}

/// What becomes of a worker that another follows.
#[derive(Debug, Clone, Copy)]
pub(super) enum RestartReason {
    Died,
    Stopped,
    Tasks,
    Memory,
}

/// What one worker has done and does.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// Its place in the pool, as [`InFlight::id`](crate::InFlight::id).
    pub id: usize,
    /// Its process id.
    pub pid: u32,
    /// Tasks it has finished.
    pub tasks_done: u64,
    /// How long it was at work for them.
    pub busy: Duration,
    /// The task that it runs now.
    pub running: Option<RunningTask>,
}

/// A task that runs in a worker.
///
/// ```
/// use std::{thread, time::Duration};
///
/// let pool = procpool::ProcessPoolExecutor::builder().workers(1).build()?;
/// let stuck = pool.submit(|()| thread::sleep(Duration::MAX), ());
/// while pool.stats().workers[0].running.is_none() {
///     thread::yield_now();
/// }
/// let running = pool.stats().workers[0].running;
/// assert_eq!(running.and_then(|it| it.task), Some(stuck.id()));
/// assert!(stuck.kill());
/// # Ok::<(), procpool::Error>(())
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningTask {
    /// The [number of its future](crate::TaskFuture::id); `None` for an item of a map without one.
    pub task: Option<u64>,
    /// For an item of a map, its place in the input.
    pub item: Option<u64>,
    /// How long it has run. An item of a chunk may have run for some milliseconds longer.
    pub elapsed: Duration,
}

/// What is counted as it happens.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    done: u64,
    failed: u64,
    panicked: u64,
    workers_died: u64,
    timed_out: u64,
    cancelled: u64,
    codec: u64,
    shut_down: u64,
    start_failed: u64,
    pub(super) retried: u64,
    restarts: RestartReasons,
}

impl Counts {
    /// Counts the outcome of some tasks.
    #[inline]
    pub(super) fn add<T>(&mut self, outcome: &Result<T, Error>, tasks: u32) {
        match outcome {
            Ok(_) => self.done += u64::from(tasks),
            Err(error) => self.add_failures(error.kind(), tasks.into()),
        }
    }

    /// Counts a worker that comes in the place of another.
    pub(super) fn restarted(&mut self, reason: RestartReason) {
        let RestartReasons {
            died,
            stopped,
            max_tasks,
            max_memory,
        } = &mut self.restarts;
        let count = match reason {
            RestartReason::Died => died,
            RestartReason::Stopped => stopped,
            RestartReason::Tasks => max_tasks,
            RestartReason::Memory => max_memory,
        };
        *count += 1;
    }

    fn add_failures(&mut self, kind: ErrorKind, tasks: u64) {
        self.failed += tasks;
        match kind {
            ErrorKind::Panicked => self.panicked += tasks,
            ErrorKind::WorkerDied => self.workers_died += tasks,
            ErrorKind::TimedOut => self.timed_out += tasks,
            ErrorKind::Cancelled => self.cancelled += tasks,
            ErrorKind::Codec => self.codec += tasks,
            ErrorKind::Shutdown => self.shut_down += tasks,
            ErrorKind::StartFailed => self.start_failed += tasks,
            _ => {}
        }
    }

    pub(super) fn stats(
        &self,
        (outstanding, running): (u64, u64),
        work: WorkTotals,
        workers: Vec<WorkerStats>,
    ) -> PoolStats {
        PoolStats {
            tasks_run: work.tasks,
            busy: work.busy,
            wait_times: work.waiting,
            run_times: work.running,
            queued: outstanding.saturating_sub(running),
            running,
            done: self.done,
            failed: self.failed,
            panicked: self.panicked,
            workers_died: self.workers_died,
            timed_out: self.timed_out,
            cancelled: self.cancelled,
            codec: self.codec,
            shut_down: self.shut_down,
            start_failed: self.start_failed,
            retried: self.retried,
            restarts: self.restarts.sum(),
            restart_reasons: self.restarts,
            workers,
        }
    }
}
