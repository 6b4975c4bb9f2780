//! The pool's end of one worker: its descriptors, what was sent to it, and what of that is not
//! answered.

pub(crate) mod checked_region;
pub(crate) mod counters;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
pub(crate) mod incoming;
pub(crate) mod io;
pub(crate) mod outgoing;
pub(crate) mod process_io;
pub(crate) mod progress;
pub(crate) mod signals;

use crate::error::{Error, ErrorKind, Result, WorkerExit};
pub(crate) use crate::pool::worker_handle::progress::MAX_POLL_INTERVAL;
pub(crate) use crate::pool::worker_handle::signals::RefusedSignal;
use crate::pool::{
    protocol::{RequestHeader, RequestKind, WorkerSetup, fds::PendingFds, region::WakeMode},
    task::{TaskLocation, work_item::WorkItem},
    worker,
    worker_handle::{
        checked_region::CheckedRegion,
        counters::WorkerCounters,
        io::WorkerIo,
        process_io::{Endpoints, ProcessIo},
        progress::Progress,
        signals::SignalAccess,
    },
};
use crate::process::start::spawner::Spawner;
use crate::shm::{LivenessToken, Slab};
use crate::sys::pidfd::WaitStatus;
use crate::wire::codec;
use std::{
    collections::{HashMap, VecDeque},
    mem,
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long the record of a dead worker's end is waited for while somebody may write it: the fork
/// server needs a slice of a busy machine to reap.
const EXIT_RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that wait for room in the pipe, and are memory of the program: a busy worker gets nothing
/// more above that, but for what is larger itself.
const MAX_STAGED_BYTES: usize = 1 << 20;

/// Numbers that are skipped after items were revoked. The frames of those items are still in the
/// pipe: a task that sets the number of started items back by a little must not start them.
const REVOKED_GAP: u32 = 1 << 16;

/// Units with handles in flight at most: their descriptors wait in the kernel, which limits how
/// many may.
const MAX_ITEMS_WITH_FDS: usize = 2;

/// A unit that was sent, as far as it is not answered.
#[derive(Debug)]
pub(crate) struct InFlight {
    /// The worker's number for the first of its items.
    pub(crate) item: u32,
    pub(crate) work_item: WorkItem,
}

/// Whether an item's number comes before another's; they wrap.
pub(crate) fn is_before(item: u32, other: u32) -> bool {
    item.wrapping_sub(other) > u32::MAX / 2
}

/// Why and when a worker is stopped in the middle of an item.
#[derive(Debug)]
pub(crate) struct StopRequest {
    pub(crate) item: u32,
    /// What becomes of the item.
    pub(crate) error: Error,
    /// When it is killed, if it has not ended by then.
    pub(crate) kill_at: Option<Instant>,
}

/// One worker process.
#[derive(Debug)]
pub(crate) struct WorkerHandle<Io: WorkerIo = ProcessIo> {
    pub(crate) pid: u32,
    pub(crate) io: Io,
    signal_access: SignalAccess,
    pub(crate) page: Arc<CheckedRegion>,
    liveness: Arc<LivenessToken>,
    /// Whether room in the pipe is waited for.
    pub(crate) is_write_watched: bool,
    /// Frames that are not yet written, and how many bytes of them are.
    staged: Vec<u8>,
    written: usize,
    pub(crate) in_flight: VecDeque<InFlight>,
    /// Items in flight.
    pub(crate) items: u32,
    /// The number of the next item sent.
    next_item: u32,
    /// Items were taken back but for some that have not started: nothing can be sent before this
    /// one is the next to start.
    revoked_at: Option<u32>,
    contexts: Vec<u32>,
    pool_slabs: Vec<u32>,
    worker_slabs: HashMap<u32, Arc<Slab>>,
    /// The items in flight that were sent with handles, and perhaps some that are not any more.
    items_with_fds: VecDeque<u32>,
    /// Handles of the next reply.
    reply_fds: PendingFds,
    pub(crate) is_ready: bool,
    /// Whether its pipe has said so. Written by `take_wake_bytes`; a task may hide the record of
    /// it.
    said_ready: bool,
    /// Why it was given up, if not for what lies in its page.
    stray: Option<&'static str>,
    counters: WorkerCounters,
    pub(crate) exit: Option<WaitStatus>,
    /// Its end of the socket is closed: it has died, which has yet to be noticed.
    is_socket_closed: bool,
    /// The last bytes of its bell's pipe: the record of its end, once that is there.
    exit_record_bytes: VecDeque<u8>,
    /// Nobody is left who could write the record of its end.
    is_wake_pipe_closed: bool,
    /// When the pidfd said that it is dead.
    pub(crate) dead_since: Option<Instant>,
    progress: Progress,
    /// The kernel has no room for descriptors until then, and since then.
    stalled_until: Option<Instant>,
    stalled_since: Option<Instant>,
    /// Items that it may yet be sent, if they are counted.
    pub(crate) quota: Option<u64>,
    /// It gets nothing more, and ends when it has answered what it has.
    pub(crate) is_draining: bool,
    /// It was told to end, and gets nothing more.
    pub(crate) stop_request: Option<StopRequest>,
    /// When an item in flight may be out of time, at the earliest.
    pub(crate) check_timeout_at: Option<Instant>,
    /// When it leaves if it is sent nothing before.
    pub(crate) idle_until: Option<Instant>,
}

impl WorkerHandle {
    /// Starts a worker process.
    pub(crate) fn start(origin: &Spawner, setup: &WorkerSetup) -> Result<Self> {
        let mut bytes = Vec::new();
        codec::encode(setup, &mut bytes).map_err(|it| Error::new(ErrorKind::Codec, it))?;
        let ends = Endpoints::new()?;
        let mut page = CheckedRegion::new()?;
        // Nobody may be awake when it is ready.
        page.set_wake_mode(WakeMode::Immediate);
        let passed = [
            ends.wake_writer.as_fd(),
            ends.requests_reader.as_fd(),
            ends.worker_socket.as_fd(),
            page.as_fd(),
        ];
        let child = origin.start(worker::main, &passed)?;
        page.close_file();
        let mut worker = Self::new(child.pid, ProcessIo::new(child, ends), page);
        if let Some(initializer) = &setup.initializer {
            worker.send_fds(&initializer.descriptors)?;
        }
        worker.stage_frame(RequestHeader::new(RequestKind::Setup), &bytes);
        worker.flush();
        Ok(worker)
    }
}

impl<Io: WorkerIo> WorkerHandle<Io> {
    /// Returns the handle on a worker of which nothing is known yet.
    pub(crate) fn new(pid: u32, io: Io, page: CheckedRegion) -> Self {
        Self {
            pid,
            io,
            signal_access: SignalAccess::Direct,
            page: Arc::new(page),
            liveness: Arc::new(LivenessToken),
            staged: Vec::new(),
            written: 0,
            is_write_watched: false,
            in_flight: VecDeque::new(),
            items: 0,
            next_item: 0,
            revoked_at: None,
            contexts: Vec::new(),
            pool_slabs: Vec::new(),
            worker_slabs: HashMap::new(),
            items_with_fds: VecDeque::new(),
            reply_fds: PendingFds::default(),
            is_ready: false,
            said_ready: false,
            stray: None,
            counters: WorkerCounters::new(Io::now()),
            exit: None,
            dead_since: None,
            progress: Progress::new(Io::now()),
            quota: None,
            is_draining: false,
            stalled_until: None,
            stalled_since: None,
            stop_request: None,
            check_timeout_at: None,
            idle_until: None,
            is_socket_closed: false,
            is_wake_pipe_closed: false,
            exit_record_bytes: VecDeque::new(),
        }
    }

    /// Whether an item may be sent: those that were taken back must not become allowed again.
    pub(crate) fn has_room(&mut self) -> bool {
        if let Some(item) = self.revoked_at
            && self.page.started() == item
        {
            self.revoked_at = None;
        }
        let front = self.front();
        self.items_with_fds
            .retain(|it| front.is_some_and(|front| it.wrapping_sub(front) < u32::MAX / 2));
        let has_room = self.items_with_fds.len() < MAX_ITEMS_WITH_FDS;
        self.stalled_until.take_if(|it| *it <= Io::now());
        has_room
            && self.staged.len() - self.written < MAX_STAGED_BYTES
            && self.stalled_until.is_none()
            && self.revoked_at.is_none()
            && self.accepts_work()
    }

    /// Whether it may be sent anything any more.
    pub(crate) fn accepts_work(&self) -> bool {
        !self.is_draining
            && self.stop_request.is_none()
            && !self.is_socket_closed
            && self.exit.is_none()
            && self.dead_since.is_none()
            && self.lost_reason().is_none()
            && !self.page.is_broken()
            && self.io.is_open()
    }

    /// Takes back what has not started of the items from `from` on, and gives the units in their
    /// order.
    pub(crate) fn revoke(&mut self, from: u32) -> Vec<WorkItem> {
        let first = self.page.revoke(from, self.next_item);
        self.remove_in_flight_from(first)
    }

    /// Takes back what has not started when the worker has ended. If it has written nonsense, what
    /// it had to start next has started: else a task that tampers with its page, and then ends its
    /// worker, might run again and again. If the word is nonsense, anything that was sent may have
    /// started, and would run twice.
    pub(crate) fn revoke_after_death(&mut self) -> Vec<WorkItem> {
        let Some(front) = self.front() else {
            return Vec::new();
        };
        if !self.page.is_broken() {
            let work_items = self.revoke(front);
            if !self.page.is_broken() {
                return work_items;
            }
        }
        let next = front.wrapping_add(1);
        let Some(started) = self.page.started_at_end() else {
            return Vec::new();
        };
        self.remove_in_flight_from(if is_before(next, started) {
            started
        } else {
            next
        })
    }

    /// Removes the units, or parts of them, from this item on, and gives them in their order.
    fn remove_in_flight_from(&mut self, first: u32) -> Vec<WorkItem> {
        let mut work_items = Vec::new();
        while let Some(last) = self.in_flight.back_mut() {
            let kept = first.wrapping_sub(last.item);
            // Distances below half of the numbers are forward.
            if kept < u32::MAX / 2 && kept >= last.work_item.count() {
                break;
            }
            if kept < u32::MAX / 2 && kept > 0 {
                work_items.extend(last.work_item.split_off(kept));
                break;
            }
            work_items.extend(self.in_flight.pop_back().map(|it| it.work_item));
        }
        for work_item in &work_items {
            self.items -= work_item.count();
            self.counters.sent -= u64::from(work_item.count());
            if let WorkItem::Call(task) = work_item {
                task.set_location(TaskLocation::Queued);
            }
        }
        if !work_items.is_empty() {
            self.revoked_at = (self.page.started() != first).then_some(first);
            self.next_item = self.next_item.wrapping_add(REVOKED_GAP);
        }
        work_items.reverse();
        work_items
    }

    /// Takes the first item in flight, which has been answered.
    pub(crate) fn take_front(&mut self) -> Option<WorkItem> {
        self.in_flight.front()?;
        self.count_answers(1);
        let front = self.in_flight.front_mut()?;
        let Some(rest) = front.work_item.split_off(1) else {
            return self.in_flight.pop_front().map(|it| it.work_item);
        };
        front.item = front.item.wrapping_add(1);
        Some(mem::replace(&mut front.work_item, rest))
    }

    /// Items that were sent and have not started.
    pub(crate) fn unstarted(&self) -> u32 {
        // Not the distance to the next number: those that were taken back lie between.
        let started = self.page.started();
        let unstarted = |sent: &InFlight| match started.wrapping_sub(sent.item) {
            done if done <= u32::MAX / 2 => sent.work_item.count().saturating_sub(done),
            _ => sent.work_item.count(),
        };
        let from_the_back = self.in_flight.iter().rev().map(unstarted);
        from_the_back.take_while(|it| *it > 0).sum()
    }

    /// Tells the worker to end; the item may notice, and says so by its own end.
    pub(crate) fn request_stop(&mut self, stop_request: StopRequest) {
        self.page.request_stop(stop_request.item);
        self.terminate();
        self.stop_request = Some(stop_request);
    }

    /// Kills what has not ended within its grace.
    pub(crate) fn escalate_to_sigkill(&mut self, now: Instant) {
        let stop_request = self.stop_request.as_mut();
        let due = stop_request.and_then(|it| it.kill_at.take_if(|at| *at <= now));
        if due.is_some() {
            self.kill();
        }
    }

    /// When there is something to do although nothing happens.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let stop_request = self.stop_request.as_ref().and_then(|it| it.kill_at);
        let idle = self.idle_until.filter(|_| !self.is_draining);
        let passing = earlier(self.stalled_until, stop_request);
        earlier(
            earlier(self.exit_record_deadline(), self.check_timeout_at),
            earlier(passing, idle),
        )
    }

    /// The number of the first item in flight.
    pub(crate) fn front(&self) -> Option<u32> {
        self.in_flight.front().map(|it| it.item)
    }

    /// Whether it has ended, and all has been learnt that can be about how.
    pub(crate) fn is_dead(&self) -> bool {
        let Some(since) = self.dead_since else {
            return self.exit.is_some() || self.lost_reason().is_some();
        };
        self.exit.is_some()
            || self.is_wake_pipe_closed
            || Io::now().duration_since(since) >= EXIT_RECORD_TIMEOUT
            || self.io.status_after_reaping().is_some()
    }

    /// When the status of a dead worker is no longer waited for.
    fn exit_record_deadline(&self) -> Option<Instant> {
        self.dead_since.map(|it| it + EXIT_RECORD_TIMEOUT)
    }

    /// How it ended, as far as anybody knows.
    pub(crate) fn worker_exit(&self) -> WorkerExit {
        let status = self.exit.or_else(|| self.io.status_after_reaping());
        WorkerExit::new(self.pid, status, self.page.has_overflowed())
    }
}

/// The first of two times, where there is one. It is asked with each task.
#[inline]
pub(crate) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other),
    }
}
