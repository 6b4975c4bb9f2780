//! The reaper: workers that die or cannot be started, retries, and the end of the pool.

use crate::error::{Error, ErrorKind};
use crate::pool::{
    scheduler::{PoolPhase, Scheduler, Slot, SlotState, StopMode, err_closed},
    stats::RestartReason,
    task::{TaskLocation, Wakeups, config::Attempts, work_item::WorkItem},
    worker_handle::{RefusedSignal, WorkerHandle, io::WorkerIo},
};
use crate::process::task_error::TaskError;
use crate::sys::signal;
use std::{io, mem, time::Duration};

/// How long workers may take to exit before SIGKILL.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Failed starts in a row, in one slot, that break a pool without a ready worker.
const MAX_START_FAILURES: u32 = 6;

/// The same if SIGKILL ended the last of them. That comes from outside, for example from the system
/// if memory is short, and may pass.
const MAX_START_KILLS: u32 = 9;

/// How often an item is queued again after the death of a ready worker that it was next to start
/// on.
///
/// Without a limit: 1. A task starts. 2. It writes to the shared region that it has not. 3. It
/// kills its worker. 4. The item is queued again, forever. A death that the item before it explains
/// does not count.
const MAX_LOSSES: u32 = 2;

/// The pause after the first failure; each further failure doubles it.
const MIN_BACKOFF: Duration = Duration::from_millis(10);

/// The longest pause after a failure.
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Returns the pause before a retry. Subtracts up to half of it at random, so that items that
/// failed together do not come back together.
fn backoff(tried: u32, random: u32) -> Duration {
    let pause = (MIN_BACKOFF * (1 << (tried - 1).min(16))).min(MAX_BACKOFF);
    let part = f64::from(random) / f64::from(u32::MAX);
    pause.mul_f64(1.0 - part / 2.0)
}

impl<Io: WorkerIo> Scheduler<Io> {
    /// Reaps a dead worker after its replies were read: fails the item that it ran, and queues the
    /// rest again.
    pub(crate) fn reap_worker(&mut self, slot: usize, wakeups: &mut Wakeups) {
        let state = mem::replace(&mut self.slots[slot].state, SlotState::Retired);
        let SlotState::Running(mut worker) = state else {
            return;
        };
        self.generation += 1;
        let now = Io::now();
        let dead_for = worker.dead_since.map(|it| now.duration_since(it));
        let ran = worker.running_time(now).unwrap_or_default();
        // 1. The worker died.
        // 2. The exit record was awaited.
        // 3. The worker is reaped now: the item did not run in between.
        let ran = ran.saturating_sub(dead_for.unwrap_or_default());
        worker.io.unwatch(&self.events);
        let reason = match worker.stop_request {
            Some(_) => RestartReason::Stopped,
            None => RestartReason::Died,
        };
        let error = self.error_of(&worker);
        // The worker is dead, so the start word is final. Items below it have started, and fail.
        let work_items = worker.revoke_after_death();
        self.past_totals.add(&worker.totals_after_death(ran));
        let has_run_tasks = worker.has_run_tasks();
        let was_ready = worker.was_ready();
        // A ready worker died between two items, without a failure that explains it. Perhaps the
        // next item killed it, and wrote to the shared region that it has not started.
        let is_loss = was_ready && worker.in_flight.is_empty() && !worker.has_just_failed();
        self.fail_started(&mut worker, &error, wakeups);
        if is_loss {
            self.requeue_unless_lost(work_items, &error, wakeups);
        } else {
            self.requeue_front(work_items);
        }
        if !matches!(self.phase, PoolPhase::Open | PoolPhase::Closed) {
            self.end_when_done();
        } else if worker.is_draining {
            self.remove_slot(slot);
        } else if !was_ready && !has_run_tasks {
            let message = format!("failed to start a worker: {error}");
            self.schedule_respawn(slot, error.with_message(message), wakeups);
        } else {
            self.counts.restarted(reason);
            self.slots[slot].state = SlotState::Vacant(Io::now());
            self.has_new_chores = true;
        }
    }

    /// Fails the item that a dead worker had started. There is at most one: items run in sequence.
    fn fail_started(
        &mut self,
        worker: &mut WorkerHandle<Io>,
        error: &Error,
        wakeups: &mut Wakeups,
    ) {
        for entry in mem::take(&mut worker.in_flight) {
            let stop_request = worker.stop_request.take_if(|stop| stop.item == entry.item);
            let ended = stop_request.map_or_else(|| error.clone(), |it| it.error);
            if worker.lost_reason().is_none() {
                self.fail_or_retry(entry.work_item, ended, wakeups);
                continue;
            }
            // 1. No process may signal the worker, which counts as dead.
            // 2. Its item still runs.
            // 3. A retry would run at the same time.
            let message = match ended.kind() {
                ErrorKind::WorkerDied => ended.to_string(),
                _ => format!("{ended}; {error}"),
            };
            self.fail(&entry.work_item, ended.with_message(message), wakeups);
        }
    }

    /// Queues a dead worker's unstarted items again, except a first item that has lost more than
    /// [`MAX_LOSSES`] workers.
    fn requeue_unless_lost(
        &mut self,
        mut work_items: Vec<WorkItem>,
        error: &Error,
        wakeups: &mut Wakeups,
    ) {
        let first = work_items.first_mut();
        let losses = first.map_or(0, |it| it.with_attempts(Attempts::count_loss));
        if losses <= MAX_LOSSES {
            return self.requeue_front(work_items);
        }
        let mut first = work_items.remove(0);
        let rest = first.split_off(1);
        self.requeue_front(rest.into_iter().chain(work_items).collect());
        let message =
            format!("{error}; so did {MAX_LOSSES} workers before, when the task was to start next");
        self.fail(&first, error.clone().with_message(message), wakeups);
    }

    /// Returns the error of a dead worker's item. Names the resource limit that explains the
    /// signal.
    fn error_of(&self, worker: &WorkerHandle<Io>) -> Error {
        let exit = worker.worker_exit();
        if let Some(reason) = worker.lost_reason() {
            return Error::worker_died(exit).with_message(reason.to_owned());
        }
        let signal = exit.signal.filter(|_| !exit.stack_overflow);
        let reason = signal.zip(self.limits.as_ref());
        let reason = reason.and_then(|(signal, limits)| limits.reason(signal));
        let reason = worker.nonsense().map(str::to_owned).or(reason);
        let error = Error::worker_died(exit);
        match reason {
            None => error,
            Some(reason) => {
                let message = format!("{error}: {reason}");
                error.with_message(message)
            }
        }
    }

    /// Fails an item that lost its worker or panicked, or schedules its retry.
    pub(crate) fn fail_or_retry(
        &mut self,
        work_item: WorkItem,
        error: Error,
        wakeups: &mut Wakeups,
    ) {
        let (config, wanted) = (work_item.config(), work_item.wanted() > 0);
        let is_open = matches!(self.phase, PoolPhase::Open | PoolPhase::Closed);
        if !config.retries_after(&error) || !wanted || !is_open {
            return self.fail(&work_item, error, wakeups);
        }
        let attempts = work_item.with_attempts(|attempts| {
            attempts.push(error.clone());
            attempts.clone()
        });
        let tried = attempts.next() - 1;
        if tried > config.retries {
            return self.fail(&work_item, attempts.into_error().unwrap_or(error), wakeups);
        }
        if let WorkItem::Call(task) = &work_item {
            task.set_location(TaskLocation::Queued);
        }
        self.counts.retried += 1;
        self.delayed
            .push((Io::now() + backoff(tried, Io::random()), work_item));
    }

    /// Fails an item, and drops the items that its failure cancels.
    pub(crate) fn fail(&mut self, work_item: &WorkItem, error: Error, wakeups: &mut Wakeups) {
        if self.finish(work_item, error, wakeups) {
            self.sweep_cancelled(wakeups);
        }
    }

    /// Queues the items whose retry is due.
    pub(crate) fn queue_delayed(&mut self) {
        let now = Io::now();
        for (_, work_item) in self.delayed.extract_if(.., |(due, _)| *due <= now) {
            self.queue.push_back(work_item);
        }
    }

    /// Schedules another start in a slot after a failed one, or stops the pool.
    pub(crate) fn schedule_respawn(&mut self, slot: usize, error: Error, wakeups: &mut Wakeups) {
        let is_killed = error.worker().and_then(|it| it.signal) == Some(signal::KILL);
        let most = if is_killed {
            MAX_START_KILLS
        } else {
            MAX_START_FAILURES
        };
        self.slots[slot].start_failures += 1;
        let failures = self.slots[slot].start_failures;
        let doublings = (failures - 1).min(16);
        let pause = (MIN_BACKOFF * (1 << doublings)).min(MAX_BACKOFF);
        self.slots[slot].state = SlotState::Vacant(Io::now() + pause);
        self.has_new_chores = true;
        let any_ready = self
            .slots
            .iter()
            .filter_map(Slot::worker)
            .any(|it| it.is_ready);
        // While another worker is ready, tasks still run: only a pool without one is broken.
        if failures >= most && !any_ready {
            let error = error.with_kind(ErrorKind::StartFailed);
            self.stop(&error, StopMode::Kill, wakeups);
        }
    }

    /// Stops the pool because its initializer failed.
    pub(crate) fn fail_startup(&mut self, fault: &TaskError, wakeups: &mut Wakeups) {
        let error = fault.clone().into_error();
        let message = format!("the pool's initializer failed: {error}");
        let error = Error::new(ErrorKind::StartFailed, message);
        self.stop(&error, StopMode::Kill, wakeups);
    }

    /// Moves on to the next phase of the lifecycle if its condition holds.
    pub(crate) fn end_when_done(&mut self) {
        if let PoolPhase::Closed = self.phase
            && self.outstanding == 0
        {
            self.begin_shutdown(err_closed());
        }
        // 1. `take_vacancy` marks a slot as starting.
        // 2. The pool ends.
        // 3. The slot is retired only when that start is over: a pool that has ended has no worker
        //    process.
        if let PoolPhase::Ending(error) = &self.phase
            && self.slots.iter().all(Slot::is_retired)
        {
            self.phase = PoolPhase::Ended(error.clone());
        }
        if self.kill_at.is_some_and(|due| due <= Io::now()) {
            self.kill_at = None;
            self.kill_all();
        }
    }

    /// Kills every worker.
    pub(crate) fn kill_all(&mut self) {
        self.workers().for_each(WorkerHandle::kill);
        self.has_new_chores |= self.has_refused();
    }

    /// Whether this process was refused to send a signal, which another process has to send.
    fn has_refused(&self) -> bool {
        let mut workers = self.slots.iter().filter_map(Slot::worker);
        workers.any(WorkerHandle::is_refused)
    }

    /// Whether the background thread has chores.
    pub(crate) fn has_chores(&self) -> bool {
        self.has_vacancies() || self.has_refused()
    }
}

impl Scheduler {
    /// Takes a signal that this process may not send, and the slot of its worker.
    pub(crate) fn take_refused_signal(&mut self) -> Option<(usize, RefusedSignal)> {
        let mut slots = self.slots.iter_mut().enumerate();
        slots.find_map(|(index, slot)| Some((index, slot.worker_mut()?.take_refused()?)))
    }
}

impl<Io: WorkerIo> Scheduler<Io> {
    /// Marks a worker as lost: no process can signal it. Checks the pid, as the slot may have a new
    /// worker by now.
    pub(crate) fn set_lost(&mut self, slot: usize, pid: u32, reason: &io::Error) {
        if let Some(worker) = self.slots[slot]
            .worker_mut()
            .filter(|worker| worker.pid == pid)
        {
            worker.set_lost(reason);
        }
    }

    /// Tells all workers to exit once they are idle, and sets the deadline for SIGKILL.
    pub(crate) fn begin_shutdown(&mut self, error: Error) {
        if let PoolPhase::Open | PoolPhase::Closed = self.phase {
            self.phase = PoolPhase::Ending(error);
            self.kill_at = Some(Io::now() + SHUTDOWN_GRACE);
        }
        for slot in &mut self.slots {
            match &mut slot.state {
                SlotState::Running(worker) => {
                    // A copy of the program made by `fork` may hold this end, too. Then closing it
                    // does not remove it from the set.
                    worker.io.unwatch_requests(&self.events);
                    worker.send_shutdown();
                }
                SlotState::Vacant(_) => slot.state = SlotState::Retired,
                SlotState::Starting | SlotState::Retired => {}
            }
        }
    }
}
