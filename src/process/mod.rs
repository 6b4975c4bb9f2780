//! Processes: how a function is named on the wire, how a child comes to exist, what it enters through; and `Process`, one
//! function in a process of its own.
//!
//! Relies on: the fork server, a copy of this program that never reaches `main` and has one thread.
//!
//! Invariant: what a child does is the business of the layer that asked for it; this one hands it descriptors and a
//! function, and tells how it ended.

mod bootstrap;
mod builder;
pub(crate) mod call;
mod child;
pub(crate) mod ending;
pub(crate) mod entry;
pub(crate) mod fault;
mod fork_map;
pub(crate) mod function;
#[cfg(fuzzing)]
mod fuzzing;
mod handle;
pub(crate) mod identity;
mod invitation;
mod luggage;
pub(crate) mod method;
mod outcome;
pub(crate) mod own_threads;
pub(crate) mod panic;
pub(crate) mod per_process;
mod registry;
pub(crate) mod start;
mod status;
mod words;

pub use builder::ProcessBuilder;
pub use entry::init;
pub use fork_map::{fork_map, fork_map_unchecked};
#[cfg(fuzzing)]
pub(crate) use fuzzing::LAUNCH;
pub use handle::Process;
pub use identity::{ChildInfo, CurrentProcess, ParentProcess, current_process, parent_process};
pub use method::{StartMethod, set_start_method, start_method};
pub use registry::active_children;
pub use status::ExitStatus;

/// CPUs this process may use: those in its affinity mask, and no more than its cgroup's quota pays for.
///
/// ```
/// assert!(procpool::cpu_count() >= 1);
/// ```
#[must_use]
pub fn cpu_count() -> usize {
    num_cpus::get().max(1)
}
