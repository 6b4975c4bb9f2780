//! The operating system: every name of nix and libc, and most of the crate's `unsafe`.
//!
//! Relies on: Linux 5.4 or later with /proc mounted. Calls retry `EINTR` and return `io::Error`;
//! the layers above add in the user's terms which operation failed.
//!
//! Invariant: knows only its own files of this crate; no descriptor leaves it without `O_CLOEXEC`
//! or with a number below 3.
#![expect(unsafe_code, reason = "system calls that have no safe wrapper")]

mod alternate_stack;
pub(crate) mod atomic;
pub(crate) mod biased;
pub(crate) mod bytes;
pub(crate) mod child;
pub(crate) mod clock;
pub(crate) mod coverage;
pub(crate) mod crash;
mod elf;
pub(crate) mod environment;
pub(crate) mod exit;
pub(crate) mod fd;
pub(crate) mod fd_list;
pub(crate) mod futex;
mod imports;
pub(crate) mod limits;
mod membarrier;
pub(crate) mod memory;
pub(crate) mod modules;
pub(crate) mod named;
pub(crate) mod new_threads;
pub(crate) mod parent_death;
pub(crate) mod pid;
pub(crate) mod pidfd;
pub(crate) mod pipe;
pub(crate) mod poll;
pub(crate) mod procfs;
pub(crate) mod resident;
pub(crate) mod robust;
pub(crate) mod signal;
pub(crate) mod socket;
pub(crate) mod spawn;
pub(crate) mod spin;
pub(crate) mod stack;
mod symbols;
pub(crate) mod threads;
