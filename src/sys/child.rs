//! Processes: forking, watching, signalling and reaping children.

use super::{
    coverage,
    fd::{above_stdio, cvt, retry},
    named,
    pidfd::WaitStatus,
    procfs, signal, threads,
};
use nix::{
    sys::{
        memfd::{MFdFlags, memfd_create},
        prctl,
        signal::Signal,
    },
    unistd::Pid,
};
use std::{
    ffi::{CStr, CString},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

/// Whether `/proc` is mounted.
pub(crate) fn has_proc() -> bool {
    std::path::Path::new("/proc/self").exists()
}

/// Which side of a fork this is.
#[derive(Debug)]
pub(crate) enum Forked {
    Child,
    Parent(u32),
}

/// Which threads a process that forks may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Threads {
    /// The one that forks: else locks may be held in the copy by threads that do not exist there.
    #[default]
    One,
    /// Any others. Only a caller of an `unsafe` method has this, who has promised that the child
    /// does not need what they hold, and uses no reference of a guard.
    Any,
}

/// Forks by libc's `fork()`: a raw `clone` would leave glibc's cached thread id stale, and robust
/// locks lost.
pub(crate) fn fork(threads: Threads) -> io::Result<Forked> {
    if threads == Threads::One && threads::count()? != 1 {
        return Err(io::Error::other(
            "another thread runs in the process to be forked",
        ));
    }
    // SAFETY: this process has one thread, so the child is a whole copy of it; or whoever allowed
    // others has promised what `Threads::Any` says.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => {
            coverage::begin_in_child();
            Ok(Forked::Child)
        }
        nix::unistd::ForkResult::Parent { child } => {
            Ok(Forked::Parent(child.as_raw().cast_unsigned()))
        }
    }
}

/// The parent's process id; it changes when the parent dies.
pub(crate) fn parent() -> u32 {
    nix::unistd::getppid().as_raw().cast_unsigned()
}

/// The user by whose rights this process acts.
pub(crate) fn effective_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Has the kernel kill this process when the *thread* that forked it ends: for children of
/// single-threaded processes.
pub(crate) fn die_with_parent() -> io::Result<()> {
    Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)
}

/// Has the kernel kill this process, which `parent` has just forked, when that ends; false if it
/// has ended already.
pub(crate) fn ends_with(parent_id: u32) -> bool {
    die_with_parent().is_ok() && parent() == parent_id
}

/// The name of a file that a process holds open which is not to be killed as a left-over.
const RUNS_ON: &CStr = c"procpool-runs-on";

/// What marks a process that is to run on when the one that started it has ended, as long as it has
/// it open.
///
/// Made before the fork: between that and its own first step, its starter may end, and whoever
/// adopts it would kill it.
pub(crate) fn run_on_mark() -> io::Result<OwnedFd> {
    above_stdio(memfd_create(RUNS_ON, MFdFlags::MFD_CLOEXEC)?)
}

/// Whether a process, or one that it was forked from, is marked so.
pub(crate) fn runs_on(pid: u32) -> bool {
    // It is missed by a look during which it is closed under one number and stays open under
    // another. That happens twice: as a new image of the program takes it over, and as it moves out
    // of the way of others.
    (0..3).any(|_| has_mark(pid))
}

fn has_mark(pid: u32) -> bool {
    let name = format!("/memfd:{} ", RUNS_ON.to_string_lossy());
    let open = procfs::folder_of(pid).and_then(|it| std::fs::read_dir(it.join("fd")));
    let mut open = open.into_iter().flatten().flatten();
    open.any(|it| {
        let target = std::fs::read_link(it.path()).unwrap_or_default();
        target.as_os_str().as_bytes().starts_with(name.as_bytes())
    })
}

/// Has orphans among this process's descendants become its own children.
pub(crate) fn become_subreaper() -> io::Result<()> {
    Ok(prctl::set_child_subreaper(true)?)
}

/// The name in `ps` and `top`, cut to 15 bytes.
pub(crate) fn set_name(name: &str) {
    if let Ok(name) = CString::new(name) {
        // It cannot fail for a valid string, and a name is no reason to stop.
        let _ = prctl::set_name(&name);
    }
}

/// Ends this process at once: no destructor, no exit handler, nothing flushed. Names of shared
/// memory that it has made go, and its coverage is written.
pub(crate) fn exit_now(code: i32) -> ! {
    named::remove_own();
    coverage::write();
    // SAFETY: _exit does not return and runs no code of this process.
    unsafe { libc::_exit(code) }
}

/// Writes out what C libraries hold in stdio buffers.
pub(crate) fn flush_c_stdio() {
    // SAFETY: fflush(NULL) is defined at any time; it locks each stream.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// Takes the status of any one child that has ended. Only for a process that is entirely ours.
pub(crate) fn reap_any() -> Option<(u32, WaitStatus)> {
    let mut status = 0;
    // SAFETY: the status is written to a local.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then(|| (pid.cast_unsigned(), WaitStatus(status)))
}

/// Kills a child of this process by its number, which cannot be another's before it is reaped.
pub(crate) fn kill_child(pid: u32) {
    // A child that has become another user's, or that a sandbox protects, ends with this process.
    let _ = signal_child(pid, signal::KILL);
}

/// Sends a signal to a child of this process by its number, as [`kill_child`] does.
pub(crate) fn signal_child(pid: u32, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: kill takes plain numbers.
    cvt(unsafe { libc::kill(pid.cast_signed(), signal) })?;
    Ok(())
}

/// Waits for a child of this process that ends, and takes its status.
pub(crate) fn reap(pid: u32) {
    // The host program may have done so.
    let _ = retry(|| nix::sys::wait::waitpid(Pid::from_raw(pid.cast_signed()), None));
}

/// Whether this process has a child of this number, which cannot become another's before it is
/// reaped.
pub(crate) fn is_child(pid: u32) -> bool {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    retry(|| waitid(Id::Pid(Pid::from_raw(pid.cast_signed())), flags)).is_ok()
}

/// Returns the living and dead children of this process, which must have one thread, or `None` if
/// `interrupted` says on the way that there is something else to do.
pub(crate) fn children(interrupted: impl FnMut() -> bool) -> io::Result<Option<Vec<u32>>> {
    // It is exact, as nobody takes a child away meanwhile: this thread alone reaps. Not every
    // kernel has it.
    let numbers = match std::fs::read_to_string("/proc/thread-self/children") {
        Ok(list) => {
            let numbers = list.split_ascii_whitespace();
            numbers.filter_map(|it| it.parse().ok()).collect()
        }
        Err(_) => match walk_for_children(interrupted)? {
            Some(numbers) => numbers,
            None => return Ok(None),
        },
    };
    let pids = numbers.into_iter().filter_map(procfs::translation());
    Ok(Some(pids.collect()))
}

/// Finds the numbers of the same in /proc by a walk through all of it, which takes a millisecond.
fn walk_for_children(mut interrupted: impl FnMut() -> bool) -> io::Result<Option<Vec<u32>>> {
    let own = procfs::own_number();
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|it| it.parse().ok()) else {
            continue;
        };
        if interrupted() {
            return Ok(None);
        }
        // A process that ends meanwhile has no file any more.
        let stat = std::fs::read(entry.path().join("stat")).unwrap_or_default();
        if own.is_some() && parent_in_stat(&stat) == own {
            children.push(pid);
        }
    }
    Ok(Some(children))
}

/// The fourth field of `/proc/*/stat`; the second is a name in brackets with anything in it.
fn parent_in_stat(stat: &[u8]) -> Option<u32> {
    let after_name = stat.iter().rposition(|it| *it == b')')?;
    let fields = std::str::from_utf8(&stat[after_name + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The working directory as a descriptor, which stays right when it is renamed or removed.
pub(crate) fn working_directory() -> io::Result<OwnedFd> {
    use nix::{
        fcntl::{OFlag, open},
        sys::stat::Mode,
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    above_stdio(open(".", flags, Mode::empty())?)
}

/// Makes `directory` the working directory.
pub(crate) fn set_working_directory(directory: impl AsFd) -> io::Result<()> {
    Ok(nix::unistd::fchdir(directory)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn children_are_found_with_and_without_a_list_of_them() {
        let list = || -> Vec<Vec<u32>> {
            let walked = walk_for_children(|| false).expect("a directory");
            // The list is of this thread's children, the walk's of all threads'.
            let listed = children(|| false).expect("a directory");
            [listed, walked].into_iter().flatten().collect()
        };
        let mut child = Command::new("sleep")
            .arg("1000")
            .spawn()
            .expect("a program");
        let while_it_runs = list();
        child.kill().expect("it runs");
        child.wait().expect("a child of this process");
        let afterwards = list();
        assert!(while_it_runs.iter().all(|it| it.contains(&child.id())));
        assert!(afterwards.iter().all(|it| !it.contains(&child.id())));
    }
}
