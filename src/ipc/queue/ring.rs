//! A queue of bytes: who may write and read when, who waits, and who is woken.

use super::corrupted::err_corrupted;
use super::memory::QueueMemory;
use super::position::AtomicPosition;
use super::reader::{CachedTail, Reader};
use super::writer::Writer;
use crate::error::{Error, ErrorKind, Result};
use crate::shm::{Object, ObjectKind};
use crate::sync::event_count::{Backoff, EventCount, SpinState};
use crate::sys::robust::{MutexError, RobustMutex};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// A lock is held for as long as it takes to copy an item. If its holder was stopped, whoever does
/// not want to wait gives up after this time.
const STOPPED_TIMEOUT: Duration = Duration::from_millis(100);

/// How long a call may wait.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    /// Not for room or for an item.
    None,
    /// Until then; none is for ever.
    At(Option<Instant>),
}

impl Limit {
    pub(super) const ENDLESS: Self = Self::At(None);

    pub(super) fn after(limit: Duration) -> Self {
        Self::At(Instant::now().checked_add(limit))
    }
}

/// Items that were taken, one behind the other.
#[derive(Debug, Default)]
pub(super) struct ItemBuffer {
    pub(super) bytes: Vec<u8>,
    /// Where each of them ends.
    pub(super) ends: Vec<usize>,
}

/// One process's access to a queue.
#[derive(Debug)]
pub(super) struct Ring {
    memory: QueueMemory,
    producers: RobustMutex,
    consumers: RobustMutex,
    cached_tail: CachedTail,
    spin_state: SpinState,
}

/// A lock, until it is dropped. Nothing has to be done for a holder that died: what it did not
/// commit is not there.
struct SideGuard<'a>(&'a RobustMutex);

impl<'a> SideGuard<'a> {
    /// None if it was not to be had in time.
    #[inline]
    fn acquire(lock: &'a RobustMutex, limit: Limit) -> Result<Option<Self>> {
        let taken = match lock.try_lock() {
            Err(MutexError::Held) => Self::wait_for(lock, limit),
            taken => taken.map(drop),
        };
        match taken {
            Ok(()) => Ok(Some(Self(lock))),
            Err(MutexError::Held) => Ok(None),
            Err(error) => Err(lock_error(error)),
        }
    }

    #[cold]
    fn wait_for(lock: &RobustMutex, limit: Limit) -> Result<(), MutexError> {
        let deadline = match limit {
            Limit::None => Instant::now().checked_add(STOPPED_TIMEOUT),
            Limit::At(deadline) => deadline,
        };
        lock.lock_until(deadline).map(drop)
    }
}

impl Drop for SideGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.unlock();
    }
}

impl Ring {
    pub(super) fn create(kind: ObjectKind, fingerprint: u64, capacity: u64) -> Result<Self> {
        QueueMemory::create(kind, fingerprint, capacity).map(Self::from_parts)
    }

    pub(super) fn open(object: Object) -> Result<Self> {
        QueueMemory::open(object).map(Self::from_parts)
    }

    fn from_parts((memory, producers, consumers): (QueueMemory, RobustMutex, RobustMutex)) -> Self {
        Self {
            memory,
            producers,
            consumers,
            cached_tail: CachedTail::default(),
            spin_state: SpinState::default(),
        }
    }

    pub(super) fn object(&self) -> &Object {
        self.memory.object()
    }

    /// Puts all items, in as few goes as there is room for.
    #[inline]
    pub(super) fn put(&self, mut items: &[&[u8]], limit: Limit) -> Result<()> {
        let nothing = |stopped| match limit {
            Limit::None if stopped => Error::new(ErrorKind::Full, STOPPED_MESSAGE),
            Limit::None => Error::new(ErrorKind::Full, "the queue is full"),
            Limit::At(_) => Error::new(ErrorKind::TimedOut, "the queue had no room in time"),
        };
        let mut waiting = RingWait::new(|| self.memory.not_full(), &self.spin_state, limit);
        loop {
            let put = self.put_some(items, limit)?;
            items = &items[put.ok_or_else(|| nothing(true))?..];
            if items.is_empty() {
                return Ok(());
            }
            if !waiting.wait_again() {
                return Err(nothing(false));
            }
        }
    }

    /// Puts as many as there is room for; none if it was never this process's turn.
    #[inline]
    fn put_some(&self, items: &[&[u8]], limit: Limit) -> Result<Option<usize>> {
        let Some(guard) = SideGuard::acquire(&self.producers, limit)? else {
            return Ok(None);
        };
        let mut writer = Writer::new(&self.memory)?;
        if writer.is_closed() {
            return Err(err_closed());
        }
        let room = usize::try_from(writer.room()?).unwrap_or(usize::MAX);
        let items = &items[..items.len().min(room)];
        let failure = items
            .iter()
            .enumerate()
            .find_map(|(count, item)| Some((count, writer.write(item).err()?)));
        let count = failure.as_ref().map_or(items.len(), |it| it.0);
        if count > 0 {
            writer.commit();
        }
        // Before the bell, or whoever wakes up finds the lock taken.
        drop(guard);
        notify(self.memory.not_empty(), count);
        failure.map_or(Ok(Some(count)), |(_, error)| Err(error))
    }

    /// Waits for an item, then takes what is there, `max` at the most and at least one.
    #[inline]
    pub(super) fn get(&self, max: usize, into: &mut ItemBuffer, limit: Limit) -> Result<()> {
        let nothing = |stopped| match limit {
            Limit::None if stopped => Error::new(ErrorKind::Empty, STOPPED_MESSAGE),
            Limit::None => Error::new(ErrorKind::Empty, "the queue is empty"),
            Limit::At(_) => Error::new(ErrorKind::TimedOut, "no item has come in time"),
        };
        let mut waiting = RingWait::new(|| self.memory.not_empty(), &self.spin_state, limit);
        loop {
            let got = self.get_some(max, into, limit)?;
            if got.ok_or_else(|| nothing(true))? > 0 {
                return Ok(());
            }
            if !waiting.wait_again() {
                return Err(nothing(false));
            }
        }
    }

    /// Takes what is there; none if it was never this process's turn.
    #[inline]
    fn get_some(&self, max: usize, into: &mut ItemBuffer, limit: Limit) -> Result<Option<usize>> {
        let Some(guard) = SideGuard::acquire(&self.consumers, limit)? else {
            return Ok(None);
        };
        let mut reader = Reader::new(&self.memory, &self.cached_tail, max)?;
        let waiting = usize::try_from(reader.available()).unwrap_or(usize::MAX);
        if waiting == 0 && reader.is_closed() {
            return Err(err_closed());
        }
        let mut count = 0;
        while count < max.min(waiting) {
            if let Err(error) = reader.read(&mut into.bytes) {
                // The others come first; whoever gets the next one meets the error again.
                if count == 0 {
                    return Err(error);
                }
                break;
            }
            into.ends.push(into.bytes.len());
            count += 1;
        }
        reader.commit();
        drop(guard);
        if self.is_bounded() {
            notify(self.memory.not_full(), count);
        }
        Ok(Some(count))
    }

    /// How many items wait. Others may put and take some meanwhile. 0 where something else has
    /// written to the memory.
    pub(super) fn len(&self) -> usize {
        // In this order the difference is never negative.
        let [head, tail] = [self.memory.head(), self.memory.tail()].map(AtomicPosition::load);
        let (Ok(head), Ok(tail)) = (head, tail) else {
            return 0;
        };
        let waiting = tail.items.saturating_sub(head.items);
        let waiting = waiting.min(self.memory.capacity());
        usize::try_from(waiting).unwrap_or(usize::MAX)
    }

    pub(super) fn capacity(&self) -> Option<usize> {
        let capacity = self.is_bounded().then(|| self.memory.capacity());
        capacity.and_then(|it| usize::try_from(it).ok())
    }

    fn is_bounded(&self) -> bool {
        self.memory.capacity() != u64::MAX
    }

    /// Takes no more items, and wakes whoever waits for one or for room.
    pub(super) fn close(&self) {
        // It fails for a thread that holds the lock, in a handler of a signal: no call of this
        // crate may be made there.
        if let Ok(Some(guard)) = SideGuard::acquire(&self.producers, Limit::ENDLESS) {
            // Where the memory was written to by something else, every call fails anyway.
            let _ = Writer::new(&self.memory).map(Writer::close);
            drop(guard);
        }
        self.memory.not_empty().notify_all();
        self.memory.not_full().notify_all();
    }

    /// Counts an item as done with; false if all that were put are already.
    pub(super) fn task_done(&self) -> Result<bool> {
        let put = || self.put_so_far();
        let one_more = |done| put().ok().filter(|put| done < *put).map(|_| done + 1);
        // AcqRel: whoever sees all items done sees what was done with them.
        let order = (Ordering::AcqRel, Ordering::Acquire);
        let counted = self
            .memory
            .done_count()
            .fetch_update(order.0, order.1, one_more);
        let put = put()?;
        if counted.is_ok_and(|before| before + 1 == put) {
            self.memory.all_done().notify_all();
        }
        Ok(counted.is_ok())
    }

    /// Waits until every item that was put is done with; false if that is not so in time.
    pub(super) fn join(&self, limit: Limit) -> Result<bool> {
        let mut waiting = RingWait::new(|| self.memory.all_done(), &self.spin_state, limit);
        while !self.is_all_done()? {
            if !waiting.wait_again() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_all_done(&self) -> Result<bool> {
        // In this order, both are equal only if they were at the second load.
        let done = self.memory.done_count().load(Ordering::Acquire);
        match self.put_so_far()? {
            put if done > put => Err(err_corrupted()),
            put => Ok(done == put),
        }
    }

    /// How many items were ever put.
    fn put_so_far(&self) -> Result<u64> {
        self.memory.tail().load().map(|it| it.items)
    }
}

/// A wait for a bell. The first look is for free: only whoever finds nothing takes a ticket, and
/// looks once more.
struct RingWait<'a, B> {
    event: B,
    ticket: Option<u32>,
    backoff: Backoff<'a>,
    limit: Limit,
}

impl<'a, B: Fn() -> EventCount<'a>> RingWait<'a, B> {
    fn new(event: B, alertness: &'a SpinState, limit: Limit) -> Self {
        Self {
            event,
            ticket: None,
            backoff: Backoff::new(alertness),
            limit,
        }
    }

    /// To be called after each look in vain; true when it is time for the next.
    #[cold]
    fn wait_again(&mut self) -> bool {
        let Limit::At(deadline) = self.limit else {
            return false;
        };
        let event = (self.event)();
        let is_in_time = match self.ticket {
            Some(ticket) => event.wait(ticket, deadline, &mut self.backoff),
            None => true,
        };
        self.ticket = Some(event.ticket());
        is_in_time
    }
}

#[inline]
fn notify(event: EventCount<'_>, count: usize) {
    match count {
        0 => {}
        1 => event.notify_one(),
        _ => event.notify_all(),
    }
}

const STOPPED_MESSAGE: &str = "a process that uses the queue does not go on";

#[cold]
fn err_closed() -> Error {
    Error::new(ErrorKind::Disconnected, "the queue is closed")
}

#[cold]
fn lock_error(error: MutexError) -> Error {
    match error {
        MutexError::Failed(error) => Error::io("failed to lock a queue", error),
        MutexError::Held | MutexError::HeldByThisThread => Error::new(
            ErrorKind::Unsupported,
            "this thread is using the queue already: no signal handler may",
        ),
    }
}
