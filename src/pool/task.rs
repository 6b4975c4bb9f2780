//! One call that somebody waits for: its argument, its place, its outcome, and who is to be told.

use super::{
    batch::{Batch, Part},
    budget::Reserved,
    callbacks::Callbacks,
    demands::{Demands, Tries},
    payload::Payload,
};
use crate::error::{Error, ErrorKind, Result};
use crate::process::function::Function;
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
pub(super) struct Task {
    pub(super) id: u64,
    pub(super) work: Work,
    pub(super) demands: Demands,
    /// When it was submitted.
    pub(super) submitted: u64,
    outcome: OnceLock<Result<Body>>,
    cell: Mutex<Cell>,
}

/// What a task stands for.
#[derive(Debug)]
pub(super) enum Work {
    /// One call of a function.
    Call(Function),
    /// A whole map.
    Batch(Arc<Batch>),
    /// Nothing was sent: it failed at once.
    Nothing,
}

/// What a task gave.
#[derive(Debug)]
pub(super) enum Body {
    Value(Payload),
    List(Vec<Part>),
}

impl Body {
    /// Whether descriptors of handles in it are open.
    pub(super) fn has_handles(&self) -> bool {
        match self {
            Self::Value(payload) => payload.has_handles(),
            Self::List(parts) => parts.iter().any(Part::has_handles),
        }
    }
}

#[derive(Debug)]
struct Cell {
    argument: Payload,
    /// The argument's part of the pool's budget.
    reserved: Option<Box<Reserved>>,
    place: Place,
    tries: Tries,
    observers: Vec<Observer>,
}

/// Where a task is, until it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the pool's queue, or nowhere yet.
    Queue,
    /// Sent to the worker of this place in the pool, as its item of this number.
    Worker(usize, u32),
}

/// Who is told that a task is done.
pub(super) enum Observer {
    Waker(Waker),
    Thread(Thread),
    /// One of several that somebody waits for.
    Listed(Arc<Completions>, usize),
    Callback(Callback, Arc<Callbacks>),
}

pub(super) type Callback = Box<dyn FnOnce() + Send>;

impl Task {
    /// A call of a function with an encoded argument.
    pub(super) fn call(function: Function, argument: Payload, demands: Demands) -> Self {
        Self::new(Work::Call(function), argument, demands)
    }

    /// The same, and it takes this part of the pool's budget until it is done.
    pub(super) fn with_reserved(mut self, reserved: Option<Box<Reserved>>) -> Self {
        self.cell.get_mut().reserved = reserved;
        self
    }

    /// A whole map.
    pub(super) fn batch(batch: Arc<Batch>) -> Self {
        Self::new(Work::Batch(batch), Payload::EMPTY, Demands::default())
    }

    fn new(work: Work, argument: Payload, demands: Demands) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let cell = Cell {
            argument,
            reserved: None,
            place: Place::Queue,
            tries: Tries::default(),
            observers: Vec::new(),
        };
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            work,
            demands,
            submitted: clock::now(),
            outcome: OnceLock::new(),
            cell: Mutex::new(cell),
        }
    }

    /// A task that is done before it began.
    pub(super) fn failed(error: Error) -> Self {
        let task = Self::new(Work::Nothing, Payload::EMPTY, Demands::default());
        task.outcome.get_or_init(|| Err(error));
        task
    }

    /// The same, with nothing left of its value.
    pub(super) fn emptied(&self) -> Self {
        let mut task = Self::new(Work::Nothing, Payload::EMPTY, self.demands);
        task.id = self.id;
        task.outcome.get_or_init(|| Ok(Body::Value(Payload::EMPTY)));
        task
    }

    pub(super) fn outcome(&self) -> Option<&Result<Body>> {
        self.outcome.get()
    }

    pub(super) fn is_done(&self) -> bool {
        self.outcome.get().is_some()
    }

    /// What the task failed with: of a map, the first failure in the order of the items.
    pub(super) fn error(&self) -> Option<&Error> {
        match self.outcome()? {
            Err(error) => Some(error),
            Ok(Body::Value(_)) => None,
            Ok(Body::List(parts)) => parts.iter().find_map(|it| it.outcome.as_ref().err()),
        }
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.error()
            .is_some_and(|it| it.kind() == ErrorKind::Cancelled)
    }

    pub(super) fn place(&self) -> Place {
        self.cell.lock().place
    }

    pub(super) fn set_place(&self, place: Place) {
        self.cell.lock().place = place;
    }

    /// Looks at how it was tried before.
    pub(super) fn with_tries<T>(&self, look: impl FnOnce(&mut Tries) -> T) -> T {
        look(&mut self.cell.lock().tries)
    }

    /// Looks at the argument, which may have to change its slab.
    pub(super) fn with_argument<T>(&self, look: impl FnOnce(&mut Payload) -> T) -> T {
        look(&mut self.cell.lock().argument)
    }

    /// Ends the task, unless it has ended: frees its argument and says who is to be told.
    pub(super) fn complete(&self, outcome: Result<Body>, told: &mut Told) {
        let mut cell = self.cell.lock();
        if self.is_done() {
            return;
        }
        let argument = mem::replace(&mut cell.argument, Payload::EMPTY);
        // Before anybody can see that it is done: who has waited for that finds its room free.
        drop(cell.reserved.take());
        // It is set under the lock alone.
        let _ = self.outcome.set(outcome);
        // Under the lock: a callback that is added behind these must be called behind them, too.
        for observer in mem::take(&mut cell.observers) {
            told.add(observer);
        }
        drop(cell);
        drop(argument);
    }

    /// Has `observer` told when the task is done; gives it back when it is done already.
    pub(super) fn observe(&self, observer: Observer) -> Option<Observer> {
        let mut cell = self.cell.lock();
        if self.is_done() {
            return Some(observer);
        }
        cell.observers.push(observer);
        None
    }

    /// Has `waker` woken when the task is done, instead of the one before; false when it is done.
    pub(super) fn observe_by(&self, waker: &Waker) -> bool {
        // Cloned before the lock is taken, and the one before dropped when it has been let go: that is the user's code.
        let mut waker = waker.clone();
        let mut cell = self.cell.lock();
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
    pub(super) fn forget(&self, completions: &Arc<Completions>) {
        let mut cell = self.cell.lock();
        cell.observers.retain(
            |it| !matches!(it, Observer::Listed(listed, _) if Arc::ptr_eq(listed, completions)),
        );
    }

    pub(super) fn forget_thread(&self, thread: &Thread) {
        let mut cell = self.cell.lock();
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
            Self::Listed(..) => "Listed",
            Self::Callback(..) => "Callback",
        })
    }
}

/// Which of several tasks are done, in the order in which they ended.
#[derive(Debug, Default)]
pub(super) struct Completions {
    done: Mutex<VecDeque<usize>>,
    waiting: Mutex<Option<Thread>>,
}

impl Completions {
    pub(super) fn push(&self, index: usize) {
        self.done.lock().push_back(index);
    }

    pub(super) fn pop(&self) -> Option<usize> {
        self.done.lock().pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.done.lock().is_empty()
    }

    /// Has this thread woken at the next completion.
    pub(super) fn wake(&self, thread: &Thread) {
        *self.waiting.lock() = Some(thread.clone());
    }
}

/// What is to be done for those who wait, once no lock is held: wakers and callbacks are the user's code.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) wakers: Vec<Waker>,
    pub(super) threads: Vec<Thread>,
}

impl Told {
    pub(super) fn add(&mut self, observer: Observer) {
        match observer {
            Observer::Waker(waker) => self.wakers.push(waker),
            Observer::Thread(thread) => self.threads.push(thread),
            Observer::Callback(callback, callbacks) => callbacks.send(callback),
            Observer::Listed(completions, index) => {
                completions.push(index);
                self.threads.extend(completions.waiting.lock().take());
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wakers.is_empty() && self.threads.is_empty()
    }
}
