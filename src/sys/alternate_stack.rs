//! Alternate stacks, on which a thread handles a signal after its own stack has overflowed.

use super::memory;
use std::{
    ffi::c_void,
    ptr::{self, NonNull},
};

/// Bytes in addition to the kernel's record of a signal. The crash handler needs a tenth of them.
/// Only touched pages take memory.
const ROOM: usize = 64 << 10;

/// Returns the size of a stack in bytes.
///
/// The kernel's record holds all registers: on ARM up to 8 KiB of vectors and a matrix of 64 KiB.
fn size() -> usize {
    // SAFETY: it reads a value from the start of this process, or returns 0.
    let record = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) };
    ROOM + usize::try_from(record).unwrap_or(0)
}

/// A stack with a guard page below it. It stays mapped until [`unmap`](Self::unmap).
#[derive(Debug, Clone, Copy)]
pub(super) struct AlternateStack(NonNull<c_void>);

impl AlternateStack {
    /// Maps a stack. Returns `None` if memory is short. Takes no lock and does not
    /// allocate on the heap.
    pub(super) fn map() -> Option<Self> {
        let page = memory::page_size().ok()?;
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
        );
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let start = unsafe { libc::mmap(ptr::null_mut(), page + size(), protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: the first page of the new mapping, which is not in use yet. After a failure the
        // stack has no guard.
        unsafe { libc::mprotect(start, page, libc::PROT_NONE) };
        NonNull::new(start.wrapping_byte_add(page)).map(Self)
    }

    /// Returns the lowest address. Its memory is free for other uses until
    /// [`use_here`](Self::use_here).
    pub(super) fn start(self) -> NonNull<c_void> {
        self.0
    }

    /// Returns the stack that starts at this address.
    ///
    /// # Safety
    ///
    /// `start` must be the [start](Self::start) of a mapped stack.
    pub(super) unsafe fn from_start(start: NonNull<c_void>) -> Self {
        Self(start)
    }

    /// Makes it the calling thread's alternate stack.
    pub(super) fn use_here(self) {
        let stack = libc::stack_t {
            ss_sp: self.0.as_ptr(),
            ss_flags: 0,
            ss_size: size(),
        };
        // SAFETY: the stack is mapped, and no other thread uses it. The call fails only while a
        // handler runs on another alternate stack.
        unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
    }

    /// Unmaps the stack, after removing it from the calling thread if it is set there.
    ///
    /// # Safety
    ///
    /// The stack must be mapped, and no other thread may use it.
    pub(super) unsafe fn unmap(self) {
        if of_this_thread().is_some_and(|stack| stack.ss_sp == self.0.as_ptr()) {
            let none = libc::stack_t {
                ss_sp: ptr::null_mut(),
                ss_flags: libc::SS_DISABLE,
                ss_size: size(),
            };
            // SAFETY: this thread runs on its own stack.
            unsafe { libc::sigaltstack(&raw const none, ptr::null_mut()) };
        }
        let page = memory::page_size().unwrap_or(0);
        let start = self.0.as_ptr().wrapping_byte_sub(page);
        // SAFETY: the mapping is this stack's, and no thread uses it, by the caller's contract.
        unsafe { libc::munmap(start, page + size()) };
    }
}

/// Sets an alternate stack for the rest of the calling thread's life, if the thread has none.
pub(super) fn give() {
    if of_this_thread().is_none()
        && let Some(stack) = AlternateStack::map()
    {
        stack.use_here();
    }
}

fn of_this_thread() -> Option<libc::stack_t> {
    let mut stack = libc::stack_t {
        ss_sp: ptr::null_mut(),
        ss_flags: libc::SS_DISABLE,
        ss_size: 0,
    };
    // SAFETY: it changes nothing, and writes to a local.
    unsafe { libc::sigaltstack(ptr::null(), &raw mut stack) };
    (stack.ss_flags & libc::SS_DISABLE == 0).then_some(stack)
}
