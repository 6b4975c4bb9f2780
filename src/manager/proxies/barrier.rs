//! Barriers in the server.

use crate::error::{ErrorKind, Result};
use crate::manager::{
    protocol::HandlerResult,
    proxies::object::proxy,
    server::wait_queue::{WaitError, WaitLimit, WaitQueue, wait_until},
    server::{Server, Session},
};
use crate::process::function::{CallError, Invocation};
use crate::sync::BarrierWaitResult;
use parking_lot::Mutex;
use std::{
    mem,
    sync::{Arc, OnceLock},
    time::Duration,
};

proxy! {
    /// A barrier in a manager's server, created by [`Manager::barrier`](crate::Manager::barrier). A
    /// fixed number of parties wait for each other.
    ///
    /// A party that dies during its wait no longer counts. A party whose wait times out breaks the
    /// barrier: the other waiters fail with [`BrokenBarrier`](crate::ErrorKind::BrokenBarrier)
    /// until a [`reset`](Self::reset).
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
    /// Blocks until all parties have arrived.
    ///
    /// # Errors
    ///
    /// [`BrokenBarrier`](crate::ErrorKind::BrokenBarrier) if the barrier is broken, or is broken or
    /// reset before all parties arrive. [`Disconnected`](crate::ErrorKind::Disconnected) if the
    /// server has exited.
    pub fn wait(&self) -> Result<BarrierWaitResult> {
        self.wait_with(WaitLimit::Forever)
    }

    /// Like [`wait`](Self::wait), but waits for at most `limit`. A timeout breaks the barrier for
    /// all parties.
    ///
    /// # Errors
    ///
    /// [`TimedOut`](crate::ErrorKind::TimedOut) if this party times out; else fails like
    /// [`wait`](Self::wait).
    pub fn wait_timeout(&self, limit: Duration) -> Result<BarrierWaitResult> {
        self.wait_with(WaitLimit::AtMost(limit))
    }

    /// Ends the current round with an error for its waiters, and makes a broken barrier usable
    /// again.
    ///
    /// # Errors
    ///
    /// [`Disconnected`](crate::ErrorKind::Disconnected) if the server has exited, here and below.
    pub fn reset(&self) -> Result<()> {
        self.0.ask(end_round, &false)
    }

    /// Breaks the barrier. Current and later waiters fail until a [`reset`](Self::reset).
    pub fn abort(&self) -> Result<()> {
        self.0.ask(end_round, &true)
    }

    /// Whether the barrier is broken.
    pub fn is_broken(&self) -> Result<bool> {
        Ok(self.0.ask::<_, _, BarrierStatus>(status, &())?.is_broken)
    }

    /// Returns the number of parties.
    pub fn parties(&self) -> Result<usize> {
        Ok(self.0.ask::<_, _, BarrierStatus>(status, &())?.parties)
    }

    /// Returns the number of parties that wait.
    pub fn waiting(&self) -> Result<usize> {
        Ok(self.0.ask::<_, _, BarrierStatus>(status, &())?.waiting)
    }

    fn wait_with(&self, limit: WaitLimit) -> Result<BarrierWaitResult> {
        self.0.ask(wait, &limit).map(BarrierWaitResult::new)
    }
}

/// Each party costs a byte, and a thread of the server during its wait.
const MAX_PARTIES: usize = 1 << 20;

struct ServerBarrier(Mutex<ServerBarrierState>);

struct ServerBarrierState {
    /// For each slot, whether a party waits there.
    slots: Vec<bool>,
    round: Arc<RoundOutcome>,
    is_broken: bool,
    waiters: WaitQueue,
}

/// Whether the round was complete; empty until the round ends.
type RoundOutcome = OnceLock<bool>;

#[derive(serde::Serialize, serde::Deserialize)]
struct BarrierStatus {
    parties: usize,
    waiting: usize,
    is_broken: bool,
}

impl ServerBarrierState {
    fn waiting(&self) -> usize {
        self.slots.iter().filter(|is_taken| **is_taken).count()
    }

    fn end_round(&mut self, is_complete: bool) {
        let round = mem::take(&mut self.round);
        // Setting cannot fail: each round ends once, and the next round has a new outcome.
        let _ = round.set(is_complete);
        self.slots.fill(false);
        self.waiters.wake();
    }

    /// Takes a slot. Ends the round if all parties have arrived.
    fn arrive(&mut self) -> Result<(usize, Arc<RoundOutcome>), CallError> {
        if self.is_broken {
            return Err(err_broken());
        }
        let free = self.slots.iter().position(|is_taken| !is_taken);
        let slot = free.expect("a round whose slots are all taken has ended");
        self.slots[slot] = true;
        let round = Arc::clone(&self.round);
        if self.waiting() == self.slots.len() {
            self.end_round(true);
        }
        Ok((slot, round))
    }

    /// Frees a slot before the round ends.
    fn leave(&mut self, slot: usize, ended: WaitError) {
        self.slots[slot] = false;
        if ended == WaitError::TimedOut {
            self.is_broken = true;
            self.end_round(false);
        }
    }
}

fn err_broken() -> CallError {
    let message = "the barrier is broken or was reset";
    CallError::Refused(ErrorKind::BrokenBarrier, message.to_owned())
}

/// Creates a barrier.
pub(in crate::manager) fn create(server: &Server, call: &mut Invocation<'_>) -> HandlerResult {
    let parties = call.decode()?;
    if parties == 0 || parties > MAX_PARTIES {
        let message = format!("a barrier cannot have {parties} parties");
        return Err(CallError::Refused(ErrorKind::InvalidInput, message));
    }
    let state = ServerBarrierState {
        slots: vec![false; parties],
        round: Arc::default(),
        is_broken: false,
        waiters: WaitQueue::broadcast(),
    };
    server.create(ServerBarrier(Mutex::new(state)), call)
}

fn wait(barrier: &ServerBarrier, call: &mut Invocation<'_>) -> HandlerResult {
    let wait: WaitLimit = call.decode()?;
    let (slot, round) = barrier.0.lock().arrive()?;
    let outcome = wait_until(
        &barrier.0,
        |it| &mut it.waiters,
        Session::of(call),
        wait,
        |_| round.get().map(drop),
    );
    if let Err(ended) = outcome {
        let mut state = barrier.0.lock();
        // The round may have ended between the timeout and this lock.
        if round.get().is_none() {
            state.leave(slot, ended);
            let what = "not all parties have arrived";
            return Err(ended.into_call_error(wait, ErrorKind::WouldBlock, what));
        }
    }
    match round.get() {
        Some(true) => call.encode(&slot),
        _ => Err(err_broken()),
    }
}

fn end_round(barrier: &ServerBarrier, call: &mut Invocation<'_>) -> HandlerResult {
    let is_broken = call.decode()?;
    let mut state = barrier.0.lock();
    state.is_broken = is_broken;
    state.end_round(false);
    Ok(())
}

fn status(barrier: &ServerBarrier, call: &mut Invocation<'_>) -> HandlerResult {
    let status = {
        let state = barrier.0.lock();
        BarrierStatus {
            parties: state.slots.len(),
            waiting: state.waiting(),
            is_broken: state.is_broken,
        }
    };
    call.encode(&status)
}
