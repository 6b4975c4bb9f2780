//! The handle on one task's result, for threads that block and for async code.

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

/// The result of a task, now or later.
///
/// Wait for it with [`result`](Self::result), or `.await` it on any runtime; it needs none of its
/// own. Dropping a future neither cancels its task nor waits for it.
///
/// A thread that waits drives the pool itself, so that no other has to be woken for the reply.
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

    /// Decodes the outcome of a task that is done.
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
                    // Nobody can take them again, and whoever has them wants them to end with his
                    // own.
                    self.task = Arc::new(self.task.emptied());
                }
                value
            }
            Some(Err(error)) => Err(error.clone()),
            None => Err(Error::new(
                ErrorKind::TimedOut,
                "the task is not done within the limit of the wait",
            )),
        }
    }

    /// As [`take`](Self::take), but says why nothing comes in a copy of the pool's process.
    pub(super) fn take_or_refuse(&mut self) -> Result<R> {
        self.check_owner()?;
        self.take()
    }

    /// An error in a copy of the pool's process, unless the task was done before.
    fn check_owner(&self) -> Result<()> {
        if self.task.is_done() || !self.pool.is_foreign() {
            return Ok(());
        }
        Err(self.pool.closed_error().unwrap_or_else(err_stopped))
    }

    /// Waits for the task; an error for a copy of the pool's process, where nothing ever comes.
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
    /// Waits for the task and gives what it returned.
    ///
    /// # Errors
    ///
    /// [`Panicked`](ErrorKind::Panicked), [`WorkerDied`](ErrorKind::WorkerDied),
    /// [`TimedOut`](ErrorKind::TimedOut), [`Codec`](ErrorKind::Codec),
    /// [`UnknownFunction`](ErrorKind::UnknownFunction): what became of this task alone.
    /// [`Cancelled`](ErrorKind::Cancelled): it was cancelled before it started, or killed.
    /// [`Shutdown`](ErrorKind::Shutdown), [`StartFailed`](ErrorKind::StartFailed): it never ran, or
    /// was cut off.
    pub fn result(mut self) -> Result<R> {
        self.wait(None)?;
        self.take()
    }

    /// As [`result`](Self::result), but waits no longer than `limit`; the future can be asked
    /// again.
    ///
    /// # Errors
    ///
    /// As `result`; [`TimedOut`](ErrorKind::TimedOut) with [`is_done`](Self::is_done) false when
    /// the limit passed, which changes nothing for the task;
    /// [`InvalidInput`](ErrorKind::InvalidInput) once the value has been taken.
    pub fn result_timeout(&mut self, limit: Duration) -> Result<R> {
        self.wait(Instant::now().checked_add(limit))?;
        self.take()
    }

    /// Whether the task has ended, in whatever way.
    #[must_use]
    pub fn is_done(&self) -> bool {
        if !self.task.is_done() {
            self.pool.poll();
        }
        self.task.is_done()
    }

    /// Whether a worker has started the task, or an item of the map, and it has not ended.
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

    /// Cancels the task if it has not started: it never will, and its result is
    /// [`ErrorKind::Cancelled`].
    ///
    /// True if it is cancelled now, or was before; false once it runs or is done. A task that was
    /// sent ahead to a worker and has not started is taken back. One that runs is asked to stop,
    /// which it may notice by [`InFlight::stop_requested`](crate::InFlight::stop_requested);
    /// [`kill`](Self::kill) does not ask.
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

    /// As [`cancel`](Self::cancel), and if the task runs, its worker is ended in the middle of it
    /// (SIGTERM, and SIGKILL 1 s later if the task handles that), and replaced. Of a map all items
    /// are stopped.
    ///
    /// True if the task is or will be [`ErrorKind::Cancelled`]; false if it has ended otherwise.
    /// Should it end in the very moment, its result counts. No other task is affected.
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

    /// Has `callback` called once the task is done, or now if it is, on the pool's own thread for
    /// callbacks.
    ///
    /// Callbacks run one at a time, in the order in which they were added; one that panics is
    /// reported by the panic hook and changes nothing for the others. They may use the pool, and
    /// may block.
    pub fn add_done_callback(&self, callback: impl FnOnce() + Send + 'static) {
        let observer = Observer::Callback(Box::new(callback), Arc::clone(&self.pool.callbacks));
        if let Some(Observer::Callback(callback, callbacks)) = self.task.observe(observer) {
            callbacks.send(callback);
        }
    }

    /// The task's number, which no other task of this program has.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.task.id
    }
}

impl<R: Wire> Future for TaskFuture<R> {
    type Output = Result<R>;

    /// Ready once the task is done; afterwards, an error of [`ErrorKind::InvalidInput`].
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

/// Ends a task that the pool refused, for those who wait already.
pub(super) fn refuse(pool: &Pool, task: &Task, error: Error) {
    let mut wakeups = Wakeups::default();
    task.complete(Err(error), &mut wakeups);
    pool.wake(wakeups);
}
