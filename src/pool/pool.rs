//! The pool as its handle, its futures and its threads share it, and who drives it: callers that
//! wait, in turn, and a background thread when nobody does. See README.md in this folder.

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    budget::{Budget, Reservation},
    driver::callbacks::Callbacks,
    input::Input,
    limits::ResourceLimits,
    output::Output,
    protocol::{WorkerSetup, region::WakeMode},
    scheduler::{PoolPhase, RecyclePolicy, Scheduler, regions},
    task::{
        Task, Wakeups, config::TaskConfig, encoded::PoolSlabs, feed::Feeders,
        flush_timer::FlushTimer, work_item::WorkItem,
    },
    worker_handle::{
        WorkerHandle,
        checked_region::{self, CheckedRegion},
    },
};
use crate::process::{
    StartMethod, encoded_call::EncodedCall, identity::ChildIdentity, start::spawner::Spawner,
};
use crate::sys::{
    child::Threads,
    environment, pid,
    poll::{Interest, Notifier, Poller, Timer},
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
pub(super) const TAKEOVER: u64 = 2;
pub(super) const FLUSH: u64 = 3;

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
pub(super) struct PoolSettings {
    pub(super) workers: usize,
    pub(super) initializer: Option<EncodedCall>,
    pub(super) chunk_size: Option<usize>,
    pub(super) window: Option<usize>,
    pub(super) task_config: TaskConfig,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) limits: Option<ResourceLimits>,
    pub(super) is_pinned: bool,
    pub(super) directory: Option<PathBuf>,
    pub(super) stdin: Input,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
    pub(super) recycle: RecyclePolicy,
    /// Bytes of tasks that may be pending.
    pub(super) max_pending: Option<u64>,
    pub(super) method: StartMethod,
    /// Beside which threads `StartMethod::Fork` may copy this process.
    pub(super) threads: Threads,
}

/// One pool.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) settings: PoolSettings,
    /// Where workers come from.
    pub(super) origin: Spawner,
    /// Theirs, as this process's was when the pool was built, and with the variables of the
    /// settings.
    environment: Vec<u8>,
    /// How many it keeps by now.
    pub(super) workers: AtomicUsize,
    /// The process that built it: a copy made by `fork` must not touch its workers.
    owner: u32,
    pub(super) state: Mutex<Scheduler>,
    /// The pages of the workers that run, to look at their rings without the lock.
    regions: RwLock<Vec<Arc<CheckedRegion>>>,
    /// What can happen: bells, deaths, room in pipes, and `control`.
    events: Arc<Poller>,
    /// What the background thread waits for: `events`, while no caller sleeps on them.
    pub(super) gate: Poller,
    pub(super) control: Notifier,
    /// Something is to be done that only the background thread does: starting workers, which takes
    /// long, and ending.
    pub(super) chores: Notifier,
    /// Goes off when a caller that led has been gone for long; set as `Scheduler::takeover_alarm`
    /// says.
    pub(super) takeover_alarm: Timer,
    /// Items of maps whose inputs are slow.
    pub(super) flush_timer: FlushTimer,
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

impl Pool {
    /// Starts the workers; an error if one cannot be started.
    pub(super) fn start(settings: PoolSettings) -> Result<Arc<Self>> {
        let fail = |it| {
            Error::io("failed to create the pool's event queue", it)
                .with_kind(ErrorKind::StartFailed)
        };
        // First: a template is a copy of this process, and its children are not to have what
        // follows.
        let origin = Spawner::new(settings.method, settings.threads)?;
        let slabs = Arc::new(PoolSlabs::default());
        let events = Arc::new(Poller::new().map_err(fail)?);
        let pool = Arc::new(Self {
            state: Mutex::new(Scheduler::new(
                settings.workers,
                settings.limits.clone(),
                settings.recycle,
                Arc::clone(&slabs),
                Arc::clone(&events),
            )),
            workers: AtomicUsize::new(settings.workers),
            owner: pid::current(),
            regions: RwLock::new(Vec::new()),
            events,
            gate: Poller::new().map_err(fail)?,
            control: Notifier::new().map_err(fail)?,
            chores: Notifier::new().map_err(fail)?,
            takeover_alarm: Timer::new().map_err(fail)?,
            flush_timer: FlushTimer::new().map_err(fail)?,
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
        pool.register_events().map_err(fail)?;
        for slot in 0..pool.settings.workers {
            let worker = WorkerHandle::start(&pool.origin, &pool.setup(slot));
            let worker = worker.map_err(|it| it.with_kind(ErrorKind::StartFailed))?;
            pool.state.lock().install(slot, worker).map_err(fail)?;
        }
        pool.refresh_regions(&pool.state.lock());
        Ok(pool)
    }

    /// Has leaders and the background thread notice what is raised for them.
    fn register_events(&self) -> io::Result<()> {
        self.events.add(&self.control, CONTROL, Interest::Read)?;
        self.gate.add(&*self.events, EVENTS, Interest::ReadOnce)?;
        self.gate.add(&self.chores, CHORES, Interest::Read)?;
        self.gate
            .add(&self.takeover_alarm, TAKEOVER, Interest::Read)?;
        self.gate
            .add(&self.flush_timer.alarm, FLUSH, Interest::Read)
    }

    pub(super) fn setup(&self, worker: usize) -> WorkerSetup {
        let initializer = self.settings.initializer.clone();
        WorkerSetup {
            worker,
            identity: ChildIdentity::for_worker(format!("Worker-{worker}")),
            environment: self.environment.clone(),
            initializer,
            limits: self.settings.limits.clone(),
            is_pinned: self.settings.is_pinned,
            directory: self.settings.directory.clone(),
            stdin: self.settings.stdin,
            stdout: self.settings.stdout,
            stderr: self.settings.stderr,
            max_memory: self.settings.recycle.memory,
        }
    }

    /// How many workers it keeps.
    pub(super) fn workers(&self) -> usize {
        self.workers.load(Ordering::Relaxed)
    }

    pub(super) fn refresh_regions(&self, state: &Scheduler) {
        *self.regions.write() = regions(state);
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
    pub(super) fn closed_error(&self) -> Option<Error> {
        match self.check_owner() {
            Ok(()) => self.state.lock().closed_error(),
            Err(error) => Some(error),
        }
    }

    /// Looks at the state or changes it, then does for others what follows from that.
    pub(super) fn with_state<T>(
        &self,
        change: impl FnOnce(&mut Scheduler, &mut Wakeups) -> T,
    ) -> T {
        let mut wakeups = Wakeups::default();
        let mut state = self.state.lock();
        let before = state.generation;
        let value = change(&mut state, &mut wakeups);
        state.assign_and_flush(&mut wakeups);
        if state.leader.is_none() {
            let due = state.next_deadline(true);
            self.arm_timer(&mut state, due);
            self.expedite_takeover(&mut state);
        }
        self.finish_update(state, before, wakeups);
        value
    }

    /// Takes a task's part of the budget, if there is one, as soon as there is room for it; an
    /// error if the pool takes no tasks any more. The caller drives the pool meanwhile.
    pub(super) fn reserve(&self, argument: usize) -> Result<Option<Box<Reservation>>> {
        let Some(budget) = &self.budget else {
            return Ok(None);
        };
        loop {
            if let Some(reserved) = budget.try_reserve(argument) {
                return Ok(Some(reserved));
            }
            if let Some(refusal) = self.closed_error() {
                return Err(refusal);
            }
            let done = || budget.has_room(argument) || self.closed_error().is_some();
            self.wait_until(None, &|it| budget.set_waiter(it), &done);
        }
    }

    /// As [`reserve`](Self::reserve), but fails where that would wait.
    pub(super) fn try_reserve(&self, argument: usize) -> Result<Option<Box<Reservation>>> {
        if let Some(refusal) = self.closed_error() {
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
    pub(super) fn submit(&self, work_item: WorkItem, submitter: Submitter) -> Result<(), Error> {
        self.check_owner()?;
        let mut wakeups = Wakeups::default();
        let (wake_leader, wants_start) = {
            let mut state = self.state.lock();
            if let Some(refusal) = state.closed_error() {
                return Err(refusal);
            }
            let is_timed = work_item.config().timeout.is_some();
            let expected = state.outstanding + u64::from(work_item.count());
            state.submit(work_item, &mut wakeups);
            // Something failed on its way to a worker, and the leader may wait for it; or it would
            // wake too late.
            let wake_leader = state.leader_sleeps
                && (state.outstanding < expected
                    || is_timed && state.leader_oversleeps()
                    || state.has_new_chores && state.is_led_in_background());
            if state.leader.is_none() {
                let due = state.next_deadline(true);
                self.arm_timer(&mut state, due);
                if submitter == Submitter::Leaves {
                    self.expedite_takeover(&mut state);
                }
            }
            (wake_leader, mem::take(&mut state.has_new_chores))
        };
        if wants_start {
            self.chores.notify();
        }
        if wake_leader {
            self.control.notify();
        }
        if !wakeups.is_empty() {
            self.wake(wakeups);
        }
        Ok(())
    }

    /// Sees to it that the background thread wakes for what is due, where no leader does.
    pub(super) fn arm_timer(&self, state: &mut Scheduler, due: Option<Instant>) {
        let Some(due) = due.filter(|due| state.timer.is_none_or(|it| *due < it)) else {
            return;
        };
        // One that is due within the next look is as good.
        let soon = || Instant::now() + Duration::from_millis(2);
        if state.timer.is_none_or(|it| it > soon()) {
            state.timer = Some(due);
            self.chores.notify();
        }
    }

    /// Reads what replies there are, if any.
    pub(super) fn poll(&self) {
        if !self.is_foreign() && self.has_records() {
            self.tick();
        }
    }

    /// Looks at the state, and changes nothing.
    pub(super) fn with_state_ref<T>(&self, look: impl FnOnce(&Scheduler) -> T) -> T {
        look(&self.state.lock())
    }

    /// Whether no worker is left.
    pub(super) fn has_ended(&self) -> bool {
        self.with_state_ref(|it| matches!(it.phase, PoolPhase::Ended(_)))
    }

    /// Has someone look at everything soon: what is to be done was changed.
    pub(super) fn notify_leader(&self) {
        self.control.notify();
    }

    pub(super) fn has_records(&self) -> bool {
        self.regions.read().iter().any(|it| it.has_records())
    }

    /// Returns whether no record came before the workers were told to ring.
    pub(super) fn may_sleep(&self) -> bool {
        let pages = self.regions.read();
        checked_region::may_sleep(pages.iter().map(Arc::as_ref))
    }

    /// Has no worker ring: this thread reads their replies.
    pub(super) fn stop_wakeups(&self) {
        let pages = self.regions.read();
        pages
            .iter()
            .for_each(|it| it.set_wake_mode(WakeMode::Never));
    }

    /// Does everything that can be done now, but for starting workers; false once no worker is
    /// left.
    pub(super) fn tick(&self) -> bool {
        let mut wakeups = Wakeups::default();
        let mut state = self.state.lock();
        let before = state.generation;
        state.tick(&mut wakeups);
        let goes_on = !matches!(state.phase, PoolPhase::Ended(_));
        self.finish_update(state, before, wakeups);
        goes_on
    }

    /// Tells others what follows for them from what was done to the state, which had seen so many
    /// changes before.
    fn finish_update(&self, mut state: MutexGuard<'_, Scheduler>, changes: u64, wakeups: Wakeups) {
        let changed = state.generation != changes;
        if changed {
            self.refresh_regions(&state);
        }
        let has_ended = matches!(state.phase, PoolPhase::Ended(_));
        let wants_start = mem::take(&mut state.has_new_chores) || changed;
        let has_chores = has_ended || wants_start && state.has_chores();
        let leader_sleeps = state.leader_sleeps;
        drop(state);
        if has_chores {
            self.chores.notify();
        }
        if leader_sleeps {
            // Then this is another thread, and the leader may wait for just what it did.
            self.control.notify();
        }
        // At last: wakers are the user's code, and may wait for what was raised.
        self.wake(wakeups);
    }

    /// Tells those who wait: outside of the lock, as wakers and callbacks are the user's code.
    pub(super) fn wake(&self, wakeups: Wakeups) {
        let Wakeups { wakers, threads } = wakeups;
        threads.iter().for_each(Thread::unpark);
        for waker in wakers {
            // A waker that panics has been reported by the panic hook, and is no reason to stop the
            // pool.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }

    pub(super) fn wait_for_events(&self, until: Option<Instant>, ready: &mut Vec<u64>) {
        let limit = until.map(|it| it.saturating_duration_since(Instant::now()));
        // It cannot fail for a set and a buffer of our own.
        let _ = self.events.wait(limit, ready);
    }

    pub(super) fn handle_events(&self, state: &mut Scheduler, ready: &[u64]) {
        for token in ready {
            match *token {
                CONTROL => self.control.clear(),
                token => state.handle_event(token),
            }
        }
    }

    /// Lets the background thread drive soon, where neither it nor a caller does now.
    fn expedite_takeover(&self, state: &mut Scheduler) {
        self.set_takeover_alarm(state.takeover.expedite());
    }

    pub(super) fn set_takeover_alarm(&self, delay: Option<Duration>) {
        delay
            .into_iter()
            .for_each(|delay| self.takeover_alarm.set(delay));
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
pub(super) fn wait_for(pool: &Pool, task: &Task, deadline: Option<Instant>) -> bool {
    let register = |thread: &Thread| {
        // Done already: nothing to be told.
        let _ = task.observe(super::task::Observer::Thread(thread.clone()));
    };
    let done = pool.wait_until(deadline, &register, &|| task.is_done());
    if !done {
        task.forget_thread(&thread::current());
    }
    done
}
