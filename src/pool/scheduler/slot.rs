//! A worker's place in the pool.

use crate::pool::worker_handle::WorkerHandle;
use std::time::Instant;

/// A worker's place in the pool.
#[derive(Debug)]
pub(crate) enum Slot {
    Running(Box<WorkerHandle>),
    /// To be filled at this time.
    Vacant(Instant),
    /// Being filled, by whoever has the number.
    Starting,
    /// Not to be filled again.
    Retired,
}

impl Slot {
    pub(crate) fn worker(&self) -> Option<&WorkerHandle> {
        match self {
            Self::Running(worker) => Some(worker),
            _ => None,
        }
    }

    /// Whether a worker is there that stays, or one comes.
    pub(crate) fn is_staying(&self) -> bool {
        match self {
            Self::Running(worker) => !worker.is_draining,
            Self::Vacant(_) | Self::Starting => true,
            Self::Retired => false,
        }
    }

    pub(crate) fn worker_mut(&mut self) -> Option<&mut WorkerHandle> {
        match self {
            Self::Running(worker) => Some(worker),
            _ => None,
        }
    }
}
