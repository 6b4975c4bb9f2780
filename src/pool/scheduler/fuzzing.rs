//! The fuzz target of replies: the script writes a worker's shared region, wake-up pipe and socket,
//! and a complete scheduler reads them.

use crate::pool::{
    protocol::{
        SlabRef,
        region::{RING, RING_BYTES, ReplyHeader, ReplyKind, pack_start_word, unpack_start_word},
    },
    scheduler::{RecyclePolicy, Scheduler, Slot, SlotState, StopMode},
    task::{
        Task, TaskOutput, Wakeups,
        config::TaskConfig,
        encoded::{Encoded, PoolSlabs},
        map::{Chunk, Delivery, InputReader, MapState, OnError},
        work_item::{ChunkSlice, WorkItem},
    },
    worker_handle::{WorkerHandle, fuzzing::Theirs},
};
use crate::process::{function::WireFunction, task_error::TaskError};
use crate::sys::{clock, memory, pipe, poll::Poller, socket};
use crate::wire::{
    codec,
    fuzzing::{Script, Target, Tree, descriptors, ignore, part},
};
use parking_lot::Mutex;
use std::{
    os::fd::AsFd,
    sync::{Arc, LazyLock, atomic::Ordering},
    time::{Duration, Instant},
};

static FUNCTION: LazyLock<WireFunction> =
    LazyLock::new(|| WireFunction::unary(|it: u8| it).expect("a function of this program"));

/// Units in one input.
const MOST_UNITS: usize = 64;

/// Bytes of the longest slab.
const LONGEST: u64 = 1 << 20;

/// Steps that a pool takes at the end, until nothing is left to be done.
const LAST_STEPS: usize = 100;

struct Fuzzed {
    state: Scheduler,
    theirs: Theirs,
    is_alive: bool,
    tasks: Vec<Arc<Task>>,
    batches: Vec<Arc<MapState>>,
}

impl Fuzzed {
    fn new(script: &mut Script<'_>) -> Option<Self> {
        let flags = script.byte();
        let stay = RecyclePolicy {
            tasks: (flags & 1 != 0).then_some(3),
            memory: (flags & 2 != 0).then_some(1 << 30),
            idle: None,
        };
        // A living one is another process for each input that has it killed.
        let is_alive = flags & 0xf0 == 0xf0;
        let events = Arc::new(Poller::new().ok()?);
        let slabs = Arc::new(PoolSlabs::default());
        let mut state = Scheduler::new(1, None, stay, slabs, events);
        let (worker, theirs) = WorkerHandle::to_nobody(is_alive)?;
        state.install(0, worker).ok()?;
        let (tasks, batches) = Default::default();
        Some(Self {
            state,
            theirs,
            is_alive,
            tasks,
            batches,
        })
    }

    fn submit(&mut self, work_item: WorkItem, wakeups: &mut Wakeups) {
        if self.tasks.len() + self.batches.len() < MOST_UNITS && self.state.closed_error().is_none()
        {
            if let WorkItem::Call(task) = &work_item {
                self.tasks.push(Arc::clone(task));
            }
            self.state.submit(work_item, wakeups);
        }
    }

    fn submit_call(&mut self, script: &mut Script<'_>, wakeups: &mut Wakeups) {
        let flags = script.byte();
        let config = TaskConfig {
            timeout: (flags & 1 != 0).then_some(Duration::from_secs(60)),
            retries: u32::from(flags >> 1 & 3),
            retries_panics: flags & 8 != 0,
            priority: i32::from(flags >> 4 & 1),
        };
        let task = Task::call(*FUNCTION, Encoded::copy_of(&[flags]), config);
        self.submit(WorkItem::Call(Arc::new(task)), wakeups);
    }

    fn submit_chunk(&mut self, script: &mut Script<'_>, wakeups: &mut Wakeups) {
        let (flags, count) = (script.byte(), u32::from(script.byte() % 32) + 1);
        let delivery = match flags % 3 {
            0 => Delivery::Ordered,
            1 => Delivery::Unordered,
            _ => Delivery::Collected,
        };
        let config = TaskConfig {
            retries: u32::from(flags >> 2 & 1),
            ..TaskConfig::default()
        };
        let on_error = if flags & 8 != 0 {
            OnError::Cancel
        } else {
            OnError::Continue
        };
        let map = MapState::new(
            *FUNCTION,
            None,
            config,
            delivery,
            on_error,
            InputReader::Caller,
        );
        let map = Arc::new(map);
        let record = |it: u32| [1, 0, 0, 0, it as u8];
        let bytes: Vec<u8> = (0..count).flat_map(record).collect();
        let items = if count == 1 {
            Encoded::copy_of(&bytes[4..])
        } else {
            Encoded::copy_of(&bytes)
        };
        let chunk = Chunk {
            index: map.count_sent(count),
            map: Arc::clone(&map),
            count,
            submitted: clock::now(),
            items: Mutex::new(items),
            _reservation: None,
        };
        self.batches.push(map);
        let items = ChunkSlice {
            chunk: Arc::new(chunk),
            first: 0,
            count,
        };
        self.submit(WorkItem::Slice(Box::new(items)), wakeups);
    }

    /// Starts items as a worker does.
    fn start(&self, count: u8) {
        for _ in 0..count {
            let (started, _) =
                unpack_start_word(self.theirs.region.start_word().load(Ordering::Relaxed));
            self.theirs.region.try_start(started);
        }
    }

    /// Appends a record for an item before the last started one, or for a number never used.
    fn reply(&self, script: &mut Script<'_>) {
        let (tag, back) = (script.byte(), u32::from(script.byte()));
        let tags = [
            ReplyKind::Value,
            ReplyKind::Fault,
            ReplyKind::Slab,
            ReplyKind::Ready,
            ReplyKind::SetupFault,
            ReplyKind::SlabGone,
            ReplyKind::Fds,
            ReplyKind::MemoryExceeded,
        ];
        let bytes = script.part();
        let (started, _) =
            unpack_start_word(self.theirs.region.start_word().load(Ordering::Relaxed));
        let head = ReplyHeader {
            item: started.wrapping_sub(back),
            kind: tags[usize::from(tag) % tags.len()],
            len: bytes.len(),
        };
        self.theirs.region.append(head, bytes);
    }

    /// Puts bytes into the ring that may be no records.
    fn scribble_in_ring(&self, bytes: &[u8]) {
        let region = &self.theirs.region;
        let tail = region.tail().load(Ordering::Relaxed);
        let offset = tail as usize % RING_BYTES;
        let bytes = &bytes[..bytes.len().min(RING_BYTES - offset)];
        region.view().copy_in(RING + offset, bytes);
        let end = tail.wrapping_add(bytes.len() as u64);
        region.tail().store(end, Ordering::Release);
    }

    fn scribble_over_region(&self, script: &mut Script<'_>) {
        let place = usize::from(u16::from_le_bytes(script.array())) * 8 % RING;
        let word = self.theirs.region.view().atomic_u64(place);
        match script.byte() % 3 {
            0 => word.store(script.word(), Ordering::Relaxed),
            1 => {
                let by = i64::from(script.byte().cast_signed()).cast_unsigned();
                word.fetch_add(by, Ordering::Relaxed);
            }
            _ => {
                word.fetch_xor(1 << (script.byte() % 64), Ordering::Relaxed);
            }
        }
    }

    fn scribble_over_word(&self, script: &mut Script<'_>) {
        let word = self.theirs.region.start_word();
        let (started, allowed) = unpack_start_word(word.load(Ordering::Relaxed));
        let change = |it: u32, by: u8| it.wrapping_add_signed(by.cast_signed().into());
        let next = (
            change(started, script.byte()),
            change(allowed, script.byte()),
        );
        word.store(pack_start_word(next.0, next.1), Ordering::Relaxed);
    }

    fn send_message(&self, script: &mut Script<'_>) {
        let fds = match script.byte() % 4 {
            0 => {
                let length = script.word() % LONGEST;
                vec![memory::anonymous_file(length as usize).expect("shared memory")]
            }
            count => descriptors(usize::from(count) - 1),
        };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let _ = socket::try_send(&self.theirs.socket, script.part(), &fds);
    }

    /// The worker ends, and another comes.
    fn replace(&mut self, wakeups: &mut Wakeups) -> Option<()> {
        if let Some(worker) = self.state.slots[0].worker_mut() {
            worker.die();
        }
        self.state.tick(wakeups);
        if let SlotState::Vacant(at) = &mut self.state.slots[0].state {
            *at = Instant::now();
            let slot = self.state.take_vacancy()?;
            let (worker, theirs) = WorkerHandle::to_nobody(self.is_alive)?;
            self.state.install(slot, worker).ok()?;
            self.theirs = theirs;
        }
        Some(())
    }

    fn act(&mut self, script: &mut Script<'_>, wakeups: &mut Wakeups) -> Option<()> {
        match script.byte() % 14 {
            0 => self.submit_call(script, wakeups),
            1 => self.submit_chunk(script, wakeups),
            2 => self.start(script.byte()),
            3 => self.reply(script),
            4 => self.state.tick(wakeups),
            5 => self.scribble_in_ring(script.part()),
            6 => self.scribble_over_region(script),
            7 => self.scribble_over_word(script),
            8 => self.send_message(script),
            9 => ignore(pipe::write(&self.theirs.wake_pipe, script.part())),
            10 => self.state.handle_event(u64::from(script.byte() % 4)),
            11 => return self.replace(wakeups),
            12 => ignore((
                self.state.stats(),
                self.state.choose_wake_modes(),
                self.state.next_deadline(true),
            )),
            _ => {
                let task = self.tasks.get(usize::from(script.byte()));
                if let Some(task) = task.cloned() {
                    self.state.cancel(&task, wakeups);
                }
            }
        }
        Some(())
    }

    /// Stops the pool, and checks that every item has an outcome.
    fn end(mut self, wakeups: &mut Wakeups) {
        let stopped = crate::pool::scheduler::err_stopped();
        self.state.stop(&stopped, StopMode::Kill, wakeups);
        let mut steps = 0..LAST_STEPS;
        while self.state.outstanding > 0 && steps.next().is_some() {
            self.state
                .slots
                .iter_mut()
                .filter_map(Slot::worker_mut)
                .for_each(WorkerHandle::die);
            self.state.tick(wakeups);
        }
        assert_eq!(self.state.outstanding, 0);
        for task in &self.tasks {
            if let Some(Ok(TaskOutput::Value(payload))) = task.outcome() {
                ignore(payload.decode::<Tree>());
            }
            assert!(task.is_done());
        }
        for map in &self.batches {
            while let Some(part) = map.take() {
                part.decode::<Tree>(|_| {});
            }
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let reply = |tag: u8, back: u8, bytes: &[u8]| [&[3, tag, back][..], &part(bytes)].concat();
    let ready = [reply(3, 0, &[]), vec![4]].concat();
    let (call, again, look) = ([0, 0], [0, 0b1010], [4, 12]);
    let chunk = |count: u8| [1, 0, count - 1, 4];
    let mut value = Vec::new();
    codec::encode(&Tree::example(None), &mut value).expect("an example");
    let mut fault = Vec::new();
    codec::encode(&TaskError::Encode("why".to_owned()), &mut fault).expect("text");
    let mut large = Vec::new();
    codec::encode(
        &SlabRef {
            slab: 1,
            length: 100,
        },
        &mut large,
    )
    .expect("numbers");
    let slab = [
        &[8, 0][..],
        &4096u64.to_le_bytes(),
        &part(&1u32.to_le_bytes()),
    ]
    .concat();
    let handles = [&[8, 2][..], &part(&0u32.to_le_bytes())].concat();
    let values: Vec<u8> = (0..3)
        .flat_map(|_| [&[2, 1][..], &reply(0, 1, &value)].concat())
        .collect();
    let one = [
        &[0][..],
        &ready,
        &call,
        &[4, 2, 1],
        &reply(0, 1, &value),
        &look,
    ]
    .concat();
    let failed = [
        &[0][..],
        &ready,
        &again,
        &[2, 1],
        &reply(1, 1, &fault),
        &look,
        &[11],
    ]
    .concat();
    let several = [&[0][..], &ready, &chunk(3), &values, &look].concat();
    let in_slab = [
        &[0][..],
        &ready,
        &call,
        &slab,
        &[2, 1],
        &reply(2, 1, &large),
        &look,
    ]
    .concat();
    let map = reply(6, 0, &1u64.to_le_bytes());
    let handled = [
        &[0][..],
        &ready,
        &call,
        &handles,
        &[2, 1],
        &map,
        &reply(0, 1, &value),
        &[4],
    ]
    .concat();
    let died = [
        &[0][..],
        &ready,
        &again,
        &chunk(9),
        &[2, 1, 11],
        &ready,
        &look,
        &[13, 0],
    ]
    .concat();
    let broken = [&[0xf0][..], &ready, &call, &[7, 255, 0], &look, &[11, 4]].concat();
    let full = [
        &[3][..],
        &ready,
        &call,
        &reply(7, 0, &[]),
        &reply(5, 0, &[1, 0, 0, 0]),
        &look,
    ]
    .concat();
    let noise = [
        &[0][..],
        &ready,
        &call,
        &[5],
        &part(&[9; 40]),
        &[9],
        &part(&[1, 2, 3]),
        &[10, 0, 4],
    ]
    .concat();
    vec![
        one, failed, several, in_slab, handled, died, broken, full, noise,
    ]
}

pub(crate) const REPLIES: Target = Target {
    name: "replies",
    run: |input| {
        let mut script = Script(input);
        let mut wakeups = Wakeups::default();
        let Some(mut fuzzed) = Fuzzed::new(&mut script) else {
            return;
        };
        while !script.is_over() && fuzzed.act(&mut script, &mut wakeups).is_some() {}
        fuzzed.end(&mut wakeups);
    },
    seeds,
};
