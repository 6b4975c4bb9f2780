//! Barriers: parties that wait for each other in rounds.
//!
//! One word holds the state of the round. Each step stores it once, under a robust mutex of the
//! barrier:
//!
//! | bits | field | meaning |
//! |---|---|---|
//! | 0 | broken | no party may wait until a reset |
//! | 1..32 | outcomes of the last 31 rounds, the latest in the lowest bit | 1: broken off |
//! | 32..64 | number of the round | starts at 1 |
//!
//! A round ends when it is complete, broken off (a party times out, or `abort`) or reset. Its
//! number then grows by one. A waiting party looks for the outcome of its own round in the bits. A
//! party that is more than 31 rounds late assumes that its round was complete, as nearly all are.
//!
//! # Seats
//!
//! Each party has a seat: a robust mutex, and the number of the round for which the seat was last
//! taken. A waiting party holds the mutex of its seat, then writes the round; it does both under
//! the barrier's mutex. If the mutex of a seat of this round is free, its party has died and the
//! seat is free. A party that would complete the round checks all seats first. Starting a round
//! changes only its number: no seat has to be cleared.
//!
//! A party of an earlier round that wakes up late may still hold its seat. If this leaves no seat
//! for a newcomer, because more threads than parties use the barrier, the newcomer waits until a
//! leaving party wakes it.

mod round;

use self::round::{Outcome, Round};
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

/// Length of a seat in bytes: its mutex, and its round in the next cache line.
const SEAT_LEN: usize = 128;
const SEAT_ROUND: usize = RobustMutex::SIZE;

/// Maximum number of threads of a machine (the kernel's `PID_MAX_LIMIT`). Seats for more parties
/// would only use memory.
const MAX_PARTIES: usize = 4 << 20;

/// Blocks parties until a given number of them has arrived.
///
/// If a party is killed while it waits, its seat is free again and another party must come. If a
/// party is killed before it arrives, the others wait until another party comes instead, or until
/// one of them times out, which breaks the barrier.
///
/// # Examples
///
/// ```
/// use procpool::{Barrier, Process};
///
/// let barrier = Barrier::new(2)?;
/// let wait = |barrier: Barrier| barrier.wait().map_or(9, |turn| turn.index());
/// let other = Process::start(wait, barrier.clone())?;
/// let ours = barrier.wait()?.index();
/// assert_eq!(ours + other.result()?, 1); // One is 0, and the other 1.
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Barrier {
    object: Object,
    /// The number of seats in the object.
    parties: usize,
    mutex: RobustMutex,
    spin_state: SpinState,
}

/// The result of a completed round for one party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarrierWaitResult(usize);

impl BarrierWaitResult {
    pub(crate) fn new(index: usize) -> Self {
        Self(index)
    }

    /// Returns this party's index in the round: from 0 to the number of parties less 1.
    #[must_use]
    pub fn index(&self) -> usize {
        self.0
    }

    /// Whether this party is the leader of the round: the party with index 0.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.0 == 0
    }
}

/// The seat of a waiting party.
struct Seat {
    mutex: RobustMutex,
    index: usize,
    round: u32,
}

/// The outcome of a party's arrival.
enum Arrival {
    Completed(BarrierWaitResult),
    Waits(Seat),
    /// All free seats are still held by parties of earlier rounds.
    NoSeat,
    Broken,
}

/// The barrier's state. Holds the barrier's own mutex, for a few steps.
struct BarrierState<'a>(&'a Barrier);

impl Drop for BarrierState<'_> {
    fn drop(&mut self) {
        self.0.mutex.unlock();
    }
}

impl Barrier {
    /// Creates a barrier for `parties` parties.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidInput`] if `parties` is 0 or more than the maximum number of threads
    /// (4194304); [`ErrorKind::Io`] if the memory or the descriptor cannot be created.
    pub fn new(parties: usize) -> Result<Self> {
        if !(1..=MAX_PARTIES).contains(&parties) {
            let message = format!("a barrier cannot have {parties} parties");
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        let object = Object::create(Self::KIND, 0, seat(parties) - Object::BODY)?;
        for at in std::iter::once(MUTEX).chain((0..parties).map(seat)) {
            let mutex = RobustMutex::create(object.mapping().clone(), at, MutexKind::ErrorCheck);
            mutex.map_err(|error| Error::io("failed to create a Barrier", error))?;
        }
        // Relaxed: no other process has it yet.
        let round = object.view().atomic_u64(ROUND);
        round.store(Round::FIRST.0, Ordering::Relaxed);
        Ok(Self::of(object))
    }

    /// Waits until all parties have arrived.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::BrokenBarrier`] if the barrier is broken, or is broken or reset before all
    /// parties have arrived; otherwise like [`reset`](Self::reset).
    pub fn wait(&self) -> Result<BarrierWaitResult> {
        self.wait_until(None, Duration::MAX)
    }

    /// Like [`wait`](Self::wait), but waits for at most `limit`. A timeout breaks the barrier for
    /// all parties.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] for the party that times out; otherwise like [`wait`](Self::wait).
    pub fn wait_timeout(&self, limit: Duration) -> Result<BarrierWaitResult> {
        self.wait_until(Instant::now().checked_add(limit), limit)
    }

    /// Breaks off the current round, so that its waiting parties fail, and makes a broken barrier
    /// usable again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if something else has written to the barrier's memory.
    pub fn reset(&self) -> Result<()> {
        let state = self.enter()?;
        state.end(self.round().ended(Outcome::BrokenOff));
        Ok(())
    }

    /// Breaks the barrier: waiting parties and later ones fail until a [`reset`](Self::reset).
    ///
    /// # Errors
    ///
    /// Like [`reset`](Self::reset).
    pub fn abort(&self) -> Result<()> {
        let state = self.enter()?;
        state.end(self.round().broken());
        Ok(())
    }

    /// Returns the number of parties of a round.
    #[must_use]
    pub fn parties(&self) -> usize {
        self.parties
    }

    /// Returns the number of waiting parties.
    #[must_use]
    pub fn waiting(&self) -> usize {
        // Returns 0 if something else has written to the memory.
        self.enter().map_or(0, |state| state.free_seats().0)
    }

    /// Whether the barrier is broken: no party may wait until a [`reset`](Self::reset).
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.round().is_broken()
    }

    fn wait_until(&self, deadline: Option<Instant>, limit: Duration) -> Result<BarrierWaitResult> {
        let mut backoff = Backoff::new(&self.spin_state);
        let seat = loop {
            // The ticket comes first: a seat that is released after the check below, but before the
            // sleep, changes the word, and the party does not fall asleep.
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
        let state = self.enter()?;
        let round = self.round();
        if round.is_broken() {
            return Ok(Arrival::Broken);
        }
        let (_, free) = state.free_seats();
        if let [last] = *free {
            state.end(round.ended(Outcome::Complete));
            return Ok(Arrival::Completed(BarrierWaitResult(last)));
        }
        let seat = free.into_iter().find_map(|index| state.take(index, round));
        Ok(seat.map_or(Arrival::NoSeat, Arrival::Waits))
    }

    fn wait_for_end(&self, round: u32, deadline: Option<Instant>, limit: Duration) -> Result<()> {
        let mut backoff = Backoff::new(&self.spin_state);
        loop {
            let event = self.event_count(ROUND_EVENT);
            let ticket = event.ticket();
            match self.round().outcome_of(round) {
                Some(Outcome::Complete) => return Ok(()),
                Some(Outcome::BrokenOff) => return Err(broken()),
                None if event.wait(ticket, deadline, &mut backoff) => {}
                None => match self.abort_after_timeout(Some(round), limit) {
                    // The round was completed between the timeout and this check.
                    _ if self.round().outcome_of(round) == Some(Outcome::Complete) => return Ok(()),
                    error => return Err(error),
                },
            }
        }
    }

    /// Breaks the barrier, unless the round in which the party waited has ended.
    fn abort_after_timeout(&self, waited_in: Option<u32>, limit: Duration) -> Error {
        let state = match self.enter() {
            Ok(state) => state,
            Err(error) => return error,
        };
        // Without this check a late party would break a round that is not its own:
        // 1. Its wait times out. 2. The last party arrives and completes the round. 3. The late
        // party gets the mutex, and finds the number of the next round.
        let round = self.round();
        if waited_in.is_none_or(|number| number == round.number()) {
            state.end(round.broken());
            let message = format!("not all parties arrived at the barrier within {limit:?}");
            return Error::new(ErrorKind::TimedOut, message);
        }
        broken()
    }

    /// Locks the state. Fails only if something else has written to the mutex, or in a signal
    /// handler that interrupted a holder of it.
    fn enter(&self) -> Result<BarrierState<'_>> {
        // A holder that died has stored the round, or has not: nothing needs repair.
        let entered = self.mutex.lock().map(|_| BarrierState(self));
        entered.map_err(|error| lock_error(error, Self::KIND, LockWait::Forever))
    }

    fn round(&self) -> Round {
        // Acquire: a released party sees the writes of all parties before they arrived.
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
    /// Returns how many parties wait in this round, and the indices of the free seats.
    fn free_seats(&self) -> (usize, Vec<usize>) {
        let seats = 0..self.0.parties();
        let (taken, free): (Vec<usize>, _) = seats.partition(|index| self.is_taken(*index));
        (taken.len(), free)
    }

    /// Whether a living party waits in this seat.
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

    /// Takes a seat, unless a party of an earlier round still holds it.
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

/// Returns the offset of a seat.
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
