//! Workers that leave in good order: when they have done their share, take up too much memory, or are too many.
//!
//! A worker that leaves gets nothing more, and ends when it has answered what it has. Where another is to follow it, that one is
//! started at once, in a slot of its own, and waits for the first to be done: so the pool has all its workers all the time, and
//! never more of them at work.

use super::{Phase, Slot, State};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::stats::RestartReason;
use std::time::{Duration, Instant};

/// A worker's place besides its slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The worker's number, as it knows it.
    pub(super) worker: usize,
    /// The slot of the one that it follows, until that has ended.
    pub(super) follows: Option<usize>,
}

/// Workers that a pool may have: as many processes as a system has by default, and more.
pub(in crate::pool) const MOST_WORKERS: usize = 1 << 16;

/// How long workers stay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::pool) struct Stay {
    /// Items after which a worker is replaced.
    pub(in crate::pool) tasks: Option<u64>,
    /// Bytes of resident memory above which it is.
    pub(in crate::pool) memory: Option<u64>,
    /// Time with nothing to do after which a worker ends, until there is work for it.
    pub(in crate::pool) idle: Option<Duration>,
}

impl State {
    /// The number of the worker in a slot.
    pub(in crate::pool) fn worker_in(&self, slot: usize) -> usize {
        self.places[slot].worker
    }

    /// Whether the worker in this slot has to wait until the one before it is done.
    pub(super) fn must_wait(&self, slot: usize) -> bool {
        let before = self.places[slot].follows;
        let link = before.and_then(|it| self.slots[it].link());
        link.is_some_and(|it| it.items > 0)
    }

    /// Has a worker leave, and another follow it.
    pub(super) fn replace(&mut self, slot: usize, reason: RestartReason) {
        let Some(link) = self.slots[slot].link_mut().filter(|it| !it.is_leaving) else {
            return;
        };
        link.is_leaving = true;
        if let Phase::Open | Phase::Closed = self.phase {
            let worker = self.places[slot].worker;
            self.counts.restarted(reason);
            self.add_place(Place {
                worker,
                follows: Some(slot),
            });
        }
    }

    /// Has a worker leave that takes up too much memory; what has not started there goes elsewhere.
    pub(super) fn replace_full(&mut self, slot: usize) {
        self.replace(slot, RestartReason::Memory);
        self.take_back_if(slot, |_| true);
    }

    /// Opens a slot that is to be filled now.
    fn add_place(&mut self, place: Place) {
        let free = self.slots.iter().position(|it| matches!(it, Slot::Retired));
        let slot = free.unwrap_or(self.slots.len());
        if slot == self.slots.len() {
            self.slots.push(Slot::Retired);
            self.places.push(place);
            self.failures.push(0);
        }
        self.slots[slot] = Slot::Vacant(Instant::now());
        (self.places[slot], self.failures[slot]) = (place, 0);
        self.wants_start = true;
    }

    /// Notes that a slot is empty for good.
    pub(super) fn retire(&mut self, slot: usize) {
        self.slots[slot] = Slot::Retired;
        for place in &mut self.places {
            place.follows.take_if(|it| *it == slot);
        }
    }

    /// Lets workers go that leave and are done.
    pub(super) fn dismiss(&mut self) {
        for slot in &mut self.slots {
            if let Slot::Running(link) = slot
                && link.is_leaving
                && link.items == 0
                && link.requests.is_some()
            {
                link.requests.iter().for_each(|it| self.events.remove(it));
                link.say_goodbye();
            }
        }
    }

    /// Slots with a worker that stays, or one that comes.
    fn staying(&self) -> Vec<usize> {
        let slots = 0..self.slots.len();
        slots.filter(|it| self.slots[*it].stays()).collect()
    }

    /// Has the pool keep so many workers.
    pub(in crate::pool) fn resize(&mut self, workers: usize) -> Result<()> {
        if !(1..=MOST_WORKERS).contains(&workers) {
            let message = format!(
                "a pool cannot be resized to {workers} workers: it has at least 1 and at most {MOST_WORKERS}"
            );
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        self.target = workers;
        self.fill_up_to(workers);
        self.let_surplus_go();
        Ok(())
    }

    /// Opens places for workers until so many stay or come.
    fn fill_up_to(&mut self, workers: usize) {
        // Asked with each task: most find nothing to do.
        if self.slots.iter().filter(|it| it.stays()).count() >= workers {
            return;
        }
        let staying = self.staying();
        let numbers: Vec<usize> = staying.iter().map(|it| self.places[*it].worker).collect();
        let new = (0..).filter(|it| !numbers.contains(it));
        for worker in new.take(workers.saturating_sub(numbers.len())) {
            self.add_place(Place {
                worker,
                follows: None,
            });
        }
    }

    /// Has workers come again that had ended for want of work, as many as there is work for.
    pub(super) fn hire(&mut self) {
        if self.stay.idle.is_some()
            && self.outstanding > 0
            && let Phase::Open | Phase::Closed = self.phase
        {
            // Not for what waits for another try: they would have nothing to do until then, end, and be hired again.
            let waiting: u64 = self.delayed.iter().map(|it| u64::from(it.1.count())).sum();
            let useful =
                usize::try_from(self.outstanding.saturating_sub(waiting)).unwrap_or(usize::MAX);
            self.fill_up_to(self.target.min(useful));
        }
    }

    /// Has workers leave that have had nothing to do for as long as they stay then.
    pub(super) fn let_the_idle_go(&mut self) {
        let Some(limit) = self.stay.idle else {
            return;
        };
        let now = Instant::now();
        for link in self.links().filter(|it| it.items == 0 && it.is_ready) {
            link.idle_until = link.idle_until.or_else(|| now.checked_add(limit));
            link.is_leaving |= link.idle_until.is_some_and(|it| it <= now);
        }
    }

    /// Has workers leave that are too many: first those that have yet to come, then the idle, then those with the highest number.
    pub(super) fn let_surplus_go(&mut self) {
        let mut staying = self.staying();
        let rank = |slot: &usize| match &self.slots[*slot] {
            Slot::Vacant(_) => (0, 0),
            Slot::Starting | Slot::Retired => (1, 0),
            Slot::Running(link) => (2, link.items),
        };
        staying.sort_by_key(|it| (rank(it), usize::MAX - self.places[*it].worker));
        let surplus = staying.len().saturating_sub(self.target);
        for slot in staying.into_iter().take(surplus) {
            match &mut self.slots[slot] {
                Slot::Vacant(_) => self.retire(slot),
                Slot::Running(link) => {
                    link.is_leaving = true;
                    self.take_back_if(slot, |_| true);
                }
                // It is let go when it has come.
                Slot::Starting | Slot::Retired => {}
            }
        }
    }
}
