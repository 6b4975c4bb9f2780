//! Items that lie in an outbox while their input is slow: the pool's thread sends them.

use crate::pool::{pool::Pool, task::outbox::Outbox};
use crate::sys::{
    biased::{VisitResult, Visitor},
    poll::Timer,
};
use parking_lot::Mutex;
use std::{io, time::Duration};

/// How long an item waits for others of its chunk, unless its owner is busy just then.
const FLUSH_DELAY: Duration = Duration::from_micros(750);

/// The time until the next look at an outbox that was busy: with `FLUSH_DELAY`, at most 1 ms.
const RETRY_DELAY: Duration = Duration::from_micros(250);

/// The outboxes of one pool that have items.
#[derive(Debug)]
pub(crate) struct FlushTimer {
    /// Goes off when something is overdue. Armed while `outboxes` has any.
    pub(crate) alarm: Timer,
    outboxes: Mutex<Vec<Visitor<Outbox>>>,
}

impl FlushTimer {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            alarm: Timer::new()?,
            outboxes: Mutex::new(Vec::new()),
        })
    }

    /// Has the pool's thread look at an outbox once.
    pub(crate) fn watch(&self, outbox: Visitor<Outbox>) {
        let mut outboxes = self.outboxes.lock();
        outboxes.push(outbox);
        if outboxes.len() == 1 {
            self.alarm.set(FLUSH_DELAY);
        }
    }

    fn take(&self) -> Vec<Visitor<Outbox>> {
        let mut outboxes = self.outboxes.lock();
        self.alarm.clear();
        std::mem::take(&mut outboxes)
    }

    fn watch_again(&self, busy: Vec<Visitor<Outbox>>) {
        if !busy.is_empty() {
            let mut outboxes = self.outboxes.lock();
            outboxes.extend(busy);
            self.alarm.set(RETRY_DELAY);
        }
    }
}

impl Pool {
    /// Sends what lies in the outboxes. Each is one whose chunk was begun about `FLUSH_DELAY` ago,
    /// or later; a chunk that is sent early costs no more than its frame.
    pub(crate) fn flush_overdue(&self) {
        let mut busy = Vec::new();
        for outbox in self.flush_timer.take() {
            match outbox.visit(Outbox::take_overdue) {
                // Submitted when the visit is over: that may run a waker, which is the user's code.
                VisitResult::Done(Some(chunk)) => self.submit_chunk(chunk),
                VisitResult::Done(None) | VisitResult::Gone => {}
                VisitResult::Busy => busy.push(outbox),
            }
        }
        self.flush_timer.watch_again(busy);
    }
}
