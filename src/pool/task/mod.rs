//! Tasks: the argument, the location, the outcome and the observers of each.

pub(crate) mod chunker;
pub(crate) mod config;
pub(crate) mod encoded;
pub(crate) mod feed;
pub(crate) mod flush_timer;
pub(crate) mod map;
pub(crate) mod map_driver;
pub(crate) mod map_part;
pub(crate) mod map_results;
pub(crate) mod outbox;
pub(crate) mod work_item;

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    budget::Reservation,
    driver::callbacks::Callbacks,
    task::{
        config::{Attempts, TaskConfig},
        encoded::Encoded,
        map::MapState,
        map_part::MapPart,
    },
};
use crate::process::function::WireFunction;
use crate::sys::clock;
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    fmt, mem,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    thread::Thread,
};

/// A task, shared by its future, the scheduler and its callbacks.
pub(crate) struct Task {
    pub(crate) id: u64,
    pub(crate) kind: TaskKind,
    pub(crate) config: TaskConfig,
    /// When it was submitted.
    pub(crate) submitted: u64,
    outcome: OnceLock<Result<TaskOutput>>,
    state: Mutex<TaskState>,
}

/// The kind of a task.
#[derive(Debug)]
pub(crate) enum TaskKind {
    /// One call of a function.
    Call(WireFunction),
    /// A whole map.
    Map(Arc<MapState>),
    /// A call that failed before anything was sent.
    Failed,
}

/// The output of a task.
#[derive(Debug)]
pub(crate) enum TaskOutput {
    Value(Encoded),
    List(Vec<MapPart>),
}

impl TaskOutput {
    /// Whether it contains handles with open descriptors.
    pub(crate) fn has_handles(&self) -> bool {
        match self {
            Self::Value(value) => value.has_fds(),
            Self::List(parts) => parts.iter().any(MapPart::has_handles),
        }
    }
}

#[derive(Debug)]
struct TaskState {
    argument: Encoded,
    /// The argument's part of the pool's budget.
    reservation: Option<Box<Reservation>>,
    location: TaskLocation,
    attempts: Attempts,
    observers: Vec<Observer>,
}

/// Where a task is, until it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskLocation {
    /// In the pool's queue, or nowhere yet.
    Queued,
    /// Sent to the worker in this slot, as its item of this number.
    InFlight(usize, u32),
}

/// A party that is notified when a task is done.
pub(crate) enum Observer {
    Waker(Waker),
    Thread(Thread),
    /// A wait for several tasks, and the index of this task in it.
    Completions(Arc<Completions>, usize),
    Callback(Callback, Arc<Callbacks>),
}

pub(crate) type Callback = Box<dyn FnOnce() + Send>;

impl Task {
    /// Creates a call of a function with an encoded argument.
    pub(crate) fn call(function: WireFunction, argument: Encoded, config: TaskConfig) -> Self {
        Self::new(TaskKind::Call(function), argument, config)
    }

    /// Adds the task's part of the pool's budget, which is released when the task is done.
    pub(crate) fn with_reservation(mut self, reserved: Option<Box<Reservation>>) -> Self {
        self.state.get_mut().reservation = reserved;
        self
    }

    /// A whole map.
    pub(crate) fn map(map: Arc<MapState>) -> Self {
        Self::new(TaskKind::Map(map), Encoded::EMPTY, TaskConfig::default())
    }

    fn new(work: TaskKind, argument: Encoded, config: TaskConfig) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let state = TaskState {
            argument,
            reservation: None,
            location: TaskLocation::Queued,
            attempts: Attempts::default(),
            observers: Vec::new(),
        };
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            kind: work,
            config,
            submitted: clock::now(),
            outcome: OnceLock::new(),
            state: Mutex::new(state),
        }
    }

    /// Creates a task that has already failed.
    pub(crate) fn failed(error: Error) -> Self {
        let task = Self::new(TaskKind::Failed, Encoded::EMPTY, TaskConfig::default());
        task.outcome.get_or_init(|| Err(error));
        task
    }

    /// Creates a finished task with the same id and an empty value.
    pub(crate) fn emptied(&self) -> Self {
        let mut task = Self::new(TaskKind::Failed, Encoded::EMPTY, self.config);
        task.id = self.id;
        task.outcome
            .get_or_init(|| Ok(TaskOutput::Value(Encoded::EMPTY)));
        task
    }

    pub(crate) fn outcome(&self) -> Option<&Result<TaskOutput>> {
        self.outcome.get()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.outcome.get().is_some()
    }

    /// Returns the error of the task. For a map, it is the first in the order of the items.
    pub(crate) fn error(&self) -> Option<&Error> {
        match self.outcome()? {
            Err(error) => Some(error),
            Ok(TaskOutput::Value(_)) => None,
            Ok(TaskOutput::List(parts)) => {
                parts.iter().find_map(|part| part.outcome.as_ref().err())
            }
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.error()
            .is_some_and(|error| error.kind() == ErrorKind::Cancelled)
    }

    pub(crate) fn location(&self) -> TaskLocation {
        self.state.lock().location
    }

    pub(crate) fn set_location(&self, place: TaskLocation) {
        self.state.lock().location = place;
    }

    /// Runs `look` on the attempts at the task.
    pub(crate) fn with_attempts<T>(&self, look: impl FnOnce(&mut Attempts) -> T) -> T {
        look(&mut self.state.lock().attempts)
    }

    /// Runs `look` on the argument, which may change its slab.
    pub(crate) fn with_argument<T>(&self, look: impl FnOnce(&mut Encoded) -> T) -> T {
        look(&mut self.state.lock().argument)
    }

    /// Completes the task unless it is done: frees its argument and adds its observers to
    /// `wakeups`.
    pub(crate) fn complete(&self, outcome: Result<TaskOutput>, wakeups: &mut Wakeups) {
        let mut state = self.state.lock();
        if self.is_done() {
            return;
        }
        let argument = mem::replace(&mut state.argument, Encoded::EMPTY);
        // Before the task is seen to be done. In the other order: (1) the outcome is set; (2) the
        // caller sees it, calls `try_submit` and finds the budget full; (3) the budget is released.
        drop(state.reservation.take());
        // Cannot fail: it is only set under the lock, and was checked above.
        let _ = self.outcome.set(outcome);
        // Under the lock. Otherwise: (1) the outcome is set; (2) a callback that is added now is
        // sent at once; (3) the earlier callbacks are sent after it.
        for observer in mem::take(&mut state.observers) {
            wakeups.add(observer);
        }
        drop(state);
        drop(argument);
    }

    /// Notifies `observer` when the task is done. Returns it if the task is done already.
    pub(crate) fn observe(&self, observer: Observer) -> Option<Observer> {
        let mut state = self.state.lock();
        if self.is_done() {
            return Some(observer);
        }
        state.observers.push(observer);
        None
    }

    /// Wakes `waker` when the task is done, and forgets the previous waker. Returns false if the
    /// task is done already.
    pub(crate) fn set_waker(&self, waker: &Waker) -> bool {
        // Cloned before the lock is taken, and the previous waker is dropped after it is released,
        // because both run user code.
        let mut waker = waker.clone();
        let mut state = self.state.lock();
        if self.is_done() {
            return false;
        }
        // A future is polled by one task at a time, so only the newest waker counts.
        let last = state
            .observers
            .iter_mut()
            .find_map(|observer| match observer {
                Observer::Waker(waker) => Some(waker),
                _ => None,
            });
        match last {
            Some(last) => mem::swap(last, &mut waker),
            None => {
                state.observers.push(Observer::Waker(waker));
                return true;
            }
        }
        drop(state);
        drop(waker);
        true
    }

    /// Removes the observers that a wait for several tasks registered.
    pub(crate) fn forget_completions(&self, completions: &Arc<Completions>) {
        let mut state = self.state.lock();
        state.observers.retain(|observer| match observer {
            Observer::Completions(other, _) => !Arc::ptr_eq(other, completions),
            _ => true,
        });
    }

    pub(crate) fn forget_thread(&self, thread: &Thread) {
        let mut state = self.state.lock();
        state.observers.retain(|observer| match observer {
            Observer::Thread(other) => other.id() != thread.id(),
            _ => true,
        });
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Task");
        debug
            .field("id", &self.id)
            .field("outcome", &self.outcome.get());
        debug.finish_non_exhaustive()
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waker(_) => "Waker",
            Self::Thread(_) => "Thread",
            Self::Completions(..) => "Completions",
            Self::Callback(..) => "Callback",
        })
    }
}

/// The tasks of a wait that are done, in the order in which they ended.
#[derive(Debug, Default)]
pub(crate) struct Completions {
    done: Mutex<VecDeque<usize>>,
    waiting: Mutex<Option<Thread>>,
}

impl Completions {
    pub(crate) fn push(&self, index: usize) {
        self.done.lock().push_back(index);
    }

    pub(crate) fn pop(&self) -> Option<usize> {
        self.done.lock().pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.done.lock().is_empty()
    }

    /// Wakes `thread` at the next completion.
    pub(crate) fn wake(&self, thread: &Thread) {
        *self.waiting.lock() = Some(thread.clone());
    }
}

/// Wakers and threads to wake after all locks are released, because wakers run user code.
#[derive(Debug, Default)]
pub(crate) struct Wakeups {
    pub(crate) wakers: Vec<Waker>,
    pub(crate) threads: Vec<Thread>,
}

impl Wakeups {
    pub(crate) fn add(&mut self, observer: Observer) {
        match observer {
            Observer::Waker(waker) => self.wakers.push(waker),
            Observer::Thread(thread) => self.threads.push(thread),
            Observer::Callback(callback, callbacks) => callbacks.send(callback),
            Observer::Completions(completions, index) => {
                completions.push(index);
                self.threads.extend(completions.waiting.lock().take());
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.wakers.is_empty() && self.threads.is_empty()
    }
}
