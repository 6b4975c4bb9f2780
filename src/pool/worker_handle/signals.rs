//! Signals to a worker, which this process may be refused to send.

use crate::pool::worker_handle::{WorkerHandle, io::WorkerIo};
use crate::sys::{pidfd::PidFd, signal};
use std::{io, sync::Arc};

/// Whether the pool can end a worker.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SignalAccess {
    /// As far as is known, this process may signal it.
    Direct,
    /// This process was refused to send this signal; the background thread passes it on.
    Refused(i32),
    /// No process of the pool may end it, for this reason: the worker counts as dead. Set by the
    /// background thread, for good.
    Lost(String),
}

/// A signal that this process was refused to send to a worker.
pub(crate) struct RefusedSignal {
    pub(crate) pid: u32,
    pub(crate) pidfd: Arc<PidFd>,
    pub(crate) signal: i32,
}

impl<Io: WorkerIo> WorkerHandle<Io> {
    /// Sends SIGTERM, which the worker knows for the pool's: one that comes from outside does not
    /// end it.
    pub(crate) fn terminate(&mut self) {
        self.page.announce_sigterm();
        self.send(signal::TERMINATE);
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.send(signal::KILL);
    }

    fn send(&mut self, signal: i32) {
        if self.lost_reason().is_none() && self.io.send_signal(signal).is_err() {
            self.signal_access = SignalAccess::Refused(signal);
        }
    }

    /// Whether a signal was refused that has yet to be sent by another process.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.signal_access, SignalAccess::Refused(_))
    }
}

impl WorkerHandle {
    /// Takes the signal that was refused, with what its sender needs to know.
    pub(crate) fn take_refused(&mut self) -> Option<RefusedSignal> {
        let SignalAccess::Refused(signal) = self.signal_access else {
            return None;
        };
        self.signal_access = SignalAccess::Direct;
        Some(RefusedSignal {
            pid: self.pid,
            pidfd: Arc::clone(&self.io.pidfd),
            signal,
        })
    }
}

impl<Io: WorkerIo> WorkerHandle<Io> {
    /// Gives up a worker that no process of the pool can end: it counts as dead.
    pub(crate) fn set_lost(&mut self, reason: &io::Error) {
        let pid = self.pid;
        self.signal_access = SignalAccess::Lost(format!(
            "worker {pid} cannot be stopped, and is left alone: {reason}"
        ));
    }

    /// Returns why the pool cannot end it, if that is so.
    pub(crate) fn lost_reason(&self) -> Option<&str> {
        match &self.signal_access {
            SignalAccess::Lost(reason) => Some(reason),
            _ => None,
        }
    }
}
