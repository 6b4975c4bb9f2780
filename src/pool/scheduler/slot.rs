//! One place for a worker: the worker in it, or when one is started, and what outlives that worker.

use crate::pool::worker_handle::{WorkerHandle, io::WorkerIo, process_io::ProcessIo};
use std::time::Instant;

/// A place for a worker. The same place may have one worker after the other.
#[derive(Debug)]
pub(crate) struct Slot<Io: WorkerIo = ProcessIo> {
    pub(crate) state: SlotState<Io>,
    /// The number that the worker knows itself by. A replacement has its predecessor's.
    pub(crate) worker_id: usize,
    /// The slot of the worker that this one replaces, until that worker has ended.
    pub(crate) predecessor: Option<usize>,
    /// Starts that failed since the last one that did not.
    pub(crate) start_failures: u32,
}

/// What a slot holds.
#[derive(Debug)]
pub(crate) enum SlotState<Io: WorkerIo = ProcessIo> {
    /// A worker, from its start until it is reaped.
    Running(Box<WorkerHandle<Io>>),
    /// None yet: one is started at this time.
    Vacant(Instant),
    /// None yet: the background thread is starting one.
    Starting,
    /// None. The slot may be used again.
    Retired,
}

impl<Io: WorkerIo> Slot<Io> {
    /// A slot for which the caller starts a worker.
    pub(crate) fn starting(worker_id: usize) -> Self {
        Self {
            state: SlotState::Starting,
            worker_id,
            predecessor: None,
            start_failures: 0,
        }
    }

    /// A slot that the background thread fills at once.
    pub(crate) fn vacant(worker_id: usize, predecessor: Option<usize>, now: Instant) -> Self {
        Self {
            state: SlotState::Vacant(now),
            worker_id,
            predecessor,
            start_failures: 0,
        }
    }

    pub(crate) fn worker(&self) -> Option<&WorkerHandle<Io>> {
        match &self.state {
            SlotState::Running(worker) => Some(worker),
            _ => None,
        }
    }

    pub(crate) fn worker_mut(&mut self) -> Option<&mut WorkerHandle<Io>> {
        match &mut self.state {
            SlotState::Running(worker) => Some(worker),
            _ => None,
        }
    }

    /// Whether it holds, or will hold, a worker that is not draining.
    pub(crate) fn is_staying(&self) -> bool {
        match &self.state {
            SlotState::Running(worker) => !worker.is_draining,
            SlotState::Vacant(_) | SlotState::Starting => true,
            SlotState::Retired => false,
        }
    }

    pub(crate) fn is_retired(&self) -> bool {
        matches!(self.state, SlotState::Retired)
    }
}
