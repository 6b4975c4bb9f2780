//! Alternate stacks for the threads that this process will start.
//!
//! std sets one up for each thread if the program has reached `main`. A re-executed copy of the
//! program does not reach `main`, and no call would set them up. So calls of
//! `pthread_create` are redirected in the loaded modules: a function of this crate starts the
//! thread, and another one runs first in it.
//!
//! Threads of modules that are loaded later have no alternate stack, and neither have those of a
//! statically linked program.

use super::{alternate_stack::AlternateStack, imports, threads};
use std::{
    ffi::{c_int, c_void},
    mem,
    ptr::{self, NonNull},
    sync::OnceLock,
};

type StartRoutine = extern "C-unwind" fn(*mut c_void) -> *mut c_void;
type PthreadCreate = unsafe extern "C" fn(
    *mut libc::pthread_t,
    *const libc::pthread_attr_t,
    StartRoutine,
    *mut c_void,
) -> c_int;

/// The original `pthread_create`, and the key whose destructor unmaps a thread's alternate stack.
struct OriginalCreate {
    create: PthreadCreate,
    key: libc::pthread_key_t,
}

/// Set before the first slot is redirected.
static MEANS: OnceLock<OriginalCreate> = OnceLock::new();

/// The start routine of a new thread. It is stored at the start of its alternate stack: the
/// allocator itself may start the thread, so it cannot be used here.
#[derive(Clone, Copy)]
struct ThreadStart {
    routine: StartRoutine,
    argument: *mut c_void,
}

/// Redirects the calls that start threads, once. Does nothing in a process with several threads.
pub(crate) fn redirect_pthread_create() {
    if MEANS.get().is_some() || !threads::listed().is_ok_and(|count| count == 1) {
        return;
    }
    // SAFETY: the name ends with a zero.
    let real = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"pthread_create".as_ptr()) };
    let mut key = 0;
    // SAFETY: the key is a local, and the destructor is called with the value that `begin` sets.
    if real.is_null() || unsafe { libc::pthread_key_create(&raw mut key, Some(end)) } != 0 {
        return;
    }
    // SAFETY: this is the type of `pthread_create`; `C-unwind` and `C` differ only in which panics
    // may unwind through them.
    let create = unsafe { mem::transmute::<*mut c_void, PthreadCreate>(real) };
    MEANS.get_or_init(|| OriginalCreate { create, key });
    for import in imports::of(c"pthread_create") {
        // A slot that cannot be redirected still starts threads, without alternate stacks. SAFETY:
        // `create` has the type of `pthread_create`; one thread runs, as was checked.
        let _ = unsafe { import.redirect(self::create as *const () as usize) };
    }
}

/// Starts a thread, in place of `pthread_create`.
unsafe extern "C" fn create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    routine: StartRoutine,
    argument: *mut c_void,
) -> c_int {
    let Some(means) = MEANS.get() else {
        return libc::EAGAIN;
    };
    let Some(stack) = AlternateStack::map() else {
        // SAFETY: the arguments are the caller's.
        return unsafe { (means.create)(thread, attributes, routine, argument) };
    };
    let start = ThreadStart { routine, argument };
    // SAFETY: it is mapped, page-aligned, larger than this, and not in use yet.
    unsafe { stack.start().cast::<ThreadStart>().write(start) };
    // SAFETY: all arguments except the routine are the caller's, and `begin` takes the start of a
    // stack.
    let code = unsafe { (means.create)(thread, attributes, begin, stack.start().as_ptr()) };
    if code != 0 {
        // SAFETY: no thread was started that could use it.
        unsafe { stack.unmap() };
    }
    code
}

/// Runs first in a new thread. It owns no values with destructors, as `pthread_exit` unwinds
/// through it.
extern "C-unwind" fn begin(stack: *mut c_void) -> *mut c_void {
    let Some(at) = NonNull::new(stack) else {
        return ptr::null_mut();
    };
    // SAFETY: `create` has written it there.
    let start = unsafe { at.cast::<ThreadStart>().read() };
    // SAFETY: `create` passes the start of a mapped stack, which is this thread's from now on.
    unsafe { AlternateStack::from_start(at) }.use_here();
    if let Some(means) = MEANS.get() {
        // If memory is short, the stack stays mapped.
        // SAFETY: the key was created
        // together with `MEANS`.
        unsafe { libc::pthread_setspecific(means.key, stack) };
    }
    (start.routine)(start.argument)
}

/// Unmaps the alternate stack of a thread that exits.
unsafe extern "C" fn end(stack: *mut c_void) {
    if let Some(stack) = NonNull::new(stack) {
        // SAFETY: `begin` has set it, the start of a stack that is still mapped.
        let stack = unsafe { AlternateStack::from_start(stack) };
        // SAFETY: only this thread uses it.
        unsafe { stack.unmap() };
    }
}
