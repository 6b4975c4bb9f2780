//! Processes: how a function is named on the wire, how a child comes to exist, what it enters through.
//!
//! Relies on: the fork server, a copy of this program that never reaches `main` and has one thread.
//!
//! Invariant: what a child does is the business of the layer that asked for it; this one hands it descriptors and a
//! function, and tells how it ended.

pub(crate) mod entry;
pub(crate) mod fault;
pub(crate) mod function;
pub(crate) mod panic;
pub(crate) mod start;

pub use entry::init;

/// CPUs this process may use: those in its affinity mask, and no more than its cgroup's quota pays for.
///
/// ```
/// assert!(procpool::cpu_count() >= 1);
/// ```
#[must_use]
pub fn cpu_count() -> usize {
    num_cpus::get().max(1)
}
