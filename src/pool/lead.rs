//! Callers that wait: one of them leads, that is, drives the pool meanwhile; the others follow.

use super::{
    dispatcher::{Phase, State},
    link::earlier,
    shared::{Shared, park_until},
};
use crate::sys::poll::Interest;
use parking_lot::MutexGuard;
use std::{
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// Between two looks at events of callers that never sleep on them.
const LOOK: Duration = Duration::from_millis(1);

/// How long the background thread waits for others at once, where it does so in a waker.
pub(super) const TURN: Duration = Duration::from_millis(5);

impl Shared {
    /// Waits until `done`, or until the deadline: false. The caller drives the pool meanwhile if nobody else does.
    ///
    /// `register` has the thread unparked when `done` may have become true; it is needed while another thread leads.
    pub(super) fn wait_until(
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
            let has_ended = matches!(state.phase, Phase::Ended(_));
            if state.leader == Some(thread::current().id()) && !has_ended {
                // In a waker that this thread runs as it leads: it goes on leading from there.
                drop(state);
                match self.drive(deadline, done) {
                    Led::Done => return true,
                    Led::TimedOut => return false,
                    Led::Ended => continue,
                }
            }
            if state.leader.is_none() && !has_ended {
                state.leader = Some(thread::current().id());
                state.relief.cancel();
                drop(state);
                match self.lead(deadline, done) {
                    Led::Done => return true,
                    Led::TimedOut => return false,
                    Led::Ended => continue,
                }
            }
            let current = thread::current();
            state.followers.push(current.clone());
            let is_background = state.background == Some(current.id());
            drop(state);
            register(&current);
            let timed_out = !done() && self.follow(is_background, deadline);
            let is_done = done();
            self.withdraw(&current, timed_out || is_done);
            if timed_out {
                return is_done;
            }
        }
    }

    /// Waits until somebody has news, or looks again for another reason; true when the deadline has passed. The background thread,
    /// where a waker waits in it, starts workers meanwhile: nobody else does.
    fn follow(&self, is_background: bool, deadline: Option<Instant>) -> bool {
        if !is_background {
            return park_until(deadline);
        }
        self.do_chores();
        park_until(earlier(deadline, Some(Instant::now() + TURN)));
        deadline.is_some_and(|it| it <= Instant::now())
    }

    /// Takes a follower from the list. One that is not there was handed the lead; if it leaves, the next is.
    fn withdraw(&self, follower: &Thread, leaves: bool) {
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

    fn lead(&self, deadline: Option<Instant>, done: &dyn Fn() -> bool) -> Led {
        let _lead = Lead(self);
        self.drive(deadline, done)
    }

    /// Does what is to be done until `done`.
    fn drive(&self, deadline: Option<Instant>, done: &dyn Fn() -> bool) -> Led {
        self.wake_up();
        let mut ready = Vec::new();
        let is_background = self.state.lock().is_led_in_background();
        loop {
            self.look_at_events(&mut ready);
            let goes_on = self.advance();
            if is_background {
                self.do_chores();
            }
            if done() {
                return Led::Done;
            }
            if !goes_on {
                return Led::Ended;
            }
            if deadline.is_some_and(|it| it <= Instant::now()) {
                return Led::TimedOut;
            }
            if !self.spin_for_a_reply() {
                self.sleep(deadline, done, &mut ready);
            }
        }
    }

    /// Deaths are told by events alone, and a caller that finds each reply at once never sleeps on them.
    fn look_at_events(&self, ready: &mut Vec<u64>) {
        let now = Instant::now();
        {
            let mut state = self.state.lock();
            if now.duration_since(state.looked) < LOOK {
                return;
            }
            state.looked = now;
        }
        self.wait_for_events(Some(now), ready);
        self.notice(&mut self.state.lock(), ready);
    }

    /// Asks for a reply without sleeping, where that pays: with more to do than workers, they need the cores, and their
    /// replies are read in batches.
    fn spin_for_a_reply(&self) -> bool {
        let few = self.state.lock().outstanding <= self.workers() as u64;
        few && self.spin.lock().until(|| self.has_records())
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
                state.fall_asleep(),
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
        self.wake_up();
        let mut state = self.state.lock();
        state.leader_sleeps = false;
        self.notice(&mut state, ready);
    }

    /// Has the background thread notice what happens from now on.
    fn hand_to_background(&self, mut state: MutexGuard<'_, State>, is_due: bool) {
        let due = [state.fall_asleep(), state.next_deadline(true)];
        if !state.is_armed {
            state.is_armed = true;
            self.set_gate(Interest::ReadOnce);
        }
        self.care_for_timers(&mut state, due.into_iter().flatten().min());
        drop(state);
        // Replies that came while nobody was to be rung for, and timers, need somebody now.
        if is_due || !self.may_sleep() {
            self.control.raise();
        }
    }
}

/// How leading came to an end.
enum Led {
    Done,
    TimedOut,
    Ended,
}

/// Hands the lead on when it is dropped: to a caller that waits, or else to the background thread.
struct Lead<'a>(&'a Shared);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let shared = self.0;
        let mut state = shared.state.lock();
        state.leader = None;
        state.leader_sleeps = false;
        let heir = state.followers.pop();
        heir.iter().for_each(Thread::unpark);
        let is_due = state.has_duties() || matches!(state.phase, Phase::Ended(_));
        if !state.is_armed && heir.is_none() && !is_due {
            // No worker rings until the background thread takes over.
            let is_idle = state.outstanding == 0;
            let delay = state.relief.leader_leaves(Instant::now(), is_idle);
            return shared.set_relief(delay);
        }
        shared.hand_to_background(state, is_due);
    }
}
