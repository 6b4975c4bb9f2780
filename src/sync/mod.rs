//! Synchronisation between processes: what waits in shared memory, and who is told of a death.
//!
//! Relies on: robust mutexes (`sys::robust`) wherever something is held, so that the kernel lets go for the dead; sequence words
//! and futexes ([`bell`]) wherever something is waited for, with every step committed by one store, so that a death leaves
//! either all of it or nothing.
//!
//! Invariant: knows nothing of processes; no user code runs under a lock that is not the user's own.

mod atomic;
mod barrier;
pub(crate) mod bell;
mod condition;
mod event;
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
