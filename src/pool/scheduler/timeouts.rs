//! Stopping items that run: items past their time limit, and killed items. Their workers end.
//!
//! A signal must hit the item that it is meant for:
//!
//! 1. The scheduler revokes all items after it, by one compare-and-swap.
//! 2. It checks that this item runs. If a later item has started, this one has ended.
//! 3. It signals the worker, which gets no more items.
//!
//! If the item ends between steps 2 and 3, its result counts, and the signal ends an idle worker.

use crate::error::{Error, ErrorKind};
use crate::pool::{
    scheduler::{Scheduler, Slot, err_cancelled},
    task::{Task, TaskLocation, Wakeups, map::MapState, work_item::WorkItem},
    worker_handle::{MAX_POLL_INTERVAL, StopRequest, WorkerHandle, io::WorkerIo},
};
use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a task that handles SIGTERM may run on before SIGKILL.
const SIGTERM_GRACE: Duration = Duration::from_secs(1);

/// The shortest interval between two checks whether an item with a limit has started.
const TIMEOUT_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The interval between two ticks that shows that the program was stopped, for example by Ctrl-Z,
/// and its workers with it. That time does not count against limits. With items in flight the pool
/// ticks at least once in [`MAX_POLL_INTERVAL`].
const STANDSTILL: Duration = Duration::from_secs(2);

impl<Io: WorkerIo> Scheduler<Io> {
    /// Stops items past their limit, and sends SIGKILL to workers past their grace period.
    pub(crate) fn check_timeouts(&mut self) {
        let now = Io::now();
        let away = now.duration_since(mem::replace(&mut self.timeouts_checked, now));
        for slot in 0..self.slots.len() {
            let Some(worker) = self.slots[slot].worker_mut() else {
                continue;
            };
            worker.escalate_to_sigkill(now);
            self.has_new_chores |= worker.is_refused();
            worker.sample_running(now);
            // 1. The program is stopped, with its workers.
            // 2. It is continued.
            // 3. The first tick sees a long gap: no item ran in that time.
            if away >= STANDSTILL {
                worker.add_standstill(away);
            }
            if worker.is_deaf(now) {
                worker.kill();
                self.has_new_chores |= worker.is_refused();
            }
            let Some(due) = worker.check_timeout_at else {
                continue;
            };
            if due <= now
                && let Some((item, limit)) = worker.overdue(now)
            {
                let message = format!("the task ran longer than its limit of {limit:?}");
                self.stop_running(slot, item, Error::new(ErrorKind::TimedOut, message));
            }
        }
    }

    /// Stops a running item by ending its worker. Returns false if the item does not run.
    fn stop_running(&mut self, slot: usize, item: u32, error: Error) -> bool {
        let Some(worker) = self.slots[slot].worker_mut() else {
            return false;
        };
        let revoked = worker.revoke(item.wrapping_add(1));
        // 1. The reply of this item is in the ring, unread.
        // 2. The next item has started.
        // 3. `revoke` left that in flight: a signal would hit it.
        let runs = worker.is_running(item) && worker.items == 1;
        if !runs {
            // The item that runs instead may have a limit, too: check again after the reply was
            // read.
            let mut remaining = worker.in_flight.iter();
            let any_limited = remaining.any(|entry| entry.work_item.config().timeout.is_some());
            worker.check_timeout_at = any_limited.then(Io::now);
        } else if let Some(earlier) = &mut worker.stop_request {
            // 1. The item passed its limit, and SIGTERM was sent.
            // 2. A caller kills it in the grace period.
            // The grace period goes on, and the outcome is the cancellation.
            if error.kind() == ErrorKind::Cancelled {
                earlier.error = error;
            }
        } else {
            worker.request_stop(StopRequest {
                item,
                error,
                kill_at: Some(Io::now() + SIGTERM_GRACE),
            });
            self.has_new_chores |= worker.is_refused();
        }
        self.requeue_front(revoked);
        runs
    }

    /// Cancels a call, even while it runs. Returns false if it is done with another outcome.
    pub(crate) fn kill(&mut self, task: &Arc<Task>, wakeups: &mut Wakeups) -> bool {
        if self.cancel(task, wakeups) {
            return true;
        }
        let TaskLocation::InFlight(slot, item) = task.location() else {
            return false;
        };
        // 1. The worker appended the reply.
        // 2. No thread has read it.
        // Then the call is done.
        self.read_replies(slot, wakeups);
        if task.is_done() {
            return task.is_cancelled();
        }
        if task.location() == TaskLocation::Queued {
            // 1. The reply that was just read is a failure.
            // 2. The call waits for a retry.
            return self.cancel(task, wakeups);
        }
        self.stop_running(slot, item, err_killed())
    }

    /// Cancels a map with the items that run. Returns false if it is done with another outcome.
    pub(crate) fn kill_map(
        &mut self,
        task: &Task,
        map: &Arc<MapState>,
        wakeups: &mut Wakeups,
    ) -> bool {
        if task.is_done() {
            return task.is_cancelled();
        }
        // First no further item can start, then the running ones are stopped.
        map.cancel_from(0);
        self.sweep_cancelled(wakeups);
        for slot in 0..self.slots.len() {
            self.read_replies(slot, wakeups);
            let worker = self.slots[slot].worker();
            let front = worker.and_then(|worker| worker.in_flight.front());
            if let Some(entry) = front.filter(|entry| entry.work_item.belongs_to(map)) {
                let item = entry.item;
                self.stop_running(slot, item, err_killed());
            }
        }
        !task.is_done() || task.is_cancelled()
    }

    /// Asks a running call to stop by itself.
    pub(crate) fn request_stop(&self, task: &Task) {
        if let TaskLocation::InFlight(slot, item) = task.location()
            && let Some(worker) = self.slots.get(slot).and_then(Slot::worker)
            && worker.is_running(item)
        {
            worker.region.request_stop(item);
        }
    }
}

fn err_killed() -> Error {
    Error::new(err_cancelled().kind(), "the task was killed while it ran")
}

impl<Io: WorkerIo> WorkerHandle<Io> {
    /// Returns the item that runs past its limit, and the limit. Otherwise sets the next check.
    fn overdue(&mut self, now: Instant) -> Option<(u32, Duration)> {
        let limits = self.in_flight.iter();
        let shortest = limits
            .filter_map(|entry| entry.work_item.config().timeout)
            .min();
        self.check_timeout_at =
            shortest.map(|limit| now + limit.clamp(TIMEOUT_POLL_INTERVAL, MAX_POLL_INTERVAL));
        let front = self.in_flight.front()?;
        let (item, limit) = (front.item, front.work_item.config().timeout?);
        let age = self.age(now)?;
        if age < limit {
            let left = now + (limit - age).min(MAX_POLL_INTERVAL);
            self.check_timeout_at = self.check_timeout_at.into_iter().chain([left]).min();
            return None;
        }
        self.check_timeout_at = None;
        Some((item, limit))
    }
}

impl WorkItem {
    pub(crate) fn belongs_to(&self, map: &Arc<MapState>) -> bool {
        matches!(self, Self::Slice(it) if Arc::ptr_eq(&it.chunk.map, map))
    }
}
