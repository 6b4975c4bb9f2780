//! The executor: tasks on worker processes that were forked before.
//!
//! ```text
//!   caller's threads                                                     worker process, one of n
//!  ┌──────────────────┐   Call: function + encoded argument   request   ┌───────────────────────┐
//!  │ submit, map, ... │──────────►  queue ──────► Link ═════════════════►│ Requests              │
//!  │  (options, map)  │            (dispatcher)   (link)      pipe       │    │ decode, call,    │
//!  │                  │                             ▲                   │    ▼ encode           │
//!  │ result, next ... │◄── Task, Batch ◄── records ─┴───────────────────│ ring in the shared    │
//!  │  (future, wait)  │    (task, batch)            shared page (page)  │ page; bell if the     │
//!  └──────────────────┘                             ▲          pipe     │ pool sleeps           │
//!            ▲  whoever waits, leads (shared)        └── bell, exit ◄═══╡                       │
//!            └─ else the background thread               record         └───────────────────────┘
//!                                                          ▲ by the fork server, when it has died
//! ```
//!
//! Relies on: `process` to start workers and to tell how they ended; `shm` for the page and the
//! slabs; `wire` for values.
//!
//! Invariant: a worker's death costs the one item that ran in it. What is lost, and what is not, at
//! each instant: README.md in this folder.

mod budget;
mod builder;
mod driver;
mod future;
mod global;
mod histogram;
mod imap;
mod input;
mod limits;
mod options;
mod output;
mod pool;
mod protocol;
mod scheduler;
mod stats;
mod task;
mod try_submit_error;
mod wait;
mod worker;
mod worker_handle;

pub use crate::pool::imap::{
    Feed, FeedStream, FeedUnordered, Imap, ImapStream, ImapUnordered, StreamImap,
};
pub use crate::pool::try_submit_error::TrySubmitError;
#[cfg(fuzzing)]
pub(crate) use crate::pool::{scheduler::fuzzing::REPLIES, worker::fuzzing::FRAMES};
pub use builder::ProcessPoolBuilder;
pub use future::TaskFuture;
pub use histogram::Histogram;
pub use input::Input;
pub use limits::ResourceLimits;
pub use options::TaskOptions;
pub use output::Output;
pub use stats::{PoolStats, RestartReasons, RunningTask, WorkerStats};
pub use wait::{AsCompleted, ReturnWhen, Waited, as_completed, wait};
pub use worker::{Worker, current_worker};

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    pool::Pool,
    scheduler::{Scheduler, Slot, err_stopped},
};
use crate::wire::Wire;
use futures::Stream;
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
    pool: Arc<Pool>,
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

    /// Has the workers call `f` with each item, and gives the results in the order of the items.
    ///
    /// Items travel in chunks whose size follows the time they take. The input is read as the
    /// workers need it.
    ///
    /// # Errors
    ///
    /// The error of the first item, in their order, that fails. Items behind it that have not
    /// started are cancelled; those before it finish. For every item's own outcome there is
    /// [`map_results`](Self::map_results).
    ///
    /// # Examples
    ///
    /// ```
    /// let pool = procpool::ProcessPoolExecutor::new()?;
    /// let error = pool.map(|x: i32| 12 / x, [3, 0, 4]).unwrap_err();
    /// assert_eq!(error.remote_panic().unwrap().message, "attempt to divide by zero");
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn map<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Result<Vec<R>>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().map(f, items)
    }

    /// As [`map`](Self::map), but gives every item's own outcome, and fails for none.
    #[must_use = "it is the only place where failures are told"]
    pub fn map_results<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Vec<Result<R>>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().map_results(f, items)
    }

    /// As [`map`](Self::map), but returns as soon as the input has been read, with a handle on the
    /// list of results.
    #[must_use = "a task runs all the same, but nobody hears of its result or its error"]
    pub fn map_async<I, R>(&self, f: fn(I::Item) -> R, items: I) -> TaskFuture<Vec<R>>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().map_async(f, items)
    }

    /// Runs `f` on each item, and returns an iterator over the results in the order of the items.
    ///
    /// The caller reads the input: `next` returns a result that is there, and pulls from the input
    /// only while none is. So an endless input works, and a slow one holds no result back for
    /// longer than one item takes. For an input that blocks for long there is [`feed`](Self::feed),
    /// for a stream [`imap_stream`](Self::imap_stream).
    ///
    /// ```
    /// let pool = procpool::ProcessPoolExecutor::new()?;
    /// let squares: Vec<u64> = pool.imap(|x| x * x, 0..).take(4).collect::<procpool::Result<_>>()?;
    /// assert_eq!(squares, [0, 1, 4, 9]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn imap<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Imap<I::IntoIter, R>
    where
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().imap(f, items)
    }

    /// As [`imap`](Self::imap), but gives results as they come.
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
        self.options().imap_unordered(f, items)
    }

    /// Runs `f` on each item, like [`imap`](Self::imap), but a thread reads the input: for one that
    /// blocks for long, such as a channel, a socket or standard input.
    ///
    /// Results come while the input blocks; `imap` returns one only between two items. The thread
    /// starts with this call and reads no further ahead than the [`window`](TaskOptions::window).
    /// It calls `into_iter`, so `items` must be `Send`, but the iterator need not be.
    ///
    /// Lines of [`BufRead`](std::io::BufRead) are `io::Result`s, which are not [`Wire`]: pass on
    /// the `String`s, as in the example of [`feed_unordered`](Self::feed_unordered). For standard
    /// input write `BufReader::new(stdin()).lines()`, because `stdin().lines()` is not `Send`.
    ///
    /// The thread counts as one of the program's: while it reads,
    /// [`StartMethod::Fork`](crate::StartMethod::Fork) refuses to copy the process. If the pool
    /// ends while the input blocks, `next` waits 1 s for the item. Then it returns
    /// [`ErrorKind::Shutdown`]. The call after that waits without a limit.
    ///
    /// ```
    /// use std::sync::mpsc;
    ///
    /// let pool = procpool::ProcessPoolExecutor::new()?;
    /// let (sender, receiver) = mpsc::channel();
    /// let mut squares = pool.feed(|x: u64| x * x, receiver);
    /// for x in 0..3 {
    ///     sender.send(x).expect("the receiver lives");
    ///     assert_eq!(squares.next().transpose()?, Some(x * x));
    /// }
    /// drop(sender);
    /// assert!(squares.next().is_none());
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn feed<I, R>(&self, f: fn(I::Item) -> R, items: I) -> Feed<R>
    where
        I: IntoIterator + Send + 'static,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().feed(f, items)
    }

    /// Like [`feed`](Self::feed), but returns results as they come.
    ///
    /// A result does not tell its item. Return from `f` what identifies it.
    ///
    /// ```
    /// use std::io::{BufRead, BufReader};
    /// use std::process::{Command, Stdio};
    ///
    /// let mut child = Command::new("printf").arg(r"one\nfour\n").stdout(Stdio::piped()).spawn().unwrap();
    /// let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    ///
    /// let pool = procpool::ProcessPoolExecutor::new()?;
    /// let lengths = pool.feed_unordered(|line: String| (line.len(), line), lines);
    /// let mut lengths: Vec<_> = lengths.collect::<procpool::Result<_>>()?;
    /// lengths.sort();
    /// assert_eq!(lengths, [(3, "one".to_owned()), (4, "four".to_owned())]);
    /// assert!(child.wait().unwrap().success());
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn feed_unordered<I, R>(&self, f: fn(I::Item) -> R, items: I) -> FeedUnordered<R>
    where
        I: IntoIterator + Send + 'static,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().feed_unordered(f, items)
    }

    /// Runs `f` on each item of a stream, and returns a stream of results in the order of the
    /// items.
    ///
    /// The input is polled when the next result is asked for and is not there, and never further
    /// ahead than the [`window`](TaskOptions::window). No poll blocks. It works on any runtime.
    /// A receiver of tokio's is not a [`Stream`] itself: wrap it in `tokio_stream`'s
    /// `ReceiverStream`.
    ///
    /// ```
    /// use futures::{StreamExt, TryStreamExt, executor::block_on, stream};
    ///
    /// let pool = procpool::ProcessPoolExecutor::new()?;
    /// let items = stream::iter(0..4u64).then(|x| async move { x + 1 });
    /// let squares: Vec<u64> = block_on(pool.imap_stream(|x| x * x, items).try_collect())?;
    /// assert_eq!(squares, [1, 4, 9, 16]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn imap_stream<S, R>(&self, f: fn(S::Item) -> R, items: S) -> StreamImap<S, R>
    where
        S: Stream,
        S::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().imap_stream(f, items)
    }

    /// Like [`imap_stream`](Self::imap_stream), but gives results as they come.
    pub fn imap_stream_unordered<S, R>(&self, f: fn(S::Item) -> R, items: S) -> StreamImap<S, R>
    where
        S: Stream,
        S::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().imap_stream_unordered(f, items)
    }

    /// As [`map`](Self::map) for a function of two arguments:
    /// `pool.starmap(u64::pow, [(2, 3), (3, 2)])`.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map).
    pub fn starmap<A, B, R, I>(&self, f: fn(A, B) -> R, items: I) -> Result<Vec<R>>
    where
        I: IntoIterator<Item = (A, B)>,
        A: Wire + Send + 'static,
        B: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().starmap(f, items)
    }

    /// As [`map`](Self::map) for a function that needs something besides its item: `context` is
    /// sent to each worker once.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map); [`ErrorKind::Codec`] for a context that cannot be encoded.
    ///
    /// # Examples
    ///
    /// ```
    /// let pool = procpool::ProcessPoolExecutor::new()?;
    /// let stop_words = vec!["the".to_string(), "a".to_string()];
    /// let found = pool.map_with(stop_words, |words, word| words.contains(&word), ["a", "fox"].map(String::from))?;
    /// assert_eq!(found, [true, false]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn map_with<C, I, R>(&self, context: C, f: fn(&C, I::Item) -> R, items: I) -> Result<Vec<R>>
    where
        C: Wire + Send + 'static,
        I: IntoIterator,
        I::Item: Wire + Send + 'static,
        R: Wire + Send + 'static,
    {
        self.options().map_with(context, f, items)
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

    fn change(&self, change: impl FnOnce(&mut scheduler::Scheduler, &mut task::Wakeups)) {
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
