//! Waiting for several descriptors at once.

use crate::error::{Error, Result};
use crate::sys::poll;
use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

/// Waits until at least one of the sources is ready. Returns the indices of the ready ones in
/// ascending order.
///
/// A source is anything with a descriptor: a [`Connection`](crate::Connection), a
/// [`Receiver`](crate::Receiver), a listener, a process's sentinel, a socket of `std`. A source is
/// ready if reading it does not block, which includes a source whose other end is gone. Nothing is
/// read.
///
/// Blocks for at most `limit`, forever without one. Returns an empty list after `limit`. An empty
/// list of sources with no limit blocks forever.
///
/// # Errors
///
/// [`ErrorKind::Io`](crate::ErrorKind::Io) if the system refuses, for example if there are more
/// sources than a process may have open.
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
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let fds: Vec<_> = sources.iter().map(|it| it.as_fd()).collect();
    poll::wait_readable(&fds, deadline)
        .map_err(|error| Error::io("failed to wait for several sources", error))
}
