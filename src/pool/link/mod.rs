//! The pool's end of one worker: its descriptors, what was sent to it, and what of that is not answered.

mod figures;
#[cfg(fuzzing)]
pub(super) mod fuzzing;
mod incoming;
mod progress;
mod signals;
mod staging;

use super::{
    descriptors::Gathered,
    page::Bell,
    protocol::{Kind, RequestHead, Setup},
    task::Place,
    unit::Unit,
    worker,
    worker_page::WorkerPage,
};
use crate::error::{Error, ErrorKind, Result, WorkerExit};
use crate::process::start::{Child, origin::Origin};
use crate::shm::{Life, Slab};
use crate::sys::{
    child::{PidFd, WaitStatus},
    fd, pipe, socket,
};
use crate::wire::codec;
use figures::Figures;
pub(super) use progress::LONGEST_LOOK;
use progress::Progress;
use signals::Reach;
pub(super) use signals::Refused;
use std::{
    collections::{HashMap, VecDeque},
    io, mem,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

/// Bytes that fit into the pipe of requests: several chunks, so that a write is rarely cut short.
const PIPE_BYTES: i32 = 256 << 10;

/// How long the record of a dead worker's end is waited for while somebody may write it: the fork server needs a slice of
/// a busy machine to reap.
const STATUS_LIMIT: Duration = Duration::from_secs(5);

/// Bytes that wait for room in the pipe, and are memory of the program: a busy worker gets nothing more above that, but for what
/// is larger itself.
const MOST_STAGED: usize = 1 << 20;

/// Units with handles in flight at most: their descriptors wait in the kernel, which limits how many may.
const MOST_HANDLED: usize = 2;

/// A unit that was sent, as far as it is not answered.
#[derive(Debug)]
pub(super) struct Sent {
    /// The worker's number for the first of its items.
    pub(super) item: u32,
    pub(super) unit: Unit,
}

/// Whether an item's number comes before another's; they wrap.
pub(super) fn is_before(item: u32, other: u32) -> bool {
    item.wrapping_sub(other) > u32::MAX / 2
}

/// Why and when a worker is stopped in the middle of an item.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) item: u32,
    /// What becomes of the item.
    pub(super) error: Error,
    /// When it is killed, if it has not ended by then.
    pub(super) kill_at: Option<Instant>,
}

/// One worker process.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) pid: u32,
    pub(super) pidfd: Arc<PidFd>,
    reach: Reach,
    pub(super) page: Arc<WorkerPage>,
    life: Arc<Life>,
    /// Whether room in the pipe is waited for.
    pub(super) is_watched: bool,
    /// None once the worker was told to end.
    pub(super) requests: Option<OwnedFd>,
    /// Their other end: a write to a pipe that nobody reads would kill a program in which SIGPIPE has its default.
    _reader: OwnedFd,
    pub(super) bell: OwnedFd,
    socket: OwnedFd,
    /// Frames that are not yet written, and how many bytes of them are.
    staged: Vec<u8>,
    written: usize,
    pub(super) in_flight: VecDeque<Sent>,
    /// Items in flight.
    pub(super) items: u32,
    /// The number of the next item sent.
    next_item: u32,
    /// Items were taken back but for some that have not started: nothing can be sent before this one is the next to start.
    gap: Option<u32>,
    contexts: Vec<u32>,
    our_slabs: Vec<u32>,
    their_slabs: HashMap<u32, Arc<Slab>>,
    /// The items in flight that were sent with handles, and perhaps some that are not any more.
    handled: VecDeque<u32>,
    /// Handles of the next reply.
    handles: Gathered,
    pub(super) is_ready: bool,
    /// Whether its pipe has said so. Written by `hear`; a task may hide the record of it.
    said_ready: bool,
    /// Why it was given up, if not for what lies in its page.
    stray: Option<&'static str>,
    figures: Figures,
    pub(super) exit: Option<WaitStatus>,
    /// Its end of the socket is closed: it has died, which has yet to be noticed.
    is_gone: bool,
    /// The last bytes of its bell's pipe: the record of its end, once that is there.
    record: VecDeque<u8>,
    /// Nobody is left who could write the record of its end.
    is_bell_closed: bool,
    /// When the pidfd said that it is dead.
    pub(super) dead_since: Option<Instant>,
    progress: Progress,
    /// The kernel has no room for descriptors until then, and since then.
    stalled: Option<Instant>,
    stalled_since: Option<Instant>,
    /// Items that it may yet be sent, if they are counted.
    pub(super) quota: Option<u64>,
    /// It gets nothing more, and ends when it has answered what it has.
    pub(super) is_leaving: bool,
    /// It was told to end, and gets nothing more.
    pub(super) verdict: Option<Verdict>,
    /// When an item in flight may be out of time, at the earliest.
    pub(super) due: Option<Instant>,
    /// When it leaves if it is sent nothing before.
    pub(super) idle_until: Option<Instant>,
}

/// Both ends of what connects a worker.
struct Ends {
    requests: OwnedFd,
    requests_theirs: OwnedFd,
    bell: OwnedFd,
    bell_theirs: OwnedFd,
    socket: OwnedFd,
    socket_theirs: OwnedFd,
}

impl Ends {
    fn new() -> io::Result<Self> {
        let (requests_theirs, requests) = pipe::pipe()?;
        let (bell, bell_theirs) = pipe::pipe()?;
        let (socket, socket_theirs) = socket::pair()?;
        fd::set_nonblocking(&requests)?;
        pipe::enlarge(&requests, PIPE_BYTES);
        fd::set_nonblocking(&bell)?;
        Ok(Self {
            requests,
            requests_theirs,
            bell,
            bell_theirs,
            socket,
            socket_theirs,
        })
    }
}

impl Link {
    /// Starts a worker process.
    pub(super) fn start(origin: &Origin, setup: &Setup) -> Result<Self> {
        let mut bytes = Vec::new();
        codec::encode(setup, &mut bytes).map_err(|it| Error::new(ErrorKind::Codec, it))?;
        let ends = Ends::new().map_err(|it| Error::io("failed to create a worker's pipes", it))?;
        let mut page = WorkerPage::new()?;
        // Nobody may be awake when it is ready.
        page.set_bell(Bell::AtOnce);
        let passed = [
            ends.bell_theirs.as_fd(),
            ends.requests_theirs.as_fd(),
            ends.socket_theirs.as_fd(),
            page.as_fd(),
        ];
        let child = origin.start(worker::main, &passed)?;
        page.close_file();
        let mut link = Self::new(child, ends, page);
        if let Some(initializer) = &setup.initializer {
            link.send_handles(&initializer.descriptors)?;
        }
        link.stage_frame(RequestHead::new(Kind::Setup), &bytes);
        link.flush();
        Ok(link)
    }

    fn new(child: Child, ends: Ends, page: WorkerPage) -> Self {
        Self {
            pid: child.pid,
            pidfd: Arc::new(child.pidfd),
            reach: Reach::Direct,
            page: Arc::new(page),
            life: Arc::new(Life),
            requests: Some(ends.requests),
            _reader: ends.requests_theirs,
            bell: ends.bell,
            socket: ends.socket,
            staged: Vec::new(),
            written: 0,
            is_watched: false,
            in_flight: VecDeque::new(),
            items: 0,
            next_item: 0,
            gap: None,
            contexts: Vec::new(),
            our_slabs: Vec::new(),
            their_slabs: HashMap::new(),
            handled: VecDeque::new(),
            handles: Gathered::default(),
            is_ready: false,
            said_ready: false,
            stray: None,
            figures: Figures::new(),
            exit: None,
            dead_since: None,
            progress: Progress::new(),
            quota: None,
            is_leaving: false,
            stalled: None,
            stalled_since: None,
            verdict: None,
            due: None,
            idle_until: None,
            is_gone: false,
            is_bell_closed: false,
            record: VecDeque::new(),
        }
    }

    /// Whether an item may be sent: those that were taken back must not become allowed again.
    pub(super) fn is_open(&mut self) -> bool {
        if let Some(item) = self.gap
            && self.page.started() == item
        {
            self.gap = None;
        }
        let front = self.front();
        self.handled
            .retain(|it| front.is_some_and(|front| it.wrapping_sub(front) < u32::MAX / 2));
        let has_room = self.handled.len() < MOST_HANDLED;
        self.stalled.take_if(|it| *it <= Instant::now());
        has_room
            && self.staged.len() - self.written < MOST_STAGED
            && self.stalled.is_none()
            && self.gap.is_none()
            && self.takes_more()
    }

    /// Whether it may be sent anything any more.
    pub(super) fn takes_more(&self) -> bool {
        !self.is_leaving
            && self.verdict.is_none()
            && !self.is_gone
            && self.exit.is_none()
            && self.dead_since.is_none()
            && self.lost().is_none()
            && !self.page.is_broken()
            && self.requests.is_some()
    }

    /// Takes back what has not started of the items from `from` on, and gives the units in their order.
    pub(super) fn take_back(&mut self, from: u32) -> Vec<Unit> {
        let first = self.page.take_back(from, self.next_item);
        self.remove_from(first)
    }

    /// Takes back what has not started when the worker has ended. If it has written nonsense, what it had to start next has
    /// started: else a task that tampers with its page, and then ends its worker, might run again and again. If the word is
    /// nonsense, anything that was sent may have started, and would run twice.
    pub(super) fn take_back_at_end(&mut self) -> Vec<Unit> {
        let Some(front) = self.front() else {
            return Vec::new();
        };
        if !self.page.is_broken() {
            let units = self.take_back(front);
            if !self.page.is_broken() {
                return units;
            }
        }
        let next = front.wrapping_add(1);
        let Some(started) = self.page.started_at_end() else {
            return Vec::new();
        };
        self.remove_from(if is_before(next, started) {
            started
        } else {
            next
        })
    }

    /// Removes the units, or parts of them, from this item on, and gives them in their order.
    fn remove_from(&mut self, first: u32) -> Vec<Unit> {
        let mut units = Vec::new();
        while let Some(last) = self.in_flight.back_mut() {
            let kept = first.wrapping_sub(last.item);
            // Distances below half of the numbers are forward.
            if kept < u32::MAX / 2 && kept >= last.unit.count() {
                break;
            }
            if kept < u32::MAX / 2 && kept > 0 {
                units.extend(last.unit.split_off(kept));
                break;
            }
            units.extend(self.in_flight.pop_back().map(|it| it.unit));
        }
        for unit in &units {
            self.items -= unit.count();
            self.figures.sent -= u64::from(unit.count());
            if let Unit::Call(task) = unit {
                task.set_place(Place::Queue);
            }
        }
        if !units.is_empty() {
            self.gap = (self.page.started() != first).then_some(first);
        }
        units.reverse();
        units
    }

    /// Takes the first item in flight, which has been answered.
    pub(super) fn take_front(&mut self) -> Option<Unit> {
        self.in_flight.front()?;
        self.count_answers(1);
        let front = self.in_flight.front_mut()?;
        let Some(rest) = front.unit.split_off(1) else {
            return self.in_flight.pop_front().map(|it| it.unit);
        };
        front.item = front.item.wrapping_add(1);
        Some(mem::replace(&mut front.unit, rest))
    }

    /// Items that were sent and have not started.
    pub(super) fn unstarted(&self) -> u32 {
        // Not the distance to the next number: those that were taken back lie between.
        let started = self.page.started();
        let unstarted = |sent: &Sent| match started.wrapping_sub(sent.item) {
            done if done <= u32::MAX / 2 => sent.unit.count().saturating_sub(done),
            _ => sent.unit.count(),
        };
        let from_the_back = self.in_flight.iter().rev().map(unstarted);
        from_the_back.take_while(|it| *it > 0).sum()
    }

    /// Tells the worker to end; the item may notice, and says so by its own end.
    pub(super) fn stop(&mut self, verdict: Verdict) {
        self.page.request_stop(verdict.item);
        self.terminate();
        self.verdict = Some(verdict);
    }

    /// Kills what has not ended within its grace.
    pub(super) fn enforce(&mut self, now: Instant) {
        let verdict = self.verdict.as_mut();
        let due = verdict.and_then(|it| it.kill_at.take_if(|at| *at <= now));
        if due.is_some() {
            self.kill();
        }
    }

    /// When there is something to do although nothing happens.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let verdict = self.verdict.as_ref().and_then(|it| it.kill_at);
        let idle = self.idle_until.filter(|_| !self.is_leaving);
        let passing = earlier(self.stalled, verdict);
        earlier(earlier(self.status_due(), self.due), earlier(passing, idle))
    }

    /// The number of the first item in flight.
    pub(super) fn front(&self) -> Option<u32> {
        self.in_flight.front().map(|it| it.item)
    }

    /// Whether it has ended, and all has been learnt that can be about how.
    pub(super) fn is_dead(&self) -> bool {
        let Some(since) = self.dead_since else {
            return self.exit.is_some() || self.lost().is_some();
        };
        self.exit.is_some()
            || self.is_bell_closed
            || since.elapsed() >= STATUS_LIMIT
            || self.pidfd.status_after_reaping().is_some()
    }

    /// When the status of a dead worker is no longer waited for.
    fn status_due(&self) -> Option<Instant> {
        self.dead_since.map(|it| it + STATUS_LIMIT)
    }

    /// How it ended, as far as anybody knows.
    pub(super) fn how_it_ended(&self) -> WorkerExit {
        let status = self.exit.or_else(|| self.pidfd.status_after_reaping());
        WorkerExit::new(self.pid, status, self.page.has_overflowed())
    }
}

/// The first of two times, where there is one. It is asked with each task.
#[inline]
pub(super) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other),
    }
}
