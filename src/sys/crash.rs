//! Stack overflows: recorded for another process before the signal ends this one.
//!
//! A handler of SIGSEGV and SIGBUS distinguishes an overflow from other bad accesses, and forwards
//! every signal to the previous handler. Without one, the default action ends the process,
//! with a core dump if those are enabled.
//!
//! The handler runs at any time, on the alternate stack of its thread. It only reads atomics and
//! makes system calls.

use super::{alternate_stack, pid};
use nix::errno::Errno;
use std::{
    ffi::{c_int, c_void},
    os::fd::RawFd,
    ptr,
    sync::atomic::{AtomicPtr, AtomicU32, Ordering},
};

/// The place where an overflow is recorded.
#[derive(Debug)]
pub(crate) enum OverflowNote {
    /// A word of shared memory, which is set to 1.
    Word(&'static AtomicU32),
    /// A socket, into which a message of one byte is sent.
    Message(RawFd, u8),
}

/// The process whose overflows are recorded, and the place.
#[derive(Debug)]
struct GuardPage {
    note: OverflowNote,
    /// A copy of the process inherits this handler, but is not watched.
    pid: u32,
}

/// Null until it is set. The watched process stores it before it sets its handler, and never frees
/// it.
static WATCHED: AtomicPtr<GuardPage> = AtomicPtr::new(ptr::null_mut());

/// The signals of a bad access.
const SIGNALS: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// The previous action of each of [`SIGNALS`]. Null until the handler is set; never freed.
static PREVIOUS: [AtomicPtr<libc::sigaction>; 2] = [const { AtomicPtr::new(ptr::null_mut()) }; 2];

/// Bytes below the stack pointer that code may touch before it moves the pointer: at most a page,
/// on any architecture.
const BELOW: usize = 4096;

/// Bytes above the stack pointer within which a function with a large frame may first touch its
/// stack.
const ABOVE: usize = 1 << 20;

type CrashHandler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Records the stack overflow that ends this process. Sets an alternate stack for the calling
/// thread if it has none.
///
/// It can be called again, for example in a copy of a process: then the last call counts.
pub(crate) fn note_overflow(note: OverflowNote) {
    let watched = GuardPage {
        note,
        pid: pid::current(),
    };
    // Release: a handler that reads the pointer sees the contents.
    WATCHED.store(Box::into_raw(Box::new(watched)), Ordering::Release);
    alternate_stack::give();
    for (signal, previous) in SIGNALS.into_iter().zip(&PREVIOUS) {
        handle(signal, previous);
    }
}

/// Whether a stack overflow may end a process with this signal, by the default action or by std's
/// handler.
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
    // The other fields stay unchanged, as the previous handler expects.
    action.sa_sigaction = note_and_hand_on as CrashHandler as usize;
    action.sa_flags |= libc::SA_SIGINFO | libc::SA_ONSTACK;
    action.sa_flags &= !libc::SA_RESETHAND;
    // SAFETY: the handler is async-signal-safe. If this fails, overflows are not recorded.
    unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
}

extern "C" fn note_and_hand_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // The interrupted code may be about to read it.
    let errno = Errno::last_raw();
    // SAFETY: null, or the argument of a handler, which lives until that returns.
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

/// Whether a thread has accessed memory beyond the end of its stack.
fn is_overflow(fault: &libc::siginfo_t, thread: &libc::ucontext_t) -> bool {
    let Some(pointer) = stack_pointer(thread) else {
        return false;
    };
    if is_sent(fault) {
        return false;
    }
    // SAFETY: the signal comes from a fault, which has an address.
    let address = unsafe { fault.si_addr() }.addr();
    // Memory just below the pointer is accessible unless the stack ends there. Memory above the
    // pointer belongs to the frame, and so does the pointer's own address.
    let is_below = (1..=BELOW).contains(&pointer.wrapping_sub(address));
    is_below || (address.wrapping_sub(pointer) < ABOVE && !is_readable(pointer))
}

/// Whether a process has sent the signal: then it does not come from a fault of this process.
fn is_sent(fault: &libc::siginfo_t) -> bool {
    fault.si_code <= 0
}

/// Whether the address is readable. The kernel checks it when it reads a signal set from it.
fn is_readable(address: usize) -> bool {
    /// An invalid way to change the mask: the kernel reads the set before it fails.
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
        // Release: the store is visible before this process ends.
        OverflowNote::Word(word) => word.store(1, Ordering::Release),
        OverflowNote::Message(socket, byte) => {
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
            let byte = ptr::from_ref(byte).cast();
            // SAFETY: it reads one byte, which lives forever. It fails without a reader.
            unsafe { libc::send(*socket, byte, 1, flags) };
        }
    }
}

/// Runs the previous action of a signal.
fn hand_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let index = SIGNALS.iter().position(|known| *known == signal);
    // Acquire: pairs with the store in `handle`.
    let previous = index.map(|index| PREVIOUS[index].load(Ordering::Acquire));
    // SAFETY: null, or what `handle` has stored, which lives forever.
    let previous = previous.and_then(|action| unsafe { action.as_ref() });
    let Some(previous) = previous.filter(|action| action.sa_sigaction != libc::SIG_DFL) else {
        return end_by(signal, info);
    };
    // SAFETY: null, or the argument of a handler.
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

/// Makes the signal end this process by its default action when the handler returns.
///
/// A bad access is then repeated, and the kernel finds the thread at the faulting instruction. A
/// signal that was sent is sent again.
fn end_by(signal: c_int, info: *mut libc::siginfo_t) {
    // SAFETY: the default action runs no code of this process; a handler may call this.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    // SAFETY: null, or the argument of a handler.
    if unsafe { info.as_ref() }.is_some_and(is_sent) {
        let own = std::process::id();
        // SAFETY: a plain number.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) };
        // SAFETY: plain numbers, and the signal's own information. The signal is blocked until the
        // handler returns.
        unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, own, thread, signal, info) };
    }
}
