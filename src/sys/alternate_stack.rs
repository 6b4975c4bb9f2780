//! Alternate stacks: where a thread runs the handler of a signal when its own stack has overflowed.

use super::memory;
use std::{
    ffi::c_void,
    ptr::{self, NonNull},
};

/// Bytes beside the kernel's record of a signal; the handler of a crash needs a tenth of them. Only
/// what is used takes memory.
const ROOM: usize = 64 << 10;

/// Returns how many bytes a stack has.
///
/// The kernel's record holds all registers: on ARM up to 8 KiB of vectors and a matrix of 64 KiB.
fn size() -> usize {
    // SAFETY: it reads what the kernel told this process at its start, or returns 0.
    let record = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) };
    ROOM + usize::try_from(record).unwrap_or(0)
}

/// A stack that lies behind a guard page. It stays mapped until it is told otherwise.
#[derive(Debug, Clone, Copy)]
pub(super) struct AlternateStack(NonNull<c_void>);

impl AlternateStack {
    /// Maps a stack; `None` if there is no memory for it. Takes no lock and nothing from the
    /// allocator.
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
        // SAFETY: the first page of the mapping, which is not in use yet. Where this fails, the
        // stack has no guard.
        unsafe { libc::mprotect(start, page, libc::PROT_NONE) };
        NonNull::new(start.wrapping_byte_add(page)).map(Self)
    }

    /// Returns its lowest address, which is free for other uses until the stack is
    /// [used](Self::use_here).
    pub(super) fn start(self) -> NonNull<c_void> {
        self.0
    }

    /// Returns the stack that starts there.
    ///
    /// # Safety
    ///
    /// It must be the [start](Self::start) of one that is still mapped.
    pub(super) unsafe fn from_start(start: NonNull<c_void>) -> Self {
        Self(start)
    }

    /// Makes it the calling thread's.
    pub(super) fn use_here(self) {
        let stack = libc::stack_t {
            ss_sp: self.0.as_ptr(),
            ss_flags: 0,
            ss_size: size(),
        };
        // SAFETY: the stack is mapped, and no other thread uses it. It fails only while a handler
        // runs on another.
        unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) };
    }

    /// Unmaps it, and takes it from the calling thread before if that has it.
    ///
    /// # Safety
    ///
    /// It must be mapped, and no other thread may have it.
    pub(super) unsafe fn unmap(self) {
        if of_this_thread().is_some_and(|it| it.ss_sp == self.0.as_ptr()) {
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
        // SAFETY: the mapping is this stack's, and no thread uses it, says the caller.
        unsafe { libc::munmap(start, page + size()) };
    }
}

/// Gives the calling thread an alternate stack for the rest of its life, if it has none.
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
