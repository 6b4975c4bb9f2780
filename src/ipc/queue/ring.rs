//! A queue of bytes: who may write and read when, who waits, and who is woken.

use super::damaged::damaged;
use super::memory::Memory;
use super::position::Mark;
use super::reader::{Reader, Seen};
use super::writer::Writer;
use crate::error::{Error, ErrorKind, Result};
use crate::shm::{Kind, Object};
use crate::sync::bell::{Alertness, Bell, Patience};
use crate::sys::robust::{Refusal, RobustMutex};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

/// A lock is held for as long as it takes to copy an item. If its holder was stopped, whoever does not want to wait gives up
/// after this time.
const STOPPED: Duration = Duration::from_millis(100);

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
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// Where each of them ends.
    pub(super) ends: Vec<usize>,
}

/// One process's access to a queue.
#[derive(Debug)]
pub(super) struct Ring {
    memory: Memory,
    producers: RobustMutex,
    consumers: RobustMutex,
    seen: Seen,
    alertness: Alertness,
}

/// A lock, until it is dropped. Nothing has to be done for a holder that died: what it did not commit is not there.
struct Turn<'a>(&'a RobustMutex);

impl<'a> Turn<'a> {
    /// None if it was not to be had in time.
    #[inline]
    fn take(lock: &'a RobustMutex, limit: Limit) -> Result<Option<Self>> {
        let taken = match lock.try_lock() {
            Err(Refusal::Held) => Self::wait_for(lock, limit),
            taken => taken.map(drop),
        };
        match taken {
            Ok(()) => Ok(Some(Self(lock))),
            Err(Refusal::Held) => Ok(None),
            Err(refusal) => Err(refused(refusal)),
        }
    }

    #[cold]
    fn wait_for(lock: &RobustMutex, limit: Limit) -> Result<(), Refusal> {
        let deadline = match limit {
            Limit::None => Instant::now().checked_add(STOPPED),
            Limit::At(deadline) => deadline,
        };
        lock.lock_until(deadline).map(drop)
    }
}

impl Drop for Turn<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.unlock();
    }
}

impl Ring {
    pub(super) fn create(kind: Kind, fingerprint: u64, capacity: u64) -> Result<Self> {
        Memory::create(kind, fingerprint, capacity).map(Self::of_parts)
    }

    pub(super) fn open(object: Object) -> Result<Self> {
        Memory::open(object).map(Self::of_parts)
    }

    fn of_parts((memory, producers, consumers): (Memory, RobustMutex, RobustMutex)) -> Self {
        Self {
            memory,
            producers,
            consumers,
            seen: Seen::default(),
            alertness: Alertness::default(),
        }
    }

    pub(super) fn object(&self) -> &Object {
        self.memory.object()
    }

    /// Puts all items, in as few goes as there is room for.
    #[inline]
    pub(super) fn put(&self, mut items: &[&[u8]], limit: Limit) -> Result<()> {
        let nothing = |stopped| match limit {
            Limit::None if stopped => Error::new(ErrorKind::Full, STOPPED_HOLDER),
            Limit::None => Error::new(ErrorKind::Full, "the queue is full"),
            Limit::At(_) => Error::new(ErrorKind::TimedOut, "the queue had no room in time"),
        };
        let mut waiting = Waiting::new(|| self.memory.not_full(), &self.alertness, limit);
        loop {
            let put = self.put_some(items, limit)?;
            items = &items[put.ok_or_else(|| nothing(true))?..];
            if items.is_empty() {
                return Ok(());
            }
            if !waiting.goes_on() {
                return Err(nothing(false));
            }
        }
    }

    /// Puts as many as there is room for; none if it was never this process's turn.
    #[inline]
    fn put_some(&self, items: &[&[u8]], limit: Limit) -> Result<Option<usize>> {
        let Some(turn) = Turn::take(&self.producers, limit)? else {
            return Ok(None);
        };
        let mut writer = Writer::new(&self.memory)?;
        if writer.is_closed() {
            return Err(closed());
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
        drop(turn);
        ring(self.memory.not_empty(), count);
        failure.map_or(Ok(Some(count)), |(_, error)| Err(error))
    }

    /// Waits for an item, then takes what is there, `most` at the most and at least one.
    #[inline]
    pub(super) fn get(&self, most: usize, into: &mut Batch, limit: Limit) -> Result<()> {
        let nothing = |stopped| match limit {
            Limit::None if stopped => Error::new(ErrorKind::Empty, STOPPED_HOLDER),
            Limit::None => Error::new(ErrorKind::Empty, "the queue is empty"),
            Limit::At(_) => Error::new(ErrorKind::TimedOut, "no item has come in time"),
        };
        let mut waiting = Waiting::new(|| self.memory.not_empty(), &self.alertness, limit);
        loop {
            let got = self.get_some(most, into, limit)?;
            if got.ok_or_else(|| nothing(true))? > 0 {
                return Ok(());
            }
            if !waiting.goes_on() {
                return Err(nothing(false));
            }
        }
    }

    /// Takes what is there; none if it was never this process's turn.
    #[inline]
    fn get_some(&self, most: usize, into: &mut Batch, limit: Limit) -> Result<Option<usize>> {
        let Some(turn) = Turn::take(&self.consumers, limit)? else {
            return Ok(None);
        };
        let mut reader = Reader::new(&self.memory, &self.seen, most)?;
        let waiting = usize::try_from(reader.waiting()).unwrap_or(usize::MAX);
        if waiting == 0 && reader.is_closed() {
            return Err(closed());
        }
        let mut count = 0;
        while count < most.min(waiting) {
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
        drop(turn);
        if self.is_bounded() {
            ring(self.memory.not_full(), count);
        }
        Ok(Some(count))
    }

    /// How many items wait. Others may put and take some meanwhile. 0 where something else has written to the memory.
    pub(super) fn len(&self) -> usize {
        // In this order the difference is never negative.
        let [head, tail] = [self.memory.head(), self.memory.tail()].map(Mark::load);
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
        // It fails for a thread that holds the lock, in a handler of a signal: no call of this crate may be made there.
        if let Ok(Some(turn)) = Turn::take(&self.producers, Limit::ENDLESS) {
            // Where the memory was written to by something else, every call fails anyway.
            let _ = Writer::new(&self.memory).map(Writer::close);
            drop(turn);
        }
        self.memory.not_empty().ring_all();
        self.memory.not_full().ring_all();
    }

    /// Counts an item as done with; false if all that were put are already.
    pub(super) fn done(&self) -> Result<bool> {
        let put = || self.put_so_far();
        let one_more = |done| put().ok().filter(|put| done < *put).map(|_| done + 1);
        // AcqRel: whoever sees all items done sees what was done with them.
        let order = (Ordering::AcqRel, Ordering::Acquire);
        let counted = self.memory.done().fetch_update(order.0, order.1, one_more);
        let put = put()?;
        if counted.is_ok_and(|before| before + 1 == put) {
            self.memory.all_done().ring_all();
        }
        Ok(counted.is_ok())
    }

    /// Waits until every item that was put is done with; false if that is not so in time.
    pub(super) fn join(&self, limit: Limit) -> Result<bool> {
        let mut waiting = Waiting::new(|| self.memory.all_done(), &self.alertness, limit);
        while !self.is_all_done()? {
            if !waiting.goes_on() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_all_done(&self) -> Result<bool> {
        // In this order, both are equal only if they were at the second load.
        let done = self.memory.done().load(Ordering::Acquire);
        match self.put_so_far()? {
            put if done > put => Err(damaged()),
            put => Ok(done == put),
        }
    }

    /// How many items were ever put.
    fn put_so_far(&self) -> Result<u64> {
        self.memory.tail().load().map(|it| it.items)
    }
}

/// A wait for a bell. The first look is for free: only whoever finds nothing takes a ticket, and looks once more.
struct Waiting<'a, B> {
    bell: B,
    ticket: Option<u32>,
    patience: Patience<'a>,
    limit: Limit,
}

impl<'a, B: Fn() -> Bell<'a>> Waiting<'a, B> {
    fn new(bell: B, alertness: &'a Alertness, limit: Limit) -> Self {
        Self {
            bell,
            ticket: None,
            patience: Patience::new(alertness),
            limit,
        }
    }

    /// To be called after each look in vain; true when it is time for the next.
    #[cold]
    fn goes_on(&mut self) -> bool {
        let Limit::At(deadline) = self.limit else {
            return false;
        };
        let bell = (self.bell)();
        let is_in_time = match self.ticket {
            Some(ticket) => bell.wait(ticket, deadline, &mut self.patience),
            None => true,
        };
        self.ticket = Some(bell.ticket());
        is_in_time
    }
}

#[inline]
fn ring(bell: Bell<'_>, count: usize) {
    match count {
        0 => {}
        1 => bell.ring_one(),
        _ => bell.ring_all(),
    }
}

const STOPPED_HOLDER: &str = "a process that uses the queue does not go on";

#[cold]
fn closed() -> Error {
    Error::new(ErrorKind::Disconnected, "the queue is closed")
}

#[cold]
fn refused(refusal: Refusal) -> Error {
    match refusal {
        Refusal::Failed(error) => Error::io("failed to lock a queue", error),
        Refusal::Held | Refusal::HeldByThisThread => Error::new(
            ErrorKind::Unsupported,
            "this thread is using the queue already: no signal handler may",
        ),
    }
}
