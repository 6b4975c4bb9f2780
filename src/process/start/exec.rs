//! A child that executes the program again. It starts like the fork server, and then calls its main
//! function.
//!
//! The forked child writes its arguments to a socket, and the new image of the program reads them
//! from there.

use crate::process::{
    entry,
    function::{self, ChildArgs, ChildMain, CodeLocation},
    start::{MAX_INLINE_LEN, SpawnHeader, fork_server::pending::KeepOnly},
};
use crate::sys::{fd, socket, spawn, threads};
use std::{
    convert::Infallible,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

/// The start of the message in the socket; the location of the main function follows.
const GREETING: &[u8] = b"procpool process 1";

/// Executes the program again in this process. Returns only if that fails.
pub(super) fn exec(request: SpawnHeader, args: &ChildArgs) -> io::Result<Infallible> {
    let (ours, theirs) = socket::pair()?;
    let message = [GREETING, &request.main.to_bytes(), &args.bytes].concat();
    let fds: Vec<_> = args.fds.iter().map(AsFd::as_fd).collect();
    // A message that was sent can be received after this end is closed.
    socket::send(&ours, &message, &fds)?;
    if let (Some(mark), false) = (args.fds.last(), request.flags.is_daemon) {
        // A descriptor in flight does not mark the process, so this one stays open over `exec`. The
        // new image closes it after it has received the other.
        fd::keep_over_exec(mark)?;
    }
    let (name, value) = entry::invitation_variable(theirs.as_raw_fd());
    spawn::execute_self(name, &value, theirs.as_fd())
}

/// The new image of the program, before it runs its main function.
pub(crate) struct ExecedChild {
    main: CodeLocation,
    args: ChildArgs,
}

/// Whether an invitation is for an executed child, and not for a fork server.
pub(crate) fn is_invitation(control: &OwnedFd) -> bool {
    socket::begins_with(control, GREETING)
}

/// Receives the arguments from the socket of an invitation. Returns `None` if that fails.
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
    /// Closes every other descriptor with `keep_only`. Fails if this process has more than one
    /// thread.
    pub(crate) fn claim_process(&mut self, keep_only: KeepOnly) -> io::Result<()> {
        if threads::count()? != 1 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        fd::fill_stdio()?;
        self.args.fds = keep_only(std::mem::take(&mut self.args.fds))?;
        Ok(())
    }

    /// Returns the main function and its arguments.
    pub(crate) fn into_parts(self) -> io::Result<(ChildMain, ChildArgs)> {
        let main = function::resolve_main(self.main).map_err(io::Error::other)?;
        Ok((main, self.args))
    }
}
