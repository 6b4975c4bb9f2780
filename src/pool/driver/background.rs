//! The pool's own thread: it notices what happens while no caller waits, and starts workers.

use crate::error::Error;
use crate::pool::{
    driver::takeover::AlarmAction,
    pool::{FLUSH, Pool, TAKEOVER},
    task::Wakeups,
    worker_handle::{RefusedSignal, WorkerHandle},
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
    /// Starts the thread, unless it runs.
    pub(crate) fn start_thread(self: &Arc<Self>) -> io::Result<()> {
        let mut thread = self.thread.lock();
        self.is_paused.store(false, Ordering::Release);
        if thread.is_none() {
            let pool = Arc::clone(self);
            let builder = thread::Builder::new().name("procpool".to_owned());
            *thread = Some(builder.spawn(move || pool.run_in_background())?);
        }
        Ok(())
    }

    /// Waits for its end, which must be near; not if it is the calling thread, which may drop the
    /// pool's last handle.
    pub(crate) fn join_thread(&self) {
        // Taken first: the thread may be on its way here itself.
        let thread = self.thread.lock().take_if(is_other_thread);
        join(thread);
    }

    /// What the background thread does until the pool has ended: it waits for events that no caller
    /// waits for, and does what follows from them.
    pub(crate) fn run_in_background(&self) {
        let mut ready = Vec::new();
        self.state.lock().background = Some(thread::current().id());
        loop {
            self.wait_for_events(Some(Instant::now()), &mut ready);
            {
                let mut state = self.state.lock();
                self.handle_events(&mut state, &ready);
            }
            if !self.tick() {
                return self.wake(self.feeders.waiting());
            }
            if self.is_paused.load(Ordering::Acquire) {
                return;
            }
            self.do_chores();
            // It never spins: nobody waits for what it does, and it would take a core from those
            // who do the work.
            self.wait_for_work();
        }
    }

    /// Waits until something happens that no caller waits for.
    fn wait_for_work(&self) {
        let due = {
            let mut state = self.state.lock();
            // Every event is a sleeping leader's; it opens the gate when it leaves.
            if !state.leader_sleeps {
                self.set_gate(Interest::ReadOnce);
                state.is_armed = true;
            }
            state.takeover.cancel();
            let look = if state.leader.is_some() {
                None
            } else {
                state.choose_wake_modes()
            };
            state.timer = [look, state.next_deadline(true)]
                .into_iter()
                .flatten()
                .min();
            state.timer
        };
        let is_led = self.state.lock().leader.is_some();
        if !is_led && !self.may_sleep() {
            return;
        }
        self.sleep_until(due);
        self.chores.clear();
        let mut state = self.state.lock();
        (state.is_armed, state.timer) = (false, None);
    }

    /// Sleeps until there is something to do or until `check_timeout_at`. Neither an alarm that
    /// went off early nor what is overdue is a reason to take over from a caller.
    fn sleep_until(&self, due: Option<Instant>) {
        let mut ready = Vec::new();
        loop {
            let limit = due.map(|it| it.saturating_duration_since(Instant::now()));
            // It cannot fail for a set and a buffer of our own.
            let _ = self.gate.wait(limit, &mut ready);
            if ready.contains(&FLUSH) {
                self.flush_overdue();
            }
            let takes_over = ready.contains(&TAKEOVER) && self.takeover_alarm();
            let is_alarm = |it: &u64| [FLUSH, TAKEOVER].contains(it);
            if takes_over || ready.is_empty() || !ready.iter().all(is_alarm) {
                return;
            }
        }
    }

    /// Returns whether this thread takes over from a caller.
    fn takeover_alarm(&self) -> bool {
        self.takeover_alarm.clear();
        let mut state = self.state.lock();
        match state.takeover.on_alarm(Instant::now()) {
            AlarmAction::TakeOver => return true,
            AlarmAction::Rearm(delay) => self.takeover_alarm.set(delay),
            AlarmAction::Ignore => {}
        }
        false
    }

    /// Whether this thread is the background thread, which runs a waker of the user's then.
    pub(crate) fn is_background_thread(&self) -> bool {
        self.with_state_ref(|it| it.background == Some(thread::current().id()))
    }

    /// Does what takes long, and is this thread's alone.
    pub(crate) fn do_chores(&self) {
        self.forward_refused_signals();
        self.fill_vacancies();
    }

    /// Passes on signals that this process may not send to the process that has forked the worker.
    /// A worker that no process can signal is lost.
    fn forward_refused_signals(&self) {
        loop {
            let refused = self.state.lock().take_refused_signal();
            let Some((slot, refused)) = refused else {
                return;
            };
            let RefusedSignal { pid, pidfd, signal } = refused;
            if let Err(reason) = self.origin.signal(pid, &pidfd, signal) {
                self.with_state(|state, wakeups| {
                    state.set_lost(slot, pid, &reason);
                    state.tick(wakeups);
                });
            }
        }
    }

    /// Starts a worker in each place that is to be filled now.
    fn fill_vacancies(&self) {
        loop {
            // One after the other: a failure may be told to a waker, which waits for the end of the
            // pool, and so for all that start.
            let vacancy = self.state.lock().take_vacancy();
            let Some(slot) = vacancy else { return };
            self.start_worker(slot);
        }
    }

    fn start_worker(&self, slot: usize) {
        let worker = self.state.lock().worker_id(slot);
        let started = WorkerHandle::start(&self.origin, &self.setup(worker));
        let mut wakeups = Wakeups::default();
        {
            let mut state = self.state.lock();
            let installed = started.and_then(|worker| {
                let installed = state.install(slot, worker);
                installed.map_err(|it| Error::io("failed to watch a worker", it))
            });
            match installed {
                Ok(()) => self.refresh_regions(&state),
                Err(error) => state.start_failed(slot, error, &mut wakeups),
            }
        }
        // The new worker has work waiting for it, or the failure needs a timer.
        self.control.notify();
        self.wake(wakeups);
    }
}

fn is_other_thread(thread: &mut JoinHandle<()>) -> bool {
    thread.thread().id() != thread::current().id()
}

fn join(thread: Option<JoinHandle<()>>) {
    // It does not panic; if it did, the panic hook has told.
    let _ = thread.map(JoinHandle::join);
}

impl BackgroundThreads for Pool {
    fn pause(&self) {
        if !self.is_foreign() {
            let thread = {
                let mut thread = self.thread.lock();
                self.is_paused.store(true, Ordering::Release);
                thread.take_if(is_other_thread)
            };
            self.chores.notify();
            join(thread);
            self.callbacks.stop_if_idle();
            self.feeders.join_ended();
        }
    }

    fn resume(self: Arc<Self>) {
        if !self.is_foreign() {
            // Where no thread is to be had, callers that wait drive the pool, and the next pause
            // tries again.
            let _ = self.start_thread();
        }
    }
}
