//! Items that lie in an outbox while their input is slow: the pool's thread sends them.

use super::{outbox::Outbox, shared::Shared};
use crate::sys::{
    biased::{Visit, Visitor},
    poll::Alarm,
};
use parking_lot::Mutex;
use std::{io, time::Duration};

/// How long an item waits for others of its chunk, unless its owner is busy just then.
const DELAY: Duration = Duration::from_micros(750);

/// The time until the next look at an outbox that was busy: with `DELAY`, at most 1 ms.
const AGAIN: Duration = Duration::from_micros(250);

/// The outboxes of one pool that have items.
#[derive(Debug)]
pub(super) struct Overdue {
    /// Goes off when something is overdue. Armed while `outboxes` has any.
    pub(super) alarm: Alarm,
    outboxes: Mutex<Vec<Visitor<Outbox>>>,
}

impl Overdue {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            alarm: Alarm::new()?,
            outboxes: Mutex::new(Vec::new()),
        })
    }

    /// Has the pool's thread look at an outbox once.
    pub(super) fn watch(&self, outbox: Visitor<Outbox>) {
        let mut outboxes = self.outboxes.lock();
        outboxes.push(outbox);
        if outboxes.len() == 1 {
            self.alarm.set(DELAY);
        }
    }

    fn take(&self) -> Vec<Visitor<Outbox>> {
        let mut outboxes = self.outboxes.lock();
        self.alarm.lower();
        std::mem::take(&mut outboxes)
    }

    fn watch_again(&self, busy: Vec<Visitor<Outbox>>) {
        if !busy.is_empty() {
            let mut outboxes = self.outboxes.lock();
            outboxes.extend(busy);
            self.alarm.set(AGAIN);
        }
    }
}

impl Shared {
    /// Sends what lies in the outboxes. Each is one whose chunk was begun about `DELAY` ago, or
    /// later; a chunk that is sent early costs no more than its frame.
    pub(super) fn send_overdue(&self) {
        let mut busy = Vec::new();
        for outbox in self.overdue.take() {
            match outbox.visit(Outbox::take_overdue) {
                // Submitted when the visit is over: that may run a waker, which is the user's code.
                Visit::Done(Some(chunk)) => self.submit_chunk(chunk),
                Visit::Done(None) | Visit::Gone => {}
                Visit::Busy => busy.push(outbox),
            }
        }
        self.overdue.watch_again(busy);
    }
}
