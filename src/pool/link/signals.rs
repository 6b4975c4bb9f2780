//! Signals to a worker, which this process may be refused to send.

use super::Link;
use crate::sys::{child::PidFd, signal};
use std::{io, sync::Arc};

/// Whether the pool can end a worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// As far as is known, this process may signal it.
    Direct,
    /// This process was refused to send this signal; the background thread passes it on.
    Refused(i32),
    /// No process of the pool may end it, for this reason: the worker counts as dead. Set by the
    /// background thread, for good.
    Lost(String),
}

/// A signal that this process was refused to send to a worker.
pub(in crate::pool) struct Refused {
    pub(in crate::pool) pid: u32,
    pub(in crate::pool) pidfd: Arc<PidFd>,
    pub(in crate::pool) signal: i32,
}

impl Link {
    /// Sends SIGTERM, which the worker knows for the pool's: one that comes from outside does not
    /// end it.
    pub(in crate::pool) fn terminate(&mut self) {
        self.page.tell_to_end();
        self.send(signal::TERMINATE);
    }

    /// Sends SIGKILL.
    pub(in crate::pool) fn kill(&mut self) {
        self.send(signal::KILL);
    }

    fn send(&mut self, signal: i32) {
        if self.lost().is_none() && self.pidfd.send(signal).is_err() {
            self.reach = Reach::Refused(signal);
        }
    }

    /// Whether a signal was refused that has yet to be sent by another process.
    pub(in crate::pool) fn is_refused(&self) -> bool {
        matches!(self.reach, Reach::Refused(_))
    }

    /// Takes the signal that was refused, with what its sender needs to know.
    pub(in crate::pool) fn take_refused(&mut self) -> Option<Refused> {
        let Reach::Refused(signal) = self.reach else {
            return None;
        };
        self.reach = Reach::Direct;
        Some(Refused {
            pid: self.pid,
            pidfd: Arc::clone(&self.pidfd),
            signal,
        })
    }

    /// Gives up a worker that no process of the pool can end: it counts as dead.
    pub(in crate::pool) fn lose(&mut self, reason: &io::Error) {
        let pid = self.pid;
        self.reach = Reach::Lost(format!(
            "worker {pid} cannot be stopped, and is left alone: {reason}"
        ));
    }

    /// Returns why the pool cannot end it, if that is so.
    pub(in crate::pool) fn lost(&self) -> Option<&str> {
        match &self.reach {
            Reach::Lost(reason) => Some(reason),
            _ => None,
        }
    }
}
