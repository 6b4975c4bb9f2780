//! Stack overflows: noted where another process finds them, before the signal ends this one.
//!
//! A handler of SIGSEGV and SIGBUS tells an overflow from another bad access, and hands every
//! signal on to the handler that was there before. Without one the default action ends the process,
//! with a core dump where those are wanted.
//!
//! The handler runs at any time, on the alternate stack of its thread: it reads atomics and makes
//! system calls, nothing else.

use super::{alternate_stack, pid};
use nix::errno::Errno;
use std::{
    ffi::{c_int, c_void},
    os::fd::RawFd,
    ptr,
    sync::atomic::{AtomicPtr, AtomicU32, Ordering},
};

/// Where an overflow is noted.
#[derive(Debug)]
pub(crate) enum OverflowNote {
    /// In a word of shared memory, which becomes 1.
    Word(&'static AtomicU32),
    /// By a message of one byte into a socket.
    Message(RawFd, u8),
}

/// Whose overflows are noted, and where.
#[derive(Debug)]
struct GuardPage {
    note: OverflowNote,
    /// A copy of the process has this handler, too, and is not watched.
    pid: u32,
}

/// Null before there is one. Stored by the process that is watched, before its handler is set;
/// never freed.
static WATCHED: AtomicPtr<GuardPage> = AtomicPtr::new(ptr::null_mut());

/// The signals of a bad access.
const SIGNALS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// What was done at each of [`SIGNALS`] before. Null before the handler is set; never freed.
static PREVIOUS: [AtomicPtr<libc::sigaction>; 2] = [const { AtomicPtr::new(ptr::null_mut()) }; 2];

/// Bytes below the stack pointer that code may touch before it moves that: at most a page, on any
/// architecture.
const BELOW: usize = 4096;

/// Bytes above the stack pointer where a function with a large frame may touch its stack first.
const ABOVE: usize = 1 << 20;

type CrashHandler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Notes the stack overflow that ends this process. The calling thread gets an alternate stack, if
/// it has none.
///
/// It can be repeated, in a copy of a process say: then the last note counts.
pub(crate) fn note_overflow(note: OverflowNote) {
    let watched = GuardPage {
        note,
        pid: pid::current(),
    };
    // Release: a handler that sees it sees what is in it.
    WATCHED.store(Box::into_raw(Box::new(watched)), Ordering::Release);
    alternate_stack::give();
    for (signal, previous) in SIGNALS.into_iter().zip(&PREVIOUS) {
        handle(signal, previous);
    }
}

/// Whether the default action at this signal, or what std does at it, may end a process whose stack
/// has overflowed.
pub(crate) fn may_be_of_overflow(signal: c_int) -> bool {
    SIGNALS.contains(&signal) || signal == libc::SIGABRT
}

fn handle(signal: c_int, previous: &AtomicPtr<libc::sigaction>) {
    // SAFETY: all zeros are a valid action, and sigaction overwrites it.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: it changes nothing, and the action is ours.
    let asked = unsafe { libc::sigaction(signal, ptr::null(), &raw mut action) };
    if asked != 0 || action.sa_sigaction == note_and_hand_on as CrashHandler as usize {
        return;
    }
    // Release: as above. The handler is set afterwards.
    previous.store(Box::into_raw(Box::new(action)), Ordering::Release);
    // The rest as it was, so that the handler before finds what it expects.
    action.sa_sigaction = note_and_hand_on as CrashHandler as usize;
    action.sa_flags |= libc::SA_SIGINFO | libc::SA_ONSTACK;
    action.sa_flags &= !libc::SA_RESETHAND;
    // SAFETY: the handler does nothing that a handler may not do. Where this fails, overflows are
    // not noted.
    unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
}

extern "C" fn note_and_hand_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // What was interrupted may be about to read it.
    let errno = Errno::last_raw();
    // SAFETY: null, or what the kernel passes to a handler, which lives until that returns.
    let fault = unsafe { info.as_ref() };
    // SAFETY: as above.
    let thread = unsafe { context.cast::<libc::ucontext_t>().as_ref() };
    if let (Some(fault), Some(thread)) = (fault, thread)
        && is_overflow(fault, thread)
    {
        note();
    }
    hand_on(signal, info, context);
    Errno::set_raw(errno);
}

/// Whether a thread has touched what lies beyond the end of its stack.
fn is_overflow(fault: &libc::siginfo_t, thread: &libc::ucontext_t) -> bool {
    let Some(pointer) = stack_pointer(thread) else {
        return false;
    };
    if is_sent(fault) {
        return false;
    }
    // SAFETY: the signal comes from a fault, which has an address.
    let address = unsafe { fault.si_addr() }.addr();
    // What lies just below the pointer can be touched unless the stack ends there. What lies above
    // it belongs to the frame, and so does the place where the pointer is.
    let is_below = (1..=BELOW).contains(&pointer.wrapping_sub(address));
    is_below || (address.wrapping_sub(pointer) < ABOVE && !is_readable(pointer))
}

/// Whether a process has sent the signal: it says nothing of what this one has done.
fn is_sent(fault: &libc::siginfo_t) -> bool {
    fault.si_code <= 0
}

/// Whether memory can be read there, as the kernel finds when it is to read a set of signals from
/// it.
fn is_readable(address: usize) -> bool {
    /// No way to change the mask: the kernel reads the set before it refuses this.
    const NO_WAY: c_int = -1;
    const SET_BYTES: usize = 8;
    let set = address / SET_BYTES * SET_BYTES;
    let old = ptr::null_mut::<c_void>();
    // SAFETY: it changes nothing, and the kernel checks the address.
    let failed = unsafe { libc::syscall(libc::SYS_rt_sigprocmask, NO_WAY, set, old, SET_BYTES) };
    failed != -1 || Errno::last_raw() != libc::EFAULT
}

#[cfg(target_arch = "x86_64")]
fn stack_pointer(thread: &libc::ucontext_t) -> Option<usize> {
    Some(thread.uc_mcontext.gregs[libc::REG_RSP as usize] as usize)
}

#[cfg(target_arch = "aarch64")]
fn stack_pointer(thread: &libc::ucontext_t) -> Option<usize> {
    Some(thread.uc_mcontext.sp as usize)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn stack_pointer(_thread: &libc::ucontext_t) -> Option<usize> {
    None
}

fn note() {
    // Acquire: pairs with the store in `note_overflow`.
    let watched = WATCHED.load(Ordering::Acquire);
    // SAFETY: null, or what `note_overflow` has stored, which lives forever.
    let Some(watched) = (unsafe { watched.as_ref() }) else {
        return;
    };
    if watched.pid != std::process::id() {
        return;
    }
    match &watched.note {
        // Release: it is there before this process ends.
        OverflowNote::Word(word) => word.store(1, Ordering::Release),
        OverflowNote::Message(socket, byte) => {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            let byte = ptr::from_ref(byte).cast();
            // SAFETY: it reads one byte, which lives forever. Where this fails, there is no reader.
            unsafe { libc::send(*socket, byte, 1, flags) };
        }
    }
}

/// Does what was done before at a signal.
fn hand_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let index = SIGNALS.iter().position(|it| *it == signal);
    // Acquire: pairs with the store in `handle`.
    let previous = index.map(|it| PREVIOUS[it].load(Ordering::Acquire));
    // SAFETY: null, or what `handle` has stored, which lives forever.
    let previous = previous.and_then(|it| unsafe { it.as_ref() });
    let Some(previous) = previous.filter(|it| it.sa_sigaction != libc::SIG_DFL) else {
        return end_by(signal, info);
    };
    // SAFETY: null, or what the kernel passes to a handler.
    let is_sent = unsafe { info.as_ref() }.is_some_and(is_sent);
    match (previous.sa_sigaction, previous.sa_flags & libc::SA_SIGINFO) {
        (libc::SIG_IGN, _) if is_sent => {}
        (libc::SIG_IGN, _) => end_by(signal, info),
        (handler, 0) => {
            let handler = ptr::with_exposed_provenance::<c_void>(handler);
            // SAFETY: a handler that was set without SA_SIGINFO has this type.
            let handler =
                unsafe { std::mem::transmute::<*const c_void, extern "C" fn(c_int)>(handler) };
            handler(signal);
        }
        (handler, _) => {
            let handler = ptr::with_exposed_provenance::<c_void>(handler);
            // SAFETY: a handler that was set with SA_SIGINFO has this type.
            let handler = unsafe { std::mem::transmute::<*const c_void, CrashHandler>(handler) };
            handler(signal, info, context);
        }
    }
}

/// Has the signal end this process by its default action, as soon as the handler returns.
///
/// A bad access is made once more then, and the kernel finds the thread where it happened. What was
/// sent is sent once more.
fn end_by(signal: c_int, info: *mut libc::siginfo_t) {
    // SAFETY: the default action runs no code of this process; a handler may call this.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: null, or what the kernel passes to a handler.
    if unsafe { info.as_ref() }.is_some_and(is_sent) {
        let own = std::process::id();
        // SAFETY: a plain number.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) };
        // SAFETY: plain numbers, and the signal's own information. It is blocked until the handler
        // returns.
        unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, own, thread, signal, info) };
    }
}
