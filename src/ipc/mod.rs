//! Messages between processes: connections, listeners and queues.
//!
//! - [`pipe`] and [`one_way`] connect related processes. Their handles can be arguments, results
//!   and parts of messages.
//! - [`Listener`] and [`connect`] connect processes that share an [`AuthKey`], through a Unix
//!   socket or TCP.
//! - [`Queue`], [`JoinableQueue`] and [`SimpleQueue`] connect any number of related processes
//!   through shared memory.

// Relies on: pipes, which are the fastest blocking primitive; Unix sockets for descriptors; Unix
// and TCP sockets for unrelated processes.
//
// Invariant: does not know processes. A handle is a value that holds descriptors.

mod address;
mod auth;
mod connection;
mod fd_lists;
mod framing;
mod handshake;
mod listener;
mod message;
mod one_way;
mod queue;
mod recv_half;
mod send_half;
mod wait;

pub use address::Address;
pub use auth::{AuthKey, authkey, set_authkey};
pub(crate) use auth::{forget_key, known_key, known_keys, remember_key};
pub use connection::{Connection, pipe};
#[cfg(fuzzing)]
pub(crate) use handshake::fuzzing::HANDSHAKE;
pub(crate) use listener::{CONNECT_TIMEOUT, connect_within};
pub use listener::{Listener, connect};
pub use one_way::{Receiver, Sender, one_way};
pub use queue::{JoinableQueue, Queue, SimpleQueue};
pub use wait::wait_ready;
