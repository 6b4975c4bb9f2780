//! Items that are stopped while they run, by the end of their workers: those that are out of time, and those that were killed.
//!
//! A signal must hit the item that it is meant for. So first everything behind it is taken back, which is one
//! compare-and-swap; then it is checked that this item runs; then the worker is told to end, and gets nothing more. If the item
//! ends in between, its result counts, and an idle worker ends.

use super::{Slot, State, cancelled};
use crate::error::{Error, ErrorKind};
use crate::pool::{
    batch::Batch,
    link::{LONGEST_LOOK, Link, Verdict},
    task::{Place, Task, Told},
    unit::Unit,
};
use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a task may go on after SIGTERM, if it handles that, before SIGKILL.
const GRACE: Duration = Duration::from_secs(1);

/// How often it is looked at the most whether an item with a limit has started.
const LOOK: Duration = Duration::from_millis(2);

/// With items in flight the pool looks once in [`LONGEST_LOOK`]. If it has not for so much longer, the program was stopped, by
/// Ctrl-Z say, and with it its workers: that does not count against limits of time.
const STANDSTILL: Duration = Duration::from_secs(2);

impl State {
    /// Stops what is out of time, and kills what has not ended within its grace.
    pub(super) fn watch_the_clock(&mut self) {
        let now = Instant::now();
        let away = now.duration_since(mem::replace(&mut self.watched, now));
        for slot in 0..self.slots.len() {
            let Some(link) = self.slots[slot].link_mut() else {
                continue;
            };
            link.enforce(now);
            self.wants_start |= link.is_refused();
            link.see_what_runs(now);
            if away >= STANDSTILL {
                link.excuse(away);
            }
            if link.is_deaf(now) {
                link.kill();
                self.wants_start |= link.is_refused();
            }
            let Some(due) = link.due else { continue };
            if due <= now
                && let Some((item, limit)) = link.overdue(now)
            {
                let message = format!("the task ran longer than its limit of {limit:?}");
                self.condemn(slot, item, Error::new(ErrorKind::TimedOut, message));
            }
        }
    }

    /// Ends the worker in the middle of an item; false if that has ended, or has not started.
    fn condemn(&mut self, slot: usize, item: u32, error: Error) -> bool {
        let Some(link) = self.slots[slot].link_mut() else {
            return false;
        };
        let behind = link.take_back(item.wrapping_add(1));
        // What is left behind it has started: then this one has ended, and its reply is not read yet.
        let runs = link.runs(item) && link.items == 1;
        if !runs {
            // What runs instead may be limited, too: look again when the reply has been read.
            let mut left = link.in_flight.iter();
            let any_limited = left.any(|it| it.unit.demands().timeout.is_some());
            link.due = any_limited.then(Instant::now);
        } else if let Some(earlier) = &mut link.verdict {
            // It was told to end already: its grace goes on, and a kill counts more than a limit.
            if error.kind() == ErrorKind::Cancelled {
                earlier.error = error;
            }
        } else {
            link.stop(Verdict {
                item,
                error,
                kill_at: Some(Instant::now() + GRACE),
            });
            self.wants_start |= link.is_refused();
        }
        self.put_back(behind);
        runs
    }

    /// Cancels a call, also while it runs; false if it is done otherwise.
    pub(in crate::pool) fn kill(&mut self, task: &Arc<Task>, told: &mut Told) -> bool {
        if self.cancel(task, told) {
            return true;
        }
        let Place::Worker(slot, item) = task.place() else {
            return false;
        };
        // It may have an outcome that nobody has read.
        self.read_replies(slot, told);
        if task.is_done() {
            return task.is_cancelled();
        }
        if task.place() == Place::Queue {
            // It has failed just now, and was to be tried again.
            return self.cancel(task, told);
        }
        self.condemn(slot, item, killed())
    }

    /// Cancels a map, also those of its items that run; false if it is done.
    pub(in crate::pool) fn kill_batch(
        &mut self,
        task: &Task,
        batch: &Arc<Batch>,
        told: &mut Told,
    ) -> bool {
        if task.is_done() {
            return task.is_cancelled();
        }
        batch.cancel_from(0);
        self.sweep_cancelled(told);
        for slot in 0..self.slots.len() {
            self.read_replies(slot, told);
            let link = self.slots[slot].link();
            let front = link.and_then(|it| it.in_flight.front());
            if let Some(sent) = front.filter(|it| it.unit.is_of(batch)) {
                let item = sent.item;
                self.condemn(slot, item, killed());
            }
        }
        !task.is_done() || task.is_cancelled()
    }

    /// Asks a call that runs to stop by itself.
    pub(super) fn request_stop(&self, task: &Task) {
        if let Place::Worker(slot, item) = task.place()
            && let Some(link) = self.slots.get(slot).and_then(Slot::link)
            && link.runs(item)
        {
            link.page.request_stop(item);
        }
    }
}

fn killed() -> Error {
    Error::new(cancelled().kind(), "the task was killed while it ran")
}

impl Link {
    /// The item that runs longer than it may, and the limit; else notes when to look again.
    fn overdue(&mut self, now: Instant) -> Option<(u32, Duration)> {
        let limits = self.in_flight.iter();
        let shortest = limits.filter_map(|it| it.unit.demands().timeout).min();
        self.due = shortest.map(|it| now + it.clamp(LOOK, LONGEST_LOOK));
        let front = self.in_flight.front()?;
        let (item, limit) = (front.item, front.unit.demands().timeout?);
        let age = self.age(now)?;
        if age < limit {
            let left = now + (limit - age).min(LONGEST_LOOK);
            self.due = self.due.into_iter().chain([left]).min();
            return None;
        }
        self.due = None;
        Some((item, limit))
    }
}

impl Unit {
    pub(super) fn is_of(&self, batch: &Arc<Batch>) -> bool {
        matches!(self, Self::Items(it) if Arc::ptr_eq(&it.chunk.batch, batch))
    }
}
