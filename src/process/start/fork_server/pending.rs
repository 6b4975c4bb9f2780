//! `PendingServer`: a process that was invited to become a fork server, before it is one.

use super::{protocol::GREETING, server::ForkServerProcess};
use crate::shm;
use crate::sys::{child, fd, pidfd::PidFd, socket, threads};
use std::{io, os::fd::OwnedFd};

/// A process that was invited to become a fork server.
pub(crate) struct PendingServer {
    control: OwnedFd,
    owner: OwnedFd,
}

/// A function that closes every descriptor except those it receives.
pub(crate) type KeepOnly = fn(Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>>;

/// Receives the greeting and the owner's pidfd from the socket of an invitation. Returns `None` if
/// the greeting is not for a server, or if the pidfd is missing.
pub(crate) fn accept_invitation(control: OwnedFd) -> Option<PendingServer> {
    let mut greeting = [0; GREETING.len() + 1];
    let (len, mut passed) = socket::try_receive(&control, &mut greeting).ok()?;
    let owner = passed.pop().filter(|_| greeting[..len] == *GREETING);
    if owner.is_none() {
        // If this fails, the owner sees the end of the socket instead.
        let _ = socket::try_send(
            &control,
            b"the copy of the program has too many open descriptors",
            &[],
        );
    }
    Some(PendingServer {
        control,
        owner: owner?,
    })
}

/// Whether this process can be forked. If not, tells the owner what constructors of the program did
/// to prevent it.
pub(super) fn can_be_copied(control: &OwnedFd) -> io::Result<bool> {
    let Some(obstacle) = obstacle()? else {
        return Ok(true);
    };
    let reason = format!("a constructor of the program has {obstacle}");
    socket::send(control, reason.as_bytes(), &[])?;
    Ok(false)
}

/// Returns what a constructor did that prevents forking. Children of a process with threads inherit
/// the locks of the other threads. Children of a process with guards share the references.
fn obstacle() -> io::Result<Option<String>> {
    if threads::count()? != 1 {
        return Ok(Some("started a thread".to_owned()));
    }
    let guards = shm::guards();
    Ok(guards.map(|guards| format!("leaked {guards}")))
}

impl PendingServer {
    /// Closes every other descriptor with `keep_only` and makes this process a subreaper. Fails if
    /// this process cannot be forked.
    pub(crate) fn claim_process(self, keep_only: KeepOnly) -> io::Result<ForkServerProcess> {
        if !can_be_copied(&self.control)? {
            return Err(io::ErrorKind::Unsupported.into());
        }
        fd::fill_stdio()?;
        let mut kept = keep_only(vec![self.control, self.owner])?;
        let owner = PidFd::from_fd(kept.pop().expect("two were kept"));
        let control = kept.pop().expect("two were kept");
        child::set_name("procpool-server");
        child::become_subreaper()?;
        Ok(ForkServerProcess::new(control, owner, false))
    }
}
