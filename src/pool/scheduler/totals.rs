//! Totals of workers: how many tasks they ran, and how long these waited and ran.

use crate::pool::histogram::Histogram;
use std::time::Duration;

/// The totals of one worker, or of all workers of a pool.
#[derive(Debug, Clone, Default)]
pub(crate) struct WorkTotals {
    /// Tasks that ran, until their end or their worker's.
    pub(crate) tasks: u64,
    /// The sum of their run times.
    pub(crate) busy: Duration,
    /// The wait and run time of each task.
    pub(crate) waiting: Histogram,
    pub(crate) running: Histogram,
}

impl WorkTotals {
    /// Adds the totals of another worker.
    pub(crate) fn add(&mut self, other: &Self) {
        self.tasks += other.tasks;
        self.busy += other.busy;
        self.waiting.merge(&other.waiting);
        self.running.merge(&other.running);
    }
}
