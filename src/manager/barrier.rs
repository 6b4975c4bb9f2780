//! Barriers in the server.

use super::{
    protocol::Answer,
    proxy::proxy,
    server::{Server, Session},
    waiting::{Ended, Line, Wait, wait_in},
};
use crate::error::{ErrorKind, Result};
use crate::process::function::{Failure, Invocation};
use crate::sync::BarrierWaitResult;
use parking_lot::Mutex;
use std::{
    mem,
    sync::{Arc, OnceLock},
    time::Duration,
};

proxy! {
    /// A barrier in a manager's server, made by [`Manager::barrier`](crate::Manager::barrier): so many parties wait for each other.
    ///
    /// A party that dies while it waits gives its place back. One whose time is up breaks the barrier for the others, who get
    /// [`BrokenBarrier`](crate::ErrorKind::BrokenBarrier), until a [`reset`](Self::reset).
    ///
    /// ```
    /// let manager = procpool::Manager::start()?;
    /// let barrier = manager.barrier(2)?;
    /// let other = barrier.clone();
    /// let thread = std::thread::spawn(move || other.wait());
    /// let (ours, theirs) = (barrier.wait()?, thread.join().unwrap()?);
    /// assert_ne!(ours.is_leader(), theirs.is_leader());
    /// # Ok::<(), procpool::Error>(())
    /// ```
    BarrierProxy
}

impl BarrierProxy {
    /// Waits until all parties have come.
    ///
    /// # Errors
    ///
    /// [`BrokenBarrier`](crate::ErrorKind::BrokenBarrier) if it is broken, or is broken or reset before all have come.
    /// [`Disconnected`](crate::ErrorKind::Disconnected) when the server is gone.
    pub fn wait(&self) -> Result<BarrierWaitResult> {
        self.wait_by(Wait::Forever)
    }

    /// As [`wait`](Self::wait), at most for `limit`; then the barrier is broken for all.
    ///
    /// # Errors
    ///
    /// As there; [`TimedOut`](crate::ErrorKind::TimedOut) for the party whose time is up.
    pub fn wait_timeout(&self, limit: Duration) -> Result<BarrierWaitResult> {
        self.wait_by(Wait::AtMost(limit))
    }

    /// Breaks the round off, for those who wait, and makes a broken barrier usable again.
    ///
    /// # Errors
    ///
    /// [`Disconnected`](crate::ErrorKind::Disconnected) when the server is gone, here and below.
    pub fn reset(&self) -> Result<()> {
        self.0.ask(end_round, &false)
    }

    /// Breaks the barrier: those who wait and those who come get an error, until a [`reset`](Self::reset).
    pub fn abort(&self) -> Result<()> {
        self.0.ask(end_round, &true)
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> Result<bool> {
        Ok(self.0.ask::<_, _, Status>(status, &())?.is_broken)
    }

    /// How many parties it is for.
    pub fn parties(&self) -> Result<usize> {
        Ok(self.0.ask::<_, _, Status>(status, &())?.parties)
    }

    /// How many parties wait.
    pub fn waiting(&self) -> Result<usize> {
        Ok(self.0.ask::<_, _, Status>(status, &())?.waiting)
    }

    fn wait_by(&self, limit: Wait) -> Result<BarrierWaitResult> {
        self.0.ask(wait, &limit).map(BarrierWaitResult::new)
    }
}

/// Each is a place in memory, and a thread of the server when it waits.
const MOST_PARTIES: usize = 1 << 20;

struct Barrier(Mutex<State>);

struct State {
    /// For each place, whether a party waits there.
    places: Vec<bool>,
    round: Arc<Round>,
    is_broken: bool,
    line: Line,
}

/// How a round has ended, if it has: whether all have come.
type Round = OnceLock<bool>;

#[derive(serde::Serialize, serde::Deserialize)]
struct Status {
    parties: usize,
    waiting: usize,
    is_broken: bool,
}

impl State {
    fn waiting(&self) -> usize {
        self.places.iter().filter(|it| **it).count()
    }

    fn end_round(&mut self, is_complete: bool) {
        let round = mem::take(&mut self.round);
        // A round ends once: the next one is another.
        let _ = round.set(is_complete);
        self.places.fill(false);
        self.line.wake();
    }

    /// Takes a place, and ends the round with the last.
    fn arrive(&mut self) -> Result<(usize, Arc<Round>), Failure> {
        if self.is_broken {
            return Err(broken());
        }
        let free = self.places.iter().position(|it| !it);
        let place = free.expect("a round in which all places are taken has ended");
        self.places[place] = true;
        let round = Arc::clone(&self.round);
        if self.waiting() == self.places.len() {
            self.end_round(true);
        }
        Ok((place, round))
    }

    /// A party does not wait any longer, in a round that has not ended.
    fn leave(&mut self, place: usize, ended: Ended) {
        self.places[place] = false;
        if ended == Ended::TimedOut {
            self.is_broken = true;
            self.end_round(false);
        }
    }
}

fn broken() -> Failure {
    let message = "the barrier is broken, or was reset";
    Failure::Refused(ErrorKind::BrokenBarrier, message.to_owned())
}

/// Makes one for so many parties.
pub(super) fn create(server: &Server, call: &mut Invocation<'_>) -> Answer {
    let parties = call.decode()?;
    if parties == 0 || parties > MOST_PARTIES {
        let message = format!("a barrier cannot be for {parties} parties");
        return Err(Failure::Refused(ErrorKind::InvalidInput, message));
    }
    let state = State {
        places: vec![false; parties],
        round: Arc::default(),
        is_broken: false,
        line: Line::crowd(),
    };
    server.create(Barrier(Mutex::new(state)), call)
}

fn wait(barrier: &Barrier, call: &mut Invocation<'_>) -> Answer {
    let wait: Wait = call.decode()?;
    let (place, round) = barrier.0.lock().arrive()?;
    let outcome = wait_in(
        &barrier.0,
        |it| &mut it.line,
        Session::of(call),
        wait,
        |_| round.get().map(drop),
    );
    if let Err(ended) = outcome {
        let mut state = barrier.0.lock();
        // It may have ended since.
        if round.get().is_none() {
            state.leave(place, ended);
            let what = "not all parties have come";
            return Err(ended.into_failure(wait, ErrorKind::WouldBlock, what));
        }
    }
    match round.get() {
        Some(true) => call.encode(&place),
        _ => Err(broken()),
    }
}

fn end_round(barrier: &Barrier, call: &mut Invocation<'_>) -> Answer {
    let is_broken = call.decode()?;
    let mut state = barrier.0.lock();
    state.is_broken = is_broken;
    state.end_round(false);
    Ok(())
}

fn status(barrier: &Barrier, call: &mut Invocation<'_>) -> Answer {
    let status = {
        let state = barrier.0.lock();
        Status {
            parties: state.places.len(),
            waiting: state.waiting(),
            is_broken: state.is_broken,
        }
    };
    call.encode(&status)
}
