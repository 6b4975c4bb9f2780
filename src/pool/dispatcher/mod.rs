//! Who runs what: the queue, the workers' places, and everything that happens to them. See README.md in the pool's folder.
//!
//! One lock guards it all. Nothing here blocks while it is held: pipes are non-blocking, workers are started without it,
//! and the user's code (wakers, callbacks, decoding) runs when it has been let go.

mod cancel;
mod deaths;
#[cfg(fuzzing)]
pub(super) mod fuzzing;
mod queue;
mod refill;
mod replies;
mod slot;
mod verdicts;
mod workers;

use crate::error::{Error, ErrorKind};
use crate::pool::{
    batch::Values,
    limits::ResourceLimits,
    link::{Link, earlier},
    payload::{Payload, PoolSlabs},
    relief::Relief,
    stats::{Counts, PoolStats},
    task::{Body, Told},
    unit::Unit,
    work::Work,
    worker_page::WorkerPage,
};
use crate::sys::poll::{Interest, Set};
use queue::Queue;
pub(super) use slot::Slot;
use std::{
    sync::Arc,
    thread::{Thread, ThreadId},
    time::Instant,
};
use workers::Place;
pub(super) use workers::{MOST_WORKERS, Stay};

/// Replies to shorter items are worth gathering before a sleeping pool is woken for them.
const SHORT_NANOS: u64 = 500_000;

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
    queue: Queue,
    /// The lowest priority of all that was ever submitted.
    lowest_priority: i32,
    /// What is to be tried again, and when.
    delayed: Vec<(Instant, Unit)>,
    pub(super) slots: Vec<Slot>,
    /// What is known of the worker in each slot, or of the one that comes there.
    places: Vec<Place>,
    /// How many workers the pool is to keep.
    target: usize,
    stay: Stay,
    /// Whether something came up that only the background thread does: it fills slots, and asks
    /// others to send signals.
    pub(super) wants_start: bool,
    /// Items queued or in flight.
    pub(super) outstanding: u64,
    /// Nanoseconds an item takes, a moving average.
    item_nanos: Option<u64>,
    /// Starts that failed in each place since the last that did not.
    failures: Vec<u32>,
    /// When workers that were told to end are killed.
    kill_at: Option<Instant>,
    /// When limits of time were looked at last.
    watched: Instant,
    /// Threads that wait and could lead.
    pub(super) followers: Vec<Thread>,
    /// The caller that leads.
    pub(super) leader: Option<ThreadId>,
    /// The background thread: a waker that it runs may wait for the pool, and so lead, and nobody else starts workers.
    pub(super) background: Option<ThreadId>,
    /// When a leader last looked at events.
    pub(super) looked: Instant,
    /// Whether that caller sleeps, and must be woken for what others do.
    pub(super) leader_sleeps: bool,
    /// When it wakes by itself.
    pub(super) leader_until: Option<Instant>,
    /// Whether the background thread would notice an event.
    pub(super) is_armed: bool,
    /// When it takes over from a caller that led and has left.
    pub(super) relief: Relief,
    /// Counts changes of the workers.
    pub(super) changes: u64,
    pub(super) counts: Counts,
    /// What workers have done that are no more.
    work: Work,
    limits: Option<ResourceLimits>,
    /// Records on their way from a ring to their tasks.
    records: Vec<u8>,
    slabs: Arc<PoolSlabs>,
    events: Arc<Set>,
    /// When the background thread wakes by itself, or by when it is on its way to see to that.
    pub(super) timer: Option<Instant>,
}

impl State {
    pub(super) fn new(
        workers: usize,
        limits: Option<ResourceLimits>,
        stay: Stay,
        slabs: Arc<PoolSlabs>,
        events: Arc<Set>,
    ) -> Self {
        Self {
            phase: Phase::Open,
            queue: Queue::default(),
            lowest_priority: i32::MAX,
            delayed: Vec::new(),
            slots: (0..workers).map(|_| Slot::Starting).collect(),
            places: (0..workers)
                .map(|worker| Place {
                    worker,
                    follows: None,
                })
                .collect(),
            target: workers,
            stay,
            wants_start: false,
            outstanding: 0,
            item_nanos: None,
            failures: vec![0; workers],
            kill_at: None,
            watched: Instant::now(),
            followers: Vec::new(),
            leader: None,
            background: None,
            looked: Instant::now(),
            leader_sleeps: false,
            leader_until: None,
            is_armed: true,
            relief: Relief::default(),
            changes: 0,
            counts: Counts::default(),
            work: Work::default(),
            limits,
            records: Vec::new(),
            slabs,
            events,
            timer: None,
        }
    }

    /// Does everything that can be done now. Repeated calls change nothing until something happens.
    pub(super) fn progress(&mut self, told: &mut Told) {
        for slot in 0..self.slots.len() {
            self.read_replies(slot, told);
        }
        self.watch_the_clock();
        self.end_when_done();
        self.queue_delayed();
        self.refill(told);
        self.feed_the_idle(told);
        self.hire();
        self.let_the_idle_go();
        self.dismiss();
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
    pub(super) fn install(&mut self, slot: usize, mut link: Link) -> std::io::Result<()> {
        self.events
            .add(&link.bell, token(slot, Source::Bell), Interest::Read)?;
        self.events
            .add(&link.pidfd, token(slot, Source::Death), Interest::Read)?;
        if let Some(requests) = &link.requests {
            self.events
                .add(requests, token(slot, Source::Requests), Interest::None)?;
        }
        link.quota = self.stay.tasks;
        self.slots[slot] = Slot::Running(Box::new(link));
        self.flush(slot);
        self.let_surplus_go();
        if let Phase::Ending(_) | Phase::Ended(_) = self.phase {
            // It has nothing to do, and whoever ends the pool may have killed the others already.
            self.kill_all();
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
        let due = |slot: &Slot| match slot {
            Slot::Vacant(at) => in_background.then_some(*at),
            Slot::Running(link) => link.next_deadline(),
            Slot::Starting | Slot::Retired => None,
        };
        let places = self.slots.iter().map(due);
        let tries = self.delayed.iter().map(|it| Some(it.0));
        tries.fold(places.fold(self.kill_at, earlier), earlier)
    }

    /// What the pool has done and is doing.
    pub(super) fn stats(&self) -> PoolStats {
        let links = || self.slots.iter().filter_map(Slot::link);
        let runs = |link: &&Link| link.front().is_some_and(|it| link.runs(it));
        let running = links().filter(runs).count() as u64;
        let mut work = self.work.clone();
        links().for_each(|it| work.add(&it.work()));
        let places = self.slots.iter().zip(&self.places);
        let alive = |(slot, place): (&'_ Slot, &Place)| {
            let link = slot.link().filter(|it| it.dead_since.is_none())?;
            Some(link.stats(place.worker))
        };
        let workers = places.filter_map(alive).collect();
        let tasks = (self.outstanding, running);
        self.counts.stats(tasks, work, workers)
    }

    /// Whether the background thread leads, in a waker.
    pub(super) fn is_led_in_background(&self) -> bool {
        self.leader.is_some() && self.leader == self.background
    }

    /// Whether the leader sleeps beyond what is due.
    pub(super) fn leader_oversleeps(&self) -> bool {
        let due = self.next_deadline(false);
        due.is_some_and(|due| self.leader_until.is_none_or(|it| due < it))
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
}

fn into_body(values: Values) -> Body {
    match values {
        Values::One(payload) => Body::Value(payload),
        Values::Records(bytes) => Body::Value(Payload::Private(bytes)),
    }
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
pub(super) fn pages(state: &State) -> Vec<Arc<WorkerPage>> {
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
