//! The client of a connection: whether it is alive, and the thread that waits for it.

use crate::sys::{pidfd::PidFd, poll};
use std::{
    os::fd::OwnedFd,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::Thread,
};

/// The handles that show whether a client is alive.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) socket: OwnedFd,
    /// The process that connected, if it is on this machine. A forked copy of it may keep the
    /// socket open after its death.
    pub(super) process: Option<PidFd>,
}

impl Peer {
    pub(super) fn is_gone(&self) -> bool {
        poll::has_hung_up(&self.socket) || self.process.as_ref().is_some_and(PidFd::is_dead)
    }
}

/// A thread that waits for a client, as the monitor sees it. It owns nothing of the client.
#[derive(Debug, Default)]
pub(super) struct SessionWaiter {
    /// Set after the client has disconnected or died; a waiter reads it. It guards no other memory.
    pub(super) is_gone: AtomicBool,
    pub(super) thread: OnceLock<Thread>,
}

impl SessionWaiter {
    /// Marks the client as gone and wakes the waiter.
    pub(super) fn hang_up(&self) {
        self.is_gone.store(true, Ordering::Release);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}
