//! Waiting for descriptors: for a few at once, or with a lasting set.

use super::fd::{above_stdio, retry};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout},
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::{EfdFlags, EventFd},
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

/// Waits until `fd` is readable or its peer has closed it. Returns false after `limit`.
pub(crate) fn is_readable(fd: impl AsFd, limit: Option<Duration>) -> io::Result<bool> {
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    loop {
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match nix::poll::poll(&mut fds, poll_timeout(timeout)) {
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(0) if timeout.is_some_and(|it| it.is_zero()) => return Ok(false),
            Ok(0) => {}
            Ok(_) => return Ok(true),
        }
    }
}

/// Waits for `limit`, or until the peer of `fd` has closed it or a signal arrives.
pub(crate) fn wait_for_hang_up(fd: impl AsFd, limit: Duration) {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::empty())];
    // The caller checks its condition again after any outcome.
    let _ = nix::poll::poll(&mut fds, poll_timeout(Some(limit)));
}

/// Whether the peer of a Unix socket has closed it, or the connection was shut down.
pub(crate) fn has_hung_up(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::empty())];
    nix::poll::poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

/// Waits until one of `fds` is readable or at its end, and returns which are.
pub(crate) fn which_readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    limit: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    retry(|| nix::poll::poll(&mut polled, poll_timeout(limit)))?;
    Ok(polled.map(|fd| fd.any().unwrap_or(true)))
}

/// Waits until one of `fds` is readable or at its end, and returns which are. Returns no
/// descriptors after the deadline.
pub(crate) fn wait_readable(
    fds: &[BorrowedFd<'_>],
    deadline: Option<Instant>,
) -> io::Result<Vec<usize>> {
    let polled = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN));
    let mut polled: Vec<_> = polled.collect();
    loop {
        let limit = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match nix::poll::poll(&mut polled, poll_timeout(limit)) {
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(0) if limit.is_some_and(|it| it.is_zero()) => return Ok(Vec::new()),
            Ok(0) => {}
            Ok(_) => break,
        }
    }
    let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
    let indices = polled.iter().enumerate().filter(|(_, fd)| is_ready(fd));
    Ok(indices.map(|it| it.0).collect())
}

fn poll_timeout(limit: Option<Duration>) -> PollTimeout {
    let Some(limit) = limit else {
        return PollTimeout::NONE;
    };
    // Rounded up: a wait of 0.3 ms must not become a busy loop of zero waits.
    let millis = limit.as_nanos().div_ceil(1_000_000);
    PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
}

/// The event of a descriptor that a [`Poller`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    /// No event, for now.
    None,
    /// Bytes to read, or the end of file.
    Read,
    /// Like `Read`, but no event after the first report.
    ReadOnce,
    /// Room to write.
    Write,
    /// The peer sends nothing more; reported once.
    HangUp,
}

impl Interest {
    fn flags(self) -> EpollFlags {
        match self {
            Self::None => EpollFlags::empty(),
            Self::Read => EpollFlags::EPOLLIN,
            Self::ReadOnce => EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT,
            Self::Write => EpollFlags::EPOLLOUT,
            Self::HangUp => EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLONESHOT,
        }
    }
}

/// A set of descriptors to wait for, each with a token that the caller chooses (epoll,
/// level-triggered).
#[derive(Debug)]
pub(crate) struct Poller(Epoll);

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self(Epoll(above_stdio(set.0)?)))
    }

    pub(crate) fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(interest.flags(), token))?)
    }

    pub(crate) fn change(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(self
            .0
            .modify(fd, &mut EpollEvent::new(interest.flags(), token))?)
    }

    /// Removes a descriptor. Closing it would not suffice, since other processes may have it open.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        // It fails only if the descriptor is not in the set.
        let _ = self.0.delete(fd);
    }

    /// Waits for at most `limit` and stores the tokens of the ready descriptors. A signal ends the
    /// wait early.
    pub(crate) fn wait(&self, limit: Option<Duration>, ready: &mut Vec<u64>) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        let millis = limit.map(|limit| limit.as_nanos().div_ceil(1_000_000));
        let timeout = match millis {
            None => EpollTimeout::NONE,
            Some(millis) => EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX),
        };
        let count = match self.0.wait(&mut events, timeout) {
            Err(nix::Error::EINTR) => 0,
            other => other?,
        };
        ready.clear();
        ready.extend(events[..count].iter().map(EpollEvent::data));
        Ok(())
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

/// A counter that wakes a thread waiting on a [`Poller`].
#[derive(Debug)]
pub(crate) struct Notifier(EventFd);

impl Notifier {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let fd = above_stdio(EventFd::from_value_and_flags(0, flags)?.into())?;
        // SAFETY: the descriptor is the eventfd that was just created, or a duplicate of it.
        Ok(Self(unsafe { EventFd::from_owned_fd(fd) }))
    }

    pub(crate) fn notify(&self) {
        // It fails only if the counter is at its maximum, where it is already readable.
        let _ = self.0.write(1);
    }

    pub(crate) fn clear(&self) {
        // It fails only if the counter is zero, where it is already cleared.
        let _ = self.0.read();
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A timer that wakes a thread waiting on a [`Poller`].
#[derive(Debug)]
pub(crate) struct Timer(TimerFd);

impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let fd = above_stdio(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?.into())?;
        // SAFETY: the descriptor is the timer that was just created, or a duplicate of it.
        Ok(Self(unsafe { TimerFd::from_owned_fd(fd) }))
    }

    /// Fires once, after `delay`, and then stays readable.
    pub(crate) fn set(&self, delay: Duration) {
        // A delay of zero would disarm the timer.
        let delay = delay.max(Duration::from_nanos(1));
        let expiration = Expiration::OneShot(TimeSpec::from_duration(delay));
        // It fails only for an invalid time.
        let _ = self.0.set(expiration, TimerSetTimeFlags::empty());
    }

    /// Makes the timer unreadable after it has fired.
    pub(crate) fn clear(&self) {
        // It fails only if the timer has not fired.
        let _ = self.0.wait();
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_that_is_due_goes_off() {
        let alarm = Timer::new().expect("a timer");
        alarm.set(Duration::ZERO);
        let limit = Some(Duration::from_secs(60));
        assert!(is_readable(&alarm, limit).expect("a descriptor"));
    }
}
