//! Callers that wait: one of them leads, that is, drives the pool meanwhile; the others follow.

use crate::pool::{
    pool::{Pool, park_until},
    scheduler::{PoolPhase, Scheduler},
    worker_handle::earlier,
};
use crate::sys::poll::Interest;
use parking_lot::MutexGuard;
use std::{
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// Between two looks at events of callers that never sleep on them.
const EVENT_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How long the background thread waits for others at once, where it does so in a waker.
pub(crate) const BACKGROUND_FOLLOW_TIMEOUT: Duration = Duration::from_millis(5);

impl Pool {
    /// Waits until `done`, or until the deadline: false. The caller drives the pool meanwhile if
    /// nobody else does.
    ///
    /// `register` has the thread unparked when `done` may have become true; it is needed while
    /// another thread leads.
    pub(crate) fn wait_until(
        &self,
        deadline: Option<Instant>,
        register: &dyn Fn(&Thread),
        done: &dyn Fn() -> bool,
    ) -> bool {
        loop {
            if done() {
                return true;
            }
            let mut state = self.state.lock();
            let has_ended = matches!(state.phase, PoolPhase::Ended(_));
            if state.leader == Some(thread::current().id()) && !has_ended {
                // In a waker that this thread runs as it leads: it goes on leading from there.
                drop(state);
                match self.drive(deadline, done) {
                    DriveOutcome::Done => return true,
                    DriveOutcome::TimedOut => return false,
                    DriveOutcome::Ended => continue,
                }
            }
            if state.leader.is_none() && !has_ended {
                state.leader = Some(thread::current().id());
                state.takeover.cancel();
                drop(state);
                match self.run_as_leader(deadline, done) {
                    DriveOutcome::Done => return true,
                    DriveOutcome::TimedOut => return false,
                    DriveOutcome::Ended => continue,
                }
            }
            let current = thread::current();
            state.followers.push(current.clone());
            let is_background = state.background == Some(current.id());
            drop(state);
            register(&current);
            let timed_out = !done() && self.follow(is_background, deadline);
            let is_done = done();
            self.stop_following(&current, timed_out || is_done);
            if timed_out {
                return is_done;
            }
        }
    }

    /// Waits until somebody has news, or looks again for another reason; true when the deadline has
    /// passed. The background thread, where a waker waits in it, starts workers meanwhile: nobody
    /// else does.
    fn follow(&self, is_background: bool, deadline: Option<Instant>) -> bool {
        if !is_background {
            return park_until(deadline);
        }
        self.do_chores();
        park_until(earlier(
            deadline,
            Some(Instant::now() + BACKGROUND_FOLLOW_TIMEOUT),
        ));
        deadline.is_some_and(|it| it <= Instant::now())
    }

    /// Takes a follower from the list. One that is not there was handed the lead; if it leaves, the
    /// next is.
    fn stop_following(&self, follower: &Thread, leaves: bool) {
        let mut state = self.state.lock();
        let at = state
            .followers
            .iter()
            .position(|it| it.id() == follower.id());
        match at {
            Some(at) => drop(state.followers.swap_remove(at)),
            None if leaves && state.leader.is_none() => {
                state.followers.pop().iter().for_each(Thread::unpark);
            }
            None => {}
        }
    }

    fn run_as_leader(&self, deadline: Option<Instant>, done: &dyn Fn() -> bool) -> DriveOutcome {
        let _lead = LeaderGuard(self);
        self.drive(deadline, done)
    }

    /// Does what is to be done until `done`.
    fn drive(&self, deadline: Option<Instant>, done: &dyn Fn() -> bool) -> DriveOutcome {
        self.stop_wakeups();
        let mut ready = Vec::new();
        let is_background = self.state.lock().is_led_in_background();
        loop {
            self.poll_events(&mut ready);
            let goes_on = self.tick();
            if is_background {
                self.do_chores();
            }
            if done() {
                return DriveOutcome::Done;
            }
            if !goes_on {
                return DriveOutcome::Ended;
            }
            if deadline.is_some_and(|it| it <= Instant::now()) {
                return DriveOutcome::TimedOut;
            }
            if !self.spin_for_reply() {
                self.sleep(deadline, done, &mut ready);
            }
        }
    }

    /// Deaths are told by events alone, and a caller that finds each reply at once never sleeps on
    /// them.
    fn poll_events(&self, ready: &mut Vec<u64>) {
        let now = Instant::now();
        {
            let mut state = self.state.lock();
            if now.duration_since(state.events_polled) < EVENT_POLL_INTERVAL {
                return;
            }
            state.events_polled = now;
        }
        self.wait_for_events(Some(now), ready);
        self.handle_events(&mut self.state.lock(), ready);
    }

    /// Asks for a reply without sleeping, where that pays: with more to do than workers, they need
    /// the cores, and their replies are read in batches.
    fn spin_for_reply(&self) -> bool {
        let few = self.state.lock().outstanding <= self.workers() as u64;
        few && self.spin.lock().spin_until(|| self.has_records())
    }

    /// Sleeps until something happens, with the background thread kept out of it.
    fn sleep(&self, deadline: Option<Instant>, done: &dyn Fn() -> bool, ready: &mut Vec<u64>) {
        let until = {
            let mut state = self.state.lock();
            state.leader_sleeps = true;
            if std::mem::take(&mut state.is_armed) {
                self.set_gate(Interest::None);
            }
            let due = [
                state.choose_wake_modes(),
                state.next_deadline(state.is_led_in_background()),
                deadline,
            ];
            state.leader_until = due.into_iter().flatten().min();
            state.leader_until
        };
        ready.clear();
        if self.may_sleep() && !done() {
            self.wait_for_events(until, ready);
        }
        self.stop_wakeups();
        let mut state = self.state.lock();
        state.leader_sleeps = false;
        self.handle_events(&mut state, ready);
    }

    /// Has the background thread notice what happens from now on.
    fn arm_background(&self, mut state: MutexGuard<'_, Scheduler>, is_due: bool) {
        let due = [state.choose_wake_modes(), state.next_deadline(true)];
        if !state.is_armed {
            state.is_armed = true;
            self.set_gate(Interest::ReadOnce);
        }
        self.arm_timer(&mut state, due.into_iter().flatten().min());
        drop(state);
        // Replies that came while nobody was to be rung for, and timers, need somebody now.
        if is_due || !self.may_sleep() {
            self.control.notify();
        }
    }
}

/// How leading came to an end.
enum DriveOutcome {
    Done,
    TimedOut,
    Ended,
}

/// Hands the lead on when it is dropped: to a caller that waits, or else to the background thread.
struct LeaderGuard<'a>(&'a Pool);

impl Drop for LeaderGuard<'_> {
    fn drop(&mut self) {
        let pool = self.0;
        let mut state = pool.state.lock();
        state.leader = None;
        state.leader_sleeps = false;
        let heir = state.followers.pop();
        heir.iter().for_each(Thread::unpark);
        let is_due = state.has_duties() || matches!(state.phase, PoolPhase::Ended(_));
        if !state.is_armed && heir.is_none() && !is_due {
            // No worker rings until the background thread takes over.
            let is_idle = state.outstanding == 0;
            let delay = state.takeover.leader_left(Instant::now(), is_idle);
            return pool.set_takeover_alarm(delay);
        }
        pool.arm_background(state, is_due);
    }
}
