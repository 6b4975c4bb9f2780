//! Sends the items that are left in an outbox because their input is slow.

use crate::pool::{pool::Pool, task::outbox::Outbox};
use crate::sys::{
    biased::{VisitResult, Visitor},
    poll::Timer,
};
use parking_lot::Mutex;
use std::{io, time::Duration};

/// How long an item waits for others of its chunk, unless its owner is adding one at that moment.
const FLUSH_DELAY: Duration = Duration::from_micros(750);

/// The delay before the next check of an outbox that was busy. With `FLUSH_DELAY` it is at most 1
/// ms.
const RETRY_DELAY: Duration = Duration::from_micros(250);

/// The outboxes of one pool that hold items.
#[derive(Debug)]
pub(crate) struct FlushTimer {
    /// Fires when a chunk is overdue. Armed while `outboxes` is not empty.
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

    /// Schedules one check of an outbox by the pool's thread.
    pub(crate) fn watch(&self, outbox: Visitor<Outbox>) {
        let mut outboxes = self.outboxes.lock();
        outboxes.push(outbox);
        if outboxes.len() == 1 {
            self.alarm.set(FLUSH_DELAY);
        }
    }

    fn take(&self) -> Vec<Visitor<Outbox>> {
        // Cleared under the lock: an outbox that is added after it finds an empty list and sets the
        // alarm again.
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
    /// Sends the items in the outboxes. A chunk in them was started about `FLUSH_DELAY` ago or
    /// later. A chunk that is sent early costs only its frame.
    pub(crate) fn flush_overdue(&self) {
        let mut busy = Vec::new();
        for outbox in self.flush_timer.take() {
            match outbox.visit(Outbox::take_overdue) {
                // Submitted after the visit, because a submission may run a waker, which is user
                // code.
                VisitResult::Done(Some(chunk)) => self.submit_chunk(chunk),
                VisitResult::Done(None) | VisitResult::Gone => {}
                VisitResult::Busy => busy.push(outbox),
            }
        }
        self.flush_timer.watch_again(busy);
    }
}
