//! Messages between processes: connections, listeners, and waiting for several of them at once.
//!
//! Relies on: pipes, which are at the limit of what a blocking primitive can do; Unix sockets for descriptors and Unix and
//! TCP sockets for processes that are no relatives.
//!
//! Invariant: knows nothing of processes; a handle is a value with descriptors in it, wherever it is sent.

mod connection;
mod line;
mod message;
mod one_way;
mod receiving;
mod sending;
mod wait;

pub use connection::{Connection, pipe};
pub use one_way::{Receiver, Sender, one_way};
pub use wait::wait_ready;
