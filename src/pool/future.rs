//! The future of a task's result, for blocking threads and for async code.

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    pool::{Pool, wait_for},
    scheduler::err_stopped,
    task::{Observer, Task, TaskKind, TaskOutput, Wakeups},
};
use crate::wire::Wire;
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

/// The result of a task that may still be running.
///
/// Wait for it with [`result`](Self::result), or `.await` it on any runtime. Dropping a future
/// neither cancels its task nor waits for it.
///
/// A thread that waits reads the replies of the workers itself, so no other thread has to be woken.
///
/// ```
/// let pool = procpool::ProcessPoolExecutor::new()?;
/// let future = pool.submit(|x: u64| x * x, 7);
/// assert_eq!(future.result()?, 49);
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct TaskFuture<R> {
    pub(super) pool: Arc<Pool>,
    pub(super) task: Arc<Task>,
    decode: fn(&TaskOutput) -> Result<R>,
    is_taken: bool,
}

impl<R> TaskFuture<R> {
    pub(super) fn new(
        pool: &Arc<Pool>,
        task: Arc<Task>,
        decode: fn(&TaskOutput) -> Result<R>,
    ) -> Self {
        Self {
            pool: Arc::clone(pool),
            task,
            decode,
            is_taken: false,
        }
    }

    /// Decodes the outcome of a task that is done. Fails with `TimedOut` if it is not.
    pub(super) fn take(&mut self) -> Result<R> {
        if self.is_taken {
            let message = "the task's result has been taken already";
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        match self.task.outcome() {
            Some(Ok(body)) => {
                let value = (self.decode)(body);
                self.is_taken = value.is_ok();
                if self.is_taken && body.has_handles() {
                    // The value now owns its handles. A copy in the task would keep them open after
                    // the value is dropped.
                    self.task = Arc::new(self.task.emptied());
                }
                value
            }
            Some(Err(error)) => Err(error.clone()),
            None => Err(Error::new(
                ErrorKind::TimedOut,
                "the task was not done within the limit of the wait",
            )),
        }
    }

    /// Like [`take`](Self::take), but returns an error in a forked copy of the pool's process.
    pub(super) fn take_or_refuse(&mut self) -> Result<R> {
        self.check_owner()?;
        self.take()
    }

    /// Fails in a forked copy of the pool's process, unless the task was done before.
    fn check_owner(&self) -> Result<()> {
        if self.task.is_done() || !self.pool.is_foreign() {
            return Ok(());
        }
        Err(self.pool.closed_error().unwrap_or_else(err_stopped))
    }

    /// Waits for the task. Fails in a forked copy of the pool's process, which receives no results.
    fn wait(&self, deadline: Option<Instant>) -> Result<()> {
        self.check_owner()?;
        wait_for(&self.pool, &self.task, deadline);
        Ok(())
    }

    pub(super) fn failed(&self) -> bool {
        self.task.error().is_some()
    }
}

impl<R: Wire> TaskFuture<R> {
    /// Waits for the task and returns its result.
    ///
    /// # Errors
    ///
    /// [`Panicked`](ErrorKind::Panicked), [`WorkerDied`](ErrorKind::WorkerDied),
    /// [`TimedOut`](ErrorKind::TimedOut), [`Codec`](ErrorKind::Codec) or
    /// [`UnknownFunction`](ErrorKind::UnknownFunction) if this task failed.
    /// [`Cancelled`](ErrorKind::Cancelled) if it was cancelled before it started, or killed.
    /// [`Shutdown`](ErrorKind::Shutdown) or [`StartFailed`](ErrorKind::StartFailed) if the pool
    /// ended or broke before the task was done.
    pub fn result(mut self) -> Result<R> {
        self.wait(None)?;
        self.take()
    }

    /// Like [`result`](Self::result), but waits at most for `limit`. May be called again after it
    /// failed.
    ///
    /// # Errors
    ///
    /// Like `result`. [`TimedOut`](ErrorKind::TimedOut) if the limit passed: the task goes on, and
    /// [`is_done`](Self::is_done) is false. [`InvalidInput`](ErrorKind::InvalidInput) if the value
    /// has been taken.
    pub fn result_timeout(&mut self, limit: Duration) -> Result<R> {
        self.wait(Instant::now().checked_add(limit))?;
        self.take()
    }

    /// Whether the task has ended, with a result or an error.
    #[must_use]
    pub fn is_done(&self) -> bool {
        if !self.task.is_done() {
            self.pool.poll();
        }
        self.task.is_done()
    }

    /// Whether a worker has started the task, or an item of the map, and the task has not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        if self.is_done() || self.pool.is_foreign() {
            return false;
        }
        self.pool.with_scheduler_ref(|state| match &self.task.kind {
            TaskKind::Map(map) => state.has_map_started(map),
            _ => state.has_started(&self.task),
        }) && !self.task.is_done()
    }

    /// Whether the task was cancelled before it started, or killed.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.task.is_cancelled()
    }

    /// Cancels the task if it has not started. Its result is then [`ErrorKind::Cancelled`].
    ///
    /// Returns true if the task is cancelled, and false if it is running or done. A task that was
    /// sent to a worker and has not started is taken back. A running task is asked to stop, which
    /// it can read from [`Worker::stop_requested`](crate::Worker::stop_requested). Use
    /// [`kill`](Self::kill) to stop it by force.
    pub fn cancel(&self) -> bool {
        if self.pool.is_foreign() {
            return false;
        }
        self.pool
            .with_scheduler(|state, wakeups| match &self.task.kind {
                TaskKind::Map(map) => state.cancel_map(&self.task, map, wakeups),
                _ => state.cancel(&self.task, wakeups),
            })
    }

    /// Like [`cancel`](Self::cancel), but also stops a running task: its worker gets SIGTERM, and
    /// SIGKILL 1 s later if the task handles SIGTERM. The pool replaces the worker. All items of a
    /// map are stopped.
    ///
    /// Returns true if the task is or will be [`ErrorKind::Cancelled`], and false if it has ended
    /// otherwise. A task that ends at the same moment keeps its result. No other task is affected.
    ///
    /// ```
    /// use procpool::{ErrorKind, ProcessPoolExecutor};
    ///
    /// let pool = ProcessPoolExecutor::builder().workers(1).build()?;
    /// let endless = pool.submit(|()| -> () { loop { std::thread::park() } }, ());
    /// while !endless.is_running() {
    ///     std::thread::yield_now();
    /// }
    /// assert!(!endless.cancel() && endless.kill());
    /// assert_eq!(endless.result().unwrap_err().kind(), ErrorKind::Cancelled);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn kill(&self) -> bool {
        if self.pool.is_foreign() {
            return false;
        }
        self.pool
            .with_scheduler(|state, wakeups| match &self.task.kind {
                TaskKind::Map(map) => state.kill_map(&self.task, map, wakeups),
                _ => state.kill(&self.task, wakeups),
            })
    }

    /// Calls `callback` on the pool's callback thread when the task is done, or immediately if it
    /// is.
    ///
    /// Callbacks run one at a time, in the order in which they were added. They may use the pool
    /// and may block. The panic hook reports a callback that panics; the others run all the same.
    pub fn add_done_callback(&self, callback: impl FnOnce() + Send + 'static) {
        let observer = Observer::Callback(Box::new(callback), Arc::clone(&self.pool.callbacks));
        if let Some(Observer::Callback(callback, callbacks)) = self.task.observe(observer) {
            callbacks.send(callback);
        }
    }

    /// Returns the task's number, which is unique in this program.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.task.id
    }
}

impl<R: Wire> Future for TaskFuture<R> {
    type Output = Result<R>;

    /// Returns the result when the task is done. Later polls return [`ErrorKind::InvalidInput`].
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<R>> {
        if !self.task.is_done() {
            if let Err(error) = self.check_owner() {
                return Poll::Ready(Err(error));
            }
            if self.task.set_waker(context.waker()) {
                return Poll::Pending;
            }
        }
        Poll::Ready(self.take())
    }
}

impl<R> fmt::Debug for TaskFuture<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("TaskFuture");
        debug
            .field("id", &self.task.id)
            .field("is_done", &self.task.is_done())
            .finish_non_exhaustive()
    }
}

/// Fails a task that the pool refused, and wakes its waiters.
pub(super) fn refuse(pool: &Pool, task: &Task, error: Error) {
    let mut wakeups = Wakeups::default();
    task.complete(Err(error), &mut wakeups);
    pool.wake(wakeups);
}
