//! The scheduler: decides which worker runs which item, and handles what happens to workers. See
//! README.md in the pool's folder.
//!
//! The pool's lock guards all of it. Nothing here blocks: pipes are non-blocking, workers are
//! started without the lock, and the user's code (wakers, callbacks, decoding) runs after its
//! release.

pub(crate) mod assign;
pub(crate) mod cancel;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
pub(crate) mod queue;
pub(crate) mod reaper;
pub(crate) mod records;
pub(crate) mod results;
pub(crate) mod scaling;
#[cfg(all(test, not(loom)))]
mod simulator;
pub(crate) mod slot;
pub(crate) mod submit;
pub(crate) mod timeouts;
pub(crate) mod totals;

use crate::error::{Error, ErrorKind};
pub(crate) use crate::pool::scheduler::cancel::StopMode;
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

/// Workers batch wake-ups for items that take less than this on average.
const BATCHED_WAKE_NANOS: u64 = 500_000;

/// The lifecycle of a pool.
#[derive(Debug, Clone)]
pub(crate) enum PoolPhase {
    /// Accepts tasks.
    Open,
    /// Accepts no more tasks, and finishes the outstanding ones.
    Closed,
    /// No task is outstanding; workers exit. Further submissions fail with this error.
    Ending(Error),
    /// No worker is left.
    Ended(Error),
}

/// The queue, the slots and their workers. Guarded by the pool's lock.
#[derive(Debug)]
pub(crate) struct Scheduler<Io: WorkerIo = ProcessIo> {
    pub(crate) phase: PoolPhase,
    queue: PriorityQueue,
    /// The lowest priority of all tasks submitted so far: only a higher priority can overtake.
    lowest_priority: i32,
    /// Items that wait for a retry, with the time of that.
    delayed: Vec<(Instant, WorkItem)>,
    pub(crate) slots: Vec<Slot<Io>>,
    /// The number of workers that the pool keeps. Written by `resize`.
    target: usize,
    recycle: RecyclePolicy,
    /// Whether there are new chores for the background thread: it fills slots, and forwards refused
    /// signals. Cleared by the thread that notifies it.
    pub(crate) has_new_chores: bool,
    /// Items queued or in flight.
    pub(crate) outstanding: u64,
    /// The moving average of an item's run time, in nanoseconds.
    item_nanos: Option<u64>,
    /// When workers that were told to exit are killed.
    kill_at: Option<Instant>,
    /// When time limits were last checked.
    timeouts_checked: Instant,
    /// Incremented when a worker is reaped.
    pub(crate) generation: u64,
    pub(crate) counts: Counts,
    /// The totals of all reaped workers.
    past_totals: WorkTotals,
    limits: Option<ResourceLimits>,
    /// A buffer for records, reused for each ring. Empty outside `read_replies`.
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

    /// Makes all progress that is possible now. Idempotent: a second call changes nothing before
    /// the next event.
    pub(crate) fn tick(&mut self, wakeups: &mut Wakeups) {
        for slot in 0..self.slots.len() {
            self.read_replies(slot, wakeups);
        }
        // After the replies: an item that has ended in time must not be stopped.
        self.check_timeouts();
        self.end_when_done();
        self.queue_delayed();
        self.assign_queued(wakeups);
        self.steal_for_idle(wakeups);
        self.scale_up();
        self.stop_idle();
        self.close_drained();
        // Callers drop results without the lock. The next tick tells the workers.
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

    /// Writes the staged frames of a worker. Watches its pipe for room if some are left.
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

    /// Puts a started worker into its slot.
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
            // 1. The background thread starts this worker, without the lock.
            // 2. The pool ends, and kills all workers.
            // 3. This worker is installed: no other code kills it.
            self.kill_all();
        }
        Ok(())
    }

    /// Schedules another start after a failed one, or gives up.
    pub(crate) fn start_failed(&mut self, slot: usize, error: Error, wakeups: &mut Wakeups) {
        if let PoolPhase::Ending(_) | PoolPhase::Ended(_) = self.phase {
            self.slots[slot].state = SlotState::Retired;
            return;
        }
        self.schedule_respawn(slot, error, wakeups);
    }

    /// Handles the readiness of a descriptor. Ignores tokens of workers that are gone.
    pub(crate) fn handle_event(&mut self, token: u64) {
        let (slot, source) = ((token >> 2) as usize, token & 3);
        let Some(worker) = self.slots.get_mut(slot).and_then(Slot::worker_mut) else {
            return;
        };
        if source == EventSource::Wake as u64 {
            worker.drain_wakeups();
        } else if source == EventSource::Death as u64 {
            // 1. `events` reports the death of a worker.
            // 2. Another thread reaps it.
            // 3. A new worker is installed in the slot.
            // 4. The token arrives here: the pidfd says that the new one lives.
            if worker.dead_since.is_none() && worker.io.is_dead() {
                worker.dead_since = Some(Io::now());
                // It stays readable, and would wake a thread again and again. The exit record is
                // awaited with a deadline.
                worker.io.unwatch_death(&self.events);
            }
            worker.drain_wakeups();
        }
    }

    /// Returns when the next tick is due without an event. Includes starts of workers if
    /// `in_background`.
    pub(crate) fn next_deadline(&self, in_background: bool) -> Option<Instant> {
        let due = |slot: &Slot<Io>| match &slot.state {
            SlotState::Vacant(at) => in_background.then_some(*at),
            SlotState::Running(worker) => worker.next_deadline(),
            SlotState::Starting | SlotState::Retired => None,
        };
        let places = self.slots.iter().map(due);
        let attempts = self.delayed.iter().map(|(due, _)| Some(*due));
        attempts.fold(places.fold(self.kill_at, earlier), earlier)
    }

    /// Returns the counters of the pool and of its workers.
    pub(crate) fn stats(&self) -> PoolStats {
        let workers = || self.slots.iter().filter_map(Slot::worker);
        let runs =
            |worker: &&WorkerHandle<Io>| worker.front().is_some_and(|it| worker.is_running(it));
        let running = workers().filter(runs).count() as u64;
        let mut work = self.past_totals.clone();
        workers().for_each(|worker| work.add(&worker.totals()));
        let alive = |slot: &Slot<Io>| {
            let worker = slot.worker().filter(|worker| worker.dead_since.is_none())?;
            Some(worker.stats(slot.worker_id))
        };
        let worker_stats = self.slots.iter().filter_map(alive).collect();
        let tasks = (self.outstanding, running);
        self.counts.stats(tasks, work, worker_stats)
    }

    /// Whether no worker is left.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, PoolPhase::Ended(_))
    }

    /// Sets the wake modes of all workers before a thread sleeps. Returns when it must poll the
    /// rings without a wake-up.
    pub(crate) fn choose_wake_modes(&self) -> Option<Instant> {
        let short = self
            .item_nanos
            .is_some_and(|nanos| nanos < BATCHED_WAKE_NANOS);
        let workers = self.slots.iter().filter_map(Slot::worker);
        workers.filter_map(|it| it.choose_wake_mode(short)).min()
    }

    /// Whether a tick is due soon even if no caller waits: a worker died, or the pool ends.
    pub(crate) fn has_duties(&self) -> bool {
        let is_dying = |worker: &WorkerHandle<Io>| worker.dead_since.is_some();
        self.kill_at.is_some() || self.slots.iter().filter_map(Slot::worker).any(is_dying)
    }
}

fn into_output(results: EncodedResults) -> TaskOutput {
    match results {
        EncodedResults::One(encoded) => TaskOutput::Value(encoded),
        EncodedResults::Records(bytes) => TaskOutput::Value(Encoded::Private(bytes)),
    }
}

/// Identifies one of a worker's watched descriptors.
#[derive(Debug, Clone, Copy)]
pub(crate) enum EventSource {
    Wake = 0,
    Death = 1,
    Requests = 2,
}

pub(crate) fn token(slot: usize, source: EventSource) -> u64 {
    (slot as u64) << 2 | source as u64
}

/// Returns the shared regions of all workers, to poll their rings without the lock.
pub(crate) fn regions(state: &Scheduler) -> Vec<Arc<CheckedRegion>> {
    state
        .slots
        .iter()
        .filter_map(Slot::worker)
        .map(|worker| Arc::clone(&worker.region))
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
