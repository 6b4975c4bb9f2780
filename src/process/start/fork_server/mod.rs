//! The fork server: one process that forks children for its owner.
//!
//! `client` is the owner's side, `server` the server process, `pending` its start, and `template` a
//! fork server that is a copy of its owner, for one pool.

pub(crate) mod client;
pub(crate) mod pending;
mod protocol;
mod server;
mod template;

pub(super) use template::Template;
