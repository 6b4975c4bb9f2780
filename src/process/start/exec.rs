//! A child that executes the program again: the same bootstrap as the fork server's, then straight
//! to its main function.
//!
//! The forked child puts what it was given into a socket, and the new image of the program finds it
//! there.

use crate::process::{
    entry,
    function::{self, ChildArgs, ChildMain, CodeLocation},
    start::{MAX_INLINE_LEN, SpawnHeader, fork_server::server::KeepOnly},
};
use crate::sys::{child, fd, socket, threads};
use std::{
    convert::Infallible,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

/// What lies in the socket before the location of the main function.
const GREETING: &[u8] = b"procpool process 1";

/// Executes the program again in this process, which finds there what it is given; returns only if
/// that fails.
pub(super) fn exec(request: SpawnHeader, args: &ChildArgs) -> io::Result<Infallible> {
    let (ours, theirs) = socket::pair()?;
    let message = [GREETING, &request.main.to_bytes(), &args.bytes].concat();
    let fds: Vec<_> = args.fds.iter().map(AsFd::as_fd).collect();
    // What was sent can be received when this end is closed.
    socket::send(&ours, &message, &fds)?;
    if let (Some(mark), false) = (args.fds.last(), request.flags.is_daemon) {
        // The one in the socket marks nothing. The new image closes this one when it has that.
        fd::keep_over_exec(mark)?;
    }
    let (name, value) = entry::invitation_variable(theirs.as_raw_fd());
    child::execute_self(name, &value, theirs.as_fd())
}

/// A new image of the program that has found its invitation.
pub(crate) struct ExecedChild {
    main: CodeLocation,
    args: ChildArgs,
}

/// Whether an invitation is for an executed child.
pub(crate) fn is_invitation(control: &OwnedFd) -> bool {
    socket::begins_with(control, GREETING)
}

/// Takes what lies in the socket of an invitation. `None` if it cannot be taken.
pub(crate) fn accept(control: OwnedFd) -> Option<ExecedChild> {
    let mut message = vec![0; GREETING.len() + CodeLocation::SIZE + MAX_INLINE_LEN];
    let (len, fds) = socket::try_receive(&control, &mut message).ok()?;
    message.truncate(len);
    let (main, bytes) = message.get(GREETING.len()..)?.split_first_chunk()?;
    let (main, bytes) = (CodeLocation::from_bytes(main), bytes.to_vec());
    let args = ChildArgs { fds, bytes };
    Some(ExecedChild { main, args })
}

impl ExecedChild {
    /// Has `keep_only` close every other descriptor, if this process has one thread.
    pub(crate) fn claim_process(&mut self, keep_only: KeepOnly) -> io::Result<()> {
        if threads::count()? != 1 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        fd::fill_stdio()?;
        self.args.fds = keep_only(std::mem::take(&mut self.args.fds))?;
        Ok(())
    }

    /// The main function, and what it is given.
    pub(crate) fn into_parts(self) -> io::Result<(ChildMain, ChildArgs)> {
        let main = function::resolve_main(self.main).map_err(io::Error::other)?;
        Ok((main, self.args))
    }
}
