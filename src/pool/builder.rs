//! How a pool is built.

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    ProcessPoolExecutor, global,
    limits::ResourceLimits,
    pool::{Pool, PoolSettings},
    scheduler::{MAX_WORKERS, RecyclePolicy},
    stdio::{Input, Output},
    task::config::TaskConfig,
};
use crate::process::{
    StartMethod, background_threads, cpu_count, encoded_call::EncodedCall, function::WireFunction,
    start_method,
};
use crate::sys::{child::Threads, environment};
use crate::wire::{Wire, codec, handle};
use std::{
    ffi::{OsStr, OsString},
    fmt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

/// Settings of a pool that is yet to be built; see [`ProcessPoolExecutor::builder`].
///
/// ```
/// let pool = procpool::ProcessPoolExecutor::builder().workers(2).chunk_size(16).build()?;
/// assert_eq!(pool.workers(), 2);
/// # Ok::<(), procpool::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "no worker is started before `build`"]
pub struct ProcessPoolBuilder {
    workers: Option<usize>,
    initializer: Option<Result<EncodedCall>>,
    chunk_size: Option<usize>,
    window: Option<usize>,
    config: TaskConfig,
    environment: Vec<(OsString, OsString)>,
    limits: Option<ResourceLimits>,
    is_pinned: bool,
    directory: Option<PathBuf>,
    stdin: Input,
    stdout: Output,
    stderr: Output,
    stay: RecyclePolicy,
    max_pending: Option<u64>,
    method: Option<StartMethod>,
    threads: Threads,
}

impl ProcessPoolBuilder {
    pub(super) fn new() -> Self {
        Self {
            workers: None,
            initializer: None,
            chunk_size: None,
            window: None,
            config: TaskConfig::default(),
            environment: Vec::new(),
            limits: None,
            is_pinned: false,
            directory: None,
            stdin: Input::default(),
            stdout: Output::Inherit,
            stderr: Output::Inherit,
            stay: RecyclePolicy::default(),
            max_pending: None,
            method: None,
            threads: Threads::One,
        }
    }

    /// Worker processes; by default as many as [`cpu_count`](crate::cpu_count) says. 0 is refused.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Has every worker call `f` before its first task, replacements too.
    ///
    /// If it fails or panics, the pool is broken: every future and every later call gives
    /// [`ErrorKind::StartFailed`] with what it said. A worker that dies in it is replaced a few
    /// times first.
    ///
    /// ```
    /// let check = |path: String| std::fs::metadata(path).map(drop);
    /// let pool = procpool::ProcessPoolExecutor::builder().workers(1).initializer(check, "/nowhere".to_string()).build()?;
    /// let error = pool.apply(|()| (), ()).unwrap_err();
    /// assert_eq!(error.kind(), procpool::ErrorKind::StartFailed);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn initializer<A, E>(mut self, f: fn(A) -> std::result::Result<(), E>, arg: A) -> Self
    where
        A: Wire + Send + 'static,
        E: fmt::Display + 'static,
    {
        self.initializer = Some(encode_initializer(f, &arg));
        self
    }

    /// Items of a map that travel together, unless a call says otherwise; see
    /// [`TaskOptions::chunk_size`](crate::TaskOptions::chunk_size). 0 is refused.
    pub fn chunk_size(mut self, items: usize) -> Self {
        self.chunk_size = Some(items);
        self
    }

    /// Items of a map that are read ahead, unless a call says otherwise; see
    /// [`TaskOptions::window`](crate::TaskOptions::window). 0 is refused.
    pub fn window(mut self, items: usize) -> Self {
        self.window = Some(items);
        self
    }

    /// How long a task, or an item of a map, may run, unless a call says otherwise; see
    /// [`TaskOptions::timeout`](crate::TaskOptions::timeout). Without it there is no limit.
    pub fn task_timeout(mut self, limit: Duration) -> Self {
        self.config.timeout = Some(limit);
        self
    }

    /// How often a task, or an item of a map, is run again after it lost its worker or ran out of
    /// time, unless a call says otherwise; see
    /// [`TaskOptions::retries`](crate::TaskOptions::retries). 0 by default.
    pub fn retries(mut self, retries: u32) -> Self {
        self.config.retries = retries;
        self
    }

    /// Whether retries follow a panic, too, unless a call says otherwise; see
    /// [`TaskOptions::retry_panics`](crate::TaskOptions::retry_panics). Not by default.
    pub fn retry_panics(mut self, on: bool) -> Self {
        self.config.retries_panics = on;
        self
    }

    /// Tasks after which a worker is replaced, items of maps each counted: against leaks in what
    /// tasks call. 0 is refused.
    ///
    /// The replacement is started before the worker ends, and begins when that has answered its
    /// last task.
    ///
    /// ```
    /// let pool = procpool::ProcessPoolExecutor::builder().workers(1).max_tasks_per_worker(2).build()?;
    /// let pids = pool.map(|_: u32| std::process::id(), 0..4)?;
    /// assert!(pids[0] == pids[1] && pids[1] != pids[2] && pids[2] == pids[3]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn max_tasks_per_worker(mut self, tasks: u64) -> Self {
        self.stay.tasks = Some(tasks);
        self
    }

    /// Bytes of resident memory above which a worker is replaced, as by
    /// [`max_tasks_per_worker`](Self::max_tasks_per_worker). It is looked at between tasks, every
    /// 10 ms at most. 0 is refused.
    pub fn max_memory_per_worker(mut self, bytes: u64) -> Self {
        self.stay.memory = Some(bytes);
        self
    }

    /// Bytes of encoded arguments that may be pending, that is, submitted and not done, each with
    /// 256 bytes for its task; without it, as many as there is memory for. 0 is refused.
    ///
    /// Where there is no room, [`submit`](ProcessPoolExecutor::submit) and its kin wait, as
    /// `map_async` does between the chunks of its input, and
    /// [`try_submit`](ProcessPoolExecutor::try_submit) gives the argument back. Maps read their
    /// input no further ahead than that, but for one chunk. A task larger than all of it is taken
    /// when nothing else is pending.
    ///
    /// ```
    /// let pool = procpool::ProcessPoolExecutor::builder().max_pending_bytes(1 << 20).build()?;
    /// // A gigabyte of arguments, of which few are in memory at a time.
    /// let futures: Vec<_> = (0..1000).map(|_| pool.submit(|bytes: Vec<u8>| bytes.len(), vec![0; 1 << 20])).collect();
    /// assert!(futures.into_iter().all(|it| matches!(it.result(), Ok(1_048_576))));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn max_pending_bytes(mut self, bytes: u64) -> Self {
        self.max_pending = Some(bytes);
        self
    }

    /// How long a worker with nothing to do stays; without it, as long as the pool. Those that have
    /// ended come again when there is work for them, which costs it a start, and hold no memory
    /// meanwhile.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let pool = procpool::ProcessPoolExecutor::builder().workers(2).idle_timeout(Duration::from_millis(1)).build()?;
    /// while !pool.worker_pids().is_empty() {
    ///     std::thread::yield_now();
    /// }
    /// assert_eq!(pool.workers(), 2);
    /// assert_eq!(pool.map(|x: u64| x + 1, 0..3)?, [1, 2, 3]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.stay.idle = Some(limit);
        self
    }

    /// Sets where the workers' standard input comes from; by default it is empty, so that no task
    /// takes what the program is to read.
    ///
    /// Under [`StartMethod::Fork`], a copy of what the program has read ahead into
    /// [`std::io::stdin`] is in its workers all the same, as everything in its memory is.
    ///
    /// ```
    /// use procpool::{Input, ProcessPoolExecutor};
    /// use std::io::{read_to_string, stdin};
    ///
    /// let pool = ProcessPoolExecutor::builder().workers(1).build()?;
    /// assert_eq!(pool.apply(|()| read_to_string(stdin()).ok(), ())?.as_deref(), Some(""));
    /// let asking = ProcessPoolExecutor::builder().workers(1).stdin(Input::Inherit).build()?;
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn stdin(mut self, input: Input) -> Self {
        self.stdin = input;
        self
    }

    /// Where the workers' standard output goes; by default where this process's goes.
    ///
    /// ```
    /// use procpool::{Output, ProcessPoolExecutor};
    ///
    /// let pool = ProcessPoolExecutor::builder().workers(1).stdout(Output::Null).stderr(Output::Null).build()?;
    /// pool.apply(|()| println!("nobody reads this"), ())?;
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn stdout(mut self, output: Output) -> Self {
        self.stdout = output;
        self
    }

    /// Where the workers' standard error goes, as [`stdout`](Self::stdout).
    pub fn stderr(mut self, output: Output) -> Self {
        self.stderr = output;
        self
    }

    /// What each worker may use of the machine. If one of the limits cannot be set, the pool is
    /// broken as by an initializer.
    pub fn limits(mut self, limits: ResourceLimits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Sets an environment variable for the workers, besides those that this process has in
    /// `build`: also for workers that replace others. Later changes to the environment of this
    /// process do not reach them.
    ///
    /// ```
    /// let pool = procpool::ProcessPoolExecutor::builder().workers(1).env("LANG", "C").build()?;
    /// assert_eq!(pool.apply(|()| std::env::var("LANG").ok(), ())?.as_deref(), Some("C"));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let pair = (key.as_ref().to_owned(), value.as_ref().to_owned());
        self.environment.push(pair);
        self
    }

    /// Sets the directory in which workers start, also those that replace others: by default that
    /// of this process in `build`. If it does not exist, the pool is broken as by an initializer.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Keeps each worker on a CPU of its own, of those that this process may use: worker 0 on the
    /// first, and round again where there are more workers than CPUs. Not by default: the scheduler
    /// knows better unless the machine does nothing else.
    pub fn cpu_affinity(mut self, on: bool) -> Self {
        self.is_pinned = on;
        self
    }

    /// How workers come to exist; [`start_method`] by default.
    ///
    /// Under [`StartMethod::Fork`] they are copies of this process as it is in `build`,
    /// replacements too: a copy that waits for the pool's orders forks them.
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.method = Some(method);
        self
    }

    /// Lets [`StartMethod::Fork`] copy this process although it has other threads, or guards that
    /// give references to shared memory.
    ///
    /// # Safety
    ///
    /// As `fork(2)` in a threaded process: what the other threads hold at that moment stays as it
    /// is in workers for ever. Tasks must not allocate, print, or touch anything else behind a lock
    /// unless no other thread can hold that lock.
    ///
    /// No task may use a reference that a guard of a [`Value`](crate::Value) or an
    /// [`Array`](crate::Array) gave out before `build`, in any thread or leaked: this process uses
    /// the same memory. A guard that is itself used in a worker panics.
    #[expect(unsafe_code, reason = "the contract demands it; its body is safe")]
    pub unsafe fn allow_fork_with_threads(mut self) -> Self {
        self.threads = Threads::Any;
        self
    }

    /// Starts the workers, and returns when they are forked; initializers may still run.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] for a setting of 0, [`ErrorKind::Codec`] for an initializer's
    /// argument that cannot be encoded, [`ErrorKind::StartFailed`] if no worker can be had,
    /// [`ErrorKind::Unsupported`] for [`StartMethod::Fork`] with threads running, or with a guard
    /// of a [`Value`](crate::Value) or an [`Array`](crate::Array) that is held or leaked.
    pub fn build(self) -> Result<ProcessPoolExecutor> {
        start(self.settings()?)
    }

    /// The executor that all of the process shares, as [`ProcessPoolExecutor::reusable`] says: the
    /// one there is if it was built with these settings and takes tasks, else a new one in its
    /// place. An initializer is the same if the function and its encoded argument are, which those
    /// of a `HashMap` are not every time.
    ///
    /// Its workers have the directory and the environment that this process had when it was built.
    ///
    /// Blocks while the executor is built, here or by another thread; and, if nobody else has the
    /// one that is replaced, until all that was submitted to it is done.
    ///
    /// ```
    /// use procpool::ProcessPoolExecutor;
    /// use std::sync::Arc;
    ///
    /// let pool = || ProcessPoolExecutor::builder().workers(2).env("LANG", "C").reusable();
    /// let first = pool()?;
    /// assert!(Arc::ptr_eq(&first, &pool()?));
    /// first.close();
    /// assert_eq!(pool()?.apply(|x: u64| x + 1, 2)?, 3);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn reusable(mut self) -> Result<Arc<ProcessPoolExecutor>> {
        self.stay.idle.get_or_insert(global::IDLE_TIMEOUT);
        global::get(self.settings()?)
    }

    fn settings(self) -> Result<PoolSettings> {
        self.check()?;
        Ok(PoolSettings {
            workers: self.workers.unwrap_or_else(cpu_count),
            initializer: self.initializer.transpose()?,
            chunk_size: self.chunk_size,
            window: self.window,
            task_config: self.config,
            environment: self.environment,
            limits: self.limits,
            is_pinned: self.is_pinned,
            directory: self.directory,
            stdin: self.stdin,
            stdout: self.stdout,
            stderr: self.stderr,
            recycle: self.stay,
            max_pending: self.max_pending,
            method: self.method.unwrap_or_else(start_method),
            threads: self.threads,
        })
    }

    fn check(&self) -> Result<()> {
        if let Some(workers) = self.workers.filter(|it| *it > MAX_WORKERS) {
            let message = format!(
                "a pool cannot be built with {workers} workers: it has at most {MAX_WORKERS}"
            );
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let some = |it: Option<u64>| it.map(|it| usize::from(it > 0));
        let numbers = [
            ("workers", self.workers),
            ("chunk_size", self.chunk_size),
            ("window", self.window),
            ("max_tasks_per_worker", some(self.stay.tasks)),
            ("max_pending_bytes", some(self.max_pending)),
            ("max_memory_per_worker", some(self.stay.memory)),
        ];
        if let Some((setting, _)) = numbers.into_iter().find(|it| it.1 == Some(0)) {
            let message = format!("a pool cannot be built: its `{setting}` must be at least 1");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let mut variables = self.environment.iter();
        if let Some((key, value)) = variables.find(|it| !environment::can_be_set(&it.0, &it.1)) {
            let message = format!("{key:?}={value:?} cannot be an environment variable");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(())
    }
}

/// Starts a pool.
pub(super) fn start(settings: PoolSettings) -> Result<ProcessPoolExecutor> {
    let pool = Pool::start(settings)?;
    pool.start_thread().map_err(|it| {
        Error::io("failed to start the pool's thread", it).with_kind(ErrorKind::StartFailed)
    })?;
    background_threads::register(&pool);
    Ok(ProcessPoolExecutor { pool })
}

fn encode_initializer<A: Wire + 'static, E: fmt::Display + 'static>(
    f: fn(A) -> std::result::Result<(), E>,
    arg: &A,
) -> Result<EncodedCall> {
    let (mut argument, mut descriptors) = (Vec::new(), Vec::new());
    let encoded = handle::collect(&mut descriptors, || codec::encode(arg, &mut argument));
    encoded.map_err(|reason| {
        let message = format!("failed to encode the initializer's argument: {reason}");
        Error::new(ErrorKind::Codec, message)
    })?;
    Ok(EncodedCall {
        function: WireFunction::initializer(f)?.to_bytes(),
        argument,
        descriptors,
    })
}
