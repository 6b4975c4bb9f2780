//! The driver: which thread pumps the pool's events, and how that thread is woken.
//!
//! A caller that waits for a result pumps events by itself (the leader), so that its reply need not
//! wake another thread. While no caller waits, the background thread pumps them. The scheduler
//! decides what runs where. The driver calls [`Pool::tick`](super::pool::Pool::tick) at the right
//! moments.
//!
//! The pool's lock guards [`DriverState`]. [`Driver`] holds the descriptors, which need no lock.
//! README.md in the pool's folder defines the terms, and walks through one scenario.

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

/// How much too late a timer may expire before it is set again.
const TIMER_SLACK: Duration = Duration::from_millis(2);

/// The descriptors that threads sleep on, and the background thread.
#[derive(Debug)]
pub(crate) struct Driver {
    /// All events: wake-ups and deaths of workers, room in pipes, `leader_wakeup`.
    events: Arc<Poller>,
    /// The poller that the background thread sleeps in: `events` (one-shot), its own wake-up,
    /// timers.
    gate: Poller,
    /// Wakes the thread that sleeps in `events`. Written by threads that changed the scheduler.
    leader_wakeup: Notifier,
    /// Wakes the background thread. Written by threads that leave chores for it.
    background_wakeup: Notifier,
    /// Expires when the last leader has been away for too long. Set as `DriverState::takeover`
    /// says.
    takeover_alarm: Timer,
    spin: Mutex<Spin>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Whether the background thread must end for a while: the process is about to fork. Written by
    /// `pause` and `start_thread`, read by the background thread.
    is_paused: AtomicBool,
}

impl Driver {
    /// Creates the descriptors. `flush` is the timer of items whose input is slow.
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

    /// Wakes the leader if it sleeps, or else the thread that polls `events` next.
    pub(super) fn notify_leader(&self) {
        self.leader_wakeup.notify();
    }

    /// Clears the leader's wake-up, and returns true, if `token` is the leader's.
    pub(super) fn clear_leader_wakeup(&self, token: u64) -> bool {
        let is_wakeup = token == LEADER_WAKEUP;
        if is_wakeup {
            self.leader_wakeup.clear();
        }
        is_wakeup
    }

    /// Wakes the background thread: there are chores.
    pub(super) fn notify_background(&self) {
        self.background_wakeup.notify();
    }

    /// Makes the background thread wake at `due`, give or take [`TIMER_SLACK`].
    pub(super) fn arm_timer(&self, state: &mut DriverState, due: Option<Instant>) {
        let Some(due) = due.filter(|due| state.timer.is_none_or(|timer| *due < timer)) else {
            return;
        };
        let is_late = |timer: Instant| timer > Instant::now() + TIMER_SLACK;
        // The background thread computes its deadline again once it is notified. Only a late timer
        // is worth that: with limits of time, each task would wake that thread otherwise.
        if state.timer.is_none_or(is_late) {
            state.timer = Some(due);
            self.notify_background();
        }
    }

    /// Makes the background thread take over soon, if no thread pumps events.
    pub(super) fn expedite_takeover(&self, state: &mut DriverState) {
        self.set_takeover_alarm(state.takeover.expedite());
    }

    fn set_takeover_alarm(&self, delay: Option<Duration>) {
        if let Some(delay) = delay {
            self.takeover_alarm.set(delay);
        }
    }

    /// Blocks until an event or the deadline; forever if that is `None`.
    fn wait_for_events(&self, until: Option<Instant>, ready: &mut Vec<u64>) {
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        // Cannot fail: the poller and the buffer are valid.
        let _ = self.events.wait(timeout, ready);
    }

    /// Opens the gate for the next event (`ReadOnce`), or closes it (`None`).
    fn set_gate(&self, interest: Interest) {
        // Cannot fail: the descriptor is in the set.
        let _ = self.gate.change(&*self.events, EVENTS, interest);
    }
}

/// Which thread pumps events, and when a sleeping thread wakes. Guarded by the pool's lock.
#[derive(Debug)]
pub(crate) struct DriverState {
    /// Waiting callers that could lead. A leader that leaves takes the last and unparks it.
    followers: Vec<Thread>,
    /// The thread that leads. Written by that thread.
    pub(super) leader: Option<ThreadId>,
    /// The background thread. A waker that it runs may wait for the pool, which makes it the
    /// leader.
    background: Option<ThreadId>,
    /// When a leader last polled `events`.
    events_polled: Instant,
    /// Whether the leader sleeps in `events` and must be woken after changes by other threads.
    /// Written by the leader.
    pub(super) leader_sleeps: bool,
    /// When a sleeping leader wakes by itself. Written by the leader.
    leader_until: Option<Instant>,
    /// Whether the gate is open: the background thread notices the next event. Set before that
    /// thread sleeps, and by a leader that leaves; cleared by a leader before it sleeps.
    is_armed: bool,
    takeover: TakeoverTimer,
    /// When the background thread wakes by itself. Written by it, and by `Driver::arm_timer`.
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

    /// Unparks all followers: the pool has ended, and some of them wait for that.
    pub(super) fn unpark_followers(&mut self) {
        self.followers.drain(..).for_each(|thread| thread.unpark());
    }

    /// Removes a follower from the list. If it `leaves`, it does not lead.
    fn stop_following(&mut self, follower: &Thread, leaves: bool) {
        let is_follower = |thread: &Thread| thread.id() == follower.id();
        match self.followers.iter().position(is_follower) {
            Some(index) => drop(self.followers.swap_remove(index)),
            // 1. A leader left, took this follower off the list, and unparked it.
            // 2. The follower does not lead, as its task is done.
            // 3. The next follower must be woken in its place.
            None if leaves && self.leader.is_none() => self.unpark_one(),
            // It leads next, or another thread leads by now.
            None => {}
        }
    }

    fn unpark_one(&mut self) {
        if let Some(next) = self.followers.pop() {
            next.unpark();
        }
    }
}
