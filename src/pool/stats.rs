//! The counters of a pool.

use crate::error::{Error, ErrorKind};
use crate::pool::{histogram::Histogram, scheduler::totals::WorkTotals};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Counters of a pool since it was built, and its current state; see
/// [`ProcessPoolExecutor::stats`](crate::ProcessPoolExecutor::stats).
///
/// Each item of a map counts as a task.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStats {
    /// Tasks that have not started.
    pub queued: u64,
    /// Tasks that are running.
    pub running: u64,
    /// Tasks that have a result.
    pub done: u64,
    /// Tasks that have an error, including cancelled tasks.
    pub failed: u64,
    /// Failed tasks that panicked.
    pub panicked: u64,
    /// Failed tasks whose worker died.
    pub workers_died: u64,
    /// Failed tasks that exceeded their time limit.
    pub timed_out: u64,
    /// Failed tasks that were cancelled or killed.
    pub cancelled: u64,
    /// Failed tasks whose argument or result could not be encoded or decoded in a worker.
    pub codec: u64,
    /// Failed tasks that the end of the pool stopped.
    pub shut_down: u64,
    /// Failed tasks of a pool whose workers could not be started.
    pub start_failed: u64,
    /// Attempts at tasks that were followed by a retry.
    pub retried: u64,
    /// Tasks that workers have run, including workers that have exited. Each attempt at a task
    /// counts, including an attempt that ended its worker.
    pub tasks_run: u64,
    /// The time that workers spent on these tasks.
    pub busy: Duration,
    /// How long these tasks waited, from submission to start. For an item of a map, both are those
    /// of its chunk.
    pub wait_times: Histogram,
    /// How long these tasks ran.
    ///
    /// Items of a map that take less than a microsecond are measured in groups of at most 64, and
    /// each counts with the mean of its group. An item that takes much longer than the others of
    /// its group counts with its own time.
    pub run_times: Histogram,
    /// Workers that were started as replacements.
    pub restarts: u64,
    /// The same, by reason.
    pub restart_reasons: RestartReasons,
    /// The workers that are alive.
    pub workers: Vec<WorkerStats>,
}

/// Counts the replacements of workers by reason.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartReasons {
    /// The worker died, because of a task or of another process.
    pub died: u64,
    /// The pool stopped the worker because its task exceeded the time limit or was killed.
    pub stopped: u64,
    /// The worker reached
    /// [`max_tasks_per_worker`](crate::ProcessPoolBuilder::max_tasks_per_worker).
    pub max_tasks: u64,
    /// The worker exceeded
    /// [`max_memory_per_worker`](crate::ProcessPoolBuilder::max_memory_per_worker).
    pub max_memory: u64,
}

impl RestartReasons {
    fn sum(self) -> u64 {
        self.died + self.stopped + self.max_tasks + self.max_memory
    }
}

/// Why a worker is replaced.
#[derive(Debug, Clone, Copy)]
pub(super) enum RestartReason {
    Died,
    Stopped,
    Tasks,
    Memory,
}

/// Counters of one worker.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// Its number in the pool, see [`Worker::id`](crate::Worker::id).
    pub id: usize,
    /// Its process id.
    pub pid: u32,
    /// Tasks it has finished.
    pub tasks_done: u64,
    /// The time that it spent on these tasks.
    pub busy: Duration,
    /// The task that it is running.
    pub running: Option<RunningTask>,
}

/// A task that is running in a worker.
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
    /// The [number of its future](crate::TaskFuture::id). `None` for an item of a map without a
    /// future.
    pub task: Option<u64>,
    /// The position in the input. `None` unless it is an item of a map.
    pub item: Option<u64>,
    /// How long it has been running. For an item of a chunk this may include some milliseconds of
    /// the items before it.
    pub elapsed: Duration,
}

/// The counters that are updated at each event.
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
    /// Counts `tasks` tasks with the same outcome.
    #[inline]
    pub(super) fn add<T>(&mut self, outcome: &Result<T, Error>, tasks: u32) {
        match outcome {
            Ok(_) => self.done += u64::from(tasks),
            Err(error) => self.add_failures(error.kind(), tasks.into()),
        }
    }

    /// Counts a replacement of a worker.
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

    pub(super) fn add_failures(&mut self, kind: ErrorKind, tasks: u64) {
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
