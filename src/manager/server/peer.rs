//! The other end of a connection: whether it is there, and what waits in its name.

use crate::sys::{child::PidFd, poll};
use std::{
    os::fd::OwnedFd,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::Thread,
};

/// What tells whether a client is there.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) socket: OwnedFd,
    /// The process that connected, on this machine. A copy of it that it has forked may hold the
    /// socket open.
    pub(super) process: Option<PidFd>,
}

impl Peer {
    pub(super) fn is_gone(&self) -> bool {
        poll::has_hung_up(&self.socket) || self.process.as_ref().is_some_and(PidFd::is_dead)
    }
}

/// Whoever waits in a client's name, as the monitor knows it: nothing of the client's ends with
/// this.
#[derive(Debug, Default)]
pub(super) struct SessionWaiter {
    /// Set when the client has gone; who waits looks at it. Nothing else is read on its account.
    pub(super) is_gone: AtomicBool,
    pub(super) thread: OnceLock<Thread>,
}

impl SessionWaiter {
    /// The client has gone: a wait in its name ends.
    pub(super) fn hang_up(&self) {
        self.is_gone.store(true, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}
