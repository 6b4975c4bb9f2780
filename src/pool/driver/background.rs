//! The background thread: it pumps events while no caller waits, starts workers, and forwards
//! signals.

use super::{FLUSH, TAKEOVER, takeover::AlarmAction};
use crate::error::Error;
use crate::pool::{
    pool::{Pool, State},
    task::Wakeups,
    worker_handle::{RefusedSignal, WorkerHandle, earlier},
};
use crate::process::background_threads::BackgroundThreads;
use crate::sys::poll::Interest;
use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread::{self, JoinHandle},
    time::Instant,
};

impl Pool {
    /// Starts the background thread, unless it runs.
    pub(crate) fn start_thread(self: &Arc<Self>) -> io::Result<()> {
        let mut thread = self.driver.thread.lock();
        self.driver.is_paused.store(false, Ordering::Release);
        if thread.is_none() {
            let pool = Arc::clone(self);
            let builder = thread::Builder::new().name("procpool".to_owned());
            *thread = Some(builder.spawn(move || pool.run_in_background())?);
        }
        Ok(())
    }

    /// Joins the background thread, which must be about to end. Does nothing in that thread itself,
    /// which may drop the pool's last handle.
    pub(crate) fn join_thread(&self) {
        // 1. This thread joins the background thread.
        // 2. That thread drops the pool's last handle, and calls this function.
        // 3. It must find the lock free: so the handle is taken first, and the lock is released
        //    before the join.
        let thread = self.driver.thread.lock().take_if(is_other_thread);
        join(thread);
    }

    /// Pumps the events that no caller waits for, until the pool has ended or is paused.
    pub(crate) fn run_in_background(&self) {
        let mut ready = Vec::new();
        self.state.lock().driver.background = Some(thread::current().id());
        loop {
            self.driver
                .wait_for_events(Some(Instant::now()), &mut ready);
            self.handle_events(&mut self.state.lock(), &ready);
            if !self.tick() {
                return self.wake(self.feeders.waiting());
            }
            if self.driver.is_paused.load(Ordering::Acquire) {
                return;
            }
            self.do_chores();
            // Never spins: no caller waits for this thread, and the workers need the cores.
            self.wait_for_work();
        }
    }

    /// Sleeps until something happens that no caller waits for.
    fn wait_for_work(&self) {
        let due = self.prepare_background_sleep(&mut self.state.lock());
        let is_led = self.state.lock().driver.leader.is_some();
        // 1. `tick` read all replies.
        // 2. A worker appended a reply; its wake mode was `Never`, so it woke no thread.
        // 3. The wake modes were set above.
        // Only this check finds that reply.
        if !is_led && !self.may_sleep() {
            return;
        }
        self.sleep_until(due);
        self.driver.background_wakeup.clear();
        let mut state = self.state.lock();
        state.driver.is_armed = false;
        state.driver.timer = None;
    }

    /// Returns when to wake without an event.
    fn prepare_background_sleep(&self, state: &mut State) -> Option<Instant> {
        // A sleeping leader handles every event. An open gate would wake this thread, too.
        if !state.driver.leader_sleeps {
            self.driver.set_gate(Interest::ReadOnce);
            state.driver.is_armed = true;
        }
        state.driver.takeover.cancel();
        // A leader has set the wake modes, and polls the rings by itself.
        let poll = if state.driver.leader.is_some() {
            None
        } else {
            state.scheduler.choose_wake_modes()
        };
        state.driver.timer = earlier(poll, state.scheduler.next_deadline(true));
        state.driver.timer
    }

    /// Sleeps until there is something to do, or until `due`. Sleeps on after an alarm that expired
    /// early, and after overdue items were sent: neither is a reason to take over from a caller.
    fn sleep_until(&self, due: Option<Instant>) {
        let mut ready = Vec::new();
        loop {
            let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
            // Cannot fail: the poller and the buffer are valid.
            let _ = self.driver.gate.wait(timeout, &mut ready);
            if ready.contains(&FLUSH) {
                self.flush_overdue();
            }
            let takes_over = ready.contains(&TAKEOVER) && self.handle_takeover_alarm();
            let is_alarm = |token: &u64| [FLUSH, TAKEOVER].contains(token);
            if takes_over || ready.is_empty() || !ready.iter().all(is_alarm) {
                return;
            }
        }
    }

    /// Returns whether this thread takes over from a departed leader.
    fn handle_takeover_alarm(&self) -> bool {
        self.driver.takeover_alarm.clear();
        let mut state = self.state.lock();
        match state.driver.takeover.on_alarm(Instant::now()) {
            AlarmAction::TakeOver => return true,
            AlarmAction::Rearm(delay) => self.driver.takeover_alarm.set(delay),
            AlarmAction::Ignore => {}
        }
        false
    }

    /// Whether the calling thread is the background thread, which then runs a waker of the user.
    pub(crate) fn is_background_thread(&self) -> bool {
        self.state.lock().driver.is_background_thread()
    }

    /// Forwards refused signals and starts workers. Takes long; only the background thread does it.
    pub(crate) fn do_chores(&self) {
        self.forward_refused_signals();
        self.fill_vacancies();
    }

    /// Passes on signals that this process may not send to the process that has forked the worker.
    /// A worker that no process can signal is lost.
    fn forward_refused_signals(&self) {
        loop {
            let refused = self.state.lock().scheduler.take_refused_signal();
            let Some((slot, refused)) = refused else {
                return;
            };
            let RefusedSignal { pid, pidfd, signal } = refused;
            if let Err(reason) = self.origin.signal(pid, &pidfd, signal) {
                self.with_scheduler(|state, wakeups| {
                    state.set_lost(slot, pid, &reason);
                    state.tick(wakeups);
                });
            }
        }
    }

    /// Starts a worker in each vacant slot whose start is due.
    fn fill_vacancies(&self) {
        loop {
            // One slot at a time:
            // 1. A start fails.
            // 2. The failure wakes a waker.
            // 3. The waker waits for the end of the pool.
            // The pool ends only after all slots taken here are filled.
            let vacancy = self.state.lock().scheduler.take_vacancy();
            let Some(slot) = vacancy else { return };
            self.start_worker(slot);
        }
    }

    fn start_worker(&self, slot: usize) {
        let worker = self.state.lock().scheduler.worker_id(slot);
        let started = WorkerHandle::start(&self.origin, &self.setup(worker));
        let mut wakeups = Wakeups::default();
        {
            let mut state = self.state.lock();
            let installed = started.and_then(|worker| {
                let installed = state.scheduler.install(slot, worker);
                installed.map_err(|error| Error::io("failed to watch a worker", error))
            });
            match installed {
                Ok(()) => self.refresh_regions(&state.scheduler),
                Err(error) => state.scheduler.start_failed(slot, error, &mut wakeups),
            }
        }
        // 1. The leader sleeps with the deadlines that it knows.
        // 2. This start adds a worker that may take queued items, or a failure with a deadline for
        //    the next try.
        // 3. The leader must tick.
        self.driver.notify_leader();
        self.wake(wakeups);
    }
}

fn is_other_thread(thread: &mut JoinHandle<()>) -> bool {
    thread.thread().id() != thread::current().id()
}

fn join(thread: Option<JoinHandle<()>>) {
    // The thread does not panic; if it did, the panic hook has reported it.
    let _ = thread.map(JoinHandle::join);
}

impl BackgroundThreads for Pool {
    fn pause(&self) {
        if !self.is_foreign() {
            let thread = {
                // Under the lock: `start_thread` clears the flag under it, too.
                let mut thread = self.driver.thread.lock();
                self.driver.is_paused.store(true, Ordering::Release);
                thread.take_if(is_other_thread)
            };
            self.driver.notify_background();
            join(thread);
            self.callbacks.stop_if_idle();
            self.feeders.join_ended();
        }
    }

    fn resume(self: Arc<Self>) {
        if !self.is_foreign() {
            // If the thread cannot be started, waiting callers drive the pool, and `resume` after
            // the next pause tries again.
            let _ = self.start_thread();
        }
    }
}
