//! Descriptors: where they may lie, and closing all but some.

use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd,
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// The first number that is not standard input, output or error.
pub(crate) const FIRST_AFTER_STDIO: RawFd = 3;

/// Where the descriptors go that a process keeps for itself: the kernel's table of them has 256
/// places then, and every fork, every closing of a range and every end goes through all of its
/// places.
const HIGH: u64 = 240;

/// Moves a descriptor away from 0, 1 and 2, which a program that closed them will hand out again.
pub(crate) fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    moved_up(fd, FIRST_AFTER_STDIO)
}

/// Moves a descriptor to the first free number from `least` up, unless its own is there already.
fn moved_up(fd: OwnedFd, least: RawFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() >= least {
        return Ok(fd);
    }
    let moved = fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(least))?;
    // SAFETY: fcntl has just returned this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(moved) })
}

/// Lets this process have as many descriptors open as it may ask for.
pub(crate) fn allow_many() {
    // Where it is refused, there are as many as there were.
    let _ = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
}

/// Whether a descriptor that this process was started with is open, above standard error, and what
/// `is_ours` looks for.
pub(crate) fn is_open(number: RawFd, is_ours: impl Fn(BorrowedFd<'_>) -> bool) -> bool {
    // SAFETY: fcntl takes plain numbers.
    if number < FIRST_AFTER_STDIO || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return false;
    }
    // SAFETY: it is open, as was just seen, and is only looked at. Should a thread of the program
    // close it meanwhile, the look fails, or is at another descriptor.
    is_ours(unsafe { BorrowedFd::borrow_raw(number) })
}

/// Takes over a descriptor that this process was started with, if it is ours: if `is_ours` says so
/// of what it looks at. Another's stays as it is.
pub(crate) fn inherited(
    number: RawFd,
    is_ours: impl Fn(BorrowedFd<'_>) -> bool,
) -> Option<OwnedFd> {
    if !is_open(number, is_ours) {
        return None;
    }
    // SAFETY: it was made for this process to take over, as `is_ours` has found.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    Some(owned)
}

/// Has a descriptor stay open when this process executes a program.
pub(crate) fn keep_over_exec(fd: impl AsFd) -> io::Result<()> {
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

/// Makes reads and writes through this descriptor, and every copy of it, fail instead of block.
pub(crate) fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// Opens `/dev/null` in the place of whichever of 0, 1 and 2 is closed, so that nothing else lands
/// there.
pub(crate) fn fill_stdio() -> io::Result<()> {
    loop {
        let null = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")?;
        if null.as_raw_fd() >= FIRST_AFTER_STDIO {
            return Ok(());
        }
        // Opening takes the lowest free number, which is the hole; it stays open for ever.
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

/// Puts `/dev/null` in the place of a standard stream of this process.
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

/// Closes every descriptor of this process from `FIRST_AFTER_STDIO` up but `kept`, which move out
/// of the way, in their order.
///
/// Low numbers are what the code of the host program has been given, and what it will be given
/// next: a `static` of a constructor may still name one that was closed here, and must not meet a
/// descriptor of ours there.
///
/// # Safety
///
/// Nothing may use the other descriptors any more: the process was just started or forked, has one
/// thread, and runs no code that owns one but what may find it closed.
pub(crate) unsafe fn keep_only(kept: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    let mut numbers: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    numbers.sort_unstable();
    let mut next = FIRST_AFTER_STDIO;
    for number in numbers {
        // SAFETY: none of these is kept, and nobody uses the others, says the caller.
        unsafe { close_between(next, number - 1) }?;
        next = number + 1;
    }
    // SAFETY: as above.
    unsafe { close_between(next, RawFd::MAX) }?;
    let least = high(kept.len())?;
    kept.into_iter().map(|fd| moved_up(fd, least)).collect()
}

/// Where to move so many descriptors of a process that has no others: `HIGH`, or as near as the
/// limit of this process is. Those that are there already stay, so that there is room for all.
fn high(count: usize) -> io::Result<RawFd> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let least = HIGH.min(limit.saturating_sub(count as u64));
    Ok(FIRST_AFTER_STDIO.max(least as RawFd))
}

/// Closes every descriptor from `first` to `last`.
///
/// # Safety
///
/// Nobody may use them.
unsafe fn close_between(first: RawFd, last: RawFd) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: close_range takes plain numbers; nobody uses what it closes, says the caller.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if closed == 0 {
        return Ok(());
    }
    // Linux before 5.9, or a sandbox that does not know the call.
    for number in open_numbers()? {
        if (first..=last).contains(&number) {
            // SAFETY: close takes a plain number; nobody uses it, says the caller.
            unsafe { libc::close(number) };
        }
    }
    Ok(())
}

/// The descriptors that are open, and the one by which that was found out.
fn open_numbers() -> io::Result<Vec<RawFd>> {
    let entries = std::fs::read_dir("/proc/self/fd")?.flatten();
    let number = |it: std::fs::DirEntry| it.file_name().to_str()?.parse().ok();
    Ok(entries.filter_map(number).collect())
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

/// Has a system call write behind the end of a vector, which must have the capacity for `most` more
/// bytes: memory that is written to anyway need not be zeroed before.
pub(super) fn append(
    into: &mut Vec<u8>,
    most: usize,
    mut call: impl FnMut(*mut libc::c_void, usize) -> libc::ssize_t,
) -> io::Result<usize> {
    let spare = into.spare_capacity_mut();
    assert!(most <= spare.len(), "no room for what is to be read");
    let start = spare.as_mut_ptr().cast();
    let count = retry(|| nix::errno::Errno::result(call(start, most)))?.cast_unsigned();
    // SAFETY: the system has written so many bytes there, at most as many as it was told of.
    unsafe { into.set_len(into.len() + count) };
    Ok(count)
}
