//! A process pool executor: `pool.map(f, items)` on worker processes that may crash alone.
//!
//! Rust has no interpreter lock, so for two cores' worth of plain computing [rayon](https://docs.rs/rayon) is the better
//! choice: threads share memory, processes do not. Processes are for work that may go wrong. A worker can panic, segfault,
//! run out of memory, call `exit`, be killed: that one task fails, within milliseconds, with an error that says what
//! happened, and everything else goes on.
//!
//! ```
//! use procpool::{ErrorKind, ProcessPoolExecutor};
//!
//! fn checked(x: i32) -> i32 {
//!     if x == 2 {
//!         std::process::abort(); // what a C library does with bad input, say
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
//! # Functions and values
//!
//! A task is a plain function (`fn`) or a closure that captures nothing: it travels as its place in the program, which the
//! workers run, too. Arguments and results travel as bytes: they are [`Wire`], that is, serde's `Serialize` and
//! `DeserializeOwned`. State travels as an argument, or once per worker with
//! [`map_with`](ProcessPoolExecutor::map_with).
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
//! The encoding (bincode) does not describe itself, so serde attributes that look at the data before they know its type
//! (`flatten`, `untagged`, `tag`, `tag` with `content`) or leave fields out (`skip_serializing_if`) give an error of
//! [`ErrorKind::Codec`], which names the type and the attribute. So does a field with only one of `skip_serializing` and
//! `skip_deserializing`. Send such a value as its JSON text. A `Vec<u8>` argument or result is
//! one copy; inside a struct, `serde_bytes` makes it one. A `PathBuf` is text to serde: one that is not UTF-8 is an error of
//! [`ErrorKind::Codec`], and an `OsString` of any bytes travels. An open file travels as a
//! [`Descriptor`]; a `std::sync::Mutex` is plain data to serde and arrives as a copy, with a lock of its own.
//!
//! # Ways to call
//!
//! | | one task | many items |
//! |---|---|---|
//! | wait for it | [`apply`](ProcessPoolExecutor::apply) | [`map`](ProcessPoolExecutor::map), [`starmap`](ProcessPoolExecutor::starmap), [`map_with`](ProcessPoolExecutor::map_with), [`map_results`](ProcessPoolExecutor::map_results) |
//! | get a future | [`submit`](ProcessPoolExecutor::submit), [`try_submit`](ProcessPoolExecutor::try_submit) | [`map_async`](ProcessPoolExecutor::map_async) |
//! | be called back | [`apply_async`](ProcessPoolExecutor::apply_async) | [`add_done_callback`](TaskFuture::add_done_callback) |
//! | read lazily | | [`imap`](ProcessPoolExecutor::imap), [`imap_unordered`](ProcessPoolExecutor::imap_unordered), either `.into_stream()` |
//! | read an input that blocks | | [`feed`](ProcessPoolExecutor::feed), [`feed_unordered`](ProcessPoolExecutor::feed_unordered), either `.into_stream()` |
//! | from stream to stream | | [`imap_stream`](ProcessPoolExecutor::imap_stream), [`imap_stream_unordered`](ProcessPoolExecutor::imap_stream_unordered) |
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
//! Several futures are waited for with [`wait`] and [`as_completed`].
//!
//! `imap` reads its input in the caller's thread, and only while no result is there. `feed` reads
//! it in a thread of its own: results come while the input waits for a channel, a socket or a line.
//! `imap_stream` polls its input, and blocks no executor.
//!
//! # Stop, limit, retry
//!
//! A task can be stopped while it runs, by a limit of time ([`TaskOptions::timeout`], [`ProcessPoolBuilder::task_timeout`]) or by
//! [`TaskFuture::kill`]: its worker ends, and no other task notices. [`retries`](TaskOptions::retries) has what lost its worker, or
//! ran out of time, tried again. Workers can be limited by the kernel ([`ResourceLimits`]) and replaced before they leak
//! ([`max_tasks_per_worker`](ProcessPoolBuilder::max_tasks_per_worker),
//! [`max_memory_per_worker`](ProcessPoolBuilder::max_memory_per_worker)); [`resize`](ProcessPoolExecutor::resize) has a pool grow and
//! shrink while it works, and [`stats`](ProcessPoolExecutor::stats) tells what became of its tasks.
//!
//! A queue of tasks need not be first come, first served: [`priority`](TaskOptions::priority) has the urgent ones start first. It need
//! not fill the memory: under [`max_pending_bytes`](ProcessPoolBuilder::max_pending_bytes) a `submit` waits, and
//! [`try_submit`](ProcessPoolExecutor::try_submit) gives the argument back. Workers that have nothing to do end after an
//! [`idle_timeout`](ProcessPoolBuilder::idle_timeout), and code that has no place to keep a pool shares the
//! [`reusable`](ProcessPoolExecutor::reusable) one.
//!
//! ```
//! use procpool::{ErrorKind, ProcessPoolExecutor};
//! use std::time::Duration;
//!
//! let pool = ProcessPoolExecutor::builder().workers(2).task_timeout(Duration::from_millis(100)).build()?;
//! let results = pool.map_results(|x: u64| if x == 2 { loop { std::thread::park() } } else { x }, 0..4);
//! assert_eq!(results.iter().flatten().copied().collect::<Vec<_>>(), [0, 1, 3]);
//! assert_eq!(results[2].as_ref().unwrap_err().kind(), ErrorKind::TimedOut);
//! # Ok::<(), procpool::Error>(())
//! ```
//!
//! # What a caller can rely on
//!
//! | event | what happens |
//! |---|---|
//! | task panics | that future: [`Panicked`](ErrorKind::Panicked) with message, location and backtrace; nothing is printed; the worker lives on (with `panic = "abort"` it is replaced) |
//! | worker dies in a task (signal, abort, `exit`, out of memory) | that future alone: [`WorkerDied`](ErrorKind::WorkerDied) with pid and signal or exit code, and whether its [stack overflowed](WorkerExit::stack_overflow); a replacement is forked at once; what had not started runs elsewhere |
//! | idle worker dies | replaced; no future notices |
//! | task runs longer than its limit, or is killed by its future | [`TimedOut`](ErrorKind::TimedOut), [`Cancelled`](ErrorKind::Cancelled); its worker alone is stopped (SIGTERM, SIGKILL 1 s later) and replaced; what was behind it runs elsewhere |
//! | value cannot be encoded or decoded, or is too [deep](set_max_depth) | [`Codec`](ErrorKind::Codec) on that future; nothing else |
//! | initializer fails | [`StartFailed`](ErrorKind::StartFailed) with its text on every future and later call |
//! | pool dropped | what was submitted is finished, then the workers end; [`terminate`](ProcessPoolExecutor::terminate) for those who cannot wait |
//! | program killed with SIGKILL, or ended with a pool in a `static` | workers are killed by the kernel and the fork server, those that are busy, too, with what they started |
//! | Ctrl-C | reaches the program; workers ignore SIGINT and go with it |
//! | SIGTERM or SIGHUP to the whole process group or service | the program decides; see [Signals](#signals) |
//! | fork server killed | running tasks fail as in any worker's death; the rest goes on with new workers from a new server (the template of a pool under `Fork` cannot be replaced: its calls are [`StartFailed`](ErrorKind::StartFailed)) |
//! | program forks itself | in the copy, using the pool is [`Unsupported`](ErrorKind::Unsupported), dropping it does nothing |
//! | program reaps children, ignores SIGCHLD, closes stdin, changes directory | the pool works |
//!
//! A worker is isolated from the others' crashes, not from their malice: all run this program, with the same rights.
//!
//! # How workers come to be
//!
//! The first pool starts the *fork server*: this program once more (`/proc/self/exe`), which turns into a server before
//! `main` and forks every worker and every replacement. So workers cost the same from a program with many threads and much
//! memory, where a plain `fork` is slow and unsafe, and they start fresh: no thread, no lock, no `static` of the running
//! program is in them, only its environment and working directory as they are when the pool is built. Constructors that run before
//! `main` (crates `ctor`, `inventory`) run in the server, too. Nothing has to be added to `main`, tests, examples or
//! benches; see [`init`] for the one exception.
//!
//! A worker has standard output and error of the program, an empty standard input, and no other of
//! its descriptors. What it prints appears there; [`stdin`](ProcessPoolBuilder::stdin) gives it the
//! program's input. It ends with `_exit`, after flushing standard output: no exit handler runs. The
//! processes that it leaves behind are killed, and with them all that were detached from other
//! workers, but for a [`Process`] that is no daemon.
//!
//! Code that runs in a worker counts for coverage (`cargo llvm-cov`). In a program that was built
//! with `-C instrument-coverage`, each process writes a profile as it ends, under its own id if the
//! file's name has `%p` in it. A process that is killed writes none: a worker whose task ran out of
//! time, say, or that of a pool in a `static`.
//!
//! Two other [start methods](StartMethod) can be asked for: `Spawn` executes the program again for each worker, and `Fork`
//! copies this process as it is, if it has one thread. [Choosing a start method](guide::choosing_a_start_method) has the table of
//! what each inherits, costs and forbids; [From Python's multiprocessing](guide::from_python) says what Python's names are here.
//!
//! # Signals
//!
//! systemd, `timeout` and a terminal that hangs up signal every process of the program at once.
//! Workers, the fork server and a manager's server do not end by a SIGTERM, SIGHUP or SIGINT that
//! comes from outside: a program that handles the signal can finish what it has begun. They end
//! when the program does, however it ends. A unit of systemd needs no setting for this: the
//! default, `KillMode=control-group`, is fine, and `TimeoutStopSec` is the time that the program
//! has.
//!
//! A SIGTERM from the pool (a limit of time, `kill`, `terminate`) ends a worker, unless the task
//! handles it. So does a SIGTERM that a task sends to its own process. A [`Process`] ends at each
//! of the three signals, unless its function handles it.
//!
//! A program that has become another user, or is in a sandbox, may be refused to signal its
//! workers. The fork server, which is their parent, signals them then. Where that is refused, too,
//! the task fails all the same, the worker is left alone and another takes its place, and
//! [`Process::kill`] is an error. A daemon that was started by `Fork` runs on when such a program
//! ends: the kernel may not kill it, either.
//!
//! A signal that the program ignores when it starts a process is ignored there, too: nothing ends
//! at a hang-up under `nohup`. SIGCHLD and SIGTERM are not inherited in this way.
//!
//! # Processes and messages
//!
//! The layer below the executor is open. A [`Process`] runs one function, has a name and an id, can be joined, signalled,
//! detached, or be a daemon that ends with the program; what its function returns waits for [`result`](Process::result).
//! [`pipe`] and [`one_way`] make connections that carry any [`Wire`] value; a connection is itself one, so that it can be an
//! argument or a result of a process or a task, or a part of a message; so is any open file as a [`Descriptor`]. [`Listener`] and [`connect`]
//! join processes that are no relatives, and have both prove that they know a key.
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
//! drop(ours); // The child's `recv` ends, and with it the child.
//! assert!(process.join()?.success());
//! # Ok::<(), procpool::Error>(())
//! ```
//!
//! # Sharing memory
//!
//! Messages are copies. What several processes are to see at once lies in shared memory, behind handles that travel like any
//! other value, in a struct, an argument, a message: [`Value`] and [`Array`] hold plain data ([`Pod`]) behind a lock, [`Atomic`] a
//! number without one, [`SharedMemory`] bytes. [`Lock`], [`RLock`], [`Semaphore`], [`BoundedSemaphore`], [`Condition`], [`Event`]
//! and [`Barrier`] order what processes do.
//!
//! ```
//! use procpool::{Process, Value};
//!
//! fn count(counter: Value<u64>) {
//!     for _ in 0..1000 {
//!         *counter.lock().expect("nobody died") += 1;
//!     }
//! }
//!
//! let counter = Value::new(0)?;
//! let processes = [Process::start(count, counter.clone())?, Process::start(count, counter.clone())?];
//! for process in processes {
//!     process.result()?;
//! }
//! assert_eq!(counter.get()?, 2000);
//! # Ok::<(), procpool::Error>(())
//! ```
//!
//! Nobody waits for the dead:
//!
//! | a process is killed that | what happens |
//! |---|---|
//! | holds a lock, a condition, a value | the next taker has it, in an error of the kind [`OwnerDied`](ErrorKind::OwnerDied), once, as with `std`'s poisoning: `lock.acquire().or_else(\|it\| it.into_inner())?` goes on |
//! | waits for a lock, a permit, an event, a notification | nothing; another who was to be woken may be so up to a second late |
//! | has permits of a semaphore | they are gone until somebody releases them in its place |
//! | waits at a barrier | its place is free again |
//! | was to come to a barrier | the others wait: give them a limit |
//! | has made named shared memory | the name stays, in `/dev/shm` |
//!
//! # Queues
//!
//! A [`Queue`] is for many: any number of processes put items and take them, each once. The items lie in shared memory, so
//! that nothing is lost with a process that has put them, and none of the others is hurt by one that is killed in the middle
//! of a call. [`bounded`](Queue::bounded) makes those who put wait for those who take; [`close`](Queue::close) ends it, once
//! it is drained. A [`JoinableQueue`] knows when everything was done, a [`SimpleQueue`] only puts and gets.
//!
//! ```
//! use procpool::{Process, Queue};
//!
//! fn count_words((texts, counts): (Queue<String>, Queue<usize>)) {
//!     while let Ok(text) = texts.get() {
//!         counts.put(&text.split_whitespace().count()).expect("nobody closes it");
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
//! A [`Manager`] is a server process with objects that any process uses through proxies: lists, dicts, queues, locks, and any
//! type, whose functions run in the server, one at a time for each object. A proxy is a value: it can be an argument, a
//! result, or lie in another object. Each call is a message there and back, some microseconds; what must be faster lies in
//! shared memory ([`Value`], [`Array`], [`Atomic`]), which reaches relatives on one machine only.
//!
//! ```
//! use procpool::{Manager, Process, Proxy};
//!
//! let manager = Manager::start()?;
//! let highest = manager.object(0u64)?;
//! let report = |(highest, mine): (Proxy<u64>, u64)| highest.call(|it, mine| *it = mine.max(*it), mine).is_ok();
//! for number in [3, 7, 5] {
//!     assert!(Process::start(report, (highest.clone(), number))?.result()?);
//! }
//! assert_eq!(highest.get()?, 7);
//! # Ok::<(), procpool::Error>(())
//! ```
//!
//! Linux 5.4 or later, 64-bit, with `/proc` mounted: that of this pid namespace or of an outer one.
//! Tested on x86-64. On 64-bit ARM everything compiles, and the tests of shared memory,
//! synchronisation, messages, processes and futures pass by emulation, with pages of 4 KiB and 16 KiB.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("procpool runs on 64-bit Linux only: its workers stand on memfd, pidfd and futex");

// Each under the same condition, so that a build for another system shows the sentence above and nothing else.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod error;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod ipc;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod manager;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod pool;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod process;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod shm;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod sync;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod sys;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod wire;

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub use bytemuck::Pod;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub use error::{Error, ErrorKind, RemotePanic, Result, WorkerExit};
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub use ipc::{
    Address, AuthKey, Connection, JoinableQueue, Listener, Queue, Receiver, Sender, SimpleQueue,
    authkey, connect, one_way, pipe, set_authkey, wait_ready,
};
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub use manager::{
    ArrayProxy, BarrierProxy, BoundedSemaphoreProxy, ConditionProxy, ConditionProxyGuard,
    DictProxy, EventProxy, JoinableQueueProxy, ListProxy, LockProxy, Manager, ManagerBuilder,
    Namespace, Proxy, ProxyGuard, QueueProxy, RLockProxy, SemaphoreProxy, ValueProxy,
};
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub use pool::{
    AsCompleted, Feed, FeedStream, FeedUnordered, Histogram, Imap, ImapStream, ImapUnordered,
    Input, Output, PoolStats, ProcessPoolBuilder, ProcessPoolExecutor, ResourceLimits,
    RestartReasons, ReturnWhen, RunningTask, StreamImap, TaskFuture, TaskOptions, TrySubmitError,
    Waited, Worker, WorkerStats, as_completed, current_worker, wait,
};
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub use process::{
    ChildInfo, CurrentProcess, ExitStatus, ParentProcess, Process, ProcessBuilder, StartMethod,
    active_children, cpu_count, current_process, fork_map, fork_map_unchecked, init,
    parent_process, set_start_method, start_method,
};
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub use shm::SharedMemory;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub use sync::{
    Array, ArrayGuard, Atomic, AtomicInteger, AtomicPrimitive, Barrier, BarrierWaitResult,
    BoundedSemaphore, Condition, ConditionGuard, Event, Lock, LockError, LockGuard, LockResult,
    RLock, RLockGuard, Semaphore, Value, ValueGuard,
};
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub use wire::{
    Wire,
    depth::{max_depth, set_max_depth},
    handle::Descriptor,
};

/// Pages to read.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
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

/// The examples of README.md: `cargo test --doc` runs them.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
