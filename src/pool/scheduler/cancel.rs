//! Cancelling tasks and maps before they start, and stopping the pool.

use crate::error::Error;
use crate::pool::{
    scheduler::{PoolPhase, Scheduler, Slot, err_cancelled},
    task::{Task, TaskLocation, Wakeups, map::MapState, work_item::WorkItem},
    worker_handle::{io::WorkerIo, is_before},
};
use std::{mem, sync::Arc};

/// How `stop` ends the workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopMode {
    /// By SIGTERM, and SIGKILL after a grace period.
    Graceful,
    /// By SIGKILL.
    Kill,
}

impl<Io: WorkerIo> Scheduler<Io> {
    /// Revokes a worker's unstarted items, from the first work item on that matches `is_first`.
    pub(crate) fn revoke_from_first(&mut self, slot: usize, is_first: impl Fn(&WorkItem) -> bool) {
        let Some(worker) = self.slots[slot].worker_mut() else {
            return;
        };
        let first = worker
            .in_flight
            .iter()
            .find(|entry| is_first(&entry.work_item));
        if let Some(item) = first.map(|it| it.item) {
            let work_items = worker.revoke(item);
            self.requeue_front(work_items);
        }
    }

    /// Assigns queued items and writes all staged frames, after a change that a caller made.
    pub(crate) fn assign_and_flush(&mut self, wakeups: &mut Wakeups) {
        self.assign_queued(wakeups);
        self.flush_all();
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
            // Revokes the items after it, too. `revoke` sets the location of each call that had not
            // started: it decides whether this one is cancelled.
            let work_items = worker.revoke(item);
            self.requeue_front(work_items);
        }
        if task.location() != TaskLocation::Queued {
            self.request_stop(task);
            return false;
        }
        let error = err_cancelled();
        self.counts.add_failures(error.kind(), 1);
        task.complete(Err(error), wakeups);
        self.outstanding -= 1;
        let is_it =
            |it: &WorkItem| matches!(it, WorkItem::Call(queued) if Arc::ptr_eq(queued, task));
        match self
            .delayed
            .iter()
            .position(|(_, work_item)| is_it(work_item))
        {
            Some(at) => drop(self.delayed.swap_remove(at)),
            // It stays in the queue until its turn, as a call that is done.
            None => self.queue.forget_one(),
        }
        true
    }

    /// Cancels a map. Returns false, and cancels nothing, if an item has started.
    pub(crate) fn cancel_map(
        &mut self,
        task: &Task,
        map: &Arc<MapState>,
        wakeups: &mut Wakeups,
    ) -> bool {
        if task.is_done() {
            return task.is_cancelled();
        }
        // Revoked before the check. In the other order:
        // 1. The check finds no started item.
        // 2. A worker starts one.
        // 3. The rest is cancelled, and a map that has started counts as cancelled.
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
                .any(|entry| entry.work_item.belongs_to(map) && is_before(entry.item, started))
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
            self.finish(&work_item, err_cancelled(), wakeups);
        }
    }

    /// Takes all items that are queued or wait for a retry.
    fn take_waiting(&mut self) -> Vec<WorkItem> {
        let delayed = mem::take(&mut self.delayed)
            .into_iter()
            .map(|(_, work_item)| work_item);
        self.queue.take().chain(delayed).collect()
    }

    /// Fails all outstanding tasks at once, and ends the workers as `mode` says.
    pub(crate) fn stop(&mut self, error: &Error, mode: StopMode, wakeups: &mut Wakeups) {
        if let PoolPhase::Ended(_) = self.phase {
            return;
        }
        for work_item in self.take_waiting() {
            self.finish(&work_item, error.clone(), wakeups);
        }
        for slot in 0..self.slots.len() {
            let Some(worker) = self.slots[slot].worker_mut() else {
                continue;
            };
            match mode {
                StopMode::Graceful => worker.terminate(),
                StopMode::Kill => worker.kill(),
            }
            self.has_new_chores |= worker.is_refused();
            // 1. The tasks fail here.
            // 2. The worker appends replies before it dies.
            // 3. `take_reply` ignores replies to a worker without items in flight.
            worker.items = 0;
            for entry in mem::take(&mut worker.in_flight) {
                self.finish(&entry.work_item, error.clone(), wakeups);
            }
        }
        self.begin_shutdown(error.clone());
    }
}
