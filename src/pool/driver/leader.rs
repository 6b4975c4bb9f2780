//! A caller that waits for a result: it leads, that is, it pumps the pool's events, or it follows
//! another caller that does (the Leader/Followers pattern, Schmidt et al., "Pattern-Oriented
//! Software Architecture 2", 2000).

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

/// How long the background thread follows at a time, if a waker that it runs waits for the pool.
/// In between it does its chores.
pub(crate) const BACKGROUND_FOLLOW_TIMEOUT: Duration = Duration::from_millis(5);

/// Why a leader stopped pumping events.
enum DriveOutcome {
    Done,
    TimedOut,
    /// No worker is left.
    Ended,
}

/// The part that a waiting caller takes next.
enum Role {
    /// The thread leads already: 1. It leads. 2. It runs a waker. 3. The waker waits for this pool.
    LeadsAlready,
    Leads,
    /// Another thread leads, or the pool has ended.
    Follows {
        is_background: bool,
    },
}

impl Pool {
    /// Blocks until `done` returns true, or until the deadline. Returns the last result of `done`.
    ///
    /// The caller pumps events in the meantime, unless another caller does. `register` makes a
    /// change of `done` unpark the thread. Only a follower calls it.
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
                // No thread leads a pool that has ended. The next role is that of a follower, which
                // waits for `done` alone.
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
        // 1. `done` returned false.
        // 2. The leader completed the task, and unparked its observers.
        // 3. `register` added this thread.
        // No thread unparks it for that change: it asks once more.
        let timed_out = !done() && self.park(is_background, deadline);
        // 1. The leader left, and chose this thread.
        // 2. This thread leaves, as its task is done.
        // Then it must choose the next leader itself, or the other followers would sleep on.
        let leaves = timed_out || done();
        self.state.lock().driver.stop_following(&current, leaves);
        timed_out
    }

    /// Parks until unparked, or until the deadline has passed (true). The background thread wakes
    /// more often, because no other thread starts workers.
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
                // No other thread starts the workers that `done` may wait for.
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

    /// Polls `events` at most once a millisecond. Deaths are reported only there, and a leader that
    /// always finds replies by spinning never sleeps in `events`.
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

    /// Spins for a reply, and returns whether there is one. Does not spin with more tasks than
    /// workers: the workers need the cores, and their replies are read in batches.
    fn spin_for_reply(&self) -> bool {
        let outstanding = self.state.lock().scheduler.outstanding;
        outstanding <= self.workers() as u64
            && self.driver.spin.lock().spin_until(|| self.has_records())
    }

    /// Sleeps until an event or a deadline.
    ///
    /// Closes the gate first: otherwise each event would wake the background thread, too. Then sets
    /// the wake modes, and polls the rings for the last time. A full barrier between the two makes
    /// sure that a reply is either found here, or wakes this thread.
    fn sleep(&self, deadline: Option<Instant>, done: &dyn Fn() -> bool, ready: &mut Vec<u64>) {
        let until = self.prepare_sleep(&mut self.state.lock(), deadline);
        ready.clear();
        // 1. This thread ticked.
        // 2. A worker appended a reply; its wake mode was `Never`.
        // 3. The wake modes were set.
        // `may_sleep` finds that reply.
        //
        // 1. This thread ticked.
        // 2. Another thread ticked (`is_done`), read the reply, and saw no sleeping leader.
        // 3. `leader_sleeps` was set.
        // `done` finds that outcome; a change after step 3 notifies `leader_wakeup`.
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
        // Under the lock: `prepare_background_sleep` sees either `leader_sleeps`, or opened the
        // gate before, and set `is_armed`.
        if mem::take(&mut state.driver.is_armed) {
            self.driver.set_gate(Interest::None);
        }
        let poll = state.scheduler.choose_wake_modes();
        let in_background = state.driver.is_led_in_background();
        let due = state.scheduler.next_deadline(in_background);
        state.driver.leader_until = earlier(earlier(poll, due), deadline);
        state.driver.leader_until
    }

    /// Makes the background thread notice all further events.
    fn arm_background(&self, mut state: MutexGuard<'_, State>, is_urgent: bool) {
        let poll = state.scheduler.choose_wake_modes();
        let due = earlier(poll, state.scheduler.next_deadline(true));
        if !state.driver.is_armed {
            state.driver.is_armed = true;
            self.driver.set_gate(Interest::ReadOnce);
        }
        self.driver.arm_timer(&mut state.driver, due);
        drop(state);
        // 1. The leader read all replies.
        // 2. A worker appended a reply; its wake mode was `Never`.
        // 3. The wake modes were set above.
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
            // The wake modes stay `Never`: no worker wakes a thread until the background thread
            // takes over, or another caller leads.
            let is_idle = state.scheduler.outstanding == 0;
            let delay = state.driver.takeover.leader_left(Instant::now(), is_idle);
            return pool.driver.set_takeover_alarm(delay);
        }
        pool.arm_background(state, is_urgent);
    }
}

impl DriverState {
    /// Ends the lead and unparks a follower, which leads next. Returns whether there was one.
    fn leave_lead(&mut self) -> bool {
        self.leader = None;
        self.leader_sleeps = false;
        let next = self.followers.pop();
        next.iter().for_each(Thread::unpark);
        next.is_some()
    }
}
