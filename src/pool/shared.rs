//! The pool as its handle, its futures and its threads share it, and who drives it: callers that wait, in turn, and a
//! background thread when nobody does. See README.md in this folder.

use super::{
    budget::{Budget, Reserved},
    callbacks::Callbacks,
    demands::Demands,
    dispatcher::{Phase, State, Stay, pages},
    feed::Feeders,
    input::Input,
    limits::ResourceLimits,
    link::Link,
    output::Output,
    overdue::Overdue,
    page::Bell,
    payload::PoolSlabs,
    protocol::Setup,
    task::{Task, Told},
    unit::Unit,
    worker_page::{self, WorkerPage},
};
use crate::error::{Error, ErrorKind, Result};
use crate::process::{StartMethod, call::EncodedCall, identity::Identity, start::origin::Origin};
use crate::sys::{
    child::Threads,
    environment, pid,
    poll::{Alarm, Interest, Set, Signal},
    spin::Spin,
};
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::{
    ffi::OsString,
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

/// The numbers of what is not a worker's in the sets.
const CONTROL: u64 = u64::MAX;
const EVENTS: u64 = 0;
const CHORES: u64 = 1;
pub(super) const RELIEF: u64 = 2;
pub(super) const OVERDUE: u64 = 3;

/// What the thread that submits a unit does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Submitter {
    /// It waits for the unit, and so drives the pool if no other caller does.
    Waits,
    /// It may do anything else.
    Leaves,
}

/// How the pool was built.
#[derive(Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) workers: usize,
    pub(super) initializer: Option<EncodedCall>,
    pub(super) chunk_size: Option<usize>,
    pub(super) window: Option<usize>,
    pub(super) demands: Demands,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) limits: Option<ResourceLimits>,
    pub(super) is_pinned: bool,
    pub(super) directory: Option<PathBuf>,
    pub(super) stdin: Input,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
    pub(super) stay: Stay,
    /// Bytes of tasks that may be pending.
    pub(super) max_pending: Option<u64>,
    pub(super) method: StartMethod,
    /// Beside which threads `StartMethod::Fork` may copy this process.
    pub(super) threads: Threads,
}

/// One pool.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    /// Where workers come from.
    pub(super) origin: Origin,
    /// Theirs, as this process's was when the pool was built, and with the variables of the settings.
    environment: Vec<u8>,
    /// How many it keeps by now.
    pub(super) workers: AtomicUsize,
    /// The process that built it: a copy made by `fork` must not touch its workers.
    owner: u32,
    pub(super) state: Mutex<State>,
    /// The pages of the workers that run, to look at their rings without the lock.
    pages: RwLock<Vec<Arc<WorkerPage>>>,
    /// What can happen: bells, deaths, room in pipes, and `control`.
    events: Arc<Set>,
    /// What the background thread waits for: `events`, while no caller sleeps on them.
    pub(super) gate: Set,
    pub(super) control: Signal,
    /// Something is to be done that only the background thread does: starting workers, which takes long, and ending.
    pub(super) chores: Signal,
    /// Goes off when a caller that led has been gone for long; set as `State::relief` says.
    pub(super) relief: Alarm,
    /// Items of maps whose inputs are slow.
    pub(super) overdue: Overdue,
    pub(super) spin: Mutex<Spin>,
    pub(super) slabs: Arc<PoolSlabs>,
    pub(super) callbacks: Arc<Callbacks>,
    /// The threads that read inputs.
    pub(super) feeders: Feeders,
    /// Room for what is pending, where that is limited.
    pub(super) budget: Option<Arc<Budget>>,
    /// The background thread.
    pub(super) thread: Mutex<Option<JoinHandle<()>>>,
    /// Whether that is to end for a while.
    pub(super) is_paused: AtomicBool,
}

impl Shared {
    /// Starts the workers; an error if one cannot be started.
    pub(super) fn start(settings: Settings) -> Result<Arc<Self>> {
        let fail = |it| {
            Error::io("failed to create the pool's event queue", it)
                .with_kind(ErrorKind::StartFailed)
        };
        // First: a template is a copy of this process, and its children are not to have what follows.
        let origin = Origin::new(settings.method, settings.threads)?;
        let slabs = Arc::new(PoolSlabs::default());
        let events = Arc::new(Set::new().map_err(fail)?);
        let shared = Arc::new(Self {
            state: Mutex::new(State::new(
                settings.workers,
                settings.limits.clone(),
                settings.stay,
                Arc::clone(&slabs),
                Arc::clone(&events),
            )),
            workers: AtomicUsize::new(settings.workers),
            owner: pid::current(),
            pages: RwLock::new(Vec::new()),
            events,
            gate: Set::new().map_err(fail)?,
            control: Signal::new().map_err(fail)?,
            chores: Signal::new().map_err(fail)?,
            relief: Alarm::new().map_err(fail)?,
            overdue: Overdue::new().map_err(fail)?,
            spin: Mutex::new(Spin::default()),
            slabs,
            callbacks: Arc::default(),
            feeders: Feeders::default(),
            budget: settings.max_pending.map(|it| Arc::new(Budget::new(it))),
            thread: Mutex::new(None),
            is_paused: AtomicBool::new(false),
            origin,
            environment: environment::with(&settings.environment),
            settings,
        });
        shared.watch().map_err(fail)?;
        for slot in 0..shared.settings.workers {
            let link = Link::start(&shared.origin, &shared.setup(slot));
            let link = link.map_err(|it| it.with_kind(ErrorKind::StartFailed))?;
            shared.state.lock().install(slot, link).map_err(fail)?;
        }
        shared.refresh_pages(&shared.state.lock());
        Ok(shared)
    }

    /// Has leaders and the background thread notice what is raised for them.
    fn watch(&self) -> io::Result<()> {
        self.events.add(&self.control, CONTROL, Interest::Read)?;
        self.gate.add(&*self.events, EVENTS, Interest::ReadOnce)?;
        self.gate.add(&self.chores, CHORES, Interest::Read)?;
        self.gate.add(&self.relief, RELIEF, Interest::Read)?;
        self.gate.add(&self.overdue.alarm, OVERDUE, Interest::Read)
    }

    pub(super) fn setup(&self, worker: usize) -> Setup {
        let initializer = self.settings.initializer.clone();
        Setup {
            worker,
            identity: Identity::of_a_worker(format!("Worker-{worker}")),
            environment: self.environment.clone(),
            initializer,
            limits: self.settings.limits.clone(),
            is_pinned: self.settings.is_pinned,
            directory: self.settings.directory.clone(),
            stdin: self.settings.stdin,
            stdout: self.settings.stdout,
            stderr: self.settings.stderr,
            max_memory: self.settings.stay.memory,
        }
    }

    /// How many workers it keeps.
    pub(super) fn workers(&self) -> usize {
        self.workers.load(Ordering::Relaxed)
    }

    pub(super) fn refresh_pages(&self, state: &State) {
        *self.pages.write() = pages(state);
    }

    /// Whether this process is a copy of the one that built the pool.
    pub(super) fn is_foreign(&self) -> bool {
        pid::current() != self.owner
    }

    /// An error in a copy of the process that built the pool.
    pub(super) fn check_owner(&self) -> Result<()> {
        if !self.is_foreign() {
            return Ok(());
        }
        let message = "the pool belongs to the process that this one was forked from";
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// Why no task is taken, if none is.
    pub(super) fn refusal(&self) -> Option<Error> {
        match self.check_owner() {
            Ok(()) => self.state.lock().refusal(),
            Err(error) => Some(error),
        }
    }

    /// Looks at the state or changes it, then does for others what follows from that.
    pub(super) fn with_state<T>(&self, change: impl FnOnce(&mut State, &mut Told) -> T) -> T {
        let mut told = Told::default();
        let mut state = self.state.lock();
        let before = state.changes;
        let value = change(&mut state, &mut told);
        state.settle(&mut told);
        if state.leader.is_none() {
            let due = state.next_deadline(true);
            self.care_for_timers(&mut state, due);
            self.hurry_relief(&mut state);
        }
        self.conclude(state, before, told);
        value
    }

    /// Takes a task's part of the budget, if there is one, as soon as there is room for it; an error if the pool takes no tasks
    /// any more. The caller drives the pool meanwhile.
    pub(super) fn reserve(&self, argument: usize) -> Result<Option<Box<Reserved>>> {
        let Some(budget) = &self.budget else {
            return Ok(None);
        };
        loop {
            if let Some(reserved) = budget.try_reserve(argument) {
                return Ok(Some(reserved));
            }
            if let Some(refusal) = self.refusal() {
                return Err(refusal);
            }
            let done = || budget.has_room(argument) || self.refusal().is_some();
            self.wait_until(None, &|it| budget.wake(it), &done);
        }
    }

    /// As [`reserve`](Self::reserve), but fails where that would wait.
    pub(super) fn try_reserve(&self, argument: usize) -> Result<Option<Box<Reserved>>> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let Some(budget) = &self.budget else {
            return Ok(None);
        };
        self.poll();
        let reserved = budget.try_reserve(argument);
        reserved.map(Some).ok_or_else(|| {
            let pending = budget.pending();
            let message =
                format!("the pool has {pending} bytes of tasks pending, and no room for more");
            Error::new(ErrorKind::Full, message)
        })
    }

    /// Whether more may be pending.
    pub(super) fn has_room(&self) -> bool {
        self.budget.as_ref().is_none_or(|it| it.has_room(0))
    }

    /// Takes a unit; its error, if the pool takes none.
    pub(super) fn submit(&self, unit: Unit, submitter: Submitter) -> Result<(), Error> {
        self.check_owner()?;
        let mut told = Told::default();
        let (wake_leader, wants_start) = {
            let mut state = self.state.lock();
            if let Some(refusal) = state.refusal() {
                return Err(refusal);
            }
            let is_timed = unit.demands().timeout.is_some();
            let expected = state.outstanding + u64::from(unit.count());
            state.submit(unit, &mut told);
            // Something failed on its way to a worker, and the leader may wait for it; or it would wake too late.
            let wake_leader = state.leader_sleeps
                && (state.outstanding < expected
                    || is_timed && state.leader_oversleeps()
                    || state.wants_start && state.is_led_in_background());
            if state.leader.is_none() {
                let due = state.next_deadline(true);
                self.care_for_timers(&mut state, due);
                if submitter == Submitter::Leaves {
                    self.hurry_relief(&mut state);
                }
            }
            (wake_leader, mem::take(&mut state.wants_start))
        };
        if wants_start {
            self.chores.raise();
        }
        if wake_leader {
            self.control.raise();
        }
        if !told.is_empty() {
            self.tell(told);
        }
        Ok(())
    }

    /// Sees to it that the background thread wakes for what is due, where no leader does.
    pub(super) fn care_for_timers(&self, state: &mut State, due: Option<Instant>) {
        let Some(due) = due.filter(|due| state.timer.is_none_or(|it| *due < it)) else {
            return;
        };
        // One that is due within the next look is as good.
        let soon = || Instant::now() + Duration::from_millis(2);
        if state.timer.is_none_or(|it| it > soon()) {
            state.timer = Some(due);
            self.chores.raise();
        }
    }

    /// Reads what replies there are, if any.
    pub(super) fn poll(&self) {
        if !self.is_foreign() && self.has_records() {
            self.advance();
        }
    }

    /// Looks at the state, and changes nothing.
    pub(super) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock())
    }

    /// Whether no worker is left.
    pub(super) fn has_ended(&self) -> bool {
        self.look(|it| matches!(it.phase, Phase::Ended(_)))
    }

    /// Has someone look at everything soon: what is to be done was changed.
    pub(super) fn kick(&self) {
        self.control.raise();
    }

    pub(super) fn has_records(&self) -> bool {
        self.pages.read().iter().any(|it| it.has_records())
    }

    /// Returns whether no record came before the workers were told to ring.
    pub(super) fn may_sleep(&self) -> bool {
        let pages = self.pages.read();
        worker_page::may_sleep(pages.iter().map(Arc::as_ref))
    }

    /// Has no worker ring: this thread reads their replies.
    pub(super) fn wake_up(&self) {
        let pages = self.pages.read();
        pages.iter().for_each(|it| it.set_bell(Bell::Off));
    }

    /// Does everything that can be done now, but for starting workers; false once no worker is left.
    pub(super) fn advance(&self) -> bool {
        let mut told = Told::default();
        let mut state = self.state.lock();
        let before = state.changes;
        state.progress(&mut told);
        let goes_on = !matches!(state.phase, Phase::Ended(_));
        self.conclude(state, before, told);
        goes_on
    }

    /// Tells others what follows for them from what was done to the state, which had seen so many changes before.
    fn conclude(&self, mut state: MutexGuard<'_, State>, changes: u64, told: Told) {
        let changed = state.changes != changes;
        if changed {
            self.refresh_pages(&state);
        }
        let has_ended = matches!(state.phase, Phase::Ended(_));
        let wants_start = mem::take(&mut state.wants_start) || changed;
        let has_chores = has_ended || wants_start && state.has_chores();
        let leader_sleeps = state.leader_sleeps;
        drop(state);
        if has_chores {
            self.chores.raise();
        }
        if leader_sleeps {
            // Then this is another thread, and the leader may wait for just what it did.
            self.control.raise();
        }
        // At last: wakers are the user's code, and may wait for what was raised.
        self.tell(told);
    }

    /// Tells those who wait: outside of the lock, as wakers and callbacks are the user's code.
    pub(super) fn tell(&self, told: Told) {
        let Told { wakers, threads } = told;
        threads.iter().for_each(Thread::unpark);
        for waker in wakers {
            // A waker that panics has been reported by the panic hook, and is no reason to stop the pool.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }

    pub(super) fn wait_for_events(&self, until: Option<Instant>, ready: &mut Vec<u64>) {
        let limit = until.map(|it| it.saturating_duration_since(Instant::now()));
        // It cannot fail for a set and a buffer of our own.
        let _ = self.events.wait(limit, ready);
    }

    pub(super) fn notice(&self, state: &mut State, ready: &[u64]) {
        for token in ready {
            match *token {
                CONTROL => self.control.lower(),
                token => state.notice(token),
            }
        }
    }

    /// Lets the background thread drive soon, where neither it nor a caller does now.
    fn hurry_relief(&self, state: &mut State) {
        self.set_relief(state.relief.hurry());
    }

    pub(super) fn set_relief(&self, delay: Option<Duration>) {
        delay.into_iter().for_each(|delay| self.relief.set(delay));
    }

    pub(super) fn set_gate(&self, interest: Interest) {
        // It cannot fail for a descriptor that is in the set.
        let _ = self.gate.change(&*self.events, EVENTS, interest);
    }
}

/// Parks until unparked or until the deadline: true.
pub(super) fn park_until(deadline: Option<Instant>) -> bool {
    match deadline {
        None => thread::park(),
        Some(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::park_timeout(left);
        }
    }
    false
}

/// Waits for one task; false when the deadline came first.
pub(super) fn wait_for(shared: &Shared, task: &Task, deadline: Option<Instant>) -> bool {
    let register = |thread: &Thread| {
        // Done already: nothing to be told.
        let _ = task.observe(super::task::Observer::Thread(thread.clone()));
    };
    let done = shared.wait_until(deadline, &register, &|| task.is_done());
    if !done {
        task.forget_thread(&thread::current());
    }
    done
}
