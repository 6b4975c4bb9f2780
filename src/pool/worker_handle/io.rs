//! The interface of the scheduler and the worker handle to the system: one worker's pipes, socket
//! and signals, and the clock. They touch descriptors and the clock only through this trait, so
//! that a simulator can replace the processes.

use crate::pool::protocol::fds::FdMessage;
use crate::shm::Slab;
use crate::sys::pidfd::WaitStatus;
use crate::wire::handle::Attached;
use std::{
    fmt, io,
    time::{Duration, Instant},
};

/// The pool's ends of one worker's pipes and socket, and its process. No method blocks.
pub(crate) trait WorkerIo: fmt::Debug {
    /// The set of watched descriptors, which reports events of workers.
    type Events: fmt::Debug;

    /// Returns the current time.
    fn now() -> Instant;

    /// Returns how long ago this moment of [`clock::now`](crate::sys::clock::now) was.
    fn since(then: u64) -> Duration;

    /// Returns a random number, or 0 if the system has none.
    fn random() -> u32;

    /// Watches for wake-ups and for the worker's death. Reports them as events of this slot.
    fn watch(&self, events: &Self::Events, slot: usize) -> io::Result<()>;

    /// Stops watching all descriptors of the worker.
    fn unwatch(&self, events: &Self::Events);

    /// Stops watching for the worker's death, after it was reported.
    fn unwatch_death(&self, events: &Self::Events);

    /// Starts or stops watching for room in the request pipe.
    fn watch_room(&self, events: &Self::Events, slot: usize, is_wanted: bool);

    /// Stops watching the request pipe, before it is closed.
    fn unwatch_requests(&self, events: &Self::Events);

    /// Whether the request pipe is open at this end.
    fn is_open(&self) -> bool;

    /// Writes as many bytes to the request pipe as it has room for. Fails if it is full.
    fn write_requests(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Closes the request pipe: the worker exits once it has read all of it.
    fn close_requests(&mut self);

    /// Reads from the wake-up pipe: wake-ups and the exit record. Returns 0 at its end: no process
    /// is left that could write the exit record.
    fn read_wakeups(&self, buf: &mut [u8]) -> io::Result<usize>;

    /// Sends a slab. Fails with `WouldBlock` if the socket has no room.
    fn send_slab(&self, slab: &Slab) -> io::Result<()>;

    /// Sends descriptors. Fails with `WouldBlock` if the socket has no room.
    fn send_fds(&self, attached: &[Attached]) -> io::Result<()>;

    /// Receives the next message with descriptors. Returns `None` if the socket has no valid
    /// message.
    fn receive_fds(&self) -> Option<FdMessage>;

    /// Sends a signal to the worker.
    fn send_signal(&self, signal: i32) -> io::Result<()>;

    /// Whether the worker is dead, by its pidfd.
    fn is_dead(&self) -> bool;

    /// Whether the worker sleeps in the kernel.
    fn is_asleep(&self) -> bool;

    /// Returns the exit status, if the worker was reaped and the kernel keeps the status.
    fn status_after_reaping(&self) -> Option<WaitStatus>;
}
