//! The fork server, seen from inside: a copy of the program with one thread, which forks and reaps
//! for its owner.
//!
//! It does four things, in one loop without a lock or a timer: it forks when the owner asks, it
//! signals a child that the owner may not signal itself, it writes down how children ended, and it
//! ends itself and all of them when the owner is gone. Deaths, and what follows:
//!
//! - *The owner* (or its socket): the pidfd or the socket becomes readable; every daemon is killed
//!   and reaped, then what they leave behind, then the server ends; a child that is no daemon runs
//!   on. A copy of the owner that holds the socket open does not matter: the pidfd tells.
//! - *A child*: its status goes to its pipe or socket, and its own children, which become the
//!   server's, are killed. Among them may be the fork server of a nested pool, whose children
//!   follow in the next round.
//! - *The server*: no signal ends it but SIGKILL, and its own faults. The kernel kills its children
//!   (PDEATHSIG; the server has one thread, so the signal that follows the thread follows the
//!   process). The owner sees the end of the socket and starts another server.

use crate::process::{
    child_exit, entry,
    function::{self, ChildArgs, ChildMain},
    start::{ExitRecord, MAX_INLINE_LEN, SignalRequest, SpawnFlags, SpawnHeader, exec},
};
use crate::shm;
use crate::sys::{
    child::{self, Forked, PidFd, Threads},
    fd, pid, poll,
    signal::{self, ChildDeaths, IgnoredSignals},
    socket, threads,
};
use std::{
    cell::Cell,
    io, mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// What the owner puts into the socket before the server starts.
pub(super) const GREETING: &[u8] = b"procpool fork server 1";
/// What the server says when it can take requests; a pidfd of its own comes with it.
pub(super) const READY: &[u8] = b"ready";

/// What is said of a failure that was not the system's.
const EIO: i32 = 5;
/// What is said of a process that is none of the server's.
const ECHILD: i32 = 10;
/// What is said when a process has too many descriptors.
const EMFILE: i32 = 24;

/// The answer to a request: a child, whose pidfd is passed along, or why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SpawnReply {
    /// The request's.
    pub(super) number: u32,
    pub(super) pid: u32,
    pub(super) errno: i32,
}

impl SpawnReply {
    pub(super) const SIZE: usize = 12;

    pub(super) fn to_bytes(self) -> [u8; Self::SIZE] {
        let (number, pid) = (u128::from(self.number), u128::from(self.pid));
        let word = number | pid << 32 | u128::from(self.errno.cast_unsigned()) << 64;
        *word.to_le_bytes().first_chunk().expect("it is longer")
    }

    pub(super) fn from_bytes(bytes: [u8; Self::SIZE]) -> Self {
        let field = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("a field"));
        Self {
            number: field(0),
            pid: field(4),
            errno: field(8).cast_signed(),
        }
    }
}

/// How long killed children may take to end when the server itself ends. A killed process has to
/// run once more: beside 40 runnable processes one waited 0.8 s for a core without getting it. The
/// owner waits longer (`END_LIMIT`).
const KILL_TIMEOUT: Duration = Duration::from_secs(4);

/// A process that was invited to be a fork server and has not yet become one.
pub(crate) struct PendingServer {
    control: OwnedFd,
    owner: OwnedFd,
}

/// What closes every descriptor but those it is given.
pub(crate) type KeepOnly = fn(Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>>;

/// Takes what lies in the socket of an invitation. `None` if it is not for a server, or cannot be
/// taken.
pub(crate) fn accept_invitation(control: OwnedFd) -> Option<PendingServer> {
    let mut greeting = [0; GREETING.len() + 1];
    let (len, mut passed) = socket::try_receive(&control, &mut greeting).ok()?;
    let owner = passed.pop().filter(|_| greeting[..len] == *GREETING);
    if owner.is_none() {
        // The owner sees the end of the socket otherwise.
        let _ = socket::try_send(
            &control,
            b"the copy of the program has no room for a descriptor",
            &[],
        );
    }
    Some(PendingServer {
        control,
        owner: owner?,
    })
}

/// Tells the owner what constructors have left that keeps this process from being copied; false if
/// there is something.
fn can_be_copied(control: &OwnedFd) -> io::Result<bool> {
    let Some(obstacle) = obstacle()? else {
        return Ok(true);
    };
    let reason = format!("a constructor of the program has {obstacle}");
    socket::send(control, reason.as_bytes(), &[])?;
    Ok(false)
}

/// Returns what a constructor has done that the server's children would not survive: with threads,
/// they are copies of one, with the locks of the others; with guards, all share the references.
fn obstacle() -> io::Result<Option<String>> {
    if threads::count()? != 1 {
        return Ok(Some("started a thread".to_owned()));
    }
    Ok(shm::guards().map(|it| format!("leaked {it}")))
}

impl PendingServer {
    /// Has `keep_only` close every descriptor but those of the server, if this process can be
    /// copied.
    pub(crate) fn claim_process(self, keep_only: KeepOnly) -> io::Result<ForkServerProcess> {
        if !can_be_copied(&self.control)? {
            return Err(io::ErrorKind::Unsupported.into());
        }
        fd::fill_stdio()?;
        let mut kept = keep_only(vec![self.control, self.owner])?;
        let owner = PidFd::from_fd(kept.pop().expect("two were kept"));
        let control = kept.pop().expect("two were kept");
        child::set_name("procpool-server");
        child::become_subreaper()?;
        Ok(ForkServerProcess::new(control, owner, false))
    }
}

/// The server, its owner and its children.
pub(crate) struct ForkServerProcess {
    control: OwnedFd,
    owner: PidFd,
    children: Vec<TrackedChild>,
    /// Where a request comes in.
    message: Vec<u8>,
    /// Whether it is a copy of its owner, whose children keep what that one had open.
    is_template: bool,
}

/// What a process does that has taken a request.
enum Next {
    /// It goes on serving.
    Serve,
    /// The owner has closed the socket.
    End,
    /// It is the new child.
    Become(Job),
}

/// A child that was forked, on either side.
enum Started {
    Child(u32, PidFd),
    Here(Job),
}

/// What a child of the server is to do.
struct Job {
    main: ChildMain,
    request: SpawnHeader,
    args: ChildArgs,
}

/// A child of the server.
struct TrackedChild {
    pid: u32,
    /// Where its end is to be reported.
    report_to: OwnedFd,
    is_daemon: bool,
}

impl ForkServerProcess {
    /// A copy of the owner.
    pub(crate) fn template(control: OwnedFd, owner: PidFd) -> io::Result<Self> {
        child::set_name("procpool-server");
        child::become_subreaper()?;
        Ok(Self::new(control, owner, true))
    }

    fn new(control: OwnedFd, owner: PidFd, is_template: bool) -> Self {
        Self {
            control,
            owner,
            children: Vec::new(),
            message: vec![0; SpawnHeader::SIZE + MAX_INLINE_LEN],
            is_template,
        }
    }

    /// Serves until the owner is gone, in a process that ignores these signals and handles none.
    pub(crate) fn serve(mut self, ignored: IgnoredSignals) -> io::Result<()> {
        signal::block_what_comes_from_outside()?;
        // What constructors have printed must not be in the buffers of every child.
        child_exit::flush_output();
        warm_up();
        let deaths = ChildDeaths::watch()?;
        if !can_be_copied(&self.control)? {
            return Ok(());
        }
        let own = PidFd::open(std::process::id())?;
        // This fails, and ends the process, when the owner has stopped waiting and closed its end.
        socket::send(&self.control, READY, &[own.as_fd()])?;
        drop(own);
        let served = self.run_loop(&deaths, ignored);
        if let Ok(Some(job)) = served {
            self.become_child(deaths, job)
        }
        self.kill_all(&deaths);
        served.map(drop)
    }

    /// Does in a new child what it was forked for. A copy of the owner keeps what that one had
    /// open, and closes what the server has: a task that writes to all of its descriptors hits
    /// neither the server nor its other children.
    fn become_child(self, deaths: ChildDeaths, job: Job) -> ! {
        if !self.is_template {
            run_child(job)
        }
        drop((self, deaths));
        child_exit::run_and_exit(job.main, job.args)
    }

    /// Serves; what is to be done, in a new child.
    fn run_loop(
        &mut self,
        deaths: &ChildDeaths,
        ignored: IgnoredSignals,
    ) -> io::Result<Option<Job>> {
        let mut orphans_possible = false;
        loop {
            // Orphans are looked for while nothing else is to be done: without a list of children
            // that takes a millisecond.
            let limit = orphans_possible.then_some(Duration::ZERO);
            let watched = [self.owner.as_fd(), self.control.as_fd(), deaths.as_fd()];
            match poll::which_readable(watched, limit)? {
                [true, ..] => return Ok(None),
                [_, _, true] => {
                    deaths.clear();
                    orphans_possible |= self.reap();
                }
                [_, true, _] => match self.handle_request(ignored)? {
                    Next::Serve => {}
                    Next::End => return Ok(None),
                    Next::Become(job) => return Ok(Some(job)),
                },
                _ => {
                    let event = || poll::which_readable(watched, Some(Duration::ZERO));
                    let interrupted = || event().map_or(true, |it| it.contains(&true));
                    orphans_possible = !self.kill_orphans(interrupted);
                }
            }
        }
    }

    /// Takes one request. A child that it asks for returns from here, too.
    fn handle_request(&mut self, ignored: IgnoredSignals) -> io::Result<Next> {
        let (len, fds) = socket::receive(&self.control, &mut self.message)?;
        if let Ok(request) = self.message[..len].try_into() {
            let request = SignalRequest::from_bytes(request);
            self.handle_signal_request(request, fds)?;
            return Ok(Next::Serve);
        }
        let Some((request, bytes)) = self.message[..len].split_first_chunk() else {
            return Ok(Next::End);
        };
        let (request, bytes) = (SpawnHeader::from_bytes(request), bytes.to_vec());
        let number = request.number;
        // It is dropped here, behind the answer: the owner need not wait until all of it is closed.
        let mut args = ChildArgs { fds, bytes };
        let started = match self.start(request, &mut args, ignored) {
            Ok(Started::Here(job)) => return Ok(Next::Become(job)),
            Ok(Started::Child(pid, pidfd)) => Ok((pid, pidfd)),
            Err(error) => Err(error),
        };
        let sent = started.and_then(|(pid, pidfd)| {
            let reply = SpawnReply {
                number,
                pid,
                errno: 0,
            };
            socket::send(&self.control, &reply.to_bytes(), &[pidfd.as_fd()])
        });
        if let Err(error) = sent {
            // A child that the owner does not get ends by itself: the owner closes its ends, or
            // tells it to.
            let errno = error.raw_os_error().unwrap_or(EIO);
            let reply = SpawnReply {
                number,
                pid: 0,
                errno,
            };
            socket::send(&self.control, &reply.to_bytes(), &[])?;
        }
        Ok(Next::Serve)
    }

    fn handle_signal_request(
        &self,
        request: SignalRequest,
        mut fds: Vec<OwnedFd>,
    ) -> io::Result<()> {
        let sent = match fds.pop().map(PidFd::from_fd) {
            Some(pidfd) => self.signal(request, &pidfd),
            None => Err(io::Error::from_raw_os_error(EMFILE)),
        };
        let errno = sent.err().map(|it| it.raw_os_error().unwrap_or(EIO));
        let reply = SpawnReply {
            number: request.number,
            pid: request.pid,
            errno: errno.unwrap_or(0),
        };
        socket::send(&self.control, &reply.to_bytes(), &[])
    }

    /// Sends a signal to a child, and to nothing else that the owner names.
    fn signal(&self, request: SignalRequest, pidfd: &PidFd) -> io::Result<()> {
        if pidfd.is_dead() {
            return Ok(());
        }
        let is_known = self.children.iter().any(|it| it.pid == request.pid);
        if !is_known || !pidfd.is_child() {
            return Err(io::Error::from_raw_os_error(ECHILD));
        }
        // Where a sandbox refuses pidfds, by its number: that is its own before this process reaps
        // it.
        pidfd
            .send(request.signal)
            .or_else(|_| child::signal_child(request.pid, request.signal))
    }

    fn start(
        &mut self,
        request: SpawnHeader,
        args: &mut ChildArgs,
        ignored: IgnoredSignals,
    ) -> io::Result<Started> {
        let main = function::resolve_main(request.main).map_err(io::Error::other)?;
        // Some come with every request; they have found no room here if they have not come.
        let no_room = || io::Error::from_raw_os_error(EMFILE);
        let directory = args.fds.pop().ok_or_else(no_room)?;
        let report = args.fds.first().ok_or_else(no_room)?.try_clone()?;
        request.flags.add_run_on_mark(args)?;
        let server = std::process::id();
        match child::fork(Threads::One)? {
            Forked::Child => {
                // The answer comes first: on a busy machine the owner would have it only when this
                // process sleeps or ends.
                std::thread::yield_now();
                ignored.replace_with(request.ignored);
                if prepare_child(server, request.flags, directory.as_fd()).is_err() {
                    child::exit_now(child_exit::EX_SOFTWARE);
                }
                let args = mem::take(args);
                Ok(Started::Here(Job {
                    main,
                    request,
                    args,
                }))
            }
            Forked::Parent(pid) => {
                self.children.push(TrackedChild {
                    pid,
                    report_to: report,
                    is_daemon: request.flags.is_daemon,
                });
                // Nobody could watch it. The number is its own before this process reaps it.
                let pidfd = PidFd::open(pid).inspect_err(|_| child::kill_child(pid))?;
                Ok(Started::Child(pid, pidfd))
            }
        }
    }

    /// Reports every child that has ended; true when there was one.
    fn reap(&mut self) -> bool {
        let mut any = false;
        while let Some((pid, status)) = child::reap_any() {
            any = true;
            let Some(at) = self.children.iter().position(|it| it.pid == pid) else {
                continue;
            };
            let TrackedChild {
                report_to: report, ..
            } = self.children.swap_remove(at);
            ExitRecord(status).write_to(&report);
        }
        any
    }

    /// Kills the processes that dead children have left behind, which are the server's own now;
    /// false if something else had to be done first.
    fn kill_orphans(&self, interrupted: impl FnMut() -> bool) -> bool {
        let Some(orphans) = self.orphans(interrupted) else {
            return false;
        };
        orphans.into_iter().for_each(child::kill_child);
        true
    }

    /// Processes that dead children have left behind, but for those that are to run on; none if
    /// interrupted.
    fn orphans(&self, interrupted: impl FnMut() -> bool) -> Option<Vec<u32>> {
        // Without /proc there is nothing to be found.
        let mut children = child::children(interrupted).unwrap_or(Some(Vec::new()))?;
        children.retain(|pid| {
            let is_known = self.children.iter().any(|it| it.pid == *pid);
            // What /proc says is not believed without the kernel's word for it: nothing but a child
            // is killed.
            !is_known && child::is_child(*pid) && !child::runs_on(*pid)
        });
        Some(children)
    }

    fn kill_all(&mut self, deaths: &ChildDeaths) {
        let deadline = Instant::now() + KILL_TIMEOUT;
        loop {
            for served in self.children.iter().filter(|it| it.is_daemon) {
                child::kill_child(served.pid);
            }
            self.kill_orphans(|| false);
            deaths.clear();
            self.reap();
            let left = deadline.saturating_duration_since(Instant::now());
            let daemons = self.children.iter().any(|it| it.is_daemon);
            let orphans = self.orphans(|| false).is_some_and(|it| !it.is_empty());
            if left.is_zero() || !daemons && !orphans {
                return;
            }
            // A failed wait only means to look again.
            let _ = poll::is_readable(deaths, Some(left.min(Duration::from_millis(10))));
        }
    }
}

/// Does once what every child would do for the first time otherwise: the loader looks up what the
/// destructor of a thread-local needs, and the page for the process's id is made.
fn warm_up() {
    thread_local! {
        static DESTROYED: Cell<Option<Box<()>>> = const { Cell::new(None) };
    }
    DESTROYED.set(None);
    pid::current();
}

/// The forked child: runs what it was started for, in this image of the program or a new one.
fn run_child(job: Job) -> ! {
    if job.request.flags.executes {
        // It returns only when the program cannot be executed.
        let _ = exec::exec(job.request, &job.args);
        child::exit_now(child_exit::EX_SOFTWARE);
    }
    entry::run_forked_child(job.main, job.args)
}

fn prepare_child(server: u32, flags: SpawnFlags, directory: BorrowedFd<'_>) -> io::Result<()> {
    if flags.is_daemon {
        child::die_with_parent()?;
        // The server may have died before the line above; then the parent is another process.
        if child::parent() != server {
            child::exit_now(0);
        }
    }
    // The directory may have become unreachable; the server's own is as good as any then.
    let _ = child::set_working_directory(directory);
    // What the child's main function does at the others is its own to say.
    signal::block_only_ending()
}
