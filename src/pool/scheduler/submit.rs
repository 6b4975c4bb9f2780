//! Submission: queues a work item, and sends it at once if a worker has room.

use crate::error::Error;
use crate::pool::{
    scheduler::{PoolPhase, Scheduler, assign::TINY_TASK_NANOS, err_closed},
    task::{Wakeups, work_item::WorkItem},
    worker_handle::io::WorkerIo,
};

impl<Io: WorkerIo> Scheduler<Io> {
    /// Returns why the pool accepts no tasks, if it does not.
    pub(crate) fn closed_error(&self) -> Option<Error> {
        match &self.phase {
            PoolPhase::Open => None,
            PoolPhase::Closed => Some(err_closed()),
            PoolPhase::Ending(error) | PoolPhase::Ended(error) => Some(error.clone()),
        }
    }

    /// Queues a work item, and sends it if a worker has room. The pool must be open.
    pub(crate) fn submit(&mut self, work_item: WorkItem, wakeups: &mut Wakeups) {
        self.outstanding += u64::from(work_item.count());
        self.scale_up();
        let overtakes = self.revoke_less_urgent(work_item.priority());
        self.queue.push_back(work_item);
        if overtakes {
            return self.assign_and_flush(wakeups);
        }
        // Other items are queued: all workers are full, and the next tick refills them.
        if self.queue.len() > 1 {
            return;
        }
        let is_batched = self.item_nanos.is_some_and(|nanos| nanos < TINY_TASK_NANOS);
        if let Some(slot) = self.assign_one(wakeups)
            && let Some(worker) = self.slots[slot].worker_mut()
            // 1. The worker runs other items.
            // 2. This one stays staged.
            // 3. The worker answers them, and wakes a thread.
            // 4. That thread ticks, and writes the frame.
            && (!is_batched || worker.in_flight.len() == 1 || worker.should_flush())
        {
            self.flush(slot);
        }
    }

    /// Revokes unstarted items of a lower priority. Returns false, and does nothing, if no task was
    /// ever submitted with one.
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

    /// Accepts no more tasks.
    pub(crate) fn close(&mut self) {
        if let PoolPhase::Open = self.phase {
            self.phase = PoolPhase::Closed;
        }
    }
}
