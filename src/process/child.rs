//! `ChildProcess`: a started child without the type of its result. Waits for it, signals it and
//! reaps it.

use super::{
    exit_status::ExitStatus,
    result_channel::ResultReceiver,
    start::{Child, fork_server::client},
    start_method::StartMethod,
};
use crate::error::{Error, Result};
use crate::sys::{
    pid,
    pidfd::{PidFd, WaitStatus},
    poll, signal,
};
use parking_lot::Mutex;
use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

/// How long to wait for the exit record of a dead child: on a busy machine the fork server needs
/// time to reap it. The wait ends at once if the server is dead.
const EXIT_RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a daemon may take to exit after SIGTERM.
const SIGTERM_GRACE: Duration = Duration::from_secs(2);

/// A process that this process started.
#[derive(Debug)]
pub(super) struct ChildProcess {
    /// The process that started the child. A fork of it must not touch the child.
    owner: u32,
    name: String,
    pid: u32,
    pub(super) is_daemon: bool,
    method: StartMethod,
    pidfd: PidFd,
    pub(super) result: ResultReceiver,
    status: Mutex<Option<ExitStatus>>,
}

impl ChildProcess {
    pub(super) fn new(
        name: String,
        (is_daemon, method): (bool, StartMethod),
        child: Child,
        result: ResultReceiver,
    ) -> Self {
        Self {
            owner: pid::current(),
            name,
            pid: child.pid,
            is_daemon,
            method,
            pidfd: child.pidfd,
            result,
            status: Mutex::new(None),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether this process is a fork of the child's parent.
    pub(super) fn is_foreign(&self) -> bool {
        pid::current() != self.owner
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.pidfd.is_dead()
    }

    /// Waits until the child has exited. Returns false if the deadline passes first.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Result<bool> {
        let limit = deadline.map(|end| end.saturating_duration_since(Instant::now()));
        poll::is_readable(&self.pidfd, limit)
            .map_err(|error| Error::io("failed to wait for a process", error))
    }

    pub(super) fn terminate(&self) -> Result<()> {
        self.signal(signal::TERMINATE)
    }

    pub(super) fn kill(&self) -> Result<()> {
        self.signal(signal::KILL)
    }

    /// Sends a signal to the child, through the fork server if this process may not.
    fn signal(&self, signal: i32) -> Result<()> {
        let sent = self.pidfd.send(signal);
        let sent = sent.or_else(|error| match self.method {
            StartMethod::Fork => Err(error),
            StartMethod::ForkServer | StartMethod::Spawn => {
                client::signal(self.pid, &self.pidfd, signal)
            }
        });
        let what = format_args!("failed to signal process {}", self.pid);
        sent.map_err(|error| Error::io(what, error))
    }

    /// Returns the exit status of a child that has exited. The first call reaps the child.
    pub(super) fn status(&self) -> ExitStatus {
        let mut status = self.status.lock();
        *status.get_or_insert_with(|| ExitStatus(self.take_status()))
    }

    fn take_status(&self) -> Option<WaitStatus> {
        // Taking the status here would lose it for the process that started the child.
        if self.is_foreign() {
            return self.pidfd.status_after_reaping();
        }
        let status = match self.method {
            StartMethod::Fork => self.pidfd.take_status(),
            // 1. The child exits, and its pidfd becomes readable. 2. This process gets here.
            // 3. The fork server reaps the child and writes the record.
            StartMethod::ForkServer | StartMethod::Spawn => {
                self.result.wait_for_exit_record(EXIT_RECORD_TIMEOUT)
            }
        };
        let status = status.or_else(|| self.pidfd.status_after_reaping());
        // The record is lost if the fork server was killed. A child that sent a value was about to
        // exit with code 0.
        status.or_else(|| self.result.has_value().then(|| WaitStatus::of_code(0)))
    }

    /// Kills and reaps a daemon that was forked from this process, which is exiting. A daemon of
    /// the fork server is stopped by the server.
    pub(super) fn kill_if_forked_daemon(&self) {
        if self.is_daemon && self.method == StartMethod::Fork {
            // A daemon that cannot be killed is left alone.
            let _ = self.pidfd.kill_and_reap();
        }
    }

    /// Stops a daemon, or waits for any other child; for the drop of its handle. A daemon that
    /// cannot be signalled is left alone.
    pub(super) fn stop_or_join(&self) {
        if self.is_daemon {
            if self.terminate().is_err() {
                return;
            }
            // If the wait fails, the daemon is killed as after a timeout.
            let has_ended = self
                .wait(Some(Instant::now() + SIGTERM_GRACE))
                .unwrap_or(false);
            if !has_ended && self.kill().is_err() {
                return;
            }
        }
        // A drop cannot report the error, and cannot do anything else.
        let _ = self.wait(None);
        self.status();
    }
}

impl AsFd for ChildProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
