//! Which worker gets what next, and who fills an empty place.

use super::{Slot, State, cancelled};
use crate::pool::{link::Link, stats::RestartReason, task::Told, unit::Unit};
use std::{mem, time::Instant};

/// Work that is sent ahead to a busy worker: enough to outlast a wake-up of the pool.
const AHEAD_NANOS: u64 = 5_000_000;

/// Items in flight at most, unless one chunk holds more.
const MOST_AHEAD: u64 = 128;

/// Units in flight that are always allowed: one runs, one waits.
const LEAST_AHEAD: u64 = 2;

/// Items shorter than this are gathered before they are written, and not worth moving to another worker one by one.
const TINY_NANOS: u64 = 20_000;

impl State {
    /// A place that is to be filled now; the caller starts a worker for it.
    pub(in crate::pool) fn take_vacancy(&mut self) -> Option<usize> {
        let now = Instant::now();
        let is_due = |slot: &Slot| matches!(slot, Slot::Vacant(at) if *at <= now);
        let slot = self.slots.iter().position(is_due)?;
        self.slots[slot] = Slot::Starting;
        Some(slot)
    }

    /// Whether a place is to be filled, now or later.
    pub(in crate::pool) fn has_vacancies(&self) -> bool {
        self.slots.iter().any(|it| matches!(it, Slot::Vacant(_)))
    }

    /// Stages what is queued for the workers that have the least to do.
    pub(super) fn refill(&mut self, told: &mut Told) {
        while self.refill_one(told).is_some() {}
    }

    /// Stages the next unit, and says for whom; none when there is none, or nobody for it.
    pub(super) fn refill_one(&mut self, told: &mut Told) -> Option<usize> {
        if self.queue.is_empty() {
            return None;
        }
        let slot = self.least_busy()?;
        let unit = self.queue.pop_front()?;
        if let Some(mut unit) = self.drop_cancelled(unit, told) {
            let link = self.slots[slot].link_mut()?;
            let share = link.quota.map(|it| u32::try_from(it).unwrap_or(u32::MAX));
            let rest = share.and_then(|it| unit.split_off(it));
            if let Some(rest) = rest {
                self.queue.push_front(rest);
            }
            let link = self.slots[slot].link_mut()?;
            match link.stage(slot, unit) {
                Ok(()) if link.quota == Some(0) => self.replace(slot, RestartReason::Tasks),
                Ok(()) => {}
                Err((unit, Some(error))) => self.fail(&unit, error, told),
                // It is buried soon; another takes the unit.
                Err((unit, None)) => self.queue.push_front(unit),
            }
        }
        Some(slot)
    }

    /// The worker with the fewest items in flight that may have more. One that is not ready, as its initializer may take long,
    /// gets nothing as long as another is.
    fn least_busy(&mut self) -> Option<usize> {
        let ahead = self
            .item_nanos
            .map_or(LEAST_AHEAD, |it| AHEAD_NANOS / it.max(1));
        let most = ahead.clamp(LEAST_AHEAD, MOST_AHEAD) as u32;
        let (mut best, mut any_ready) = (None, false);
        for number in 0..self.slots.len() {
            if self.must_wait(number) {
                continue;
            }
            let Slot::Running(link) = &mut self.slots[number] else {
                continue;
            };
            let is_ready = link.is_ready && link.takes_more();
            any_ready |= is_ready;
            let has_room = link.items < most || link.in_flight.len() < LEAST_AHEAD as usize;
            let better =
                best.is_none_or(|(_, unready, items)| (!is_ready, link.items) < (unready, items));
            if has_room && better && link.is_open() {
                best = Some((number, !is_ready, link.items));
                if is_ready && link.items == 0 {
                    break;
                }
            }
        }
        best.filter(|it| !any_ready || !it.1).map(|it| it.0)
    }

    /// Notes that a worker takes items from now on; what was sent ahead to others that do not yet is anybody's again.
    pub(super) fn note_ready(&mut self, slot: usize) -> Option<()> {
        let is_ready = &mut self.slots[slot].link_mut()?.is_ready;
        if mem::replace(is_ready, true) {
            // It says so once.
            return None;
        }
        for other in 0..self.slots.len() {
            // One that has said so by its pipe may run its first item by now, and hide that.
            let link = self.slots[other].link_mut();
            if link.is_some_and(|it| !it.was_ready()) {
                self.take_back_if(other, |_| true);
            }
        }
        Some(())
    }

    /// Gives workers with nothing to do what was sent ahead to others.
    pub(super) fn feed_the_idle(&mut self, told: &mut Told) {
        // Each time one of them at least gets something.
        for _ in 0..self.slots.len() {
            if !self.queue.is_empty() || self.outstanding <= 1 {
                return;
            }
            let idle = self.count_idle();
            if idle == 0 || !self.share_with(idle, told) {
                return;
            }
        }
    }

    /// Workers that are ready, may have more, and have nothing to do.
    fn count_idle(&mut self) -> usize {
        let mut idle = 0;
        for slot in 0..self.slots.len() {
            let may_work = !self.must_wait(slot);
            let is_idle = |it: &mut Link| it.is_ready && it.items == 0 && it.is_open();
            idle += usize::from(may_work && self.slots[slot].link_mut().is_some_and(is_idle));
        }
        idle
    }

    /// Shares with so many idle workers what was sent ahead to the one with the most of it; false if there is nothing to share.
    fn share_with(&mut self, idle: usize, told: &mut Told) -> bool {
        let tiny = self.item_nanos.is_some_and(|it| it < TINY_NANOS);
        let nanos = self.item_nanos.unwrap_or(TINY_NANOS);
        // One with a single item is about to start it, and hides nothing.
        let rich = self.links().filter(|it| it.items > 1 && it.unstarted() > 0);
        let Some(link) = rich.max_by_key(|it| it.unstarted()) else {
            return false;
        };
        let worth_it =
            !tiny || link.is_stuck() || u64::from(link.unstarted()) * nanos >= TINY_NANOS;
        if !worth_it {
            return false;
        }
        // The first stays where it is: it runs, or is about to.
        let Some(front) = link.front() else {
            return false;
        };
        let units = link.take_back(front.wrapping_add(1));
        let total: u32 = units.iter().map(Unit::count).sum();
        let share = total.div_ceil(idle as u32 + 1).max(1);
        for mut unit in units {
            while let Some(rest) = unit.split_off(share) {
                self.queue.push_back(mem::replace(&mut unit, rest));
            }
            self.queue.push_back(unit);
        }
        self.refill(told);
        total > 0
    }

    /// Puts units before everything that is queued, in their order.
    pub(super) fn put_back(&mut self, units: Vec<Unit>) {
        for unit in units.into_iter().rev() {
            self.queue.push_front(unit);
        }
    }

    /// Ends what of a unit is cancelled, and gives what is not.
    pub(super) fn drop_cancelled(&mut self, mut unit: Unit, told: &mut Told) -> Option<Unit> {
        match unit.wanted() {
            0 => {
                self.finish(&unit, Err(cancelled()), told);
                None
            }
            wanted => {
                if let Some(rest) = unit.split_off(wanted) {
                    self.finish(&rest, Err(cancelled()), told);
                }
                Some(unit)
            }
        }
    }

    /// Has every worker drop a map's context.
    pub(in crate::pool) fn drop_context(&mut self, id: u32) {
        self.links().for_each(|it| it.drop_context(id));
    }
}
