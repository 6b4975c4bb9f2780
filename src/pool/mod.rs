//! The process pool: runs functions on worker processes that are started before the tasks.
//!
//! ```text
//!  threads of the program                               worker process, one of n
//! ┌─────────────────┐            ┌───────────┐    ┌───────────────┐          ┌─────────────┐
//! │ submit, map ... │  WorkItem  │ Scheduler │    │ WorkerHandle  │ requests │ FrameReader │
//! │ (executor,      │ ─────────► │ (queue,   │ ─► │ (outbox,      │ ═══════► │   │ decode  │
//! │  options, task) │            │  slots)   │    │  in flight)   │   pipe   │   ▼ call    │
//! │                 │  outcomes  │           │    │               │  replies │ TaskRunner  │
//! │ result, next .. │ ◄───────── │           │ ◄─ │ CheckedRegion │ ◄─────── │   │ encode  │
//! │ (future, wait)  │            └───────────┘    └───────────────┘  shared  │   ▼         │
//! └─────────────────┘                  ▲                  ▲        memory    │ ReplyWriter │
//!         ▲                            │ drives           │                  └─────────────┘
//!         │ wakes waiters         ┌────┴───┐              └─ wake-up bytes, and the exit record,
//!         └────────────────────── │ Driver │                 which the fork server writes
//!                                 └────────┘
//!   A thread that waits for a result drives the pool as its leader, else the background thread.
//! ```
//!
//! Relies on: `process` to start workers and to report how they exited; `shm` for the shared region
//! and the slabs; `wire` for values.
//!
//! Invariant: the death of a worker fails at most the one item that ran in it. README.md in this
//! folder lists the losses at each instant.

mod budget;
mod builder;
mod driver;
mod executor;
mod future;
mod global;
mod histogram;
mod imap;
mod limits;
mod options;
#[expect(clippy::module_inception, reason = "a file is named by its type")]
mod pool;
mod protocol;
mod scheduler;
mod stats;
mod stdio;
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
pub use executor::ProcessPoolExecutor;
pub use future::TaskFuture;
pub use histogram::Histogram;
pub use limits::ResourceLimits;
pub use options::TaskOptions;
pub use stats::{PoolStats, RestartReasons, RunningTask, WorkerStats};
pub use stdio::{Input, Output};
pub use wait::{AsCompleted, ReturnWhen, Waited, as_completed, wait};
pub use worker::current::{Worker, current_worker};
