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
mod executor;
mod future;
mod global;
mod histogram;
mod imap;
mod limits;
mod options;
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
