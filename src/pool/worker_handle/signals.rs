//! Signals to a worker. The system may refuse to let this process send them.

use crate::pool::worker_handle::{WorkerHandle, io::WorkerIo};
use crate::sys::{pidfd::PidFd, signal};
use std::{io, sync::Arc};

/// Whether the pool can end a worker.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SignalAccess {
    /// This process may signal the worker: no signal was refused yet.
    Direct,
    /// The system refused this signal; the background thread forwards it.
    Refused(i32),
    /// No process of the pool may signal the worker, for this reason: it counts as dead. Set by the
    /// background thread; final.
    Lost(String),
}

/// A signal that this process was refused to send to a worker.
pub(crate) struct RefusedSignal {
    pub(crate) pid: u32,
    pub(crate) pidfd: Arc<PidFd>,
    pub(crate) signal: i32,
}

impl<Io: WorkerIo> WorkerHandle<Io> {
    /// Sends SIGTERM, and marks it as the pool's. A SIGTERM from outside does not end a worker.
    pub(crate) fn terminate(&mut self) {
        // Stored before the signal is sent: the handler reads it, and ignores a SIGTERM from
        // outside.
        self.region.announce_sigterm();
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

    /// Whether a refused signal waits for another process to send it.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.signal_access, SignalAccess::Refused(_))
    }
}

impl WorkerHandle {
    /// Takes the refused signal, with the pid and pidfd that its sender needs.
    pub(crate) fn take_refused(&mut self) -> Option<RefusedSignal> {
        let SignalAccess::Refused(signal) = self.signal_access else {
            return None;
        };
        // 1. The background thread forwards this signal, without the lock.
        // 2. Another signal is refused.
        // 3. It is kept here, and forwarded next.
        self.signal_access = SignalAccess::Direct;
        Some(RefusedSignal {
            pid: self.pid,
            pidfd: Arc::clone(&self.io.pidfd),
            signal,
        })
    }
}

impl<Io: WorkerIo> WorkerHandle<Io> {
    /// Marks the worker as lost: no process of the pool can end it, and it counts as dead.
    pub(crate) fn set_lost(&mut self, reason: &io::Error) {
        let pid = self.pid;
        self.signal_access = SignalAccess::Lost(format!(
            "worker {pid} cannot be stopped, and is left alone: {reason}"
        ));
    }

    /// Returns why the pool cannot end the worker, if it cannot.
    pub(crate) fn lost_reason(&self) -> Option<&str> {
        match &self.signal_access {
            SignalAccess::Lost(reason) => Some(reason),
            _ => None,
        }
    }
}
