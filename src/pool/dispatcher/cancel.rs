//! What callers ask for: submitting, cancelling, stopping.

use super::{Phase, Slot, State, cancelled, closed};
use crate::error::Error;
use crate::pool::{
    batch::Batch,
    link::is_before,
    task::{Place, Task, Told},
    unit::Unit,
};
use std::{mem, sync::Arc};

/// Items shorter than this are gathered before they are written, and not worth moving to another worker one by one.
const TINY_NANOS: u64 = 20_000;

impl State {
    /// Why no task is taken, if none is.
    pub(in crate::pool) fn refusal(&self) -> Option<Error> {
        match &self.phase {
            Phase::Open => None,
            Phase::Closed => Some(closed()),
            Phase::Ending(error) | Phase::Ended(error) => Some(error.clone()),
        }
    }

    /// Takes a unit that was just submitted. The pool must be open.
    pub(in crate::pool) fn submit(&mut self, unit: Unit, told: &mut Told) {
        self.outstanding += u64::from(unit.count());
        self.hire();
        let overtakes = self.overtakes(unit.priority());
        self.queue.push_back(unit);
        if overtakes {
            return self.settle(told);
        }
        // With a queue, every worker is full: whoever leads refills them.
        if self.queue.len() > 1 {
            return;
        }
        let gather = self.item_nanos.is_some_and(|it| it < TINY_NANOS);
        if let Some(slot) = self.refill_one(told)
            && let Some(link) = self.slots[slot].link_mut()
            // What stays staged behind items in flight is written when they are answered: their worker rings.
            && (!gather || link.in_flight.len() == 1 || link.has_a_batch())
        {
            self.flush(slot);
        }
    }

    /// Takes back what was sent ahead and is less urgent than this, if there can be any such thing: true.
    fn overtakes(&mut self, priority: i32) -> bool {
        if priority <= self.lowest_priority {
            self.lowest_priority = priority;
            return false;
        }
        for slot in 0..self.slots.len() {
            self.take_back_if(slot, |it| it.priority() < priority);
        }
        true
    }

    /// Takes back what a worker has not started, from the first unit on for which this holds.
    pub(super) fn take_back_if(&mut self, slot: usize, is_first: impl Fn(&Unit) -> bool) {
        let Some(link) = self.slots[slot].link_mut() else {
            return;
        };
        let first = link.in_flight.iter().find(|it| is_first(&it.unit));
        if let Some(item) = first.map(|it| it.item) {
            let units = link.take_back(item);
            self.put_back(units);
        }
    }

    /// Does what follows from a change that a caller made.
    pub(in crate::pool) fn settle(&mut self, told: &mut Told) {
        self.refill(told);
        self.flush_all();
    }

    /// Takes no more tasks.
    pub(in crate::pool) fn close(&mut self) {
        if let Phase::Open = self.phase {
            self.phase = Phase::Closed;
        }
    }

    /// Cancels a call that has not started; false if it has.
    pub(in crate::pool) fn cancel(&mut self, task: &Arc<Task>, told: &mut Told) -> bool {
        if task.is_done() {
            return task.is_cancelled();
        }
        if let Place::Worker(slot, item) = task.place() {
            let Some(link) = self.slots[slot].link_mut() else {
                return false;
            };
            let units = link.take_back(item);
            self.put_back(units);
        }
        if task.place() != Place::Queue {
            self.request_stop(task);
            return false;
        }
        let outcome = Err(cancelled());
        self.counts.add(&outcome, 1);
        task.complete(outcome, told);
        self.outstanding -= 1;
        let is_it = |it: &Unit| matches!(it, Unit::Call(queued) if Arc::ptr_eq(queued, task));
        match self.delayed.iter().position(|it| is_it(&it.1)) {
            Some(at) => drop(self.delayed.swap_remove(at)),
            None => self.queue.forget_one(),
        }
        true
    }

    /// Cancels a whole map of which no item has started; false if one has.
    pub(in crate::pool) fn cancel_batch(
        &mut self,
        task: &Task,
        batch: &Arc<Batch>,
        told: &mut Told,
    ) -> bool {
        if task.is_done() {
            return task.is_cancelled();
        }
        // First nothing more can start, then it is certain what has.
        for slot in 0..self.slots.len() {
            self.take_back_if(slot, |it| it.is_of(batch));
        }
        let has_started = self.has_batch_started(batch);
        if !has_started {
            batch.cancel_from(0);
            self.sweep_cancelled(told);
        }
        !has_started
    }

    /// Whether an item of this map has started.
    pub(in crate::pool) fn has_batch_started(&self, batch: &Arc<Batch>) -> bool {
        let running = self.slots.iter().filter_map(Slot::link).any(|link| {
            let started = link.page.started();
            link.in_flight
                .iter()
                .any(|it| it.unit.is_of(batch) && is_before(it.item, started))
        });
        running || batch.has_outcomes()
    }

    /// Drops every item that was cancelled and has not started, wherever it is.
    pub(in crate::pool) fn sweep_cancelled(&mut self, told: &mut Told) {
        for slot in 0..self.slots.len() {
            self.take_back_if(slot, |it| it.wanted() < it.count());
        }
        for unit in self.queue.take() {
            if let Some(unit) = self.drop_cancelled(unit, told) {
                self.queue.push_back(unit);
            }
        }
        for (at, unit) in mem::take(&mut self.delayed) {
            if let Some(unit) = self.drop_cancelled(unit, told) {
                self.delayed.push((at, unit));
            }
        }
    }

    /// Whether the item of this call has started.
    pub(in crate::pool) fn has_started(&self, task: &Task) -> bool {
        let Place::Worker(slot, item) = task.place() else {
            return false;
        };
        let link = self.slots.get(slot).and_then(Slot::link);
        link.is_some_and(|it| is_before(item, it.page.started()))
    }

    /// Cancels what has not started.
    pub(in crate::pool) fn cancel_pending(&mut self, told: &mut Told) {
        for slot in 0..self.slots.len() {
            self.take_back_if(slot, |_| true);
        }
        for unit in self.take_waiting() {
            self.finish(&unit, Err(cancelled()), told);
        }
    }

    /// Takes all that is queued, also what waits for another try.
    fn take_waiting(&mut self) -> Vec<Unit> {
        let delayed = mem::take(&mut self.delayed).into_iter().map(|it| it.1);
        self.queue.take().chain(delayed).collect()
    }

    /// Fails everything, now, and has the workers end: at once, or with a grace for those that are busy.
    pub(in crate::pool) fn stop(&mut self, error: &Error, at_once: bool, told: &mut Told) {
        if let Phase::Ended(_) = self.phase {
            return;
        }
        for unit in self.take_waiting() {
            self.finish(&unit, Err(error.clone()), told);
        }
        for slot in 0..self.slots.len() {
            let Some(link) = self.slots[slot].link_mut() else {
                continue;
            };
            if at_once {
                link.kill();
            } else {
                link.terminate();
            }
            self.wants_start |= link.is_refused();
            link.items = 0;
            for sent in mem::take(&mut link.in_flight) {
                self.finish(&sent.unit, Err(error.clone()), told);
            }
        }
        self.end(error.clone());
    }
}
