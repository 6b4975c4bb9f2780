//! A caller that waits for a result: it leads, that is, it pumps the pool's events, or it follows another caller that does
//! (the Leader/Followers pattern, Schmidt et al., "Pattern-Oriented Software Architecture 2", 2000).

use super::DriverState;
use crate::pool::{
    pool::{Pool, State, park_until},
    worker_handle::earlier,
};
use crate::sys::poll::Interest;
use parking_lot::MutexGuard;
use std::{
    mem,
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// How often a leader that never sleeps polls `events`.
const EVENT_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How long the background thread follows at a time, when a waker that it runs waits for the pool.
pub(crate) const BACKGROUND_FOLLOW_TIMEOUT: Duration = Duration::from_millis(5);

/// Why a leader stopped pumping events.
enum DriveOutcome {
    Done,
    TimedOut,
    /// No worker is left.
    Ended,
}

/// What a caller that waits does next.
enum Role {
    /// It leads already: a waker that this leader runs waits for the same pool.
    LeadsAlready,
    Leads,
    Follows {
        is_background: bool,
    },
}

impl Pool {
    /// Waits until `done` returns true, or until the deadline; returns whether `done`.
    ///
    /// The caller pumps events meanwhile, unless another caller does. `register` makes a change of `done` unpark the thread;
    /// it is called only while another thread leads.
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
            let outcome = match self.take_role() {
                Role::LeadsAlready => self.drive(deadline, done),
                Role::Leads => self.run_as_leader(deadline, done),
                Role::Follows { is_background } => {
                    if self.follow(is_background, deadline, register, done) {
                        return done();
                    }
                    continue;
                }
            };
            match outcome {
                DriveOutcome::Done => return true,
                DriveOutcome::TimedOut => return false,
                DriveOutcome::Ended => {}
            }
        }
    }

    fn take_role(&self) -> Role {
        let mut state = self.state.lock();
        let has_ended = state.scheduler.has_ended();
        let driver = &mut state.driver;
        if driver.is_led_by_this_thread() && !has_ended {
            return Role::LeadsAlready;
        }
        if driver.leader.is_none() && !has_ended {
            driver.leader = Some(thread::current().id());
            driver.takeover.cancel();
            return Role::Leads;
        }
        driver.followers.push(thread::current());
        Role::Follows {
            is_background: driver.is_background_thread(),
        }
    }

    /// Waits once as a follower. Returns whether the deadline has passed.
    fn follow(
        &self,
        is_background: bool,
        deadline: Option<Instant>,
        register: &dyn Fn(&Thread),
        done: &dyn Fn() -> bool,
    ) -> bool {
        let current = thread::current();
        register(&current);
        // What became done before `register` unparks nobody.
        let timed_out = !done() && self.park(is_background, deadline);
        let leaves = timed_out || done();
        self.state.lock().driver.stop_following(&current, leaves);
        timed_out
    }

    /// Parks until there is news or the deadline has passed (true). The background thread wakes more often, to start
    /// workers: no other thread does.
    fn park(&self, is_background: bool, deadline: Option<Instant>) -> bool {
        if !is_background {
            return park_until(deadline);
        }
        self.do_chores();
        let until = Instant::now() + BACKGROUND_FOLLOW_TIMEOUT;
        park_until(earlier(deadline, Some(until)));
        deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    fn run_as_leader(&self, deadline: Option<Instant>, done: &dyn Fn() -> bool) -> DriveOutcome {
        let _guard = LeaderGuard(self);
        self.drive(deadline, done)
    }

    /// Pumps events until `done` returns true.
    fn drive(&self, deadline: Option<Instant>, done: &dyn Fn() -> bool) -> DriveOutcome {
        self.stop_wakeups();
        let mut ready = Vec::new();
        let is_background = self.state.lock().driver.is_led_in_background();
        loop {
            self.poll_events(&mut ready);
            let is_alive = self.tick();
            if is_background {
                self.do_chores();
            }
            if done() {
                return DriveOutcome::Done;
            }
            if !is_alive {
                return DriveOutcome::Ended;
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return DriveOutcome::TimedOut;
            }
            if !self.spin_for_reply() {
                self.sleep(deadline, done, &mut ready);
            }
        }
    }

    /// Polls `events` at most once a millisecond. Deaths are reported only there, and a leader that finds each reply by
    /// spinning never sleeps on them.
    fn poll_events(&self, ready: &mut Vec<u64>) {
        let now = Instant::now();
        {
            let mut state = self.state.lock();
            if now.duration_since(state.driver.events_polled) < EVENT_POLL_INTERVAL {
                return;
            }
            state.driver.events_polled = now;
        }
        self.driver.wait_for_events(Some(now), ready);
        self.handle_events(&mut self.state.lock(), ready);
    }

    /// Spins for a reply, where that pays: with more tasks than workers, the workers need the cores, and their replies are
    /// read in batches.
    fn spin_for_reply(&self) -> bool {
        let outstanding = self.state.lock().scheduler.outstanding;
        outstanding <= self.workers() as u64
            && self.driver.spin.lock().spin_until(|| self.has_records())
    }

    /// Sleeps until something happens.
    ///
    /// The gate is closed first: else each event would wake the background thread, too. Workers are told to wake this
    /// thread before the rings are looked at for the last time, with a full barrier between, so that a reply is either seen
    /// here or wakes this thread.
    fn sleep(&self, deadline: Option<Instant>, done: &dyn Fn() -> bool, ready: &mut Vec<u64>) {
        let until = self.prepare_sleep(&mut self.state.lock(), deadline);
        ready.clear();
        if self.may_sleep() && !done() {
            self.driver.wait_for_events(until, ready);
        }
        self.stop_wakeups();
        let mut state = self.state.lock();
        state.driver.leader_sleeps = false;
        self.handle_events(&mut state, ready);
    }

    /// Returns when to wake without an event.
    fn prepare_sleep(&self, state: &mut State, deadline: Option<Instant>) -> Option<Instant> {
        state.driver.leader_sleeps = true;
        if mem::take(&mut state.driver.is_armed) {
            self.driver.set_gate(Interest::None);
        }
        let poll = state.scheduler.choose_wake_modes();
        let in_background = state.driver.is_led_in_background();
        let due = state.scheduler.next_deadline(in_background);
        state.driver.leader_until = earlier(earlier(poll, due), deadline);
        state.driver.leader_until
    }

    /// Makes the background thread notice what happens from now on.
    fn arm_background(&self, mut state: MutexGuard<'_, State>, is_urgent: bool) {
        let poll = state.scheduler.choose_wake_modes();
        let due = earlier(poll, state.scheduler.next_deadline(true));
        if !state.driver.is_armed {
            state.driver.is_armed = true;
            self.driver.set_gate(Interest::ReadOnce);
        }
        self.driver.arm_timer(&mut state.driver, due);
        drop(state);
        // 1. The leader read all replies. 2. A worker replied; its wake mode was `Never`. 3. The wake modes were set above.
        // No wake-up announces that reply.
        if is_urgent || !self.may_sleep() {
            self.driver.notify_leader();
        }
    }
}

/// Hands the lead on when it is dropped: to a follower, or else to the background thread.
struct LeaderGuard<'a>(&'a Pool);

impl Drop for LeaderGuard<'_> {
    fn drop(&mut self) {
        let pool = self.0;
        let mut state = pool.state.lock();
        let next = state.driver.leave_lead();
        let is_urgent = state.scheduler.has_duties() || state.scheduler.has_ended();
        if !state.driver.is_armed && !next && !is_urgent {
            // No worker wakes any thread until the background thread takes over.
            let is_idle = state.scheduler.outstanding == 0;
            let delay = state.driver.takeover.leader_left(Instant::now(), is_idle);
            return pool.driver.set_takeover_alarm(delay);
        }
        pool.arm_background(state, is_urgent);
    }
}

impl DriverState {
    /// Ends the lead and wakes the next leader; false if no follower is there.
    fn leave_lead(&mut self) -> bool {
        self.leader = None;
        self.leader_sleeps = false;
        let next = self.followers.pop();
        next.iter().for_each(Thread::unpark);
        next.is_some()
    }
}
