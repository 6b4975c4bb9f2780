//! One call of a map: the chunks it was cut into, and their outcomes on the way back to the caller.

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{
    budget::Reservation,
    protocol::region::ReplyHeader,
    task::{
        Task, TaskOutput, Wakeups,
        config::{Attempts, TaskConfig},
        encoded::Encoded,
    },
};
use crate::process::function::{ContextLoader, WireFunction};
use crate::shm::Cursor;
use crate::wire::{Wire, codec, handle::Attached};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::Waker,
    thread::Thread,
};

/// Consecutive items that travel together.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) map: Arc<MapState>,
    /// The place of its first item in the input.
    pub(crate) index: u64,
    /// Items in it.
    pub(crate) count: u32,
    /// When they were submitted, by [`clock::now`](crate::sys::clock::now).
    pub(crate) submitted: u64,
    /// One item's bytes, or the bytes of several, each preceded by its length (u32).
    pub(crate) items: Mutex<Encoded>,
    /// Their part of the pool's budget.
    pub(crate) _reservation: Option<Box<Reservation>>,
}

/// A map's context, sent once to each worker that runs items of it.
#[derive(Debug)]
pub(crate) struct MapContext {
    pub(crate) id: u32,
    pub(crate) loader: ContextLoader,
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<Attached>,
}

impl MapContext {
    pub(crate) fn new(loader: ContextLoader, bytes: Vec<u8>, descriptors: Vec<Attached>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            loader,
            bytes,
            descriptors,
        }
    }
}

/// What became of consecutive items.
#[derive(Debug)]
pub(crate) struct MapPart {
    pub(crate) index: u64,
    pub(crate) count: u32,
    pub(crate) outcome: Result<EncodedResults>,
}

/// Encoded results.
#[derive(Debug)]
pub(crate) enum EncodedResults {
    /// One.
    One(Encoded),
    /// Several, as the records that the worker wrote.
    Records(Box<[u8]>),
}

impl MapPart {
    pub(crate) fn has_handles(&self) -> bool {
        matches!(&self.outcome, Ok(EncodedResults::One(payload)) if payload.has_fds())
    }

    /// Decodes the results one after the other; an error takes the place of each that failed.
    pub(crate) fn decode<R: Wire + 'static>(&self, mut take: impl FnMut(Result<R>)) {
        match &self.outcome {
            Err(error) => (0..self.count).for_each(|_| take(Err(error.clone()))),
            Ok(EncodedResults::One(payload)) => take(payload.decode().map_err(decode_error)),
            Ok(EncodedResults::Records(bytes)) => {
                let mut rest = &bytes[..];
                while let Some(value) = next_record(&mut rest) {
                    take(codec::decode(&mut Cursor::new(value)).map_err(decode_error));
                }
            }
        }
    }
}

/// Splits the first record off and gives its bytes.
#[inline]
pub(crate) fn next_record<'a>(records: &mut &'a [u8]) -> Option<&'a [u8]> {
    let head = ReplyHeader::parse(records)?;
    let (value, rest) = records[ReplyHeader::SIZE..].split_at_checked(head.len)?;
    *records = rest;
    Some(value)
}

/// The error of a result that cannot be decoded.
pub(crate) fn decode_error(reason: codec::CodecErrorText) -> Error {
    let message = format!("failed to decode the task's result: {reason}");
    Error::new(ErrorKind::Codec, message)
}

/// How much of a batch is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MapLoad {
    /// Items that left the input and whose outcomes were not taken.
    pub(crate) untaken: u64,
    /// The same, and those whose outcomes were taken last: its caller has yet to hand them out.
    pub(crate) ahead: u64,
    /// Items that were sent and have no outcome.
    pub(crate) outstanding: u64,
}

/// Which thread reads a batch's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InputReader {
    /// The caller, when it asks for a result and none is there.
    Caller,
    /// A thread that does nothing else.
    Thread,
}

/// How a batch's outcomes are handed out.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// In input order.
    Ordered,
    /// As they come.
    Unordered,
    /// All at once, in input order, when the last one is there.
    Collected,
}

/// What the first failed item does to the items after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnError {
    /// It cancels those that have not started.
    Cancel,
    /// Nothing: they run.
    Continue,
}

/// What the dispatcher and the caller of one map share.
#[derive(Debug)]
pub(crate) struct MapState {
    pub(crate) function: WireFunction,
    pub(crate) context: Option<MapContext>,
    pub(crate) config: TaskConfig,
    on_error: OnError,
    read_by: InputReader,
    /// Items at this place in the input, and behind it, are not to be started any more.
    cancelled_from: AtomicU64,
    /// The input is not to be read on: the caller that reads it has a result to take, or the
    /// results are not wanted any more. Written under the lock of `inner`, read without it after
    /// each item; Relaxed, as an item more does no harm.
    halts: AtomicBool,
    inner: Mutex<MapProgress>,
}

#[derive(Debug)]
struct MapProgress {
    delivery: Delivery,
    ordered: BTreeMap<u64, MapPart>,
    unordered: VecDeque<MapPart>,
    /// Items that left the input.
    pulled: u64,
    /// Items whose outcomes were taken; in order, the place of the next one.
    next: u64,
    /// Items whose outcomes were handed out: of all that were taken, as of the last call of `take`.
    handed_out: u64,
    /// The caller has the error of the next item of the input already.
    is_error_ahead: bool,
    /// Items that were sent and have no outcome.
    outstanding: u64,
    /// Of the items that were tried and have no outcome, by their places.
    attempts: HashMap<u64, Attempts>,
    /// Nanoseconds an item takes, as measured last.
    item_nanos: Option<u64>,
    waker: Option<Waker>,
    thread: Option<Thread>,
    /// The thread that reads the input and waits for room.
    reader: Option<Thread>,
    /// The future that gets the whole list.
    task: Option<Arc<Task>>,
}

impl MapState {
    pub(crate) fn new(
        function: WireFunction,
        context: Option<MapContext>,
        config: TaskConfig,
        delivery: Delivery,
        on_error: OnError,
        read_by: InputReader,
    ) -> Self {
        let inner = MapProgress {
            delivery,
            ordered: BTreeMap::new(),
            unordered: VecDeque::new(),
            pulled: 0,
            next: 0,
            handed_out: 0,
            is_error_ahead: false,
            outstanding: 0,
            attempts: HashMap::new(),
            item_nanos: None,
            waker: None,
            thread: None,
            reader: None,
            task: None,
        };
        let cancelled_from = AtomicU64::new(u64::MAX);
        Self {
            function,
            context,
            config,
            on_error,
            read_by,
            cancelled_from,
            halts: AtomicBool::new(false),
            inner: Mutex::new(inner),
        }
    }

    /// Looks at how the item at this place was tried before.
    pub(crate) fn with_attempts<T>(&self, index: u64, look: impl FnOnce(&mut Attempts) -> T) -> T {
        look(self.inner.lock().attempts.entry(index).or_default())
    }

    /// Counts items that are about to be sent, and returns the place of the first.
    pub(crate) fn count_sent(&self, count: u32) -> u64 {
        let mut inner = self.inner.lock();
        let index = inner.pulled;
        inner.pulled += u64::from(count);
        inner.outstanding += u64::from(count);
        index
    }

    pub(crate) fn load(&self) -> MapLoad {
        let inner = self.inner.lock();
        MapLoad {
            untaken: inner.pulled - inner.next,
            ahead: inner.pulled - inner.handed_out,
            outstanding: inner.outstanding,
        }
    }

    /// Whether an item that would be pulled now is still wanted.
    pub(crate) fn wants_more(&self) -> bool {
        let pulled = self.inner.lock().pulled;
        self.count_wanted(pulled, 1) > 0
    }

    /// Whether the input is not to be read on for now.
    #[inline]
    pub(crate) fn halts(&self) -> bool {
        self.halts.load(Ordering::Relaxed)
    }

    /// Whether the caller takes outcomes one by one, and none when it has gone.
    pub(crate) fn is_iterated(&self) -> bool {
        !matches!(self.inner.lock().delivery, Delivery::Collected)
    }

    /// The number of the future that gets the whole list.
    pub(crate) fn task_id(&self) -> Option<u64> {
        self.inner.lock().task.as_ref().map(|it| it.id)
    }

    /// Whether an item has an outcome already.
    pub(crate) fn has_outcomes(&self) -> bool {
        let inner = self.inner.lock();
        inner.next > 0 || !inner.ordered.is_empty() || !inner.unordered.is_empty()
    }

    pub(crate) fn item_nanos(&self) -> Option<u64> {
        self.inner.lock().item_nanos
    }

    /// How many of `count` items from this place on may still start.
    pub(crate) fn count_wanted(&self, index: u64, count: u32) -> u32 {
        let before = self
            .cancelled_from
            .load(Ordering::Relaxed)
            .saturating_sub(index);
        u32::try_from(before).map_or(count, |it| it.min(count))
    }

    /// Has no item started at this place or behind it; true if that changes anything.
    pub(crate) fn cancel_from(&self, index: u64) -> bool {
        self.cancelled_from.fetch_min(index, Ordering::Relaxed) > index
    }

    /// Takes the outcome of items that were sent; true if others are cancelled because of it.
    pub(crate) fn deliver(
        &self,
        part: MapPart,
        item_nanos: Option<u64>,
        wakeups: &mut Wakeups,
    ) -> bool {
        let mut inner = self.inner.lock();
        inner.outstanding -= u64::from(part.count);
        if !inner.attempts.is_empty() {
            inner
                .attempts
                .retain(|it, _| !(part.index..part.index + u64::from(part.count)).contains(it));
        }
        inner.item_nanos = item_nanos.or(inner.item_nanos);
        let fails = self.on_error == OnError::Cancel && part.outcome.is_err();
        let cancels = fails && self.cancel_from(part.index + 1);
        inner.insert(part);
        self.halt_if_ready(&inner);
        inner.tell(wakeups);
        cancels
    }

    /// The next outcomes to hand out. The caller has handed out those that it took before.
    pub(crate) fn take(&self) -> Option<MapPart> {
        let mut inner = self.inner.lock();
        let has_given = inner.handed_out < inner.next;
        inner.handed_out = inner.next;
        let part = inner.take();
        self.halt_if_ready(&inner);
        let reader = inner.reader.take_if(|_| has_given);
        drop(inner);
        reader.iter().for_each(Thread::unpark);
        part
    }

    fn halt_if_ready(&self, inner: &MapProgress) {
        if self.read_by == InputReader::Caller && !matches!(inner.delivery, Delivery::Collected) {
            self.halts.store(inner.has_part(), Ordering::Relaxed);
        }
    }

    /// Hands out `error` as the outcome of the next item, before the input has given that; `None`
    /// if it has, or if such an error was handed out before.
    pub(crate) fn take_error_ahead(&self, error: Error) -> Option<MapPart> {
        let mut inner = self.inner.lock();
        if inner.pulled > inner.next || inner.is_error_ahead {
            return None;
        }
        inner.is_error_ahead = true;
        Some(MapPart {
            index: inner.next,
            count: 1,
            outcome: Err(error),
        })
    }

    /// Whether the caller has the error of the next item already.
    pub(crate) fn is_error_ahead(&self) -> bool {
        self.inner.lock().is_error_ahead
    }

    /// Starts nothing more, and has the input read no further.
    pub(crate) fn abandon(&self) {
        self.cancel_from(0);
        let mut inner = self.inner.lock();
        self.halts.store(true, Ordering::Relaxed);
        let reader = inner.reader.take();
        drop(inner);
        reader.iter().for_each(Thread::unpark);
    }

    pub(crate) fn has_part(&self) -> bool {
        self.inner.lock().has_part()
    }

    /// Has `waker` woken at the next delivery.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        let waker = waker.clone();
        // The one before is dropped when the lock has been let go: that is the user's code.
        let _before = self.inner.lock().waker.replace(waker);
    }

    /// Has `thread` unparked at the next delivery.
    pub(crate) fn set_waiter(&self, thread: &Thread) {
        self.inner.lock().thread = Some(thread.clone());
    }

    /// Has `thread`, which reads the input, unparked when there may be room for more.
    pub(crate) fn set_reader(&self, thread: &Thread) {
        self.inner.lock().reader = Some(thread.clone());
    }

    /// Adds those who wait for a delivery to `told`.
    pub(crate) fn add_waiters(&self, wakeups: &mut Wakeups) {
        self.inner.lock().tell(wakeups);
    }

    /// Has everything handed to `task` when nothing is outstanding any more.
    pub(crate) fn collect_into(&self, task: &Arc<Task>, wakeups: &mut Wakeups) {
        let mut inner = self.inner.lock();
        inner.task = Some(Arc::clone(task));
        inner.tell(wakeups);
    }
}

impl MapProgress {
    fn insert(&mut self, mut part: MapPart) {
        if self.is_error_ahead && part.outcome.is_err() {
            self.is_error_ahead = false;
            self.next += 1;
            part.index += 1;
            part.count -= 1;
            if part.count == 0 {
                return;
            }
        }
        match self.delivery {
            Delivery::Unordered => self.unordered.push_back(part),
            Delivery::Ordered | Delivery::Collected => {
                self.ordered.insert(part.index, part);
            }
        }
    }

    fn has_part(&self) -> bool {
        match self.delivery {
            Delivery::Unordered => !self.unordered.is_empty(),
            _ => self
                .ordered
                .first_key_value()
                .is_some_and(|(index, _)| *index == self.next),
        }
    }

    fn take(&mut self) -> Option<MapPart> {
        if !self.has_part() {
            return None;
        }
        let part = match self.delivery {
            Delivery::Unordered => self.unordered.pop_front(),
            _ => self.ordered.pop_first().map(|it| it.1),
        }?;
        self.next += u64::from(part.count);
        Some(part)
    }

    fn tell(&mut self, wakeups: &mut Wakeups) {
        if let Delivery::Collected = self.delivery {
            if self.outstanding == 0
                && let Some(task) = self.task.take()
            {
                task.complete(Ok(self.collected()), wakeups);
            }
            return;
        }
        // Also for a part that is not the next in order: there is room for more items in flight.
        wakeups.threads.extend(self.thread.take());
        wakeups.wakers.extend(self.waker.take());
        wakeups.threads.extend(self.reader.take());
    }

    /// Every part in order. Whoever takes them finds the first failure: a result may yet fail to
    /// decode.
    fn collected(&mut self) -> TaskOutput {
        TaskOutput::List(std::mem::take(&mut self.ordered).into_values().collect())
    }
}
