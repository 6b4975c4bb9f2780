//! The executor: the public handle of a pool. Calls that take many items are in `map.rs`.

mod map;

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    builder::ProcessPoolBuilder,
    future::TaskFuture,
    options::TaskOptions,
    pool::Pool,
    scheduler::{Scheduler, Slot, StopMode, err_stopped},
    stats::PoolStats,
    task::Wakeups,
    try_submit_error::TrySubmitError,
};
use crate::wire::Wire;
use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    thread::Thread,
    time::{Duration, Instant},
};

/// A pool of worker processes that run functions.
///
/// Workers start when the pool is built and live as long as it does. A failure costs only the task
/// that caused it. A panic becomes the error of the task's future, with the message and the
/// backtrace. A crash, an `exit` or a kill ends the worker; the one task that ran there fails, and
/// the pool replaces the worker.
///
/// A task is a function without captured state (`fn`). Its argument and its result are [`Wire`]
/// values. Pass state as an argument; see [`map_with`](Self::map_with).
///
/// Threads share the pool by reference. Dropping it finishes the submitted tasks and then ends the
/// workers, also while a panic unwinds. [`terminate`](Self::terminate) and [`kill`](Self::kill) end
/// it without waiting for tasks.
///
/// When a worker ends, the processes that its tasks started and did not wait for are killed. This
/// includes a daemon that a task detached by forking twice: the fork server inherits it and kills
/// it when the next worker of the program ends, in any pool. Start a process in the program itself
/// if it has to outlive the pool.
///
/// ```
/// use procpool::ProcessPoolExecutor;
///
/// fn square(x: u64) -> u64 {
///     x * x
/// }
///
/// let pool = ProcessPoolExecutor::new()?;
/// assert_eq!(pool.map(square, 0..5)?, [0, 1, 4, 9, 16]);
///
/// let error = pool.apply(|()| std::process::abort(), ()).map(|()| ()).unwrap_err();
/// assert_eq!(error.worker().and_then(|exit| exit.signal), Some(6));
/// # Ok::<(), procpool::Error>(())
/// ```
///
/// Closures must not capture. Pass the value as an argument instead.
///
/// ```compile_fail,E0308
/// let factor = 3;
/// let pool = procpool::ProcessPoolExecutor::new().unwrap();
/// // error: closures can only be coerced to `fn` types if they do not capture any variables
/// pool.map(|x: u64| x * factor, 0..5);
/// ```
///
/// Values are owned: another process cannot see what a reference points to.
///
/// ```compile_fail,E0277
/// let pool = procpool::ProcessPoolExecutor::new().unwrap();
/// let words = vec![String::from("a")];
/// pool.map(|word: &String| word.len(), &words); // `&String` cannot be sent to another process
/// ```
pub struct ProcessPoolExecutor {
    pub(super) pool: Arc<Pool>,
}

impl ProcessPoolExecutor {
    /// Builds a pool of [`cpu_count`](crate::cpu_count) workers with default settings.
    ///
    /// # Errors
    ///
    /// Like [`ProcessPoolBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Returns a builder for a pool with other settings.
    pub fn builder() -> ProcessPoolBuilder {
        ProcessPoolBuilder::new()
    }

    /// Returns the executor that the whole process shares. The first call builds it, and later
    /// calls return the same one while it accepts tasks. It suits code that has no place to keep a
    /// pool.
    ///
    /// A new executor replaces it if it is broken or closed, or if the settings differ
    /// ([`ProcessPoolBuilder::reusable`]). Holders of the replaced executor may still use it. It
    /// ends when its last [`Arc`] is dropped, which finishes its submitted tasks; this call may
    /// drop the last one. A copy of the process made by `fork` gets its own executor, and so does a
    /// worker.
    ///
    /// Its workers exit after 10 s without a task, and the next task starts them again. Like every
    /// static, the executor is not dropped when `main` returns: its workers then end with the
    /// process, without finishing their tasks.
    ///
    /// ```
    /// use procpool::ProcessPoolExecutor;
    ///
    /// assert_eq!(ProcessPoolExecutor::reusable()?.map(|x: u64| x * x, 0..3)?, [0, 1, 4]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Like [`ProcessPoolBuilder::build`].
    pub fn reusable() -> Result<Arc<Self>> {
        Self::builder().reusable()
    }

    /// Returns the pool's calls with settings for a single call:
    /// `pool.options().chunk_size(64).map(f, items)`.
    pub fn options(&self) -> TaskOptions<'_> {
        TaskOptions::new(&self.pool)
    }

    /// Runs `f(arg)` on a worker and returns a future for its result.
    ///
    /// Encodes the argument before it returns. Blocks only while the pool's limit of pending bytes
    /// ([`max_pending_bytes`](crate::ProcessPoolBuilder::max_pending_bytes)) leaves no room. All
    /// errors come from the future, including a value that cannot be encoded and a closed pool.
    #[must_use = "dropping the future loses the result and the error of the task"]
    pub fn submit<A, R>(&self, f: fn(A) -> R, arg: A) -> TaskFuture<R>
    where
        A: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().submit(f, arg)
    }

    /// Like [`submit`](Self::submit), but never blocks: the error returns the argument if the pool
    /// is full or accepts no tasks.
    ///
    /// ```
    /// use procpool::{ErrorKind, ProcessPoolExecutor};
    ///
    /// let pool = ProcessPoolExecutor::builder().workers(1).max_pending_bytes(1 << 20).build()?;
    /// let slow = |bytes: Vec<u8>| {
    ///     let millis = bytes.len() as u64 >> 14;
    ///     std::thread::sleep(std::time::Duration::from_millis(millis))
    /// };
    /// let first = pool.try_submit(slow, vec![0; 1 << 20])?;
    /// let refused = pool.try_submit(slow, vec![1]).unwrap_err();
    /// assert_eq!((refused.kind(), refused.into_inner()), (ErrorKind::Full, vec![1]));
    /// first.result()?;
    /// assert!(pool.try_submit(slow, vec![1]).is_ok());
    /// # Ok::<(), procpool::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Full`] if too many bytes are pending, see
    /// [`max_pending_bytes`](crate::ProcessPoolBuilder::max_pending_bytes). [`ErrorKind::Shutdown`]
    /// and [`ErrorKind::StartFailed`] if the pool is closed or broken. [`ErrorKind::Codec`] if the
    /// argument cannot be encoded.
    pub fn try_submit<A, R>(
        &self,
        f: fn(A) -> R,
        arg: A,
    ) -> Result<TaskFuture<R>, TrySubmitError<A>>
    where
        A: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().try_submit(f, arg)
    }

    /// Runs `f(arg)` on a worker and waits for the result.
    ///
    /// # Errors
    ///
    /// Like [`TaskFuture::result`].
    pub fn apply<A, R>(&self, f: fn(A) -> R, arg: A) -> Result<R>
    where
        A: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().apply(f, arg)
    }

    /// Like [`submit`](Self::submit), but also calls `callback` once with the result, on the pool's
    /// callback thread.
    ///
    /// [`join`](Self::join) and dropping the pool wait for callbacks, too. The future may be
    /// dropped before the callback runs. See [`TaskFuture::add_done_callback`] for what a callback
    /// may do.
    pub fn apply_async<A, R>(
        &self,
        f: fn(A) -> R,
        arg: A,
        callback: impl FnOnce(&Result<R>) + Send + 'static,
    ) -> TaskFuture<R>
    where
        A: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().apply_async(f, arg, callback)
    }

    /// Returns the number of workers that the pool keeps.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.pool.workers()
    }

    /// Sets the number of workers while the pool runs. Does not block.
    ///
    /// New workers start in the background. Surplus workers, idle ones first, finish their task and
    /// exit. The others keep their process ids.
    ///
    /// ```
    /// let pool = procpool::ProcessPoolExecutor::builder().workers(1).build()?;
    /// pool.resize(3)?;
    /// assert_eq!(pool.workers(), 3);
    /// assert_eq!(pool.map(|x: u64| x + 1, 0..3)?, [1, 2, 3]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if `workers` is 0. [`ErrorKind::Shutdown`] if the pool is
    /// closed.
    pub fn resize(&self, workers: usize) -> Result<()> {
        self.pool.check_owner()?;
        self.pool.with_scheduler(|state, _| {
            state.resize(workers)?;
            // Under the lock. Otherwise: (1) A resizes the scheduler; (2) B resizes it and stores
            // its number; (3) A stores its own number, which is not the scheduler's.
            self.pool.workers.store(workers, Ordering::Relaxed);
            Ok::<(), Error>(())
        })?;
        self.pool.driver.notify_background();
        Ok(())
    }

    /// Returns the counters of the pool since it was built, and its current state.
    ///
    /// ```
    /// let pool = procpool::ProcessPoolExecutor::builder().workers(2).build()?;
    /// pool.map(|x: u64| x * x, 0..100)?;
    /// let stats = pool.stats();
    /// assert_eq!((stats.done, stats.failed, stats.queued, stats.workers.len()), (100, 0, 0, 2));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        if self.pool.is_foreign() {
            return PoolStats::default();
        }
        self.pool.poll();
        self.pool.with_scheduler_ref(Scheduler::stats)
    }

    /// Returns the process ids of the workers that are alive.
    #[must_use]
    pub fn worker_pids(&self) -> Vec<u32> {
        if self.pool.is_foreign() {
            return Vec::new();
        }
        self.pool.with_scheduler_ref(|state| {
            let workers = state.slots.iter().filter_map(Slot::worker);
            workers
                .filter(|worker| !worker.io.pidfd.is_dead())
                .map(|it| it.pid)
                .collect()
        })
    }

    /// Closes the pool: later calls fail with [`ErrorKind::Shutdown`]. The workers finish the
    /// submitted tasks and then exit. Does not block.
    pub fn close(&self) {
        self.shutdown(false);
    }

    /// Like [`close`](Self::close), but `cancel_pending` also cancels the tasks that have not
    /// started. Does not block.
    pub fn shutdown(&self, cancel_pending: bool) {
        self.change(|state, wakeups| {
            state.close();
            if cancel_pending {
                state.cancel_pending(wakeups);
            }
        });
    }

    /// Stops the pool: fails the outstanding futures with [`ErrorKind::Shutdown`] and sends SIGTERM
    /// to the workers. Workers that are alive after 2 s get SIGKILL. Does not block; use
    /// [`join`](Self::join) to wait.
    pub fn terminate(&self) {
        self.change(|state, wakeups| state.stop(&err_stopped(), StopMode::Graceful, wakeups));
    }

    /// Like [`terminate`](Self::terminate), but sends SIGKILL immediately.
    pub fn kill(&self) {
        self.change(|state, wakeups| state.stop(&err_stopped(), StopMode::Kill, wakeups));
    }

    /// Closes the pool and waits until every task and callback is done and every worker has exited.
    ///
    /// Blocks as long as a task runs. Several threads may call it, each more than once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StartFailed`] if the pool is broken. [`ErrorKind::Unsupported`] in a forked
    /// copy of the process that built it.
    pub fn join(&self) -> Result<()> {
        self.close();
        self.wait_for_end(None);
        self.finish_threads(None)
    }

    /// Like [`join`](Self::join), but stops the pool after `limit`, like
    /// [`terminate`](Self::terminate).
    ///
    /// Returns after the workers have exited: at most about 2 s after the limit, and only that late
    /// if they ignore SIGTERM. A callback that is still running then is left running.
    ///
    /// # Errors
    ///
    /// Like `join`. [`ErrorKind::TimedOut`] if a task had to be stopped or a callback was not done.
    pub fn join_timeout(&self, limit: Duration) -> Result<()> {
        self.close();
        let deadline = Instant::now().checked_add(limit);
        if self.wait_for_end(deadline) {
            return self.finish_threads(deadline);
        }
        self.terminate();
        self.wait_for_end(None);
        self.finish_threads(deadline)?;
        let message = format!("the pool was stopped because it was not done within {limit:?}");
        Err(Error::new(ErrorKind::TimedOut, message))
    }

    fn change(&self, change: impl FnOnce(&mut Scheduler, &mut Wakeups)) {
        if !self.pool.is_foreign() {
            self.pool.with_scheduler(change);
            self.pool.driver.notify_leader();
            // A closed pool admits no more tasks, so submitters that wait for room must return.
            self.pool.budget.iter().for_each(|it| it.wake_all());
        }
    }

    fn wait_for_end(&self, deadline: Option<Instant>) -> bool {
        if self.pool.is_foreign() {
            return true;
        }
        let has_ended = || self.pool.has_ended();
        // Followers need no registration: the end of the pool wakes all of them.
        self.pool.wait_until(deadline, &|_: &Thread| (), &has_ended)
    }

    /// Waits for the pool's own threads after the last worker has exited, and for callbacks until
    /// `deadline`.
    fn finish_threads(&self, deadline: Option<Instant>) -> Result<()> {
        if !self.pool.is_foreign() {
            self.pool.driver.notify_leader();
            self.pool.join_thread();
            if !self.pool.callbacks.finish(deadline) {
                let message = "a callback was not done within the limit for joining the pool";
                return Err(Error::new(ErrorKind::TimedOut, message));
            }
        }
        match self.pool.closed_error() {
            Some(error) if error.kind() != ErrorKind::Shutdown => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for ProcessPoolExecutor {
    /// Finishes the submitted tasks, ends the workers and waits for them. Does nothing in a forked
    /// copy of the process that built the pool, which owns neither the workers nor the threads.
    fn drop(&mut self) {
        if self.pool.is_foreign() {
            std::mem::forget(Arc::clone(&self.pool));
            return;
        }
        // The futures of a broken pool have the error already, and `drop` cannot return it.
        let _ = self.join();
    }
}

impl fmt::Debug for ProcessPoolExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessPoolExecutor")
            .field("workers", &self.workers())
            .finish_non_exhaustive()
    }
}
