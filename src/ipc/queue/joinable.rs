//! The queue that knows when everything in it was done with.

use super::macros::{handle, queue};
use super::ring::Limit;
use super::typed_ring::TypedRing;
use crate::error::{Error, ErrorKind, Result};
use crate::shm::ObjectKind;
use crate::wire::Wire;
use std::time::Duration;

/// A [`Queue`](crate::Queue) whose items are counted again when they are done with, so that one can
/// wait until all are.
///
/// A consumer that dies with an item in hand leaves it undone, and [`join`](Self::join) waiting;
/// with [`join_timeout`](Self::join_timeout) that is found out.
///
/// # Examples
///
/// ```
/// use procpool::{JoinableQueue, Process};
///
/// fn work(queue: JoinableQueue<u64>) -> u64 {
///     let mut sum = 0;
///     while let Ok(n) = queue.get() {
///         sum += n;
///         queue.task_done().expect("once for each item");
///     }
///     sum
/// }
///
/// let queue = JoinableQueue::unbounded()?;
/// let worker = Process::start(work, queue.clone())?;
/// queue.put_many(&[1, 2, 3])?;
/// queue.join()?;
/// queue.close();
/// assert_eq!(worker.result()?, 6);
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct JoinableQueue<T>(TypedRing<T>);

handle!(JoinableQueue);
queue!(JoinableQueue);

impl<T: Wire> JoinableQueue<T> {
    /// Says that an item that was taken is done with.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if that was said of as many items as were ever put;
    /// [`ErrorKind::Disconnected`] when something else has written to the queue's memory.
    pub fn task_done(&self) -> Result<()> {
        if self.0.ring().task_done()? {
            return Ok(());
        }
        let message = "`task_done` was called more often than items were put";
        Err(Error::new(ErrorKind::InvalidInput, message))
    }

    /// Waits until every item that was put is done with; at once if none was. A closed queue can be
    /// waited for, too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Disconnected`] when something else has written to the queue's memory.
    pub fn join(&self) -> Result<()> {
        self.0.ring().join(Limit::ENDLESS).map(drop)
    }

    /// As [`join`](Self::join), for so long at the most.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] when items are left undone; else as [`join`](Self::join).
    pub fn join_timeout(&self, limit: Duration) -> Result<()> {
        if self.0.ring().join(Limit::after(limit))? {
            return Ok(());
        }
        let message = format!("not all items of the queue were done with within {limit:?}");
        Err(Error::new(ErrorKind::TimedOut, message))
    }
}
