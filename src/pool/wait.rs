//! Waits for several tasks: for the first, for the first failure, for all, or for one after the
//! other.

use crate::error::Result;
use crate::pool::{
    driver::leader::BACKGROUND_FOLLOW_TIMEOUT,
    future::TaskFuture,
    pool::{Pool, park_until},
    task::{Completions, Observer},
    worker_handle::earlier,
};
use crate::wire::Wire;
use std::{
    cell::{Cell, RefCell},
    fmt,
    sync::Arc,
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// The condition on which [`wait`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnWhen {
    /// Returns when one future is done.
    FirstCompleted,
    /// Returns when one future has failed, or all are done.
    FirstError,
    /// Returns when all futures are done.
    AllCompleted,
}

/// The result of [`wait`]: the positions of the futures, each list in ascending order.
#[non_exhaustive]
#[derive(Debug, Clone)]
pub struct Waited {
    /// Positions of futures that are done.
    pub done: Vec<usize>,
    /// Positions of futures that are not done.
    pub not_done: Vec<usize>,
}

/// Waits until `until` holds for the futures, or until `limit` has passed. No limit if it is
/// `None`.
///
/// The futures may belong to several pools. Results stay in the futures.
///
/// ```
/// use procpool::{ReturnWhen, wait};
///
/// let pool = procpool::ProcessPoolExecutor::new()?;
/// let futures = [1, 2, 3].map(|x| pool.submit(|x: u64| x + 1, x));
/// let waited = wait(&futures, ReturnWhen::AllCompleted, None);
/// assert_eq!(waited.done, [0, 1, 2]);
/// # Ok::<(), procpool::Error>(())
/// ```
pub fn wait<'a, R: 'a>(
    futures: impl IntoIterator<Item = &'a TaskFuture<R>>,
    until: ReturnWhen,
    limit: Option<Duration>,
) -> Waited {
    let futures: Vec<&TaskFuture<R>> = futures.into_iter().collect();
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let completions = observe(&futures);
    let is_done = RefCell::new(vec![false; futures.len()]);
    let (left, any_failed) = (Cell::new(futures.len()), Cell::new(false));
    let holds = || {
        while let Some(index) = completions.pop() {
            is_done.borrow_mut()[index] = true;
            left.set(left.get() - 1);
            any_failed.set(any_failed.get() || futures[index].failed());
        }
        left.get() == 0
            || match until {
                ReturnWhen::FirstCompleted => left.get() < futures.len(),
                ReturnWhen::FirstError => any_failed.get(),
                ReturnWhen::AllCompleted => false,
            }
    };
    let pools = pools_of(futures.iter().copied());
    wait_until(&pools, &completions, deadline, &holds);
    for future in &futures {
        future.task.forget_completions(&completions);
    }
    let (done, not_done) = (0..futures.len()).partition(|index| futures[*index].task.is_done());
    Waited { done, not_done }
}

/// Records each future that ends, beginning with the futures that are done already.
fn observe<R>(futures: &[&TaskFuture<R>]) -> Arc<Completions> {
    let completions = Arc::new(Completions::default());
    for (index, future) in futures.iter().enumerate() {
        let observer = Observer::Completions(Arc::clone(&completions), index);
        if future.task.observe(observer).is_some() {
            completions.push(index);
        }
    }
    completions
}

/// Returns the pools of the futures without duplicates.
fn pools_of<'a, R: 'a>(futures: impl Iterator<Item = &'a TaskFuture<R>>) -> Vec<Arc<Pool>> {
    let mut pools: Vec<Arc<Pool>> = Vec::new();
    for future in futures {
        if !pools.iter().any(|pool| Arc::ptr_eq(pool, &future.pool)) {
            pools.push(Arc::clone(&future.pool));
        }
    }
    pools
}

/// Waits until `holds` returns true, or until the deadline. A single pool is driven by this thread;
/// several pools are driven by their background threads.
fn wait_until(
    pools: &[Arc<Pool>],
    completions: &Completions,
    deadline: Option<Instant>,
    holds: &dyn Fn() -> bool,
) {
    if pools.iter().any(|it| it.is_foreign()) {
        // A forked copy of the pool's process receives no results.
        holds();
        return;
    }
    let register = |thread: &Thread| completions.wake(thread);
    // One pool: this thread may lead it. Several: it cannot lead one and hear of the others.
    if let [pool] = pools {
        pool.wait_until(deadline, &register, holds);
        return;
    }
    // A waker may run on the background thread of one of the pools, which no other thread then
    // drives.
    let own = pools.iter().find(|it| it.is_background_thread());
    loop {
        // Before the check: a task that ends after it finds this thread and unparks it.
        register(&thread::current());
        if holds() {
            return;
        }
        let Some(pool) = own else {
            if park_until(deadline) {
                return;
            }
            continue;
        };
        pool.wait_until(
            earlier(deadline, Some(Instant::now() + BACKGROUND_FOLLOW_TIMEOUT)),
            &register,
            holds,
        );
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return;
        }
    }
}

/// Returns an iterator over each future's position and result, in the order in which the tasks end.
///
/// `next` blocks until one of the remaining tasks is done. Dropping the iterator leaves them
/// running.
///
/// ```
/// let pool = procpool::ProcessPoolExecutor::new()?;
/// let futures = (0..4u64).map(|x| pool.submit(|x| x * 10, x));
/// let mut all: Vec<(usize, u64)> = procpool::as_completed(futures)
///     .map(|(index, result)| Ok((index, result?)))
///     .collect::<procpool::Result<_>>()?;
/// all.sort();
/// assert_eq!(all, [(0, 0), (1, 10), (2, 20), (3, 30)]);
/// # Ok::<(), procpool::Error>(())
/// ```
pub fn as_completed<R>(futures: impl IntoIterator<Item = TaskFuture<R>>) -> AsCompleted<R> {
    let futures: Vec<TaskFuture<R>> = futures.into_iter().collect();
    let completions = observe(&futures.iter().collect::<Vec<_>>());
    let (pools, left) = (pools_of(futures.iter()), futures.len());
    AsCompleted {
        futures: futures.into_iter().map(Some).collect(),
        pools,
        completions,
        left,
    }
}

/// The iterator that [`as_completed`] returns.
#[must_use = "iterators are lazy and do nothing unless consumed"]
pub struct AsCompleted<R> {
    futures: Vec<Option<TaskFuture<R>>>,
    pools: Vec<Arc<Pool>>,
    completions: Arc<Completions>,
    left: usize,
}

impl<R: Wire> Iterator for AsCompleted<R> {
    type Item = (usize, Result<R>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let index = self.next_index()?;
        self.left -= 1;
        let mut future = self.futures[index].take()?;
        Some((index, future.take_or_refuse()))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<R> AsCompleted<R> {
    /// Waits for the next future that is done. In a forked copy of the pool's process it returns
    /// the next future without waiting.
    fn next_index(&self) -> Option<usize> {
        loop {
            if let Some(index) = self.completions.pop() {
                return Some(index);
            }
            if self.pools.iter().any(|it| it.is_foreign()) {
                return self.futures.iter().position(Option::is_some);
            }
            wait_until(&self.pools, &self.completions, None, &|| {
                !self.completions.is_empty()
            });
        }
    }
}

impl<R: Wire> ExactSizeIterator for AsCompleted<R> {}

impl<R> fmt::Debug for AsCompleted<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsCompleted")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
