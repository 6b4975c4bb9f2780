//! The queue with everything but `join`.

use super::macros::{handle, queue};
use super::ring::Limit;
use super::typed_ring::TypedRing;
use crate::error::Result;
use crate::shm::ObjectKind;
use crate::wire::Wire;
use std::time::Duration;

/// A first-in, first-out queue that any number of processes put items into and take them from.
///
/// Items are in shared memory when [`put`](Self::put) returns: nothing is flushed when a process
/// ends, and nothing gets lost with it. Each item is taken once. The queue is a value, so that it
/// can be the argument of a process or travel through a connection; all copies are the same queue,
/// which lasts as long as any of them.
///
/// # Deaths
///
/// A process may be killed at any instant, in the middle of any call: the others go on at once, or
/// within a second if it was just to wake somebody. What it was putting is in the queue as a whole
/// or not at all; of what it was taking, nothing comes twice, and what it had taken is gone with
/// it: one item, or those of one [`get_many`](Self::get_many).
///
/// # Memory
///
/// A bound counts items; memory is taken up as they come, in blocks of 64 KiB and more, about as
/// much as what waits. It goes back to the system when items were read, but for at most 16 MiB with
/// which the queue works. An item can have any size, and a `Vec<u8>` is copied in one piece.
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
