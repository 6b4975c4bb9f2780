//! Conditions: a lock, and waiting for what others change under it.
//!
//! Beside the lock there is one word, of which every step is one compare-and-swap, so that whoever
//! dies has done all of a step or nothing:
//!
//! | bits | | |
//! |---|---|---|
//! | 0..16 | `waiting` | how many are registered |
//! | 16..32 | `granted` | to how many of them it was said that they may go on; never more than `waiting` |
//! | 32..64 | `epoch` | how many notifications took effect; what waiters sleep on |
//!
//! | step | by | |
//! |---|---|---|
//! | `waiting` + 1 | a waiter that holds the lock | registers; it remembers the epoch, and lets the lock go |
//! | `waiting` - 1, `granted` - 1, if `granted` > 0 and the epoch is not the one that it remembers | waiter | goes on |
//! | `waiting` - 1, if the above cannot be | waiter | its time is up |
//! | `granted` + 1, `epoch` + 1, if `granted` < `waiting` | `notify_one` | then wakes one |
//! | `granted` = `waiting`, `epoch` + 1, if `granted` < `waiting` | `notify_all` | then wakes all |
//!
//! A notification is for those who waited at that time: that is what the epoch is for. Who is woken
//! and may not go on, as it registered too late, has perhaps been woken in the place of another,
//! and wakes all, once.
//!
//! # Deaths
//!
//! A waiter that dies stays in `waiting`, and so may a grant that was meant for it: it can be taken
//! by any other that waited then, so that no notification is lost, and the worst that comes of it
//! is that somebody goes on later for nothing, which makes up for one that has died. The wake-up
//! itself may be lost with a process that dies between the word and the call, or with a dying one
//! that the kernel picks: sleepers look again by themselves
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
/// The half of the word with the epoch in it.
const EPOCH: usize = WORD + if cfg!(target_endian = "little") { 4 } else { 0 };
const BYTES: usize = 128;

/// A lock between processes and a way to wait, holding it, until somebody changes what it protects.
///
/// What is waited for lies in shared memory of the user's, as an [`Atomic`](crate::Atomic) or
/// [`Value`](crate::Value), and is changed with the lock held. [`wait`](ConditionGuard::wait) may
/// return for nothing, most of all after a death: [`wait_while`](ConditionGuard::wait_while) looks
/// again.
///
/// A process that dies while it holds the lock is told of as by [`Lock`](crate::Lock). One that
/// dies while it waits takes no notification with it, but it may be a second until another notices
/// that the notification is its own.
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
#[must_use = "dropping a guard lets its lock go"]
#[derive(Debug)]
pub struct ConditionGuard<'a> {
    condition: &'a Condition,
    held: HeldMutex<'a>,
}

/// The word, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiters {
    waiting: u16,
    granted: u16,
    epoch: u32,
}

impl Waiters {
    /// More grants than waiters are in no word but one that something else has written.
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

    /// For one that registered in that epoch, or in one with the same number long ago. It also goes
    /// on if nobody is registered: something else has written the word, and no notification would
    /// come.
    fn gone_on(mut self, registered_in: u32) -> Option<Self> {
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
    /// Makes one whose lock nobody holds.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] when the system gives no memory or no descriptor.
    pub fn new() -> Result<Self> {
        let object = Object::create(Self::KIND, 0, BYTES)?;
        let mutex = RobustMutex::create(object.mapping().clone(), MUTEX, MutexKind::ErrorCheck);
        mutex.map_err(|it| Error::io("failed to create a Condition", it))?;
        Ok(Self::of(object))
    }

    /// Takes the lock, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OwnerDied`], with the lock in the error; [`ErrorKind::InvalidInput`] if this
    /// thread holds it already.
    pub fn lock(&self) -> LockResult<ConditionGuard<'_>> {
        HeldMutex::acquire(&self.mutex, Self::KIND, LockWait::Forever, |held| {
            ConditionGuard {
                condition: self,
                held,
            }
        })
    }

    /// Wakes one of those who wait; does nothing if nobody does. Never blocks, with the lock held
    /// or not.
    pub fn notify_one(&self) {
        if self.change(|it| it.notified(1)).is_ok() {
            futex::wake_one(self.epoch());
        }
    }

    /// Wakes all who wait at this moment. Never blocks, with the lock held or not.
    pub fn notify_all(&self) {
        if self.change(|it| it.notified(u16::MAX)).is_ok() {
            futex::wake_all(self.epoch());
        }
    }

    fn epoch(&self) -> &AtomicU32 {
        // Never loaded or stored: the kernel compares it.
        self.object.view().atomic_u32(EPOCH)
    }

    fn word(&self) -> &AtomicU64 {
        self.object.view().atomic_u64(WORD)
    }

    /// One step; what was there before it, or, if it cannot be done, what is there.
    fn change(&self, step: impl Fn(Waiters) -> Option<Waiters>) -> Result<Waiters, Waiters> {
        let step = |word| step(Waiters::of(word)).map(Waiters::to_word);
        // AcqRel: a notification without the lock held is to show what was done before it.
        let changed = self
            .word()
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, step);
        changed.map(Waiters::of).map_err(Waiters::of)
    }

    fn register(&self) -> Result<u32> {
        let before = self.change(Waiters::registered);
        before.map(|it| it.epoch).map_err(|_| {
            let message = "65535 wait for the Condition, or were killed while they did";
            Error::new(ErrorKind::InvalidInput, message)
        })
    }

    /// Waits for a grant; false if the deadline passed before there was one.
    fn sleep(&self, registered_in: u32, deadline: Option<Instant>) -> bool {
        let mut backoff = Backoff::new(&self.spin_state);
        let mut may_wake_others = true;
        loop {
            let Err(now) = self.change(|it| it.gone_on(registered_in)) else {
                return true;
            };
            if has_passed(deadline) {
                return self.give_up(registered_in);
            }
            // Every change that lets this one go on changes the epoch, so that this cannot fall
            // asleep too late.
            backoff.wait(self.epoch(), now.epoch, deadline, || {
                Waiters::of(self.word().load(Ordering::Relaxed)).epoch != now.epoch
            });
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

    /// Leaves with the grant that came at the last moment, or without one.
    fn give_up(&self, registered_in: u32) -> bool {
        let leave = |it: Waiters| it.gone_on(registered_in).or(Some(it.after_give_up()));
        let before = self.change(leave);
        before.is_ok_and(|it| it.gone_on(registered_in).is_some())
    }
}

impl ConditionGuard<'_> {
    /// Lets the lock go, waits for a notification, and takes the lock again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OwnerDied`] if a process died meanwhile that held the lock;
    /// [`ErrorKind::InvalidInput`] if 65535 others wait. The lock is held again in any case.
    /// [`ErrorKind::Io`] if something else has written to its memory: then it is not.
    ///
    /// # Panics
    ///
    /// In a copy of the process that holds the lock, as do all calls that wait.
    pub fn wait(&mut self) -> Result<()> {
        self.wait_until(None).map(drop)
    }

    /// As [`wait`](Self::wait), at most for `limit`, and then as long as it takes to get the lock
    /// again.
    ///
    /// # Errors
    ///
    /// As there; [`ErrorKind::TimedOut`].
    ///
    /// # Panics
    ///
    /// As there.
    pub fn wait_timeout(&mut self, limit: Duration) -> Result<()> {
        match self.wait_until(Instant::now().checked_add(limit))? {
            true => Ok(()),
            false => Err(timed_out(limit)),
        }
    }

    /// Waits as long as `condition`, which is asked with the lock held, says yes.
    ///
    /// # Errors
    ///
    /// As [`wait`](Self::wait).
    ///
    /// # Panics
    ///
    /// As there.
    pub fn wait_while(&mut self, mut condition: impl FnMut() -> bool) -> Result<()> {
        while condition() {
            self.wait()?;
        }
        Ok(())
    }

    /// As [`wait_while`](Self::wait_while), at most for `limit`.
    ///
    /// # Errors
    ///
    /// As there; [`ErrorKind::TimedOut`] if the condition still says yes then.
    ///
    /// # Panics
    ///
    /// As there.
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

    /// False if the deadline passed.
    fn wait_until(&mut self, deadline: Option<Instant>) -> Result<bool> {
        assert!(
            self.held.is_own_process(),
            "this is a copy of the process that holds the Condition, and cannot wait in its place"
        );
        let condition = self.condition;
        let epoch = condition.register()?;
        let (notified, taken) = self.held.unlocked(|| condition.sleep(epoch, deadline));
        taken.map(|()| notified)
    }
}

fn timed_out(limit: Duration) -> Error {
    let message = format!("the wait for the Condition was not over within {limit:?}");
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
