//! One long task in front of many short ones, against bare threads that take the same tasks in
//! order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use procpool::ProcessPoolExecutor;

use crate::Result;
use crate::plan::Plan;
use crate::report::{Bar, Report, Row, Unit};
use crate::samples::timed;
use crate::work::{WORKERS, pool, spin, spin_steps};

pub(crate) const NAMES: [&str; 2] = [
    "uneven: 1 s, then 1000 x 1 ms, submit",
    "uneven: 1 s, then 1000 x 1 ms, map",
];

pub(crate) fn run(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let short = spin_steps(Duration::from_millis(1));
    let count = plan.size(1000, 10);
    let mut tasks = vec![short; 1 + count];
    tasks[0] = short * count as u64;
    let pool = pool()?;
    let mut submit = || Ok(timed(|| by_submit(&pool, &tasks))?.0);
    let mut map = || Ok(timed(|| Ok(pool.map(spin, tasks.iter().copied())?))?.0);
    let mut threads = || Ok(timed(|| by_threads(&tasks))?.0);
    let [submit, map, threads] = plan.interleave(7, [&mut submit, &mut map, &mut threads])?;
    for (name, ours) in NAMES.into_iter().zip([&submit, &map]) {
        let (theirs, bar) = (Some(("bare threads", &threads)), Bar::RatioAtMost(1.05));
        report.row(&Row {
            name,
            unit: Unit::Seconds,
            ours,
            theirs,
            bar,
        });
    }
    Ok(())
}

fn by_submit(pool: &ProcessPoolExecutor, tasks: &[u64]) -> Result<Vec<u64>> {
    let futures: Vec<_> = tasks
        .iter()
        .map(|steps| pool.submit(spin, *steps))
        .collect();
    let results = futures.into_iter().map(|it| it.result());
    Ok(results.collect::<procpool::Result<_>>()?)
}

fn by_threads(tasks: &[u64]) -> Result<()> {
    let next = AtomicUsize::new(0);
    let take = || {
        // Relaxed: only the owner of each task is decided here.
        while let Some(steps) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
            spin(*steps);
        }
    };
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(take);
        }
    });
    Ok(())
}
