//! The state that the executor, its futures and its threads share. Callers that wait drive the pool
//! in turn; a background thread drives it otherwise. See README.md in this folder.

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    budget::{Budget, Reservation},
    driver::{Driver, DriverState, callbacks::Callbacks},
    limits::ResourceLimits,
    protocol::{WorkerSetup, region::WakeMode},
    scheduler::{RecyclePolicy, Scheduler, regions},
    stdio::{Input, Output},
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
use crate::sys::{child::Threads, environment, pid, poll::Poller};
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::{
    ffi::OsString,
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, Thread},
    time::Instant,
};

/// The next action of the thread that submits a work item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Submitter {
    /// It waits for the item, and drives the pool if no other caller does.
    Waits,
    /// It may do anything else, so another thread must drive the pool.
    Leaves,
}

/// The settings that the pool was built with.
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
    /// The limit of pending bytes, if any.
    pub(super) max_pending: Option<u64>,
    pub(super) method: StartMethod,
    /// With which other threads `StartMethod::Fork` may copy this process.
    pub(super) threads: Threads,
}

/// One pool.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) settings: PoolSettings,
    /// Starts the workers.
    pub(super) origin: Spawner,
    /// The workers' environment: that of this process when the pool was built, with the variables
    /// of the settings.
    environment: Vec<u8>,
    /// The current number of workers; `resize` writes it under the state's lock.
    pub(super) workers: AtomicUsize,
    /// The process that built the pool. A forked copy of it must not use the workers.
    owner: u32,
    pub(super) state: Mutex<State>,
    /// The shared regions of the running workers, to check their reply rings without the state's
    /// lock.
    regions: RwLock<Vec<Arc<CheckedRegion>>>,
    pub(super) driver: Driver,
    /// Sends the items of maps whose inputs are slow.
    pub(super) flush_timer: FlushTimer,
    pub(super) slabs: Arc<PoolSlabs>,
    pub(super) callbacks: Arc<Callbacks>,
    /// The threads that read inputs of maps.
    pub(super) feeders: Feeders,
    /// The budget of pending bytes, if it is limited.
    pub(super) budget: Option<Arc<Budget>>,
}

/// The state that the pool's lock guards.
#[derive(Debug)]
pub(super) struct State {
    /// Decides which worker runs which task.
    pub(super) scheduler: Scheduler,
    /// Records which thread handles events.
    pub(super) driver: DriverState,
}

impl Pool {
    /// Creates a pool and starts its workers. Fails if a worker cannot be started.
    pub(super) fn start(settings: PoolSettings) -> Result<Arc<Self>> {
        let fail = |error| {
            Error::io("failed to create the pool's event queue", error)
                .with_kind(ErrorKind::StartFailed)
        };
        let pool = Arc::new(Self::new(settings, fail)?);
        for slot in 0..pool.settings.workers {
            let worker = WorkerHandle::start(&pool.origin, &pool.setup(slot));
            let worker = worker.map_err(|error| error.with_kind(ErrorKind::StartFailed))?;
            let mut state = pool.state.lock();
            state.scheduler.install(slot, worker).map_err(fail)?;
        }
        pool.refresh_regions(&pool.state.lock().scheduler);
        Ok(pool)
    }

    fn new(settings: PoolSettings, fail: impl Fn(io::Error) -> Error) -> Result<Self> {
        // First, because the fork server's template is a copy of this process and must not inherit
        // the descriptors created below.
        let origin = Spawner::new(settings.method, settings.threads)?;
        let slabs = Arc::new(PoolSlabs::default());
        let events = Arc::new(Poller::new().map_err(&fail)?);
        let flush_timer = FlushTimer::new().map_err(&fail)?;
        let scheduler = Scheduler::new(
            settings.workers,
            settings.limits.clone(),
            settings.recycle,
            Arc::clone(&slabs),
            Arc::clone(&events),
        );
        Ok(Self {
            state: Mutex::new(State {
                scheduler,
                driver: DriverState::new(),
            }),
            workers: AtomicUsize::new(settings.workers),
            owner: pid::current(),
            regions: RwLock::new(Vec::new()),
            driver: Driver::new(events, &flush_timer.alarm).map_err(&fail)?,
            flush_timer,
            slabs,
            callbacks: Arc::default(),
            feeders: Feeders::default(),
            budget: settings
                .max_pending
                .map(|bytes| Arc::new(Budget::new(bytes))),
            origin,
            environment: environment::with(&settings.environment),
            settings,
        })
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

    /// Returns the number of workers that the pool keeps.
    pub(super) fn workers(&self) -> usize {
        self.workers.load(Ordering::Relaxed)
    }

    pub(super) fn refresh_regions(&self, state: &Scheduler) {
        *self.regions.write() = regions(state);
    }

    /// Whether this process is a forked copy of the process that built the pool.
    pub(super) fn is_foreign(&self) -> bool {
        pid::current() != self.owner
    }

    /// Fails in a forked copy of the process that built the pool.
    pub(super) fn check_owner(&self) -> Result<()> {
        if !self.is_foreign() {
            return Ok(());
        }
        let message = "the pool belongs to the process that this one was forked from";
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// Returns why the pool accepts no tasks, or `None` if it does.
    pub(super) fn closed_error(&self) -> Option<Error> {
        match self.check_owner() {
            Ok(()) => self.state.lock().scheduler.closed_error(),
            Err(error) => Some(error),
        }
    }

    /// Runs `f` on the locked scheduler, then wakes waiters after releasing the lock.
    pub(super) fn with_scheduler<T>(&self, f: impl FnOnce(&mut Scheduler, &mut Wakeups) -> T) -> T {
        let mut wakeups = Wakeups::default();
        let mut state = self.state.lock();
        let before = state.scheduler.generation;
        let value = f(&mut state.scheduler, &mut wakeups);
        state.scheduler.assign_and_flush(&mut wakeups);
        if state.driver.leader.is_none() {
            let due = state.scheduler.next_deadline(true);
            self.driver.arm_timer(&mut state.driver, due);
            self.driver.expedite_takeover(&mut state.driver);
        }
        self.finish_update(state, before, wakeups);
        value
    }

    /// Reserves budget for a task, if the pool has one, and drives the pool until there is room.
    /// Fails if the pool accepts no more tasks.
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

    /// Like [`reserve`](Self::reserve), but fails instead of waiting.
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
                format!("the pool has {pending} bytes of tasks pending and no room for more");
            Error::new(ErrorKind::Full, message)
        })
    }

    /// Whether the budget has room.
    pub(super) fn has_room(&self) -> bool {
        self.budget.as_ref().is_none_or(|it| it.has_room(0))
    }

    /// Queues a work item, or returns why the pool takes none.
    pub(super) fn submit(&self, work_item: WorkItem, submitter: Submitter) -> Result<(), Error> {
        self.check_owner()?;
        let mut wakeups = Wakeups::default();
        let (wake_leader, wake_background) = {
            let mut state = self.state.lock();
            if let Some(error) = state.scheduler.closed_error() {
                return Err(error);
            }
            let wake_leader = state.submit(work_item, &mut wakeups);
            if state.driver.leader.is_none() {
                let due = state.scheduler.next_deadline(true);
                self.driver.arm_timer(&mut state.driver, due);
                if submitter == Submitter::Leaves {
                    self.driver.expedite_takeover(&mut state.driver);
                }
            }
            let has_chores = mem::take(&mut state.scheduler.has_new_chores);
            (wake_leader, has_chores)
        };
        if wake_background {
            self.driver.notify_background();
        }
        if wake_leader {
            self.driver.notify_leader();
        }
        if !wakeups.is_empty() {
            self.wake(wakeups);
        }
        Ok(())
    }

    /// Reads the replies that are ready.
    pub(super) fn poll(&self) {
        if !self.is_foreign() && self.has_records() {
            self.tick();
        }
    }

    /// Runs `f` on the locked scheduler without changing it.
    pub(super) fn with_scheduler_ref<T>(&self, f: impl FnOnce(&Scheduler) -> T) -> T {
        f(&self.state.lock().scheduler)
    }

    /// Whether every worker has exited.
    pub(super) fn has_ended(&self) -> bool {
        self.with_scheduler_ref(Scheduler::has_ended)
    }

    pub(super) fn has_records(&self) -> bool {
        self.regions.read().iter().any(|it| it.has_records())
    }

    /// Whether no record arrived before the workers were asked for wake-ups.
    pub(super) fn may_sleep(&self) -> bool {
        let regions = self.regions.read();
        checked_region::may_sleep(regions.iter().map(Arc::as_ref))
    }

    /// Tells the workers to send no wake-ups, because this thread reads their replies.
    pub(super) fn stop_wakeups(&self) {
        let regions = self.regions.read();
        regions
            .iter()
            .for_each(|it| it.set_wake_mode(WakeMode::Never));
    }

    /// Does everything that can be done now, except starting workers. Returns false after the last
    /// worker has exited.
    pub(super) fn tick(&self) -> bool {
        let mut wakeups = Wakeups::default();
        let mut state = self.state.lock();
        let before = state.scheduler.generation;
        state.scheduler.tick(&mut wakeups);
        let is_alive = !state.scheduler.has_ended();
        if !is_alive {
            state.driver.unpark_followers();
        }
        self.finish_update(state, before, wakeups);
        is_alive
    }

    /// Releases the lock after a change of the scheduler, then wakes the threads that the change
    /// affects. `before` is the scheduler's generation before the change.
    fn finish_update(&self, mut state: MutexGuard<'_, State>, before: u64, wakeups: Wakeups) {
        let scheduler = &mut state.scheduler;
        let has_changed = scheduler.generation != before;
        if has_changed {
            self.refresh_regions(scheduler);
        }
        let has_new_chores = mem::take(&mut scheduler.has_new_chores) || has_changed;
        let wake_background = scheduler.has_ended() || has_new_chores && scheduler.has_chores();
        let leader_sleeps = state.driver.leader_sleeps;
        drop(state);
        if wake_background {
            self.driver.notify_background();
        }
        if leader_sleeps {
            // This thread is not the leader, and the leader may wait for this change.
            self.driver.notify_leader();
        }
        // Last, because wakers run user code, which may block on the events signalled above.
        self.wake(wakeups);
    }

    /// Wakes waiters. Must not be called with the lock held, because wakers run user code.
    pub(super) fn wake(&self, wakeups: Wakeups) {
        let Wakeups { wakers, threads } = wakeups;
        threads.iter().for_each(Thread::unpark);
        for waker in wakers {
            // The panic hook has reported the panic, and the pool must go on.
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }

    pub(super) fn handle_events(&self, state: &mut State, ready: &[u64]) {
        for token in ready {
            if !self.driver.clear_leader_wakeup(*token) {
                state.scheduler.handle_event(*token);
            }
        }
    }
}

impl State {
    /// Queues a work item. Returns whether a sleeping leader must be woken, in one of three cases:
    ///
    /// - An item failed on its way to a worker, and the leader may wait for it.
    /// - The item has a time limit that passes while the leader sleeps.
    /// - A worker must be started, and the leader is the background thread, which does that.
    fn submit(&mut self, work_item: WorkItem, wakeups: &mut Wakeups) -> bool {
        let scheduler = &mut self.scheduler;
        let is_timed = work_item.config().timeout.is_some();
        let expected = scheduler.outstanding + u64::from(work_item.count());
        scheduler.submit(work_item, wakeups);
        let driver = &self.driver;
        driver.leader_sleeps
            && (scheduler.outstanding < expected
                || is_timed && driver.leader_oversleeps(scheduler.next_deadline(false))
                || scheduler.has_new_chores && driver.is_led_in_background())
    }
}

/// Parks the thread. Returns true if the deadline has passed.
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

/// Waits for one task. Returns false if the deadline passed first.
pub(super) fn wait_for(pool: &Pool, task: &Task, deadline: Option<Instant>) -> bool {
    let register = |thread: &Thread| {
        // If it returns the observer, the task is done and `wait_until` sees that.
        let _ = task.observe(super::task::Observer::Thread(thread.clone()));
    };
    let done = pool.wait_until(deadline, &register, &|| task.is_done());
    if !done {
        task.forget_thread(&thread::current());
    }
    done
}
