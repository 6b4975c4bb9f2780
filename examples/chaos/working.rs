//! Runs rounds of tasks and measures their speed.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use procpool::{ProcessPoolExecutor, SharedMemory, TaskFuture};

use crate::tally::Tally;
use crate::tasks::{Kind, LARGE, RETRIES, large, one_millisecond, tiny};
use crate::{LIMIT, ROUND, Result};

/// All slices of one kind together.
#[derive(Default)]
pub(crate) struct Spell {
    pub(crate) tasks: u64,
    pub(crate) lasted: Duration,
    pub(crate) tally: Tally,
}

impl Spell {
    pub(crate) fn work(
        &mut self,
        pool: &ProcessPoolExecutor,
        marks: &SharedMemory,
        time: Duration,
    ) -> Result<()> {
        let started = Instant::now();
        while started.elapsed() < time {
            let first = self.tasks;
            let outcomes = round(pool, first);
            self.tally.add(first, &outcomes, marks)?;
            self.tasks += ROUND;
        }
        self.lasted += started.elapsed();
        Ok(())
    }

    pub(crate) fn rate(&self) -> f64 {
        self.tasks as f64 / self.lasted.as_secs_f64()
    }
}

pub(crate) type Outcome = procpool::Result<u64>;

/// Runs the tasks from `first` on. Returns the outcomes of each task, of which there should be one.
fn round(pool: &ProcessPoolExecutor, first: u64) -> Vec<Vec<Outcome>> {
    let mut outcomes = vec![Vec::new(); ROUND as usize];
    let (items, calls): (Vec<u64>, Vec<u64>) =
        (first..first + ROUND).partition(|n| Kind::of(*n) == Kind::Item);
    let (tell, told) = mpsc::channel();
    let futures: Vec<_> = calls
        .iter()
        .filter_map(|n| submit(pool, *n, &tell))
        .collect();
    // Each pending callback has a copy of the sender: the loop ends when all were called or
    // dropped.
    drop(tell);
    let results = pool.map_results(tiny, items.clone());
    let awaited = futures
        .into_iter()
        .map(|(n, mut it)| (n, it.result_timeout(LIMIT)));
    for (n, outcome) in items.into_iter().zip(results).chain(awaited).chain(told) {
        outcomes[(n - first) as usize].push(outcome);
    }
    outcomes
}

/// Submits one task. Returns its future, or `None` if a callback gets the outcome.
fn submit(
    pool: &ProcessPoolExecutor,
    n: u64,
    tell: &mpsc::Sender<(u64, Outcome)>,
) -> Option<(u64, TaskFuture<u64>)> {
    let future = match Kind::of(n) {
        Kind::Tiny | Kind::Item => pool.submit(tiny, n),
        Kind::Millisecond => pool.submit(one_millisecond, n),
        Kind::Large => pool.submit(large, (n, vec![(n % 251) as u8; LARGE])),
        Kind::Retried => pool.options().retries(RETRIES).submit(one_millisecond, n),
        Kind::Callback => {
            let tell = tell.clone();
            // Fails only if the round is over.
            let call = move |it: &Outcome| drop(tell.send((n, it.clone())));
            drop(pool.apply_async(tiny, n, call));
            return None;
        }
    };
    Some((n, future))
}
