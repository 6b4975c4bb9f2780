//! The driver: which thread pumps the pool's events, and how that thread is woken.
//!
//! A caller that waits for a result pumps events by itself (the leader), so that no other thread has
//! to be woken for its reply. While no caller waits, the background thread does. The scheduler decides
//! what runs where; the driver only calls [`Pool::tick`](super::pool::Pool::tick) at the right moments.
//!
//! [`DriverState`] lies under the pool's lock. [`Driver`] holds the descriptors, which need no lock.
//! README.md in the pool's folder walks through one scenario.

pub(crate) mod background;
pub(crate) mod callbacks;
pub(crate) mod leader;
pub(crate) mod takeover;

use crate::sys::{
    poll::{Interest, Notifier, Poller, Timer},
    spin::Spin,
};
use parking_lot::Mutex;
use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
    thread::{self, JoinHandle, Thread, ThreadId},
    time::{Duration, Instant},
};
use takeover::TakeoverTimer;

/// The token of `leader_wakeup` in `events`. Every other token there belongs to a worker.
const LEADER_WAKEUP: u64 = u64::MAX;

/// The tokens in `gate`.
const EVENTS: u64 = 0;
const BACKGROUND_WAKEUP: u64 = 1;
const TAKEOVER: u64 = 2;
const FLUSH: u64 = 3;

/// A timer that expires up to this much later than needed is not set again.
const TIMER_SLACK: Duration = Duration::from_millis(2);

/// The descriptors that threads sleep on, and the background thread.
#[derive(Debug)]
pub(crate) struct Driver {
    /// Everything that can happen: wake-ups and deaths of workers, room in pipes, `leader_wakeup`.
    events: Arc<Poller>,
    /// What the background thread sleeps on: `events` (one-shot), and what concerns it alone.
    gate: Poller,
    leader_wakeup: Notifier,
    background_wakeup: Notifier,
    /// Expires when a departed leader has been away for too long; set by `DriverState::takeover`.
    takeover_alarm: Timer,
    spin: Mutex<Spin>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// The background thread is to end for a while: the process is about to be copied.
    is_paused: AtomicBool,
}

impl Driver {
    /// Creates the descriptors. `flush` expires when items of a slow input are overdue.
    pub(super) fn new(events: Arc<Poller>, flush: &Timer) -> io::Result<Self> {
        let driver = Self {
            events,
            gate: Poller::new()?,
            leader_wakeup: Notifier::new()?,
            background_wakeup: Notifier::new()?,
            takeover_alarm: Timer::new()?,
            spin: Mutex::new(Spin::default()),
            thread: Mutex::new(None),
            is_paused: AtomicBool::new(false),
        };
        let (events, gate) = (&driver.events, &driver.gate);
        events.add(&driver.leader_wakeup, LEADER_WAKEUP, Interest::Read)?;
        gate.add(&**events, EVENTS, Interest::ReadOnce)?;
        gate.add(&driver.background_wakeup, BACKGROUND_WAKEUP, Interest::Read)?;
        gate.add(&driver.takeover_alarm, TAKEOVER, Interest::Read)?;
        gate.add(flush, FLUSH, Interest::Read)?;
        Ok(driver)
    }

    /// Wakes the leader if it sleeps, or else whichever thread polls `events` next.
    pub(super) fn notify_leader(&self) {
        self.leader_wakeup.notify();
    }

    /// Clears the wake-up of the leader if `token` is its token.
    pub(super) fn clear_leader_wakeup(&self, token: u64) -> bool {
        let is_it = token == LEADER_WAKEUP;
        if is_it {
            self.leader_wakeup.clear();
        }
        is_it
    }

    /// Wakes the background thread: there is something that only it does.
    pub(super) fn notify_background(&self) {
        self.background_wakeup.notify();
    }

    /// Makes the background thread wake by `due`, if no leader does.
    pub(super) fn arm_timer(&self, state: &mut DriverState, due: Option<Instant>) {
        let Some(due) = due.filter(|due| state.timer.is_none_or(|timer| *due < timer)) else {
            return;
        };
        let is_late = |timer: Instant| timer > Instant::now() + TIMER_SLACK;
        if state.timer.is_none_or(is_late) {
            state.timer = Some(due);
            self.notify_background();
        }
    }

    /// Makes the background thread take over soon if no thread pumps events now.
    pub(super) fn expedite_takeover(&self, state: &mut DriverState) {
        self.set_takeover_alarm(state.takeover.expedite());
    }

    fn set_takeover_alarm(&self, delay: Option<Duration>) {
        if let Some(delay) = delay {
            self.takeover_alarm.set(delay);
        }
    }

    /// Waits for events until the deadline (forever without one).
    fn wait_for_events(&self, until: Option<Instant>, ready: &mut Vec<u64>) {
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        // Cannot fail: the poller and the buffer are valid.
        let _ = self.events.wait(timeout, ready);
    }

    /// Makes the background thread notice the next event (`ReadOnce`), or none (`None`).
    fn set_gate(&self, interest: Interest) {
        // Cannot fail: the descriptor is in the set.
        let _ = self.gate.change(&*self.events, EVENTS, interest);
    }
}

/// Which thread pumps events, and when a sleeping one wakes. Guarded by the pool's lock.
#[derive(Debug)]
pub(crate) struct DriverState {
    /// Threads that wait and could lead.
    followers: Vec<Thread>,
    pub(super) leader: Option<ThreadId>,
    /// The background thread. A waker that it runs may wait for the pool, and so make it the leader.
    background: Option<ThreadId>,
    /// When a leader last polled `events`.
    events_polled: Instant,
    /// The leader sleeps on `events` and must be woken after changes by other threads. Written by the leader.
    pub(super) leader_sleeps: bool,
    /// When a sleeping leader wakes by itself. Written by the leader.
    leader_until: Option<Instant>,
    /// The background thread would notice the next event.
    is_armed: bool,
    takeover: TakeoverTimer,
    /// When the background thread wakes by itself, or by when it was told to look.
    timer: Option<Instant>,
}

impl DriverState {
    pub(super) fn new() -> Self {
        Self {
            followers: Vec::new(),
            leader: None,
            background: None,
            events_polled: Instant::now(),
            leader_sleeps: false,
            leader_until: None,
            is_armed: true,
            takeover: TakeoverTimer::default(),
            timer: None,
        }
    }

    /// Whether the background thread leads, in a waker that it runs.
    pub(super) fn is_led_in_background(&self) -> bool {
        self.leader.is_some() && self.leader == self.background
    }

    /// Whether a sleeping leader would wake after `due`.
    pub(super) fn leader_oversleeps(&self, due: Option<Instant>) -> bool {
        due.is_some_and(|due| self.leader_until.is_none_or(|until| due < until))
    }

    fn is_led_by_this_thread(&self) -> bool {
        self.leader == Some(thread::current().id())
    }

    pub(super) fn is_background_thread(&self) -> bool {
        self.background == Some(thread::current().id())
    }

    /// Wakes every follower: the pool has ended, and some of them wait for that.
    pub(super) fn unpark_followers(&mut self) {
        self.followers.drain(..).for_each(|thread| thread.unpark());
    }

    /// Removes a follower from the list. A follower that is not there was made the next leader; if it leaves instead, the
    /// one after it is woken.
    fn stop_following(&mut self, follower: &Thread, leaves: bool) {
        let is_follower = |thread: &Thread| thread.id() == follower.id();
        match self.followers.iter().position(is_follower) {
            Some(index) => drop(self.followers.swap_remove(index)),
            None if leaves && self.leader.is_none() => self.unpark_one(),
            None => {}
        }
    }

    fn unpark_one(&mut self) {
        if let Some(next) = self.followers.pop() {
            next.unpark();
        }
    }
}
