//! Queues in shared memory: any number of processes put and take items. Each item is taken once,
//! even if processes are killed at any instant.
//!
//! Relies on: robust mutexes, one for the producers and one for the consumers; commits by a single
//! store, so that a death leaves nothing to repair. `README.md` describes the layout, the states,
//! and the effect of each death.
//!
//! Invariant: no user code runs under a lock that other processes wait for. Nothing is allocated
//! there, except for the mapping of a block and the copy of an item.

mod block;
mod corrupted;
mod joinable;
mod macros;
mod memory;
mod placement;
mod plain;
mod position;
mod reader;
mod record;
mod ring;
mod simple;
mod typed_ring;
mod writer;

pub use joinable::JoinableQueue;
pub use plain::Queue;
pub use simple::SimpleQueue;
