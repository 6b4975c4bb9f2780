//! What a pool has done and is doing, in numbers.

use crate::error::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a pool has done since it was built, and is doing; see [`ProcessPoolExecutor::stats`](crate::ProcessPoolExecutor::stats).
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
    /// Tries of tasks that were followed by another.
    pub retried: u64,
    /// Workers that were started in the place of others.
    pub restarts: u64,
    /// The workers that live.
    pub workers: Vec<WorkerStats>,
}

/// What one worker has done.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// Its process id.
    pub pid: u32,
    /// Tasks it has finished.
    pub tasks_done: u64,
    /// How long it was at work for them.
    pub busy: Duration,
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
    pub(super) retried: u64,
    pub(super) restarts: u64,
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

    fn add_failures(&mut self, kind: ErrorKind, tasks: u64) {
        self.failed += tasks;
        match kind {
            ErrorKind::Panicked => self.panicked += tasks,
            ErrorKind::WorkerDied => self.workers_died += tasks,
            ErrorKind::TimedOut => self.timed_out += tasks,
            ErrorKind::Cancelled => self.cancelled += tasks,
            _ => {}
        }
    }

    pub(super) fn stats(
        &self,
        outstanding: u64,
        running: u64,
        workers: Vec<WorkerStats>,
    ) -> PoolStats {
        PoolStats {
            queued: outstanding.saturating_sub(running),
            running,
            done: self.done,
            failed: self.failed,
            panicked: self.panicked,
            workers_died: self.workers_died,
            timed_out: self.timed_out,
            cancelled: self.cancelled,
            retried: self.retried,
            restarts: self.restarts,
            workers,
        }
    }
}
