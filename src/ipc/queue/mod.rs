//! Queues in shared memory: items that many processes put and many take, each once, whoever is
//! killed when.
//!
//! Relies on: robust mutexes, one for those who put and one for those who take; commits of a single
//! store, so that a death leaves nothing that has to be repaired. `README.md` has the layout, the
//! states, and what happens at each death.
//!
//! Invariant: no user code runs under a lock that other processes wait for, and nothing is
//! allocated there but by the mapping of a block and the copy of an item.

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
