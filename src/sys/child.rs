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

/// The side of a fork.
#[derive(Debug)]
pub(crate) enum Forked {
    Child,
    Parent(u32),
}

/// The threads that a forking process may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Threads {
    /// Only the forking thread. Other threads may hold locks that no thread of the copy would
    /// release.
    #[default]
    One,
    /// Any threads. Only callers of an `unsafe` method choose this. They guarantee that the child
    /// does not need resources of the other threads, and uses no reference of a guard.
    Any,
}

/// Forks with libc's `fork()`: a raw `clone` would leave glibc's cached thread id stale and lose
/// robust locks.
pub(crate) fn fork(threads: Threads) -> io::Result<Forked> {
    if threads == Threads::One && threads::count()? != 1 {
        return Err(io::Error::other(
            "the process to be forked has another thread",
        ));
    }
    // SAFETY: this process has one thread, so the child is a complete copy of it; otherwise the
    // caller guarantees the requirements of `Threads::Any`.
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

/// Returns the parent's process id. It changes when the parent dies.
pub(crate) fn parent() -> u32 {
    nix::unistd::getppid().as_raw().cast_unsigned()
}

/// Returns the effective user id of this process.
pub(crate) fn effective_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Makes the kernel kill this process when the *thread* that forked it exits: for children of
/// single-threaded processes.
pub(crate) fn die_with_parent() -> io::Result<()> {
    Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)
}

/// Makes the kernel kill this process when `parent`, which has just forked it, dies. Returns false
/// if the parent has already died.
pub(crate) fn ends_with(parent_id: u32) -> bool {
    die_with_parent().is_ok() && parent() == parent_id
}

/// The name of a file that marks the processes which have it open: the fork server does not kill
/// them as left-overs.
const RUNS_ON: &CStr = c"procpool-runs-on";

/// Creates the mark of a process that outlives its starter. It counts as long as the process has it
/// open.
///
/// It is created before the fork: if the starter exits before the child's first step, the process
/// that adopts the child would kill it.
pub(crate) fn run_on_mark() -> io::Result<OwnedFd> {
    above_stdio(memfd_create(RUNS_ON, MFdFlags::MFD_CLOEXEC)?)
}

/// Whether a process has the mark, which it may have inherited by a fork.
pub(crate) fn runs_on(pid: u32) -> bool {
    // A single check may miss the mark: 1. the check lists the descriptors; 2. the process
    // duplicates the mark to another number and closes the first; 3. the check reads the first.
    // This happens twice in a process: when its new program image takes the mark over, and when it
    // moves the mark to a high number.
    (0..3).any(|_| has_mark(pid))
}

fn has_mark(pid: u32) -> bool {
    let name = format!("/memfd:{} ", RUNS_ON.to_string_lossy());
    let open = procfs::folder_of(pid).and_then(|folder| std::fs::read_dir(folder.join("fd")));
    let mut open = open.into_iter().flatten().flatten();
    open.any(|entry| {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        target.as_os_str().as_bytes().starts_with(name.as_bytes())
    })
}

/// Makes orphaned descendants of this process its own children.
pub(crate) fn become_subreaper() -> io::Result<()> {
    Ok(prctl::set_child_subreaper(true)?)
}

/// Sets the name in `ps` and `top`, truncated to 15 bytes.
pub(crate) fn set_name(name: &str) {
    if let Ok(name) = CString::new(name) {
        // It cannot fail for a valid string, and a missing name is harmless.
        let _ = prctl::set_name(&name);
    }
}

/// Exits this process at once: runs no destructors and exit handlers, and flushes nothing. Removes
/// its names of shared memory and writes its coverage.
pub(crate) fn exit_now(code: i32) -> ! {
    named::remove_own();
    coverage::write();
    // SAFETY: _exit does not return and runs no code of this process.
    unsafe { libc::_exit(code) }
}

/// Flushes the stdio buffers of C libraries.
pub(crate) fn flush_c_stdio() {
    // SAFETY: fflush(NULL) may be called at any time; it locks each stream.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// Takes the status of any child that has ended. Only for a process that this crate owns
/// completely.
pub(crate) fn reap_any() -> Option<(u32, WaitStatus)> {
    let mut status = 0;
    // SAFETY: the status is written to a local.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then(|| (pid.cast_unsigned(), WaitStatus(status)))
}

/// Kills a child of this process by its id, which cannot be reused before the child is reaped.
pub(crate) fn kill_child(pid: u32) {
    // It fails for a child that has changed its user or that a sandbox protects. Such a child ends
    // together with this process.
    let _ = signal_child(pid, signal::KILL);
}

/// Sends a signal to a child of this process by its id, like [`kill_child`].
pub(crate) fn signal_child(pid: u32, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: kill takes plain numbers.
    cvt(unsafe { libc::kill(pid.cast_signed(), signal) })?;
    Ok(())
}

/// Waits until a child of this process ends, and takes its status.
pub(crate) fn reap(pid: u32) {
    // The host program may have reaped it.
    let _ = retry(|| nix::sys::wait::waitpid(Pid::from_raw(pid.cast_signed()), None));
}

/// Whether this process has a child with this id, which cannot be reused before the child is
/// reaped.
pub(crate) fn is_child(pid: u32) -> bool {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    retry(|| waitid(Id::Pid(Pid::from_raw(pid.cast_signed())), flags)).is_ok()
}

/// Returns the living and dead children of this process, which must have one thread. Returns `None`
/// if `interrupted` returns true during the search.
pub(crate) fn children(interrupted: impl FnMut() -> bool) -> io::Result<Option<Vec<u32>>> {
    // The list is exact because only this thread reaps children. Some kernels lack it.
    let numbers = match std::fs::read_to_string("/proc/thread-self/children") {
        Ok(list) => {
            let numbers = list.split_ascii_whitespace();
            numbers.filter_map(|number| number.parse().ok()).collect()
        }
        Err(_) => match walk_for_children(interrupted)? {
            Some(numbers) => numbers,
            None => return Ok(None),
        },
    };
    let pids = numbers.into_iter().filter_map(procfs::translation());
    Ok(Some(pids.collect()))
}

/// Finds the children's numbers in /proc by a walk through all processes, which takes a
/// millisecond.
fn walk_for_children(mut interrupted: impl FnMut() -> bool) -> io::Result<Option<Vec<u32>>> {
    let own = procfs::own_number();
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if interrupted() {
            return Ok(None);
        }
        // A process that has ended meanwhile has no file.
        let stat = std::fs::read(entry.path().join("stat")).unwrap_or_default();
        if own.is_some() && parent_in_stat(&stat) == own {
            children.push(pid);
        }
    }
    Ok(Some(children))
}

/// Returns the fourth field of `/proc/*/stat`. The second is a name in parentheses that may contain
/// any characters.
fn parent_in_stat(stat: &[u8]) -> Option<u32> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(&stat[after_name + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Returns the working directory as a descriptor, which stays valid if it is renamed or removed.
pub(crate) fn working_directory() -> io::Result<OwnedFd> {
    use nix::{
        fcntl::{OFlag, open},
        sys::stat::Mode,
    };
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    above_stdio(open(".", flags, Mode::empty())?)
}

/// Sets the working directory.
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
        assert!(
            while_it_runs
                .iter()
                .all(|found| found.contains(&child.id()))
        );
        assert!(afterwards.iter().all(|found| !found.contains(&child.id())));
    }
}
