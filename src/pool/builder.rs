//! The builder of a pool.

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

/// Configures and builds a pool; see [`ProcessPoolExecutor::builder`].
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
    recycle: RecyclePolicy,
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
            recycle: RecyclePolicy::default(),
            max_pending: None,
            method: None,
            threads: Threads::One,
        }
    }

    /// Sets the number of workers; [`cpu_count`](crate::cpu_count) by default. `build` refuses 0.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Makes every worker call `f(arg)` before its first task, including replacements.
    ///
    /// If `f` fails or panics, the pool breaks: every future and every later call returns
    /// [`ErrorKind::StartFailed`] with the message of `f`. If a worker dies in `f`, the pool
    /// replaces it a few times first.
    ///
    /// ```
    /// let check = |path: String| std::fs::metadata(path).map(drop);
    /// let pool = procpool::ProcessPoolExecutor::builder()
    ///     .workers(1)
    ///     .initializer(check, "/nowhere".to_string())
    ///     .build()?;
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

    /// Sets the default number of items that a map sends together; see
    /// [`TaskOptions::chunk_size`](crate::TaskOptions::chunk_size). `build` refuses 0.
    pub fn chunk_size(mut self, items: usize) -> Self {
        self.chunk_size = Some(items);
        self
    }

    /// Sets the default number of items that a map reads ahead; see
    /// [`TaskOptions::window`](crate::TaskOptions::window). `build` refuses 0.
    pub fn window(mut self, items: usize) -> Self {
        self.window = Some(items);
        self
    }

    /// Sets the default time limit of a task or an item of a map; see
    /// [`TaskOptions::timeout`](crate::TaskOptions::timeout). No limit by default.
    pub fn task_timeout(mut self, limit: Duration) -> Self {
        self.config.timeout = Some(limit);
        self
    }

    /// Sets how often a task or an item of a map is retried by default, after its worker died or
    /// its time limit passed; see [`TaskOptions::retries`](crate::TaskOptions::retries). 0 by
    /// default.
    pub fn retries(mut self, retries: u32) -> Self {
        self.config.retries = retries;
        self
    }

    /// Sets whether a panic is retried by default, too; see
    /// [`TaskOptions::retry_panics`](crate::TaskOptions::retry_panics). False by default.
    pub fn retry_panics(mut self, on: bool) -> Self {
        self.config.retries_panics = on;
        self
    }

    /// Replaces a worker after `tasks` tasks; each item of a map counts as one. This bounds leaks
    /// in the code that tasks call. `build` refuses 0. No limit by default.
    ///
    /// The replacement starts before the worker exits, and takes over after the worker has answered
    /// its last task.
    ///
    /// ```
    /// let builder = procpool::ProcessPoolExecutor::builder().workers(1);
    /// let pool = builder.max_tasks_per_worker(2).build()?;
    /// let pids = pool.map(|_: u32| std::process::id(), 0..4)?;
    /// assert!(pids[0] == pids[1] && pids[1] != pids[2] && pids[2] == pids[3]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn max_tasks_per_worker(mut self, tasks: u64) -> Self {
        self.recycle.tasks = Some(tasks);
        self
    }

    /// Replaces a worker whose resident memory exceeds `bytes`, like
    /// [`max_tasks_per_worker`](Self::max_tasks_per_worker). The worker checks it between tasks, at
    /// most every 10 ms. `build` refuses 0. No limit by default.
    pub fn max_memory_per_worker(mut self, bytes: u64) -> Self {
        self.recycle.memory = Some(bytes);
        self
    }

    /// Limits the bytes of the encoded arguments that are pending, that is, submitted and not done.
    /// Each task counts with 256 bytes more. `build` refuses 0. No limit by default.
    ///
    /// Without room, [`submit`](ProcessPoolExecutor::submit) and its variants block, `map_async`
    /// blocks between two chunks of its input, and [`try_submit`](ProcessPoolExecutor::try_submit)
    /// returns the argument. Maps read their input no further ahead than the limit, except for one
    /// chunk. A task larger than the limit is admitted when nothing else is pending.
    ///
    /// ```
    /// let pool = procpool::ProcessPoolExecutor::builder().max_pending_bytes(1 << 20).build()?;
    /// // A gigabyte of arguments, of which few are in memory at a time.
    /// let len = |bytes: Vec<u8>| bytes.len();
    /// let futures: Vec<_> = (0..1000).map(|_| pool.submit(len, vec![0; 1 << 20])).collect();
    /// assert!(futures.into_iter().all(|future| matches!(future.result(), Ok(1_048_576))));
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn max_pending_bytes(mut self, bytes: u64) -> Self {
        self.max_pending = Some(bytes);
        self
    }

    /// Makes a worker exit after it has been idle for `limit`; never by default. It starts again
    /// when there is a task for it. Until then it uses no memory, and the task then waits for the
    /// start.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let builder = procpool::ProcessPoolExecutor::builder().workers(2);
    /// let pool = builder.idle_timeout(Duration::from_millis(1)).build()?;
    /// while !pool.worker_pids().is_empty() {
    ///     std::thread::yield_now();
    /// }
    /// assert_eq!(pool.workers(), 2);
    /// assert_eq!(pool.map(|x: u64| x + 1, 0..3)?, [1, 2, 3]);
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn idle_timeout(mut self, limit: Duration) -> Self {
        self.recycle.idle = Some(limit);
        self
    }

    /// Sets where the workers' standard input comes from. It is empty by default, so that no task
    /// takes the input of the program.
    ///
    /// With [`StartMethod::Fork`], workers inherit a copy of the program's memory, which includes
    /// the data that the program has buffered in [`std::io::stdin`].
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

    /// Sets where the workers' standard output goes; to that of this process by default.
    ///
    /// ```
    /// use procpool::{Output, ProcessPoolExecutor};
    ///
    /// let builder = ProcessPoolExecutor::builder().workers(1);
    /// let pool = builder.stdout(Output::Null).stderr(Output::Null).build()?;
    /// pool.apply(|()| println!("discarded"), ())?;
    /// # Ok::<(), procpool::Error>(())
    /// ```
    pub fn stdout(mut self, output: Output) -> Self {
        self.stdout = output;
        self
    }

    /// Sets where the workers' standard error goes, like [`stdout`](Self::stdout).
    pub fn stderr(mut self, output: Output) -> Self {
        self.stderr = output;
        self
    }

    /// Sets the resource limits of each worker. The pool breaks if the worker fails to set a limit,
    /// like after a failed initializer.
    pub fn limits(mut self, limits: ResourceLimits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Sets an environment variable of the workers, including replacements. The other variables are
    /// those of this process at the time of `build`. Later changes to this process's environment do
    /// not reach the workers.
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

    /// Sets the working directory of the workers, including replacements; the directory of this
    /// process at the time of `build` by default. The pool breaks if it does not exist, like after
    /// a failed initializer.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Pins each worker to one of the CPUs that this process may use. Worker 0 gets the first CPU;
    /// with more workers than CPUs the numbering starts again. False by default: the kernel's
    /// scheduler does better unless the machine runs nothing else.
    pub fn cpu_affinity(mut self, on: bool) -> Self {
        self.is_pinned = on;
        self
    }

    /// Sets how workers are started; [`start_method`] by default.
    ///
    /// With [`StartMethod::Fork`], workers and their replacements are copies of this process at the
    /// time of `build`: a copy of it waits for requests of the pool and forks them.
    pub fn start_method(mut self, method: StartMethod) -> Self {
        self.method = Some(method);
        self
    }

    /// Lets [`StartMethod::Fork`] copy this process although it has other threads, or although
    /// guards give references to shared memory.
    ///
    /// # Safety
    ///
    /// The rules of `fork(2)` in a threaded process apply: a lock that another thread holds at that
    /// moment stays locked in the workers forever. Tasks must not allocate, print, or do anything
    /// else that takes a lock, unless no other thread can hold that lock.
    ///
    /// No task may use a reference that a guard of a [`Value`](crate::Value) or an
    /// [`Array`](crate::Array) gave out before `build`, in any thread or leaked, because this
    /// process uses the same memory. The guard itself panics when it is used in a worker.
    #[expect(unsafe_code, reason = "the contract demands it; its body is safe")]
    pub unsafe fn allow_fork_with_threads(mut self) -> Self {
        self.threads = Threads::Any;
        self
    }

    /// Starts the workers and returns after they have been forked. Initializers may still be
    /// running.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if a setting is 0. [`ErrorKind::Codec`] if the argument of the
    /// initializer cannot be encoded. [`ErrorKind::StartFailed`] if a worker cannot be started.
    /// [`ErrorKind::Unsupported`] for [`StartMethod::Fork`] with other threads, or with a guard of
    /// a [`Value`](crate::Value) or an [`Array`](crate::Array) that is held or leaked.
    pub fn build(self) -> Result<ProcessPoolExecutor> {
        start(self.settings()?)
    }

    /// Returns the executor that the whole process shares, see [`ProcessPoolExecutor::reusable`]. A
    /// new executor replaces the current one unless that has equal settings and accepts tasks.
    /// Initializers are equal if their functions and their encoded arguments are; the encoding of a
    /// `HashMap` varies.
    ///
    /// Its workers have the directory and the environment that this process had when the executor
    /// was built.
    ///
    /// Blocks while this or another thread builds the executor. If it drops the last reference to
    /// the replaced executor, it also blocks until the tasks submitted to that are done.
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
    /// Like [`build`](Self::build).
    pub fn reusable(mut self) -> Result<Arc<ProcessPoolExecutor>> {
        self.recycle.idle.get_or_insert(global::IDLE_TIMEOUT);
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
            recycle: self.recycle,
            max_pending: self.max_pending,
            method: self.method.unwrap_or_else(start_method),
            threads: self.threads,
        })
    }

    fn check(&self) -> Result<()> {
        if let Some(workers) = self.workers.filter(|workers| *workers > MAX_WORKERS) {
            let message = format!(
                "a pool cannot be built with {workers} workers: it has at most {MAX_WORKERS}"
            );
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        // Only whether a setting is 0 matters here.
        let non_zero = |setting: Option<u64>| setting.map(|value| usize::from(value > 0));
        let numbers = [
            ("workers", self.workers),
            ("chunk_size", self.chunk_size),
            ("window", self.window),
            ("max_tasks_per_worker", non_zero(self.recycle.tasks)),
            ("max_pending_bytes", non_zero(self.max_pending)),
            ("max_memory_per_worker", non_zero(self.recycle.memory)),
        ];
        if let Some((setting, _)) = numbers.into_iter().find(|(_, value)| *value == Some(0)) {
            let message = format!("a pool cannot be built: its `{setting}` must be at least 1");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let mut variables = self.environment.iter();
        if let Some((key, value)) =
            variables.find(|(key, value)| !environment::can_be_set(key, value))
        {
            let message = format!("{key:?}={value:?} cannot be an environment variable");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(())
    }
}

/// Starts a pool.
pub(super) fn start(settings: PoolSettings) -> Result<ProcessPoolExecutor> {
    let pool = Pool::start(settings)?;
    pool.start_thread().map_err(|error| {
        Error::io("failed to start the pool's thread", error).with_kind(ErrorKind::StartFailed)
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
