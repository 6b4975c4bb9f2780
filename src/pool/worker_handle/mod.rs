//! The worker handle: the pool's end of one worker, with its descriptors and its items in flight.

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

/// How long the pool waits for a dead worker's exit record. The fork server may wait for a core on
/// a busy machine before it reaps the worker.
const EXIT_RECORD_TIMEOUT: Duration = Duration::from_secs(5);

/// The number of staged bytes, in memory of the program, above which a worker gets no more items.
/// One larger item may exceed it.
const MAX_STAGED_BYTES: usize = 1 << 20;

/// How many numbers are skipped after a revocation. The frames of revoked items are still in the
/// pipe: a task that changes `started` in the start word by a little must not start them.
const REVOKED_GAP: u32 = 1 << 16;

/// The maximum number of work items with handles in flight: the kernel limits the descriptors that
/// wait in a socket.
const MAX_ITEMS_WITH_FDS: usize = 2;

/// A work item that was sent, without the items that were answered.
#[derive(Debug)]
pub(crate) struct InFlight {
    /// The number of its first item, as the worker counts.
    pub(crate) item: u32,
    pub(crate) work_item: WorkItem,
}

/// Whether the number `item` comes before `other`. Numbers wrap.
pub(crate) fn is_before(item: u32, other: u32) -> bool {
    item.wrapping_sub(other) > u32::MAX / 2
}

/// A running item that is stopped by ending its worker.
#[derive(Debug)]
pub(crate) struct StopRequest {
    pub(crate) item: u32,
    /// The outcome of the item.
    pub(crate) error: Error,
    /// When SIGKILL is sent; `None` once it was.
    pub(crate) kill_at: Option<Instant>,
}

/// One worker process.
#[derive(Debug)]
pub(crate) struct WorkerHandle<Io: WorkerIo = ProcessIo> {
    pub(crate) pid: u32,
    pub(crate) io: Io,
    signal_access: SignalAccess,
    pub(crate) region: Arc<CheckedRegion>,
    liveness: Arc<LivenessToken>,
    /// Whether `events` watches the request pipe for room. Written by `Scheduler::flush`.
    pub(crate) is_write_watched: bool,
    /// Frames for the request pipe, of which the first `written` bytes are in it.
    staged: Vec<u8>,
    written: usize,
    pub(crate) in_flight: VecDeque<InFlight>,
    /// The number of items in flight.
    pub(crate) items: u32,
    /// The number of the next item sent.
    next_item: u32,
    /// The first of the items that were last revoked, until all items before it have started. No
    /// item is sent before that. Written by `remove_in_flight_from` and `has_room`.
    revoked_at: Option<u32>,
    /// Map contexts that the worker has.
    contexts: Vec<u32>,
    /// The pool's slabs that the worker has mapped.
    pool_slabs: Vec<u32>,
    /// The worker's slabs that the pool has mapped.
    worker_slabs: HashMap<u32, Arc<Slab>>,
    /// Items that were sent with handles. Cleared of answered items by `has_room`.
    items_with_fds: VecDeque<u32>,
    /// The handles of the next reply.
    reply_fds: PendingFds,
    pub(crate) is_ready: bool,
    /// Whether the wake-up pipe had the `READY` byte. A task may hide the `Ready` record, but not
    /// this byte. Written by `take_ready_byte`.
    said_ready: bool,
    /// Why the worker was given up, unless the cause is in its shared region.
    stray: Option<&'static str>,
    counters: WorkerCounters,
    pub(crate) exit: Option<WaitStatus>,
    /// Whether the worker's end of the socket is closed: the worker died, or a task closed it.
    is_socket_closed: bool,
    /// The last bytes of the wake-up pipe: the exit record, once it is complete.
    exit_record_bytes: VecDeque<u8>,
    /// Whether the wake-up pipe is at its end: no process is left that could write the exit record.
    is_wake_pipe_closed: bool,
    /// When the pidfd reported the death.
    pub(crate) dead_since: Option<Instant>,
    progress: Progress,
    /// When to send descriptors again, and since when the kernel refuses them.
    stalled_until: Option<Instant>,
    stalled_since: Option<Instant>,
    /// The number of items that the worker may still get, if limited.
    pub(crate) quota: Option<u64>,
    /// Whether the worker gets no more items, and exits once it has answered those in flight.
    pub(crate) is_draining: bool,
    /// The running item that is stopped. The worker gets no more items.
    pub(crate) stop_request: Option<StopRequest>,
    /// The earliest time at which an item in flight may pass its limit.
    pub(crate) check_timeout_at: Option<Instant>,
    /// When the worker exits if it gets no item before.
    pub(crate) idle_until: Option<Instant>,
}

impl WorkerHandle {
    /// Starts a worker process and sends its setup. Blocks until the process exists.
    pub(crate) fn start(origin: &Spawner, setup: &WorkerSetup) -> Result<Self> {
        let mut bytes = Vec::new();
        codec::encode(setup, &mut bytes).map_err(|error| Error::new(ErrorKind::Codec, error))?;
        let ends = Endpoints::new()?;
        let mut region = CheckedRegion::new()?;
        // No thread may be awake when the worker is ready.
        region.set_wake_mode(WakeMode::Immediate);
        let passed = [
            ends.wake_writer.as_fd(),
            ends.requests_reader.as_fd(),
            ends.worker_socket.as_fd(),
            region.as_fd(),
        ];
        let child = origin.start(worker::main, &passed)?;
        region.close_file();
        let mut worker = Self::new(child.pid, ProcessIo::new(child, ends), region);
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
    pub(crate) fn new(pid: u32, io: Io, region: CheckedRegion) -> Self {
        Self {
            pid,
            io,
            signal_access: SignalAccess::Direct,
            region: Arc::new(region),
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

    /// Whether the worker can get another item now. Not before all items before `revoked_at`
    /// started: a higher `allowed` would allow the revoked items again.
    pub(crate) fn has_room(&mut self) -> bool {
        // 1. Items 3 to 5 are revoked; item 2 has not started.
        // 2. Item 6 is sent, which sets `allowed` to 7.
        // 3. The frames of items 3 to 5 are still in the pipe, and would start.
        // So nothing is sent before 2 starts.
        if let Some(item) = self.revoked_at
            && self.region.started() == item
        {
            self.revoked_at = None;
        }
        let front = self.front();
        self.items_with_fds
            .retain(|item| front.is_some_and(|front| item.wrapping_sub(front) < u32::MAX / 2));
        let has_room = self.items_with_fds.len() < MAX_ITEMS_WITH_FDS;
        self.stalled_until.take_if(|until| *until <= Io::now());
        has_room
            && self.staged.len() - self.written < MAX_STAGED_BYTES
            && self.stalled_until.is_none()
            && self.revoked_at.is_none()
            && self.accepts_work()
    }

    /// Whether the worker may get items at all: it lives, and neither drains nor is stopped.
    pub(crate) fn accepts_work(&self) -> bool {
        !self.is_draining
            && self.stop_request.is_none()
            && !self.is_socket_closed
            && self.exit.is_none()
            && self.dead_since.is_none()
            && self.lost_reason().is_none()
            && !self.region.is_broken()
            && self.io.is_open()
    }

    /// Revokes the unstarted items from `from` on. Returns their work items in order.
    pub(crate) fn revoke(&mut self, from: u32) -> Vec<WorkItem> {
        let first = self.region.revoke(from, self.next_item);
        self.remove_in_flight_from(first)
    }

    /// Revokes the unstarted items of a dead worker. Returns their work items in order.
    ///
    /// If the worker violated the protocol, the item that was next to start counts as started.
    /// Otherwise a task that writes to its shared region, and then ends its worker, might run again
    /// and again. If the start word is invalid, every item may have started, and would run twice:
    /// revokes none.
    pub(crate) fn revoke_after_death(&mut self) -> Vec<WorkItem> {
        let Some(front) = self.front() else {
            return Vec::new();
        };
        if !self.region.is_broken() {
            let work_items = self.revoke(front);
            if !self.region.is_broken() {
                return work_items;
            }
        }
        let next = front.wrapping_add(1);
        let Some(started) = self.region.started_at_end() else {
            return Vec::new();
        };
        self.remove_in_flight_from(if is_before(next, started) {
            started
        } else {
            next
        })
    }

    /// Removes the items from `first` on. Returns their work items in order.
    fn remove_in_flight_from(&mut self, first: u32) -> Vec<WorkItem> {
        let mut work_items = Vec::new();
        while let Some(last) = self.in_flight.back_mut() {
            let kept = first.wrapping_sub(last.item);
            // Numbers wrap: a distance below half of their range is forward.
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
                // `cancel` and `kill` look for the call where this says.
                task.set_location(TaskLocation::Queued);
            }
        }
        if !work_items.is_empty() {
            // If all items before `first` have started, `allow` skips the revoked numbers at once.
            self.revoked_at = (self.region.started() != first).then_some(first);
            self.next_item = self.next_item.wrapping_add(REVOKED_GAP);
        }
        work_items.reverse();
        work_items
    }

    /// Removes the first item in flight, which was answered, if `condition` is true of its work
    /// item.
    pub(crate) fn take_front_if(
        &mut self,
        condition: impl FnOnce(&WorkItem) -> bool,
    ) -> Option<WorkItem> {
        let front = self.in_flight.front()?;
        if !condition(&front.work_item) {
            return None;
        }
        self.count_answers(1);
        let front = self.in_flight.front_mut()?;
        let Some(rest) = front.work_item.split_off(1) else {
            return self.in_flight.pop_front().map(|it| it.work_item);
        };
        front.item = front.item.wrapping_add(1);
        Some(mem::replace(&mut front.work_item, rest))
    }

    /// Returns the number of items in flight that have not started.
    pub(crate) fn unstarted(&self) -> u32 {
        // Not the distance to the next number: the numbers of revoked items are in between.
        let started = self.region.started();
        let unstarted = |entry: &InFlight| match started.wrapping_sub(entry.item) {
            done if done <= u32::MAX / 2 => entry.work_item.count().saturating_sub(done),
            _ => entry.work_item.count(),
        };
        let from_the_back = self.in_flight.iter().rev().map(unstarted);
        from_the_back.take_while(|count| *count > 0).sum()
    }

    /// Asks the item to stop, and sends SIGTERM to the worker.
    pub(crate) fn request_stop(&mut self, stop_request: StopRequest) {
        // Before the signal: its handler, or the task, may ask why it comes.
        self.region.request_stop(stop_request.item);
        self.terminate();
        self.stop_request = Some(stop_request);
    }

    /// Sends SIGKILL once the grace period after SIGTERM is over.
    pub(crate) fn escalate_to_sigkill(&mut self, now: Instant) {
        let stop_request = self.stop_request.as_mut();
        let due = stop_request.and_then(|stop| stop.kill_at.take_if(|at| *at <= now));
        if due.is_some() {
            self.kill();
        }
    }

    /// Returns when the next tick is due for this worker without an event.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let stop_request = self.stop_request.as_ref().and_then(|it| it.kill_at);
        let idle = self.idle_until.filter(|_| !self.is_draining);
        let passing = earlier(self.stalled_until, stop_request);
        earlier(
            earlier(self.exit_record_deadline(), self.check_timeout_at),
            earlier(passing, idle),
        )
    }

    /// Returns the number of the first item in flight.
    pub(crate) fn front(&self) -> Option<u32> {
        self.in_flight.front().map(|it| it.item)
    }

    /// Whether the worker is dead, and its exit status is known or can no longer be learnt.
    pub(crate) fn is_dead(&self) -> bool {
        let Some(since) = self.dead_since else {
            return self.exit.is_some() || self.lost_reason().is_some();
        };
        // 1. The pidfd reports the death.
        // 2. The fork server reaps the worker, and writes the record.
        // Until then the status is unknown, unless no process can write it.
        self.exit.is_some()
            || self.is_wake_pipe_closed
            || Io::now().duration_since(since) >= EXIT_RECORD_TIMEOUT
            || self.io.status_after_reaping().is_some()
    }

    /// Returns when the pool stops waiting for a dead worker's exit record.
    fn exit_record_deadline(&self) -> Option<Instant> {
        self.dead_since.map(|since| since + EXIT_RECORD_TIMEOUT)
    }

    /// Returns the exit status, if known.
    pub(crate) fn worker_exit(&self) -> WorkerExit {
        let status = self.exit.or_else(|| self.io.status_after_reaping());
        WorkerExit::new(self.pid, status, self.region.has_overflowed())
    }
}

/// Returns the earlier of two optional times. On the hot path of each task.
#[inline]
pub(crate) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        _ => one.or(other),
    }
}
