//! Processes: starting this program again, forking, watching, signalling and reaping.

use super::{
    coverage, environment,
    fd::{self, above_stdio, cvt, retry},
    named, poll, procfs, signal, threads,
};
use nix::{
    spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn},
    sys::{
        memfd::{MFdFlags, memfd_create},
        prctl,
        signal::Signal,
    },
    unistd::{Pid, execve},
};
use std::{
    convert::Infallible,
    ffi::{CStr, CString, OsStr, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    time::Duration,
};

/// How long a killed process may take to end: it waits for a core, for seconds on a busy machine.
/// The limit is for one that the kernel holds on to.
const KILLED_LIMIT: Duration = Duration::from_secs(5);

/// Starts this program's executable again with the arguments and the environment of its start, one
/// more variable, and one descriptor under its own number.
///
/// No signal is blocked in the copy except those that ask a process to end, which wait until it has
/// set its handlers. What this process ignores, the copy ignores, too.
///
/// The program is `/proc/self/exe`: the file that runs, even if another has taken its name since.
/// posix_spawn does not copy the parent's page tables, so that the start costs the same from a
/// large parent.
pub(crate) fn spawn_self(name: &str, value: &OsStr, passed: BorrowedFd<'_>) -> io::Result<u32> {
    let mut actions = PosixSpawnFileActions::init()?;
    actions.add_dup2(passed.as_raw_fd(), passed.as_raw_fd())?;
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_sigmask(&signal::ending())?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;
    let arguments: Vec<CString> = std::env::args_os().filter_map(c_string).collect();
    let environment = environment::initial_with(name, value);
    let pid = posix_spawn(
        "/proc/self/exe",
        &actions,
        &attributes,
        &arguments,
        &environment,
    )?;
    Ok(pid.as_raw().cast_unsigned())
}

/// Whether `/proc` is mounted.
pub(crate) fn has_proc() -> bool {
    std::path::Path::new("/proc/self").exists()
}

/// Executes this program's file again in this process, as [`spawn_self`] does in a new one. Returns
/// only if that fails.
pub(crate) fn execute_self(
    name: &str,
    value: &OsStr,
    passed: BorrowedFd<'_>,
) -> io::Result<Infallible> {
    fd::keep_over_exec(passed)?;
    let arguments: Vec<CString> = std::env::args_os().filter_map(c_string).collect();
    Ok(execve(
        c"/proc/self/exe",
        &arguments,
        &environment::initial_with(name, value),
    )?)
}

/// Ends a process that `spawn_self` has started with this variable and that came to nothing, and
/// takes its status.
///
/// Its number may be another's by now, where the host program reaps all of its children: none is
/// killed that was started without the variable. One that hides its environment is left alone, too.
pub(crate) fn exit_if_abandoned(pid: u32, name: &str, value: &OsStr) {
    // Opened first: what /proc shows then is the process of this pidfd, unless that one has ended
    // and nothing can hit it.
    let Ok(pidfd) = PidFd::open(pid) else { return };
    if was_started_with(pid, name, value) {
        // One that cannot be killed ends by itself: it finds that nobody holds the other end of its
        // socket.
        let _ = pidfd.send(signal::KILL);
    }
    pidfd.wait_and_reap();
}

fn was_started_with(pid: u32, name: &str, value: &OsStr) -> bool {
    let variable = [name.as_bytes(), b"=", value.as_bytes()].concat();
    // Nothing can be read of a process that has ended.
    let environment = procfs::folder_of(pid).and_then(|it| std::fs::read(it.join("environ")));
    let environment = environment.unwrap_or_default();
    environment.split(|it| *it == 0).any(|it| it == variable)
}

/// None for text with a zero byte, which no argument and no variable has.
fn c_string(text: OsString) -> Option<CString> {
    CString::new(text.into_vec()).ok()
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
    if let Some(name) = c_string(name.into()) {
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

/// How a process ended, as `wait` encodes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaitStatus(pub(crate) i32);

impl WaitStatus {
    pub(crate) fn signal(self) -> Option<i32> {
        libc::WIFSIGNALED(self.0).then(|| libc::WTERMSIG(self.0))
    }

    /// Of a process that gave this code to `exit`.
    pub(crate) fn of_code(code: i32) -> Self {
        Self((code & 0xff) << 8)
    }

    /// Of a process that was killed by this signal.
    fn of_signal(signal: i32) -> Self {
        Self(signal)
    }

    pub(crate) fn exit_code(self) -> Option<i32> {
        libc::WIFEXITED(self.0).then(|| libc::WEXITSTATUS(self.0))
    }
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

/// A process, by a descriptor that never means another one.
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl PidFd {
    /// Whether the system call exists here: neither the kernel nor what the process runs under
    /// lacks it.
    pub(crate) fn is_available() -> bool {
        Self::open(std::process::id()).is_ok()
    }

    /// The caller must know that `pid` has not been reaped: its own child, itself, or a process
    /// that was there just now.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes plain numbers and returns a new descriptor, closed on exec.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = cvt(libc::c_int::try_from(fd).expect("a descriptor is an int"))?;
        // SAFETY: the kernel has just made it for us.
        Ok(Self(above_stdio(unsafe { OwnedFd::from_raw_fd(fd) })?))
    }

    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Whether the process has ended.
    pub(crate) fn is_dead(&self) -> bool {
        poll::is_readable(&self.0, Some(Duration::ZERO)).unwrap_or(true)
    }

    /// Takes the status of a child of this process that has ended, if nobody else has.
    pub(crate) fn take_status(&self) -> Option<WaitStatus> {
        use nix::sys::wait::{Id, WaitPidFlag, WaitStatus as Ended, waitid};
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        // The host program may have reaped it, or may ignore SIGCHLD.
        match retry(|| waitid(Id::PIDFd(self.0.as_fd()), flags)).ok()? {
            Ended::Exited(_, code) => Some(WaitStatus::of_code(code)),
            Ended::Signaled(_, signal, _) => Some(WaitStatus::of_signal(signal as i32)),
            _ => None,
        }
    }

    /// Sends a signal; nothing happens to a process that has ended.
    ///
    /// Fails if this process has become another user since it started the other, or where a sandbox
    /// refuses the system call.
    pub(crate) fn send(&self, signal: libc::c_int) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        let info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: plain numbers and no siginfo.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, 0) };
        match cvt(if sent == 0 { 0 } else { -1 }) {
            // A process that has ended and is not reaped may be refused, too.
            Err(error) if !self.is_dead() => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether it is a child of this process, which has not been reaped.
    pub(crate) fn is_child(&self) -> bool {
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        retry(|| waitid(Id::PIDFd(self.0.as_fd()), flags)).is_ok()
    }

    /// Ends a child of this process, and takes its status. Fails, and leaves it alone, if it cannot
    /// be killed.
    pub(crate) fn kill_and_reap(&self) -> io::Result<()> {
        self.send(signal::KILL)?;
        self.wait_and_reap();
        Ok(())
    }

    /// Takes the status of a child that ends within moments.
    pub(crate) fn wait_and_reap(&self) {
        // A failed wait is as good as one that was too long.
        let _ = poll::is_readable(&self.0, Some(KILLED_LIMIT));
        self.reap();
    }

    /// Reaps the process if it is a child of this one that has ended and nobody else took its
    /// status.
    fn reap(&self) {
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        // The host program may have reaped it, or may ignore SIGCHLD: there is nothing left to do
        // then.
        let _ = retry(|| waitid(Id::PIDFd(self.0.as_fd()), flags));
    }

    /// How a process ended that somebody has reaped (PIDFD_GET_INFO, Linux 6.15).
    pub(crate) fn status_after_reaping(&self) -> Option<WaitStatus> {
        const EXIT: u64 = libc::PIDFD_INFO_EXIT as u64;
        // SAFETY: the structure is plain numbers.
        let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
        info.mask = EXIT;
        let fd = self.0.as_raw_fd();
        // The request is `_IOWR(0xff, 11, struct pidfd_info)` of linux/pidfd.h, which libc puts
        // together as the architecture does: mips, powerpc and sparc have another layout than the
        // rest. SAFETY: the kernel writes no more than the size in the request, that of a local.
        let done = unsafe { libc::ioctl(fd, libc::PIDFD_GET_INFO, &raw mut info) };
        (done == 0 && info.mask & EXIT != 0).then_some(WaitStatus(info.exit_code))
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
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
    fn only_a_process_with_the_variable_is_abandoned() {
        let sleep = |value| {
            let mut command = Command::new("sleep");
            let child = command.arg("1000").env("PROCPOOL_TEST", value).spawn();
            child.expect("a program")
        };
        let [mut one, mut other] = ["1", "2"].map(sleep);
        for child in [&one, &other] {
            // `spawn` returns before the kernel shows the new program's environment.
            let environment = || std::fs::read(format!("/proc/{}/environ", child.id()));
            let end = std::time::Instant::now() + Duration::from_secs(10);
            while environment().is_ok_and(|it| it.is_empty()) && std::time::Instant::now() < end {
                std::thread::yield_now();
            }
        }
        for child in [&one, &other] {
            exit_if_abandoned(child.id(), "PROCPOOL_TEST", OsStr::new("1"));
        }
        assert!(one.try_wait().is_err(), "it was not reaped");
        assert!(matches!(other.try_wait(), Ok(None)), "it was killed");
        other.kill().expect("it runs");
        other.wait().expect("a child of this process");
    }

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

    #[test]
    fn how_a_process_ended_is_known_after_it_was_reaped() {
        let mut child = Command::new("sh").args(["-c", "exit 7"]).spawn();
        let child = child.as_mut().expect("a shell");
        let pidfd = PidFd::open(child.id()).expect("a child of this process");
        child.wait().expect("a child of this process");
        // Older kernels do not say.
        let status = pidfd.status_after_reaping();
        assert!(
            status.is_none_or(|it| it.exit_code() == Some(7)),
            "{status:?}"
        );
    }
}
