//! Workers that die or cannot be started, and the end of the pool.

use super::{Phase, Slot, State, closed};
use crate::error::{Error, ErrorKind};
use crate::pool::{
    demands::Tries,
    link::{Link, Refused},
    stats::RestartReason,
    task::{Place, Told},
    unit::Unit,
};
use crate::process::fault::Fault;
use crate::sys::signal;
use std::{
    io, mem,
    time::{Duration, Instant},
};

/// How long workers may take to end after they were told to.
const GRACE: Duration = Duration::from_secs(2);

/// Failed starts in a row, in one place, after which a pool without a living worker is broken.
const MOST_FAILURES: u32 = 6;

/// The same when the last of them was killed by SIGKILL, with which it has nothing to do itself: that comes from outside, from the
/// system when memory is short say, and may pass.
const MOST_KILLS: u32 = 9;

/// How often an item is queued again that was the next to start at a ready worker that has ended. By chance, no item meets with
/// more; but a task that ends its worker, and before makes its page say that it has not started, would run forever.
const MOST_LOSSES: u32 = 2;

/// The pause after the first failed start; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest pause between starts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The pause before an item is tried again, doubled with each, less up to half of it: what failed together comes back apart.
fn pause_before_try(tried: u32) -> Duration {
    let pause = (FIRST_PAUSE * (1 << (tried - 1).min(16))).min(LONGEST_PAUSE);
    // Without randomness it is the whole of it.
    let part = getrandom::u32().map_or(0.0, |it| f64::from(it) / f64::from(u32::MAX));
    pause.mul_f64(1.0 - part / 2.0)
}

impl State {
    /// Takes leave of a dead worker whose replies have been read: what had started failed, the rest goes elsewhere.
    pub(super) fn bury(&mut self, slot: usize, told: &mut Told) {
        let Slot::Running(mut link) = mem::replace(&mut self.slots[slot], Slot::Retired) else {
            return;
        };
        self.changes += 1;
        let now = Instant::now();
        let dead_for = link.dead_since.map(|it| now.duration_since(it));
        let ran = link.runs_for(now).unwrap_or_default();
        let ran = ran.saturating_sub(dead_for.unwrap_or_default());
        self.forget_events(&link);
        let reason = match link.verdict {
            Some(_) => RestartReason::Stopped,
            None => RestartReason::Died,
        };
        let error = match link.lost() {
            None => self.error_of(&link),
            Some(reason) => Error::worker_died(link.how_it_ended()).with_message(reason.to_owned()),
        };
        let units = link.take_back_at_end();
        self.work.add(&link.work_at_end(ran));
        let has_run_tasks = link.has_run_tasks();
        let was_ready = link.was_ready();
        let is_loss = was_ready && link.in_flight.is_empty();
        self.end_what_started(&mut link, &error, told);
        if is_loss {
            self.put_back_unless_lost(units, &error, told);
        } else {
            self.put_back(units);
        }
        if !matches!(self.phase, Phase::Open | Phase::Closed) {
            self.end_when_done();
        } else if link.is_leaving {
            self.retire(slot);
        } else if !was_ready && !has_run_tasks {
            let message = format!("failed to start a worker: {error}");
            self.vacate(slot, error.with_message(message), told);
        } else {
            self.counts.restarted(reason);
            self.slots[slot] = Slot::Vacant(Instant::now());
            self.wants_start = true;
        }
    }

    /// Stops watching a worker.
    fn forget_events(&self, link: &Link) {
        self.events.remove(&link.bell);
        self.events.remove(&link.pidfd);
        if let Some(requests) = &link.requests {
            self.events.remove(requests);
        }
    }

    /// Ends what a worker had started: one item, as items start one after the other.
    fn end_what_started(&mut self, link: &mut Link, error: &Error, told: &mut Told) {
        for sent in mem::take(&mut link.in_flight) {
            let verdict = link.verdict.take_if(|it| it.item == sent.item);
            let ended = verdict.map_or_else(|| error.clone(), |it| it.error);
            if link.lost().is_none() {
                self.fail_or_retry(sent.unit, ended, told);
                continue;
            }
            // It may still run, so it is not tried again beside itself.
            let message = match ended.kind() {
                ErrorKind::WorkerDied => ended.to_string(),
                _ => format!("{ended}; {error}"),
            };
            self.fail(&sent.unit, ended.with_message(message), told);
        }
    }

    /// Queues what a worker had not started when it ended, except for an item that was the next too often.
    fn put_back_unless_lost(&mut self, mut units: Vec<Unit>, error: &Error, told: &mut Told) {
        let first = units.first_mut();
        let losses = first.map_or(0, |it| it.with_tries(Tries::count_loss));
        if losses <= MOST_LOSSES {
            return self.put_back(units);
        }
        let mut first = units.remove(0);
        let rest = first.split_off(1);
        self.put_back(rest.into_iter().chain(units).collect());
        let message = format!(
            "{error}; so did {MOST_LOSSES} workers before, when the task was to start next"
        );
        self.fail(&first, error.clone().with_message(message), told);
    }

    /// The error of an item whose worker has ended, with the limit that it has run into.
    fn error_of(&self, link: &Link) -> Error {
        let exit = link.how_it_ended();
        let signal = exit.signal.filter(|_| !exit.stack_overflow);
        let reason = signal.zip(self.limits.as_ref());
        let reason = reason.and_then(|(signal, limits)| limits.reason(signal));
        let reason = link.nonsense().map(str::to_owned).or(reason);
        let error = Error::worker_died(exit);
        match reason {
            None => error,
            Some(reason) => {
                let message = format!("{error}: {reason}");
                error.with_message(message)
            }
        }
    }

    /// Ends an item that lost its worker or panicked, or has it tried again after a pause.
    pub(super) fn fail_or_retry(&mut self, unit: Unit, error: Error, told: &mut Told) {
        let (demands, wanted) = (unit.demands(), unit.wanted() > 0);
        let is_open = matches!(self.phase, Phase::Open | Phase::Closed);
        if !demands.retries_after(&error) || !wanted || !is_open {
            return self.fail(&unit, error, told);
        }
        let tries = unit.with_tries(|tries| {
            tries.push(error.clone());
            tries.clone()
        });
        let tried = tries.next() - 1;
        if tried > demands.retries {
            return self.fail(&unit, tries.into_error().unwrap_or(error), told);
        }
        if let Unit::Call(task) = &unit {
            task.set_place(Place::Queue);
        }
        self.counts.retried += 1;
        self.delayed
            .push((Instant::now() + pause_before_try(tried), unit));
    }

    /// Ends an item, and with it those that are not wanted after its failure.
    pub(super) fn fail(&mut self, unit: &Unit, error: Error, told: &mut Told) {
        if self.finish(unit, Err(error), told) {
            self.sweep_cancelled(told);
        }
    }

    /// Queues what is due to be tried again.
    pub(super) fn queue_delayed(&mut self) {
        let now = Instant::now();
        for (_, unit) in self.delayed.extract_if(.., |it| it.0 <= now) {
            self.queue.push_back(unit);
        }
    }

    /// Leaves a place empty for a while after a failed start, or gives up.
    pub(super) fn vacate(&mut self, slot: usize, error: Error, told: &mut Told) {
        let is_killed = error.worker().and_then(|it| it.signal) == Some(signal::KILL);
        let most = if is_killed { MOST_KILLS } else { MOST_FAILURES };
        self.failures[slot] += 1;
        let failures = self.failures[slot];
        let doublings = (failures - 1).min(16);
        let pause = (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
        self.slots[slot] = Slot::Vacant(Instant::now() + pause);
        self.wants_start = true;
        let any_ready = self
            .slots
            .iter()
            .filter_map(Slot::link)
            .any(|it| it.is_ready);
        if failures >= most && !any_ready {
            self.stop(&error.with_kind(ErrorKind::StartFailed), true, told);
        }
    }

    /// Breaks the pool: its initializer failed.
    pub(super) fn break_down(&mut self, fault: &Fault, told: &mut Told) {
        let error = fault.clone().into_error();
        let message = format!("the pool's initializer failed: {error}");
        self.stop(&Error::new(ErrorKind::StartFailed, message), true, told);
    }

    pub(super) fn end_when_done(&mut self) {
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
            self.kill_all();
        }
    }

    /// Kills every worker.
    pub(super) fn kill_all(&mut self) {
        self.links().for_each(Link::kill);
        self.wants_start |= self.has_refused();
    }

    /// Whether a signal to a worker has yet to be sent by another process.
    fn has_refused(&self) -> bool {
        let mut links = self.slots.iter().filter_map(Slot::link);
        links.any(Link::is_refused)
    }

    /// Whether there is something to do that takes long, and so is the background thread's.
    pub(in crate::pool) fn has_chores(&self) -> bool {
        self.has_vacancies() || self.has_refused()
    }

    /// Takes a signal that this process may not send, with the slot of the worker that it is for.
    pub(in crate::pool) fn take_refused(&mut self) -> Option<(usize, Refused)> {
        let mut slots = self.slots.iter_mut().enumerate();
        slots.find_map(|(slot, it)| Some((slot, it.link_mut()?.take_refused()?)))
    }

    /// Gives up a worker that no process can end.
    pub(in crate::pool) fn lose(&mut self, slot: usize, pid: u32, reason: &io::Error) {
        if let Some(link) = self.slots[slot].link_mut().filter(|it| it.pid == pid) {
            link.lose(reason);
        }
    }

    /// Tells the workers to end.
    pub(super) fn end(&mut self, error: Error) {
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
}
