//! The queue of work items: ordered by priority, then by submission.

use crate::pool::task::work_item::WorkItem;
use std::{collections::VecDeque, mem};

/// Work items in the order of their start.
///
/// If all have the same priority, which is common, pushing takes constant time; otherwise the
/// position is found by bisection. A cancelled call stays in the queue until its turn, or until
/// half of the queue is cancelled: so cancelling many calls does not scan the queue for each.
#[derive(Debug, Default)]
pub(crate) struct PriorityQueue {
    work_items: VecDeque<WorkItem>,
    /// The number of calls in `work_items` that are done.
    cancelled: usize,
}

impl PriorityQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.work_items.len() - self.cancelled
    }

    /// Inserts a work item after all items of the same priority.
    pub(crate) fn push_back(&mut self, work_item: WorkItem) {
        let priority = work_item.priority();
        match self.work_items.back() {
            Some(last) if last.priority() < priority => {
                let at = self
                    .work_items
                    .partition_point(|queued| queued.priority() >= priority);
                self.work_items.insert(at, work_item);
            }
            _ => self.work_items.push_back(work_item),
        }
    }

    /// Inserts a work item before all items of the same priority.
    pub(crate) fn push_front(&mut self, work_item: WorkItem) {
        let priority = work_item.priority();
        let at = self
            .work_items
            .partition_point(|queued| queued.priority() > priority);
        self.work_items.insert(at, work_item);
    }

    pub(crate) fn pop_front(&mut self) -> Option<WorkItem> {
        loop {
            let work_item = self.work_items.pop_front()?;
            if is_done(&work_item) {
                self.cancelled -= 1;
                continue;
            }
            if self.is_empty() {
                // All others were cancelled: `pop_front` is not called for an empty queue, so that
                // they would keep their memory.
                *self = Self::default();
            }
            return Some(work_item);
        }
    }

    /// Counts a queued call as cancelled. Removes all cancelled calls once they are the majority.
    pub(crate) fn forget_one(&mut self) {
        self.cancelled += 1;
        if self.cancelled * 2 > self.work_items.len() {
            self.work_items.retain(|work_item| !is_done(work_item));
            self.cancelled = 0;
        }
    }

    /// Returns those that are not cancelled.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &WorkItem> {
        self.work_items.iter().filter(|it| !is_done(it))
    }

    /// Takes all work items that are not done.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = WorkItem> + use<> {
        let work_items = mem::take(self).work_items;
        work_items
            .into_iter()
            .filter(|work_item| !is_done(work_item))
    }
}

fn is_done(work_item: &WorkItem) -> bool {
    matches!(work_item, WorkItem::Call(task) if task.is_done())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{
        scheduler::err_cancelled,
        task::{Task, Wakeups, config::TaskConfig, encoded::Encoded},
    };
    use crate::process::function::WireFunction;
    use std::sync::Arc;

    fn work_item(priority: i32) -> WorkItem {
        let function = WireFunction::unary(|x: u8| x).expect("a function of this program");
        let config = TaskConfig {
            priority,
            ..TaskConfig::default()
        };
        WorkItem::Call(Arc::new(Task::call(function, Encoded::EMPTY, config)))
    }

    fn id(work_item: &WorkItem) -> u64 {
        match work_item {
            WorkItem::Call(task) => task.id,
            WorkItem::Slice(_) => unreachable!("only calls are queued here"),
        }
    }

    #[test]
    fn the_most_urgent_come_first_and_equals_in_their_order() {
        let mut queue = PriorityQueue::default();
        let work_items = [0, 5, -1, 0, 5, 2].map(work_item);
        let ids: Vec<u64> = work_items.iter().map(id).collect();
        work_items.into_iter().for_each(|it| queue.push_back(it));
        let order: Vec<u64> = queue.take().map(|it| id(&it)).collect();
        assert_eq!(order, [1, 4, 5, 0, 3, 2].map(|index| ids[index]));
    }

    #[test]
    fn what_was_cancelled_is_skipped_and_forgotten() {
        let mut queue = PriorityQueue::default();
        (0..10).for_each(|_| queue.push_back(work_item(0)));
        let call = |it: &WorkItem| match it {
            WorkItem::Call(task) => Arc::clone(task),
            WorkItem::Slice(_) => unreachable!("only calls are queued here"),
        };
        let calls: Vec<_> = queue.work_items.iter().map(call).collect();
        let mut wakeups = Wakeups::default();
        for (number, call) in calls.iter().enumerate().take(9) {
            call.complete(Err(err_cancelled()), &mut wakeups);
            queue.forget_one();
            assert_eq!(queue.len(), 9 - number);
            assert!(queue.work_items.len() <= 2 * queue.len() + 1);
        }
        assert_eq!(queue.pop_front().map(|it| id(&it)), Some(calls[9].id));
        assert!(queue.is_empty() && queue.pop_front().is_none());
    }

    #[test]
    fn what_is_put_back_stands_before_its_equals_alone() {
        let mut queue = PriorityQueue::default();
        [5, 0, -1]
            .map(work_item)
            .into_iter()
            .for_each(|it| queue.push_back(it));
        let again = work_item(0);
        let expected = id(&again);
        queue.push_front(again);
        queue.pop_front();
        assert_eq!(queue.pop_front().map(|it| id(&it)), Some(expected));
        assert_eq!(queue.len(), 2);
    }
}
