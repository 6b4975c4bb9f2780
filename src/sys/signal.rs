//! The signal handling of child processes.

use super::fd::{above_stdio, cvt};
use nix::sys::{
    signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask},
    signalfd::{SfdFlags, SignalFd},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::atomic::{AtomicPtr, AtomicU32, Ordering},
};

/// The number of SIGTERM.
pub(crate) const TERMINATE: i32 = Signal::SIGTERM as i32;

/// The number of SIGKILL.
pub(crate) const KILL: i32 = Signal::SIGKILL as i32;

/// Signals that ask a process to end, and that are sent to all processes of a terminal, a group or
/// a service.
///
/// The crate's own processes do not decide by themselves: they end when their owner does.
const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Signals that suspend all processes of a terminal.
const SUSPENDING: [Signal; 3] = [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// Signals that are not inherited as ignored: SIGCHLD reports how children end, SIGTERM is how this
/// crate ends a process, and SIGPIPE is ignored in any case, as in every Rust program.
const NEVER_IGNORED: [Signal; 3] = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGPIPE];

/// The signals that a process ignores. Its children ignore them too, for example under `nohup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IgnoredSignals(u64);

impl IgnoredSignals {
    /// Returns the signals that this process ignores now.
    pub(crate) fn now() -> Self {
        let mut bits = 0;
        for signal in
            all().filter(|signal| !NEVER_IGNORED.iter().any(|never| *never as i32 == *signal))
        {
            if action_of(signal) == Some(libc::SIG_IGN) {
                bits |= bit(signal);
            }
        }
        Self(bits)
    }

    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Makes this process ignore `others` instead of these. It must have no signal handlers. It may
    /// have been forked just now.
    pub(crate) fn replace_with(self, others: Self) {
        let changed = self.0 ^ others.0;
        for signal in all().filter(|signal| changed & bit(*signal) != 0) {
            others.apply(signal);
        }
    }

    fn apply(self, signal: libc::c_int) {
        let action = if self.has(signal) {
            libc::SIG_IGN
        } else {
            libc::SIG_DFL
        };
        // SAFETY: it fails for SIGKILL and SIGSTOP without a change; neither action runs code of
        // this process.
        unsafe { libc::signal(signal, action) };
    }

    fn has(self, signal: libc::c_int) -> bool {
        self.0 & bit(signal) != 0
    }
}

fn bit(signal: libc::c_int) -> u64 {
    1 << (signal - 1)
}

/// Returns the numbers of all signals except those reserved by the C library.
fn all() -> impl Iterator<Item = libc::c_int> {
    let standard = Signal::iterator().map(|signal| signal as libc::c_int);
    standard.chain(libc::SIGRTMIN()..=libc::SIGRTMAX())
}

/// Returns the action of this process for a signal.
fn action_of(signal: libc::c_int) -> Option<libc::sighandler_t> {
    // SAFETY: all zeros are a valid action, and sigaction overwrites it.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: it changes nothing, and the action is ours.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    (asked == 0).then_some(action.sa_sigaction)
}

/// Sets every signal to its default, except `ignored` and SIGPIPE, which are ignored.
pub(crate) fn reset(ignored: IgnoredSignals) {
    all().for_each(|it| ignored.apply(it));
    IgnoredSignals(bit(libc::SIGPIPE)).apply(libc::SIGPIPE);
}

/// Blocks every signal that could end this process, except SIGKILL and the signals of its own
/// faults, which the kernel does not allow to be blocked.
///
/// Only for the fork server: its children unblock them.
pub(crate) fn block_what_comes_from_outside() -> io::Result<()> {
    let mut mask = SigSet::all();
    SUSPENDING.iter().for_each(|it| mask.remove(*it));
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?)
}

/// Returns the signals that ask a process to end. A new process starts with them blocked, so that
/// none is lost before its handler is set.
pub(crate) fn ending() -> SigSet {
    ENDING.into_iter().collect()
}

/// Blocks the signals that ask a process to end, and no others.
pub(crate) fn block_only_ending() -> io::Result<()> {
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&ending()), None)?)
}

extern "C" fn nothing(_signal: libc::c_int) {}

/// The word that the owner sets before it sends a SIGTERM that ends this process; null if there is
/// none.
///
/// Written once, by this process, before the handler is set.
static TOLD_TO_END: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());

/// The process that has set `end_if_meant`. Another process is a copy of it, which ends as by
/// default.
static SET_BY: AtomicU32 = AtomicU32::new(0);

/// Ends this process by the signal if the word is set, or if the process has sent the signal to
/// itself.
///
/// Runs at any time: it only reads atomics and makes async-signal-safe system calls.
extern "C" fn end_if_meant(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    let own = std::process::id();
    // Relaxed: this process wrote it before it set the handler.
    let is_copy = SET_BY.load(Ordering::Relaxed) != own;
    let is_meant = is_copy || is_told_to_end() || sender_of(info) == Some(own);
    // A handler that a task has set may call this one as the previous one. Then the task's handler
    // decides.
    let is_own = action_of(signal) == Some(end_if_meant as SignalHandler as usize);
    if is_meant && is_own {
        // SAFETY: the default action runs no code of this process; both calls are
        // async-signal-safe. The signal is blocked until this returns, and then ends the process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        // SAFETY: as above.
        unsafe { libc::kill(own.cast_signed(), signal) };
    }
}

type SignalHandler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

fn is_told_to_end() -> bool {
    // Acquire: the word is mapped before its address is stored.
    let word = TOLD_TO_END.load(Ordering::Acquire);
    // SAFETY: null, or a word that lives forever: `leave_the_end_to_the_owner` takes no other.
    let word = unsafe { word.as_ref() };
    // Acquire: pairs with the store before the signal.
    word.is_some_and(|word| word.load(Ordering::Acquire) != 0)
}

/// Returns the process that sent a signal, or `None` if the kernel did.
fn sender_of(info: *mut libc::siginfo_t) -> Option<u32> {
    // SAFETY: null, or the argument of a handler, which lives until that returns.
    let info = unsafe { info.as_ref() }?;
    let is_sent = [libc::SI_USER, libc::SI_TKILL, libc::SI_QUEUE].contains(&info.si_code);
    // SAFETY: a signal that a process sent names its sender.
    is_sent.then(|| unsafe { info.si_pid() }.cast_unsigned())
}

/// Ignores SIGINT, SIGTERM and SIGHUP from outside, since the owner ends this process, and unblocks
/// every signal.
///
/// SIGTERM and SIGHUP end it if `told` is not 0, or if this process has sent them. Ignored signals
/// stay ignored. These are handlers, not `SIG_IGN`: `exec` restores the default for programs that
/// this process starts.
pub(crate) fn leave_the_end_to_the_owner(told: Option<&'static AtomicU32>) -> io::Result<()> {
    let told = told.map_or(std::ptr::null_mut(), |word| {
        std::ptr::from_ref(word).cast_mut()
    });
    SET_BY.store(std::process::id(), Ordering::Relaxed);
    TOLD_TO_END.store(told, Ordering::Release);
    for signal in ENDING {
        if action_of(signal as libc::c_int) == Some(libc::SIG_IGN) {
            continue;
        }
        let (handler, flags) = match signal {
            Signal::SIGINT => (SigHandler::Handler(nothing), SaFlags::empty()),
            _ => (SigHandler::SigAction(end_if_meant), SaFlags::SA_SIGINFO),
        };
        let action = SigAction::new(handler, flags | SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: one handler is empty, the other is async-signal-safe.
        unsafe { sigaction(signal, &action) }?;
    }
    unblock_all()
}

/// Whether writing to a pipe without readers ends this process: the program is not written in Rust,
/// or has set this action.
pub(crate) fn broken_pipe_kills() -> bool {
    action_of(libc::SIGPIPE) == Some(libc::SIG_DFL)
}

/// Runs `action` on this thread without the SIGPIPE that it may raise.
pub(crate) fn without_broken_pipe<T>(action: impl FnOnce() -> T) -> io::Result<T> {
    let mut pipe = SigSet::empty();
    pipe.add(Signal::SIGPIPE);
    let was_pending = is_pending(&pipe)?;
    let before = pipe.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let outcome = action();
    if !was_pending && is_pending(&pipe)? {
        // The signal is pending for this thread, so this does not block.
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

/// Unblocks every signal.
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

/// A descriptor that becomes readable when a child of this process dies.
#[derive(Debug)]
pub(crate) struct ChildDeaths(SignalFd);

impl ChildDeaths {
    /// Blocks SIGCHLD permanently; only for a process that this crate owns completely.
    pub(crate) fn watch() -> io::Result<Self> {
        let mask = SigSet::from(Signal::SIGCHLD);
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let fd = above_stdio(SignalFd::with_flags(&mask, flags)?.into())?;
        // SAFETY: it is a signalfd.
        Ok(Self(unsafe { SignalFd::from_owned_fd(fd) }))
    }

    /// Discards the deaths so far.
    pub(crate) fn clear(&self) {
        // One read takes the single pending SIGCHLD. Without one the read fails harmlessly.
        let _ = self.0.read_signal();
    }
}

impl AsFd for ChildDeaths {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
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
        let error = written.expect("a mask").expect_err("no process reads");
        assert_eq!(error.raw_os_error(), Some(Errno::EPIPE as i32));
        assert!(kills && !broken_pipe_kills());
    }
}
