//! The calls of a pool with settings for a single call. The calls on many items are in `map.rs`.

mod map;

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    budget::Reservation,
    future::{TaskFuture, refuse},
    pool::{Pool, Submitter},
    task::{
        Observer, Task, TaskOutput, chunker::ChunkOptions, config::TaskConfig, encoded::encode,
        map_part::decode_error, work_item::WorkItem,
    },
    try_submit_error::TrySubmitError,
};
use crate::process::function::WireFunction;
use crate::wire::Wire;
use std::{fmt, sync::Arc, time::Duration};

/// The calls of a [`ProcessPoolExecutor`](crate::ProcessPoolExecutor) with settings for a single
/// call.
///
/// ```
/// let pool = procpool::ProcessPoolExecutor::new()?;
/// let words = ["a", "bb", "ccc"].map(String::from);
/// let lengths = pool.options().chunk_size(2).window(8).map(|s: String| s.len(), words)?;
/// assert_eq!(lengths, [1, 2, 3]);
/// # Ok::<(), procpool::Error>(())
/// ```
#[must_use = "settings do nothing until a call is made with them"]
#[derive(Clone, Copy)]
pub struct TaskOptions<'a> {
    pool: &'a Arc<Pool>,
    chunking: ChunkOptions,
    config: TaskConfig,
}

impl<'a> TaskOptions<'a> {
    pub(super) fn new(pool: &'a Arc<Pool>) -> Self {
        let settings = &pool.settings;
        Self {
            pool,
            chunking: ChunkOptions {
                chunk_size: settings.chunk_size,
                window: settings.window,
            },
            config: settings.task_config,
        }
    }

    /// Sets the number of items of a map that are sent together. By default a chunk takes about
    /// 0.25 ms, as measured.
    ///
    /// The results are still returned item by item. A chunk is never larger than the window. The
    /// call fails with [`ErrorKind::InvalidInput`] if `items` is 0.
    pub fn chunk_size(mut self, items: usize) -> Self {
        self.chunking.chunk_size = Some(items);
        self
    }

    /// Sets how many items a map may read ahead of the results that were returned; 32 768 by
    /// default. A map reads only as many as keep the workers busy.
    ///
    /// The call fails with [`ErrorKind::InvalidInput`] if `items` is 0. `map_async` ignores the
    /// window: it reads its whole input in the call.
    pub fn window(mut self, items: usize) -> Self {
        self.chunking.window = Some(items);
        self
    }

    /// Sets the time limit of the task, or of each item of a map; the pool's
    /// [`task_timeout`](crate::ProcessPoolBuilder::task_timeout) by default. [`Duration::MAX`]
    /// means no limit.
    ///
    /// The clock starts when the task starts, not when it is submitted. After the limit the task
    /// fails with [`ErrorKind::TimedOut`], and its worker is replaced. The worker gets SIGTERM, and
    /// SIGKILL 1 s later if the task handles SIGTERM. Everything else that was sent to that worker
    /// runs elsewhere, including the other items of the chunk. A task that handles SIGTERM and
    /// returns within that second keeps its result.
    ///
    /// Time during which the whole program is stopped, for example by Ctrl-Z or a debugger, does
    /// not count if it is at least 2 s. Time during which only a worker is stopped counts.
    ///
    /// The first panic in a task stops the clock for 1 s. The task is reported as panicked even if
    /// the limit passes while its destructors run.
    ///
    /// ```
    /// use procpool::{ErrorKind, ProcessPoolExecutor};
    /// use std::{thread, time::Duration};
    ///
    /// let pool = ProcessPoolExecutor::builder().workers(1).build()?;
    /// let limited = pool.options().timeout(Duration::from_millis(50));
    /// let error = limited.apply(|()| thread::sleep(Duration::MAX), ()).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::TimedOut);
    /// assert_eq!(limited.apply(|x: i32| x + 1, 1)?, 2);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.config.timeout = Some(limit);
        self
    }

    /// Sets how often the task or an item of a map is retried after its worker died
    /// ([`ErrorKind::WorkerDied`]) or its time limit passed ([`ErrorKind::TimedOut`]); the pool's
    /// [`retries`](crate::ProcessPoolBuilder::retries) by default.
    ///
    /// The pause before a retry is 10 ms at first and doubles up to 1 s, less a random part. A
    /// panic is not retried unless [`retry_panics`](Self::retry_panics) is set. The error of a task
    /// without tries left reports how each attempt ended. A task reads the number of its attempt
    /// from [`Worker::attempt`](crate::Worker::attempt).
    pub fn retries(mut self, retries: u32) -> Self {
        self.config.retries = retries;
        self
    }

    /// Sets whether a panic is retried, too. This suits tasks that panic while a service is
    /// unavailable.
    ///
    /// ```
    /// let pool = procpool::ProcessPoolExecutor::builder().workers(1).build()?;
    /// let flaky = |()| match procpool::current_worker().map(|it| it.attempt) {
    ///     Some(1) => panic!("not yet"),
    ///     attempt => attempt,
    /// };
    /// assert_eq!(pool.options().retries(1).retry_panics(true).apply(flaky, ())?, Some(2));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn retry_panics(mut self, on: bool) -> Self {
        self.config.retries_panics = on;
        self
    }

    /// Sets the priority of the task or the map; 0 by default. A higher number starts first, also
    /// before tasks that were sent to a worker and have not started. Equal priorities start in the
    /// order of submission. Running tasks continue. A task waits as long as tasks with a higher
    /// priority are queued.
    ///
    /// ```
    /// use procpool::{ProcessPoolExecutor, as_completed};
    ///
    /// let pool = ProcessPoolExecutor::builder().workers(1).build()?;
    /// let slow = |x: u32| std::thread::sleep(std::time::Duration::from_millis(x.into()));
    /// let mut futures: Vec<_> = (0..3).map(|_| pool.submit(slow, 20)).collect();
    /// futures.push(pool.options().priority(1).submit(slow, 0));
    /// let order: Vec<usize> = as_completed(futures).map(|(index, _)| index).collect();
    /// let place = |task| order.iter().position(|index| *index == task);
    /// assert!(place(3) < place(2));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn priority(mut self, priority: i32) -> Self {
        self.config.priority = priority;
        self
    }

    /// Like [`ProcessPoolExecutor::submit`](crate::ProcessPoolExecutor::submit).
    #[must_use = "dropping the future loses the result and the error of the task"]
    pub fn submit<A, R>(&self, f: fn(A) -> R, arg: A) -> TaskFuture<R>
    where
        A: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.submit_observed(f, arg, Submitter::Leaves, |_| None)
    }

    /// Like [`ProcessPoolExecutor::try_submit`](crate::ProcessPoolExecutor::try_submit).
    pub fn try_submit<A, R>(
        &self,
        f: fn(A) -> R,
        arg: A,
    ) -> Result<TaskFuture<R>, TrySubmitError<A>>
    where
        A: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        let task = self.encode_call(f, &arg, Pool::try_reserve);
        let submitted = task.map(Arc::new).and_then(|task| {
            self.pool
                .submit(WorkItem::Call(Arc::clone(&task)), Submitter::Leaves)?;
            Ok(task)
        });
        match submitted {
            Ok(task) => Ok(TaskFuture::new(self.pool, task, decode_value::<R>)),
            Err(error) => Err(TrySubmitError::new(error, arg)),
        }
    }

    /// Like [`ProcessPoolExecutor::apply`](crate::ProcessPoolExecutor::apply).
    pub fn apply<A, R>(&self, f: fn(A) -> R, arg: A) -> Result<R>
    where
        A: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.submit_observed(f, arg, Submitter::Waits, |_| None)
            .result()
    }

    /// Like [`ProcessPoolExecutor::apply_async`](crate::ProcessPoolExecutor::apply_async).
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
        let pool = Arc::clone(self.pool);
        self.submit_observed(f, arg, Submitter::Leaves, move |task| {
            let mut result = TaskFuture::new(&pool, Arc::clone(task), decode_value::<R>);
            let call = Box::new(move || callback(&result.take()));
            Some(Observer::Callback(call, Arc::clone(&pool.callbacks)))
        })
    }

    fn submit_observed<A, R>(
        &self,
        f: fn(A) -> R,
        arg: A,
        submitter: Submitter,
        observer: impl FnOnce(&Arc<Task>) -> Option<Observer>,
    ) -> TaskFuture<R>
    where
        A: Wire + 'static,
        R: Wire + 'static,
    {
        let task = self.encode_call(f, &arg, Pool::reserve);
        let task = Arc::new(task.unwrap_or_else(Task::failed));
        let late = observer(&task).and_then(|it| task.observe(it));
        if !task.is_done()
            && let Err(error) = self
                .pool
                .submit(WorkItem::Call(Arc::clone(&task)), submitter)
        {
            refuse(self.pool, &task, error);
        }
        if let Some(Observer::Callback(callback, callbacks)) = late {
            callbacks.send(callback);
        }
        TaskFuture::new(self.pool, task, decode_value::<R>)
    }

    fn encode_call<A: Wire + 'static, R: Wire + 'static>(
        &self,
        f: fn(A) -> R,
        arg: &A,
        reserve: fn(&Pool, usize) -> Result<Option<Box<Reservation>>>,
    ) -> Result<Task> {
        self.pool.check_owner()?;
        let function = WireFunction::unary(f)?;
        let argument =
            encode(arg, &self.pool.slabs).map_err(|reason| codec_error("the argument", &reason))?;
        let reserved = reserve(self.pool, argument.len())?;
        Ok(Task::call(function, argument, self.config).with_reservation(reserved))
    }
}

impl fmt::Debug for TaskOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskOptions")
            .field("chunking", &self.chunking)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

fn codec_error(what: &str, reason: &str) -> Error {
    Error::new(
        ErrorKind::Codec,
        format!("failed to encode {what}: {reason}"),
    )
}

fn decode_value<R: Wire + 'static>(body: &TaskOutput) -> Result<R> {
    match body {
        TaskOutput::Value(payload) => payload.decode().map_err(decode_error),
        TaskOutput::List(_) => unreachable!("a call gives one value"),
    }
}
