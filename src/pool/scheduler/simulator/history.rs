//! A random history: what callers, workers, the system and the clock do, one step after the other.

use super::{
    checks::fail,
    operation::{Kind, Operation},
    random::Random,
    world::{SimulatedIo, World, with_world},
};
use crate::error::{Error, ErrorKind};
use crate::pool::{
    scheduler::{EventSource, RecyclePolicy, Scheduler, cancel::StopMode, err_stopped, token},
    task::{
        Task, Wakeups,
        config::TaskConfig,
        encoded::{Encoded, PoolSlabs},
        map::{Chunk, Delivery, InputReader, MapState, OnError},
        work_item::{ChunkSlice, WorkItem},
    },
    worker_handle::{WorkerHandle, checked_region::CheckedRegion, io::WorkerIo, is_before},
};
use crate::process::function::WireFunction;
use crate::sys::signal;
use parking_lot::Mutex;
use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

static FUNCTION: LazyLock<WireFunction> =
    LazyLock::new(|| WireFunction::unary(|x: u8| x).expect("a function of this program"));

/// Items that are outstanding at most: the rest of the history can do no more with many.
const MAX_OUTSTANDING: u64 = 48;

/// A map, and where its items begin in the books.
pub(super) struct Map {
    pub(super) state: Arc<MapState>,
    task: Task,
    pub(super) first: u32,
    count: u32,
}

/// A pool in the middle of a history.
pub(super) struct History {
    pub(super) scheduler: Scheduler<SimulatedIo>,
    pub(super) calls: Vec<(u32, Arc<Task>)>,
    pub(super) maps: Vec<Map>,
    /// Slots whose workers are being started.
    pub(super) starting: Vec<usize>,
    pub(super) submitted: u64,
    pipe_bytes: usize,
    item_nanos: u64,
    pub(super) max_tasks: Option<u64>,
    has_priorities: bool,
    random: Random,
}

impl History {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        with_world(World::reset);
        let workers = 1 + random.below(3);
        let recycle = RecyclePolicy {
            tasks: random.once_in(3).then(|| 1 + random.next() % 5),
            memory: random.once_in(4).then_some(1),
            idle: random.once_in(4).then_some(Duration::from_millis(5)),
        };
        let slabs = Arc::new(PoolSlabs::default());
        Self {
            scheduler: Scheduler::new(workers, None, recycle, slabs, ()),
            calls: Vec::new(),
            maps: Vec::new(),
            starting: (0..workers).collect(),
            submitted: 0,
            pipe_bytes: random.pick(&[300, 1000, 1 << 16]),
            item_nanos: random.pick(&[500, 50_000, 5_000_000]),
            max_tasks: recycle.tasks,
            has_priorities: random.once_in(2),
            random,
        }
    }

    /// Does a step, and checks the books.
    pub(super) fn apply(&mut self, operation: Operation) {
        self.random = Random(operation.seed);
        with_world(|world| {
            world.random = Random(!operation.seed);
            world.is_concurrent = operation.seed & 1 == 0;
        });
        let mut wakeups = Wakeups::default();
        self.act(operation.kind, &mut wakeups);
        with_world(|world| world.is_concurrent = false);
        self.check();
    }

    fn act(&mut self, kind: Kind, wakeups: &mut Wakeups) {
        match kind {
            Kind::Submit => self.submit_call(wakeups),
            Kind::SubmitMap => self.submit_map(wakeups),
            Kind::Cancel | Kind::KillTask => self.end_call(kind, wakeups),
            Kind::CancelMap | Kind::KillMap => self.end_map(kind, wakeups),
            Kind::CancelPending => self.cancel_pending(wakeups),
            Kind::Worker => self.step_worker(),
            Kind::Die | Kind::Reap => self.end_worker(kind),
            Kind::Event => self.deliver_event(),
            Kind::StaleEvent => {
                let slot = self.random.below(self.scheduler.slots.len().max(1));
                let number = self.random.next() & 3;
                self.scheduler.handle_event((slot as u64) << 2 | number);
            }
            Kind::Tick => self.scheduler.tick(wakeups),
            Kind::StartWorker => self.starting.extend(self.scheduler.take_vacancy()),
            Kind::FinishStart => self.finish_start(wakeups),
            Kind::Advance => {
                let nanos = self.random.pick(&[1_000, 100_000, 3_000_000, 200_000_000]);
                with_world(|world| world.now += nanos);
            }
            Kind::Deadline => self.advance_to_deadline(),
            Kind::Resize => {
                let workers = 1 + self.random.below(4);
                // It fails once the pool is closed.
                let _ = self.scheduler.resize(workers);
                self.scheduler.assign_and_flush(wakeups);
            }
            Kind::Sleep => {
                self.scheduler.choose_wake_modes();
            }
            Kind::Close => self.scheduler.close(),
            Kind::Stop => self.stop(wakeups),
        }
    }

    fn config(&mut self) -> TaskConfig {
        let random = &mut self.random;
        TaskConfig {
            timeout: random
                .once_in(4)
                .then(|| random.pick(&[3, 40, 3000]))
                .map(Duration::from_millis),
            retries: random.pick(&[0, 0, 1, 3]),
            retries_panics: random.once_in(2),
            priority: if self.has_priorities {
                random.pick(&[0, 0, 1, 5])
            } else {
                0
            },
        }
    }

    fn accepts(&self) -> bool {
        self.scheduler.outstanding < MAX_OUTSTANDING && self.scheduler.closed_error().is_none()
    }

    fn submit_call(&mut self, wakeups: &mut Wakeups) {
        if !self.accepts() {
            return;
        }
        let (config, seed) = (self.config(), self.random.next());
        let (id, now) = with_world(|world| (world.books.add(config, None, seed), world.now));
        let mut task = Task::call(*FUNCTION, Encoded::copy_of(&id.to_le_bytes()), config);
        task.submitted = now;
        let task = Arc::new(task);
        self.calls.push((id, Arc::clone(&task)));
        self.submitted += 1;
        self.scheduler.submit(WorkItem::Call(task), wakeups);
        self.check_overtaking(config.priority);
    }

    fn submit_map(&mut self, wakeups: &mut Wakeups) {
        if !self.accepts() {
            return;
        }
        let (config, fail_fast) = (self.config(), self.random.once_in(2));
        let state = Arc::new(MapState::new(
            *FUNCTION,
            None,
            config,
            Delivery::Unordered,
            if fail_fast {
                OnError::Cancel
            } else {
                OnError::Continue
            },
            InputReader::Caller,
        ));
        let number = self.maps.len();
        let count = 1 + self.random.below(6) as u32;
        let first = with_world(|world| {
            let map = if fail_fast { number } else { usize::MAX };
            let seed = self.random.next();
            let ids = (0..count).map(|it| world.books.add(config, Some(map), seed ^ u64::from(it)));
            ids.min().unwrap_or_default()
        });
        self.maps.push(Map {
            state: Arc::clone(&state),
            task: Task::map(Arc::clone(&state)),
            first,
            count,
        });
        self.submitted += u64::from(count);
        self.scheduler
            .submit(work_item(state, first, count), wakeups);
        self.check_overtaking(config.priority);
    }

    /// Checks that nothing less urgent was left ahead of what was just submitted.
    fn check_overtaking(&mut self, priority: i32) {
        if !self
            .scheduler
            .queue
            .iter()
            .any(|queued| queued.priority() == priority)
        {
            return;
        }
        for slot in &self.scheduler.slots {
            let Some(worker) = slot.worker() else {
                continue;
            };
            let started = worker.region.started();
            let is_behind = |item: u32| !is_before(item, started);
            let mut sent = worker.in_flight.iter();
            if sent.any(|it| is_behind(it.item) && it.work_item.priority() < priority) {
                fail(format!(
                    "an item with priority {priority} waits after a less urgent one"
                ));
            }
        }
    }

    fn end_call(&mut self, kind: Kind, wakeups: &mut Wakeups) {
        if self.calls.is_empty() {
            return;
        }
        let (id, task) = self.calls[self.random.below(self.calls.len())].clone();
        let is_kill = kind == Kind::KillTask;
        with_world(|world| world.books.items[id as usize].is_unwanted |= is_kill);
        let is_cancelled = if kind == Kind::Cancel {
            self.scheduler.cancel(&task, wakeups)
        } else {
            self.scheduler.kill(&task, wakeups)
        };
        with_world(|world| {
            let item = &mut world.books.items[id as usize];
            item.is_cancelled |= is_cancelled;
            item.is_killed |= is_cancelled && kind == Kind::KillTask && !item.is_done;
        });
        if kind == Kind::Cancel && is_cancelled != task.is_cancelled() {
            fail(format!(
                "cancelling item {id} says {is_cancelled}, which is wrong"
            ));
        }
        self.scheduler.assign_and_flush(wakeups);
    }

    fn end_map(&mut self, kind: Kind, wakeups: &mut Wakeups) {
        if self.maps.is_empty() {
            return;
        }
        let index = self.random.below(self.maps.len());
        let map = &self.maps[index];
        let load = map.state.load();
        if load.untaken == 0 {
            return;
        }
        let end = map.first + map.count;
        with_world(|world| {
            let items = &mut world.books.items[map.first as usize..end as usize];
            let is_kill = kind == Kind::KillMap;
            items
                .iter_mut()
                .for_each(|item| item.is_unwanted |= is_kill);
        });
        let is_cancelled = if kind == Kind::CancelMap {
            self.scheduler.cancel_map(&map.task, &map.state, wakeups)
        } else {
            self.scheduler.kill_map(&map.task, &map.state, wakeups)
        };
        with_world(|world| {
            let items = &mut world.books.items[map.first as usize..end as usize];
            items
                .iter_mut()
                .for_each(|item| item.is_cancelled |= is_cancelled);
        });
        self.scheduler.assign_and_flush(wakeups);
    }

    fn cancel_pending(&mut self, wakeups: &mut Wakeups) {
        with_world(|world| {
            let items = world.books.items.iter_mut();
            items.for_each(|item| item.is_cancelled |= !item.is_done);
        });
        self.scheduler.close();
        self.scheduler.cancel_pending(wakeups);
        self.scheduler.assign_and_flush(wakeups);
    }

    fn stop(&mut self, wakeups: &mut Wakeups) {
        with_world(|world| world.books.is_stopped = true);
        let mode = if self.random.once_in(2) {
            StopMode::Kill
        } else {
            StopMode::Graceful
        };
        self.scheduler.stop(&err_stopped(), mode, wakeups);
    }

    /// Returns a random worker.
    fn worker(&mut self) -> Option<(usize, usize)> {
        let slots = self.scheduler.slots.iter().enumerate();
        let workers: Vec<_> = slots
            .filter_map(|(slot, it)| Some((slot, it.worker()?.io.0)))
            .collect();
        (!workers.is_empty()).then(|| workers[self.random.below(workers.len())])
    }

    fn step_worker(&mut self) {
        let steps = 1 + self.random.below(3);
        if let Some((_, number)) = self.worker() {
            (0..steps).for_each(|_| with_world(|world| world.step(number)));
        }
    }

    fn end_worker(&mut self, kind: Kind) {
        let Some((_, number)) = self.worker() else {
            return;
        };
        let random = &mut self.random;
        with_world(|world| {
            let process = &mut world.processes[number];
            if kind == Kind::Die {
                process.die(random.pick(&[signal::KILL, 11, 0x300]), &mut world.books);
            } else if !process.is_alive {
                process.reap(!random.once_in(4), random.once_in(2));
            }
        });
    }

    /// Returns the events of a worker that are there.
    pub(super) fn events(slot: usize, number: usize) -> impl Iterator<Item = u64> {
        let (wakes, dies) = with_world(|world| {
            let process = &world.processes[number];
            let wakes = !process.wakeups.is_empty() || !process.has_parent;
            (wakes, !process.is_alive && process.is_death_watched)
        });
        let wake = wakes.then(|| token(slot, EventSource::Wake));
        wake.into_iter()
            .chain(dies.then(|| token(slot, EventSource::Death)))
    }

    fn deliver_event(&mut self) {
        let Some((slot, number)) = self.worker() else {
            return;
        };
        let events: Vec<_> = Self::events(slot, number).collect();
        if !events.is_empty() {
            self.scheduler.handle_event(self.random.pick(&events));
        }
    }

    fn finish_start(&mut self, wakeups: &mut Wakeups) {
        if self.starting.is_empty() {
            return;
        }
        let slot = self
            .starting
            .swap_remove(self.random.below(self.starting.len()));
        if self.random.once_in(12) {
            let error = Error::new(ErrorKind::StartFailed, "simulated");
            self.scheduler.start_failed(slot, error, wakeups);
        } else {
            self.install(slot);
        }
    }

    pub(super) fn install(&mut self, slot: usize) {
        let (pipe_bytes, item_nanos) = (self.pipe_bytes, self.item_nanos);
        let reports_memory = self.scheduler.recycle.memory.is_some();
        let (number, region) = with_world(|world| {
            let number = world.start(pipe_bytes, item_nanos);
            world.processes[number].reports_memory = reports_memory;
            (number, world.processes[number].region.clone())
        });
        let page = CheckedRegion::from_region(region);
        let worker = WorkerHandle::new(number as u32 + 1, SimulatedIo(number), page);
        // Cannot fail: nothing is watched.
        let _ = self.scheduler.install(slot, worker);
    }

    pub(super) fn advance_to_deadline(&self) {
        let now = SimulatedIo::now();
        if let Some(due) = self.scheduler.next_deadline(true) {
            let left = due.saturating_duration_since(now);
            with_world(|world| world.now += left.as_nanos() as u64);
        }
    }
}

fn work_item(map: Arc<MapState>, first: u32, count: u32) -> WorkItem {
    let record = |id: u32| [4u32.to_le_bytes(), id.to_le_bytes()].concat();
    let bytes: Vec<u8> = (first..first + count).flat_map(record).collect();
    let items = Encoded::copy_of(if count == 1 { &bytes[4..] } else { &bytes });
    let chunk = Chunk {
        index: map.count_sent(count),
        map,
        count,
        submitted: with_world(|world| world.now),
        items: Mutex::new(items),
        _reservation: None,
    };
    WorkItem::Slice(Box::new(ChunkSlice {
        chunk: Arc::new(chunk),
        first: 0,
        count,
    }))
}
