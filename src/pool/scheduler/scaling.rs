//! Workers that leave in good order: when they have done their share, take up too much memory, or
//! are too many.
//!
//! A worker that leaves gets nothing more, and ends when it has answered what it has. Where another
//! is to follow it, that one is started at once, in a slot of its own, and waits for the first to
//! be done: so the pool has all its workers all the time, and never more of them at work.

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    scheduler::{PoolPhase, Scheduler, Slot, SlotState},
    stats::RestartReason,
    worker_handle::io::WorkerIo,
};
use std::time::Duration;

/// Workers that a pool may have: as many processes as a system has by default, and more.
pub(crate) const MAX_WORKERS: usize = 1 << 16;

/// How long workers stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RecyclePolicy {
    /// Items after which a worker is replaced.
    pub(crate) tasks: Option<u64>,
    /// Bytes of resident memory above which it is.
    pub(crate) memory: Option<u64>,
    /// Time with nothing to do after which a worker ends, until there is work for it.
    pub(crate) idle: Option<Duration>,
}

impl<Io: WorkerIo> Scheduler<Io> {
    /// The number of the worker in a slot.
    pub(crate) fn worker_id(&self, slot: usize) -> usize {
        self.slots[slot].worker_id
    }

    /// Whether the worker in this slot has to wait until the one before it is done.
    pub(crate) fn is_blocked_by_predecessor(&self, slot: usize) -> bool {
        let predecessor = self.slots[slot].predecessor;
        let worker = predecessor.and_then(|slot| self.slots[slot].worker());
        worker.is_some_and(|worker| worker.items > 0)
    }

    /// Has a worker leave, and another follow it.
    pub(crate) fn replace(&mut self, slot: usize, reason: RestartReason) {
        let Some(worker) = self.slots[slot].worker_mut().filter(|it| !it.is_draining) else {
            return;
        };
        worker.is_draining = true;
        if let PoolPhase::Open | PoolPhase::Closed = self.phase {
            self.counts.restarted(reason);
            self.add_slot(self.slots[slot].worker_id, Some(slot));
        }
    }

    /// Has a worker leave that takes up too much memory; what has not started there goes elsewhere.
    pub(crate) fn replace_oversized(&mut self, slot: usize) {
        self.replace(slot, RestartReason::Memory);
        self.revoke_from_first(slot, |_| true);
    }

    /// Opens a slot that is to be filled now.
    fn add_slot(&mut self, worker_id: usize, predecessor: Option<usize>) {
        let slot = Slot::vacant(worker_id, predecessor, Io::now());
        match self.slots.iter_mut().find(|slot| slot.is_retired()) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
        self.has_new_chores = true;
    }

    /// Notes that a slot is empty for good.
    pub(crate) fn remove_slot(&mut self, slot: usize) {
        self.slots[slot].state = SlotState::Retired;
        for other in &mut self.slots {
            other
                .predecessor
                .take_if(|predecessor| *predecessor == slot);
        }
    }

    /// Lets workers go that leave and are done.
    pub(crate) fn close_drained(&mut self) {
        for slot in &mut self.slots {
            if let SlotState::Running(worker) = &mut slot.state
                && worker.is_draining
                && worker.items == 0
                && worker.io.is_open()
            {
                worker.io.unwatch_requests(&self.events);
                worker.send_shutdown();
            }
        }
    }

    /// Slots with a worker that stays, or one that comes.
    fn staying(&self) -> Vec<usize> {
        let slots = 0..self.slots.len();
        slots.filter(|it| self.slots[*it].is_staying()).collect()
    }

    /// Has the pool keep so many workers.
    pub(crate) fn resize(&mut self, workers: usize) -> Result<()> {
        if !(1..=MAX_WORKERS).contains(&workers) {
            let message = format!(
                "a pool cannot be resized to {workers} workers: it has at least 1 and at most {MAX_WORKERS}"
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

    /// Opens places for workers until so many stay or come.
    fn grow_to(&mut self, workers: usize) {
        // Asked with each task: most find nothing to do.
        if self.slots.iter().filter(|it| it.is_staying()).count() >= workers {
            return;
        }
        let staying = self.staying();
        let numbers: Vec<usize> = staying.iter().map(|it| self.slots[*it].worker_id).collect();
        let new = (0..).filter(|it| !numbers.contains(it));
        for worker in new.take(workers.saturating_sub(numbers.len())) {
            self.add_slot(worker, None);
        }
    }

    /// Has workers come again that had ended for want of work, as many as there is work for.
    pub(crate) fn scale_up(&mut self) {
        if self.recycle.idle.is_some()
            && self.outstanding > 0
            && let PoolPhase::Open | PoolPhase::Closed = self.phase
        {
            // Not for what waits for another try: they would have nothing to do until then, end,
            // and be hired again.
            let waiting: u64 = self.delayed.iter().map(|it| u64::from(it.1.count())).sum();
            let useful =
                usize::try_from(self.outstanding.saturating_sub(waiting)).unwrap_or(usize::MAX);
            self.grow_to(self.target.min(useful));
        }
    }

    /// Has workers leave that have had nothing to do for as long as they stay then.
    pub(crate) fn stop_idle(&mut self) {
        let Some(limit) = self.recycle.idle else {
            return;
        };
        let now = Io::now();
        for worker in self.workers().filter(|it| it.items == 0 && it.is_ready) {
            worker.idle_until = worker.idle_until.or_else(|| now.checked_add(limit));
            worker.is_draining |= worker.idle_until.is_some_and(|it| it <= now);
        }
    }

    /// Has workers leave that are too many: first those that have yet to come, then the idle, then
    /// those with the highest number.
    pub(crate) fn shrink(&mut self) {
        let mut staying = self.staying();
        let rank = |slot: &usize| match &self.slots[*slot].state {
            SlotState::Vacant(_) => (0, 0),
            SlotState::Starting | SlotState::Retired => (1, 0),
            SlotState::Running(worker) => (2, worker.items),
        };
        staying.sort_by_key(|it| (rank(it), usize::MAX - self.slots[*it].worker_id));
        let surplus = staying.len().saturating_sub(self.target);
        for slot in staying.into_iter().take(surplus) {
            match &mut self.slots[slot].state {
                SlotState::Vacant(_) => self.remove_slot(slot),
                SlotState::Running(worker) => {
                    worker.is_draining = true;
                    self.revoke_from_first(slot, |_| true);
                }
                // It is let go when it has come.
                SlotState::Starting | SlotState::Retired => {}
            }
        }
    }
}
