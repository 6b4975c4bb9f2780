//! Assignment: which worker gets which work item, and work stealing for idle workers.

use crate::pool::{
    scheduler::{Scheduler, Slot, SlotState, err_cancelled},
    stats::RestartReason,
    task::{Wakeups, work_item::WorkItem},
    worker_handle::{WorkerHandle, checked_region::ProtocolViolation, io::WorkerIo},
};
use std::mem;

/// Nanoseconds of work that a busy worker gets in advance: enough to outlast a wake-up of the pool.
const WORKER_PREFETCH_NANOS: u64 = 5_000_000;

/// The maximum number of items in flight at a worker, unless one chunk holds more.
const MAX_PREFETCH: u64 = 128;

/// Work items in flight that are always allowed: one runs, one waits.
const MIN_PREFETCH: u64 = 2;

/// Nanoseconds. Shorter items are written in batches, and are not worth stealing one by one.
pub(super) const TINY_TASK_NANOS: u64 = 20_000;

impl<Io: WorkerIo> Scheduler<Io> {
    /// Returns a slot whose start is due. The caller starts a worker for it.
    pub(crate) fn take_vacancy(&mut self) -> Option<usize> {
        let now = Io::now();
        let is_due = |slot: &Slot<Io>| matches!(slot.state, SlotState::Vacant(at) if at <= now);
        let slot = self.slots.iter().position(is_due)?;
        // 1. The lock is released, and the worker starts.
        // 2. The pool ends.
        // 3. A slot in this state is not retired: the pool has not ended before the worker is
        //    installed and killed.
        self.slots[slot].state = SlotState::Starting;
        Some(slot)
    }

    /// Whether a slot waits for a start, now or later.
    pub(crate) fn has_vacancies(&self) -> bool {
        self.slots
            .iter()
            .any(|slot| matches!(slot.state, SlotState::Vacant(_)))
    }

    /// Stages queued work items for the least busy workers, until the queue or their room is
    /// exhausted.
    pub(crate) fn assign_queued(&mut self, wakeups: &mut Wakeups) {
        while self.assign_one(wakeups).is_some() {}
    }

    /// Stages the next work item and returns the slot of its worker. Returns `None` if the queue is
    /// empty or no worker has room.
    pub(crate) fn assign_one(&mut self, wakeups: &mut Wakeups) -> Option<usize> {
        if self.queue.is_empty() {
            return None;
        }
        let slot = self.least_busy()?;
        let work_item = self.queue.pop_front()?;
        if let Some(mut work_item) = self.drop_cancelled(work_item, wakeups) {
            let worker = self.slots[slot].worker_mut()?;
            let share = worker
                .quota
                .map(|quota| u32::try_from(quota).unwrap_or(u32::MAX));
            let rest = share.and_then(|it| work_item.split_off(it));
            if let Some(rest) = rest {
                self.queue.push_front(rest);
            }
            let worker = self.slots[slot].worker_mut()?;
            match worker.stage(slot, work_item) {
                Ok(()) if worker.quota == Some(0) => self.replace(slot, RestartReason::Tasks),
                Ok(()) => {}
                Err((work_item, Some(error))) => self.fail(&work_item, error, wakeups),
                // 1. The worker closed its socket, or the kernel has no room.
                // 2. Its death or the room is reported later.
                // 3. The next round finds another worker, as this one has no room.
                Err((work_item, None)) => self.queue.push_front(work_item),
            }
        }
        Some(slot)
    }

    /// Returns the worker with room that has the fewest items in flight. Skips workers that are not
    /// ready if another is: an initializer may take long.
    fn least_busy(&mut self) -> Option<usize> {
        let ahead = self
            .item_nanos
            .map_or(MIN_PREFETCH, |nanos| WORKER_PREFETCH_NANOS / nanos.max(1));
        let most = ahead.clamp(MIN_PREFETCH, MAX_PREFETCH) as u32;
        let (mut best, mut any_ready) = (None, false);
        for number in 0..self.slots.len() {
            if self.is_blocked_by_predecessor(number) {
                continue;
            }
            let SlotState::Running(worker) = &mut self.slots[number].state else {
                continue;
            };
            let is_ready = worker.is_ready && worker.accepts_work();
            any_ready |= is_ready;
            let has_room = worker.items < most || worker.in_flight.len() < MIN_PREFETCH as usize;
            let better =
                best.is_none_or(|(_, unready, items)| (!is_ready, worker.items) < (unready, items));
            if has_room && better && worker.has_room() {
                best = Some((number, !is_ready, worker.items));
                if is_ready && worker.items == 0 {
                    // No other worker can be less busy.
                    break;
                }
            }
        }
        best.filter(|(_, is_unready, _)| !any_ready || !is_unready)
            .map(|(slot, ..)| slot)
    }

    /// Marks a worker as ready, and revokes the items of workers that are not. Fails if it was
    /// ready.
    pub(crate) fn note_ready(&mut self, slot: usize) -> Result<(), ProtocolViolation> {
        let Some(worker) = self.slots[slot].worker_mut() else {
            return Ok(());
        };
        if mem::replace(&mut worker.is_ready, true) {
            // A worker writes this record once.
            return Err(ProtocolViolation);
        }
        for other in 0..self.slots.len() {
            // 1. Another worker writes `READY` to its pipe.
            // 2. Its first task starts, and writes to the shared region that it has not.
            // 3. Revoking that item here would run it twice.
            let worker = self.slots[other].worker_mut();
            if worker.is_some_and(|worker| !worker.was_ready()) {
                self.revoke_from_first(other, |_| true);
            }
        }
        Ok(())
    }

    /// Moves unstarted items from busy workers to idle workers.
    pub(crate) fn steal_for_idle(&mut self, wakeups: &mut Wakeups) {
        // Each round gives work to at least one idle worker.
        for _ in 0..self.slots.len() {
            if !self.queue.is_empty() || self.outstanding <= 1 {
                return;
            }
            let idle = self.count_idle();
            if idle == 0 || !self.steal_from_busiest(idle, wakeups) {
                return;
            }
        }
    }

    /// Counts ready workers that have room and no items.
    fn count_idle(&mut self) -> usize {
        let mut idle = 0;
        for slot in 0..self.slots.len() {
            let may_work = !self.is_blocked_by_predecessor(slot);
            let is_idle = |it: &mut WorkerHandle<Io>| it.is_ready && it.items == 0 && it.has_room();
            idle += usize::from(may_work && self.slots[slot].worker_mut().is_some_and(is_idle));
        }
        idle
    }

    /// Shares the unstarted items of the busiest worker with `idle` workers. Returns false if there
    /// is nothing to share.
    fn steal_from_busiest(&mut self, idle: usize, wakeups: &mut Wakeups) -> bool {
        let tiny = self.item_nanos.is_some_and(|nanos| nanos < TINY_TASK_NANOS);
        let nanos = self.item_nanos.unwrap_or(TINY_TASK_NANOS);
        // A worker with a single item is about to start it.
        let rich = self
            .workers()
            .filter(|worker| worker.items > 1 && worker.unstarted() > 0);
        let Some(worker) = rich.max_by_key(|it| it.unstarted()) else {
            return false;
        };
        let worth_it =
            !tiny || worker.is_stuck() || u64::from(worker.unstarted()) * nanos >= TINY_TASK_NANOS;
        if !worth_it {
            return false;
        }
        // The first item stays: it runs, or is about to.
        let Some(front) = worker.front() else {
            return false;
        };
        // 1. `unstarted` was read.
        // 2. The worker started some of these items.
        // 3. `revoke` returns fewer, or none: the start word decides, not the count above.
        let work_items = worker.revoke(front.wrapping_add(1));
        let total: u32 = work_items.iter().map(WorkItem::count).sum();
        let share = total.div_ceil(idle as u32 + 1).max(1);
        for mut work_item in work_items {
            while let Some(rest) = work_item.split_off(share) {
                self.queue.push_back(mem::replace(&mut work_item, rest));
            }
            self.queue.push_back(work_item);
        }
        self.assign_queued(wakeups);
        total > 0
    }

    /// Queues work items in their order, before all items of the same priority.
    pub(crate) fn requeue_front(&mut self, work_items: Vec<WorkItem>) {
        for work_item in work_items.into_iter().rev() {
            self.queue.push_front(work_item);
        }
    }

    /// Fails the cancelled items of a work item, and returns the others.
    pub(crate) fn drop_cancelled(
        &mut self,
        mut work_item: WorkItem,
        wakeups: &mut Wakeups,
    ) -> Option<WorkItem> {
        match work_item.wanted() {
            0 => {
                self.finish(&work_item, err_cancelled(), wakeups);
                None
            }
            wanted => {
                if let Some(rest) = work_item.split_off(wanted) {
                    self.finish(&rest, err_cancelled(), wakeups);
                }
                Some(work_item)
            }
        }
    }

    /// Tells all workers to drop a map's context.
    pub(crate) fn drop_context(&mut self, id: u32) {
        self.workers().for_each(|it| it.drop_context(id));
    }
}
