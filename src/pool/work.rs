//! What workers have done: how many tasks they ran, and how long these waited and took.

use super::histogram::Histogram;
use std::time::Duration;

/// What one worker has done, or all of a pool.
#[derive(Debug, Clone, Default)]
pub(super) struct Work {
    /// Tasks that ran, to their end or to their worker's.
    pub(super) tasks: u64,
    /// How long they ran.
    pub(super) busy: Duration,
    /// How long each of them waited, and ran.
    pub(super) waiting: Histogram,
    pub(super) running: Histogram,
}

impl Work {
    /// Adds what another worker has done.
    pub(super) fn add(&mut self, other: &Self) {
        self.tasks += other.tasks;
        self.busy += other.busy;
        self.waiting.merge(&other.waiting);
        self.running.merge(&other.running);
    }
}
