//! What waits for a worker: the most urgent first, and among equals whatever came first.

use crate::pool::unit::Unit;
use std::{
    collections::{VecDeque, vec_deque},
    mem,
};

/// Units in the order in which they are to start.
///
/// Where all are equally urgent, which is the rule, both ends are reached at once; another place is found by bisection.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<Unit>);

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Puts a unit behind all that are as urgent.
    pub(super) fn push_back(&mut self, unit: Unit) {
        let priority = unit.priority();
        match self.0.back() {
            Some(last) if last.priority() < priority => {
                let at = self.0.partition_point(|it| it.priority() >= priority);
                self.0.insert(at, unit);
            }
            _ => self.0.push_back(unit),
        }
    }

    /// Puts a unit before all that are as urgent.
    pub(super) fn push_front(&mut self, unit: Unit) {
        let priority = unit.priority();
        let at = self.0.partition_point(|it| it.priority() > priority);
        self.0.insert(at, unit);
    }

    pub(super) fn pop_front(&mut self) -> Option<Unit> {
        self.0.pop_front()
    }

    pub(super) fn retain(&mut self, keep: impl FnMut(&Unit) -> bool) {
        self.0.retain(keep);
    }

    /// Takes all of them.
    pub(super) fn take(&mut self) -> vec_deque::IntoIter<Unit> {
        mem::take(&mut self.0).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{demands::Demands, payload::Payload, task::Task};
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
