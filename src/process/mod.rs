//! Processes: the start methods, the code a child runs first, functions on the wire; and `Process`,
//! which runs one function in a process of its own.
//!
//! Relies on: the fork server, a copy of this program that never reaches `main` and has one thread.
//!
//! Invariant: this layer does not know what a child does. It passes the child descriptors and a
//! function, and reports how the child exited.

pub(crate) mod at_exit;
pub(crate) mod background_threads;
mod builder;
mod child;
pub(crate) mod child_exit;
mod child_main;
mod children;
mod control;
pub(crate) mod encoded_call;
pub(crate) mod entry;
mod exit_status;
mod fork_map;
pub(crate) mod function;
#[cfg(fuzzing)]
mod fuzzing;
pub(crate) mod identity;
mod invitation;
mod launch;
pub(crate) mod panic;
pub(crate) mod per_process;
mod process_handle;
mod result_channel;
pub(crate) mod start;
pub(crate) mod start_method;
pub(crate) mod task_error;

pub use builder::ProcessBuilder;
pub use children::active_children;
pub use entry::init;
pub use exit_status::ExitStatus;
pub use fork_map::{fork_map, fork_map_unchecked};
#[cfg(fuzzing)]
pub(crate) use fuzzing::LAUNCH;
pub use identity::{ChildInfo, CurrentProcess, ParentProcess, current_process, parent_process};
pub use process_handle::Process;
pub use start_method::{StartMethod, set_start_method, start_method};

/// Returns the number of CPUs this process may use: those in its affinity mask, at most the quota
/// of its cgroup.
///
/// ```
/// assert!(procpool::cpu_count() >= 1);
/// ```
#[must_use]
pub fn cpu_count() -> usize {
    num_cpus::get().max(1)
}
