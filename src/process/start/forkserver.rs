//! The fork server, seen by its owner: started at the first use, asked for children, replaced when it has died.
//!
//! One per process, shared by all who start children. A process that finds out by its id that it is a fork of the owner
//! starts one of its own.

use crate::error::{Error, ErrorKind, Result};
use crate::process::{
    ending::{self, EndsWithProcess},
    entry,
    function::locate_main,
    per_process::PerProcess,
    start::{
        Child, Request, SignalRequest, Start, fork,
        missing::start_failed,
        server::{GREETING, READY, Reply},
    },
};
use crate::sys::{
    child::{self, PidFd, Threads},
    poll,
    signal::{self, Ignored},
    socket,
};
use parking_lot::Mutex;
use std::{
    cell::Cell,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How long the program's constructors may take before its copy must have answered.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// How long one fork may take; a server that takes longer is stopped or broken, and replaced.
const FORK_LIMIT: Duration = Duration::from_secs(10);

/// How long a server may take to end, with its children, at the end of this process. It computes
/// for 3 ms, but waits for a core up to ten times: 3.4 s in all beside 30 runnable processes.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The server of a process, which all share that start children.
#[derive(Default)]
struct Shared {
    /// `None` before it is first needed.
    server: Mutex<Option<ForkServer>>,
    /// Whether the process ends: it starts none any more.
    is_ended: AtomicBool,
}

static OWN: PerProcess<Shared> = PerProcess::new();

/// Ends the shared server, and takes its status; no other can be started. For the end of the process.
pub(crate) fn end_shared() {
    let Some(own) = OWN.existing() else { return };
    // Relaxed: the lock orders it before what others do under that afterwards.
    own.is_ended.store(true, Ordering::Relaxed);
    if let Some(mut server) = own.server.try_lock_for(END_LIMIT) {
        server.take().inspect(ForkServer::end);
    }
}

/// Starts a child of the fork server in a directory. The server is started or replaced first where that is needed.
pub(crate) fn start(start: &Start<'_>, directory: BorrowedFd<'_>) -> Result<Child> {
    let order = Order::new(start, directory)?;
    let own = OWN.get();
    let mut server = own.server.lock();
    if let Some(running) = server.as_mut() {
        match running.start(&order, FORK_LIMIT) {
            Err(Refusal::Gone) => *server = None,
            done => return done.map_err(Refusal::into_error),
        }
    }
    if own.is_ended.load(Ordering::Relaxed) {
        let message = "failed to start the fork server: this process is ending";
        return Err(Error::new(ErrorKind::StartFailed, message));
    }
    let fresh = server.insert(ForkServer::spawn()?);
    let started = fresh.start(&order, FORK_LIMIT);
    if let Err(Refusal::Gone) = started {
        *server = None;
    }
    started.map_err(Refusal::into_error)
}

/// Sends a signal to a child of the fork server through the server, for an owner that may not send
/// it itself.
pub(crate) fn signal(pid: u32, pidfd: &PidFd, signal: i32) -> io::Result<()> {
    match OWN.get().server.lock().as_mut() {
        Some(running) => running.signal(pid, pidfd, signal),
        None => Err(io::ErrorKind::NotConnected.into()),
    }
}

/// What a server is sent for one child.
struct Order<'a> {
    request: Request,
    passed: &'a [BorrowedFd<'a>],
    bytes: &'a [u8],
    directory: BorrowedFd<'a>,
}

impl<'a> Order<'a> {
    fn new(start: &Start<'a>, directory: BorrowedFd<'a>) -> Result<Self> {
        Ok(Self {
            request: Request {
                number: 0,
                main: locate_main(start.main)?,
                flags: start.flags,
                ignored: Ignored::now(),
            },
            passed: start.passed,
            bytes: start.bytes,
            directory,
        })
    }
}

/// A fork server that is a copy of this process as it was, for one pool. It cannot be replaced: this process may have threads
/// by then.
#[derive(Debug)]
pub(crate) struct Template {
    pid: u32,
    server: Arc<Mutex<ForkServer>>,
}

impl Template {
    pub(crate) fn new(threads: Threads) -> Result<Self> {
        let failed = |it| start_failed("failed to fork a template for workers", it);
        let (control, theirs) = socket::pair().map_err(failed)?;
        let owner = PidFd::open(std::process::id()).map_err(failed)?;
        // The copy closes this process's end: its children are not to have that.
        let control = Cell::new(Some(control));
        let copy = fork::copy(threads, || {
            drop(control.take());
            entry::run_template(theirs, owner)
        })?;
        let control = control.take().expect("only the copy has taken it");
        let server = ForkServer::wait_for_ready(control)
            // One that may not be killed ends with this process.
            .inspect_err(|_| drop(copy.pidfd.kill_and_reap()))
            .map_err(failed)?;
        let server = Arc::new(Mutex::new(server));
        ending::add(&server);
        Ok(Self {
            pid: copy.pid,
            server,
        })
    }

    /// Starts a child of it in a directory.
    pub(super) fn start(&self, start: &Start<'_>, directory: BorrowedFd<'_>) -> Result<Child> {
        let order = Order::new(start, directory)?;
        let started = self.server.lock().start(&order, FORK_LIMIT);
        started.map_err(|it| match it {
            Refusal::Gone => self.gone(),
            Refusal::Failed(_) => it.into_error(),
        })
    }

    /// Sends a signal to a child of it, for an owner that may not send it itself.
    pub(super) fn signal(&self, pid: u32, pidfd: &PidFd, signal: i32) -> io::Result<()> {
        self.server.lock().signal(pid, pidfd, signal)
    }

    fn gone(&self) -> Error {
        let message = format!(
            "failed to fork a worker: process {}, the template from which all workers of this pool by StartMethod::Fork \
             are forked, has ended or does not answer; build the pool anew",
            self.pid
        );
        Error::new(ErrorKind::StartFailed, message)
    }
}

impl EndsWithProcess for Mutex<ForkServer> {
    fn end(&self) {
        if let Some(server) = self.try_lock_for(END_LIMIT) {
            server.end();
        }
    }
}

impl Drop for Template {
    /// Ends it in order, so that it leaves its profile, and nothing that its workers have left.
    fn drop(&mut self) {
        self.server.lock().end();
    }
}

/// Why the server gave no child.
enum Refusal {
    /// It does not answer: start another.
    Gone,
    /// It could not fork.
    Failed(io::Error),
}

impl Refusal {
    fn into_error(self) -> Error {
        let error = match self {
            Self::Gone => io::ErrorKind::BrokenPipe.into(),
            Self::Failed(error) => error,
        };
        start_failed("failed to fork a process", error)
    }
}

#[derive(Debug)]
struct ForkServer {
    pidfd: PidFd,
    control: OwnedFd,
    /// The number of the last request.
    asked: u32,
}

impl ForkServer {
    fn spawn() -> Result<Self> {
        entry::check_reachable()?;
        Self::spawn_reachable().map_err(|it| start_failed("failed to start the fork server", it))
    }

    fn spawn_reachable() -> io::Result<Self> {
        let (control, theirs) = socket::pair()?;
        let own = PidFd::open(std::process::id())?;
        // Before it starts: it looks for the greeting at once.
        socket::send(&control, GREETING, &[own.as_fd()])?;
        let (name, value) = entry::invitation(theirs.as_raw_fd());
        let pid = child::spawn_self(name, &value, theirs.as_fd())?;
        drop(theirs);
        let ready = Self::wait_for_ready(control);
        if ready.is_err() {
            child::abandon(pid, name, &value);
        }
        ready
    }

    /// The server comes with a pidfd of itself. One that the owner opened by its number might be another process's, where the
    /// program reaps all of its children.
    fn wait_for_ready(control: OwnedFd) -> io::Result<Self> {
        let mut answer = [0; 128];
        let (length, mut fds) = receive(&control, &mut answer, READY_LIMIT)?;
        match (&answer[..length], fds.pop().map(PidFd::from_fd)) {
            (READY, Some(pidfd)) => Ok(Self {
                pidfd,
                control,
                asked: 0,
            }),
            (READY, None) => Err(io::Error::other("no descriptor is left for it")),
            (b"", _) => Err(io::Error::other(
                "the copy of the program ended before it was ready",
            )),
            (reason, _) => Err(io::Error::other(String::from_utf8_lossy(reason))),
        }
    }

    fn start(&mut self, order: &Order<'_>, limit: Duration) -> Result<Child, Refusal> {
        let mut passed = order.passed.to_vec();
        passed.push(order.directory);
        self.asked = self.asked.wrapping_add(1);
        let request = Request {
            number: self.asked,
            ..order.request
        };
        let message = [&request.to_bytes(), order.bytes].concat();
        socket::send(&self.control, &message, &passed).map_err(|_| Refusal::Gone)?;
        match self.reply(limit)? {
            (Reply { pid, errno: 0, .. }, Some(pidfd)) => Ok(Child { pid, pidfd }),
            // Its descriptor was lost: this process has too many. The child ends by itself, as our ends are closed or as it is
            // told.
            (Reply { errno: 0, .. }, None) => Err(Refusal::Failed(io::Error::other(
                "no descriptor is left for the new process",
            ))),
            (Reply { errno, .. }, _) => Err(Refusal::Failed(io::Error::from_raw_os_error(errno))),
        }
    }

    /// Has the server and all its daemons end, and takes its status.
    fn end(&self) {
        socket::shut_down(&self.control);
        // One that takes longer is killed.
        let _ = poll::readable(&self.pidfd, Some(END_LIMIT));
        // One that may not be killed is left alone.
        let _ = self.pidfd.kill_and_reap();
    }

    fn signal(&mut self, pid: u32, pidfd: &PidFd, signal: i32) -> io::Result<()> {
        self.asked = self.asked.wrapping_add(1);
        let request = SignalRequest {
            number: self.asked,
            pid,
            signal,
        };
        socket::send(&self.control, &request.to_bytes(), &[pidfd.as_fd()])?;
        match self.reply(FORK_LIMIT) {
            Ok((Reply { errno: 0, .. }, _)) => Ok(()),
            Ok((Reply { errno, .. }, _)) => Err(io::Error::from_raw_os_error(errno)),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// The answer to the last request.
    fn reply(&self, limit: Duration) -> Result<(Reply, Option<PidFd>), Refusal> {
        let deadline = Instant::now() + limit;
        loop {
            let mut bytes = [0; Reply::SIZE];
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = receive(&self.control, &mut bytes, left);
            let (length, mut fds) = answer.map_err(|_| Refusal::Gone)?;
            if length != Reply::SIZE {
                return Err(Refusal::Gone);
            }
            let (reply, pidfd) = (Reply::from_bytes(bytes), fds.pop().map(PidFd::from_fd));
            if reply.number == self.asked {
                return Ok((reply, pidfd));
            }
            // It was given up before this came: nobody wants its child, which ends by itself if it
            // cannot be killed.
            pidfd.inspect(|it| drop(it.send(signal::KILL)));
        }
    }
}

/// Receives a message within the limit.
fn receive(
    control: &OwnedFd,
    into: &mut [u8],
    limit: Duration,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    if !poll::readable(control, Some(limit))? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    socket::receive(control, into)
}

impl Drop for ForkServer {
    /// Ends a server that is of no more use, and takes its status: it is a child of this process.
    fn drop(&mut self) {
        if self.pidfd.kill_and_reap().is_err() {
            // It may not be killed, but ends by itself when it finds the end of its socket.
            socket::shut_down(&self.control);
            self.pidfd.wait_and_reap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::start::Flags;
    use std::process::Command;

    fn order(directory: BorrowedFd<'_>) -> Order<'_> {
        let flags = Flags {
            is_daemon: true,
            executes: false,
        };
        let start = Start {
            main: |_| 0,
            passed: &[],
            bytes: &[],
            flags,
        };
        Order::new(&start, directory).expect("a function of this program")
    }

    /// Takes a request as a server does, and gives its number.
    fn take(control: &OwnedFd) -> u32 {
        let mut request = [0; Request::SIZE];
        socket::receive(control, &mut request).expect("a request");
        Request::from_bytes(&request).number
    }

    fn answer(control: &OwnedFd, number: u32, pid: u32) {
        let reply = Reply {
            number,
            pid,
            errno: 0,
        };
        let pidfd = PidFd::open(pid).expect("a child of this process");
        socket::send(control, &reply.to_bytes(), &[pidfd.as_fd()]).expect("room");
    }

    #[test]
    fn an_answer_that_comes_too_late_is_not_the_next_ones() {
        // 1. A server is stopped, and a start gives up. 2. The server goes on, and answers. 3. The next start finds that.
        let [mut it, mut late, mut next] = [(); 3].map(|()| {
            let child = Command::new("sleep").arg("1000").spawn();
            child.expect("a program")
        });
        let (control, theirs) = socket::pair().expect("sockets");
        let pidfd = PidFd::open(it.id()).expect("a child of this process");
        let mut server = ForkServer {
            pidfd,
            control,
            asked: 0,
        };
        let directory = crate::process::start::directory().expect("room for a descriptor");
        let order = order(directory.as_fd());
        let given_up = server.start(&order, Duration::ZERO);
        assert!(matches!(given_up, Err(Refusal::Gone)));
        answer(&theirs, take(&theirs), late.id());
        answer(&theirs, 2, next.id());
        let started = server.start(&order, FORK_LIMIT);
        assert_eq!(started.map(|it| it.pid).ok(), Some(next.id()));
        assert_eq!(take(&theirs), 2);
        // Nobody has the first child: it is killed.
        late.wait().expect("a child of this process");
        drop(server);
        next.kill().expect("it runs");
        next.wait().expect("a child of this process");
        drop(it.wait());
    }
}
