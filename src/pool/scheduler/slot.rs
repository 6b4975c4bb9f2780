//! A slot: one worker or the time of its start, and the data that outlives the worker.

use crate::pool::worker_handle::{WorkerHandle, io::WorkerIo, process_io::ProcessIo};
use std::time::Instant;

/// A position in the pool that holds at most one worker at a time.
#[derive(Debug)]
pub(crate) struct Slot<Io: WorkerIo = ProcessIo> {
    pub(crate) state: SlotState<Io>,
    /// The worker's public number. A replacement has its predecessor's.
    pub(crate) worker_id: usize,
    /// The slot of the worker that this one replaces, until that worker has ended.
    pub(crate) predecessor: Option<usize>,
    /// Failed starts since the last successful one.
    pub(crate) start_failures: u32,
}

/// The content of a slot.
#[derive(Debug)]
pub(crate) enum SlotState<Io: WorkerIo = ProcessIo> {
    /// A worker, from its start until it is reaped.
    Running(Box<WorkerHandle<Io>>),
    /// No worker yet: its start is due at this time.
    Vacant(Instant),
    /// No worker yet: the background thread starts it now, without the lock.
    Starting,
    /// No worker. `add_slot` may use the slot again.
    Retired,
}

impl<Io: WorkerIo> Slot<Io> {
    /// Creates a slot for which the caller starts a worker.
    pub(crate) fn starting(worker_id: usize) -> Self {
        Self {
            state: SlotState::Starting,
            worker_id,
            predecessor: None,
            start_failures: 0,
        }
    }

    /// Creates a slot that the background thread fills at once.
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

    /// Whether the slot holds, or will hold, a worker that is not draining.
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
