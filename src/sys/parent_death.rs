//! Ends this process when its parent dies, regardless of which of the parent's threads forked it.
//!
//! The kernel's signal for this (PDEATHSIG) arrives when that *thread* exits. The handler checks
//! whether the process is still alive. If so, this process is now a child of another of its
//! threads, whose exit sends the signal again.

use super::{child, fd::cvt};
use std::{
    io, mem, ptr,
    sync::atomic::{AtomicU32, Ordering},
};

/// The process with which this one ends.
static PARENT: AtomicU32 = AtomicU32::new(0);

/// Runs at any time: it only reads ids and ends the process.
extern "C" fn look(_signal: libc::c_int) {
    // Relaxed: it was written by this process before the signal could come.
    if child::parent() != PARENT.load(Ordering::Relaxed) {
        // SAFETY: kill takes plain numbers, and is async-signal-safe.
        unsafe { libc::kill(std::process::id().cast_signed(), libc::SIGKILL) };
    }
}

/// Makes this process, which a thread of `parent` has just forked, end with that process. Returns
/// false if the parent has already died.
///
/// Uses a real-time signal without a handler; the process must leave it unblocked.
pub(crate) fn ends_with_process(parent: u32) -> bool {
    PARENT.store(parent, Ordering::Relaxed);
    let armed = free_signal().and_then(|signal| {
        handle(signal)?;
        // SAFETY: prctl takes plain numbers here.
        cvt(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) })
    });
    armed.is_ok() && child::parent() == parent
}

/// Returns the highest real-time signal with the default action.
fn free_signal() -> io::Result<libc::c_int> {
    let is_free = |signal: &libc::c_int| {
        // SAFETY: all zeros are a valid action, and sigaction overwrites it.
        let mut action: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: it changes nothing, and the action is ours.
        let asked = unsafe { libc::sigaction(*signal, ptr::null(), &raw mut action) };
        asked == 0 && action.sa_sigaction == libc::SIG_DFL
    };
    let mut signals = (libc::SIGRTMIN()..=libc::SIGRTMAX()).rev();
    signals
        .find(is_free)
        .ok_or_else(|| io::Error::other("every signal is in use"))
}

/// Sets `look` as the handler of a signal, and unblocks the signal.
fn handle(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: all zeros are a valid action, with an empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = look as extern "C" fn(libc::c_int) as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler is async-signal-safe, and the action is a local.
    cvt(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })?;
    let mut set = action.sa_mask;
    // SAFETY: the set is a local, and empty in the kernel's layout.
    cvt(unsafe { libc::sigaddset(&raw mut set, signal) })?;
    // SAFETY: the set is ours.
    cvt(unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) })?;
    Ok(())
}
