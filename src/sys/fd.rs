//! Descriptors: their numbers, and closing all except some.

use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd,
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// The first number after standard input, output and error.
pub(crate) const FIRST_AFTER_STDIO: RawFd = 3;

/// The lowest number for the descriptors that a process keeps for itself. The kernel's table then
/// has 256 slots; every fork, closed range and exit visits all slots.
const HIGH: u64 = 240;

/// Moves a descriptor away from 0, 1 and 2: a program that closed these will reuse the numbers.
pub(crate) fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    moved_up(fd, FIRST_AFTER_STDIO)
}

/// Moves a descriptor to the first free number from `least` up, unless it is already there.
fn moved_up(fd: OwnedFd, least: RawFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() >= least {
        return Ok(fd);
    }
    let moved = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(least))?;
    // SAFETY: fcntl has just returned this descriptor, which has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

/// Raises the limit of open descriptors to the maximum.
pub(crate) fn allow_many() {
    // After a failure the limit stays as it was.
    let _ = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
}

/// Whether an inherited descriptor above standard error is open and satisfies `is_ours`.
pub(crate) fn is_open(number: RawFd, is_ours: impl Fn(BorrowedFd<'_>) -> bool) -> bool {
    // SAFETY: fcntl takes plain numbers.
    if number < FIRST_AFTER_STDIO || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return false;
    }
    // SAFETY: it is open, as was just seen, and is only inspected. If another thread closes it
    // meanwhile, the inspection fails or concerns another descriptor.
    is_ours(unsafe { BorrowedFd::borrow_raw(number) })
}

/// Takes ownership of an inherited descriptor if it satisfies `is_ours`. Leaves it unchanged
/// otherwise.
pub(crate) fn inherited(
    number: RawFd,
    is_ours: impl Fn(BorrowedFd<'_>) -> bool,
) -> Option<OwnedFd> {
    if !is_open(number, is_ours) {
        return None;
    }
    // SAFETY: the descriptor was passed for this process to own, as `is_ours` has checked.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    Some(owned)
}

/// Keeps a descriptor open when this process executes a program.
pub(crate) fn keep_over_exec(fd: impl AsFd) -> io::Result<()> {
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// Makes reads and writes through this descriptor and all its copies fail instead of block.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Opens `/dev/null` for each of 0, 1 and 2 that is closed, so that no other file gets these
/// numbers.
pub(crate) fn fill_stdio() -> io::Result<()> {
    loop {
        let null = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        if null.as_raw_fd() >= FIRST_AFTER_STDIO {
            return Ok(());
        }
        // Opening takes the lowest free number, which is the missing one. It stays open forever.
        std::mem::forget(null);
    }
}

/// A standard stream of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stdio {
    Input,
    Output,
    Error,
}

/// Redirects a standard stream of this process to `/dev/null`.
pub(crate) fn redirect_to_null(stream: Stdio) -> io::Result<()> {
    let mut options = std::fs::File::options();
    let null = options.read(true).write(true).open("/dev/null")?;
    match stream {
        Stdio::Input => unistd::dup2_stdin(null)?,
        Stdio::Output => unistd::dup2_stdout(null)?,
        Stdio::Error => unistd::dup2_stderr(null)?,
    }
    Ok(())
}

/// Closes every descriptor of this process from `FIRST_AFTER_STDIO` up except `kept`, which are
/// moved to high numbers in their order.
///
/// The program's code knows low numbers and will get them again. For example, a `static` may still
/// name a descriptor that was closed here, and must not refer to one of this crate.
///
/// # Safety
///
/// No code may use the other descriptors: the process was just started or forked, has one thread,
/// and runs no code that owns a descriptor unless it tolerates finding it closed.
pub(crate) unsafe fn keep_only(kept: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    let mut numbers: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    numbers.sort_unstable();
    let mut next = FIRST_AFTER_STDIO;
    for number in numbers {
        // SAFETY: these are not kept, and the others are unused, by the caller's contract.
        unsafe { close_between(next, number - 1) }?;
        next = number + 1;
    }
    // SAFETY: as above.
    unsafe { close_between(next, RawFd::MAX) }?;
    let least = high(kept.len())?;
    kept.into_iter().map(|fd| moved_up(fd, least)).collect()
}

/// Returns the first number for `count` descriptors of a process that has no others: `HIGH`, or the
/// nearest to it within the limit of this process. Descriptors that are already there stay.
fn high(count: usize) -> io::Result<RawFd> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let least = HIGH.min(limit.saturating_sub(count as u64));
    Ok(FIRST_AFTER_STDIO.max(least as RawFd))
}

/// Closes every descriptor from `first` to `last`.
///
/// # Safety
///
/// These descriptors must be unused.
unsafe fn close_between(first: RawFd, last: RawFd) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: close_range takes plain numbers; the descriptors are unused, by the caller's
    // contract.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if closed == 0 {
        return Ok(());
    }
    // Linux before 5.9, or a sandbox that does not know the call.
    for number in open_numbers()? {
        if (first..=last).contains(&number) {
            // SAFETY: close takes a plain number; the descriptor is unused, by the caller's
            // contract.
            unsafe { libc::close(number) };
        }
    }
    Ok(())
}

/// Returns the open descriptors, including the descriptor that lists them.
fn open_numbers() -> io::Result<Vec<RawFd>> {
    let entries = std::fs::read_dir("/proc/self/fd")?.flatten();
    let number = |it: std::fs::DirEntry| it.file_name().to_str()?.parse().ok();
    Ok(entries.filter_map(number).collect())
}

/// Converts a return value of -1 to errno as a `Result`.
pub(super) fn cvt(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(returned)
}

/// Repeats a call that a signal interrupted.
pub(super) fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(nix::Error::EINTR) => {}
            other => return other.map_err(io::Error::from),
        }
    }
}

/// Lets a system call append to a vector, which must have the capacity for `most` more bytes.
/// Memory that is overwritten anyway need not be zeroed first.
pub(super) fn append(
    into: &mut Vec<u8>,
    most: usize,
    mut call: impl FnMut(*mut libc::c_void, usize) -> libc::ssize_t,
) -> io::Result<usize> {
    let spare = into.spare_capacity_mut();
    assert!(most <= spare.len(), "no room for what is to be read");
    let start = spare.as_mut_ptr().cast();
    let count = retry(|| nix::errno::Errno::result(call(start, most)))?.cast_unsigned();
    // SAFETY: the system has written `count` bytes there, at most `most`.
    unsafe { into.set_len(into.len() + count) };
    Ok(count)
}
