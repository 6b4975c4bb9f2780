//! Cancelling tasks and maps before they start, and stopping the pool.

use crate::error::Error;
use crate::pool::{
    scheduler::{PoolPhase, Scheduler, Slot, err_cancelled, err_closed},
    task::{Task, TaskLocation, Wakeups, map::MapState, work_item::WorkItem},
    worker_handle::{io::WorkerIo, is_before},
};
use std::{mem, sync::Arc};

/// Items shorter than this are gathered before they are written, and not worth moving to another
/// worker one by one.
const TINY_TASK_NANOS: u64 = 20_000;

impl<Io: WorkerIo> Scheduler<Io> {
    /// Why no task is taken, if none is.
    pub(crate) fn closed_error(&self) -> Option<Error> {
        match &self.phase {
            PoolPhase::Open => None,
            PoolPhase::Closed => Some(err_closed()),
            PoolPhase::Ending(error) | PoolPhase::Ended(error) => Some(error.clone()),
        }
    }

    /// Takes a unit that was just submitted. The pool must be open.
    pub(crate) fn submit(&mut self, work_item: WorkItem, wakeups: &mut Wakeups) {
        self.outstanding += u64::from(work_item.count());
        self.scale_up();
        let overtakes = self.revoke_less_urgent(work_item.priority());
        self.queue.push_back(work_item);
        if overtakes {
            return self.assign_and_flush(wakeups);
        }
        // With a queue, every worker is full: whoever leads refills them.
        if self.queue.len() > 1 {
            return;
        }
        let gather = self.item_nanos.is_some_and(|nanos| nanos < TINY_TASK_NANOS);
        if let Some(slot) = self.assign_one(wakeups)
            && let Some(worker) = self.slots[slot].worker_mut()
            // What stays staged behind items in flight is written when they are answered: their
            // worker rings.
            && (!gather || worker.in_flight.len() == 1 || worker.should_flush())
        {
            self.flush(slot);
        }
    }

    /// Takes back what was sent ahead and is less urgent than this, if there can be any such thing:
    /// true.
    fn revoke_less_urgent(&mut self, priority: i32) -> bool {
        if priority <= self.lowest_priority {
            self.lowest_priority = priority;
            return false;
        }
        for slot in 0..self.slots.len() {
            self.revoke_from_first(slot, |queued| queued.priority() < priority);
        }
        true
    }

    /// Revokes a worker's unstarted items, from the first work item on that matches `is_first`.
    pub(crate) fn revoke_from_first(&mut self, slot: usize, is_first: impl Fn(&WorkItem) -> bool) {
        let Some(worker) = self.slots[slot].worker_mut() else {
            return;
        };
        let first = worker
            .in_flight
            .iter()
            .find(|sent| is_first(&sent.work_item));
        if let Some(item) = first.map(|it| it.item) {
            let work_items = worker.revoke(item);
            self.requeue_front(work_items);
        }
    }

    /// Does what follows from a change that a caller made.
    pub(crate) fn assign_and_flush(&mut self, wakeups: &mut Wakeups) {
        self.assign_queued(wakeups);
        self.flush_all();
    }

    /// Takes no more tasks.
    pub(crate) fn close(&mut self) {
        if let PoolPhase::Open = self.phase {
            self.phase = PoolPhase::Closed;
        }
    }

    /// Cancels a call that has not started. Asks a running call to stop, and returns false.
    pub(crate) fn cancel(&mut self, task: &Arc<Task>, wakeups: &mut Wakeups) -> bool {
        if task.is_done() {
            return task.is_cancelled();
        }
        if let TaskLocation::InFlight(slot, item) = task.location() {
            let Some(worker) = self.slots[slot].worker_mut() else {
                return false;
            };
            let work_items = worker.revoke(item);
            self.requeue_front(work_items);
        }
        if task.location() != TaskLocation::Queued {
            self.request_stop(task);
            return false;
        }
        let outcome = Err(err_cancelled());
        self.counts.add(&outcome, 1);
        task.complete(outcome, wakeups);
        self.outstanding -= 1;
        let is_it =
            |it: &WorkItem| matches!(it, WorkItem::Call(queued) if Arc::ptr_eq(queued, task));
        match self
            .delayed
            .iter()
            .position(|(_, work_item)| is_it(work_item))
        {
            Some(at) => drop(self.delayed.swap_remove(at)),
            None => self.queue.forget_one(),
        }
        true
    }

    /// Cancels a map if none of its items has started; returns false if one has.
    pub(crate) fn cancel_map(
        &mut self,
        task: &Task,
        map: &Arc<MapState>,
        wakeups: &mut Wakeups,
    ) -> bool {
        if task.is_done() {
            return task.is_cancelled();
        }
        // Revoked before the check. In the other order: 1. The check finds no started item. 2. A
        // worker starts one. 3. The rest is cancelled, and a map that has started counts as
        // cancelled.
        for slot in 0..self.slots.len() {
            self.revoke_from_first(slot, |it| it.belongs_to(map));
        }
        let has_started = self.has_map_started(map);
        if !has_started {
            map.cancel_from(0);
            self.sweep_cancelled(wakeups);
        }
        !has_started
    }

    /// Whether an item of this map has started.
    pub(crate) fn has_map_started(&self, map: &Arc<MapState>) -> bool {
        let running = self.slots.iter().filter_map(Slot::worker).any(|worker| {
            let started = worker.region.started();
            worker
                .in_flight
                .iter()
                .any(|sent| sent.work_item.belongs_to(map) && is_before(sent.item, started))
        });
        running || map.has_outcomes()
    }

    /// Drops all cancelled items that have not started: in flight, queued, or waiting for a retry.
    pub(crate) fn sweep_cancelled(&mut self, wakeups: &mut Wakeups) {
        for slot in 0..self.slots.len() {
            self.revoke_from_first(slot, |work_item| work_item.wanted() < work_item.count());
        }
        for work_item in self.queue.take() {
            if let Some(work_item) = self.drop_cancelled(work_item, wakeups) {
                self.queue.push_back(work_item);
            }
        }
        for (at, work_item) in mem::take(&mut self.delayed) {
            if let Some(work_item) = self.drop_cancelled(work_item, wakeups) {
                self.delayed.push((at, work_item));
            }
        }
    }

    /// Whether the item of this call has started.
    pub(crate) fn has_started(&self, task: &Task) -> bool {
        let TaskLocation::InFlight(slot, item) = task.location() else {
            return false;
        };
        let worker = self.slots.get(slot).and_then(Slot::worker);
        worker.is_some_and(|worker| is_before(item, worker.region.started()))
    }

    /// Cancels all items that have not started.
    pub(crate) fn cancel_pending(&mut self, wakeups: &mut Wakeups) {
        for slot in 0..self.slots.len() {
            self.revoke_from_first(slot, |_| true);
        }
        for work_item in self.take_waiting() {
            self.finish(&work_item, Err(err_cancelled()), wakeups);
        }
    }

    /// Takes all queued items, and those that wait for a retry.
    fn take_waiting(&mut self) -> Vec<WorkItem> {
        let delayed = mem::take(&mut self.delayed)
            .into_iter()
            .map(|(_, work_item)| work_item);
        self.queue.take().chain(delayed).collect()
    }

    /// Fails all outstanding tasks at once, and ends the workers: with SIGKILL if `at_once`.
    pub(crate) fn stop(&mut self, error: &Error, at_once: bool, wakeups: &mut Wakeups) {
        if let PoolPhase::Ended(_) = self.phase {
            return;
        }
        for work_item in self.take_waiting() {
            self.finish(&work_item, Err(error.clone()), wakeups);
        }
        for slot in 0..self.slots.len() {
            let Some(worker) = self.slots[slot].worker_mut() else {
                continue;
            };
            if at_once {
                worker.kill();
            } else {
                worker.terminate();
            }
            self.has_new_chores |= worker.is_refused();
            worker.items = 0;
            for sent in mem::take(&mut worker.in_flight) {
                self.finish(&sent.work_item, Err(error.clone()), wakeups);
            }
        }
        self.begin_shutdown(error.clone());
    }
}
