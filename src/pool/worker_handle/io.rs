//! What the scheduler and a worker handle need of the outside: one worker's pipes, socket and
//! signals, and the clock. They touch no descriptor and no clock except through this trait, so that
//! a simulator can stand in for the processes.

use crate::pool::protocol::fds::FdMessage;
use crate::shm::Slab;
use crate::sys::pidfd::WaitStatus;
use crate::wire::handle::Attached;
use std::{
    fmt, io,
    time::{Duration, Instant},
};

/// The pool's end of what connects one worker. No method blocks.
pub(crate) trait WorkerIo: fmt::Debug {
    /// Where the scheduler is told that something happened to one of its workers.
    type Events: fmt::Debug;

    /// Returns the time.
    fn now() -> Instant;

    /// Returns how long ago this moment of [`clock::now`](crate::sys::clock::now) was.
    fn since(then: u64) -> Duration;

    /// Returns a random number, or 0 if the system has none.
    fn random() -> u32;

    /// Watches wake-ups and the worker's death, as events of the worker in this slot.
    fn watch(&self, events: &Self::Events, slot: usize) -> io::Result<()>;

    /// Stops watching everything.
    fn unwatch(&self, events: &Self::Events);

    /// Stops watching for the worker's death, which has been noticed.
    fn unwatch_death(&self, events: &Self::Events);

    /// Watches for room in the pipe of requests, or stops that.
    fn watch_room(&self, events: &Self::Events, slot: usize, is_wanted: bool);

    /// Stops watching the pipe of requests, which is closed next.
    fn unwatch_requests(&self, events: &Self::Events);

    /// Whether requests can be written: the pipe was not closed here.
    fn is_open(&self) -> bool;

    /// Writes requests as far as the pipe has room, at least one byte.
    fn write_requests(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Closes the pipe of requests: the worker ends when it has read all of it.
    fn close_requests(&mut self);

    /// Reads wake-ups, and the record of the worker's end; 0 if no process is left that could write
    /// that.
    fn read_wakeups(&self, buf: &mut [u8]) -> io::Result<usize>;

    /// Sends a slab; `WouldBlock` if the socket has no room.
    fn send_slab(&self, slab: &Slab) -> io::Result<()>;

    /// Sends descriptors; `WouldBlock` if the socket has no room.
    fn send_fds(&self, attached: &[Attached]) -> io::Result<()>;

    /// Receives the next message with descriptors, if there is one.
    fn receive_fds(&self) -> Option<FdMessage>;

    /// Sends a signal to the worker.
    fn send_signal(&self, signal: i32) -> io::Result<()>;

    /// Whether the worker has ended.
    fn is_dead(&self) -> bool;

    /// Whether the worker sleeps in the kernel.
    fn is_asleep(&self) -> bool;

    /// Returns how the worker ended, once its parent has reaped it and if the kernel tells.
    fn status_after_reaping(&self) -> Option<WaitStatus>;
}
