//! Conditions: a lock, and waiting for changes made under it.
//!
//! Next to the lock there is one word. Every step changes it by one compare-and-swap, so a process
//! that dies has done a step completely or not at all:
//!
//! | bits | field | meaning |
//! |---|---|---|
//! | 0..16 | `waiting` | number of registered waiters |
//! | 16..32 | `granted` | how many of them may continue; never more than `waiting` |
//! | 32..64 | `epoch` | number of effective notifications; waiters sleep on it |
//!
//! | step | by | then |
//! |---|---|---|
//! | `waiting` + 1 | a waiter that holds the lock | remembers the epoch and releases the lock |
//! | both - 1, if `granted` > 0 and the epoch has changed | the waiter | continues |
//! | `waiting` - 1, if that is impossible | the waiter | fails with a timeout |
//! | `granted` + 1, `epoch` + 1, if `granted` < `waiting` | `notify_one` | then wakes one |
//! | `granted` = `waiting`, `epoch` + 1, if `granted` < `waiting` | `notify_all` | then wakes all |
//!
//! The epoch makes sure that a notification is for the waiters of that time. A waiter that is woken
//! but may not continue, because it registered too late, may have been woken instead of another: it
//! wakes all, once.
//!
//! # Deaths
//!
//! A waiter that dies stays in `waiting`, and a grant meant for it may stay, too. Any other waiter
//! of that time can take the grant, so no notification is lost; at worst, a later waiter continues
//! spuriously. The wake-up itself is lost if the notifier dies between the word and the system
//! call, or if the kernel picks a dying waiter. Sleepers therefore check again by themselves
//! ([`Backoff`](super::event_count::Backoff)).

use super::{
    event_count::{Backoff, SpinState, has_passed},
    handle::{Handle, handle},
    held::{HeldMutex, LockWait},
    lock_error::LockResult,
};
use crate::error::{Error, ErrorKind, Result};
use crate::shm::{Object, ObjectKind};
use crate::sys::{
    futex,
    robust::{MutexKind, RobustMutex},
};
use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Offsets in bytes.
const MUTEX: usize = Object::BODY;
const WORD: usize = MUTEX + RobustMutex::SIZE;
/// The half of the word that holds the epoch.
const EPOCH: usize = WORD + if cfg!(target_endian = "little") { 4 } else { 0 };
const BYTES: usize = 128;

/// A lock between processes, and a way to wait under it until another process changes the protected
/// state.
///
/// The state is kept in other shared memory, for example an [`Atomic`](crate::Atomic) or a
/// [`Value`](crate::Value), and is changed under the lock. [`wait`](ConditionGuard::wait) may
/// return spuriously, mostly after a death, so call it in a loop, or use
/// [`wait_while`](ConditionGuard::wait_while).
///
/// The death of a process that holds the lock is reported like for a [`Lock`](crate::Lock). A
/// process that dies while it waits takes no notification with it, but another waiter may receive
/// that notification up to a second late.
///
/// # Examples
///
/// ```
/// use procpool::{Atomic, Condition, Process};
/// use std::sync::atomic::Ordering::Relaxed;
///
/// fn produce((condition, items): (Condition, Atomic<u32>)) {
///     let _held = condition.lock().or_else(|it| it.into_inner());
///     items.fetch_add(1, Relaxed);
///     condition.notify_one();
/// }
///
/// let (condition, items) = (Condition::new()?, Atomic::new(0u32)?);
/// let process = Process::start(produce, (condition.clone(), items.clone()))?;
/// let mut held = condition.lock()?;
/// held.wait_while(|| items.load(Relaxed) == 0)?;
/// # drop(held);
/// # process.join()?;
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Condition {
    object: Object,
    mutex: RobustMutex,
    spin_state: SpinState,
}

/// Holds the lock of a [`Condition`] until it is dropped.
#[must_use = "dropping a guard releases its lock"]
#[derive(Debug)]
pub struct ConditionGuard<'a> {
    condition: &'a Condition,
    held: HeldMutex<'a>,
}

/// The fields of the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiters {
    waiting: u16,
    granted: u16,
    epoch: u32,
}

impl Waiters {
    /// Clamps `granted` to `waiting`: only a foreign write can exceed it.
    fn of(word: u64) -> Self {
        let waiting = word as u16;
        Self {
            waiting,
            granted: waiting.min((word >> 16) as u16),
            epoch: (word >> 32) as u32,
        }
    }

    fn to_word(self) -> u64 {
        u64::from(self.waiting) | u64::from(self.granted) << 16 | u64::from(self.epoch) << 32
    }

    fn registered(mut self) -> Option<Self> {
        self.waiting = self.waiting.checked_add(1)?;
        Some(self)
    }

    /// Returns the state after a waiter of epoch `registered_in` continues; `None` if it may not.
    /// The epoch may be equal after it has wrapped around. Also continues if no waiter is
    /// registered: something else has written the word, and no notification would come.
    fn after_grant(mut self, registered_in: u32) -> Option<Self> {
        if self.waiting == 0 {
            return Some(self);
        }
        let is_granted = self.epoch != registered_in || self.granted == self.waiting;
        self.granted = self.granted.checked_sub(1).filter(|_| is_granted)?;
        self.waiting -= 1;
        Some(self)
    }

    fn after_give_up(mut self) -> Self {
        self.waiting = self.waiting.saturating_sub(1);
        self
    }

    fn notified(mut self, most: u16) -> Option<Self> {
        let left = self.waiting - self.granted;
        self.granted += left.min(most);
        self.epoch = self.epoch.wrapping_add(1);
        (left > 0).then_some(self)
    }
}

impl Condition {
    /// Creates a condition whose lock is free.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] if the memory or the descriptor cannot be created.
    pub fn new() -> Result<Self> {
        let object = Object::create(Self::KIND, 0, BYTES)?;
        let mutex = RobustMutex::create(object.mapping().clone(), MUTEX, MutexKind::ErrorCheck);
        mutex.map_err(|error| Error::io("failed to create a Condition", error))?;
        Ok(Self::of(object))
    }

    /// Takes the lock. Blocks until it is free.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OwnerDied`], with the lock in the error, if the last holder died;
    /// [`ErrorKind::InvalidInput`] if this thread holds it already.
    pub fn lock(&self) -> LockResult<ConditionGuard<'_>> {
        HeldMutex::acquire(&self.mutex, Self::KIND, LockWait::Forever, |held| {
            ConditionGuard {
                condition: self,
                held,
            }
        })
    }

    /// Wakes one waiter, if there is one. Never blocks, with or without the lock held.
    pub fn notify_one(&self) {
        if self.change(|it| it.notified(1)).is_ok() {
            futex::wake_one(self.epoch());
        }
    }

    /// Wakes all current waiters. Never blocks, with or without the lock held.
    pub fn notify_all(&self) {
        if self.change(|it| it.notified(u16::MAX)).is_ok() {
            futex::wake_all(self.epoch());
        }
    }

    fn epoch(&self) -> &AtomicU32 {
        // Never loaded or stored: only the kernel compares it.
        self.object.view().atomic_u32(EPOCH)
    }

    fn word(&self) -> &AtomicU64 {
        self.object.view().atomic_u64(WORD)
    }

    /// Applies one step. Returns the previous state, or as an error the current state if the step
    /// is impossible.
    fn change(&self, step: impl Fn(Waiters) -> Option<Waiters>) -> Result<Waiters, Waiters> {
        let step = |word| step(Waiters::of(word)).map(Waiters::to_word);
        // AcqRel: a notification without the lock held publishes all earlier writes.
        let changed = self
            .word()
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, step);
        changed.map(Waiters::of).map_err(Waiters::of)
    }

    fn register(&self) -> Result<u32> {
        let before = self.change(Waiters::registered);
        before.map(|it| it.epoch).map_err(|_| {
            let message = "the Condition has 65535 waiters, including killed ones";
            Error::new(ErrorKind::InvalidInput, message)
        })
    }

    /// Waits for a grant. Returns false at the deadline.
    fn sleep(&self, registered_in: u32, deadline: Option<Instant>) -> bool {
        let mut backoff = Backoff::new(&self.spin_state);
        let mut may_wake_others = true;
        loop {
            let Err(now) = self.change(|waiters| waiters.after_grant(registered_in)) else {
                return true;
            };
            if has_passed(deadline) {
                return self.give_up(registered_in);
            }
            // Every change that lets this waiter continue also changes the epoch, so it cannot fall
            // asleep too late.
            backoff.wait(self.epoch(), now.epoch, deadline, || {
                Waiters::of(self.word().load(Ordering::Relaxed)).epoch != now.epoch
            });
            // The kernel may wake this waiter instead of the granted one:
            // 1. A sleeps. 2. `notify_one` grants A and changes the epoch. 3. This waiter registers
            // in the new epoch and sleeps. 4. The system call of `notify_one` picks this waiter.
            // It passes the wake-up on, once, or two such waiters would wake each other forever.
            if may_wake_others && self.is_granted_to_others(registered_in) {
                may_wake_others = false;
                futex::wake_all(self.epoch());
            }
        }
    }

    fn is_granted_to_others(&self, registered_in: u32) -> bool {
        let now = Waiters::of(self.word().load(Ordering::Relaxed));
        now.granted > 0 && now.epoch == registered_in
    }

    /// Deregisters at the deadline. Returns whether a grant came at the last moment.
    fn give_up(&self, registered_in: u32) -> bool {
        let leave = |waiters: Waiters| {
            let granted = waiters.after_grant(registered_in);
            granted.or(Some(waiters.after_give_up()))
        };
        let before = self.change(leave);
        before.is_ok_and(|waiters| waiters.after_grant(registered_in).is_some())
    }
}

impl ConditionGuard<'_> {
    /// Releases the lock, waits for a notification, and takes the lock again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OwnerDied`] if a process died while it held the lock during the wait;
    /// [`ErrorKind::InvalidInput`] if there are 65535 waiters already. The lock is held again in
    /// both cases. [`ErrorKind::Io`] if something else has written to the condition's memory; the
    /// lock is not held then.
    ///
    /// # Panics
    ///
    /// If called in a forked copy of the process that holds the lock. The same holds for every
    /// method that waits.
    pub fn wait(&mut self) -> Result<()> {
        self.wait_until(None).map(drop)
    }

    /// Like [`wait`](Self::wait), but waits for at most `limit`, and then as long as it takes to
    /// get the lock again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] if no notification came in time; otherwise like
    /// [`wait`](Self::wait).
    ///
    /// # Panics
    ///
    /// Like [`wait`](Self::wait).
    pub fn wait_timeout(&mut self, limit: Duration) -> Result<()> {
        match self.wait_until(Instant::now().checked_add(limit))? {
            true => Ok(()),
            false => Err(timed_out(limit)),
        }
    }

    /// Waits while `condition` returns true. It is called with the lock held.
    ///
    /// # Errors
    ///
    /// Like [`wait`](Self::wait).
    ///
    /// # Panics
    ///
    /// Like [`wait`](Self::wait).
    pub fn wait_while(&mut self, mut condition: impl FnMut() -> bool) -> Result<()> {
        while condition() {
            self.wait()?;
        }
        Ok(())
    }

    /// Like [`wait_while`](Self::wait_while), but waits for at most `limit`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] if `condition` still returns true then; otherwise like
    /// [`wait`](Self::wait).
    ///
    /// # Panics
    ///
    /// Like [`wait`](Self::wait).
    pub fn wait_while_timeout(
        &mut self,
        limit: Duration,
        mut condition: impl FnMut() -> bool,
    ) -> Result<()> {
        let deadline = Instant::now().checked_add(limit);
        let mut is_in_time = true;
        while condition() {
            if !is_in_time {
                return Err(timed_out(limit));
            }
            is_in_time = self.wait_until(deadline)?;
        }
        Ok(())
    }

    /// Returns false at the deadline.
    fn wait_until(&mut self, deadline: Option<Instant>) -> Result<bool> {
        assert!(
            self.held.is_own_process(),
            "a forked copy of the process that holds the Condition cannot wait on it"
        );
        let condition = self.condition;
        let epoch = condition.register()?;
        let (notified, taken) = self.held.unlocked(|| condition.sleep(epoch, deadline));
        taken.map(|()| notified)
    }
}

fn timed_out(limit: Duration) -> Error {
    let message = format!("the wait on the Condition did not end within {limit:?}");
    Error::new(ErrorKind::TimedOut, message)
}

impl Handle for Condition {
    const KIND: ObjectKind = ObjectKind::Condition;

    fn least() -> usize {
        Object::BODY + BYTES
    }

    fn object(&self) -> &Object {
        &self.object
    }

    fn of(object: Object) -> Self {
        let mutex = RobustMutex::open(object.mapping().clone(), MUTEX);
        Self {
            object,
            mutex,
            spin_state: SpinState::default(),
        }
    }
}

handle!(Condition);
