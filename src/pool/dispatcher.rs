//! Who runs what: the queue, the workers' places, and everything that happens to them. See README.md in this folder.
//!
//! One lock guards it all. Nothing here blocks while it is held: pipes are non-blocking, workers are started without it,
//! and the user's code (wakers, callbacks, decoding) runs when it has been let go.

use super::{
    batch::{Batch, Part, Values},
    link::{Link, Unit},
    page::{Page, RecordHead, Tag},
    payload::{Payload, PoolSlabs},
    protocol::{Fault, InSlab},
    task::{Body, Place, Task, Told},
};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::Cursor;
use crate::sys::poll::{Interest, Set};
use crate::wire::codec;
use std::{
    collections::VecDeque,
    mem,
    sync::Arc,
    thread::Thread,
    time::{Duration, Instant},
};

/// Work that is sent ahead to a busy worker: enough to outlast a wake-up of the pool.
const AHEAD_NANOS: u64 = 1_000_000;

/// Items in flight at most, unless one chunk holds more.
const MOST_AHEAD: u64 = 128;

/// Units in flight that are always allowed: one runs, one waits.
const LEAST_AHEAD: u64 = 2;

/// Items shorter than this are gathered before they are written, and not worth moving to another worker one by one.
const TINY_NANOS: u64 = 20_000;

/// Replies to shorter items are worth gathering before a sleeping pool is woken for them.
const SHORT_NANOS: u64 = 500_000;

/// How long workers may take to end after they were told to.
const GRACE: Duration = Duration::from_secs(2);

/// Failed starts in a row, in one place, after which a pool without a living worker is broken.
const MOST_FAILURES: u32 = 6;

/// The pause after the first failed start; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest pause between starts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A worker's place in the pool.
#[derive(Debug)]
pub(super) enum Slot {
    Running(Box<Link>),
    /// To be filled at this time.
    Vacant(Instant),
    /// Being filled, by whoever has the number.
    Starting,
    /// Not to be filled again.
    Retired,
}

impl Slot {
    pub(super) fn link(&self) -> Option<&Link> {
        match self {
            Self::Running(link) => Some(link),
            _ => None,
        }
    }

    fn link_mut(&mut self) -> Option<&mut Link> {
        match self {
            Self::Running(link) => Some(link),
            _ => None,
        }
    }
}

/// How far the pool is with its life.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// Takes tasks.
    Open,
    /// Takes no more, and finishes those it has.
    Closed,
    /// Nothing is left to do; workers end. What is submitted fails with this.
    Ending(Error),
    /// No worker is left.
    Ended(Error),
}

/// Everything the lock guards.
#[derive(Debug)]
pub(super) struct State {
    pub(super) phase: Phase,
    queue: VecDeque<Unit>,
    pub(super) slots: Vec<Slot>,
    /// Items queued or in flight.
    pub(super) outstanding: u64,
    /// Nanoseconds an item takes, a moving average.
    item_nanos: Option<u64>,
    /// Starts that failed in each place since the last that did not.
    failures: Vec<u32>,
    /// When workers that were told to end are killed.
    kill_at: Option<Instant>,
    /// Threads that wait and could lead.
    pub(super) followers: Vec<Thread>,
    /// Whether a caller leads.
    pub(super) is_led: bool,
    /// Whether that caller sleeps, and must be woken for what others do.
    pub(super) leader_sleeps: bool,
    /// Whether the background thread would notice an event.
    pub(super) is_armed: bool,
    /// Whether it will look soon in any case, as the caller that led may lead again before.
    pub(super) is_relieved: bool,
    /// Counts changes of the workers.
    pub(super) changes: u64,
    /// Records on their way from a ring to their tasks.
    records: Vec<u8>,
    slabs: Arc<PoolSlabs>,
    events: Arc<Set>,
    /// When the background thread wakes by itself, or by when it is on its way to see to that.
    pub(super) timer: Option<Instant>,
}

impl State {
    pub(super) fn new(workers: usize, slabs: Arc<PoolSlabs>, events: Arc<Set>) -> Self {
        Self {
            phase: Phase::Open,
            queue: VecDeque::new(),
            slots: (0..workers).map(|_| Slot::Starting).collect(),
            outstanding: 0,
            item_nanos: None,
            failures: vec![0; workers],
            kill_at: None,
            followers: Vec::new(),
            is_led: false,
            leader_sleeps: false,
            is_armed: true,
            is_relieved: false,
            changes: 0,
            records: Vec::new(),
            slabs,
            events,
            timer: None,
        }
    }

    // ---- what callers ask for -------------------------------------------------------------------

    /// Why no task is taken, if none is.
    pub(super) fn refusal(&self) -> Option<Error> {
        match &self.phase {
            Phase::Open => None,
            Phase::Closed => Some(closed()),
            Phase::Ending(error) | Phase::Ended(error) => Some(error.clone()),
        }
    }

    /// Takes a unit that was just submitted. The pool must be open.
    pub(super) fn submit(&mut self, unit: Unit, told: &mut Told) {
        self.outstanding += u64::from(unit.count());
        self.queue.push_back(unit);
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

    /// Does what follows from a change that a caller made.
    pub(super) fn settle(&mut self, told: &mut Told) {
        self.refill(told);
        self.flush_all();
    }

    /// Takes no more tasks.
    pub(super) fn close(&mut self) {
        if let Phase::Open = self.phase {
            self.phase = Phase::Closed;
        }
    }

    /// Cancels a call that has not started; false if it has.
    pub(super) fn cancel(&mut self, task: &Arc<Task>, told: &mut Told) -> bool {
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
            return false;
        }
        let before = self.queue.len();
        self.queue
            .retain(|it| !matches!(it, Unit::Call(queued) if Arc::ptr_eq(queued, task)));
        self.outstanding -= (before - self.queue.len()) as u64;
        task.complete(Err(cancelled()), told);
        true
    }

    /// Cancels a whole map of which no item has started; false if one has.
    pub(super) fn cancel_batch(
        &mut self,
        task: &Task,
        batch: &Arc<Batch>,
        told: &mut Told,
    ) -> bool {
        if task.is_done() {
            return task.is_cancelled();
        }
        // First nothing more can start, then it is certain what has.
        for link in self.slots.iter_mut().filter_map(Slot::link_mut) {
            let first = link
                .in_flight
                .iter()
                .find(|it| is_of(&it.unit, batch))
                .map(|it| it.item);
            let units = first.map(|it| link.take_back(it)).unwrap_or_default();
            units
                .into_iter()
                .rev()
                .for_each(|it| self.queue.push_front(it));
        }
        let has_started = self.has_batch_started(batch);
        if has_started {
            self.refill(told);
        } else {
            batch.cancel_from(0);
            self.sweep_cancelled(told);
        }
        !has_started
    }

    /// Whether an item of this map has started.
    pub(super) fn has_batch_started(&self, batch: &Arc<Batch>) -> bool {
        let running = self.slots.iter().filter_map(Slot::link).any(|link| {
            let started = link.page.started();
            link.in_flight
                .iter()
                .any(|it| is_of(&it.unit, batch) && is_before(it.item, started))
        });
        running || batch.has_outcomes()
    }

    /// Drops every item that was cancelled and has not started, wherever it is.
    pub(super) fn sweep_cancelled(&mut self, told: &mut Told) {
        for slot in 0..self.slots.len() {
            let Some(link) = self.slots[slot].link_mut() else {
                continue;
            };
            let first = link
                .in_flight
                .iter()
                .find(|it| it.unit.wanted() < it.unit.count());
            if let Some(item) = first.map(|it| it.item) {
                let units = link.take_back(item);
                self.put_back(units);
            }
        }
        for unit in mem::take(&mut self.queue) {
            if let Some(unit) = self.drop_cancelled(unit, told) {
                self.queue.push_back(unit);
            }
        }
    }

    /// Whether the item of this call has started.
    pub(super) fn has_started(&self, task: &Task) -> bool {
        let Place::Worker(slot, item) = task.place() else {
            return false;
        };
        let link = self.slots.get(slot).and_then(Slot::link);
        link.is_some_and(|it| is_before(item, it.page.started()))
    }

    /// Cancels what has not started.
    pub(super) fn cancel_pending(&mut self, told: &mut Told) {
        for slot in 0..self.slots.len() {
            if let Some(link) = self.slots[slot].link_mut()
                && let Some(front) = link.front()
            {
                let units = link.take_back(front);
                self.put_back(units);
            }
        }
        for unit in mem::take(&mut self.queue) {
            self.finish(&unit, Err(cancelled()), told);
        }
    }

    /// Fails everything, now, and has the workers end: at once, or with a grace for those that are busy.
    pub(super) fn stop(&mut self, error: &Error, at_once: bool, told: &mut Told) {
        if let Phase::Ended(_) = self.phase {
            return;
        }
        for unit in mem::take(&mut self.queue) {
            self.finish(&unit, Err(error.clone()), told);
        }
        for slot in 0..self.slots.len() {
            let Some(link) = self.slots[slot].link_mut() else {
                continue;
            };
            if at_once {
                link.pidfd.kill()
            } else {
                link.pidfd.terminate()
            }
            link.items = 0;
            for sent in mem::take(&mut link.in_flight) {
                self.finish(&sent.unit, Err(error.clone()), told);
            }
        }
        self.end(error.clone());
    }

    // ---- what happens ---------------------------------------------------------------------------

    /// Does everything that can be done now. Repeated calls change nothing until something happens.
    pub(super) fn progress(&mut self, told: &mut Told) {
        for slot in 0..self.slots.len() {
            self.read_replies(slot, told);
        }
        self.end_when_done();
        self.refill(told);
        self.feed_the_idle(told);
        for (bound_to, id) in self.slabs.take_dropped() {
            self.links().for_each(|link| link.drop_slab(&bound_to, id));
        }
        self.flush_all();
    }

    fn flush_all(&mut self) {
        for slot in 0..self.slots.len() {
            self.flush(slot);
        }
    }

    /// Writes what is staged for a worker, and has the rest written when its pipe has room.
    fn flush(&mut self, slot: usize) {
        let Some(link) = self.slots[slot].link_mut() else {
            return;
        };
        link.flush();
        let is_rest = link.has_unwritten();
        if let Some(requests) = &link.requests
            && is_rest != link.is_watched
        {
            let interest = if is_rest {
                Interest::Write
            } else {
                Interest::None
            };
            // It fails only for a descriptor that is not in the set.
            let _ = self
                .events
                .change(requests, token(slot, Source::Requests), interest);
            link.is_watched = is_rest;
        }
    }

    fn links(&mut self) -> impl Iterator<Item = &mut Link> {
        self.slots.iter_mut().filter_map(Slot::link_mut)
    }

    /// Gives a started worker its place.
    pub(super) fn install(&mut self, slot: usize, link: Link) -> std::io::Result<()> {
        self.events
            .add(&link.bell, token(slot, Source::Bell), Interest::Read)?;
        self.events
            .add(&link.pidfd, token(slot, Source::Death), Interest::Read)?;
        if let Some(requests) = &link.requests {
            self.events
                .add(requests, token(slot, Source::Requests), Interest::None)?;
        }
        self.slots[slot] = Slot::Running(Box::new(link));
        self.flush(slot);
        if let Phase::Ending(_) | Phase::Ended(_) = self.phase {
            // It has nothing to do, and whoever ends the pool may have killed the others already.
            self.links().for_each(|it| it.pidfd.kill());
        }
        Ok(())
    }

    /// Notes that a worker could not be started.
    pub(super) fn start_failed(&mut self, slot: usize, error: Error, told: &mut Told) {
        if let Phase::Ending(_) | Phase::Ended(_) = self.phase {
            self.slots[slot] = Slot::Retired;
            return;
        }
        self.vacate(slot, error, told);
    }

    /// Notes what a descriptor's readiness means.
    pub(super) fn notice(&mut self, token: u64) {
        let (slot, source) = ((token >> 2) as usize, token & 3);
        let Some(link) = self.slots.get_mut(slot).and_then(Slot::link_mut) else {
            return;
        };
        if source == Source::Bell as u64 {
            link.hear_bell();
        } else if source == Source::Death as u64 {
            // A number may be of the worker that was in this place before.
            if link.dead_since.is_none() && link.pidfd.is_dead() {
                link.dead_since = Some(Instant::now());
                // It stays readable: the status is waited for with a deadline, not with this.
                self.events.remove(&link.pidfd);
            }
            link.hear_bell();
        }
    }

    /// When there is something to do although nothing happens; `in_background`, starting workers too.
    pub(super) fn next_deadline(&self, in_background: bool) -> Option<Instant> {
        let places = self.slots.iter().filter_map(|slot| match slot {
            Slot::Vacant(at) => in_background.then_some(*at),
            Slot::Running(link) => link.status_due(),
            Slot::Starting | Slot::Retired => None,
        });
        places.chain(self.kill_at).min()
    }

    /// Has the workers ring, as whoever read their replies goes to sleep, and says by when to look without a bell.
    pub(super) fn fall_asleep(&self) -> Option<Instant> {
        let short = self.item_nanos.is_some_and(|it| it < SHORT_NANOS);
        let links = self.slots.iter().filter_map(Slot::link);
        links.filter_map(|it| it.fall_asleep(short)).min()
    }

    /// Whether something must be done soon even if nobody waits for it.
    pub(super) fn has_duties(&self) -> bool {
        let is_dying = |link: &Link| link.dead_since.is_some();
        self.kill_at.is_some() || self.slots.iter().filter_map(Slot::link).any(is_dying)
    }

    // ---- replies --------------------------------------------------------------------------------

    fn read_replies(&mut self, slot: usize, told: &mut Told) {
        let Some(link) = self.slots[slot].link_mut() else {
            return;
        };
        link.look();
        // Before the replies are read: what it wrote before its end is there then.
        let is_dead = link.is_dead();
        if link.page.has_records() {
            let mut records = mem::take(&mut self.records);
            records.clear();
            let sound = link.page.drain(&mut records).is_ok()
                && self.take_records(slot, &records, told).is_some();
            self.records = records;
            if !sound && let Some(link) = self.slots[slot].link_mut() {
                // A worker that writes nonsense is as good as dead, and soon is.
                link.pidfd.kill();
            }
        }
        if is_dead {
            self.bury(slot, told);
        }
    }

    /// Hands out records; none if they are not what this worker may write.
    fn take_records(&mut self, slot: usize, mut records: &[u8], told: &mut Told) -> Option<()> {
        let link = self.slots[slot].link_mut()?;
        let nanos = link.item_nanos();
        if let Some(nanos) = nanos {
            // A moving average over about eight looks.
            let average = self.item_nanos.map_or(nanos, |it| (it * 7 + nanos) / 8);
            self.item_nanos = Some(average);
        }
        while !records.is_empty() {
            let head = RecordHead::parse(records)?;
            let bytes = records.get(RecordHead::SIZE..)?.get(..head.length)?;
            match head.tag {
                Tag::Value | Tag::Fault | Tag::Slab => {
                    let used = self.take_reply(slot, head, records, nanos, told)?;
                    records = &records[used..];
                    continue;
                }
                Tag::Ready => {
                    self.slots[slot].link_mut()?.is_ready = true;
                    self.failures[slot] = 0;
                }
                Tag::SetupFault => self.break_down(&decode_fault(bytes)?, told),
                Tag::SlabGone => {
                    let id = u32::from_le_bytes(bytes.try_into().ok()?);
                    self.slots[slot].link_mut()?.forget_slab(id);
                }
            }
            records = &records[RecordHead::SIZE + head.length..];
        }
        Some(())
    }

    /// Hands out the reply at the start of `records`, and those behind it that belong to the same unit; says how many
    /// bytes that were.
    fn take_reply(
        &mut self,
        slot: usize,
        head: RecordHead,
        records: &[u8],
        nanos: Option<u64>,
        told: &mut Told,
    ) -> Option<usize> {
        let link = self.slots[slot].link_mut()?;
        if link.in_flight.is_empty() && !matches!(self.phase, Phase::Open | Phase::Closed) {
            // The pool was stopped, and nobody waits for this any more.
            return Some(RecordHead::SIZE + head.length);
        }
        let front = link.in_flight.front().filter(|it| it.item == head.item)?;
        let single = RecordHead::SIZE + head.length;
        let value = &records[RecordHead::SIZE..single];
        let (count, used) = match (front.unit.count(), head.tag) {
            (2.., Tag::Value) => run_length(head.item, front.unit.count(), records),
            _ => (1, single),
        };
        let outcome = match head.tag {
            Tag::Fault => Err(decode_fault(value)?.into_error()),
            Tag::Slab => {
                let InSlab { slab, length } = codec::decode(&mut Cursor::new(value)).ok()?;
                link.take_from_slab(slab, length).map(Values::One)
            }
            _ if count > 1 => Ok(Values::Records(records[..used].into())),
            _ => Ok(Values::One(Payload::copy_of(value))),
        };
        self.complete_front(slot, count, outcome, nanos, told)?;
        Some(used)
    }

    /// Ends the first `count` items in flight at a worker.
    fn complete_front(
        &mut self,
        slot: usize,
        count: u32,
        outcome: Result<Values>,
        nanos: Option<u64>,
        told: &mut Told,
    ) -> Option<()> {
        let link = self.slots[slot].link_mut()?;
        let front = link.in_flight.front_mut()?;
        link.items -= count;
        self.outstanding -= u64::from(count);
        front.item = front.item.wrapping_add(count);
        match &mut front.unit {
            Unit::Call(task) => {
                task.complete(outcome.map(into_body), told);
                link.in_flight.pop_front();
            }
            Unit::Items(items) => {
                let part = Part {
                    index: items.index(),
                    count,
                    outcome,
                };
                items.first += count;
                items.count -= count;
                let chunk = Arc::clone(&items.chunk);
                if items.count == 0 {
                    link.in_flight.pop_front();
                }
                if chunk.batch.deliver(part, nanos, told) {
                    self.sweep_cancelled(told);
                }
            }
        }
        Some(())
    }

    /// Ends a unit that is neither queued nor in flight any more.
    fn finish(&mut self, unit: &Unit, outcome: Result<Values>, told: &mut Told) {
        self.outstanding -= u64::from(unit.count());
        match unit {
            Unit::Call(task) => task.complete(outcome.map(into_body), told),
            Unit::Items(items) => {
                let part = Part {
                    index: items.index(),
                    count: items.count,
                    outcome,
                };
                items.chunk.batch.deliver(part, None, told);
            }
        }
    }

    // ---- deaths ---------------------------------------------------------------------------------

    /// Takes leave of a dead worker whose replies have been read: what had started failed, the rest goes elsewhere.
    fn bury(&mut self, slot: usize, told: &mut Told) {
        let Slot::Running(mut link) = mem::replace(&mut self.slots[slot], Slot::Retired) else {
            return;
        };
        self.changes += 1;
        self.events.remove(&link.bell);
        self.events.remove(&link.pidfd);
        if let Some(requests) = &link.requests {
            self.events.remove(requests);
        }
        let exit = link.how_it_ended();
        let error = Error::worker_died(exit);
        let front = link.front();
        let units = front.map(|it| link.take_back(it)).unwrap_or_default();
        for sent in mem::take(&mut link.in_flight) {
            // Whatever is left has started: one item, as items start one after the other.
            self.finish(&sent.unit, Err(error.clone()), told);
        }
        self.put_back(units);
        let was_ready = link.is_ready;
        drop(link);
        if !matches!(self.phase, Phase::Open | Phase::Closed) {
            return self.end_when_done();
        }
        if !was_ready {
            let message = format!("failed to start a worker: {error}");
            return self.vacate(slot, Error::new(ErrorKind::StartFailed, message), told);
        }
        self.slots[slot] = Slot::Vacant(Instant::now());
    }

    /// Leaves a place empty for a while after a failed start, or gives up.
    fn vacate(&mut self, slot: usize, error: Error, told: &mut Told) {
        self.failures[slot] += 1;
        let failures = self.failures[slot];
        let doublings = (failures - 1).min(16);
        let pause = (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
        self.slots[slot] = Slot::Vacant(Instant::now() + pause);
        let any_ready = self
            .slots
            .iter()
            .filter_map(Slot::link)
            .any(|it| it.is_ready);
        if failures >= MOST_FAILURES && !any_ready {
            self.stop(&error.with_kind(ErrorKind::StartFailed), true, told);
        }
    }

    /// Breaks the pool: its initializer failed.
    fn break_down(&mut self, fault: &Fault, told: &mut Told) {
        let error = fault.clone().into_error();
        let message = format!("the pool's initializer failed: {error}");
        self.stop(&Error::new(ErrorKind::StartFailed, message), true, told);
    }

    // ---- the end --------------------------------------------------------------------------------

    fn end_when_done(&mut self) {
        if let Phase::Closed = self.phase
            && self.outstanding == 0
        {
            self.end(closed());
        }
        if let Phase::Ending(error) = &self.phase
            && self.slots.iter().all(|it| matches!(it, Slot::Retired))
        {
            self.phase = Phase::Ended(error.clone());
            // Whoever waits for the end is among them.
            self.followers.drain(..).for_each(|it| it.unpark());
        }
        if self.kill_at.is_some_and(|it| it <= Instant::now()) {
            self.kill_at = None;
            self.links().for_each(|it| it.pidfd.kill());
        }
    }

    /// Tells the workers to end.
    fn end(&mut self, error: Error) {
        if let Phase::Open | Phase::Closed = self.phase {
            self.phase = Phase::Ending(error);
            self.kill_at = Some(Instant::now() + GRACE);
        }
        for slot in &mut self.slots {
            match slot {
                Slot::Running(link) => {
                    // Where a copy of the program holds its end, it would stay in the set.
                    link.requests.iter().for_each(|it| self.events.remove(it));
                    link.say_goodbye();
                }
                Slot::Vacant(_) => *slot = Slot::Retired,
                Slot::Starting | Slot::Retired => {}
            }
        }
    }

    // ---- work to workers ------------------------------------------------------------------------

    /// The places to be filled now; the caller starts a worker for each.
    pub(super) fn take_vacancies(&mut self) -> Vec<usize> {
        let now = Instant::now();
        let due = |slot: &Slot| matches!(slot, Slot::Vacant(at) if *at <= now);
        let places: Vec<usize> = (0..self.slots.len())
            .filter(|it| due(&self.slots[*it]))
            .collect();
        places
            .iter()
            .for_each(|it| self.slots[*it] = Slot::Starting);
        places
    }

    /// Whether a place is to be filled, now or later.
    pub(super) fn has_vacancies(&self) -> bool {
        self.slots.iter().any(|it| matches!(it, Slot::Vacant(_)))
    }

    /// Stages what is queued for the workers that have the least to do.
    fn refill(&mut self, told: &mut Told) {
        while self.refill_one(told).is_some() {}
    }

    /// Stages the next unit, and says for whom; none when there is none, or nobody for it.
    fn refill_one(&mut self, told: &mut Told) -> Option<usize> {
        if self.queue.is_empty() {
            return None;
        }
        let slot = self.least_busy()?;
        let unit = self.queue.pop_front()?;
        if let Some(unit) = self.drop_cancelled(unit, told) {
            let link = self.slots[slot].link_mut()?;
            match link.stage(slot, unit) {
                Ok(()) => {}
                Err((unit, Some(error))) => self.finish(&unit, Err(error), told),
                // It is buried soon; another takes the unit.
                Err((unit, None)) => self.queue.push_front(unit),
            }
        }
        Some(slot)
    }

    /// The worker with the fewest items in flight that may have more.
    fn least_busy(&mut self) -> Option<usize> {
        let ahead = self
            .item_nanos
            .map_or(LEAST_AHEAD, |it| AHEAD_NANOS / it.max(1));
        let most = ahead.clamp(LEAST_AHEAD, MOST_AHEAD) as u32;
        let mut best = None;
        for (number, slot) in self.slots.iter_mut().enumerate() {
            let Slot::Running(link) = slot else { continue };
            let has_room = link.items < most || link.in_flight.len() < LEAST_AHEAD as usize;
            let better = best.is_none_or(|(_, items)| link.items < items);
            if has_room && better && link.is_open() {
                best = Some((number, link.items));
                if link.items == 0 {
                    break;
                }
            }
        }
        best.map(|it| it.0)
    }

    /// Gives a worker with nothing to do what was sent ahead to another.
    fn feed_the_idle(&mut self, told: &mut Told) {
        if !self.queue.is_empty() || self.outstanding <= 1 {
            return;
        }
        let idle = self
            .links()
            .filter_map(|it| (it.items == 0 && it.is_open()).then_some(()))
            .count();
        if idle == 0 {
            return;
        }
        let tiny = self.item_nanos.is_some_and(|it| it < TINY_NANOS);
        let nanos = self.item_nanos.unwrap_or(TINY_NANOS);
        let Some(link) = self.links().max_by_key(|it| it.unstarted()) else {
            return;
        };
        let worth_it =
            !tiny || link.is_stuck() || u64::from(link.unstarted()) * nanos >= TINY_NANOS;
        if link.items < 2 || link.unstarted() == 0 || !worth_it {
            return;
        }
        // The first stays where it is: it runs, or is about to.
        let Some(front) = link.front() else { return };
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
    }

    /// Puts units before everything that is queued, in their order.
    fn put_back(&mut self, units: Vec<Unit>) {
        for unit in units.into_iter().rev() {
            self.queue.push_front(unit);
        }
    }

    /// Ends what of a unit is cancelled, and gives what is not.
    fn drop_cancelled(&mut self, mut unit: Unit, told: &mut Told) -> Option<Unit> {
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
    pub(super) fn drop_context(&mut self, id: u32) {
        self.links().for_each(|it| it.drop_context(id));
    }
}

fn is_of(unit: &Unit, batch: &Arc<Batch>) -> bool {
    matches!(unit, Unit::Items(it) if Arc::ptr_eq(&it.chunk.batch, batch))
}

/// Whether an item's number comes before another's; they wrap.
fn is_before(item: u32, other: u32) -> bool {
    item.wrapping_sub(other) > u32::MAX / 2
}

/// How many values of consecutive items lie at the start of `records`, at most `most`, and in how many bytes.
fn run_length(first: u32, most: u32, records: &[u8]) -> (u32, usize) {
    let (mut count, mut used) = (0, 0);
    while count < most {
        let Some(head) = RecordHead::parse(&records[used..]) else {
            break;
        };
        let size = RecordHead::SIZE + head.length;
        if head.tag != Tag::Value
            || head.item != first.wrapping_add(count)
            || records.len() < used + size
        {
            break;
        }
        count += 1;
        used += size;
    }
    (count, used)
}

fn into_body(values: Values) -> Body {
    match values {
        Values::One(payload) => Body::Value(payload),
        Values::Records(bytes) => Body::Value(Payload::Private(bytes)),
    }
}

fn decode_fault(bytes: &[u8]) -> Option<Fault> {
    codec::decode(&mut Cursor::new(bytes)).ok()
}

/// Which of a worker's descriptors is ready.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    Bell = 0,
    Death = 1,
    Requests = 2,
}

fn token(slot: usize, source: Source) -> u64 {
    (slot as u64) << 2 | source as u64
}

/// The pages of the workers that run, for whoever looks at their rings without the lock.
pub(super) fn pages(state: &State) -> Vec<Arc<Page>> {
    state
        .slots
        .iter()
        .filter_map(Slot::link)
        .map(|it| Arc::clone(&it.page))
        .collect()
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Shutdown, "the pool is closed")
}

pub(super) fn stopped() -> Error {
    Error::new(ErrorKind::Shutdown, "the pool was stopped")
}

pub(super) fn cancelled() -> Error {
    Error::new(
        ErrorKind::Cancelled,
        "the task was cancelled before it started",
    )
}
