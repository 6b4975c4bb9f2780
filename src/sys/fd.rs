//! Descriptors: where they may lie, and closing all but some.

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// The first number that is not standard input, output or error.
pub(crate) const FIRST: RawFd = 3;

/// Moves a descriptor away from 0, 1 and 2, which a program that closed them will hand out again.
pub(crate) fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() >= FIRST {
        return Ok(fd);
    }
    let moved = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(FIRST))?;
    // SAFETY: fcntl has just returned this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

/// Takes over a descriptor that this process was started with, if it is ours: if `is_ours` says so of what it looks at.
/// Another's stays as it is.
pub(crate) fn inherited(
    number: RawFd,
    is_ours: impl Fn(BorrowedFd<'_>) -> bool,
) -> Option<OwnedFd> {
    if number < FIRST {
        return None;
    }
    // SAFETY: fcntl takes plain numbers.
    cvt(unsafe { libc::fcntl(number, libc::F_GETFD) }).ok()?;
    // SAFETY: it is open, as was just seen. Only a copy of the program that was just started has an invitation that names
    // it, and nothing in that has run which would close it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if !is_ours(borrowed) {
        return None;
    }
    // SAFETY: it was made for this process to take over, as `is_ours` has found.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    Some(owned)
}

/// Makes reads and writes through this descriptor, and every copy of it, fail instead of block.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Opens `/dev/null` in the place of whichever of 0, 1 and 2 is closed, so that nothing else lands there.
pub(crate) fn fill_stdio() -> io::Result<()> {
    loop {
        let null = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        if null.as_raw_fd() >= FIRST {
            return Ok(());
        }
        // Opening takes the lowest free number, which is the hole; it stays open for ever.
        std::mem::forget(null);
    }
}

/// Closes every descriptor of this process from `FIRST` up but `kept`, which move to `FIRST` and on in their order.
///
/// The caller must be the only user of those descriptors: a process just started or forked.
pub(crate) fn keep_only(kept: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    let count = RawFd::try_from(kept.len()).expect("a few descriptors");
    // First beyond the places they go to, so that no move overwrites one that has yet to move.
    let away = kept
        .iter()
        .map(|fd| fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(FIRST + count)))
        .collect::<Result<Vec<RawFd>, _>>()?;
    std::mem::forget(kept);
    for (place, fd) in (FIRST..).zip(&away) {
        // SAFETY: dup3 takes plain numbers; both are valid, and what lay at `place` belongs to nobody, says the caller.
        cvt(unsafe { libc::dup3(*fd, place, libc::O_CLOEXEC) })?;
    }
    close_from(FIRST + count)?;
    // SAFETY: the numbers were made just now, each once, and nothing else owns them.
    Ok((FIRST..FIRST + count)
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
        .collect())
}

/// Closes every descriptor from `first` up. The caller must know that nobody uses them.
fn close_from(first: RawFd) -> io::Result<()> {
    let first = u32::try_from(first).expect("a descriptor is not negative");
    // SAFETY: close_range takes plain numbers; nobody uses what it closes, says the caller.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if closed == 0 {
        return Ok(());
    }
    // Linux before 5.9, or a sandbox that does not know the call.
    for entry in std::fs::read_dir("/proc/self/fd")?
        .flatten()
        .collect::<Vec<_>>()
    {
        let number = entry
            .file_name()
            .to_str()
            .and_then(|it| it.parse::<u32>().ok());
        if let Some(fd) = number.filter(|fd| *fd >= first) {
            // SAFETY: close takes a plain number; nobody uses it, says the caller.
            unsafe { libc::close(fd.cast_signed()) };
        }
    }
    Ok(())
}

/// -1 and errno as a `Result`.
pub(super) fn cvt(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(returned)
}

/// Calls again whenever a signal interrupted.
pub(super) fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(nix::Error::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}
