//! Locks, semaphores, conditions, events, barriers and shared values between processes.
//!
//! The handles are values: they can be an argument of a process or task, or part of a message or
//! struct. The shared state outlives each of the processes, and is freed with the last handle.
//!
//! | if a process is killed while it | then |
//! |---|---|
//! | holds a lock, a condition or a value | the next holder gets [`OwnerDied`], once |
//! | waits | nothing happens; another waiter may wake up to a second late |
//! | holds permits of a semaphore | they are lost until another process releases them |
//! | waits at a barrier | its seat is free again |
//! | is on its way to a barrier | the others wait: use `wait_timeout` |
//!
//! [`OwnerDied`]: crate::ErrorKind::OwnerDied
//!
//! `OwnerDied` is an error that holds the guard, like a poisoned lock of `std`:
//! `lock.acquire().or_else(|error| error.into_inner())?` continues with it.

// Relies on: robust mutexes (`sys::robust`) for everything that is held, which the kernel releases
// when the holder dies; words and futexes (`event_count`) for everything that is waited for. Each
// step is committed by one store, so a death leaves all of it or nothing.
//
// Invariant: does not know processes; no user code runs under a lock other than the user's own.

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
