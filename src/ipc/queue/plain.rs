//! The queue with every method except `join`.

use super::macros::{handle, queue};
use super::ring::Limit;
use super::typed_ring::TypedRing;
use crate::error::Result;
use crate::shm::ObjectKind;
use crate::wire::Wire;
use std::time::Duration;

/// A first-in, first-out queue that any number of processes put items into and take them from.
///
/// An item is in shared memory when [`put`](Self::put) returns: nothing needs to be flushed when a
/// process ends, and nothing gets lost with it. Each item is taken once. The queue is a value that
/// can be the argument of a process or part of a message. All copies are the same queue, which
/// lives as long as any of them.
///
/// # Deaths
///
/// A process may be killed at any instant, even during a call. The others continue at once, or
/// within a second if the process was about to wake a waiter. An item that it was putting is in the
/// queue as a whole, or not at all. Items that it has taken are lost with it: one item, or those of
/// one [`get_many`](Self::get_many). No item is taken twice.
///
/// # Memory
///
/// A bound counts items. Memory is used as items are put, in blocks of 64 KiB and more, roughly as
/// much as the waiting items need. It is returned to the system as items are taken, except for a
/// working set of at most 16 MiB. An item can have any size, and a `Vec<u8>` is copied in one
/// piece.
///
/// # Examples
///
/// ```
/// use procpool::{Process, Queue};
///
/// fn work((jobs, results): (Queue<u64>, Queue<u64>)) {
///     while let Ok(n) = jobs.get() {
///         results.put(&(n * n)).expect("it is open");
///     }
/// }
///
/// let (jobs, results) = (Queue::bounded(8)?, Queue::unbounded()?);
/// let worker = Process::start(work, (jobs.clone(), results.clone()))?;
/// for n in 1..=3 {
///     jobs.put(&n)?;
/// }
/// jobs.close();
/// worker.join()?;
/// assert_eq!(results.get_many(10)?, [1, 4, 9]);
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Queue<T>(TypedRing<T>);

handle!(Queue);
queue!(Queue);
