//! The invitation by which a copy of the program becomes the fork server or an executed child: a
//! variable that names a socket.
//!
//! `PROCPOOL_FORK_SERVER=<copy of this crate>:<inviter's process id>:<descriptor>`. A process that
//! finds one which names its copy of the crate is
//!
//! | if | | and it |
//! |---|---|---|
//! | it runs under `AT_SECURE` | a program with more rights than its caller | goes on, and has looked at nothing |
//! | the descriptor is a socket with our greeting, made by its parent or itself, of its user | a copy | follows |
//! | else the inviter is its parent or itself | a copy that has lost its socket | ends |
//! | else the socket has our greeting, and the inviter has ended | a copy that has lost its inviter | ends |
//! | else | a program to which the variable has leaked | goes on |
//!
//! A copy never runs the program's `main`: the program would run a second time. Nor does it invite
//! others before it is ready: a constructor that builds a pool would start an endless chain of
//! processes.

use crate::sys::{
    child::{self, PidFd},
    environment, fd, socket,
};
use std::{
    ffi::OsString,
    os::fd::{BorrowedFd, OwnedFd},
};

/// The name of the variable.
pub(super) const VARIABLE: &str = "PROCPOOL_FORK_SERVER";

/// Begins what lies in the socket of every invitation.
const GREETING: &[u8] = b"procpool ";

/// What an invitation makes of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Invitation {
    /// A copy of the program, which gets its orders from this descriptor.
    Socket(i32),
    /// A copy of the program that has no orders.
    Orphaned,
    /// A program like any other.
    Leaked,
}

impl Invitation {
    /// Reads the environment for this copy of the crate; `None` if it says nothing.
    pub(super) fn find(copy: &str) -> Option<Self> {
        let value = environment::trusted(VARIABLE)?;
        let (rest, socket) = value.to_str()?.rsplit_once(':')?;
        let (named, inviter) = rest.rsplit_once(':')?;
        let inviter = inviter.parse().ok().filter(|_| named == copy)?;
        let socket = socket.parse().ok();
        let socket = socket.filter(|it| fd::is_open(*it, has_greeting));
        Some(match socket {
            Some(socket) if fd::is_open(socket, is_from_inviter) => Self::Socket(socket),
            _ if is_parent_or_self(inviter) => Self::Orphaned,
            Some(_) if !is_running(inviter) => Self::Orphaned,
            _ => Self::Leaked,
        })
    }
}

/// Returns the value of [`VARIABLE`] by which this process invites a copy of the crate to a socket.
pub(super) fn value_for(copy: &str, socket: i32) -> OsString {
    format!("{copy}:{}:{socket}", std::process::id()).into()
}

/// Takes over the socket of [`Invitation::Socket`]; `None` if it is none with a greeting.
pub(super) fn claim_socket(socket: i32) -> Option<OwnedFd> {
    fd::inherited(socket, has_greeting)
}

fn has_greeting(socket: BorrowedFd<'_>) -> bool {
    socket::begins_with(socket, GREETING)
}

/// A process of a new pid namespace finds 0 as its parent, and as the one that has made the socket.
fn is_from_inviter(socket: BorrowedFd<'_>) -> bool {
    let maker = socket::maker(socket);
    maker.is_ok_and(|(pid, user)| is_parent_or_self(pid) && user == child::effective_user())
}

/// An executed child has invited itself: it was a fork of its parent before.
fn is_parent_or_self(pid: u32) -> bool {
    pid == child::parent() || pid == std::process::id()
}

fn is_running(pid: u32) -> bool {
    PidFd::open(pid).is_ok_and(|it| !it.is_dead())
}
