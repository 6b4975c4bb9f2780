//! Messages between processes: connections, listeners, waiting for several of them at once, and queues.
//!
//! Relies on: pipes, which are at the limit of what a blocking primitive can do; Unix sockets for descriptors and Unix and
//! TCP sockets for processes that are no relatives.
//!
//! Invariant: knows nothing of processes; a handle is a value with descriptors in it, wherever it is sent.

mod address;
mod auth;
mod connection;
mod handshake;
mod line;
mod listener;
mod lists;
mod message;
mod one_way;
mod queue;
mod receiving;
mod sending;
mod wait;

pub use address::Address;
pub use auth::{AuthKey, authkey, set_authkey};
pub(crate) use auth::{forget_key, known_key, known_keys, remember_key};
pub use connection::{Connection, pipe};
pub use listener::{Listener, connect};
pub use one_way::{Receiver, Sender, one_way};
pub use queue::{JoinableQueue, Queue, SimpleQueue};
pub use wait::wait_ready;
