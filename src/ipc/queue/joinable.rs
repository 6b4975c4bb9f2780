//! A queue that knows when all of its items are processed.

use super::macros::{handle, queue};
use super::ring::Limit;
use super::typed_ring::TypedRing;
use crate::error::{Error, ErrorKind, Result};
use crate::shm::ObjectKind;
use crate::wire::Wire;
use std::time::Duration;

/// A [`Queue`](crate::Queue) whose consumers report each processed item, so that
/// [`join`](Self::join) can wait until all are.
///
/// If a consumer dies while it processes an item, the item is never reported and
/// [`join`](Self::join) waits forever. Use [`join_timeout`](Self::join_timeout) to detect that.
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
    /// Reports that an item taken from the queue is processed. Never blocks.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if as many items were reported as were put;
    /// [`ErrorKind::Disconnected`] if something else has written to the queue's memory.
    pub fn task_done(&self) -> Result<()> {
        if self.0.ring().task_done()? {
            return Ok(());
        }
        let message = "`task_done` was called more often than items were put";
        Err(Error::new(ErrorKind::InvalidInput, message))
    }

    /// Waits until every item that was put is processed. Returns at once if none was put. Also
    /// works for a closed queue.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Disconnected`] if something else has written to the queue's memory.
    pub fn join(&self) -> Result<()> {
        self.0.ring().join(Limit::ENDLESS).map(drop)
    }

    /// Like [`join`](Self::join), but blocks for at most `limit`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] if items are not processed in time; otherwise like
    /// [`join`](Self::join).
    pub fn join_timeout(&self, limit: Duration) -> Result<()> {
        if self.0.ring().join(Limit::after(limit))? {
            return Ok(());
        }
        let message = format!("not all items of the queue were processed within {limit:?}");
        Err(Error::new(ErrorKind::TimedOut, message))
    }
}
