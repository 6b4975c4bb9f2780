//! What workers have done: how many tasks they ran, and how long these waited and took.

use crate::pool::histogram::Histogram;
use std::time::Duration;

/// What one worker has done, or all of a pool.
#[derive(Debug, Clone, Default)]
pub(crate) struct WorkTotals {
    /// Tasks that ran, to their end or to their worker's.
    pub(crate) tasks: u64,
    /// How long they ran.
    pub(crate) busy: Duration,
    /// How long each of them waited, and ran.
    pub(crate) waiting: Histogram,
    pub(crate) running: Histogram,
}

impl WorkTotals {
    /// Adds what another worker has done.
    pub(crate) fn add(&mut self, other: &Self) {
        self.tasks += other.tasks;
        self.busy += other.busy;
        self.waiting.merge(&other.waiting);
        self.running.merge(&other.running);
    }
}
