//! What holds after each step of a history, and at its end.

use super::{
    history::History,
    world::{SimulatedIo, with_world},
};
use crate::error::Result;
use crate::pool::{
    scheduler::{PoolPhase, Slot, SlotState, err_closed},
    task::{
        TaskOutput, Wakeups,
        map_part::{EncodedResults, next_record},
    },
    worker_handle::{WorkerHandle, is_before},
};
use std::iter;

/// Rounds without any change after which time passes until something is due.
const IDLE_ROUNDS: u32 = 5;

/// Rounds without any change after which a pool hangs. Time may pass by 2 ms in each, and a task
/// that runs forever ends by its limit: 3 s, and what the clock has jumped by before.
const MAX_IDLE_ROUNDS: u32 = 60_000;

impl History {
    /// Takes the outcomes that are there into the books.
    fn collect(&mut self) {
        let now = with_world(|world| world.now);
        let finish = |id, outcome| with_world(|world| world.books.finish(id, outcome, now));
        self.calls.retain(|(id, task)| {
            let Some(outcome) = task.outcome() else {
                return true;
            };
            finish(*id, call_value(outcome));
            false
        });
        for map in &self.maps {
            while let Some(part) = map.state.take() {
                let first = map.first + part.index as u32;
                match &part.outcome {
                    Ok(results) => {
                        let values = values(results);
                        if values.len() != part.count as usize {
                            fail(format!("{} results for {} items", values.len(), part.count));
                        }
                        let values = (first..).zip(values);
                        values.for_each(|(id, value)| finish(id, Ok(value)));
                    }
                    Err(error) => {
                        let mut ids = (0..part.count).map(|it| first + it);
                        ids.all(|id| {
                            finish(id, Err(error.clone()));
                            true
                        });
                    }
                }
            }
        }
    }

    /// Checks what holds after each step.
    pub(super) fn check(&mut self) {
        let is_ending = !matches!(self.scheduler.phase, PoolPhase::Open | PoolPhase::Closed);
        let is_stopped = is_ending && self.scheduler.kill_at.is_some();
        let scheduler = &self.scheduler;
        let queued: u64 = scheduler.queue.iter().map(|it| u64::from(it.count())).sum();
        let delayed: u64 = scheduler
            .delayed
            .iter()
            .map(|it| u64::from(it.1.count()))
            .sum();
        let mut sent = 0;
        for slot in &scheduler.slots {
            let Some(worker) = slot.worker() else {
                continue;
            };
            let items: u32 = worker.in_flight.iter().map(|it| it.work_item.count()).sum();
            sent += u64::from(items);
            if items != worker.items {
                fail(format!(
                    "a worker has {items} items in flight, and counts {}",
                    worker.items
                ));
            }
            if worker.region.is_broken() {
                fail(String::from(
                    "a worker that does as it should counts as broken",
                ));
            }
            self.check_worker(worker, is_ending);
        }
        self.check_slots();
        let total = queued + delayed + sent;
        let outstanding = scheduler.outstanding;
        // A pool that broke by itself has failed what was outstanding.
        if is_stopped && total == 0 && self.submitted > 0 {
            with_world(|world| world.books.is_stopped |= is_ending && !self.was_closed());
        }
        self.collect();
        let open = self.submitted - with_world(|world| world.books.done);
        if outstanding != total || outstanding != open {
            fail(format!(
                "{outstanding} items are outstanding: {queued} queued, {delayed} delayed, {sent} \
                 in flight; {open} have no outcome"
            ));
        }
    }

    /// Checks that there are no more workers than there are to be, nor more of them at work.
    fn check_slots(&self) {
        let slots = &self.scheduler.slots;
        let items = |slot: usize| slots[slot].worker().map_or(0, |worker| worker.items);
        let is_early = |(slot, it): (usize, &Slot<SimulatedIo>)| {
            items(slot) > 0 && it.predecessor.is_some_and(|before| items(before) > 0)
        };
        if slots.iter().enumerate().any(is_early) {
            fail(String::from(
                "a worker has items before the one that it replaces has ended",
            ));
        }
        let workers = slots.iter().filter_map(Slot::worker);
        if workers.filter(|worker| !worker.is_draining).count() > self.scheduler.target {
            fail(String::from("more workers stay than the pool is to have"));
        }
    }

    /// Whether the pool ends as it was closed, and all is done.
    fn was_closed(&self) -> bool {
        match &self.scheduler.phase {
            PoolPhase::Ending(error) | PoolPhase::Ended(error) => {
                error.to_string() == err_closed().to_string()
            }
            _ => true,
        }
    }

    fn check_worker(&self, worker: &WorkerHandle<SimulatedIo>, is_ending: bool) {
        let max_tasks = self.max_tasks;
        with_world(|world| {
            let process = &mut world.processes[worker.io.0];
            let allowed = process.allowed();
            if worker.is_draining {
                let at_drain = *process.allowed_at_drain.get_or_insert(allowed);
                if is_before(at_drain, allowed) {
                    world
                        .books
                        .fail(String::from("a worker that leaves was sent an item"));
                }
            }
            if max_tasks.is_some_and(|max| process.started > max) {
                world
                    .books
                    .fail(String::from("a worker has started more than its share"));
            }
            if process.is_killed && process.is_alive && worker.stop_request.is_none() && !is_ending
            {
                world
                    .books
                    .fail(String::from("a worker was killed without a reason"));
            }
        });
    }

    /// Lets everything go on until the pool has ended, and checks that nothing is left.
    pub(super) fn end(&mut self) {
        let mut wakeups = Wakeups::default();
        let mut idle_rounds = 0;
        while !self.scheduler.has_ended() {
            let before = self.progress();
            if self.scheduler.outstanding == 0 {
                self.scheduler.close();
            }
            self.settle(&mut wakeups);
            idle_rounds = if self.progress() == before {
                idle_rounds + 1
            } else {
                0
            };
            if with_world(|world| world.books.failure.is_some()) {
                return;
            }
            if idle_rounds > IDLE_ROUNDS {
                self.advance_to_deadline();
            }
            if idle_rounds > MAX_IDLE_ROUNDS {
                let (count, phase) = (self.scheduler.outstanding, &self.scheduler.phase);
                return fail(format!(
                    "the pool hangs with {count} items outstanding, {phase:?}"
                ));
            }
        }
        let stats = self.scheduler.stats();
        if stats.done + stats.failed != self.submitted {
            fail(format!(
                "{} items were submitted, and {stats:?}",
                self.submitted
            ));
        }
    }

    /// A number that changes if anything goes on.
    fn progress(&self) -> (u64, usize, u64) {
        let (started, processes) = with_world(|world| {
            let started: u64 = world.processes.iter().map(|it| it.started).sum();
            (started, world.processes.len())
        });
        (started, processes, self.scheduler.outstanding)
    }

    /// Delivers every event that is due, then lets time pass.
    fn settle(&mut self, wakeups: &mut Wakeups) {
        while let Some(slot) = self.starting.pop() {
            self.install(slot);
        }
        while let Some(slot) = self.scheduler.take_vacancy() {
            self.install(slot);
        }
        for slot in 0..self.scheduler.slots.len() {
            let SlotState::Running(worker) = &self.scheduler.slots[slot].state else {
                continue;
            };
            let number = worker.io.0;
            with_world(|world| {
                (0..4).for_each(|_| world.step(number));
                world.processes[number].reap(true, true);
            });
            for event in Self::events(slot, number) {
                self.scheduler.handle_event(event);
            }
        }
        self.scheduler.tick(wakeups);
        self.check();
        self.check_idle();
        with_world(|world| world.now += 100_000);
    }

    /// Checks that no worker is idle while work waits that it may run.
    fn check_idle(&mut self) {
        if self.scheduler.queue.is_empty() {
            return;
        }
        for slot in 0..self.scheduler.slots.len() {
            let is_blocked = self.scheduler.is_blocked_by_predecessor(slot);
            let worker = self.scheduler.slots[slot].worker_mut();
            let is_idle = worker.is_some_and(|it| it.is_ready && it.items == 0 && it.has_room());
            if is_idle && !is_blocked {
                fail(String::from("a worker is idle while work waits"));
            }
        }
    }
}

/// Notes what no history permits.
pub(super) fn fail(text: String) {
    with_world(|world| world.books.fail(text));
}

fn call_value(outcome: &Result<TaskOutput>) -> Result<u32> {
    match outcome {
        Ok(TaskOutput::Value(value)) => Ok(number(value.bytes().unwrap_or_default())),
        Ok(TaskOutput::List(_)) => Ok(u32::MAX),
        Err(error) => Err(error.clone()),
    }
}

fn values(results: &EncodedResults) -> Vec<u32> {
    match results {
        EncodedResults::One(value) => vec![number(value.bytes().unwrap_or_default())],
        EncodedResults::Records(bytes) => {
            let mut rest = &bytes[..];
            iter::from_fn(|| next_record(&mut rest).map(number)).collect()
        }
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .first_chunk()
        .map_or(u32::MAX, |it| u32::from_le_bytes(*it))
}
