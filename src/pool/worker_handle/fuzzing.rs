//! A worker for the fuzz target of replies: the pool's end is complete, and the script has the
//! other.

use crate::pool::{
    protocol::region::SharedRegion,
    worker_handle::{
        WorkerHandle,
        checked_region::CheckedRegion,
        process_io::{Endpoints, ProcessIo},
    },
};
use crate::process::start::Child;
use crate::sys::pidfd::PidFd;
use parking_lot::Mutex;
use std::{
    os::fd::{AsFd, OwnedFd},
    process::{self, Command, Stdio},
    time::Instant,
};

/// The worker's ends, for the script.
#[derive(Debug)]
pub(crate) struct Theirs {
    pub(crate) region: SharedRegion,
    pub(crate) wake_pipe: OwnedFd,
    /// The pool's end of that pipe: without a reader, a write would end the program.
    _reader: OwnedFd,
    pub(crate) socket: OwnedFd,
}

/// Returns a process that lives until it is killed, and ends with this one.
fn living() -> Option<Child> {
    static LIVING: Mutex<Option<process::Child>> = Mutex::new(None);
    let mut living = LIVING.lock();
    if let Some(child) = living.as_mut()
        && child.try_wait().is_ok_and(|status| status.is_some())
    {
        *living = None;
    }
    let mut command = Command::new("cat");
    let command = command.stdin(Stdio::piped()).stdout(Stdio::null());
    if living.is_none() {
        *living = command.spawn().ok();
    }
    of(living.as_ref()?)
}

/// Returns a process that has ended, and is not reaped.
fn ended() -> Option<Child> {
    static ENDED: Mutex<Option<process::Child>> = Mutex::new(None);
    let mut ended = ENDED.lock();
    if ended.is_none() {
        let mut command = Command::new("cat");
        *ended = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .ok();
    }
    of(ended.as_ref()?)
}

fn of(child: &process::Child) -> Option<Child> {
    let pid = child.id();
    let pidfd = PidFd::open(pid).ok()?;
    Some(Child { pid, pidfd })
}

impl WorkerHandle {
    /// Returns a handle on a worker that the script plays. Returns `None` if the process cannot
    /// start.
    pub(crate) fn to_nobody(is_alive: bool) -> Option<(Self, Theirs)> {
        let child = if is_alive { living() } else { ended() };
        let ends = Endpoints::new().ok()?;
        let region = CheckedRegion::new().ok()?;
        let theirs = Theirs {
            region: SharedRegion::from_fd(region.as_fd().try_clone_to_owned().ok()?).ok()?,
            wake_pipe: ends.wake_writer.try_clone().ok()?,
            _reader: ends.wakeups.try_clone().ok()?,
            socket: ends.worker_socket.try_clone().ok()?,
        };
        let child = child?;
        Some((
            Self::new(child.pid, ProcessIo::new(child, ends), region),
            theirs,
        ))
    }

    /// Makes the worker count as dead.
    pub(crate) fn die(&mut self) {
        self.dead_since = Some(Instant::now());
        self.is_wake_pipe_closed = true;
    }
}
