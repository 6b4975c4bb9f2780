//! A child that executes the program again: the same bootstrap as the fork server's, then straight to its main function.
//!
//! The forked child puts what it was given into a socket, and the new image of the program finds it there.

use crate::process::{
    entry,
    function::{self, ChildMain, Given, Location},
    start::{MOST_BESIDE, Request, server::KeepOnly},
};
use crate::sys::{child, fd, socket, threads};
use std::{
    convert::Infallible,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

/// What lies in the socket before the location of the main function.
const GREETING: &[u8] = b"procpool process 1";

/// Executes the program again in this process, which finds there what it is given; returns only if that fails.
pub(super) fn execute(request: Request, given: &Given) -> io::Result<Infallible> {
    let (ours, theirs) = socket::pair()?;
    let message = [GREETING, &request.main.to_bytes(), &given.bytes].concat();
    let fds: Vec<_> = given.fds.iter().map(AsFd::as_fd).collect();
    // What was sent can be received when this end is closed.
    socket::send(&ours, &message, &fds)?;
    if let (Some(mark), false) = (given.fds.last(), request.flags.is_daemon) {
        // The one in the socket marks nothing. The new image closes this one when it has that.
        fd::keep_over_exec(mark)?;
    }
    let (name, value) = entry::invitation(theirs.as_raw_fd());
    child::execute_self(name, &value, theirs.as_fd())
}

/// A new image of the program that has found its invitation.
pub(crate) struct Executed {
    main: Location,
    given: Given,
}

/// Whether an invitation is for an executed child.
pub(crate) fn is_for(control: &OwnedFd) -> bool {
    socket::begins_with(control, GREETING)
}

/// Takes what lies in the socket of an invitation. `None` if it cannot be taken.
pub(crate) fn accept(control: OwnedFd) -> Option<Executed> {
    let mut message = vec![0; GREETING.len() + Location::SIZE + MOST_BESIDE];
    let (length, fds) = socket::try_receive(&control, &mut message).ok()?;
    message.truncate(length);
    let (main, bytes) = message.get(GREETING.len()..)?.split_first_chunk()?;
    let (main, bytes) = (Location::from_bytes(main), bytes.to_vec());
    let given = Given { fds, bytes };
    Some(Executed { main, given })
}

impl Executed {
    /// Has `keep_only` close every other descriptor, if this process has one thread.
    pub(crate) fn claim_process(&mut self, keep_only: KeepOnly) -> io::Result<()> {
        if threads::count()? != 1 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        fd::fill_stdio()?;
        self.given.fds = keep_only(std::mem::take(&mut self.given.fds))?;
        Ok(())
    }

    /// The main function, and what it is given.
    pub(crate) fn into_parts(self) -> io::Result<(ChildMain, Given)> {
        let main = function::resolve_main(self.main).map_err(io::Error::other)?;
        Ok((main, self.given))
    }
}
