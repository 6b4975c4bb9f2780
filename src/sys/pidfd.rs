//! Processes by descriptors, which never refer to another process, and their wait statuses.

use super::{
    fd::{above_stdio, cvt, retry},
    poll, signal,
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

/// How long a killed process may take to end: on a busy machine it waits for a core for seconds.
/// The limit concerns processes that the kernel cannot end.
const KILLED_LIMIT: Duration = Duration::from_secs(5);

/// How a process ended, in the encoding of `wait`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaitStatus(pub(crate) i32);

impl WaitStatus {
    pub(crate) fn signal(self) -> Option<i32> {
        libc::WIFSIGNALED(self.0).then(|| libc::WTERMSIG(self.0))
    }

    /// Returns the status of a process that passed this code to `exit`.
    pub(crate) fn of_code(code: i32) -> Self {
        Self((code & 0xff) << 8)
    }

    /// Returns the status of a process that was killed by this signal.
    fn of_signal(signal: i32) -> Self {
        Self(signal)
    }

    pub(crate) fn exit_code(self) -> Option<i32> {
        libc::WIFEXITED(self.0).then(|| libc::WEXITSTATUS(self.0))
    }
}

/// A process, by a descriptor that never refers to another one.
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl PidFd {
    /// Whether the kernel and the sandbox support the system call.
    pub(crate) fn is_available() -> bool {
        Self::open(std::process::id()).is_ok()
    }

    /// Opens a process. The caller must know that `pid` has not been reaped: it is a child, this
    /// process, or was alive just now.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes plain numbers and returns a new descriptor, closed on exec.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = cvt(libc::c_int::try_from(fd).expect("a descriptor is an int"))?;
        // SAFETY: the kernel has just created it, and it has no other owner.
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

    /// Takes the status of a child of this process that has ended, unless it was already reaped.
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

    /// Sends a signal. Does nothing if the process has ended.
    ///
    /// Fails if this process has changed its user since it started the other, or if a sandbox
    /// refuses the system call.
    pub(crate) fn send(&self, signal: libc::c_int) -> io::Result<()> {
        let fd = self.0.as_raw_fd();
        let info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: plain numbers and no siginfo.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, info, 0) };
        match cvt(if sent == 0 { 0 } else { -1 }) {
            // The call may also fail for a process that has ended and is not reaped.
            Err(error) if !self.is_dead() => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether it is a child of this process that was not reaped.
    pub(crate) fn is_child(&self) -> bool {
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        retry(|| waitid(Id::PIDFd(self.0.as_fd()), flags)).is_ok()
    }

    /// Kills and reaps a child of this process. Fails, without reaping, if it cannot be killed.
    pub(crate) fn kill_and_reap(&self) -> io::Result<()> {
        self.send(signal::KILL)?;
        self.wait_and_reap();
        Ok(())
    }

    /// Waits for a child that is about to end, and reaps it.
    pub(crate) fn wait_and_reap(&self) {
        // A failed wait is treated like a timeout.
        let _ = poll::is_readable(&self.0, Some(KILLED_LIMIT));
        self.reap();
    }

    /// Reaps the process if it is an ended child of this process that was not reaped.
    fn reap(&self) {
        use nix::sys::wait::{Id, WaitPidFlag, waitid};
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        // The host program may have reaped it, or may ignore SIGCHLD. Then there is nothing to
        // reap.
        let _ = retry(|| waitid(Id::PIDFd(self.0.as_fd()), flags));
    }

    /// Returns how a process ended that was already reaped (PIDFD_GET_INFO, Linux 6.15).
    pub(crate) fn status_after_reaping(&self) -> Option<WaitStatus> {
        const EXIT: u64 = libc::PIDFD_INFO_EXIT as u64;
        // SAFETY: the structure consists of plain numbers.
        let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
        info.mask = EXIT;
        let fd = self.0.as_raw_fd();
        // The request is `_IOWR(0xff, 11, struct pidfd_info)` of linux/pidfd.h. libc computes it
        // for the architecture: mips, powerpc and sparc have another layout.
        // SAFETY: the kernel
        // writes at most the size in the request, which is that of a local.
        let done = unsafe { libc::ioctl(fd, libc::PIDFD_GET_INFO, &raw mut info) };
        (done == 0 && info.mask & EXIT != 0).then_some(WaitStatus(info.exit_code))
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn how_a_process_ended_is_known_after_it_was_reaped() {
        let mut child = Command::new("sh").args(["-c", "exit 7"]).spawn();
        let child = child.as_mut().expect("a shell");
        let pidfd = PidFd::open(child.id()).expect("a child of this process");
        child.wait().expect("a child of this process");
        // Older kernels do not report it.
        let status = pidfd.status_after_reaping();
        assert!(
            status.is_none_or(|status| status.exit_code() == Some(7)),
            "{status:?}"
        );
    }
}
