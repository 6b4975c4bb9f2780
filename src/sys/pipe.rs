//! Pipes, and reading and writing them.

use super::fd::{above_stdio, append, retry, set_nonblocking};
use nix::fcntl::OFlag;
use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

/// Bytes; what is written at once and not longer is never mixed with what others write (pipe(7)).
pub(crate) const ATOMIC: usize = libc::PIPE_BUF;

/// A pipe: the end that reads and the end that writes.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    Ok((above_stdio(reader)?, above_stdio(writer)?))
}

/// A pipe whose end that reads never blocks.
pub(crate) fn polled() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe()?;
    set_nonblocking(&reader)?;
    Ok((reader, writer))
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

/// As [`read`], behind the end of a vector, which must have the capacity for `most` more bytes.
pub(crate) fn read_append(fd: impl AsFd, into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    append(into, most, |start, length| {
        // SAFETY: `append` names spare capacity of a vector.
        unsafe { libc::read(fd, start, length) }
    })
}

/// As [`write`], of two parts, which go together where they are no longer than [`ATOMIC`].
pub(crate) fn write_parts(fd: impl AsFd, parts: [&[u8]; 2]) -> io::Result<usize> {
    let parts = parts.map(IoSlice::new);
    retry(|| nix::sys::uio::writev(&fd, &parts))
}
