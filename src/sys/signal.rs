//! What a child does with signals.

use super::fd::{above_stdio, cvt};
use nix::sys::{
    signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask},
    signalfd::{SfdFlags, SignalFd},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// The number of SIGKILL.
pub(crate) const KILL: i32 = Signal::SIGKILL as i32;

extern "C" fn nothing(_signal: libc::c_int) {}

/// Puts every signal to its default, unblocked, but for two: SIGPIPE is ignored, as in every Rust program, and SIGINT
/// does nothing.
///
/// An empty handler, not `SIG_IGN`: a program that this process starts gets the default back by `exec`.
pub(crate) fn reset() -> io::Result<()> {
    for signal in Signal::iterator() {
        let handler = match signal {
            Signal::SIGKILL | Signal::SIGSTOP => continue,
            Signal::SIGPIPE => SigHandler::SigIgn,
            Signal::SIGINT => SigHandler::Handler(nothing),
            _ => SigHandler::SigDfl,
        };
        let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the only handler is `nothing`, which does nothing.
        unsafe { sigaction(signal, &action) }?;
    }
    for signal in libc::SIGRTMIN()..=libc::SIGRTMAX() {
        // SAFETY: the default action runs no code of this process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    unblock_all()
}

/// Has SIGINT end this process again.
pub(crate) fn default_interrupt() -> io::Result<()> {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of this process.
    unsafe { sigaction(Signal::SIGINT, &action) }?;
    Ok(())
}

/// Whether writing to a pipe that nobody reads ends this process: a program that is not Rust's, or has asked for that.
pub(crate) fn broken_pipe_kills() -> bool {
    // SAFETY: all zeros are a valid action, and sigaction overwrites it.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: it changes nothing, and the action is ours.
    let asked = unsafe { libc::sigaction(libc::SIGPIPE, std::ptr::null(), &raw mut action) };
    asked == 0 && action.sa_sigaction == libc::SIG_DFL
}

/// Does something on this thread that may raise SIGPIPE, which then reaches nobody.
pub(crate) fn without_broken_pipe<T>(action: impl FnOnce() -> T) -> io::Result<T> {
    let mut pipe = SigSet::empty();
    pipe.add(Signal::SIGPIPE);
    let was_pending = is_pending(&pipe)?;
    let before = pipe.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let outcome = action();
    if !was_pending && is_pending(&pipe)? {
        // It is pending for this thread, so that this does not wait.
        let _ = pipe.wait();
    }
    before.thread_set_mask()?;
    Ok(outcome)
}

fn is_pending(signals: &SigSet) -> io::Result<bool> {
    // SAFETY: an all-zero set is a valid one, and sigpending overwrites it.
    let mut raw: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours.
    cvt(unsafe { libc::sigpending(&raw mut raw) })?;
    // SAFETY: sigpending has just filled it in.
    let pending = unsafe { SigSet::from_sigset_t_unchecked(raw) };
    Ok(signals.iter().any(|it| pending.contains(it)))
}

/// Lets every signal through.
pub(crate) fn unblock_all() -> io::Result<()> {
    let mut all = SigSet::empty();
    // SAFETY: an all-zero set is a valid one, and sigfillset overwrites it.
    let mut raw: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours.
    cvt(unsafe { libc::sigfillset(&raw mut raw) })?;
    // SAFETY: sigfillset has just initialised it.
    all.clone_from(&unsafe { SigSet::from_sigset_t_unchecked(raw) });
    Ok(sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&all), None)?)
}

/// The deaths of this process's children, as a descriptor that becomes readable.
#[derive(Debug)]
pub(crate) struct ChildDeaths(SignalFd);

impl ChildDeaths {
    /// Blocks SIGCHLD for good; only for a process that is entirely ours.
    pub(crate) fn watch() -> io::Result<Self> {
        let fd = block_and_watch([Signal::SIGCHLD])?;
        // SAFETY: it is a signalfd.
        Ok(Self(unsafe { SignalFd::from_owned_fd(fd) }))
    }

    /// Forgets the deaths so far.
    pub(crate) fn clear(&self) {
        // One read takes the one pending SIGCHLD; nothing pending is no error here.
        let _ = self.0.read_signal();
    }
}

impl AsFd for ChildDeaths {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What asks this process to end, SIGTERM and SIGHUP, as a descriptor that becomes readable. Blocks both for good, in this thread and
/// those that it starts; only for a process that is entirely ours.
pub(crate) fn watch_for_end() -> io::Result<OwnedFd> {
    block_and_watch([Signal::SIGTERM, Signal::SIGHUP])
}

fn block_and_watch(signals: impl IntoIterator<Item = Signal>) -> io::Result<OwnedFd> {
    let mask: SigSet = signals.into_iter().collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    above_stdio(SignalFd::with_flags(&mask, flags)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::pipe;
    use nix::errno::Errno;

    #[test]
    fn a_pipe_that_nobody_reads_is_an_error() {
        let set = |handler| {
            // SAFETY: neither action runs code of this process.
            unsafe { nix::sys::signal::signal(Signal::SIGPIPE, handler) }.expect("an action");
        };
        let (reader, writer) = pipe::pipe().expect("a pipe");
        drop(reader);
        set(SigHandler::SigDfl);
        let (kills, written) = (
            broken_pipe_kills(),
            without_broken_pipe(|| pipe::write(&writer, b"x")),
        );
        set(SigHandler::SigIgn);
        let error = written.expect("a mask").expect_err("nobody reads");
        assert_eq!(error.raw_os_error(), Some(Errno::EPIPE as i32));
        assert!(kills && !broken_pipe_kills());
    }
}
