//! What waits for a worker: the most urgent first, and among equals whatever came first.

use crate::pool::unit::Unit;
use std::{collections::VecDeque, mem};

/// Units in the order in which they are to start.
///
/// Where all are equally urgent, which is the rule, both ends are reached at once; another place is found by bisection. A call that
/// was cancelled stays where it is, until it would be its turn or half of the queue is of its kind: who cancels many of them does not
/// look through all others for each.
#[derive(Debug, Default)]
pub(super) struct Queue {
    units: VecDeque<Unit>,
    /// Calls among them that are done.
    cancelled: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.units.len() - self.cancelled
    }

    /// Puts a unit behind all that are as urgent.
    pub(super) fn push_back(&mut self, unit: Unit) {
        let priority = unit.priority();
        match self.units.back() {
            Some(last) if last.priority() < priority => {
                let at = self.units.partition_point(|it| it.priority() >= priority);
                self.units.insert(at, unit);
            }
            _ => self.units.push_back(unit),
        }
    }

    /// Puts a unit before all that are as urgent.
    pub(super) fn push_front(&mut self, unit: Unit) {
        let priority = unit.priority();
        let at = self.units.partition_point(|it| it.priority() > priority);
        self.units.insert(at, unit);
    }

    pub(super) fn pop_front(&mut self) -> Option<Unit> {
        loop {
            let unit = self.units.pop_front()?;
            if is_done(&unit) {
                self.cancelled -= 1;
                continue;
            }
            if self.is_empty() {
                // What is left was cancelled, and nobody would come to see that.
                *self = Self::default();
            }
            return Some(unit);
        }
    }

    /// A call in here was cancelled.
    pub(super) fn forget_one(&mut self) {
        self.cancelled += 1;
        if self.cancelled * 2 > self.units.len() {
            self.units.retain(|it| !is_done(it));
            self.cancelled = 0;
        }
    }

    /// Takes all of them.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Unit> + use<> {
        let units = mem::take(self).units;
        units.into_iter().filter(|it| !is_done(it))
    }
}

fn is_done(unit: &Unit) -> bool {
    matches!(unit, Unit::Call(task) if task.is_done())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{
        demands::Demands,
        dispatcher::cancelled,
        payload::Payload,
        task::{Task, Told},
    };
    use crate::process::function::Function;
    use std::sync::Arc;

    fn unit(priority: i32) -> Unit {
        let function = Function::unary(|x: u8| x).expect("a function of this program");
        let demands = Demands {
            priority,
            ..Demands::default()
        };
        Unit::Call(Arc::new(Task::call(function, Payload::EMPTY, demands)))
    }

    fn id(unit: &Unit) -> u64 {
        match unit {
            Unit::Call(task) => task.id,
            Unit::Items(_) => unreachable!("only calls are queued here"),
        }
    }

    #[test]
    fn the_most_urgent_come_first_and_equals_in_their_order() {
        let mut queue = Queue::default();
        let units = [0, 5, -1, 0, 5, 2].map(unit);
        let ids: Vec<u64> = units.iter().map(id).collect();
        units.into_iter().for_each(|it| queue.push_back(it));
        let order: Vec<u64> = queue.take().map(|it| id(&it)).collect();
        assert_eq!(order, [1, 4, 5, 0, 3, 2].map(|it| ids[it]));
    }

    #[test]
    fn what_was_cancelled_is_skipped_and_forgotten() {
        let mut queue = Queue::default();
        (0..10).for_each(|_| queue.push_back(unit(0)));
        let call = |it: &Unit| match it {
            Unit::Call(task) => Arc::clone(task),
            Unit::Items(_) => unreachable!("only calls are queued here"),
        };
        let calls: Vec<_> = queue.units.iter().map(call).collect();
        let mut told = Told::default();
        for (number, call) in calls.iter().enumerate().take(9) {
            call.complete(Err(cancelled()), &mut told);
            queue.forget_one();
            assert_eq!(queue.len(), 9 - number);
            assert!(queue.units.len() <= 2 * queue.len() + 1);
        }
        assert_eq!(queue.pop_front().map(|it| id(&it)), Some(calls[9].id));
        assert!(queue.is_empty() && queue.pop_front().is_none());
    }

    #[test]
    fn what_is_put_back_stands_before_its_equals_alone() {
        let mut queue = Queue::default();
        [5, 0, -1]
            .map(unit)
            .into_iter()
            .for_each(|it| queue.push_back(it));
        let again = unit(0);
        let expected = id(&again);
        queue.push_front(again);
        queue.pop_front();
        assert_eq!(queue.pop_front().map(|it| id(&it)), Some(expected));
        assert_eq!(queue.len(), 2);
    }
}
