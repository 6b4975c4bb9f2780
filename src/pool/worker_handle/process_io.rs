//! The descriptors of a worker process: its pipes, its socket and its pidfd.

use crate::error::{Error, Result};
use crate::pool::{
    protocol::fds::{self, FdMessage},
    scheduler::{EventSource, token},
    worker_handle::io::WorkerIo,
};
use crate::process::start::Child;
use crate::shm::Slab;
use crate::sys::{
    clock, fd, pid,
    pidfd::{PidFd, WaitStatus},
    pipe,
    poll::{Interest, Poller},
    socket,
};
use crate::wire::handle::Attached;
use std::{
    io,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

/// The capacity of the request pipe, in bytes: several chunks, so that few writes are partial.
const PIPE_BYTES: i32 = 256 << 10;

/// The pool's ends of a worker's pipes and socket, and its process.
#[derive(Debug)]
pub(crate) struct ProcessIo {
    pub(crate) pid: u32,
    pub(crate) pidfd: Arc<PidFd>,
    /// The request pipe; `None` once the worker was told to exit.
    requests: Option<OwnedFd>,
    /// The worker's end of the request pipe. Without it, a write after the worker's death would
    /// raise SIGPIPE, which kills a program that does not ignore it.
    _reader: OwnedFd,
    wakeups: OwnedFd,
    socket: OwnedFd,
}

/// Both ends of a worker's pipes and socket.
pub(crate) struct Endpoints {
    pub(crate) requests: OwnedFd,
    pub(crate) requests_reader: OwnedFd,
    pub(crate) wakeups: OwnedFd,
    pub(crate) wake_writer: OwnedFd,
    pub(crate) socket: OwnedFd,
    pub(crate) worker_socket: OwnedFd,
}

impl Endpoints {
    pub(crate) fn new() -> Result<Self> {
        Self::create().map_err(|reason| Error::io("failed to create a worker's pipes", reason))
    }

    fn create() -> io::Result<Self> {
        let (requests_reader, requests) = pipe::pipe()?;
        let (wakeups, wake_writer) = pipe::pipe()?;
        let (socket, worker_socket) = socket::pair()?;
        fd::set_nonblocking(&requests)?;
        pipe::enlarge(&requests, PIPE_BYTES);
        fd::set_nonblocking(&wakeups)?;
        Ok(Self {
            requests,
            requests_reader,
            wakeups,
            wake_writer,
            socket,
            worker_socket,
        })
    }
}

impl ProcessIo {
    pub(crate) fn new(child: Child, ends: Endpoints) -> Self {
        Self {
            pid: child.pid,
            pidfd: Arc::new(child.pidfd),
            requests: Some(ends.requests),
            _reader: ends.requests_reader,
            wakeups: ends.wakeups,
            socket: ends.socket,
        }
    }
}

impl WorkerIo for ProcessIo {
    type Events = Arc<Poller>;

    fn now() -> Instant {
        Instant::now()
    }

    fn since(then: u64) -> Duration {
        clock::since(then)
    }

    fn random() -> u32 {
        getrandom::u32().unwrap_or(0)
    }

    fn watch(&self, events: &Arc<Poller>, slot: usize) -> io::Result<()> {
        events.add(
            &self.wakeups,
            token(slot, EventSource::Wake),
            Interest::Read,
        )?;
        events.add(
            &*self.pidfd,
            token(slot, EventSource::Death),
            Interest::Read,
        )?;
        self.requests.as_ref().map_or(Ok(()), |requests| {
            events.add(requests, token(slot, EventSource::Requests), Interest::None)
        })
    }

    fn unwatch(&self, events: &Arc<Poller>) {
        events.remove(&self.wakeups);
        self.unwatch_death(events);
        self.unwatch_requests(events);
    }

    fn unwatch_death(&self, events: &Arc<Poller>) {
        events.remove(&*self.pidfd);
    }

    fn watch_room(&self, events: &Arc<Poller>, slot: usize, is_wanted: bool) {
        let interest = if is_wanted {
            Interest::Write
        } else {
            Interest::None
        };
        if let Some(requests) = &self.requests {
            // Cannot fail: the descriptor is in the set.
            let _ = events.change(requests, token(slot, EventSource::Requests), interest);
        }
    }

    fn unwatch_requests(&self, events: &Arc<Poller>) {
        self.requests
            .iter()
            .for_each(|requests| events.remove(requests));
    }

    fn is_open(&self) -> bool {
        self.requests.is_some()
    }

    fn write_requests(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.requests {
            Some(requests) => pipe::write(requests, bytes),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn close_requests(&mut self) {
        self.requests = None;
    }

    fn read_wakeups(&self, buf: &mut [u8]) -> io::Result<usize> {
        pipe::read(&self.wakeups, buf)
    }

    fn send_slab(&self, slab: &Slab) -> io::Result<()> {
        fds::try_send_slab(&self.socket, slab)
    }

    fn send_fds(&self, attached: &[Attached]) -> io::Result<()> {
        fds::try_send_fds(&self.socket, attached)
    }

    fn receive_fds(&self) -> Option<FdMessage> {
        let receive = |buf: &mut [u8]| socket::try_receive(&self.socket, buf);
        fds::next_message(receive, Slab::from_fd)
    }

    fn send_signal(&self, signal: i32) -> io::Result<()> {
        self.pidfd.send(signal)
    }

    fn is_dead(&self) -> bool {
        self.pidfd.is_dead()
    }

    fn is_asleep(&self) -> bool {
        pid::is_asleep(self.pid)
    }

    fn status_after_reaping(&self) -> Option<WaitStatus> {
        self.pidfd.status_after_reaping()
    }
}
