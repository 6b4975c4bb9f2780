//! Which worker gets what next, and who fills an empty place.

use crate::pool::{
    scheduler::{Scheduler, Slot, SlotState, err_cancelled},
    stats::RestartReason,
    task::{Wakeups, work_item::WorkItem},
    worker_handle::{WorkerHandle, io::WorkerIo},
};
use std::mem;

/// Work that is sent ahead to a busy worker: enough to outlast a wake-up of the pool.
const WORKER_PREFETCH_NANOS: u64 = 5_000_000;

/// Items in flight at most, unless one chunk holds more.
const MAX_PREFETCH: u64 = 128;

/// Units in flight that are always allowed: one runs, one waits.
const MIN_PREFETCH: u64 = 2;

/// Items shorter than this are gathered before they are written, and not worth moving to another
/// worker one by one.
const TINY_TASK_NANOS: u64 = 20_000;

impl<Io: WorkerIo> Scheduler<Io> {
    /// A place that is to be filled now; the caller starts a worker for it.
    pub(crate) fn take_vacancy(&mut self) -> Option<usize> {
        let now = Io::now();
        let is_due = |slot: &Slot<Io>| matches!(slot.state, SlotState::Vacant(at) if at <= now);
        let slot = self.slots.iter().position(is_due)?;
        self.slots[slot].state = SlotState::Starting;
        Some(slot)
    }

    /// Whether a place is to be filled, now or later.
    pub(crate) fn has_vacancies(&self) -> bool {
        self.slots
            .iter()
            .any(|slot| matches!(slot.state, SlotState::Vacant(_)))
    }

    /// Stages what is queued for the workers that have the least to do.
    pub(crate) fn assign_queued(&mut self, wakeups: &mut Wakeups) {
        while self.assign_one(wakeups).is_some() {}
    }

    /// Stages the next unit, and says for whom; none when there is none, or nobody for it.
    pub(crate) fn assign_one(&mut self, wakeups: &mut Wakeups) -> Option<usize> {
        if self.queue.is_empty() {
            return None;
        }
        let slot = self.least_busy()?;
        let work_item = self.queue.pop_front()?;
        if let Some(mut work_item) = self.drop_cancelled(work_item, wakeups) {
            let worker = self.slots[slot].worker_mut()?;
            let share = worker.quota.map(|it| u32::try_from(it).unwrap_or(u32::MAX));
            let rest = share.and_then(|it| work_item.split_off(it));
            if let Some(rest) = rest {
                self.queue.push_front(rest);
            }
            let worker = self.slots[slot].worker_mut()?;
            match worker.stage(slot, work_item) {
                Ok(()) if worker.quota == Some(0) => self.replace(slot, RestartReason::Tasks),
                Ok(()) => {}
                Err((work_item, Some(error))) => self.fail(&work_item, error, wakeups),
                // It is buried soon; another takes the unit.
                Err((work_item, None)) => self.queue.push_front(work_item),
            }
        }
        Some(slot)
    }

    /// The worker with the fewest items in flight that may have more. One that is not ready, as its
    /// initializer may take long, gets nothing as long as another is.
    fn least_busy(&mut self) -> Option<usize> {
        let ahead = self
            .item_nanos
            .map_or(MIN_PREFETCH, |it| WORKER_PREFETCH_NANOS / it.max(1));
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
                    break;
                }
            }
        }
        best.filter(|it| !any_ready || !it.1).map(|it| it.0)
    }

    /// Notes that a worker takes items from now on; what was sent ahead to others that do not yet
    /// is anybody's again.
    pub(crate) fn note_ready(&mut self, slot: usize) -> Option<()> {
        let is_ready = &mut self.slots[slot].worker_mut()?.is_ready;
        if mem::replace(is_ready, true) {
            // It says so once.
            return None;
        }
        for other in 0..self.slots.len() {
            // One that has said so by its pipe may run its first item by now, and hide that.
            let worker = self.slots[other].worker_mut();
            if worker.is_some_and(|it| !it.was_ready()) {
                self.revoke_from_first(other, |_| true);
            }
        }
        Some(())
    }

    /// Gives workers with nothing to do what was sent ahead to others.
    pub(crate) fn steal_for_idle(&mut self, wakeups: &mut Wakeups) {
        // Each time one of them at least gets something.
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

    /// Workers that are ready, may have more, and have nothing to do.
    fn count_idle(&mut self) -> usize {
        let mut idle = 0;
        for slot in 0..self.slots.len() {
            let may_work = !self.is_blocked_by_predecessor(slot);
            let is_idle = |it: &mut WorkerHandle<Io>| it.is_ready && it.items == 0 && it.has_room();
            idle += usize::from(may_work && self.slots[slot].worker_mut().is_some_and(is_idle));
        }
        idle
    }

    /// Shares with so many idle workers what was sent ahead to the one with the most of it; false
    /// if there is nothing to share.
    fn steal_from_busiest(&mut self, idle: usize, wakeups: &mut Wakeups) -> bool {
        let tiny = self.item_nanos.is_some_and(|it| it < TINY_TASK_NANOS);
        let nanos = self.item_nanos.unwrap_or(TINY_TASK_NANOS);
        // One with a single item is about to start it, and hides nothing.
        let rich = self
            .workers()
            .filter(|it| it.items > 1 && it.unstarted() > 0);
        let Some(worker) = rich.max_by_key(|it| it.unstarted()) else {
            return false;
        };
        let worth_it =
            !tiny || worker.is_stuck() || u64::from(worker.unstarted()) * nanos >= TINY_TASK_NANOS;
        if !worth_it {
            return false;
        }
        // The first stays where it is: it runs, or is about to.
        let Some(front) = worker.front() else {
            return false;
        };
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

    /// Puts units before everything that is queued, in their order.
    pub(crate) fn requeue_front(&mut self, work_items: Vec<WorkItem>) {
        for work_item in work_items.into_iter().rev() {
            self.queue.push_front(work_item);
        }
    }

    /// Ends what of a unit is cancelled, and gives what is not.
    pub(crate) fn drop_cancelled(
        &mut self,
        mut work_item: WorkItem,
        wakeups: &mut Wakeups,
    ) -> Option<WorkItem> {
        match work_item.wanted() {
            0 => {
                self.finish(&work_item, Err(err_cancelled()), wakeups);
                None
            }
            wanted => {
                if let Some(rest) = work_item.split_off(wanted) {
                    self.finish(&rest, Err(err_cancelled()), wakeups);
                }
                Some(work_item)
            }
        }
    }

    /// Has every worker drop a map's context.
    pub(crate) fn drop_context(&mut self, id: u32) {
        self.workers().for_each(|it| it.drop_context(id));
    }
}
