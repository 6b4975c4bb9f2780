//! The pool's own thread: it notices what happens while no caller waits, and starts workers.

use super::{
    link::{Link, Refused},
    relief::Alarmed,
    shared::{OVERDUE, RELIEF, Shared},
    task::Told,
};
use crate::error::Error;
use crate::process::own_threads::OwnThreads;
use crate::sys::poll::Interest;
use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread::{self, JoinHandle},
    time::Instant,
};

impl Shared {
    /// Starts the thread, unless it runs.
    pub(super) fn start_thread(self: &Arc<Self>) -> io::Result<()> {
        let mut thread = self.thread.lock();
        self.is_paused.store(false, Ordering::Release);
        if thread.is_none() {
            let shared = Arc::clone(self);
            let builder = thread::Builder::new().name("procpool".to_owned());
            *thread = Some(builder.spawn(move || shared.run_in_background())?);
        }
        Ok(())
    }

    /// Waits for its end, which must be near; not if it is the calling thread, which may drop the pool's last handle.
    pub(super) fn join_thread(&self) {
        // Taken first: the thread may be on its way here itself.
        let thread = self.thread.lock().take_if(is_another);
        join(thread);
    }

    /// What the background thread does until the pool has ended: it waits for events that no caller waits for, and does
    /// what follows from them.
    pub(super) fn run_in_background(&self) {
        let mut ready = Vec::new();
        self.state.lock().background = Some(thread::current().id());
        loop {
            self.wait_for_events(Some(Instant::now()), &mut ready);
            {
                let mut state = self.state.lock();
                self.notice(&mut state, &ready);
            }
            if !self.advance() {
                return self.tell(self.feeders.waiting());
            }
            if self.is_paused.load(Ordering::Acquire) {
                return;
            }
            self.do_chores();
            // It never spins: nobody waits for what it does, and it would take a core from those who do the work.
            self.wait_at_the_gate();
        }
    }

    /// Waits until something happens that no caller waits for.
    fn wait_at_the_gate(&self) {
        let due = {
            let mut state = self.state.lock();
            // Every event is a sleeping leader's; it opens the gate when it leaves.
            if !state.leader_sleeps {
                self.set_gate(Interest::ReadOnce);
                state.is_armed = true;
            }
            state.relief.cancel();
            let look = if state.leader.is_some() {
                None
            } else {
                state.fall_asleep()
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
        self.sleep_at_the_gate(due);
        self.chores.lower();
        let mut state = self.state.lock();
        (state.is_armed, state.timer) = (false, None);
    }

    /// Sleeps until there is something to do or until `due`. Neither an alarm that went off early
    /// nor what is overdue is a reason to take over from a caller.
    fn sleep_at_the_gate(&self, due: Option<Instant>) {
        let mut ready = Vec::new();
        loop {
            let limit = due.map(|it| it.saturating_duration_since(Instant::now()));
            // It cannot fail for a set and a buffer of our own.
            let _ = self.gate.wait(limit, &mut ready);
            if ready.contains(&OVERDUE) {
                self.send_overdue();
            }
            let takes_over = ready.contains(&RELIEF) && self.relief_goes_off();
            let is_alarm = |it: &u64| [OVERDUE, RELIEF].contains(it);
            if takes_over || ready.is_empty() || !ready.iter().all(is_alarm) {
                return;
            }
        }
    }

    /// Returns whether this thread takes over from a caller.
    fn relief_goes_off(&self) -> bool {
        self.relief.lower();
        let mut state = self.state.lock();
        match state.relief.alarm_goes_off(Instant::now()) {
            Alarmed::Takes => return true,
            Alarmed::SleepsFor(delay) => self.relief.set(delay),
            Alarmed::Sleeps => {}
        }
        false
    }

    /// Whether this thread is the background thread, which runs a waker of the user's then.
    pub(super) fn is_background_here(&self) -> bool {
        self.look(|it| it.background == Some(thread::current().id()))
    }

    /// Does what takes long, and is this thread's alone.
    pub(super) fn do_chores(&self) {
        self.send_what_was_refused();
        self.fill_vacancies();
    }

    /// Passes on signals that this process may not send to the process that has forked the worker.
    /// A worker that no process can signal is lost.
    fn send_what_was_refused(&self) {
        loop {
            let refused = self.state.lock().take_refused();
            let Some((slot, refused)) = refused else {
                return;
            };
            let Refused { pid, pidfd, signal } = refused;
            if let Err(reason) = self.origin.signal(pid, &pidfd, signal) {
                self.with_state(|state, told| {
                    state.lose(slot, pid, &reason);
                    state.progress(told);
                });
            }
        }
    }

    /// Starts a worker in each place that is to be filled now.
    fn fill_vacancies(&self) {
        loop {
            // One after the other: a failure may be told to a waker, which waits for the end of the pool, and so for all that start.
            let vacancy = self.state.lock().take_vacancy();
            let Some(slot) = vacancy else { return };
            self.start_worker(slot);
        }
    }

    fn start_worker(&self, slot: usize) {
        let worker = self.state.lock().worker_in(slot);
        let started = Link::start(&self.origin, &self.setup(worker));
        let mut told = Told::default();
        {
            let mut state = self.state.lock();
            let installed = started.and_then(|link| {
                let installed = state.install(slot, link);
                installed.map_err(|it| Error::io("failed to watch a worker", it))
            });
            match installed {
                Ok(()) => self.refresh_pages(&state),
                Err(error) => state.start_failed(slot, error, &mut told),
            }
        }
        // The new worker has work waiting for it, or the failure needs a timer.
        self.control.raise();
        self.tell(told);
    }
}

fn is_another(thread: &mut JoinHandle<()>) -> bool {
    thread.thread().id() != thread::current().id()
}

fn join(thread: Option<JoinHandle<()>>) {
    // It does not panic; if it did, the panic hook has told.
    let _ = thread.map(JoinHandle::join);
}

impl OwnThreads for Shared {
    fn pause(&self) {
        if !self.is_foreign() {
            let thread = {
                let mut thread = self.thread.lock();
                self.is_paused.store(true, Ordering::Release);
                thread.take_if(is_another)
            };
            self.chores.raise();
            join(thread);
            self.callbacks.rest();
            self.feeders.join_ended();
        }
    }

    fn resume(self: Arc<Self>) {
        if !self.is_foreign() {
            // Where no thread is to be had, callers that wait drive the pool, and the next pause tries again.
            let _ = self.start_thread();
        }
    }
}
