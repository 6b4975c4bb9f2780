//! Locks, semaphores, conditions, events, barriers and shared values between processes.
//!
//! The handles travel like any other value: in the argument of a process or task, in a message, in
//! a struct. The shared state outlives any of the processes and is freed with the last handle.
//!
//! | a process is killed while it | result |
//! |---|---|
//! | holds a lock, a condition or a value | the next holder gets [`OwnerDied`], once |
//! | waits for anything | nothing; another waiter may wake up to a second late |
//! | has permits of a semaphore | they are lost until another process releases them |
//! | waits at a barrier | its place is free again |
//! | has not come to a barrier yet | the others wait: use `wait_timeout` |
//!
//! [`OwnerDied`]: crate::ErrorKind::OwnerDied
//!
//! `OwnerDied` is an error that has the guard, like a poisoned lock of `std`:
//! `lock.acquire().or_else(|error| error.into_inner())?` goes on.

// Relies on: robust mutexes (`sys::robust`) for all that is held, which the kernel releases when
// the holder dies; sequence words and futexes (`event_count`) for all that is waited for. Each step
// is committed by one store, so that a death leaves either all of it or nothing.
//
// Invariant: knows nothing of processes; no user code runs under a lock that is not the user's own.

mod atomic;
mod barrier;
mod condition;
mod event;
pub(crate) mod event_count;
mod handle;
mod held;
mod lock;
mod lock_error;
mod semaphore;
mod value;

pub use atomic::{Atomic, AtomicInteger, AtomicPrimitive};
pub use barrier::{Barrier, BarrierWaitResult};
pub use condition::{Condition, ConditionGuard};
pub use event::Event;
pub use lock::{Lock, LockGuard, RLock, RLockGuard};
pub use lock_error::{LockError, LockResult};
pub use semaphore::{BoundedSemaphore, Semaphore};
pub use value::{Array, ArrayGuard, Value, ValueGuard};
