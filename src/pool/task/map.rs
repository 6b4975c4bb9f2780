//! One map call: its chunks, and their outcomes on the way to the caller.

use crate::error::Error;
use crate::pool::{
    budget::Reservation,
    task::{
        Task, TaskOutput, Wakeups,
        config::{Attempts, TaskConfig},
        encoded::Encoded,
        map_part::MapPart,
    },
};
use crate::process::function::{ContextLoader, WireFunction};
use crate::wire::handle::Attached;
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

/// Consecutive items that are sent together.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) map: Arc<MapState>,
    /// The position of its first item in the input.
    pub(crate) index: u64,
    /// The number of its items.
    pub(crate) count: u32,
    /// When it was submitted, by [`clock::now`](crate::sys::clock::now).
    pub(crate) submitted: u64,
    /// The bytes of a single item, or of several items with a length (u32) before each.
    pub(crate) items: Mutex<Encoded>,
    /// Its part of the pool's budget.
    pub(crate) _reservation: Option<Box<Reservation>>,
}

/// The context of a map, sent once to each worker that runs items of the map.
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

/// How much of a map is in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MapLoad {
    /// Items that left the input and whose outcomes were not taken.
    pub(crate) untaken: u64,
    /// `untaken`, and the items whose outcomes were taken last, which the caller has not returned
    /// yet.
    pub(crate) ahead: u64,
    /// Items that were sent and have no outcome.
    pub(crate) outstanding: u64,
}

/// Which thread reads the input of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InputReader {
    /// The caller, when it requests a result and none is ready.
    Caller,
    /// A separate thread.
    Thread,
}

/// How the outcomes of a map are delivered.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// In input order.
    Ordered,
    /// In the order in which they complete.
    Unordered,
    /// All at once, in input order, after the last one.
    Collected,
}

/// The effect of the first failed item on the items after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnError {
    /// Cancels the items that have not started.
    Cancel,
    /// Lets them run.
    Continue,
}

/// The state that the scheduler and the caller of one map share.
#[derive(Debug)]
pub(crate) struct MapState {
    pub(crate) function: WireFunction,
    pub(crate) context: Option<MapContext>,
    pub(crate) config: TaskConfig,
    on_error: OnError,
    read_by: InputReader,
    /// Items from this position of the input on must not start.
    cancelled_from: AtomicU64,
    /// Whether reading the input must pause: the caller that reads it has a result to take, or the
    /// results were dropped. Written under the lock of `inner`, and read without it after each
    /// item. Relaxed: a late reader pulls one more item, which does no harm.
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
    /// Items whose outcomes were taken. In input order, this is the position of the next one.
    next: u64,
    /// Items whose outcomes were returned: the value of `next` at the last call of `take`.
    returned: u64,
    /// Whether the caller already has an error for the next item of the input.
    is_error_ahead: bool,
    /// Items that were sent and have no outcome.
    outstanding: u64,
    /// The attempts at items without an outcome, by position.
    attempts: HashMap<u64, Attempts>,
    /// Nanoseconds per item, as measured last.
    item_nanos: Option<u64>,
    waker: Option<Waker>,
    thread: Option<Thread>,
    /// The thread that reads the input, while it waits for room.
    reader: Option<Thread>,
    /// The task that receives the whole list.
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
            returned: 0,
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

    /// Runs `look` on the attempts at the item at this position.
    pub(crate) fn with_attempts<T>(&self, index: u64, look: impl FnOnce(&mut Attempts) -> T) -> T {
        look(self.inner.lock().attempts.entry(index).or_default())
    }

    /// Counts `count` items that are about to be sent, and returns the position of the first.
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
            ahead: inner.pulled - inner.returned,
            outstanding: inner.outstanding,
        }
    }

    /// Whether an item that is pulled now may still start.
    pub(crate) fn wants_more(&self) -> bool {
        let pulled = self.inner.lock().pulled;
        self.count_wanted(pulled, 1) > 0
    }

    /// Whether reading the input must pause.
    #[inline]
    pub(crate) fn halts(&self) -> bool {
        self.halts.load(Ordering::Relaxed)
    }

    /// Whether the caller takes outcomes one by one.
    pub(crate) fn is_iterated(&self) -> bool {
        !matches!(self.inner.lock().delivery, Delivery::Collected)
    }

    /// Returns the number of the task that receives the whole list.
    pub(crate) fn task_id(&self) -> Option<u64> {
        self.inner.lock().task.as_ref().map(|it| it.id)
    }

    /// Whether any item has an outcome.
    pub(crate) fn has_outcomes(&self) -> bool {
        let inner = self.inner.lock();
        inner.next > 0 || !inner.ordered.is_empty() || !inner.unordered.is_empty()
    }

    pub(crate) fn item_nanos(&self) -> Option<u64> {
        self.inner.lock().item_nanos
    }

    /// Returns how many of `count` items from this position on may still start.
    pub(crate) fn count_wanted(&self, index: u64, count: u32) -> u32 {
        let before = self
            .cancelled_from
            .load(Ordering::Relaxed)
            .saturating_sub(index);
        u32::try_from(before).map_or(count, |it| it.min(count))
    }

    /// Prevents items from this position on from starting. Returns whether that changes anything.
    pub(crate) fn cancel_from(&self, index: u64) -> bool {
        self.cancelled_from.fetch_min(index, Ordering::Relaxed) > index
    }

    /// Stores the outcome of items that were sent. Returns whether it cancels other items.
    pub(crate) fn deliver(
        &self,
        part: MapPart,
        item_nanos: Option<u64>,
        wakeups: &mut Wakeups,
    ) -> bool {
        let mut inner = self.inner.lock();
        inner.outstanding -= u64::from(part.count);
        if !inner.attempts.is_empty() {
            inner.attempts.retain(|index, _| {
                !(part.index..part.index + u64::from(part.count)).contains(index)
            });
        }
        inner.item_nanos = item_nanos.or(inner.item_nanos);
        let fails = self.on_error == OnError::Cancel && part.outcome.is_err();
        let cancels = fails && self.cancel_from(part.index + 1);
        inner.insert(part);
        self.halt_if_ready(&inner);
        inner.take_waiters(wakeups);
        cancels
    }

    /// Takes the next outcomes. The caller has returned all that it took before.
    pub(crate) fn take(&self) -> Option<MapPart> {
        let mut inner = self.inner.lock();
        let has_returned = inner.returned < inner.next;
        inner.returned = inner.next;
        let part = inner.take();
        self.halt_if_ready(&inner);
        let reader = inner.reader.take_if(|_| has_returned);
        drop(inner);
        reader.iter().for_each(Thread::unpark);
        part
    }

    fn halt_if_ready(&self, inner: &MapProgress) {
        if self.read_by == InputReader::Caller && !matches!(inner.delivery, Delivery::Collected) {
            self.halts.store(inner.has_part(), Ordering::Relaxed);
        }
    }

    /// Returns `error` as the outcome of the next item, before the input has returned that item.
    /// `None` if the input has, or if there was such an error before.
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

    /// Whether the caller already has an error for the next item.
    pub(crate) fn is_error_ahead(&self) -> bool {
        self.inner.lock().is_error_ahead
    }

    /// Cancels all items that have not started, and stops reading the input.
    pub(crate) fn abandon(&self) {
        // Before the reader is woken, which must find that no item is wanted.
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

    /// Wakes `waker` at the next delivery.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        let waker = waker.clone();
        // Dropped after the lock is released, because the drop of a waker is user code.
        let _before = self.inner.lock().waker.replace(waker);
    }

    /// Unparks `thread` at the next delivery.
    pub(crate) fn set_waiter(&self, thread: &Thread) {
        self.inner.lock().thread = Some(thread.clone());
    }

    /// Unparks `thread`, which reads the input, when there may be room for more items.
    pub(crate) fn set_reader(&self, thread: &Thread) {
        self.inner.lock().reader = Some(thread.clone());
    }

    /// Adds the waiters for a delivery to `wakeups`.
    pub(crate) fn add_waiters(&self, wakeups: &mut Wakeups) {
        self.inner.lock().take_waiters(wakeups);
    }

    /// Completes `task` with all outcomes when no item is outstanding.
    pub(crate) fn collect_into(&self, task: &Arc<Task>, wakeups: &mut Wakeups) {
        let mut inner = self.inner.lock();
        inner.task = Some(Arc::clone(task));
        inner.take_waiters(wakeups);
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
            _ => self.ordered.pop_first().map(|(_, part)| part),
        }?;
        self.next += u64::from(part.count);
        Some(part)
    }

    fn take_waiters(&mut self, wakeups: &mut Wakeups) {
        if let Delivery::Collected = self.delivery {
            if self.outstanding == 0
                && let Some(task) = self.task.take()
            {
                task.complete(Ok(self.collected()), wakeups);
            }
            return;
        }
        // Wakes the reader even if the part is not the next in order, because there is room for
        // more items in flight.
        wakeups.threads.extend(self.thread.take());
        wakeups.wakers.extend(self.waker.take());
        wakeups.threads.extend(self.reader.take());
    }

    /// Returns every part in order. The consumer finds the first failure, because a result may
    /// still fail to decode.
    fn collected(&mut self) -> TaskOutput {
        TaskOutput::List(std::mem::take(&mut self.ordered).into_values().collect())
    }
}
