//! Runs functions on a pool of worker processes. A crash, a leak or a timeout costs one task, not
//! the program.
//!
//! A worker can panic, segfault, run out of memory, call `exit` or be killed. The task that ran
//! there fails within milliseconds, with an error that says what happened. Everything else goes on.
//!
//! ```
//! use procpool::{ErrorKind, ProcessPoolExecutor};
//!
//! fn checked(x: i32) -> i32 {
//!     if x == 2 {
//!         std::process::abort(); // as a C library may do with bad input
//!     }
//!     x * 10
//! }
//!
//! let pool = ProcessPoolExecutor::new()?; // one worker per CPU, forked now
//! let results = pool.map_results(checked, 0..5);
//! assert_eq!(results.iter().flatten().copied().collect::<Vec<_>>(), [0, 10, 30, 40]);
//!
//! let error = results[2].as_ref().unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::WorkerDied);
//! assert_eq!(error.to_string().split(' ').skip(2).collect::<Vec<_>>().join(" "),
//!     "was killed by SIGABRT (signal 6) before it answered");
//! # Ok::<(), procpool::Error>(())
//! ```
//!
//! Use [rayon](https://docs.rs/rayon) instead for plain computing in safe Rust: threads share
//! memory, processes do not.
//!
//! # What is where
//!
//! | for | see |
//! |---|---|
//! | the pool | [`ProcessPoolExecutor`], its [builder](ProcessPoolBuilder) and [`TaskOptions`] |
//! | results | [`TaskFuture`], [`wait`], [`as_completed`], [`Imap`], [`Feed`], [`Error`] |
//! | one function in its own process | [`Process`], [`fork_map`], [`StartMethod`] |
//! | connections, listeners, queues | [`ipc`] |
//! | locks, conditions, barriers, shared values | [`sync`] |
//! | shared bytes | [`shm`] |
//! | objects in a server process | [`manager`] |
//! | long reads | [`guide`] |
//!
//! The names of the modules are also at the root: `procpool::Queue` is [`ipc::Queue`].
//!
//! # Functions and values
//!
//! A task is a function (`fn`) or a closure that captures nothing. It is sent as its address in the
//! program, which the workers run, too. Arguments and results are sent as bytes. They are [`Wire`]:
//! they implement serde's `Serialize` and `DeserializeOwned`. State is an argument, or is sent once
//! per worker with [`map_with`](ProcessPoolExecutor::map_with).
//!
//! ```
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Model {
//!     weights: Vec<f64>,
//! }
//!
//! impl Model {
//!     fn score(&self, x: f64) -> f64 {
//!         self.weights.iter().map(|weight| weight * x).sum()
//!     }
//! }
//!
//! let pool = procpool::ProcessPoolExecutor::new()?;
//! let model = Model { weights: vec![0.5, 1.5] };
//! assert_eq!(pool.map_with(model, Model::score, [1.0, 2.0])?, [2.0, 4.0]);
//! # Ok::<(), procpool::Error>(())
//! ```
//!
//! The encoding (bincode) does not describe itself. These values are an error of the kind
//! [`ErrorKind::Codec`], which names the type and the attribute:
//!
//! - types with an attribute that reads the data before it knows their type (`flatten`, `untagged`,
//!   `tag`, `tag` with `content`),
//! - fields that are left out (`skip_serializing_if`), or that have only one of `skip_serializing`
//!   and `skip_deserializing`.
//!
//! Send such a value as its JSON text. Some types of `std` are special:
//!
//! - A `Vec<u8>` as argument or result is copied once. Inside a struct, `serde_bytes` does the
//!   same.
//! - A `PathBuf` is text to serde: one that is not UTF-8 is an error of the kind `Codec`. An
//!   `OsString` takes any bytes.
//! - A `File` is not data. An open file travels as a [`Descriptor`].
//! - A `Mutex` is plain data to serde and arrives as a copy, with a lock of its own.
//!
//! # Ways to call
//!
//! | | one task | many items |
//! |---|---|---|
//! | wait for it | [`apply`] | [`map`], [`starmap`], [`map_with`], [`map_results`] |
//! | get a future | [`submit`], [`try_submit`] | [`map_async`] |
//! | get a callback | [`apply_async`] | [`add_done_callback`] |
//! | read results one by one | | [`imap`], [`imap_unordered`] |
//! | read an input that blocks | | [`feed`], [`feed_unordered`] |
//! | from stream to stream | | [`imap_stream`], [`imap_stream_unordered`] |
//!
//! [`apply`]: ProcessPoolExecutor::apply
//! [`map`]: ProcessPoolExecutor::map
//! [`starmap`]: ProcessPoolExecutor::starmap
//! [`map_with`]: ProcessPoolExecutor::map_with
//! [`map_results`]: ProcessPoolExecutor::map_results
//! [`submit`]: ProcessPoolExecutor::submit
//! [`try_submit`]: ProcessPoolExecutor::try_submit
//! [`map_async`]: ProcessPoolExecutor::map_async
//! [`apply_async`]: ProcessPoolExecutor::apply_async
//! [`add_done_callback`]: TaskFuture::add_done_callback
//! [`imap`]: ProcessPoolExecutor::imap
//! [`imap_unordered`]: ProcessPoolExecutor::imap_unordered
//! [`feed`]: ProcessPoolExecutor::feed
//! [`feed_unordered`]: ProcessPoolExecutor::feed_unordered
//! [`imap_stream`]: ProcessPoolExecutor::imap_stream
//! [`imap_stream_unordered`]: ProcessPoolExecutor::imap_stream_unordered
//!
//! `imap` reads its input in the caller's thread, and only while no result is ready. `feed` reads
//! the input in a thread of its own: results arrive while the input waits for a channel, a socket
//! or a line. Both have `.into_stream()`. `imap_stream` polls its input and never blocks the
//! executor.
//!
//! A [`TaskFuture`] is also a [`std::future::Future`], on any runtime:
//!
//! ```
//! let pool = procpool::ProcessPoolExecutor::new()?;
//! let both = futures::executor::block_on(async {
//!     let (a, b) = (pool.submit(|x: u64| x + 1, 1), pool.submit(|x: u64| x + 1, 2));
//!     Ok::<_, procpool::Error>((a.await?, b.await?))
//! })?;
//! assert_eq!(both, (2, 3));
//! # Ok::<(), procpool::Error>(())
//! ```
//!
//! # Stop, limit, retry
//!
//! | to | use |
//! |---|---|
//! | limit the time of a task | [`TaskOptions::timeout`], [`ProcessPoolBuilder::task_timeout`] |
//! | stop a task that runs | [`TaskFuture::kill`] |
//! | repeat a task that lost its worker or timed out | [`TaskOptions::retries`] |
//! | start urgent tasks first | [`TaskOptions::priority`] |
//! | limit memory, CPU time and more | [`ProcessPoolBuilder::limits`] |
//! | replace workers before they leak | [`ProcessPoolBuilder::max_tasks_per_worker`] |
//! | limit the memory of waiting tasks | [`ProcessPoolBuilder::max_pending_bytes`] |
//! | end idle workers | [`ProcessPoolBuilder::idle_timeout`] |
//! | change the number of workers | [`ProcessPoolExecutor::resize`] |
//! | share one pool in the program | [`ProcessPoolExecutor::reusable`] |
//! | see what the pool does | [`ProcessPoolExecutor::stats`] |
//!
//! ```
//! use procpool::{ErrorKind, ProcessPoolExecutor};
//! use std::time::Duration;
//!
//! let pool = ProcessPoolExecutor::builder()
//!     .workers(2)
//!     .task_timeout(Duration::from_millis(100))
//!     .build()?;
//! let slow = |x: u64| if x == 2 { loop { std::thread::park() } } else { x };
//! let results = pool.map_results(slow, 0..4);
//! assert_eq!(results.iter().flatten().copied().collect::<Vec<_>>(), [0, 1, 3]);
//! assert_eq!(results[2].as_ref().unwrap_err().kind(), ErrorKind::TimedOut);
//! # Ok::<(), procpool::Error>(())
//! ```
//!
//! # What a caller can rely on
//!
//! | event | result |
//! |---|---|
//! | a task panics | its future alone is [`Panicked`]; the worker goes on |
//! | a worker dies in a task | the task's future alone is [`WorkerDied`]; the worker is replaced |
//! | an idle worker dies | the worker is replaced; no future fails |
//! | a task exceeds its time limit | its future alone is [`TimedOut`]; its worker is replaced |
//! | a task is killed by its future | its future alone is [`Cancelled`]; its worker is replaced |
//! | a value cannot be encoded or decoded | its future alone is [`Codec`] |
//! | the initializer fails | every future and later call is [`StartFailed`], with its text |
//! | the pool is dropped | submitted tasks finish, then the workers end |
//! | the program is killed by SIGKILL | the workers and their children are killed |
//! | the program ends with a pool in a `static` | the workers and their children are killed |
//! | Ctrl-C | the program gets SIGINT; the workers ignore it and end with the program |
//! | SIGTERM or SIGHUP to the process group | the program decides; see [Signals](#signals) |
//! | the fork server is killed | running tasks are [`WorkerDied`]; a new server takes over |
//! | the template of a `Fork` pool is killed | later calls are [`StartFailed`] |
//! | the program forks itself | calls in the copy are [`Unsupported`]; dropping the pool is safe |
//! | the program reaps children or ignores SIGCHLD | the pool works |
//! | the program closes stdin or changes directory | the pool works |
//!
//! [`Panicked`]: ErrorKind::Panicked
//! [`WorkerDied`]: ErrorKind::WorkerDied
//! [`TimedOut`]: ErrorKind::TimedOut
//! [`Cancelled`]: ErrorKind::Cancelled
//! [`Codec`]: ErrorKind::Codec
//! [`StartFailed`]: ErrorKind::StartFailed
//! [`Unsupported`]: ErrorKind::Unsupported
//!
//! - **Panic**: the error has the message, the location and the backtrace. Nothing is printed. With
//!   `panic = "abort"` the worker dies and is replaced.
//! - **Death** is a signal, an abort, an `exit` or the out-of-memory killer. The error has the pid
//!   and the signal or exit code, and says if the [stack overflowed](WorkerExit::stack_overflow).
//!   The replacement starts at once. Tasks that had not started run on other workers.
//! - **Stop** by a time limit or `kill`: the worker gets SIGTERM, and SIGKILL 1 s later.
//! - **Codec** includes values that are nested deeper than [`max_depth`].
//! - **Drop** waits for all submitted tasks. [`terminate`](ProcessPoolExecutor::terminate) and
//!   [`kill`](ProcessPoolExecutor::kill) do not.
//!
//! Workers are isolated from each other's crashes, not from each other's malice: all run this
//! program with the same rights.
//!
//! # How workers start
//!
//! The first pool starts the *fork server*: this program once more (`/proc/self/exe`). The copy
//! becomes a server before `main` and forks every worker and every replacement. So a worker costs
//! the same in a program with many threads and much memory, where a plain `fork` is slow and
//! unsafe. A worker starts fresh: it has no thread, no lock and no `static` of the running program,
//! only the environment and the working directory of the moment when the pool is built.
//!
//! Nothing has to be added to `main`, tests, examples or benches; [`init`] has the one exception.
//! Constructors that run before `main` (crates `ctor`, `inventory`) run in the server, too.
//!
//! A worker has the program's standard output and error, an empty standard input, and no other of
//! its descriptors. [`stdin`](ProcessPoolBuilder::stdin) gives it the program's input. A worker
//! flushes standard output and ends with `_exit`: no exit handler runs. Child processes that it
//! leaves are killed, and so are the processes that other workers have detached by then, except a
//! [`Process`] that is not a daemon.
//!
//! Code that runs in a worker counts for coverage (`cargo llvm-cov`). In a program that was built
//! with `-C instrument-coverage`, each process writes a profile when it ends, under its own id if
//! the file's name has `%p` in it. A killed process writes none, such as a worker whose task timed
//! out or a worker of a pool in a `static`.
//!
//! [`StartMethod`] has two other ways: `Spawn` executes the program again for each worker, and
//! `Fork` copies this process as it is, if it has one thread. See [Choosing a start
//! method](guide::choosing_a_start_method).
//!
//! # Signals
//!
//! systemd, `timeout` and a terminal that hangs up signal every process of the program at once.
//! Workers, the fork server and a manager's server do not end by a SIGTERM, SIGHUP or SIGINT from
//! outside, so that a program that handles the signal can finish its work. They end when the
//! program ends, for any reason. A unit of systemd needs no setting for this: the default,
//! `KillMode=control-group`, is fine, and `TimeoutStopSec` is the time that the program has.
//!
//! A SIGTERM from the pool (a time limit, `kill`, `terminate`) ends a worker, unless the task
//! handles the signal. So does a SIGTERM that a task sends to its own process. A [`Process`] ends
//! at each of the three signals, unless its function handles it.
//!
//! The kernel may not let a program signal its workers if the program has become another user or is
//! in a sandbox. The fork server, which is their parent, signals them in that case. If the fork
//! server may not either, the task still fails, the worker is left alone and replaced, and
//! [`Process::kill`] is an error. A daemon that was started by `Fork` outlives such a program, as
//! the kernel may not kill it.
//!
//! A signal that the program ignores when it starts a process is ignored in that process, too:
//! nothing ends at a hang-up under `nohup`. SIGCHLD and SIGTERM are the exceptions.
//!
//! # Processes and messages
//!
//! The layer below the executor is public. A [`Process`] runs one function. It has a name and an
//! id. It can be joined, signalled and detached, or be a daemon that ends with the program. The
//! function's return value stays available for [`result`](Process::result).
//!
//! [`pipe`] and [`one_way`] create connections that carry any [`Wire`] value. A connection is a
//! value itself: it can be an argument or a result of a process or a task, or a part of a message.
//! So can any open file, as a [`Descriptor`]. [`Listener`] and [`connect`] join processes that are
//! not relatives; both ends prove that they know a key.
//!
//! ```
//! use procpool::{Connection, Process, pipe};
//!
//! fn double(connection: Connection<u64, u64>) {
//!     while let Ok(number) = connection.recv() {
//!         if connection.send(&(2 * number)).is_err() {
//!             return;
//!         }
//!     }
//! }
//!
//! let (ours, theirs) = pipe()?;
//! let process = Process::start(double, theirs)?;
//! ours.send(&21)?;
//! assert_eq!(ours.recv()?, 42);
//! drop(ours); // The child's `recv` fails, and the child ends.
//! assert!(process.join()?.success());
//! # Ok::<(), procpool::Error>(())
//! ```
//!
//! # Sharing memory
//!
//! Messages are copies. Data that several processes see at once is in shared memory. Its handles
//! travel like any other value, in a struct, an argument or a message. [`Value`] and [`Array`] hold
//! plain data ([`Pod`]) with a lock, [`Atomic`] a number without a lock, [`SharedMemory`] bytes.
//! [`Lock`], [`RLock`], [`Semaphore`], [`BoundedSemaphore`], [`Condition`], [`Event`] and
//! [`Barrier`] synchronise processes.
//!
//! ```
//! use procpool::{Process, Value};
//!
//! fn count(counter: Value<u64>) {
//!     for _ in 0..1000 {
//!         *counter.lock().expect("no holder died") += 1;
//!     }
//! }
//!
//! let counter = Value::new(0)?;
//! let processes = [(); 2].map(|()| Process::start(count, counter.clone()));
//! for process in processes {
//!     process?.result()?;
//! }
//! assert_eq!(counter.get()?, 2000);
//! # Ok::<(), procpool::Error>(())
//! ```
//!
//! The module [`sync`] says what happens when a process is killed in each of these.
//!
//! # Queues
//!
//! Any number of processes put items into a [`Queue`] and take items from it, each item once. The
//! items are in shared memory. They are not lost with the process that put them, and a process that
//! is killed during a call does not block the others. [`bounded`](Queue::bounded) limits the number
//! of items: a `put` then waits for room. [`close`](Queue::close) ends the queue once it is
//! drained. A [`JoinableQueue`] counts the finished items. A [`SimpleQueue`] only puts and gets.
//!
//! ```
//! use procpool::{Process, Queue};
//!
//! fn count_words((texts, counts): (Queue<String>, Queue<usize>)) {
//!     while let Ok(text) = texts.get() {
//!         counts.put(&text.split_whitespace().count()).expect("an open queue");
//!     }
//! }
//!
//! let (texts, counts) = (Queue::bounded(10)?, Queue::unbounded()?);
//! let workers = [0, 1].map(|_| Process::start(count_words, (texts.clone(), counts.clone())));
//! for text in ["one", "one two", "one two three"] {
//!     texts.put(&text.to_owned())?;
//! }
//! texts.close();
//! for worker in workers {
//!     worker?.join()?;
//! }
//! assert_eq!(counts.get_many(10)?.iter().sum::<usize>(), 6);
//! # Ok::<(), procpool::Error>(())
//! ```
//!
//! # Shared objects
//!
//! A [`Manager`] is a server process with objects that any process uses through proxies: lists,
//! dicts, queues, locks, and any type. Functions run in the server, one at a time for each object.
//! A proxy is a value: it can be an argument, a result, or part of another object. Each call is a
//! message there and back, which takes some microseconds. [`Value`], [`Array`] and [`Atomic`] are
//! faster, but reach only relatives on one machine.
//!
//! ```
//! use procpool::{Manager, Process, Proxy};
//!
//! let manager = Manager::start()?;
//! let highest = manager.object(0u64)?;
//! let report = |(highest, mine): (Proxy<u64>, u64)| {
//!     highest.call(|value, mine| *value = mine.max(*value), mine).is_ok()
//! };
//! for number in [3, 7, 5] {
//!     assert!(Process::start(report, (highest.clone(), number))?.result()?);
//! }
//! assert_eq!(highest.get()?, 7);
//! # Ok::<(), procpool::Error>(())
//! ```
//!
//! # Platforms
//!
//! Linux 5.4 or later, 64-bit, with `/proc` mounted: that of this pid namespace or of an outer one.
//! Tested on x86-64. On 64-bit ARM everything compiles, and the tests of shared memory,
//! synchronisation, messages, processes and futures pass by emulation, with pages of 4 KiB and 16
//! KiB.

cfg_if::cfg_if! {
    if #[cfg(all(target_os = "linux", target_pointer_width = "64"))] {
        mod error;
        pub mod ipc;
        pub mod manager;
        mod pool;
        mod process;
        pub mod shm;
        pub mod sync;
        mod sys;
        mod wire;

        pub use bytemuck::Pod;
        pub use error::{Error, ErrorKind, RemotePanic, Result, WorkerExit};
        #[doc(hidden)] // `cargo doc` shows them in their module.
        pub use ipc::{
            Address, AuthKey, Connection, JoinableQueue, Listener, Queue, Receiver, Sender,
            SimpleQueue, authkey, connect, one_way, pipe, set_authkey, wait_ready,
        };
        #[doc(hidden)]
        pub use manager::{
            ArrayProxy, BarrierProxy, BoundedSemaphoreProxy, ConditionProxy, ConditionProxyGuard,
            DictProxy, EventProxy, JoinableQueueProxy, ListProxy, LockProxy, Manager,
            ManagerBuilder, Namespace, Proxy, ProxyGuard, QueueProxy, RLockProxy, SemaphoreProxy,
            ValueProxy,
        };
        pub use pool::{
            AsCompleted, Feed, FeedStream, FeedUnordered, Histogram, Imap, ImapStream,
            ImapUnordered, Input, Output, PoolStats, ProcessPoolBuilder, ProcessPoolExecutor,
            ResourceLimits, RestartReasons, ReturnWhen, RunningTask, StreamImap, TaskFuture,
            TaskOptions, TrySubmitError, Waited, Worker, WorkerStats, as_completed,
            current_worker, wait,
        };
        pub use process::{
            ChildInfo, CurrentProcess, ExitStatus, ParentProcess, Process, ProcessBuilder,
            StartMethod, active_children, cpu_count, current_process, fork_map,
            fork_map_unchecked, init, parent_process, set_start_method, start_method,
        };
        #[doc(hidden)]
        pub use shm::SharedMemory;
        #[doc(hidden)]
        pub use sync::{
            Array, ArrayGuard, Atomic, AtomicInteger, AtomicPrimitive, Barrier, BarrierWaitResult,
            BoundedSemaphore, Condition, ConditionGuard, Event, Lock, LockError, LockGuard,
            LockResult, RLock, RLockGuard, Semaphore, Value, ValueGuard,
        };
        pub use wire::{
            Wire,
            depth::{max_depth, set_max_depth},
            handle::Descriptor,
        };

        #[cfg(fuzzing)]
        #[doc(hidden)]
        pub mod fuzzing;

        /// Pages to read.
        pub mod guide {
            #[doc = include_str!("../docs/choosing_a_start_method.md")]
            pub mod choosing_a_start_method {}

            #[doc = include_str!("../docs/what_a_child_inherits.md")]
            pub mod what_a_child_inherits {}

            #[doc = include_str!("../docs/what_a_start_costs.md")]
            pub mod what_a_start_costs {}

            #[doc = include_str!("../docs/from_python.md")]
            pub mod from_python {}
        }
    } else {
        compile_error!("procpool runs on 64-bit Linux only: it needs memfd, pidfd and futex");
    }
}

/// The examples of README.md: `cargo test --doc` runs them.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
