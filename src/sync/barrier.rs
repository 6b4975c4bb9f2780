//! Barriers: parties that wait for each other, round after round.
//!
//! One word holds the round, and is stored once for each step, under a robust mutex of the
//! barrier's own:
//!
//! | bits | | |
//! |---|---|---|
//! | 0 | broken | nobody may wait until a reset |
//! | 1..32 | how the last 31 rounds ended, the last one lowest | 1: broken off |
//! | 32..64 | the number of the round | from 1 |
//!
//! A round ends when it is complete, broken off (a party's time is up, `abort`) or reset; the
//! number goes up by one each time. Who waits looks for its round's end in the bits (one that is 31
//! rounds late believes that its own was complete, as nearly all are).
//!
//! # Places
//!
//! There is a place for each party: a robust mutex, and the number of the round for which it was
//! last taken. A party that waits holds its place's mutex, then writes the round, both under the
//! barrier's mutex. So a place of this round whose mutex is not held has lost its party, by a
//! death, and is free; whoever would complete the round takes this roll call first. A round is
//! begun by its number alone: nothing has to be cleared.
//!
//! A party of an earlier round may still hold its place when it is slow to wake up. Where that
//! leaves none for a newcomer, because more threads than parties come here, it waits until one
//! rings in leaving.

use super::{
    event_count::{Backoff, EventCount, SpinState},
    handle::{Handle, handle},
    held::{LockWait, lock_error},
};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::{Object, ObjectKind};
use crate::sys::robust::{MutexError, MutexKind, RobustMutex};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Offsets in bytes.
const MUTEX: usize = Object::BODY;
const ROUND: usize = MUTEX + RobustMutex::SIZE;
const ROUND_EVENT: usize = ROUND + 8;
const SEATS_EVENT: usize = ROUND + 16;
const SEATS: usize = ROUND + 64;

/// Bytes of a place: its mutex, and in the next cache line its round.
const SEAT_LEN: usize = 128;
const SEAT_ROUND: usize = RobustMutex::SIZE;

/// Threads that a machine can have at a time (the kernel's `PID_MAX_LIMIT`). The places of more
/// parties would only fill memory.
const MAX_PARTIES: usize = 4 << 20;

const BROKEN: u64 = 1;
const ENDS: u64 = 0xffff_fffe;

/// How the last rounds ended, and which one it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Round(u64);

impl Round {
    const FIRST: Self = Self(1 << 32);

    fn number(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn is_broken(self) -> bool {
        self.0 & BROKEN != 0
    }

    /// The next round, after this one was complete or not.
    fn ended(self, broken_off: bool) -> Self {
        let ends = (self.0 & ENDS) << 1 & ENDS | u64::from(broken_off) << 1;
        let number = self.number().wrapping_add(1);
        Self(u64::from(number) << 32 | ends)
    }

    fn broken(self) -> Self {
        Self(self.ended(true).0 | BROKEN)
    }

    /// Whether round `number` was complete; none if it has not ended.
    fn outcome_of(self, number: u32) -> Option<bool> {
        match self.number().wrapping_sub(number) {
            0 => None,
            age @ 1..=31 => Some(self.0 >> age & 1 == 0),
            _ => Some(true),
        }
    }
}

/// Holds processes up until a number of them has come.
///
/// A party that is killed while it waits gives its place back: one more has to come. One that is
/// killed before it comes is missing, and the others wait, each until its time is up (which breaks
/// the barrier), or until somebody comes in its place.
///
/// # Examples
///
/// ```
/// use procpool::{Barrier, Process};
///
/// let barrier = Barrier::new(2)?;
/// let other = Process::start(|it: Barrier| it.wait().map_or(9, |turn| turn.index()), barrier.clone())?;
/// let ours = barrier.wait()?.index();
/// assert_eq!(ours + other.result()?, 1); // One is 0, and the other 1.
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Barrier {
    object: Object,
    /// As many as the object has places.
    parties: usize,
    mutex: RobustMutex,
    spin_state: SpinState,
}

/// What a party learns of its round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarrierWaitResult(usize);

impl BarrierWaitResult {
    pub(crate) fn new(index: usize) -> Self {
        Self(index)
    }

    /// Its own number among the parties, from 0 to one less than there are.
    #[must_use]
    pub fn index(&self) -> usize {
        self.0
    }

    /// True for one of the parties: the one whose index is 0.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.0 == 0
    }
}

/// Where a party waits.
struct Seat {
    mutex: RobustMutex,
    index: usize,
    round: u32,
}

/// What becomes of a party that has come.
enum Arrival {
    Completed(BarrierWaitResult),
    Waits(Seat),
    /// Every free place is still held.
    NoSeat,
    Broken,
}

/// Holds the barrier's own mutex, for a few steps.
struct BarrierState<'a>(&'a Barrier);

impl Drop for BarrierState<'_> {
    fn drop(&mut self) {
        self.0.mutex.unlock();
    }
}

impl Barrier {
    /// Makes one for so many parties.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] for 0 parties, or more than there can be threads (4194304);
    /// [`ErrorKind::Io`] when the system gives no memory or no descriptor.
    pub fn new(parties: usize) -> Result<Self> {
        if !(1..=MAX_PARTIES).contains(&parties) {
            let message = format!("a barrier cannot be for {parties} parties");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let object = Object::create(Self::KIND, 0, seat(parties) - Object::BODY)?;
        for at in std::iter::once(MUTEX).chain((0..parties).map(seat)) {
            let mutex = RobustMutex::create(object.mapping().clone(), at, MutexKind::ErrorCheck);
            mutex.map_err(|it| Error::io("failed to create a Barrier", it))?;
        }
        // Relaxed: nobody else knows it yet.
        let round = object.view().atomic_u64(ROUND);
        round.store(Round::FIRST.0, Ordering::Relaxed);
        Ok(Self::of(object))
    }

    /// Waits until all parties have come.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::BrokenBarrier`] if it is broken, or is broken or reset before all have come;
    /// else as [`reset`](Self::reset).
    pub fn wait(&self) -> Result<BarrierWaitResult> {
        self.wait_until(None, Duration::MAX)
    }

    /// As [`wait`](Self::wait), at most for `limit`; then the barrier is broken for all.
    ///
    /// # Errors
    ///
    /// As there; [`ErrorKind::TimedOut`] for the party whose time is up.
    pub fn wait_timeout(&self, limit: Duration) -> Result<BarrierWaitResult> {
        self.wait_until(Instant::now().checked_add(limit), limit)
    }

    /// Breaks the round off, for those who wait, and makes a broken barrier usable again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if something else has written to the barrier's memory.
    pub fn reset(&self) -> Result<()> {
        let inside = self.enter()?;
        inside.end(self.round().ended(true));
        Ok(())
    }

    /// Breaks the barrier: those who wait and those who come get an error, until a
    /// [`reset`](Self::reset).
    ///
    /// # Errors
    ///
    /// As [`reset`](Self::reset).
    pub fn abort(&self) -> Result<()> {
        let inside = self.enter()?;
        inside.end(self.round().broken());
        Ok(())
    }

    /// How many have to come.
    #[must_use]
    pub fn parties(&self) -> usize {
        self.parties
    }

    /// How many wait at this moment.
    #[must_use]
    pub fn waiting(&self) -> usize {
        // 0 where something else has written to the memory.
        self.enter().map_or(0, |it| it.free_seats().0)
    }

    /// Whether nobody may wait.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.round().is_broken()
    }

    fn wait_until(&self, deadline: Option<Instant>, limit: Duration) -> Result<BarrierWaitResult> {
        let mut backoff = Backoff::new(&self.spin_state);
        let seat = loop {
            let event = self.event_count(SEATS_EVENT);
            let ticket = event.ticket();
            match self.arrive()? {
                Arrival::Completed(turn) => return Ok(turn),
                Arrival::Broken => return Err(broken()),
                Arrival::Waits(seat) => break seat,
                Arrival::NoSeat if event.wait(ticket, deadline, &mut backoff) => {}
                Arrival::NoSeat => return Err(self.abort_after_timeout(None, limit)),
            }
        };
        let outcome = self.wait_for_end(seat.round, deadline, limit);
        seat.mutex.unlock();
        self.event_count(SEATS_EVENT).notify_one();
        outcome.map(|()| BarrierWaitResult(seat.index))
    }

    fn arrive(&self) -> Result<Arrival> {
        let inside = self.enter()?;
        let round = self.round();
        if round.is_broken() {
            return Ok(Arrival::Broken);
        }
        let free = inside.free_seats().1;
        if let [last] = *free {
            inside.end(round.ended(false));
            return Ok(Arrival::Completed(BarrierWaitResult(last)));
        }
        let seat = free.into_iter().find_map(|it| inside.take(it, round));
        Ok(seat.map_or(Arrival::NoSeat, Arrival::Waits))
    }

    fn wait_for_end(&self, round: u32, deadline: Option<Instant>, limit: Duration) -> Result<()> {
        let mut backoff = Backoff::new(&self.spin_state);
        loop {
            let event = self.event_count(ROUND_EVENT);
            let ticket = event.ticket();
            match self.round().outcome_of(round) {
                Some(true) => return Ok(()),
                Some(false) => return Err(broken()),
                None if event.wait(ticket, deadline, &mut backoff) => {}
                None => match self.abort_after_timeout(Some(round), limit) {
                    // It ended at the last moment.
                    _ if self.round().outcome_of(round) == Some(true) => return Ok(()),
                    error => return Err(error),
                },
            }
        }
    }

    /// Breaks the barrier, if the round that the party has waited in still goes on.
    fn abort_after_timeout(&self, waited_in: Option<u32>, limit: Duration) -> Error {
        let inside = match self.enter() {
            Ok(inside) => inside,
            Err(error) => return error,
        };
        let round = self.round();
        if waited_in.is_none_or(|it| it == round.number()) {
            inside.end(round.broken());
            let message = format!("not all parties have come to the barrier within {limit:?}");
            return Error::new(ErrorKind::TimedOut, message);
        }
        broken()
    }

    /// Fails only if something else has written to the mutex, or in a handler of a signal that came
    /// inside.
    fn enter(&self) -> Result<BarrierState<'_>> {
        // Whoever died in here has stored the round, or has not.
        let entered = self.mutex.lock().map(|_| BarrierState(self));
        entered.map_err(|it| lock_error(it, Self::KIND, LockWait::Forever))
    }

    fn round(&self) -> Round {
        // Acquire: what a party did before it came is seen by those whom it let go on.
        Round(self.object.view().atomic_u64(ROUND).load(Ordering::Acquire))
    }

    fn event_count(&self, at: usize) -> EventCount<'_> {
        let view = self.object.view();
        EventCount {
            word: view.atomic_u32(at),
            sleepers: view.atomic_u32(at + 4),
        }
    }
}

impl BarrierState<'_> {
    /// How many parties wait in this round, and which places are not theirs.
    fn free_seats(&self) -> (usize, Vec<usize>) {
        let seats = 0..self.0.parties();
        let (taken, free): (Vec<usize>, _) = seats.partition(|it| self.is_taken(*it));
        (taken.len(), free)
    }

    /// Whether a living party waits at this place.
    fn is_taken(&self, index: usize) -> bool {
        if self.seat_round(index).load(Ordering::Relaxed) != u64::from(self.0.round().number()) {
            return false;
        }
        let mutex = self.seat_mutex(index);
        match mutex.try_lock() {
            Err(MutexError::Held) => true,
            Err(_) => false,
            Ok(_) => {
                mutex.unlock();
                false
            }
        }
    }

    /// Waits at a place, unless a party of an earlier round is still there.
    fn take(&self, index: usize, round: Round) -> Option<Seat> {
        let mutex = self.seat_mutex(index);
        mutex.try_lock().ok()?;
        // Relaxed: written and read under the barrier's mutex.
        self.seat_round(index)
            .store(round.number().into(), Ordering::Relaxed);
        Some(Seat {
            mutex,
            index,
            round: round.number(),
        })
    }

    /// Ends the round.
    fn end(&self, next: Round) {
        let round = self.0.object.view().atomic_u64(ROUND);
        // Release: see `Barrier::round`.
        round.store(next.0, Ordering::Release);
        self.0.event_count(ROUND_EVENT).notify_all();
    }

    fn seat_mutex(&self, index: usize) -> RobustMutex {
        RobustMutex::open(self.0.object.mapping().clone(), seat(index))
    }

    fn seat_round(&self, index: usize) -> &AtomicU64 {
        self.0.object.view().atomic_u64(seat(index) + SEAT_ROUND)
    }
}

/// Where a place lies.
fn seat(index: usize) -> usize {
    SEATS + index * SEAT_LEN
}

fn broken() -> Error {
    Error::new(ErrorKind::BrokenBarrier, "the barrier is broken")
}

impl Handle for Barrier {
    const KIND: ObjectKind = ObjectKind::Barrier;

    fn least() -> usize {
        seat(1)
    }

    fn object(&self) -> &Object {
        &self.object
    }

    fn of(object: Object) -> Self {
        let mutex = RobustMutex::open(object.mapping().clone(), MUTEX);
        Self {
            parties: (object.view().len() - SEATS) / SEAT_LEN,
            object,
            mutex,
            spin_state: SpinState::default(),
        }
    }
}

handle!(Barrier);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_each_of_the_last_rounds_ended_is_known() {
        let mut round = Round(u64::from(u32::MAX - 20) << 32);
        let mut ends = Vec::new();
        for turn in 0..40u32 {
            let (number, complete) = (round.number(), turn % 3 != 0);
            assert_eq!(round.outcome_of(number), None);
            ends.push((number, complete));
            round = round.ended(!complete);
            for (number, complete) in ends.iter().rev().take(31) {
                assert_eq!(round.outcome_of(*number), Some(*complete));
            }
        }
        assert!(!round.is_broken() && round.broken().is_broken());
        assert!(!round.broken().ended(true).is_broken());
        assert_eq!(round.broken().outcome_of(round.number()), Some(false));
    }
}
