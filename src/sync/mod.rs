//! Synchronisation between processes: what waits in shared memory, and who is told of a death.
//!
//! Relies on: robust mutexes (`sys::robust`) wherever something is held, so that the kernel lets go for the dead; sequence words
//! and futexes ([`bell`]) wherever something is waited for, with every step committed by one store, so that a death leaves
//! either all of it or nothing.
//!
//! Invariant: knows nothing of processes; no user code runs under a lock that is not the user's own.

#[allow(dead_code, reason = "what stands on it follows")]
pub(crate) mod bell;
