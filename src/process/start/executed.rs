//! A child that executes the program again: the same bootstrap as the fork server's, then straight to its main function.
//!
//! The forked child puts what it was given into a socket, and the new image of the program finds it there.

use crate::process::{
    entry,
    function::{self, ChildMain, Location},
    start::server::KeepOnly,
};
use crate::sys::{child, fd, socket};
use std::{
    convert::Infallible,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

/// What lies in the socket before the location of the main function.
const GREETING: &[u8] = b"procpool process 1";

/// Executes the program again in this process, with these descriptors; returns only if that fails.
pub(super) fn execute(main: Location, passed: &[OwnedFd]) -> io::Result<Infallible> {
    let (ours, theirs) = socket::pair()?;
    let message = [GREETING, &main.to_bytes()].concat();
    let fds: Vec<_> = passed.iter().map(AsFd::as_fd).collect();
    // What was sent can be received when this end is closed.
    socket::send(&ours, &message, &fds)?;
    let value = entry::invitation(theirs.as_raw_fd());
    child::execute_self(entry::VARIABLE, &value, theirs.as_fd())
}

/// A new image of the program that has found its invitation.
pub(crate) struct Executed {
    main: Location,
    passed: Vec<OwnedFd>,
}

/// Checks an invitation: the descriptor must be a socket with our greeting in it.
pub(crate) fn accept(control: i32) -> Option<Executed> {
    let control = fd::inherited(control, |it| socket::begins_with(it, GREETING))?;
    let mut message = [0; GREETING.len() + Location::SIZE];
    let (length, passed) = socket::try_receive(&control, &mut message).ok()?;
    let main = message[GREETING.len()..].first_chunk()?;
    let main = Location::from_bytes(main);
    (length == message.len()).then_some(Executed { main, passed })
}

impl Executed {
    /// Has `keep_only` close every other descriptor, if this process has one thread.
    pub(crate) fn claim_process(&mut self, keep_only: KeepOnly) -> io::Result<()> {
        if child::thread_count()? != 1 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        fd::fill_stdio()?;
        self.passed = keep_only(std::mem::take(&mut self.passed))?;
        Ok(())
    }

    /// The main function, and what it is given.
    pub(crate) fn into_parts(self) -> io::Result<(ChildMain, Vec<OwnedFd>)> {
        let main = function::resolve_main(self.main).map_err(io::Error::other)?;
        Ok((main, self.passed))
    }
}
