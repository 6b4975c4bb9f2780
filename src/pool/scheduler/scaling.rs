//! Scaling: workers that drain because they have run their quota of tasks, use too much memory, or
//! are surplus.
//!
//! A draining worker gets no more items, and exits once it has answered those in flight. Its
//! replacement starts at once, in a slot of its own, and gets no items before that (`predecessor`).
//! So the pool always has all its workers, and never more of them at work.

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    scheduler::{PoolPhase, Scheduler, Slot, SlotState},
    stats::RestartReason,
    worker_handle::io::WorkerIo,
};
use std::time::Duration;

/// The maximum number of workers of a pool: more than the default limit of processes of a system.
pub(crate) const MAX_WORKERS: usize = 1 << 16;

/// When a worker is replaced, or exits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RecyclePolicy {
    /// The number of items after which a worker is replaced.
    pub(crate) tasks: Option<u64>,
    /// The resident memory, in bytes, above which a worker is replaced.
    pub(crate) memory: Option<u64>,
    /// The idle time after which a worker exits. It is started again on demand.
    pub(crate) idle: Option<Duration>,
}

impl<Io: WorkerIo> Scheduler<Io> {
    /// Returns the number of the worker in a slot.
    pub(crate) fn worker_id(&self, slot: usize) -> usize {
        self.slots[slot].worker_id
    }

    /// Whether the worker in this slot waits until its predecessor has no items.
    pub(crate) fn is_blocked_by_predecessor(&self, slot: usize) -> bool {
        let predecessor = self.slots[slot].predecessor;
        let worker = predecessor.and_then(|slot| self.slots[slot].worker());
        worker.is_some_and(|worker| worker.items > 0)
    }

    /// Drains a worker, and starts its replacement.
    pub(crate) fn replace(&mut self, slot: usize, reason: RestartReason) {
        let Some(worker) = self.slots[slot]
            .worker_mut()
            .filter(|worker| !worker.is_draining)
        else {
            return;
        };
        worker.is_draining = true;
        if let PoolPhase::Open | PoolPhase::Closed = self.phase {
            self.counts.restarted(reason);
            self.add_slot(self.slots[slot].worker_id, Some(slot));
        }
    }

    /// Replaces a worker that uses too much memory, and revokes its unstarted items.
    pub(crate) fn replace_oversized(&mut self, slot: usize) {
        self.replace(slot, RestartReason::Memory);
        self.revoke_from_first(slot, |_| true);
    }

    /// Adds a slot that the background thread fills now.
    fn add_slot(&mut self, worker_id: usize, predecessor: Option<usize>) {
        let slot = Slot::vacant(worker_id, predecessor, Io::now());
        match self.slots.iter_mut().find(|slot| slot.is_retired()) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
        self.has_new_chores = true;
    }

    /// Retires a slot.
    pub(crate) fn remove_slot(&mut self, slot: usize) {
        self.slots[slot].state = SlotState::Retired;
        // The slot may get another worker later, which must not block the replacement of this one.
        for other in &mut self.slots {
            other
                .predecessor
                .take_if(|predecessor| *predecessor == slot);
        }
    }

    /// Tells drained workers to exit.
    pub(crate) fn close_drained(&mut self) {
        for slot in &mut self.slots {
            if let SlotState::Running(worker) = &mut slot.state
                && worker.is_draining
                // `revoke` may have left started items: their replies are still to come.
                && worker.items == 0
                && worker.io.is_open()
            {
                worker.io.unwatch_requests(&self.events);
                worker.send_shutdown();
            }
        }
    }

    /// Returns the slots that hold, or will hold, a worker that is not draining.
    fn staying(&self) -> Vec<usize> {
        let slots = 0..self.slots.len();
        slots
            .filter(|slot| self.slots[*slot].is_staying())
            .collect()
    }

    /// Sets the number of workers.
    pub(crate) fn resize(&mut self, workers: usize) -> Result<()> {
        if !(1..=MAX_WORKERS).contains(&workers) {
            let message = format!(
                "a pool cannot be resized to {workers} workers: \
                 it has at least 1 and at most {MAX_WORKERS}"
            );
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        if let Some(refusal) = self.closed_error() {
            return Err(refusal);
        }
        self.target = workers;
        self.grow_to(workers);
        self.shrink();
        Ok(())
    }

    /// Adds slots until there are `workers` that are not draining.
    fn grow_to(&mut self, workers: usize) {
        // Called for each task, and mostly finds enough workers: the common case allocates nothing.
        if self.slots.iter().filter(|it| it.is_staying()).count() >= workers {
            return;
        }
        let staying = self.staying();
        let numbers: Vec<usize> = staying
            .iter()
            .map(|slot| self.slots[*slot].worker_id)
            .collect();
        let new = (0..).filter(|number| !numbers.contains(number));
        for worker in new.take(workers.saturating_sub(numbers.len())) {
            self.add_slot(worker, None);
        }
    }

    /// Starts workers again that exited while idle, at most one for each outstanding item.
    pub(crate) fn scale_up(&mut self) {
        if self.recycle.idle.is_some()
            && self.outstanding > 0
            && let PoolPhase::Open | PoolPhase::Closed = self.phase
        {
            // Items that wait for a retry do not count:
            // 1. A worker starts for them.
            // 2. It is idle until the retry, and exits.
            // 3. The next tick would start it again.
            let waiting: u64 = self
                .delayed
                .iter()
                .map(|(_, work_item)| u64::from(work_item.count()))
                .sum();
            let useful =
                usize::try_from(self.outstanding.saturating_sub(waiting)).unwrap_or(usize::MAX);
            self.grow_to(self.target.min(useful));
        }
    }

    /// Drains workers that have been idle for the idle timeout.
    pub(crate) fn stop_idle(&mut self) {
        let Some(limit) = self.recycle.idle else {
            return;
        };
        let now = Io::now();
        for worker in self
            .workers()
            .filter(|worker| worker.items == 0 && worker.is_ready)
        {
            worker.idle_until = worker.idle_until.or_else(|| now.checked_add(limit));
            worker.is_draining |= worker.idle_until.is_some_and(|due| due <= now);
        }
    }

    /// Drains surplus workers: first unstarted ones, then idle ones, then those with
    /// the highest number.
    pub(crate) fn shrink(&mut self) {
        let mut staying = self.staying();
        let rank = |slot: &usize| match &self.slots[*slot].state {
            SlotState::Vacant(_) => (0, 0),
            SlotState::Starting | SlotState::Retired => (1, 0),
            SlotState::Running(worker) => (2, worker.items),
        };
        staying.sort_by_key(|slot| (rank(slot), usize::MAX - self.slots[*slot].worker_id));
        let surplus = staying.len().saturating_sub(self.target);
        for slot in staying.into_iter().take(surplus) {
            match &mut self.slots[slot].state {
                SlotState::Vacant(_) => self.remove_slot(slot),
                SlotState::Running(worker) => {
                    worker.is_draining = true;
                    self.revoke_from_first(slot, |_| true);
                }
                // `install` drains it if it is surplus then.
                SlotState::Starting | SlotState::Retired => {}
            }
        }
    }
}
