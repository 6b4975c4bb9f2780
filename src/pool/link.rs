//! The pool's end of one worker: its descriptors, what was sent to it, and what of that is not answered.

use super::{
    batch::Context,
    descriptors::{self, Batch, Gathered, Message},
    page::{Bell, Page},
    payload::{MOST_SLABS, Payload, TheirSlab},
    protocol::{Kind, RequestHead, Setup},
    task::{Place, Work},
    unit::{Items, Unit},
    worker,
};
use crate::error::{Error, ErrorKind, Result, WorkerExit};
use crate::process::{
    function::Function,
    start::{Child, ExitRecord, origin::Origin},
};
use crate::shm::{Life, Slab};
use crate::sys::{
    child::{PidFd, WaitStatus},
    fd, pipe, socket,
};
use crate::wire::{codec, handle::Descriptor};
use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

/// Bytes of small frames that are gathered before they are written, while the worker has something to do.
const FLUSH_AT: usize = 4096;

/// Bytes that fit into the pipe of requests: several chunks, so that a write is rarely cut short.
const PIPE_BYTES: i32 = 256 << 10;

/// How long the record of a dead worker's end is waited for while somebody may write it: the fork server needs a slice of
/// a busy machine to reap.
const STATUS_LIMIT: Duration = Duration::from_secs(1);

/// Units with handles in flight at most: their descriptors wait in the kernel, which limits how many may.
const MOST_HANDLED: usize = 2;

/// How long replies may lie unread behind a long item; far above the interval at which a worker rings.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A unit that was sent, as far as it is not answered.
#[derive(Debug)]
pub(super) struct Sent {
    /// The worker's number for the first of its items.
    pub(super) item: u32,
    pub(super) unit: Unit,
}

/// One worker process.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) pid: u32,
    pub(super) pidfd: PidFd,
    pub(super) page: Arc<Page>,
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
    /// Busy nanoseconds and items done when they were last looked at.
    measured: (u64, u64),
    pub(super) exit: Option<WaitStatus>,
    /// Its end of the socket is closed: it has died, which has yet to be noticed.
    is_gone: bool,
    /// What has been read of the record of its end.
    record: Vec<u8>,
    /// Nobody is left who could write the record of its end.
    is_bell_closed: bool,
    /// When the pidfd said that it is dead.
    pub(super) dead_since: Option<Instant>,
    /// The item that was next to start, and when that was first seen: tells a long item from many short ones.
    seen: (u32, Instant),
    /// Whether its replies have been read since that was `LOOK_AGAIN` ago.
    looked_again: bool,
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
        let page = Page::new()?;
        // Nobody may be awake when it is ready.
        page.set_bell(Bell::AtOnce);
        let passed = [
            ends.bell_theirs.as_fd(),
            ends.requests_theirs.as_fd(),
            ends.socket_theirs.as_fd(),
            page.as_fd(),
        ];
        let child = origin.start(worker::main, &passed)?;
        let mut link = Self::new(child, ends, page);
        if let Some(initializer) = &setup.initializer {
            link.send_handles(&initializer.descriptors)?;
        }
        link.stage_frame(RequestHead::new(Kind::Setup), &bytes);
        link.flush();
        Ok(link)
    }

    fn new(child: Child, ends: Ends, page: Page) -> Self {
        Self {
            pid: child.pid,
            pidfd: child.pidfd,
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
            measured: (0, 0),
            exit: None,
            dead_since: None,
            seen: (0, Instant::now()),
            looked_again: false,
            is_gone: false,
            is_bell_closed: false,
            record: Vec::new(),
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
        has_room
            && self.gap.is_none()
            && !self.is_gone
            && self.exit.is_none()
            && self.requests.is_some()
    }

    /// Sends a unit, soon: it lies behind what is already staged. Gives it back with its own error, or without one if the
    /// worker is gone.
    pub(super) fn stage(&mut self, slot: usize, unit: Unit) -> Result<(), (Unit, Option<Error>)> {
        if let Err(error) = self.stage_unit(&unit) {
            return Err((unit, Some(error).filter(|_| !self.is_gone)));
        }
        if let Unit::Call(task) = &unit {
            task.set_place(Place::Worker(slot, self.next_item));
        }
        let count = unit.count();
        self.page.allow(self.next_item, count);
        self.in_flight.push_back(Sent {
            item: self.next_item,
            unit,
        });
        self.next_item = self.next_item.wrapping_add(count);
        self.items += count;
        Ok(())
    }

    fn stage_unit(&mut self, unit: &Unit) -> Result<()> {
        match unit {
            Unit::Call(task) => {
                let Work::Call(function) = task.work else {
                    unreachable!("only calls are queued as one");
                };
                task.with_argument(|argument| self.stage_value(function, 0, argument))
            }
            Unit::Items(items) => self.stage_items(items),
        }
    }

    fn stage_items(&mut self, items: &Items) -> Result<()> {
        let batch = &items.chunk.batch;
        let context = batch
            .context
            .as_ref()
            .map_or(Ok(0), |it| self.stage_context(it))?;
        let mut payload = items.chunk.items.lock();
        if items.chunk.count == 1 {
            return self.stage_value(batch.function, context, &mut payload);
        }
        let bytes = payload
            .bytes()
            .expect("a chunk of several items is private");
        let bytes = items.part_of(bytes);
        let mut head = self.items_head(batch.function, context, items.count);
        let single = &bytes[if items.count == 1 {
            size_of::<u32>()
        } else {
            0
        }..];
        head.length = single.len() as u32;
        self.stage_frame(head, single);
        Ok(())
    }

    fn items_head(&self, function: Function, context: u32, count: u32) -> RequestHead {
        let mut head = RequestHead::new(Kind::Items);
        (head.item, head.count) = (self.next_item, count);
        (head.context, head.function) = (context, Some(function));
        head
    }

    /// Stages one item whose argument may lie in a slab.
    fn stage_value(
        &mut self,
        function: Function,
        context: u32,
        argument: &mut Payload,
    ) -> Result<()> {
        let mut head = self.items_head(function, context, 1);
        let value = match argument {
            Payload::Handled(handled) => {
                self.send_handles(&handled.descriptors)?;
                head.has_handles = true;
                self.handled.push_back(self.next_item);
                &mut handled.value
            }
            value => value,
        };
        let Payload::Ours(ours) = value else {
            let bytes = value
                .bytes()
                .expect("an argument is private or in our slab");
            self.stage_frame(head, bytes);
            return Ok(());
        };
        let fail = |it| Error::io("failed to hand a large argument to a worker", it);
        if !ours.bind(&self.life) {
            return Err(fail(io::ErrorKind::OutOfMemory.into()));
        }
        let slab = ours.slab();
        if !self.our_slabs.contains(&slab.id) {
            descriptors::try_send_slab(&self.socket, slab).map_err(|it| {
                self.is_gone = socket::is_closed(&it);
                fail(it)
            })?;
            self.our_slabs.push(slab.id);
        }
        (head.slab, head.slab_length) = (slab.id, ours.length as u64);
        self.stage_frame(head, &[]);
        Ok(())
    }

    /// Sends the handles of the value whose frame is staged next.
    fn send_handles(&mut self, descriptors: &[Descriptor]) -> Result<()> {
        let fds: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        for (batch, fds) in Batch::cut(&fds) {
            descriptors::try_send_handles(&self.socket, fds).map_err(|it| {
                self.is_gone = socket::is_closed(&it);
                Error::io("failed to hand descriptors to a worker", it)
            })?;
            let mut head = RequestHead::new(Kind::Handles);
            (head.item, head.count) = (batch.start, batch.count);
            self.stage_frame(head, &[]);
        }
        Ok(())
    }

    /// Sends a context where this worker does not have it.
    fn stage_context(&mut self, context: &Context) -> Result<u32> {
        if !self.contexts.contains(&context.id) {
            let mut head = RequestHead::new(Kind::Context);
            self.send_handles(&context.descriptors)?;
            self.contexts.push(context.id);
            head.context = context.id;
            let loader = context.loader.to_bytes();
            head.length = (loader.len() + context.bytes.len()) as u32;
            self.staged.extend_from_slice(&head.to_bytes());
            self.staged.extend_from_slice(&loader);
            self.staged.extend_from_slice(&context.bytes);
        }
        Ok(context.id)
    }

    /// Has the worker drop a context.
    pub(super) fn drop_context(&mut self, id: u32) {
        if let Some(at) = self.contexts.iter().position(|it| *it == id) {
            self.contexts.swap_remove(at);
            let mut head = RequestHead::new(Kind::DropContext);
            head.context = id;
            self.stage_frame(head, &[]);
        }
    }

    /// Has the worker unmap a slab that is no more, if it is this worker's.
    pub(super) fn drop_slab(&mut self, bound_to: &std::sync::Weak<Life>, id: u32) {
        if bound_to.as_ptr() == Arc::as_ptr(&self.life) {
            self.our_slabs.retain(|it| *it != id);
            let mut head = RequestHead::new(Kind::DropSlab);
            head.slab = id;
            self.stage_frame(head, &[]);
        }
    }

    fn stage_frame(&mut self, mut head: RequestHead, bytes: &[u8]) {
        head.length = bytes.len() as u32;
        self.staged.extend_from_slice(&head.to_bytes());
        self.staged.extend_from_slice(bytes);
    }

    /// Tells the worker to end.
    pub(super) fn say_goodbye(&mut self) {
        self.stage_frame(RequestHead::new(Kind::End), &[]);
        self.flush();
        self.requests = None;
    }

    /// Whether enough is staged to be worth a write.
    pub(super) fn has_a_batch(&self) -> bool {
        self.staged.len() - self.written >= FLUSH_AT
    }

    pub(super) fn has_unwritten(&self) -> bool {
        self.staged.len() > self.written
    }

    /// Writes what is staged, as far as the pipe has room. A worker that is gone is noticed elsewhere.
    pub(super) fn flush(&mut self) {
        let Some(requests) = &self.requests else {
            return;
        };
        while self.written < self.staged.len() {
            match pipe::write(requests, &self.staged[self.written..]) {
                Ok(count) => self.written += count,
                Err(_) => break,
            }
        }
        if self.written == self.staged.len() {
            self.staged.clear();
            self.written = 0;
            // A burst's memory is not kept for ever.
            self.staged.shrink_to(4 * FLUSH_AT.max(1 << 14));
        }
    }

    /// Takes back what has not started of the items from `from` on, and gives the units in their order.
    pub(super) fn take_back(&mut self, from: u32) -> Vec<Unit> {
        let first = self.page.take_back(from, self.next_item);
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

    /// Items that were sent and have not started.
    pub(super) fn unstarted(&self) -> u32 {
        self.next_item
            .wrapping_sub(self.page.started())
            .min(self.items)
    }

    /// Notes what starts when. Comes before a look at the replies.
    pub(super) fn look(&mut self) {
        let (started, now) = (self.page.started(), Instant::now());
        if self.seen.0 != started {
            self.seen = (started, now);
            self.looked_again = false;
        } else if now.duration_since(self.seen.1) >= LOOK_AGAIN {
            self.looked_again = true;
        }
    }

    /// Says when the worker is to ring while the pool sleeps, and when the pool must look without having been called:
    /// behind short items, whose replies it is told of only now and then, a long one may come.
    pub(super) fn fall_asleep(&self, items_are_short: bool) -> Option<Instant> {
        let is_batched = items_are_short && self.items > 1 && !self.is_stuck();
        self.page.set_bell(if is_batched {
            Bell::NowAndThen
        } else {
            Bell::AtOnce
        });
        is_batched.then(|| Instant::now() + LOOK_AGAIN)
    }

    /// Whether the item that runs has been seen to run for long.
    pub(super) fn is_stuck(&self) -> bool {
        self.looked_again && self.seen.0 == self.page.started()
    }

    /// The number of the first item in flight.
    pub(super) fn front(&self) -> Option<u32> {
        self.in_flight.front().map(|it| it.item)
    }

    /// Reads what the bell's pipe holds: bells, which mean nothing by now, and the record of the worker's end.
    pub(super) fn hear_bell(&mut self) {
        let mut bytes = [0; 256];
        loop {
            match pipe::read(&self.bell, &mut bytes) {
                Ok(0) => {
                    self.is_bell_closed = true;
                    return;
                }
                Ok(count) => {
                    self.hear(&bytes[..count]);
                    if count < bytes.len() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        // The record may come in two reads, behind many bells.
        let bells = bytes
            .iter()
            .take_while(|it| **it == ExitRecord::BELL && self.record.is_empty());
        self.record.extend_from_slice(&bytes[bells.count()..]);
        if let Some(ExitRecord(status)) = ExitRecord::find(&self.record) {
            self.exit = Some(status);
        }
    }

    /// Takes a result that lies in a slab of the worker's. An error if the slab is not to be had: its descriptor is lost
    /// when this process has too many.
    pub(super) fn take_from_slab(&mut self, id: u32, length: u64) -> Result<Payload> {
        let taken = self.try_take_from_slab(id, length);
        taken.ok_or_else(|| {
            let reason = io::Error::other("its shared memory could not be mapped here");
            Error::io("failed to receive a large result", reason)
        })
    }

    fn try_take_from_slab(&mut self, id: u32, length: u64) -> Option<Payload> {
        let length = usize::try_from(length).ok()?;
        while !self.their_slabs.contains_key(&id) {
            self.receive()?;
        }
        let slab = self.their_slabs.get_mut(&id)?;
        if length > slab.capacity() {
            // Another mapping: whoever dropped the last payload may still hold the one that has become too short.
            *slab = Arc::new(slab.mapped_again().ok()?);
            if length > slab.capacity() {
                return None;
            }
        }
        let payload = TheirSlab::new(Arc::clone(slab), length);
        if self.their_slabs.len() <= MOST_SLABS {
            return Some(Payload::Theirs(Box::new(payload)));
        }
        // Results that nobody takes would hold a descriptor each.
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(length).ok()?;
        payload.copy_out(&mut bytes);
        Some(Payload::Private(bytes.into()))
    }

    /// The next message in the socket; a slab has been put in its place.
    fn receive(&mut self) -> Option<Message> {
        let mut message = descriptors::next_message(|it| socket::try_receive(&self.socket, it))?;
        if let Message::Slab(number, slab) = &mut message
            && let Some(slab) = slab.take()
        {
            self.their_slabs.insert(*number, Arc::new(slab));
        }
        Some(message)
    }

    /// Takes in handles of the reply that comes next.
    pub(super) fn gather(&mut self, batch: Batch) {
        while let Some(message) = self.receive() {
            if let Message::Handles(fds) = message {
                return self.handles.add(batch, fds);
            }
        }
    }

    /// The handles that came with the reply.
    pub(super) fn take_handles(&mut self) -> Vec<OwnedFd> {
        self.handles.take()
    }

    pub(super) fn forget_slab(&mut self, id: u32) {
        self.their_slabs.remove(&id);
    }

    /// Nanoseconds an item took on average since this was last asked.
    pub(super) fn item_nanos(&mut self) -> Option<u64> {
        let (busy, done) = self.page.measured();
        let (busy_before, done_before) = std::mem::replace(&mut self.measured, (busy, done));
        busy.wrapping_sub(busy_before)
            .checked_div(done.wrapping_sub(done_before))
    }

    /// Whether it has ended, and all has been learnt that can be about how.
    pub(super) fn is_dead(&self) -> bool {
        let Some(since) = self.dead_since else {
            return self.exit.is_some();
        };
        self.exit.is_some()
            || self.is_bell_closed
            || since.elapsed() >= STATUS_LIMIT
            || self.pidfd.status_after_reaping().is_some()
    }

    /// When the status of a dead worker is no longer waited for.
    pub(super) fn status_due(&self) -> Option<Instant> {
        self.dead_since.map(|it| it + STATUS_LIMIT)
    }

    /// How it ended, as far as anybody knows.
    pub(super) fn how_it_ended(&self) -> WorkerExit {
        let status = self.exit.or_else(|| self.pidfd.status_after_reaping());
        WorkerExit {
            pid: self.pid,
            signal: status.and_then(WaitStatus::signal),
            exit_code: status.and_then(WaitStatus::exit_code),
        }
    }
}
