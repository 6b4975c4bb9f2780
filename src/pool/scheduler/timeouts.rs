//! Items that are stopped while they run, by the end of their workers: those that are out of time,
//! and those that were killed.
//!
//! A signal must hit the item that it is meant for. So first everything behind it is taken back,
//! which is one compare-and-swap; then it is checked that this item runs; then the worker is told
//! to end, and gets nothing more. If the item ends in between, its result counts, and an idle
//! worker ends.

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

/// How long a task may go on after SIGTERM, if it handles that, before SIGKILL.
const SIGTERM_GRACE: Duration = Duration::from_secs(1);

/// How often it is looked at the most whether an item with a limit has started.
const TIMEOUT_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// With items in flight the pool looks once in [`MAX_POLL_INTERVAL`]. If it has not for so much
/// longer, the program was stopped, by Ctrl-Z say, and with it its workers: that does not count
/// against limits of time.
const STANDSTILL: Duration = Duration::from_secs(2);

impl<Io: WorkerIo> Scheduler<Io> {
    /// Stops what is out of time, and kills what has not ended within its grace.
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

    /// Ends the worker in the middle of an item; false if that has ended, or has not started.
    fn stop_running(&mut self, slot: usize, item: u32, error: Error) -> bool {
        let Some(worker) = self.slots[slot].worker_mut() else {
            return false;
        };
        let behind = worker.revoke(item.wrapping_add(1));
        // What is left behind it has started: then this one has ended, and its reply is not read
        // yet.
        let runs = worker.is_running(item) && worker.items == 1;
        if !runs {
            // What runs instead may be limited, too: look again when the reply has been read.
            let mut left = worker.in_flight.iter();
            let any_limited = left.any(|it| it.work_item.config().timeout.is_some());
            worker.check_timeout_at = any_limited.then(Io::now);
        } else if let Some(earlier) = &mut worker.stop_request {
            // It was told to end already: its grace goes on, and a kill counts more than a limit.
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
        self.requeue_front(behind);
        runs
    }

    /// Cancels a call, also while it runs; false if it is done otherwise.
    pub(crate) fn kill(&mut self, task: &Arc<Task>, wakeups: &mut Wakeups) -> bool {
        if self.cancel(task, wakeups) {
            return true;
        }
        let TaskLocation::InFlight(slot, item) = task.location() else {
            return false;
        };
        // It may have an outcome that nobody has read.
        self.read_replies(slot, wakeups);
        if task.is_done() {
            return task.is_cancelled();
        }
        if task.location() == TaskLocation::Queued {
            // It has failed just now, and was to be tried again.
            return self.cancel(task, wakeups);
        }
        self.stop_running(slot, item, err_killed())
    }

    /// Cancels a map, also those of its items that run; false if it is done.
    pub(crate) fn kill_map(
        &mut self,
        task: &Task,
        map: &Arc<MapState>,
        wakeups: &mut Wakeups,
    ) -> bool {
        if task.is_done() {
            return task.is_cancelled();
        }
        map.cancel_from(0);
        self.sweep_cancelled(wakeups);
        for slot in 0..self.slots.len() {
            self.read_replies(slot, wakeups);
            let worker = self.slots[slot].worker();
            let front = worker.and_then(|it| it.in_flight.front());
            if let Some(sent) = front.filter(|it| it.work_item.belongs_to(map)) {
                let item = sent.item;
                self.stop_running(slot, item, err_killed());
            }
        }
        !task.is_done() || task.is_cancelled()
    }

    /// Asks a call that runs to stop by itself.
    pub(crate) fn request_stop(&self, task: &Task) {
        if let TaskLocation::InFlight(slot, item) = task.location()
            && let Some(worker) = self.slots.get(slot).and_then(Slot::worker)
            && worker.is_running(item)
        {
            worker.page.request_stop(item);
        }
    }
}

fn err_killed() -> Error {
    Error::new(err_cancelled().kind(), "the task was killed while it ran")
}

impl<Io: WorkerIo> WorkerHandle<Io> {
    /// The item that runs longer than it may, and the limit; else notes when to look again.
    fn overdue(&mut self, now: Instant) -> Option<(u32, Duration)> {
        let limits = self.in_flight.iter();
        let shortest = limits.filter_map(|it| it.work_item.config().timeout).min();
        self.check_timeout_at =
            shortest.map(|it| now + it.clamp(TIMEOUT_POLL_INTERVAL, MAX_POLL_INTERVAL));
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
