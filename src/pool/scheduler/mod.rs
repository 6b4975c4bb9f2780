//! Who runs what: the queue, the workers' places, and everything that happens to them. See
//! README.md in the pool's folder.
//!
//! One lock guards it all. Nothing here blocks while it is held: pipes are non-blocking, workers
//! are started without it, and the user's code (wakers, callbacks, decoding) runs when it has been
//! let go.

pub(crate) mod assign;
pub(crate) mod cancel;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
pub(crate) mod queue;
pub(crate) mod reaper;
pub(crate) mod results;
pub(crate) mod scaling;
pub(crate) mod slot;
pub(crate) mod timeouts;
pub(crate) mod totals;

use crate::error::{Error, ErrorKind};
pub(crate) use crate::pool::scheduler::scaling::{MAX_WORKERS, RecyclePolicy};
pub(crate) use crate::pool::scheduler::slot::{Slot, SlotState};
use crate::pool::{
    limits::ResourceLimits,
    scheduler::{queue::PriorityQueue, totals::WorkTotals},
    stats::{Counts, PoolStats},
    task::{
        TaskOutput, Wakeups,
        encoded::{Encoded, PoolSlabs},
        map_part::EncodedResults,
        work_item::WorkItem,
    },
    worker_handle::{
        WorkerHandle, checked_region::CheckedRegion, earlier, io::WorkerIo, process_io::ProcessIo,
    },
};
use std::{sync::Arc, time::Instant};

/// Replies to shorter items are worth gathering before a sleeping pool is woken for them.
const BATCHED_WAKE_NANOS: u64 = 500_000;

/// How far the pool is with its life.
#[derive(Debug, Clone)]
pub(crate) enum PoolPhase {
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
pub(crate) struct Scheduler<Io: WorkerIo = ProcessIo> {
    pub(crate) phase: PoolPhase,
    queue: PriorityQueue,
    /// The lowest priority of all that was ever submitted.
    lowest_priority: i32,
    /// What is to be tried again, and when.
    delayed: Vec<(Instant, WorkItem)>,
    pub(crate) slots: Vec<Slot<Io>>,
    /// How many workers the pool is to keep.
    target: usize,
    recycle: RecyclePolicy,
    /// Whether something came up that only the background thread does: it fills slots, and asks
    /// others to send signals.
    pub(crate) has_new_chores: bool,
    /// Items queued or in flight.
    pub(crate) outstanding: u64,
    /// Nanoseconds an item takes, a moving average.
    item_nanos: Option<u64>,
    /// When workers that were told to end are killed.
    kill_at: Option<Instant>,
    /// When limits of time were looked at last.
    timeouts_checked: Instant,
    /// Counts changes of the workers.
    pub(crate) generation: u64,
    pub(crate) counts: Counts,
    /// What workers have done that are no more.
    past_totals: WorkTotals,
    limits: Option<ResourceLimits>,
    /// Records on their way from a ring to their tasks.
    records: Vec<u8>,
    slabs: Arc<PoolSlabs>,
    events: Io::Events,
}

impl<Io: WorkerIo> Scheduler<Io> {
    pub(crate) fn new(
        workers: usize,
        limits: Option<ResourceLimits>,
        stay: RecyclePolicy,
        slabs: Arc<PoolSlabs>,
        events: Io::Events,
    ) -> Self {
        Self {
            phase: PoolPhase::Open,
            queue: PriorityQueue::default(),
            lowest_priority: i32::MAX,
            delayed: Vec::new(),
            slots: (0..workers).map(Slot::starting).collect(),
            target: workers,
            recycle: stay,
            has_new_chores: false,
            outstanding: 0,
            item_nanos: None,
            kill_at: None,
            timeouts_checked: Io::now(),
            generation: 0,
            counts: Counts::default(),
            past_totals: WorkTotals::default(),
            limits,
            records: Vec::new(),
            slabs,
            events,
        }
    }

    /// Does everything that can be done now. Repeated calls change nothing until something happens.
    pub(crate) fn tick(&mut self, wakeups: &mut Wakeups) {
        for slot in 0..self.slots.len() {
            self.read_replies(slot, wakeups);
        }
        self.check_timeouts();
        self.end_when_done();
        self.queue_delayed();
        self.assign_queued(wakeups);
        self.steal_for_idle(wakeups);
        self.scale_up();
        self.stop_idle();
        self.close_drained();
        for (bound_to, id) in self.slabs.take_dropped() {
            self.workers()
                .for_each(|worker| worker.drop_slab(&bound_to, id));
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
        let Some(worker) = self.slots[slot].worker_mut() else {
            return;
        };
        worker.flush();
        let is_rest = worker.has_unwritten();
        if is_rest != worker.is_write_watched && worker.io.is_open() {
            worker.io.watch_room(&self.events, slot, is_rest);
            worker.is_write_watched = is_rest;
        }
    }

    fn workers(&mut self) -> impl Iterator<Item = &mut WorkerHandle<Io>> {
        self.slots.iter_mut().filter_map(Slot::worker_mut)
    }

    /// Gives a started worker its place.
    pub(crate) fn install(
        &mut self,
        slot: usize,
        mut worker: WorkerHandle<Io>,
    ) -> std::io::Result<()> {
        worker.io.watch(&self.events, slot)?;
        worker.quota = self.recycle.tasks;
        self.slots[slot].state = SlotState::Running(Box::new(worker));
        self.flush(slot);
        self.shrink();
        if let PoolPhase::Ending(_) | PoolPhase::Ended(_) = self.phase {
            // It has nothing to do, and whoever ends the pool may have killed the others already.
            self.kill_all();
        }
        Ok(())
    }

    /// Notes that a worker could not be started.
    pub(crate) fn start_failed(&mut self, slot: usize, error: Error, wakeups: &mut Wakeups) {
        if let PoolPhase::Ending(_) | PoolPhase::Ended(_) = self.phase {
            self.slots[slot].state = SlotState::Retired;
            return;
        }
        self.schedule_respawn(slot, error, wakeups);
    }

    /// Notes what a descriptor's readiness means.
    pub(crate) fn handle_event(&mut self, token: u64) {
        let (slot, source) = ((token >> 2) as usize, token & 3);
        let Some(worker) = self.slots.get_mut(slot).and_then(Slot::worker_mut) else {
            return;
        };
        if source == EventSource::Wake as u64 {
            worker.drain_wakeups();
        } else if source == EventSource::Death as u64 {
            // A number may be of the worker that was in this place before.
            if worker.dead_since.is_none() && worker.io.is_dead() {
                worker.dead_since = Some(Io::now());
                // It stays readable: the status is waited for with a deadline, not with this.
                worker.io.unwatch_death(&self.events);
            }
            worker.drain_wakeups();
        }
    }

    /// When there is something to do although nothing happens; `in_background`, starting workers
    /// too.
    pub(crate) fn next_deadline(&self, in_background: bool) -> Option<Instant> {
        let due = |slot: &Slot<Io>| match &slot.state {
            SlotState::Vacant(at) => in_background.then_some(*at),
            SlotState::Running(worker) => worker.next_deadline(),
            SlotState::Starting | SlotState::Retired => None,
        };
        let places = self.slots.iter().map(due);
        let attempts = self.delayed.iter().map(|it| Some(it.0));
        attempts.fold(places.fold(self.kill_at, earlier), earlier)
    }

    /// What the pool has done and is doing.
    pub(crate) fn stats(&self) -> PoolStats {
        let links = || self.slots.iter().filter_map(Slot::worker);
        let runs =
            |worker: &&WorkerHandle<Io>| worker.front().is_some_and(|it| worker.is_running(it));
        let running = links().filter(runs).count() as u64;
        let mut work = self.past_totals.clone();
        links().for_each(|it| work.add(&it.totals()));
        let alive = |slot: &Slot<Io>| {
            let worker = slot.worker().filter(|worker| worker.dead_since.is_none())?;
            Some(worker.stats(slot.worker_id))
        };
        let workers = self.slots.iter().filter_map(alive).collect();
        let tasks = (self.outstanding, running);
        self.counts.stats(tasks, work, workers)
    }

    /// Whether no worker is left.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, PoolPhase::Ended(_))
    }

    /// Has the workers ring, as whoever read their replies goes to sleep, and says by when to look
    /// without a bell.
    pub(crate) fn choose_wake_modes(&self) -> Option<Instant> {
        let short = self.item_nanos.is_some_and(|it| it < BATCHED_WAKE_NANOS);
        let links = self.slots.iter().filter_map(Slot::worker);
        links.filter_map(|it| it.choose_wake_mode(short)).min()
    }

    /// Whether something must be done soon even if nobody waits for it.
    pub(crate) fn has_duties(&self) -> bool {
        let is_dying = |worker: &WorkerHandle<Io>| worker.dead_since.is_some();
        self.kill_at.is_some() || self.slots.iter().filter_map(Slot::worker).any(is_dying)
    }
}

fn into_output(values: EncodedResults) -> TaskOutput {
    match values {
        EncodedResults::One(payload) => TaskOutput::Value(payload),
        EncodedResults::Records(bytes) => TaskOutput::Value(Encoded::Private(bytes)),
    }
}

/// Which of a worker's descriptors is ready.
#[derive(Debug, Clone, Copy)]
pub(crate) enum EventSource {
    Wake = 0,
    Death = 1,
    Requests = 2,
}

pub(crate) fn token(slot: usize, source: EventSource) -> u64 {
    (slot as u64) << 2 | source as u64
}

/// The pages of the workers that run, for whoever looks at their rings without the lock.
pub(crate) fn regions(state: &Scheduler) -> Vec<Arc<CheckedRegion>> {
    state
        .slots
        .iter()
        .filter_map(Slot::worker)
        .map(|it| Arc::clone(&it.page))
        .collect()
}

pub(crate) fn err_closed() -> Error {
    Error::new(ErrorKind::Shutdown, "the pool is closed")
}

pub(crate) fn err_stopped() -> Error {
    Error::new(ErrorKind::Shutdown, "the pool was stopped")
}

pub(crate) fn err_cancelled() -> Error {
    Error::new(
        ErrorKind::Cancelled,
        "the task was cancelled before it started",
    )
}
