//! The proxies: each file has the methods of a proxy, followed by their handlers in the server.

pub(super) mod barrier;
pub(super) mod condition;
pub(super) mod dict;
pub(super) mod event;
pub(super) mod list;
pub(super) mod lock;
pub(super) mod namespace;
pub(super) mod object;
pub(super) mod queue;
pub(super) mod semaphore;
pub(super) mod value;
