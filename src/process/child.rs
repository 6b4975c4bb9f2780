//! A started child, whatever its function returns: waited for, signalled, and asked how it ended.

use super::{
    exit_status::ExitStatus,
    result_channel::ResultReceiver,
    start::{Child, fork_server::client},
    start_method::StartMethod,
};
use crate::error::{Error, Result};
use crate::sys::{
    child::{PidFd, WaitStatus},
    pid, poll, signal,
};
use parking_lot::Mutex;
use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

/// How long to wait for the record of a dead child's end: the fork server needs a slice of a busy
/// machine to reap. The wait ends at once if the server is gone.
const EXIT_RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a daemon may take to end after SIGTERM.
const SIGTERM_GRACE: Duration = Duration::from_secs(2);

/// A process that this one has started.
#[derive(Debug)]
pub(super) struct ChildProcess {
    /// The process that started it: a copy of that one must not touch it.
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

    /// Whether this process is a copy of the one that started the child.
    pub(super) fn is_foreign(&self) -> bool {
        pid::current() != self.owner
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.pidfd.is_dead()
    }

    /// Waits until it has ended; false if the deadline comes first.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Result<bool> {
        let limit = deadline.map(|it| it.saturating_duration_since(Instant::now()));
        poll::is_readable(&self.pidfd, limit)
            .map_err(|it| Error::io("failed to wait for a process", it))
    }

    pub(super) fn terminate(&self) -> Result<()> {
        self.signal(signal::TERMINATE)
    }

    pub(super) fn kill(&self) -> Result<()> {
        self.signal(signal::KILL)
    }

    /// Sends a signal, through the fork server where this process may not.
    fn signal(&self, signal: i32) -> Result<()> {
        let sent = self
            .pidfd
            .send(signal)
            .or_else(|refused| match self.method {
                StartMethod::Fork => Err(refused),
                StartMethod::ForkServer | StartMethod::Spawn => {
                    client::signal(self.pid, &self.pidfd, signal)
                }
            });
        sent.map_err(|it| Error::io(format_args!("failed to signal process {}", self.pid), it))
    }

    /// How it ended, when it has; the first call takes its status.
    pub(super) fn status(&self) -> ExitStatus {
        let mut status = self.status.lock();
        *status.get_or_insert_with(|| ExitStatus(self.take_status()))
    }

    fn take_status(&self) -> Option<WaitStatus> {
        // The one who started it would miss what is taken here.
        if self.is_foreign() {
            return self.pidfd.status_after_reaping();
        }
        let taken = match self.method {
            StartMethod::Fork => self.pidfd.take_status(),
            // A dead child's parent may need a moment to reap it.
            StartMethod::ForkServer | StartMethod::Spawn => {
                self.result.wait_for_exit_record(EXIT_RECORD_TIMEOUT)
            }
        };
        let taken = taken.or_else(|| self.pidfd.status_after_reaping());
        // With a value it was on its way out, with the code that follows from that.
        taken.or_else(|| self.result.has_value().then(|| WaitStatus::of_code(0)))
    }

    /// Kills a daemon that is a copy of this process, which ends now, and takes its status. One of
    /// the fork server ends with that.
    pub(super) fn kill_if_forked_daemon(&self) {
        if self.is_daemon && self.method == StartMethod::Fork {
            // One that cannot be killed is left alone.
            let _ = self.pidfd.kill_and_reap();
        }
    }

    /// What dropping its handle does: a daemon is stopped, any other waited for. A daemon that
    /// cannot be signalled is left alone.
    pub(super) fn stop_or_join(&self) {
        if self.is_daemon {
            if self.terminate().is_err() {
                return;
            }
            // A failed wait is as good as one that was too long.
            let has_ended = self
                .wait(Some(Instant::now() + SIGTERM_GRACE))
                .unwrap_or(false);
            if !has_ended && self.kill().is_err() {
                return;
            }
        }
        // There is nobody to tell that this failed, and nothing else to be done.
        let _ = self.wait(None);
        self.status();
    }
}

impl AsFd for ChildProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
