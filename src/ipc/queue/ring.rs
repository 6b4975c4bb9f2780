//! A queue of byte strings: locking, waiting and waking.

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

/// A lock is held only while items are copied. If its holder is stopped, calls that must not wait
/// give up after this time.
const STOPPED_TIMEOUT: Duration = Duration::from_millis(100);

/// How long a call may wait.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    /// Does not wait for room or for an item.
    None,
    /// Waits until the deadline; forever without one.
    At(Option<Instant>),
}

impl Limit {
    pub(super) const ENDLESS: Self = Self::At(None);

    pub(super) fn after(limit: Duration) -> Self {
        Self::At(Instant::now().checked_add(limit))
    }
}

/// Items taken from a queue, stored one after the other.
#[derive(Debug, Default)]
pub(super) struct ItemBuffer {
    pub(super) bytes: Vec<u8>,
    /// The end offset of each item.
    pub(super) ends: Vec<usize>,
}

/// The outcome of one attempt to put or take items.
enum Step {
    /// This many items were put or taken; 0 if there was no room or no item.
    Moved(usize),
    /// Another process or thread held the lock until the limit of the call.
    Busy,
}

/// A queue as one process uses it.
#[derive(Debug)]
pub(super) struct Ring {
    memory: QueueMemory,
    producers: RobustMutex,
    consumers: RobustMutex,
    cached_tail: CachedTail,
    spin_state: SpinState,
}

/// Holds a lock until it is dropped. After the death of a holder nothing needs repair: items that
/// it did not commit are not part of the queue.
struct SideGuard<'a>(&'a RobustMutex);

impl<'a> SideGuard<'a> {
    /// Returns `None` if the lock stays held until the limit.
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

    /// Puts all items, in as few steps as the room allows.
    #[inline]
    pub(super) fn put(&self, mut items: &[&[u8]], limit: Limit) -> Result<()> {
        let mut waiting = RingWait::new(|| self.memory.not_full(), &self.spin_state, limit);
        loop {
            match self.put_some(items, limit)? {
                Step::Moved(count) => items = &items[count..],
                Step::Busy => return Err(err_busy(limit, ErrorKind::Full)),
            }
            if items.is_empty() {
                return Ok(());
            }
            if !waiting.wait_again() {
                return Err(err_no_room(limit));
            }
        }
    }

    /// Puts as many items as there is room for.
    #[inline]
    fn put_some(&self, items: &[&[u8]], limit: Limit) -> Result<Step> {
        let Some(guard) = SideGuard::acquire(&self.producers, limit)? else {
            return Ok(Step::Busy);
        };
        let mut writer = Writer::new(&self.memory)?;
        if writer.is_closed() {
            return Err(err_closed());
        }
        let room = usize::try_from(writer.room()?).unwrap_or(usize::MAX);
        let mut count = 0;
        let mut outcome = Ok(());
        for item in items.iter().take(room) {
            outcome = writer.write(item);
            if outcome.is_err() {
                break;
            }
            count += 1;
        }
        if count > 0 {
            writer.commit();
        }
        // Unlock before the wake-up: otherwise the woken consumer may find this lock held when it
        // puts an item in turn.
        drop(guard);
        notify(self.memory.not_empty(), count);
        outcome.map(|()| Step::Moved(count))
    }

    /// Waits for an item, then takes all available items, at most `max`.
    #[inline]
    pub(super) fn get(&self, max: usize, into: &mut ItemBuffer, limit: Limit) -> Result<()> {
        let mut waiting = RingWait::new(|| self.memory.not_empty(), &self.spin_state, limit);
        loop {
            match self.get_some(max, into, limit)? {
                Step::Moved(0) => {}
                Step::Moved(_) => return Ok(()),
                Step::Busy => return Err(err_busy(limit, ErrorKind::Empty)),
            }
            if !waiting.wait_again() {
                return Err(err_no_item(limit));
            }
        }
    }

    /// Takes the available items, at most `max`.
    #[inline]
    fn get_some(&self, max: usize, into: &mut ItemBuffer, limit: Limit) -> Result<Step> {
        let Some(guard) = SideGuard::acquire(&self.consumers, limit)? else {
            return Ok(Step::Busy);
        };
        let mut reader = Reader::new(&self.memory, &self.cached_tail, max)?;
        let available = usize::try_from(reader.available()).unwrap_or(usize::MAX);
        if available == 0 && reader.is_closed() {
            return Err(err_closed());
        }
        let mut count = 0;
        while count < max.min(available) {
            if let Err(error) = reader.read(&mut into.bytes) {
                if count == 0 {
                    return Err(error);
                }
                // Take the items before it; the call that reads this item next meets the error.
                break;
            }
            into.ends.push(into.bytes.len());
            count += 1;
        }
        reader.commit();
        // Unlock before the wake-up, like in `put_some`.
        drop(guard);
        if self.is_bounded() {
            notify(self.memory.not_full(), count);
        }
        Ok(Step::Moved(count))
    }

    /// Returns the number of items, which other processes may change at any time. Returns 0 if
    /// something else has written to the memory.
    pub(super) fn len(&self) -> usize {
        // Head before tail: in this order the difference is never negative.
        let [head, tail] = [self.memory.head(), self.memory.tail()].map(AtomicPosition::load);
        let (Ok(head), Ok(tail)) = (head, tail) else {
            return 0;
        };
        let waiting = tail.items.saturating_sub(head.items);
        usize::try_from(waiting.min(self.memory.capacity())).unwrap_or(usize::MAX)
    }

    pub(super) fn capacity(&self) -> Option<usize> {
        let capacity = self.is_bounded().then(|| self.memory.capacity());
        capacity.and_then(|capacity| usize::try_from(capacity).ok())
    }

    fn is_bounded(&self) -> bool {
        self.memory.capacity() != u64::MAX
    }

    /// Refuses further items and wakes all waiters.
    pub(super) fn close(&self) {
        // This fails only in a signal handler that interrupted a holder of the lock, where no call
        // of this crate is allowed.
        if let Ok(Some(guard)) = SideGuard::acquire(&self.producers, Limit::ENDLESS) {
            // If the memory was overwritten, every call fails anyway.
            let _ = Writer::new(&self.memory).map(Writer::close);
            drop(guard);
        }
        self.memory.not_empty().notify_all();
        self.memory.not_full().notify_all();
    }

    /// Counts an item as processed. Returns false if all items are counted already.
    pub(super) fn task_done(&self) -> Result<bool> {
        // AcqRel: a process that sees all items processed also sees the effects of processing them.
        let (set_order, fetch_order) = (Ordering::AcqRel, Ordering::Acquire);
        let count_one = |done| {
            // Loaded anew for each attempt: another process may have put, taken and counted an item
            // since the last one, and then an old number would make `done` look complete.
            let put = self.put_so_far().ok()?;
            (done < put).then(|| done + 1)
        };
        let done_count = self.memory.done_count();
        let counted = done_count.fetch_update(set_order, fetch_order, count_one);
        let put = self.put_so_far()?;
        if counted.is_ok_and(|before| before + 1 == put) {
            self.memory.all_done().notify_all();
        }
        Ok(counted.is_ok())
    }

    /// Waits until every item is processed. Returns false at the limit.
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
        // Count before position: if they are equal, all items were processed at the second load.
        let done = self.memory.done_count().load(Ordering::Acquire);
        match self.put_so_far()? {
            put if done > put => Err(err_corrupted()),
            put => Ok(done == put),
        }
    }

    /// Returns how many items were ever put.
    fn put_so_far(&self) -> Result<u64> {
        self.memory.tail().load().map(|it| it.items)
    }
}

/// A wait on an eventcount. The first check comes without a ticket: only if it fails does the call
/// take a ticket, and check once more before it sleeps.
struct RingWait<'a, B> {
    event: B,
    ticket: Option<u32>,
    backoff: Backoff<'a>,
    limit: Limit,
}

impl<'a, B: Fn() -> EventCount<'a>> RingWait<'a, B> {
    fn new(event: B, spin_state: &'a SpinState, limit: Limit) -> Self {
        Self {
            event,
            ticket: None,
            backoff: Backoff::new(spin_state),
            limit,
        }
    }

    /// Call this after each failed check. Returns true when it is time for the next one, false at
    /// the limit.
    #[cold]
    fn wait_again(&mut self) -> bool {
        let Limit::At(deadline) = self.limit else {
            return false;
        };
        // The first failed check has no ticket, so an item may have arrived since without a
        // wake-up. This call only takes a ticket; the caller checks again, and the next call sleeps
        // if no notification came after the ticket.
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

#[cold]
fn err_no_room(limit: Limit) -> Error {
    match limit {
        Limit::None => Error::new(ErrorKind::Full, "the queue is full"),
        Limit::At(_) => Error::new(ErrorKind::TimedOut, "the queue had no room in time"),
    }
}

#[cold]
fn err_no_item(limit: Limit) -> Error {
    match limit {
        Limit::None => Error::new(ErrorKind::Empty, "the queue is empty"),
        Limit::At(_) => Error::new(ErrorKind::TimedOut, "no item arrived in time"),
    }
}

/// `kind` is that of a call which does not wait.
#[cold]
fn err_busy(limit: Limit, kind: ErrorKind) -> Error {
    let kind = match limit {
        Limit::None => kind,
        Limit::At(_) => ErrorKind::TimedOut,
    };
    Error::new(kind, "another process kept the queue locked")
}

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
            "this thread is using the queue already: a signal handler must not use it",
        ),
    }
}
