//! Waiting for several descriptors at once.

use crate::error::{Error, Result};
use crate::sys::poll;
use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

/// Waits until at least one of the sources is ready, and says which are, by their indices in
/// ascending order.
///
/// A source is anything with a descriptor: a [`Connection`](crate::Connection), a
/// [`Receiver`](crate::Receiver), a listener, a process's sentinel, a socket of `std`. Ready is one
/// that can be read from without blocking, and one whose other end is gone, which is what reading
/// it will report. Nothing is read.
///
/// Blocks for at most `limit`, without one for as long as it takes, and gives an empty list when
/// the limit has passed. With no sources that is all it does, so that no limit and no sources never
/// end.
///
/// # Errors
///
/// [`ErrorKind::Io`](crate::ErrorKind::Io) when the system refuses, for more sources than a process
/// may have open, say.
///
/// # Examples
///
/// ```
/// use procpool::{one_way, wait_ready};
///
/// let (first, _idle) = one_way::<u32>()?;
/// let (second, sender) = one_way::<u32>()?;
/// sender.send(&7)?;
/// assert_eq!(wait_ready(&[&first, &second], None)?, [1]);
/// assert_eq!(second.recv()?, 7);
/// # Ok::<(), procpool::Error>(())
/// ```
pub fn wait_ready(sources: &[&dyn AsFd], limit: Option<Duration>) -> Result<Vec<usize>> {
    let deadline = limit.and_then(|it| Instant::now().checked_add(it));
    let fds: Vec<_> = sources.iter().map(|it| it.as_fd()).collect();
    poll::wait_readable(&fds, deadline)
        .map_err(|it| Error::io("failed to wait for several sources", it))
}
