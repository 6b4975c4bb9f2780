//! The executor: the public handle of a pool. Its calls that take many items are in `map.rs`.

mod map;

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    builder::ProcessPoolBuilder,
    future::TaskFuture,
    options::TaskOptions,
    pool::Pool,
    scheduler::{Scheduler, Slot, err_stopped},
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
/// Workers are forked when the pool is built and live as long as it does. A task can do anything,
/// and only that task fails: a panic is an error of its future with the message and the backtrace;
/// a crash, an `exit` or a kill ends the worker, is an error of the one task that ran there, and
/// the worker is replaced.
///
/// A task is a function without captured state (`fn`), its argument and its result are [`Wire`]
/// values. State travels as an argument; see [`map_with`](Self::map_with).
///
/// The pool is shared by reference between threads. Dropping it finishes what was submitted, then
/// ends the workers, also in a panic that unwinds past it; for those who cannot wait there are
/// [`terminate`](Self::terminate) and [`kill`](Self::kill).
///
/// A process that a task starts and does not wait for is killed when its worker ends, however that
/// comes about. One that a task detaches (a daemon, by forking twice) does not get away: the fork
/// server inherits it, and kills it when the next worker of the program ends, of whichever pool.
/// What is to outlive the pool is started by the program itself.
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
/// A closure must not capture: what it needs is an argument.
///
/// ```compile_fail,E0308
/// let factor = 3;
/// let pool = procpool::ProcessPoolExecutor::new().unwrap();
/// pool.map(|x: u64| x * factor, 0..5); // closures can only be coerced to `fn` types if they do not capture any variables
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
    /// As [`ProcessPoolBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// Starts to build a pool with settings.
    pub fn builder() -> ProcessPoolBuilder {
        ProcessPoolBuilder::new()
    }

    /// The executor that all of the process shares: built at the first call, and the same at every
    /// later one as long as it takes tasks. For code that has no place to keep a pool, or does not
    /// know who else has one.
    ///
    /// A new one takes its place if it is broken or closed, or if other settings are asked for
    /// ([`ProcessPoolBuilder::reusable`]). Who still has the old one may go on with it: it ends
    /// when the last [`Arc`] of it is dropped, which finishes what was submitted, and that last one
    /// may be the one that is replaced here. A copy of the process made by `fork` gets an executor
    /// of its own, and so does a worker that calls this in a task.
    ///
    /// Its workers end after 10 s with nothing to do, and come back with the next task. Like
    /// everything in a static it is not dropped when `main` returns: its workers end with the
    /// process, with what they were doing.
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
    /// As [`ProcessPoolBuilder::build`].
    pub fn reusable() -> Result<Arc<Self>> {
        Self::builder().reusable()
    }

    /// The same calls with settings of their own: `pool.options().chunk_size(64).map(f, items)`.
    pub fn options(&self) -> TaskOptions<'_> {
        TaskOptions::new(&self.pool)
    }

    /// Has a worker call `f` with `arg`, and returns at once with a handle on the result.
    ///
    /// The argument is encoded here and now. This blocks only if too many bytes are pending
    /// already, where that is limited
    /// ([`max_pending_bytes`](crate::ProcessPoolBuilder::max_pending_bytes)). Whatever goes wrong
    /// is an error of the future: a value that cannot be encoded, a pool that is closed.
    #[must_use = "a task runs all the same, but nobody hears of its result or its error"]
    pub fn submit<A, R>(&self, f: fn(A) -> R, arg: A) -> TaskFuture<R>
    where
        A: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().submit(f, arg)
    }

    /// As [`submit`](Self::submit), but gives the argument back where that would wait, and where
    /// the pool takes no task at all.
    ///
    /// ```
    /// use procpool::{ErrorKind, ProcessPoolExecutor};
    ///
    /// let pool = ProcessPoolExecutor::builder().workers(1).max_pending_bytes(1 << 20).build()?;
    /// let slow = |bytes: Vec<u8>| std::thread::sleep(std::time::Duration::from_millis(bytes.len() as u64 >> 14));
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
    /// [`ErrorKind::MemoryExceeded`] if too many bytes are pending, see
    /// [`max_pending_bytes`](crate::ProcessPoolBuilder::max_pending_bytes); [`ErrorKind::Shutdown`]
    /// and [`ErrorKind::StartFailed`] from a pool that is closed or broken; [`ErrorKind::Codec`]
    /// for an argument that cannot be encoded.
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

    /// Has a worker call `f` with `arg` and waits for the result.
    ///
    /// # Errors
    ///
    /// As [`TaskFuture::result`].
    pub fn apply<A, R>(&self, f: fn(A) -> R, arg: A) -> Result<R>
    where
        A: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().apply(f, arg)
    }

    /// As [`submit`](Self::submit); `callback` is called with the result, once, on the pool's own
    /// thread for callbacks.
    ///
    /// [`join`](Self::join) and dropping the pool wait for callbacks, too. See
    /// [`TaskFuture::add_done_callback`] for what they may do. The future may be dropped.
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

    /// Workers the pool keeps.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.pool.workers()
    }

    /// Has the pool keep so many workers from now on, while it works. Returns at once: new ones are
    /// started in the background, and those that are too many, idle ones first, finish the task
    /// they run and end. The others keep their process ids.
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
    /// [`ErrorKind::InvalidInput`] for 0 workers, [`ErrorKind::Shutdown`] once the pool is closed.
    pub fn resize(&self, workers: usize) -> Result<()> {
        self.pool.check_owner()?;
        self.pool.with_scheduler(|state, _| {
            state.resize(workers)?;
            // Under the lock: of several threads the last one decides, here and there.
            self.pool.workers.store(workers, Ordering::Relaxed);
            Ok::<(), Error>(())
        })?;
        self.pool.driver.notify_background();
        Ok(())
    }

    /// What the pool has done since it was built, and is doing.
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

    /// Process ids of the workers that are alive now.
    #[must_use]
    pub fn worker_pids(&self) -> Vec<u32> {
        if self.pool.is_foreign() {
            return Vec::new();
        }
        self.pool.with_scheduler_ref(|state| {
            let links = state.slots.iter().filter_map(Slot::worker);
            links
                .filter(|it| !it.pidfd.is_dead())
                .map(|it| it.pid)
                .collect()
        })
    }

    /// Takes no new tasks from now on; later calls give [`ErrorKind::Shutdown`]. Those submitted
    /// are finished, and then the workers end.
    pub fn close(&self) {
        self.shutdown(false);
    }

    /// As [`close`](Self::close); with `cancel_pending`, tasks that have not started are cancelled.
    /// Does not wait.
    pub fn shutdown(&self, cancel_pending: bool) {
        self.change(|state, wakeups| {
            state.close();
            if cancel_pending {
                state.cancel_pending(wakeups);
            }
        });
    }

    /// Stops the pool: outstanding futures fail with [`ErrorKind::Shutdown`] at once, workers get
    /// SIGTERM, and those that live on SIGKILL after 2 s. Does not wait; [`join`](Self::join) does.
    pub fn terminate(&self) {
        self.change(|state, wakeups| state.stop(&err_stopped(), false, wakeups));
    }

    /// As [`terminate`](Self::terminate), with SIGKILL at once.
    pub fn kill(&self) {
        self.change(|state, wakeups| state.stop(&err_stopped(), true, wakeups));
    }

    /// Closes the pool, and waits until every task and callback is done and every worker has ended.
    ///
    /// It waits as long as a task runs. May be called again, and by several threads.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StartFailed`] if the pool was broken by then, [`ErrorKind::Unsupported`] in a
    /// copy of the process that built it.
    pub fn join(&self) -> Result<()> {
        self.close();
        self.wait_for_end(None);
        self.finish_threads(None)
    }

    /// As [`join`](Self::join), but after `limit` what is left is stopped as by
    /// [`terminate`](Self::terminate).
    ///
    /// Returns when the workers are gone: at most about 2 s after the limit, and then only if they
    /// ignore SIGTERM. A callback that still runs then is left to itself.
    ///
    /// # Errors
    ///
    /// As `join`; [`ErrorKind::TimedOut`] if something had to be stopped, or a callback was not
    /// done.
    pub fn join_timeout(&self, limit: Duration) -> Result<()> {
        self.close();
        let deadline = Instant::now().checked_add(limit);
        if self.wait_for_end(deadline) {
            return self.finish_threads(deadline);
        }
        self.terminate();
        self.wait_for_end(None);
        self.finish_threads(deadline)?;
        let message = format!("the pool was not done within {limit:?} and was stopped");
        Err(Error::new(ErrorKind::TimedOut, message))
    }

    fn change(&self, change: impl FnOnce(&mut Scheduler, &mut Wakeups)) {
        if !self.pool.is_foreign() {
            self.pool.with_scheduler(change);
            self.pool.driver.notify_leader();
            // Who waits for room hears of it.
            self.pool.budget.iter().for_each(|it| it.wake_all());
        }
    }

    fn wait_for_end(&self, deadline: Option<Instant>) -> bool {
        if self.pool.is_foreign() {
            return true;
        }
        let has_ended = || self.pool.has_ended();
        // Followers are woken at the end in any case.
        self.pool.wait_until(deadline, &|_: &Thread| (), &has_ended)
    }

    /// Waits for the pool's own threads once no worker is left; for callbacks until the deadline.
    fn finish_threads(&self, deadline: Option<Instant>) -> Result<()> {
        if !self.pool.is_foreign() {
            self.pool.driver.notify_leader();
            self.pool.join_thread();
            if !self.pool.callbacks.finish(deadline) {
                let message = "a callback was not done when the limit for joining the pool passed";
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
    /// Finishes what was submitted, then ends the workers and waits for them. In a copy of the
    /// process that built the pool nothing happens: neither the workers nor the threads are the
    /// copy's.
    fn drop(&mut self) {
        if self.pool.is_foreign() {
            std::mem::forget(Arc::clone(&self.pool));
            return;
        }
        // A broken pool has told every future, and there is nobody left to tell.
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
