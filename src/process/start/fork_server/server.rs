//! The fork server process: a copy of the program with one thread, which forks and reaps children
//! for its owner.
//!
//! It does four things in one loop, without a lock or a timer: it forks when the owner asks, it
//! signals a child that the owner may not signal itself, it reports how children exited, and it
//! shuts down when the owner is gone. The deaths it handles:
//!
//! - *The owner dies* (or closes its socket): the pidfd or the socket becomes readable. The server
//!   kills and reaps every daemon, then their orphans, then exits. A child that is not a daemon
//!   keeps running. A fork of the owner may hold the socket open, so the pidfd is needed too.
//! - *A child dies*: its status is written to its pipe or socket. Its own children become the
//!   server's, and are killed. One of them may be the fork server of a nested pool, whose children
//!   follow in the next round.
//! - *The server dies*: only SIGKILL or a fault of its own ends it. The kernel kills its daemons
//!   (PDEATHSIG; the server has one thread, so the signal that follows the thread follows the
//!   process). The owner sees the end of the socket and starts another server.

use super::{
    pending::can_be_copied,
    protocol::{READY, SpawnReply},
};
use crate::process::{
    child_exit, entry,
    function::{self, ChildArgs, ChildMain},
    start::{ExitRecord, MAX_INLINE_LEN, SignalRequest, SpawnFlags, SpawnHeader, exec},
};
use crate::sys::{
    child::{self, Forked, Threads},
    pid,
    pidfd::PidFd,
    poll,
    signal::{self, ChildDeaths, IgnoredSignals},
    socket,
};
use std::{
    cell::Cell,
    io, mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// The errno of a failure that is not the system's.
const EIO: i32 = 5;
/// The errno if a process is not a child of the server.
const ECHILD: i32 = 10;
/// The errno if a process has too many descriptors.
const EMFILE: i32 = 24;

/// How long killed children may take to exit when the server shuts down. A killed process must run
/// once more: next to 40 runnable processes, one waited for a core for 0.8 s in vain. The owner
/// waits longer (`END_LIMIT`).
const KILL_TIMEOUT: Duration = Duration::from_secs(4);

/// The state of the server process.
pub(crate) struct ForkServerProcess {
    control: OwnedFd,
    owner: PidFd,
    children: Vec<TrackedChild>,
    /// The buffer for requests.
    message: Vec<u8>,
    /// Whether the server is a fork of its owner. Its children keep the descriptors that the owner
    /// had open.
    is_template: bool,
}

/// The next step of the loop after a request.
enum Next {
    /// Continues to serve.
    Serve,
    /// Shuts down: the owner has closed the socket.
    End,
    /// Leaves the loop: this process is the new child.
    RunChild(Job),
}

/// The result of a fork, in either process.
enum Started {
    InServer(u32, PidFd),
    InChild(Job),
}

/// The work of a new child.
struct Job {
    main: ChildMain,
    request: SpawnHeader,
    args: ChildArgs,
}

/// A child of the server.
struct TrackedChild {
    pid: u32,
    /// The pipe or socket that gets the [`ExitRecord`].
    report_to: OwnedFd,
    is_daemon: bool,
}

impl ForkServerProcess {
    /// Creates the server in a fork of its owner.
    pub(crate) fn template(control: OwnedFd, owner: PidFd) -> io::Result<Self> {
        child::set_name("procpool-server");
        child::become_subreaper()?;
        Ok(Self::new(control, owner, true))
    }

    pub(super) fn new(control: OwnedFd, owner: PidFd, is_template: bool) -> Self {
        Self {
            control,
            owner,
            children: Vec::new(),
            message: vec![0; SpawnHeader::SIZE + MAX_INLINE_LEN],
            is_template,
        }
    }

    /// Serves until the owner is gone. `ignored` are the signals that this process ignores; it
    /// handles none.
    pub(crate) fn serve(mut self, ignored: IgnoredSignals) -> io::Result<()> {
        signal::block_what_comes_from_outside()?;
        // Every child would write what constructors left in the buffers.
        child_exit::flush_output();
        warm_up();
        let deaths = ChildDeaths::watch()?;
        // Checked again, because constructors ran in between:
        // 1. `claim_process` finds one thread. 2. A constructor that comes after this crate's
        //    starts a thread or leaks a guard.
        if !can_be_copied(&self.control)? {
            return Ok(());
        }
        let own = PidFd::open(std::process::id())?;
        // 1. The owner gives up waiting and closes its end. 2. The server becomes ready. 3. This
        //    send fails, and the process exits.
        socket::send(&self.control, READY, &[own.as_fd()])?;
        drop(own);
        let served = self.run_loop(&deaths, ignored);
        if let Ok(Some(job)) = served {
            self.become_child(deaths, job)
        }
        self.kill_all(&deaths);
        served.map(drop)
    }

    /// Runs a job in a new child. The child of a template keeps the descriptors that the owner had
    /// open, and closes those of the server: a task that writes to all of its descriptors must
    /// reach neither the server nor its other children.
    fn become_child(self, deaths: ChildDeaths, job: Job) -> ! {
        if !self.is_template {
            run_child(job)
        }
        drop((self, deaths));
        child_exit::run_and_exit(job.main, job.args)
    }

    /// Serves requests and deaths. Returns a job in a new child, and `None` in the server when the
    /// owner is gone.
    fn run_loop(
        &mut self,
        deaths: &ChildDeaths,
        ignored: IgnoredSignals,
    ) -> io::Result<Option<Job>> {
        let mut orphans_possible = false;
        loop {
            // Orphans are searched only if there is nothing else to do: without a list of children
            // in /proc that takes a millisecond.
            let limit = orphans_possible.then_some(Duration::ZERO);
            let watched = [self.owner.as_fd(), self.control.as_fd(), deaths.as_fd()];
            match poll::which_readable(watched, limit)? {
                [true, ..] => return Ok(None),
                [_, _, true] => {
                    // Cleared before `reap`. In the other order: 1. `reap` finds no dead child.
                    // 2. A child dies. 3. `clear` discards the event, and its status is not
                    //    reported before the next death.
                    deaths.clear();
                    // 1. A child dies, and its children become the server's. 2. `reap` reports it.
                    // 3. An idle round kills those children. 4. Their deaths lead here again, and
                    //    their own children follow in the next idle round.
                    orphans_possible |= self.reap();
                }
                [_, true, _] => match self.handle_request(ignored)? {
                    Next::Serve => {}
                    Next::End => return Ok(None),
                    Next::RunChild(job) => return Ok(Some(job)),
                },
                _ => {
                    let poll_now = || poll::which_readable(watched, Some(Duration::ZERO));
                    let interrupted = || poll_now().map_or(true, |ready| ready.contains(&true));
                    orphans_possible = !self.kill_orphans(interrupted);
                }
            }
        }
    }

    /// Receives and handles one request. Returns in the new child too.
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
        // Dropped after the reply, so that the owner does not wait until all descriptors are
        // closed.
        let mut args = ChildArgs { fds, bytes };
        let started = match self.start(request, &mut args, ignored) {
            Ok(Started::InChild(job)) => return Ok(Next::RunChild(job)),
            Ok(Started::InServer(pid, pidfd)) => Ok((pid, pidfd)),
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
            // 1. The child exists. 2. The reply with its pidfd cannot be sent, for example because
            //    too many descriptors are in flight. 3. The owner gets the errno, and closes its
            //    ends or sends `Stop`. 4. The child exits without running its function.
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
        let errno = match sent {
            Ok(()) => 0,
            Err(error) => error.raw_os_error().unwrap_or(EIO),
        };
        let reply = SpawnReply {
            number: request.number,
            pid: request.pid,
            errno,
        };
        socket::send(&self.control, &reply.to_bytes(), &[])
    }

    /// Sends a signal to a child of the server. Fails for any other process.
    fn signal(&self, request: SignalRequest, pidfd: &PidFd) -> io::Result<()> {
        if pidfd.is_dead() {
            return Ok(());
        }
        let is_known = self.children.iter().any(|child| child.pid == request.pid);
        if !is_known || !pidfd.is_child() {
            return Err(io::Error::from_raw_os_error(ECHILD));
        }
        // A sandbox may forbid signals by pidfd. The pid is still the child's, because only this
        // thread reaps it.
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
        // Every request carries descriptors. If they are missing, this process has too many.
        let no_room = || io::Error::from_raw_os_error(EMFILE);
        let directory = args.fds.pop().ok_or_else(no_room)?;
        let report = args.fds.first().ok_or_else(no_room)?.try_clone()?;
        request.flags.add_run_on_mark(args)?;
        let server = std::process::id();
        match child::fork(Threads::One)? {
            Forked::Child => {
                // Lets the server reply first. On a busy machine the owner would otherwise wait
                // until this child sleeps or exits.
                std::thread::yield_now();
                ignored.replace_with(request.ignored);
                if prepare_child(server, request.flags, directory.as_fd()).is_err() {
                    child::exit_now(child_exit::EX_SOFTWARE);
                }
                let args = mem::take(args);
                Ok(Started::InChild(Job {
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
                // The child may be dead already, but not reaped, so the pid is still its own.
                // Without a pidfd no process could watch it.
                let pidfd = PidFd::open(pid).inspect_err(|_| child::kill_child(pid))?;
                Ok(Started::InServer(pid, pidfd))
            }
        }
    }

    /// Reaps every child that has exited and reports its status. Returns true if there was one.
    fn reap(&mut self) -> bool {
        let mut any = false;
        while let Some((pid, status)) = child::reap_any() {
            any = true;
            let index = self.children.iter().position(|child| child.pid == pid);
            let Some(index) = index else {
                continue;
            };
            let child = self.children.swap_remove(index);
            ExitRecord(status).write_to(&child.report_to);
        }
        any
    }

    /// Kills the orphans of dead children, which are the server's children now. Returns false if
    /// interrupted.
    fn kill_orphans(&self, interrupted: impl FnMut() -> bool) -> bool {
        let Some(orphans) = self.orphans(interrupted) else {
            return false;
        };
        orphans.into_iter().for_each(child::kill_child);
        true
    }

    /// Returns the orphans of dead children, except marked processes, which are not daemons; `None`
    /// if interrupted.
    fn orphans(&self, interrupted: impl FnMut() -> bool) -> Option<Vec<u32>> {
        // Without /proc no orphan can be found.
        let mut children = child::children(interrupted).unwrap_or(Some(Vec::new()))?;
        children.retain(|pid| {
            let is_known = self.children.iter().any(|child| child.pid == *pid);
            // /proc may be stale or mounted from elsewhere. The kernel confirms each child before
            // it is killed.
            !is_known && child::is_child(*pid) && !child::runs_on(*pid)
        });
        Some(children)
    }

    /// Kills and reaps all daemons and orphans, for at most [`KILL_TIMEOUT`].
    fn kill_all(&mut self, deaths: &ChildDeaths) {
        let deadline = Instant::now() + KILL_TIMEOUT;
        loop {
            for daemon in self.children.iter().filter(|child| child.is_daemon) {
                child::kill_child(daemon.pid);
            }
            // Repeated, because a killed orphan leaves its own children to the server.
            self.kill_orphans(|| false);
            deaths.clear();
            self.reap();
            let remaining = deadline.saturating_duration_since(Instant::now());
            let has_daemons = self.children.iter().any(|child| child.is_daemon);
            let orphans = self.orphans(|| false);
            let has_orphans = orphans.is_some_and(|pids| !pids.is_empty());
            if remaining.is_zero() || !has_daemons && !has_orphans {
                return;
            }
            // A failed wait only repeats the check earlier.
            let _ = poll::is_readable(deaths, Some(remaining.min(Duration::from_millis(10))));
        }
    }
}

/// Initializes what every child would initialize on first use otherwise: the loader's entry for the
/// destructor of a thread-local, and the page of the process id.
fn warm_up() {
    thread_local! {
        static DESTROYED: Cell<Option<Box<()>>> = const { Cell::new(None) };
    }
    DESTROYED.set(None);
    pid::current();
}

/// Runs a job in a forked child, in this image of the program or in a new one.
fn run_child(job: Job) -> ! {
    if job.request.flags.executes {
        // Returns only if the program cannot be executed.
        let _ = exec::exec(job.request, &job.args);
        child::exit_now(child_exit::EX_SOFTWARE);
    }
    entry::run_forked_child(job.main, job.args)
}

fn prepare_child(server: u32, flags: SpawnFlags, directory: BorrowedFd<'_>) -> io::Result<()> {
    if flags.is_daemon {
        child::die_with_parent()?;
        // 1. The fork returns here. 2. The server dies, and this process gets another parent.
        // 3. The line above comes too late for the signal.
        if child::parent() != server {
            child::exit_now(0);
        }
    }
    // The directory may be unreachable now; then the child starts in the server's.
    let _ = child::set_working_directory(directory);
    // The child's main function handles all other signals.
    signal::block_only_ending()
}
