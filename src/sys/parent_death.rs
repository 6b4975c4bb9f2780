//! The end of a process with that of its parent, whichever of the parent's threads has forked it.
//!
//! The kernel's signal for it (PDEATHSIG) comes when that *thread* ends. Its handler here looks
//! whether the process goes on, whose child this one still is then: of another thread, at the end
//! of which the signal comes again.

use super::{child, fd::cvt};
use std::{
    io, mem, ptr,
    sync::atomic::{AtomicU32, Ordering},
};

/// The process with which this one is to end.
static PARENT: AtomicU32 = AtomicU32::new(0);

/// Runs at any time: it only asks for ids and ends the process.
extern "C" fn look(_signal: libc::c_int) {
    // Relaxed: it was written by this process before the signal could come.
    if child::parent() != PARENT.load(Ordering::Relaxed) {
        // SAFETY: kill takes plain numbers, and may be called by a handler.
        unsafe { libc::kill(std::process::id().cast_signed(), libc::SIGKILL) };
    }
}

/// Has this process, which a thread of `parent` has just forked, end with that process; false if it
/// has ended already.
///
/// Takes a real-time signal that nobody handles; the process must leave it unblocked.
pub(crate) fn ends_with_process(parent: u32) -> bool {
    PARENT.store(parent, Ordering::Relaxed);
    let armed = free_signal().and_then(|signal| {
        handle(signal)?;
        // SAFETY: prctl takes plain numbers here.
        cvt(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) })
    });
    armed.is_ok() && child::parent() == parent
}

/// The highest real-time signal with the default action.
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

/// Has `look` run at a signal, which is let through.
fn handle(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: all zeros are a valid action, with an empty mask.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = look as extern "C" fn(libc::c_int) as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler does what one may, and the action is ours.
    cvt(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })?;
    let mut set = action.sa_mask;
    // SAFETY: the set is ours, and empty as the kernel knows it.
    cvt(unsafe { libc::sigaddset(&raw mut set, signal) })?;
    // SAFETY: the set is ours.
    cvt(unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut()) })?;
    Ok(())
}
