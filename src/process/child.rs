//! A started child, whatever its function returns: waited for, signalled, and asked how it ended.

use super::{
    method::StartMethod,
    outcome::{Left, Outcome},
    start::{Child, ExitRecord},
    status::ExitStatus,
};
use crate::error::{Error, Result};
use crate::sys::{
    child::{PidFd, WaitStatus},
    pid, pipe, poll, socket,
};
use parking_lot::Mutex;
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// How long the record of a dead child's end is waited for: the fork server needs a slice of a busy machine to reap.
const STATUS_LIMIT: Duration = Duration::from_secs(1);

/// How long a daemon may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

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
    /// Where the fork server reports its end.
    report: OwnedFd,
    pub(super) outcome: Outcome,
    /// The socket with the handles in its result.
    handles: OwnedFd,
    status: Mutex<Option<ExitStatus>>,
}

impl ChildProcess {
    pub(super) fn new(
        name: String,
        (is_daemon, method): (bool, StartMethod),
        child: Child,
        report: OwnedFd,
        outcome: Outcome,
        handles: OwnedFd,
    ) -> Self {
        Self {
            owner: pid::current(),
            name,
            pid: child.pid,
            is_daemon,
            method,
            pidfd: child.pidfd,
            report,
            outcome,
            handles,
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
        poll::readable(&self.pidfd, limit)
            .map_err(|it| Error::io("failed to wait for a process", it))
    }

    pub(super) fn terminate(&self) {
        self.pidfd.terminate();
    }

    pub(super) fn kill(&self) {
        self.pidfd.kill();
    }

    /// How it ended, when it has; the first call takes its status.
    pub(super) fn status(&self) -> ExitStatus {
        let mut status = self.status.lock();
        *status.get_or_insert_with(|| ExitStatus(self.take_status()))
    }

    fn take_status(&self) -> Option<WaitStatus> {
        let taken = match self.method {
            // The one who started it would miss what is taken here.
            _ if self.is_foreign() => None,
            StartMethod::Fork => self.pidfd.take_status(),
            StartMethod::ForkServer | StartMethod::Spawn => self.read_record(),
        };
        taken
            .or_else(|| self.pidfd.status_after_reaping())
            .or_else(|| match self.outcome.look() {
                // It was on its way out, with the code that follows from what it left.
                Left::Value => Some(WaitStatus::of_code(0)),
                Left::Fault(_) | Left::Nothing => None,
            })
    }

    /// Reads the fork server's record, for which a dead child's parent may have to wait a moment.
    fn read_record(&self) -> Option<WaitStatus> {
        let deadline = Instant::now() + STATUS_LIMIT;
        let mut bytes = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !poll::readable(&self.report, Some(left)).ok()? {
                return None;
            }
            let mut part = [0; 64];
            let count = pipe::read(&self.report, &mut part).ok()?;
            bytes.extend_from_slice(&part[..count]);
            match ExitRecord::find(&bytes) {
                Some(ExitRecord(status)) => return Some(status),
                None if count == 0 => return None,
                None => {}
            }
        }
    }

    /// Takes the handles in its result.
    pub(super) fn take_handles(&self) -> io::Result<Vec<OwnedFd>> {
        let mut fds = Vec::new();
        loop {
            match socket::try_receive(&self.handles, &mut [0]) {
                Ok((0, _)) => return Ok(fds),
                Ok((_, received)) => fds.extend(received),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(fds),
                Err(error) => return Err(error),
            }
        }
    }

    /// What dropping its handle does: a daemon is stopped, any other waited for.
    pub(super) fn finish(&self) {
        if self.is_daemon {
            self.terminate();
            // A failed wait is as good as one that was too long.
            if !self.wait(Some(Instant::now() + GRACE)).unwrap_or(false) {
                self.kill();
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
