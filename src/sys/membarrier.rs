//! A memory barrier that one thread runs in all threads of its process.

use std::{io, sync::OnceLock};

/// `enum membarrier_cmd` of linux/membarrier.h, which libc lacks.
const QUERY: libc::c_int = 0;
const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

/// Whether [`barrier_in_all_threads`] works here. It does not on an old kernel, with a strict
/// seccomp filter, or in an emulator.
pub(super) fn has_remote_barrier() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| membarrier(QUERY).is_ok_and(|commands| commands & PRIVATE_EXPEDITED != 0))
}

/// Runs a full memory barrier in every running thread of this process, including this one.
pub(super) fn barrier_in_all_threads() -> io::Result<libc::c_int> {
    membarrier(PRIVATE_EXPEDITED).or_else(|_| {
        // The process is not registered yet. This happens once, and takes milliseconds with many
        // threads.
        membarrier(REGISTER_PRIVATE_EXPEDITED)?;
        membarrier(PRIVATE_EXPEDITED)
    })
}

fn membarrier(command: libc::c_int) -> io::Result<libc::c_int> {
    // SAFETY: the call takes three integers and touches no memory of the caller.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result as libc::c_int)
}
