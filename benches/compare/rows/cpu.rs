//! CPU-bound tasks of equal length, against rayon on as many threads.

use std::iter::repeat_n;
use std::time::Duration;

use procpool::ProcessPoolExecutor;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::Result;
use crate::plan::Plan;
use crate::report::{Bar, Report, Row, Unit};
use crate::samples::timed;
use crate::work::{pool, rayon_pool, spin, spin_steps};

pub(crate) const SHORT: [&str; 2] = ["cpu: 10k x 100 us, submit", "cpu: 10k x 100 us, map"];
pub(crate) const LONG: [&str; 2] = ["cpu: 2k x 1 ms, submit", "cpu: 2k x 1 ms, map"];

pub(crate) fn short(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let count = plan.size(10_000, 50);
    compare(plan, report, SHORT, count, Duration::from_micros(100), 1.10)
}

pub(crate) fn long(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let count = plan.size(2000, 10);
    compare(plan, report, LONG, count, Duration::from_millis(1), 1.03)
}

fn compare(
    plan: &Plan,
    report: &mut Report<'_>,
    names: [&str; 2],
    count: usize,
    length: Duration,
    most: f64,
) -> Result<()> {
    let steps = spin_steps(length);
    let (pool, rayon) = (pool()?, rayon_pool()?);
    let mut submit = || Ok(timed(|| by_submit(&pool, count, steps))?.0);
    let mut map = || Ok(timed(|| Ok(pool.map(spin, repeat_n(steps, count))?))?.0);
    let mut threads = || Ok(timed(|| Ok(by_rayon(&rayon, count, steps)))?.0);
    let [submit, map, threads] = plan.interleave(9, [&mut submit, &mut map, &mut threads])?;
    for (name, ours) in names.into_iter().zip([&submit, &map]) {
        let (theirs, bar) = (Some(("rayon", &threads)), Bar::RatioAtMost(most));
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

fn by_submit(pool: &ProcessPoolExecutor, count: usize, steps: u64) -> Result<Vec<u64>> {
    let futures: Vec<_> = (0..count).map(|_| pool.submit(spin, steps)).collect();
    let results = futures.into_iter().map(|it| it.result());
    Ok(results.collect::<procpool::Result<_>>()?)
}

fn by_rayon(pool: &rayon::ThreadPool, count: usize, steps: u64) -> Vec<u64> {
    pool.install(|| (0..count).into_par_iter().map(|_| spin(steps)).collect())
}
