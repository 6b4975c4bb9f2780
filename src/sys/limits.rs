//! Resource limits of this process, and its CPUs.

use super::fd::cvt;
use nix::sys::resource::{Resource, setrlimit};
use std::{io, mem};

/// Limits a resource for this process and its children. Neither can raise it again.
pub(crate) fn set(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    Ok(setrlimit(resource, soft, hard)?)
}

/// Sets the niceness of this process (-20 to 19). A higher number yields more to other processes.
pub(crate) fn set_niceness(nice: i32) -> io::Result<()> {
    // SAFETY: setpriority takes plain numbers.
    cvt(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) })?;
    Ok(())
}

/// Pins this process to one of its allowed CPUs: the one with index `number`, modulo their count.
pub(crate) fn pin_to_cpu(number: usize) -> io::Result<()> {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: all zeros are an empty set.
    let mut allowed: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the kernel writes at most `size` bytes to a local of that size.
    cvt(unsafe { libc::sched_getaffinity(0, size, &raw mut allowed) })?;
    let most = libc::CPU_SETSIZE as usize;
    // SAFETY: the number is below that of the set's CPUs.
    let cpus: Vec<usize> = (0..most)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &allowed) })
        .collect();
    let Some(cpu) = cpus.get(number % cpus.len().max(1)) else {
        return Err(io::Error::other("the process may use no CPU"));
    };
    // SAFETY: as above.
    let mut only: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the kernel has just returned this number.
    unsafe { libc::CPU_SET(*cpu, &mut only) };
    // SAFETY: the kernel reads a local of that size.
    cvt(unsafe { libc::sched_setaffinity(0, size, &raw const only) })?;
    Ok(())
}

pub(crate) use nix::sys::resource::Resource as Limited;
