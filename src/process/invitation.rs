//! The invitation: an environment variable that names a socket. A copy of the program that finds it
//! becomes the fork server or an executed child.
//!
//! `PROCPOOL_FORK_SERVER=<copy of this crate>:<inviter's process id>:<descriptor>`. A process that
//! finds a variable for its copy of the crate decides as follows. The first row that applies
//! counts.
//!
//! | condition | the process is | action |
//! |---|---|---|
//! | it runs under `AT_SECURE` | a program with more rights than its caller | continues without reading the variable |
//! | the descriptor is a socket with our greeting, created by its parent or itself, of the same user | a copy | follows the invitation |
//! | the inviter is its parent or itself | a copy that has lost its socket | exits |
//! | the socket has our greeting, and the inviter has exited | a copy that has lost its inviter | exits |
//! | otherwise | a program that inherited the variable by accident | continues |
//!
//! A copy never runs the program's `main`: the program would run a second time. A copy does not
//! invite other processes before it is ready: a constructor that builds a pool would start an
//! endless chain of processes.

use crate::sys::{child, environment, fd, pidfd::PidFd, socket};
use std::{
    ffi::OsString,
    os::fd::{BorrowedFd, OwnedFd},
};

/// The name of the variable.
pub(super) const VARIABLE: &str = "PROCPOOL_FORK_SERVER";

/// The first bytes in the socket of every invitation.
const GREETING: &[u8] = b"procpool ";

/// The result of reading the variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Invitation {
    /// This process is a copy of the program, and this descriptor is its socket.
    Socket(i32),
    /// This process is a copy of the program without a socket or an inviter.
    Orphaned,
    /// This process is not a copy: the variable leaked.
    Leaked,
}

impl Invitation {
    /// Reads the variable for this copy of the crate; `None` if it is not set for it.
    pub(super) fn find(copy: &str) -> Option<Self> {
        let value = environment::trusted(VARIABLE)?;
        let (rest, socket) = value.to_str()?.rsplit_once(':')?;
        let (named, inviter) = rest.rsplit_once(':')?;
        let inviter = inviter.parse().ok().filter(|_| named == copy)?;
        let socket = socket.parse().ok();
        let socket = socket.filter(|socket| fd::is_open(*socket, has_greeting));
        Some(match socket {
            Some(socket) if fd::is_open(socket, is_from_inviter) => Self::Socket(socket),
            _ if is_parent_or_self(inviter) => Self::Orphaned,
            Some(_) if !is_running(inviter) => Self::Orphaned,
            _ => Self::Leaked,
        })
    }
}

/// Returns the value of [`VARIABLE`] that invites a copy of the crate to a socket.
pub(super) fn value_for(copy: &str, socket: i32) -> OsString {
    format!("{copy}:{}:{socket}", std::process::id()).into()
}

/// Takes over the socket of [`Invitation::Socket`]; `None` if it does not contain a greeting.
pub(super) fn claim_socket(socket: i32) -> Option<OwnedFd> {
    fd::inherited(socket, has_greeting)
}

fn has_greeting(socket: BorrowedFd<'_>) -> bool {
    socket::begins_with(socket, GREETING)
}

/// Whether this process or its parent created the socket. In a new pid namespace, both the parent
/// and the creator appear as 0.
fn is_from_inviter(socket: BorrowedFd<'_>) -> bool {
    let maker = socket::maker(socket);
    maker.is_ok_and(|(pid, user)| is_parent_or_self(pid) && user == child::effective_user())
}

/// An executed child invited itself: it was a fork of its parent before.
fn is_parent_or_self(pid: u32) -> bool {
    pid == child::parent() || pid == std::process::id()
}

fn is_running(pid: u32) -> bool {
    PidFd::open(pid).is_ok_and(|process| !process.is_dead())
}
