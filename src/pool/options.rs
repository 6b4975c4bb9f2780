//! The calls of a pool with settings for a single call.

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    budget::Reservation,
    future::{TaskFuture, refuse},
    imap::{Feed, FeedUnordered, Imap, ImapUnordered, NextPart, StreamImap},
    pool::{Pool, Submitter},
    task::{
        Observer, Task, TaskOutput, Wakeups,
        chunker::{ChunkOptions, IterStream},
        config::TaskConfig,
        encoded::encode,
        feed::FeedParts,
        map::{Delivery, InputReader, MapContext, MapPart, MapState, decode_error},
        map_driver::MapDriver,
        work_item::WorkItem,
    },
    try_submit_error::TrySubmitError,
};
use crate::process::function::{ContextLoader, WireFunction};
use crate::wire::{Wire, codec, handle};
use futures::Stream;
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
    /// let order: Vec<usize> = as_completed(futures).map(|it| it.0).collect();
    /// assert!(order.iter().position(|it| *it == 3) < order.iter().position(|it| *it == 2));
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

    /// Like [`ProcessPoolExecutor::map`](crate::ProcessPoolExecutor::map).
    pub fn map<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Result<Vec<R>>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.collect(WireFunction::unary(f), None, items)
    }

    /// Like [`ProcessPoolExecutor::map_results`](crate::ProcessPoolExecutor::map_results).
    #[must_use = "failures are reported nowhere else"]
    pub fn map_results<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Vec<Result<R>>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        let items = items.into_iter();
        let checked = self.pool.check_owner().and_then(|()| self.chunking.check());
        let function = checked.and_then(|()| WireFunction::unary(f));
        match function {
            Err(error) => items.map(|_| Err(error.clone())).collect(),
            function => {
                // Not `collect`, which would reserve memory for the size hint of an endless input.
                let mut results = Vec::new();
                let run = self.run_iter(function, None, Delivery::Ordered, false, items);
                Imap::new(run).for_each(|it| results.push(it));
                results
            }
        }
    }

    /// Like [`ProcessPoolExecutor::map_async`](crate::ProcessPoolExecutor::map_async).
    #[must_use = "dropping the future loses the result and the error of the task"]
    pub fn map_async<I, R>(&self, f: fn(I::Item) -> R, items: I) -> TaskFuture<Vec<R>>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        let run = self.run_iter(
            WireFunction::unary(f),
            None,
            Delivery::Collected,
            true,
            items,
        );
        let task = match run {
            Err(error) => Arc::new(Task::failed(error)),
            Ok(mut run) => {
                run.send_all();
                let map = Arc::clone(run.map());
                let task = Arc::new(Task::map(Arc::clone(&map)));
                let mut wakeups = Wakeups::default();
                map.collect_into(&task, &mut wakeups);
                self.pool.wake(wakeups);
                task
            }
        };
        TaskFuture::new(self.pool, task, decode_list::<R>)
    }

    /// Like [`ProcessPoolExecutor::imap`](crate::ProcessPoolExecutor::imap).
    pub fn imap<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Imap<I::IntoIter, R>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        Imap::new(self.run_iter(
            WireFunction::unary(f),
            None,
            Delivery::Ordered,
            false,
            items,
        ))
    }

    /// Like [`ProcessPoolExecutor::imap_unordered`](crate::ProcessPoolExecutor::imap_unordered).
    pub fn imap_unordered<I, R>(
        &self,
        f: fn(I::Item) -> R,
        items: I,
    ) -> ImapUnordered<I::IntoIter, R>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        let function = WireFunction::unary(f);
        ImapUnordered::new(self.run_iter(function, None, Delivery::Unordered, false, items))
    }

    /// Like [`ProcessPoolExecutor::feed`](crate::ProcessPoolExecutor::feed).
    pub fn feed<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Feed<R>
    where
        I: IntoIterator + Send + 'static,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        Feed::new(self.fed(WireFunction::unary(f), Delivery::Ordered, items))
    }

    /// Like [`ProcessPoolExecutor::feed_unordered`](crate::ProcessPoolExecutor::feed_unordered).
    pub fn feed_unordered<I, R>(&self, f: fn(I::Item) -> R, items: I) -> FeedUnordered<R>
    where
        I: IntoIterator + Send + 'static,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        FeedUnordered::new(self.fed(WireFunction::unary(f), Delivery::Unordered, items))
    }

    /// Like [`ProcessPoolExecutor::imap_stream`](crate::ProcessPoolExecutor::imap_stream).
    pub fn imap_stream<S, R>(&self, f: fn(S::Item) -> R, items: S) -> StreamImap<S, R>
    where
        S: Stream,
        S::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        StreamImap::new(self.run(
            WireFunction::unary(f),
            None,
            Delivery::Ordered,
            false,
            items,
        ))
    }

    /// Like `imap_stream_unordered` of
    /// [`ProcessPoolExecutor`](crate::ProcessPoolExecutor::imap_stream_unordered).
    pub fn imap_stream_unordered<S, R>(&self, f: fn(S::Item) -> R, items: S) -> StreamImap<S, R>
    where
        S: Stream,
        S::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        StreamImap::new(self.run(
            WireFunction::unary(f),
            None,
            Delivery::Unordered,
            false,
            items,
        ))
    }

    /// Like [`ProcessPoolExecutor::starmap`](crate::ProcessPoolExecutor::starmap).
    pub fn starmap<A, B, R, I>(&self, f: fn(A, B) -> R, items: I) -> Result<Vec<R>>
    where
        I: IntoIterator<Item = (A, B)>,
        A: Wire + Send + 'static,
        B: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.collect(WireFunction::binary(f), None, items)
    }

    /// Like [`ProcessPoolExecutor::map_with`](crate::ProcessPoolExecutor::map_with).
    pub fn map_with<C, I, R>(&self, context: C, f: fn(&C, I::Item) -> R, items: I) -> Result<Vec<R>>
    where
        C: Wire + Send + 'static,
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        let context = encode_context(&context)?;
        self.collect(WireFunction::contextual(f), Some(context), items)
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

    fn run_iter<I>(
        &self,
        function: Result<WireFunction>,
        context: Option<MapContext>,
        delivery: Delivery,
        fail_fast: bool,
        items: I,
    ) -> Result<MapDriver<IterStream<I::IntoIter>>>
    where
        I: IntoIterator,
        I::Item: Wire + 'static,
    {
        let items = IterStream(items.into_iter());
        self.run(function, context, delivery, fail_fast, items)
    }

    fn run<S>(
        &self,
        function: Result<WireFunction>,
        context: Option<MapContext>,
        delivery: Delivery,
        fail_fast: bool,
        items: S,
    ) -> Result<MapDriver<S>>
    where
        S: Stream,
        S::Item: Wire + 'static,
    {
        self.pool.check_owner()?;
        let read_by = InputReader::Caller;
        let map = MapState::new(
            function?,
            context,
            self.config,
            delivery,
            fail_fast,
            read_by,
        );
        MapDriver::new(self.pool, map, self.chunking, items)
    }

    fn fed<I>(
        &self,
        function: Result<WireFunction>,
        delivery: Delivery,
        items: I,
    ) -> Result<FeedParts>
    where
        I: IntoIterator + Send + 'static,
        I::Item: Wire + 'static,
    {
        self.pool.check_owner()?;
        let read_by = InputReader::Thread;
        let map = MapState::new(function?, None, self.config, delivery, false, read_by);
        FeedParts::start(self.pool, map, self.chunking, items)
    }

    /// Returns all results in order, or the error of the first item that failed.
    fn collect<I, R>(
        &self,
        function: Result<WireFunction>,
        context: Option<MapContext>,
        items: I,
    ) -> Result<Vec<R>>
    where
        I: IntoIterator,
        I::Item: Wire + 'static,
        R: Wire + 'static,
    {
        let mut run = self.run_iter(function, context, Delivery::Ordered, true, items)?;
        let mut results = Vec::with_capacity(run.expected());
        while let Some(part) = run.next_part() {
            append(&part, &mut results)?;
        }
        Ok(results)
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

/// Bytes; a context is sent in one frame, whose length has 32 bits.
const MAX_CONTEXT_BYTES: usize = 2 << 30;

fn encode_context<C: Wire + 'static>(context: &C) -> Result<MapContext> {
    let (mut bytes, mut descriptors) = (Vec::new(), Vec::new());
    let encoded = handle::collect(&mut descriptors, || codec::encode(context, &mut bytes));
    encoded.map_err(|it| codec_error("the context", &it))?;
    if bytes.len() > MAX_CONTEXT_BYTES {
        return Err(codec_error("the context", "it is larger than 2 GiB"));
    }
    let loader = ContextLoader::new::<C>()?;
    Ok(MapContext::new(loader, bytes, descriptors))
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

fn decode_list<R: Wire + 'static>(body: &TaskOutput) -> Result<Vec<R>> {
    let TaskOutput::List(parts) = body else {
        unreachable!("a map gives a list")
    };
    let mut results = Vec::new();
    for part in parts {
        append(part, &mut results)?;
    }
    Ok(results)
}

/// Decodes the results of `part` onto the end of `results`, up to the first error.
fn append<R: Wire + 'static>(part: &MapPart, results: &mut Vec<R>) -> Result<()> {
    let mut outcome = Ok(());
    part.decode(|result| match result {
        Ok(value) if outcome.is_ok() => results.push(value),
        Err(error) if outcome.is_ok() => outcome = Err(error),
        _ => {}
    });
    outcome
}
