//! The worker that the calling code runs in.

use crate::pool::protocol::region::SharedRegion;
use crate::sys::pid;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The worker that the calling code runs in.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct Worker {
    /// Its number in the pool, from 0. A replacement gets the number of the worker that died.
    pub id: usize,
    /// Its process id.
    pub pid: u32,
    /// The number of tasks that it has finished, including failed tasks.
    pub tasks_done: u64,
    /// The number of the current attempt at the task, from 1; see
    /// [`TaskOptions::retries`](crate::TaskOptions::retries).
    pub attempt: u32,
}

impl Worker {
    /// Whether the pool asked the running task to stop.
    ///
    /// [`TaskFuture::cancel`](crate::TaskFuture::cancel) asks and lets the task run on. A time
    /// limit and [`TaskFuture::kill`](crate::TaskFuture::kill) send SIGTERM as well, so only a task
    /// that handles SIGTERM sees the request. The call loads one word from shared memory: a loop
    /// may call it in each iteration.
    ///
    /// ```
    /// let pool = procpool::ProcessPoolExecutor::builder().workers(1).build()?;
    /// let count = |()| {
    ///     let worker = procpool::current_worker().expect("a task runs in a worker");
    ///     (0u64..).take_while(|_| !worker.stop_requested()).count()
    /// };
    /// let counting = pool.submit(count, ());
    /// while !counting.is_running() {
    ///     std::thread::yield_now();
    /// }
    /// assert!(!counting.cancel()); // The task runs, and sees the request.
    /// assert!(counting.result()? < usize::MAX);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    #[must_use]
    pub fn stop_requested(&self) -> bool {
        let current = CURRENT.lock();
        let current = current.as_ref().filter(|worker| worker.is_this_process());
        current.is_some_and(|worker| {
            worker
                .region
                .is_stop_requested(ITEM.load(Ordering::Relaxed))
        })
    }
}

/// This process as a worker.
pub(super) struct CurrentWorker {
    /// Its number in the pool.
    id: usize,
    /// A forked copy of this process is not a worker, but may become a worker of another pool.
    pid: u32,
    region: SharedRegion,
}

impl CurrentWorker {
    pub(super) fn new(id: usize, region: SharedRegion) -> Self {
        Self {
            id,
            pid: pid::current(),
            region,
        }
    }

    fn is_this_process(&self) -> bool {
        self.pid == pid::current()
    }
}

static CURRENT: Mutex<Option<CurrentWorker>> = Mutex::new(None);
/// The number of the running item; written by the worker's main thread, as are the two below.
static ITEM: AtomicU32 = AtomicU32::new(0);
/// The attempt of the running item.
static ATTEMPT: AtomicU32 = AtomicU32::new(1);
static TASKS_DONE: AtomicU64 = AtomicU64::new(0);

/// Returns the worker process that the caller runs in, or `None` outside of a worker.
///
/// ```
/// let pool = procpool::ProcessPoolExecutor::builder().workers(1).build()?;
/// let id = pool.apply(|()| procpool::current_worker().map(|worker| worker.id), ())?;
/// assert_eq!(id, Some(0));
/// assert!(procpool::current_worker().is_none());
/// # Ok::<(), procpool::Error>(())
/// ```
#[must_use]
pub fn current_worker() -> Option<Worker> {
    let current = CURRENT.lock();
    let current = current.as_ref().filter(|worker| worker.is_this_process())?;
    Some(Worker {
        id: current.id,
        pid: current.pid,
        tasks_done: TASKS_DONE.load(Ordering::Relaxed),
        attempt: ATTEMPT.load(Ordering::Relaxed),
    })
}

/// Makes this process a worker that has finished no tasks.
pub(super) fn set(worker: CurrentWorker) {
    *CURRENT.lock() = Some(worker);
    TASKS_DONE.store(0, Ordering::Relaxed);
}

/// Records the attempt of the items that run next.
#[inline]
pub(super) fn set_attempt(attempt: u32) {
    ATTEMPT.store(attempt, Ordering::Relaxed);
}

/// Records the item that starts.
#[inline]
pub(super) fn set_item(item: u32) {
    ITEM.store(item, Ordering::Relaxed);
}

/// Counts a finished item.
#[inline]
pub(super) fn count_task() {
    // A load and a store suffice, because only the worker's main thread stores.
    TASKS_DONE.store(TASKS_DONE.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
