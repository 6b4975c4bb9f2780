//! One call that somebody waits for: its argument, its place, its outcome, and who is to be told.

pub(crate) mod chunker;
pub(crate) mod config;
pub(crate) mod encoded;
pub(crate) mod feed;
pub(crate) mod flush_timer;
pub(crate) mod map;
pub(crate) mod map_driver;
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
        map::{MapPart, MapState},
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

/// A task, shared by its future, the dispatcher, and its callbacks.
pub(crate) struct Task {
    pub(crate) id: u64,
    pub(crate) kind: TaskKind,
    pub(crate) config: TaskConfig,
    /// When it was submitted.
    pub(crate) submitted: u64,
    outcome: OnceLock<Result<TaskOutput>>,
    state: Mutex<TaskState>,
}

/// What a task stands for.
#[derive(Debug)]
pub(crate) enum TaskKind {
    /// One call of a function.
    Call(WireFunction),
    /// A whole map.
    Map(Arc<MapState>),
    /// Nothing was sent: it failed at once.
    Failed,
}

/// What a task gave.
#[derive(Debug)]
pub(crate) enum TaskOutput {
    Value(Encoded),
    List(Vec<MapPart>),
}

impl TaskOutput {
    /// Whether descriptors of handles in it are open.
    pub(crate) fn has_handles(&self) -> bool {
        match self {
            Self::Value(payload) => payload.has_fds(),
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
    /// Sent to the worker of this place in the pool, as its item of this number.
    InFlight(usize, u32),
}

/// Who is told that a task is done.
pub(crate) enum Observer {
    Waker(Waker),
    Thread(Thread),
    /// One of several that somebody waits for.
    Completions(Arc<Completions>, usize),
    Callback(Callback, Arc<Callbacks>),
}

pub(crate) type Callback = Box<dyn FnOnce() + Send>;

impl Task {
    /// A call of a function with an encoded argument.
    pub(crate) fn call(function: WireFunction, argument: Encoded, config: TaskConfig) -> Self {
        Self::new(TaskKind::Call(function), argument, config)
    }

    /// The same, and it takes this part of the pool's budget until it is done.
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
        let cell = TaskState {
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
            state: Mutex::new(cell),
        }
    }

    /// A task that is done before it began.
    pub(crate) fn failed(error: Error) -> Self {
        let task = Self::new(TaskKind::Failed, Encoded::EMPTY, TaskConfig::default());
        task.outcome.get_or_init(|| Err(error));
        task
    }

    /// The same, with nothing left of its value.
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

    /// What the task failed with: of a map, the first failure in the order of the items.
    pub(crate) fn error(&self) -> Option<&Error> {
        match self.outcome()? {
            Err(error) => Some(error),
            Ok(TaskOutput::Value(_)) => None,
            Ok(TaskOutput::List(parts)) => parts.iter().find_map(|it| it.outcome.as_ref().err()),
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.error()
            .is_some_and(|it| it.kind() == ErrorKind::Cancelled)
    }

    pub(crate) fn location(&self) -> TaskLocation {
        self.state.lock().location
    }

    pub(crate) fn set_location(&self, place: TaskLocation) {
        self.state.lock().location = place;
    }

    /// Looks at how it was tried before.
    pub(crate) fn with_attempts<T>(&self, look: impl FnOnce(&mut Attempts) -> T) -> T {
        look(&mut self.state.lock().attempts)
    }

    /// Looks at the argument, which may have to change its slab.
    pub(crate) fn with_argument<T>(&self, look: impl FnOnce(&mut Encoded) -> T) -> T {
        look(&mut self.state.lock().argument)
    }

    /// Ends the task, unless it has ended: frees its argument and says who is to be told.
    pub(crate) fn complete(&self, outcome: Result<TaskOutput>, wakeups: &mut Wakeups) {
        let mut cell = self.state.lock();
        if self.is_done() {
            return;
        }
        let argument = mem::replace(&mut cell.argument, Encoded::EMPTY);
        // Before anybody can see that it is done: who has waited for that finds its room free.
        drop(cell.reservation.take());
        // It is set under the lock alone.
        let _ = self.outcome.set(outcome);
        // Under the lock: a callback that is added behind these must be called behind them, too.
        for observer in mem::take(&mut cell.observers) {
            wakeups.add(observer);
        }
        drop(cell);
        drop(argument);
    }

    /// Has `observer` told when the task is done; gives it back when it is done already.
    pub(crate) fn observe(&self, observer: Observer) -> Option<Observer> {
        let mut cell = self.state.lock();
        if self.is_done() {
            return Some(observer);
        }
        cell.observers.push(observer);
        None
    }

    /// Has `waker` woken when the task is done, instead of the one before; false when it is done.
    pub(crate) fn set_waker(&self, waker: &Waker) -> bool {
        // Cloned before the lock is taken, and the one before dropped when it has been let go: that
        // is the user's code.
        let mut waker = waker.clone();
        let mut cell = self.state.lock();
        if self.is_done() {
            return false;
        }
        // A future is polled by one task at a time, and the newest waker counts.
        let last = cell.observers.iter_mut().find_map(|it| match it {
            Observer::Waker(waker) => Some(waker),
            _ => None,
        });
        match last {
            Some(last) => mem::swap(last, &mut waker),
            None => {
                cell.observers.push(Observer::Waker(waker));
                return true;
            }
        }
        drop(cell);
        drop(waker);
        true
    }

    /// Forgets the observers that a wait put there.
    pub(crate) fn forget_completions(&self, completions: &Arc<Completions>) {
        let mut cell = self.state.lock();
        cell.observers.retain(
            |it| !matches!(it, Observer::Completions(listed, _) if Arc::ptr_eq(listed, completions)),
        );
    }

    pub(crate) fn forget_thread(&self, thread: &Thread) {
        let mut cell = self.state.lock();
        cell.observers
            .retain(|it| !matches!(it, Observer::Thread(it) if it.id() == thread.id()));
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
            Self::Completions(..) => "Listed",
            Self::Callback(..) => "Callback",
        })
    }
}

/// Which of several tasks are done, in the order in which they ended.
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

    /// Has this thread woken at the next completion.
    pub(crate) fn wake(&self, thread: &Thread) {
        *self.waiting.lock() = Some(thread.clone());
    }
}

/// What is to be done for those who wait, once no lock is held: wakers and callbacks are the user's
/// code.
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
