//! A simulated worker: it does what a worker process does, one step of the protocol at a time.

use super::{
    books::{Behaviour, Books, LastRun},
    random::Random,
};
use crate::pool::protocol::{
    RequestHeader, RequestKind,
    region::{
        BUSY_NANOS, END, ITEMS_DONE, ReplyHeader, ReplyKind, SharedRegion, WakeMode,
        unpack_start_word,
    },
};
use crate::process::{start::ExitRecord, task_error::TaskError};
use crate::sys::{atomic::Ordering, signal};
use crate::wire::codec;
use std::{collections::VecDeque, sync::LazyLock};

/// Bytes of a reply that takes up much of a worker's ring.
const LARGE_REPLY: usize = 30_000;

static PANIC: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let fault = TaskError::Panicked {
        message: String::from("simulated"),
        location: None,
        calls: Default::default(),
    };
    let mut bytes = Vec::new();
    codec::encode(&fault, &mut bytes).expect("text in memory");
    bytes
});

/// How far a worker is with its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Boot {
    Begins,
    /// The record is written, and the byte is not.
    SaidReady,
    Serves,
}

/// One worker process, and what lies between it and the pool.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) region: SharedRegion,
    pub(super) is_alive: bool,
    pub(super) boot: Boot,
    /// Requests that were written and not read.
    pub(super) pipe: VecDeque<u8>,
    pub(super) pipe_bytes: usize,
    /// The pool has its end of that.
    pub(super) is_open: bool,
    /// Bytes that the pool has not read.
    pub(super) wakeups: VecDeque<u8>,
    /// A process is left that may write the exit record.
    pub(super) has_parent: bool,
    /// The status that the parent has yet to write.
    pub(super) unwritten_status: Option<i32>,
    /// It died after it was ready, and no reply explains that. The pool has not reaped it.
    pub(super) is_unexplained_death: bool,
    /// The status that the kernel tells.
    pub(super) known_status: Option<i32>,
    pub(super) is_death_watched: bool,
    pub(super) is_killed: bool,
    pub(super) is_terminated: bool,
    /// Items that were read: their numbers at the worker, and in the books.
    frame: VecDeque<(u32, u32)>,
    running: Option<(u32, u32)>,
    has_unannounced: bool,
    is_aborting: bool,
    is_told_to_end: bool,
    pub(super) started: u64,
    pub(super) item_nanos: u64,
    pub(super) reports_memory: bool,
    /// One past the last item that it was allowed to start, when it was told to leave.
    pub(super) allowed_at_drain: Option<u32>,
}

impl Process {
    pub(super) fn new(region: SharedRegion, pipe_bytes: usize, item_nanos: u64) -> Self {
        Self {
            region,
            is_alive: true,
            boot: Boot::Begins,
            pipe: VecDeque::new(),
            pipe_bytes,
            is_open: true,
            wakeups: VecDeque::new(),
            has_parent: true,
            unwritten_status: None,
            is_unexplained_death: false,
            known_status: None,
            is_death_watched: false,
            is_killed: false,
            is_terminated: false,
            frame: VecDeque::new(),
            running: None,
            has_unannounced: false,
            is_aborting: false,
            is_told_to_end: false,
            started: 0,
            item_nanos,
            reports_memory: false,
            allowed_at_drain: None,
        }
    }

    /// Returns one past the last item that it may start.
    pub(super) fn allowed(&self) -> u32 {
        unpack_start_word(self.region.start_word().load(Ordering::Relaxed)).1
    }

    /// Whether it waits for a request.
    pub(super) fn is_asleep(&self) -> bool {
        self.boot == Boot::Serves
            && self.running.is_none()
            && self.frame.is_empty()
            && self.next_request().is_none()
    }

    /// Does the next step.
    pub(super) fn step(&mut self, books: &mut Books, random: &mut Random, now: u64) {
        if !self.is_alive {
            return;
        }
        let item = self.running.map(|it| it.1);
        let ends = self.is_terminated && !item.is_some_and(|id| books.ignores_sigterm(id));
        if let Some(id) = item.filter(|_| self.is_killed || ends) {
            books.check_stop(id, now);
        }
        if self.is_killed {
            self.die(signal::KILL, books);
        } else if ends {
            self.die(signal::TERMINATE, books);
        } else if self.is_aborting {
            self.die(6, books);
        } else if self.boot != Boot::Serves {
            self.start_up();
        } else if let Some((item, id)) = self.running {
            self.finish(item, id, books, random);
        } else {
            self.serve(books, random, now);
        }
    }

    fn start_up(&mut self) {
        if self.boot == Boot::Begins {
            self.append(0, ReplyKind::Ready, &[]);
            self.boot = Boot::SaidReady;
        } else {
            self.has_unannounced = false;
            self.wakeups.push_back(ExitRecord::READY);
            self.boot = Boot::Serves;
        }
    }

    fn append(&mut self, item: u32, kind: ReplyKind, bytes: &[u8]) -> bool {
        let len = bytes.len();
        let is_written = self.region.append(ReplyHeader { item, kind, len }, bytes);
        if !is_written {
            self.wake_pool();
            self.region.wants_room().store(1, Ordering::SeqCst);
        }
        self.has_unannounced |= is_written;
        is_written
    }

    /// Ends the run of an item, unless it goes on.
    fn finish(&mut self, item: u32, id: u32, books: &mut Books, random: &mut Random) {
        let behaviour = books.behaviour(id);
        let ended = match behaviour {
            Behaviour::Hangs => return,
            Behaviour::Dies => return self.die(random.pick(&[6, 9, 11, 0x100, 0]), books),
            Behaviour::Value => {
                let large = if id % 64 == 9 { LARGE_REPLY } else { 0 };
                let mut bytes = id.to_le_bytes().to_vec();
                bytes.resize(bytes.len() + large, 0);
                self.append(item, ReplyKind::Value, &bytes)
            }
            Behaviour::Panics | Behaviour::Aborts => self.append(item, ReplyKind::Fault, &PANIC),
        };
        if !ended {
            return;
        }
        let is_value = behaviour == Behaviour::Value;
        books.end_run(
            id,
            if is_value {
                LastRun::Value
            } else {
                LastRun::Panicked
            },
        );
        self.is_aborting = behaviour == Behaviour::Aborts;
        self.running = None;
        self.measure();
        if self.reports_memory && random.once_in(8) {
            self.append(0, ReplyKind::MemoryExceeded, &[]);
            self.reports_memory = false;
        }
    }

    /// Reports how long an item took.
    fn measure(&self) {
        for (place, amount) in [(BUSY_NANOS, self.item_nanos), (ITEMS_DONE, 1)] {
            let word = self.region.view().atomic_u64(place);
            word.store(word.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
        }
    }

    /// Starts an item, reads a request, or waits for one.
    fn serve(&mut self, books: &mut Books, random: &mut Random, now: u64) {
        if self.is_told_to_end {
            self.die(0, books);
        } else if let Some((item, id)) = self.frame.pop_front() {
            if self.region.try_start(item) {
                books.start(id, now);
                self.running = Some((item, id));
                self.started += 1;
                self.wake_if_requested(random);
            }
        } else if let Some(header) = self.next_request() {
            self.read(header);
        } else if self.has_unannounced {
            self.has_unannounced = false;
            self.wake_pool();
        } else if !self.is_open {
            self.die(0, books);
        }
    }

    /// Returns the next request, if all of it is there.
    fn next_request(&self) -> Option<RequestHeader> {
        if self.pipe.len() < RequestHeader::SIZE {
            return None;
        }
        let mut bytes = [0; RequestHeader::SIZE];
        self.pipe
            .iter()
            .zip(&mut bytes)
            .for_each(|(from, to)| *to = *from);
        let header = RequestHeader::from_bytes(&bytes)?;
        let is_whole = self.pipe.len() >= RequestHeader::SIZE + header.length as usize;
        is_whole.then_some(header)
    }

    fn read(&mut self, header: RequestHeader) {
        self.pipe.drain(..RequestHeader::SIZE);
        let bytes: Vec<u8> = self.pipe.drain(..header.length as usize).collect();
        match header.kind {
            RequestKind::Items => {
                let size = if header.count == 1 { 4 } else { 8 };
                let ids = bytes.chunks(size).map(|record| {
                    let id = record.last_chunk().expect("a number");
                    u32::from_le_bytes(*id)
                });
                let numbers = (0..).map(|it| header.item.wrapping_add(it));
                self.frame.extend(numbers.zip(ids));
            }
            RequestKind::Shutdown => self.is_told_to_end = true,
            _ => {}
        }
    }

    fn wake_if_requested(&mut self, random: &mut Random) {
        if !self.has_unannounced {
            return;
        }
        match self.region.wake_mode() {
            WakeMode::Never => {}
            WakeMode::Batched if random.once_in(2) => {}
            WakeMode::Batched | WakeMode::Immediate => self.wake_pool(),
        }
    }

    fn wake_pool(&mut self) {
        if self.region.take_wake_duty() {
            self.has_unannounced = false;
            self.wakeups.push_back(ExitRecord::WAKEUP);
        }
    }

    /// Ends it, with this status.
    pub(super) fn die(&mut self, status: i32, books: &mut Books) {
        if !self.is_alive {
            return;
        }
        self.is_alive = false;
        self.unwritten_status = Some(status);
        self.frame.clear();
        if let Some((_, id)) = self.running.take() {
            books.end_run(id, LastRun::Died);
        }
        // A panic that its worker has replied with explains its death.
        self.is_unexplained_death = self.boot != Boot::Begins && !self.is_aborting;
    }

    /// Reaps it: its parent writes the record, or is gone and writes none.
    pub(super) fn reap(&mut self, is_written: bool, is_known: bool) {
        let Some(status) = self.unwritten_status.take() else {
            return;
        };
        if is_written {
            self.wakeups.push_back(ExitRecord::MARK);
            self.wakeups.extend(status.to_le_bytes());
        }
        self.known_status = is_known.then_some(status);
        self.has_parent = is_written;
    }

    /// Whether the pool has announced the SIGTERM that it sends.
    pub(super) fn expects_sigterm(&self) -> bool {
        let word = self.region.view().atomic_u32(END);
        word.load(Ordering::Acquire) != 0
    }
}
