//! Pipes, and reading and writing them.

use super::fd::{above_stdio, append, retry, set_nonblocking};
use nix::fcntl::OFlag;
use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

/// Bytes; a single write of at most this length is not interleaved with other writes (pipe(7)).
pub(crate) const ATOMIC: usize = libc::PIPE_BUF;

/// Creates a pipe: the read end and the write end.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    Ok((above_stdio(reader)?, above_stdio(writer)?))
}

/// Creates a pipe whose read end never blocks.
pub(crate) fn polled() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe()?;
    set_nonblocking(&reader)?;
    Ok((reader, writer))
}

/// Enlarges a pipe to about `bytes`, if the system allows it.
pub(crate) fn enlarge(fd: impl AsFd, bytes: libc::c_int) {
    // Refused if the user's pipes have reached their limit. The pipe then keeps its size.
    let _ = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETPIPE_SZ(bytes));
}

/// Reads the available bytes, at least one; 0 at the end of file. Blocks until there are some.
pub(crate) fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    retry(|| nix::unistd::read(&fd, buffer))
}

/// Writes as many bytes as fit, at least one.
pub(crate) fn write(fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    retry(|| nix::unistd::write(&fd, bytes))
}

/// Like [`read`], but appends to a vector, which must have the capacity for `most` more bytes.
pub(crate) fn read_append(fd: impl AsFd, into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    append(into, most, |start, length| {
        // SAFETY: `append` names spare capacity of a vector.
        unsafe { libc::read(fd, start, length) }
    })
}

/// Like [`write()`], but writes two parts. They are not interleaved with other writes if they are
/// together no longer than [`ATOMIC`].
pub(crate) fn write_parts(fd: impl AsFd, parts: [&[u8]; 2]) -> io::Result<usize> {
    let parts = parts.map(IoSlice::new);
    retry(|| nix::sys::uio::writev(&fd, &parts))
}
