//! Pipes, and reading and writing them.

use super::fd::{above_stdio, retry};
use nix::fcntl::OFlag;
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

/// A pipe: the end that reads and the end that writes.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    Ok((above_stdio(reader)?, above_stdio(writer)?))
}

/// Makes room in a pipe for about `bytes`, where the system allows that.
pub(crate) fn enlarge(fd: impl AsFd, bytes: libc::c_int) {
    // Refused when the user's pipes hold too much already; then it stays as it is.
    let _ = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETPIPE_SZ(bytes));
}

/// Reads what is there, at least one byte; 0 at the end of file.
pub(crate) fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    retry(|| nix::unistd::read(&fd, buffer))
}

/// Writes as much as there is room for, at least one byte.
pub(crate) fn write(fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    retry(|| nix::unistd::write(&fd, bytes))
}
