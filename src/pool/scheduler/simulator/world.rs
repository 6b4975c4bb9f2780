//! Everything outside the scheduler: simulated workers, their descriptors and the clock.

use super::{books::Books, process::Process, random::Random};
use crate::pool::{
    protocol::{
        fds::FdMessage,
        region::{
            BUSY_NANOS, END, ITEMS_DONE, OVERFLOW, PANIC_ITEM, PANIC_SINCE, STARTED_AT,
            STARTED_ITEM, STOP, SharedRegion,
        },
    },
    worker_handle::io::WorkerIo,
};
use crate::shm::Slab;
use crate::sys::{atomic::Ordering, pidfd::WaitStatus, signal};
use crate::wire::handle::Attached;
use std::{
    cell::RefCell,
    io, mem,
    sync::LazyLock,
    time::{Duration, Instant},
};

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
}

/// The moment at which every history begins.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What the scheduler cannot see but through [`WorkerIo`].
#[derive(Debug, Default)]
pub(super) struct World {
    /// Nanoseconds since the beginning.
    pub(super) now: u64,
    pub(super) random: Random,
    /// Workers go on while the scheduler does something: at each of its calls, at times.
    pub(super) is_concurrent: bool,
    pub(super) processes: Vec<Process>,
    pub(super) books: Books,
    /// Steps of workers.
    pub(super) steps: u64,
    /// Regions of workers that are no more.
    spare: Vec<SharedRegion>,
}

/// Looks at the world, which no other call may do meanwhile.
pub(super) fn with_world<T>(look: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(look)
}

impl World {
    /// Begins another history.
    pub(super) fn reset(&mut self) {
        let old = self.processes.drain(..).map(|process| process.region);
        self.spare.extend(old);
        self.books = Books::default();
        self.now = 1;
        self.is_concurrent = false;
    }

    /// Starts a worker, and returns its number.
    pub(super) fn start(&mut self, pipe_bytes: usize, item_nanos: u64) -> usize {
        let region = self
            .spare
            .pop()
            .unwrap_or_else(|| SharedRegion::new().expect("memory"));
        clear(&region);
        self.processes
            .push(Process::new(region, pipe_bytes, item_nanos));
        self.processes.len() - 1
    }

    /// Does the next step of a worker.
    pub(super) fn step(&mut self, number: usize) {
        self.steps += 1;
        self.processes[number].step(&mut self.books, &mut self.random, self.now);
    }

    /// Does steps of workers while the scheduler runs.
    fn interleave(&mut self) {
        if self.is_concurrent && self.random.once_in(4) && !self.processes.is_empty() {
            let last = self.processes.len().min(8);
            let number = self.processes.len() - 1 - self.random.below(last);
            for _ in 0..=self.random.below(3) {
                self.step(number);
            }
        }
    }
}

/// Makes a used region like a new one.
fn clear(region: &SharedRegion) {
    let view = region.view();
    region.start_word().store(0, Ordering::Relaxed);
    region.tail().store(0, Ordering::Relaxed);
    region.head().store(0, Ordering::Relaxed);
    region.wake_mode_word().store(2, Ordering::Relaxed);
    region.wants_room().store(0, Ordering::Relaxed);
    for place in [STARTED_ITEM, END, OVERFLOW, PANIC_ITEM] {
        view.atomic_u32(place).store(0, Ordering::Relaxed);
    }
    for place in [BUSY_NANOS, ITEMS_DONE, STARTED_AT, STOP, PANIC_SINCE] {
        view.atomic_u64(place).store(0, Ordering::Relaxed);
    }
}

/// The pool's end of a simulated worker.
#[derive(Debug)]
pub(super) struct SimulatedIo(pub(super) usize);

impl SimulatedIo {
    fn with<T>(&self, look: impl FnOnce(&mut Process) -> T) -> T {
        with_world(|world| {
            world.interleave();
            look(&mut world.processes[self.0])
        })
    }
}

impl WorkerIo for SimulatedIo {
    type Events = ();

    fn now() -> Instant {
        with_world(|world| {
            world.interleave();
            *BEGINNING + Duration::from_nanos(world.now)
        })
    }

    fn since(then: u64) -> Duration {
        with_world(|world| Duration::from_nanos(world.now.saturating_sub(then)))
    }

    fn random() -> u32 {
        with_world(|world| world.random.next() as u32)
    }

    fn watch(&self, (): &(), _slot: usize) -> io::Result<()> {
        self.with(|process| process.is_death_watched = true);
        Ok(())
    }

    /// The pool reaps the worker. Until then it may send items to a dead one, which lose it, too.
    fn unwatch(&self, (): &()) {
        let is_death = self.with(|process| mem::take(&mut process.is_unexplained_death));
        with_world(|world| world.books.deaths += u32::from(is_death));
    }

    fn unwatch_death(&self, (): &()) {
        self.with(|process| process.is_death_watched = false);
    }

    fn watch_room(&self, (): &(), _slot: usize, _is_wanted: bool) {}

    fn unwatch_requests(&self, (): &()) {}

    fn is_open(&self) -> bool {
        self.with(|process| process.is_open)
    }

    fn write_requests(&self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|process| {
            let room = process.pipe_bytes.saturating_sub(process.pipe.len());
            let count = room.min(bytes.len());
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            process.pipe.extend(&bytes[..count]);
            Ok(count)
        })
    }

    fn close_requests(&mut self) {
        self.with(|process| process.is_open = false);
    }

    fn read_wakeups(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|process| {
            let count = process.wakeups.len().min(buf.len());
            let bytes = process.wakeups.drain(..count);
            bytes.zip(&mut *buf).for_each(|(from, to)| *to = from);
            match count {
                0 if process.has_parent => Err(io::ErrorKind::WouldBlock.into()),
                count => Ok(count),
            }
        })
    }

    fn send_slab(&self, _slab: &Slab) -> io::Result<()> {
        Ok(())
    }

    fn send_fds(&self, _attached: &[Attached]) -> io::Result<()> {
        Ok(())
    }

    fn receive_fds(&self) -> Option<FdMessage> {
        None
    }

    fn send_signal(&self, number: i32) -> io::Result<()> {
        self.with(|process| {
            if number == signal::KILL {
                process.is_killed = true;
            } else {
                process.is_terminated |= process.expects_sigterm();
            }
        });
        Ok(())
    }

    fn is_dead(&self) -> bool {
        self.with(|process| !process.is_alive)
    }

    fn is_asleep(&self) -> bool {
        self.with(|process| process.is_asleep())
    }

    fn status_after_reaping(&self) -> Option<WaitStatus> {
        self.with(|process| process.known_status.map(WaitStatus))
    }
}
