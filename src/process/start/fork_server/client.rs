//! The owner's side of the fork server: starts the server on first use, requests children, and
//! replaces a server that died.
//!
//! One server per process, shared by all callers. A fork of the owner notices that its pid differs
//! and starts a server of its own.

use crate::error::{Error, ErrorKind, Result};
use crate::process::{
    entry,
    function::locate_main,
    per_process::PerProcess,
    start::{
        Child, SignalRequest, SpawnArgs, SpawnHeader,
        fork_server::protocol::{GREETING, READY, SpawnReply},
        start_error::start_error,
    },
};
use crate::sys::{
    pidfd::PidFd,
    poll,
    signal::{self, IgnoredSignals},
    socket, spawn,
};
use parking_lot::Mutex;
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// How long the copy of the program may take to become ready, including its constructors.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// How long one fork may take. A server that takes longer is stopped or broken, and is replaced.
pub(super) const FORK_LIMIT: Duration = Duration::from_secs(10);

/// How long a server may take to exit with its children when this process exits. It computes for 3
/// ms, but waits for a core up to ten times: 3.4 s in all next to 30 runnable processes.
pub(super) const END_LIMIT: Duration = Duration::from_secs(5);

/// The fork server that all threads of this process share.
#[derive(Default)]
struct SharedForkServer {
    /// `None` until the first child is started.
    server: Mutex<Option<ForkServer>>,
    /// Whether this process is exiting; then no server is started.
    is_closed: AtomicBool,
}

static FORK_SERVER: PerProcess<SharedForkServer> = PerProcess::new();

/// Shuts the shared server down and reaps it. No other server can be started afterwards. Called
/// when this process exits.
pub(crate) fn shut_down_shared() {
    let Some(own) = FORK_SERVER.existing() else {
        return;
    };
    // Relaxed: `start` reads it under the lock. If `start` has the lock first, the server it starts
    // is shut down below. If it gets the lock later, the lock orders this store before its load.
    own.is_closed.store(true, Ordering::Relaxed);
    if let Some(mut server) = own.server.try_lock_for(END_LIMIT) {
        server.take().inspect(ForkServer::shut_down);
    }
}

/// Starts a child of the fork server in `directory`. Starts or replaces the server first if needed.
pub(crate) fn start(start: &SpawnArgs<'_>, directory: BorrowedFd<'_>) -> Result<Child> {
    let request = SpawnRequest::new(start, directory)?;
    let own = FORK_SERVER.get();
    let mut server = own.server.lock();
    if let Some(running) = server.as_mut() {
        match running.start(&request, FORK_LIMIT) {
            // 1. The server is killed, or stopped for longer than the limit. 2. This request finds
            //    the end of the socket, or no reply. 3. The server is dropped, which kills it, and
            //    a new one gets the same request once.
            Err(StartError::ServerGone) => *server = None,
            result => return result.map_err(StartError::into_error),
        }
    }
    if own.is_closed.load(Ordering::Relaxed) {
        let message = "failed to start the fork server: this process is ending";
        return Err(Error::new(ErrorKind::StartFailed, message));
    }
    let fresh = server.insert(ForkServer::spawn()?);
    let started = fresh.start(&request, FORK_LIMIT);
    if let Err(StartError::ServerGone) = started {
        *server = None;
    }
    started.map_err(StartError::into_error)
}

/// Sends a signal to a child through the fork server, for an owner that may not send it itself.
/// Blocks until the server has replied.
pub(crate) fn signal(pid: u32, pidfd: &PidFd, signal: i32) -> io::Result<()> {
    match FORK_SERVER.get().server.lock().as_mut() {
        Some(running) => running.signal(pid, pidfd, signal),
        None => Err(io::ErrorKind::NotConnected.into()),
    }
}

/// A request for one child.
pub(super) struct SpawnRequest<'a> {
    header: SpawnHeader,
    passed: &'a [BorrowedFd<'a>],
    bytes: &'a [u8],
    directory: BorrowedFd<'a>,
}

impl<'a> SpawnRequest<'a> {
    pub(super) fn new(start: &SpawnArgs<'a>, directory: BorrowedFd<'a>) -> Result<Self> {
        Ok(Self {
            header: SpawnHeader {
                number: 0,
                main: locate_main(start.main)?,
                flags: start.flags,
                ignored: IgnoredSignals::now(),
            },
            passed: start.passed,
            bytes: start.bytes,
            directory,
        })
    }
}

/// The reason why the server did not start a child.
pub(super) enum StartError {
    /// The server does not reply; start another.
    ServerGone,
    /// The server replied that it could not fork.
    Failed(io::Error),
}

impl StartError {
    pub(super) fn into_error(self) -> Error {
        let error = match self {
            Self::ServerGone => io::ErrorKind::BrokenPipe.into(),
            Self::Failed(error) => error,
        };
        start_error("failed to fork a process", error)
    }
}

#[derive(Debug)]
pub(super) struct ForkServer {
    pidfd: PidFd,
    control: OwnedFd,
    /// The number of the last request. Replies to earlier requests are discarded.
    last_number: u32,
}

impl ForkServer {
    fn spawn() -> Result<Self> {
        entry::check_reachable()?;
        let spawned = Self::spawn_reachable();
        spawned.map_err(|error| start_error("failed to start the fork server", error))
    }

    fn spawn_reachable() -> io::Result<Self> {
        let (control, theirs) = socket::pair()?;
        let own = PidFd::open(std::process::id())?;
        // Sent before the server starts, because the server reads the greeting without waiting.
        socket::send(&control, GREETING, &[own.as_fd()])?;
        let (name, value) = entry::invitation_variable(theirs.as_raw_fd());
        let pid = spawn::spawn_self(name, &value, theirs.as_fd())?;
        drop(theirs);
        let ready = Self::wait_for_ready(control);
        if ready.is_err() {
            spawn::exit_if_abandoned(pid, name, &value);
        }
        ready
    }

    /// Waits for the message that the server is ready, which carries a pidfd of the server.
    ///
    /// A pidfd that the owner opens by number could belong to another process: 1. The server exits.
    /// 2. The program reaps all of its children. 3. Another process gets the pid.
    pub(super) fn wait_for_ready(control: OwnedFd) -> io::Result<Self> {
        let mut answer = [0; 128];
        let (len, mut fds) = receive_timeout(&control, &mut answer, READY_LIMIT)?;
        match (&answer[..len], fds.pop().map(PidFd::from_fd)) {
            (READY, Some(pidfd)) => Ok(Self {
                pidfd,
                control,
                last_number: 0,
            }),
            (READY, None) => Err(io::Error::other(
                "this process has too many open descriptors",
            )),
            (b"", _) => Err(io::Error::other(
                "the copy of the program ended before it was ready",
            )),
            (reason, _) => Err(io::Error::other(String::from_utf8_lossy(reason))),
        }
    }

    pub(super) fn start(
        &mut self,
        request: &SpawnRequest<'_>,
        limit: Duration,
    ) -> Result<Child, StartError> {
        let mut passed = request.passed.to_vec();
        passed.push(request.directory);
        self.last_number = self.last_number.wrapping_add(1);
        let header = SpawnHeader {
            number: self.last_number,
            ..request.header
        };
        let message = [&header.to_bytes(), request.bytes].concat();
        socket::send(&self.control, &message, &passed).map_err(|_| StartError::ServerGone)?;
        match self.wait_for_reply(limit)? {
            (SpawnReply { pid, errno: 0, .. }, Some(pidfd)) => Ok(Child { pid, pidfd }),
            // This process has too many descriptors to receive the pidfd. The child exits when the
            // owner closes its ends, or when it receives `Stop`.
            (SpawnReply { errno: 0, .. }, None) => Err(StartError::Failed(io::Error::other(
                "this process has too many open descriptors for the new process",
            ))),
            (SpawnReply { errno, .. }, _) => {
                Err(StartError::Failed(io::Error::from_raw_os_error(errno)))
            }
        }
    }

    /// Shuts down the server and all its daemons, then reaps the server.
    pub(super) fn shut_down(&self) {
        socket::shut_down(&self.control);
        // A server that takes longer is killed.
        let _ = poll::is_readable(&self.pidfd, Some(END_LIMIT));
        // A server that may not be killed is left alone.
        let _ = self.pidfd.kill_and_reap();
    }

    pub(super) fn signal(&mut self, pid: u32, pidfd: &PidFd, signal: i32) -> io::Result<()> {
        self.last_number = self.last_number.wrapping_add(1);
        let request = SignalRequest {
            number: self.last_number,
            pid,
            signal,
        };
        socket::send(&self.control, &request.to_bytes(), &[pidfd.as_fd()])?;
        match self.wait_for_reply(FORK_LIMIT) {
            Ok((SpawnReply { errno: 0, .. }, _)) => Ok(()),
            Ok((SpawnReply { errno, .. }, _)) => Err(io::Error::from_raw_os_error(errno)),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Waits for the reply to the last request.
    fn wait_for_reply(&self, limit: Duration) -> Result<(SpawnReply, Option<PidFd>), StartError> {
        let deadline = Instant::now() + limit;
        loop {
            let mut bytes = [0; SpawnReply::SIZE];
            let remaining = deadline.saturating_duration_since(Instant::now());
            let answer = receive_timeout(&self.control, &mut bytes, remaining);
            let (len, mut fds) = answer.map_err(|_| StartError::ServerGone)?;
            if len != SpawnReply::SIZE {
                return Err(StartError::ServerGone);
            }
            let (reply, pidfd) = (SpawnReply::from_bytes(bytes), fds.pop().map(PidFd::from_fd));
            if reply.number == self.last_number {
                return Ok((reply, pidfd));
            }
            // A late reply: 1. A request times out. 2. The server continues, and replies to it.
            // 3. The next request reads that reply. No caller wants that child. If it cannot be
            //    killed here, it exits by itself, because the owner has closed its ends.
            pidfd.inspect(|pidfd| drop(pidfd.send(signal::KILL)));
        }
    }
}

/// Receives a message, for at most `limit`.
fn receive_timeout(
    control: &OwnedFd,
    into: &mut [u8],
    limit: Duration,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    if !poll::is_readable(control, Some(limit))? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    socket::receive(control, into)
}

impl Drop for ForkServer {
    /// Kills and reaps an unused server: it is a child of this process.
    fn drop(&mut self) {
        if self.pidfd.kill_and_reap().is_err() {
            // It may not be killed, but exits when it sees the end of its socket.
            socket::shut_down(&self.control);
            self.pidfd.wait_and_reap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::start::SpawnFlags;
    use std::process::Command;

    fn request_in(directory: BorrowedFd<'_>) -> SpawnRequest<'_> {
        let flags = SpawnFlags {
            is_daemon: true,
            executes: false,
        };
        let start = SpawnArgs {
            main: |_| 0,
            passed: &[],
            bytes: &[],
            flags,
        };
        SpawnRequest::new(&start, directory).expect("a function of this program")
    }

    /// Receives a request like a server, and returns its number.
    fn take(control: &OwnedFd) -> u32 {
        let mut request = [0; SpawnHeader::SIZE];
        socket::receive(control, &mut request).expect("a request");
        SpawnHeader::from_bytes(&request).number
    }

    fn answer(control: &OwnedFd, number: u32, pid: u32) {
        let reply = SpawnReply {
            number,
            pid,
            errno: 0,
        };
        let pidfd = PidFd::open(pid).expect("a child of this process");
        socket::send(control, &reply.to_bytes(), &[pidfd.as_fd()]).expect("room");
    }

    #[test]
    fn an_answer_that_comes_too_late_is_not_the_next_ones() {
        // 1. A server is stopped, and a start gives up. 2. The server goes on, and answers. 3. The
        //    next start finds that.
        let [mut server_process, mut late, mut next] = [(); 3].map(|()| {
            let child = Command::new("sleep").arg("1000").spawn();
            child.expect("a program")
        });
        let (control, theirs) = socket::pair().expect("sockets");
        let pidfd = PidFd::open(server_process.id()).expect("a child of this process");
        let mut server = ForkServer {
            pidfd,
            control,
            last_number: 0,
        };
        let directory =
            crate::process::start::open_working_directory().expect("room for a descriptor");
        let request = request_in(directory.as_fd());
        let given_up = server.start(&request, Duration::ZERO);
        assert!(matches!(given_up, Err(StartError::ServerGone)));
        answer(&theirs, take(&theirs), late.id());
        answer(&theirs, 2, next.id());
        let started = server.start(&request, FORK_LIMIT);
        assert_eq!(started.map(|child| child.pid).ok(), Some(next.id()));
        assert_eq!(take(&theirs), 2);
        // No caller has the first child: it is killed.
        late.wait().expect("a child of this process");
        drop(server);
        next.kill().expect("it runs");
        next.wait().expect("a child of this process");
        drop(server_process.wait());
    }
}
