//! Events: a flag that processes wait for.

use super::{
    event_count::{Backoff, EventCount, SpinState},
    handle::{Handle, handle},
};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::{Object, ObjectKind};
use crate::sys::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Offsets in bytes.
const STATE: usize = Object::BODY;
const WORD: usize = Object::BODY + 4;
const SLEEPERS: usize = Object::BODY + 8;
const BYTES: usize = 64;

/// The lowest bit of the state.
const IS_SET: u32 = 1;

/// The increment of the generation, which is above the flag.
const GENERATION: u32 = 2;

/// A flag that processes wait for until one of them sets it.
///
/// Setting it releases all current waiters, even if it is cleared right after. A process that dies
/// while it waits changes nothing. If a process dies during [`set`](Self::set), the event is set or
/// not, and waiters may notice up to a second late.
///
/// Its state is one word, (generation, is set). Each `set` of a cleared event stores (generation +
/// 1, true), and each `clear` stores (generation, false).
///
/// # Examples
///
/// ```
/// use procpool::{Event, Process};
///
/// let started = Event::new()?;
/// let process = Process::start(|it: Event| it.set(), started.clone())?;
/// started.wait()?;
/// assert!(started.is_set());
/// process.join()?;
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Event {
    object: Object,
    spin_state: SpinState,
}

impl Event {
    /// Creates an event that is not set.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the memory or the descriptor cannot be created.
    pub fn new() -> Result<Self> {
        Object::create(Self::KIND, 0, BYTES).map(Self::of)
    }

    fn state(&self) -> &AtomicU32 {
        self.object.view().atomic_u32(STATE)
    }

    fn event_count(&self) -> EventCount<'_> {
        let view = self.object.view();
        EventCount {
            word: view.atomic_u32(WORD),
            sleepers: view.atomic_u32(SLEEPERS),
        }
    }

    /// Sets the event and wakes all waiters. Never blocks.
    pub fn set(&self) {
        let set = |state: u32| match state & IS_SET {
            0 => Some(state.wrapping_add(GENERATION) | IS_SET),
            // Store it again: a process that finds the event set must see the writes before any
            // `set`, not only before the first one.
            _ => Some(state),
        };
        let before = self
            .state()
            .fetch_update(Ordering::Release, Ordering::Relaxed, set);
        if before.is_ok_and(|state| state & IS_SET == 0) {
            self.event_count().notify_all();
        }
    }

    /// Clears the event. Never blocks.
    pub fn clear(&self) {
        self.state().fetch_and(!IS_SET, Ordering::Relaxed);
    }

    /// Whether the event is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.state().load(Ordering::Acquire) & IS_SET != 0
    }

    /// Waits until the event is set. Returns at once if it is.
    ///
    /// # Errors
    ///
    /// Currently never fails.
    pub fn wait(&self) -> Result<()> {
        self.wait_until(None);
        Ok(())
    }

    /// Waits until the event is set, for at most `limit`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] if it is not set in time.
    pub fn wait_timeout(&self, limit: Duration) -> Result<()> {
        if self.wait_until(Instant::now().checked_add(limit)) {
            return Ok(());
        }
        let message = format!("the event was not set within {limit:?}");
        Err(Error::new(ErrorKind::TimedOut, message))
    }

    /// Returns false at the deadline.
    fn wait_until(&self, deadline: Option<Instant>) -> bool {
        let before = self.state().load(Ordering::Acquire);
        let mut backoff = Backoff::new(&self.spin_state);
        loop {
            let ticket = self.event_count().ticket();
            let state = self.state().load(Ordering::Acquire);
            if state & IS_SET != 0 || state & !IS_SET != before & !IS_SET {
                return true;
            }
            if !self.event_count().wait(ticket, deadline, &mut backoff) {
                return false;
            }
        }
    }
}

impl Handle for Event {
    const KIND: ObjectKind = ObjectKind::Event;

    fn least() -> usize {
        Object::BODY + BYTES
    }

    fn object(&self) -> &Object {
        &self.object
    }

    fn of(object: Object) -> Self {
        Self {
            object,
            spin_state: SpinState::default(),
        }
    }
}

handle!(Event);
