//! Tiny tasks, each submitted by itself and then awaited, against rayon's `spawn` and procspawn's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use procpool::ProcessPoolExecutor;

use crate::Result;
use crate::plan::{Contender, Plan};
use crate::report::{Bar, Report, Row, Unit};
use crate::samples::timed;
use crate::work::{pool, procspawn_pool, rayon_pool, tiny};

pub(crate) const NAMES: [&str; 3] = [
    "submit: 100k tiny tasks, rayon",
    "submit: 100k tiny tasks, rayon outside",
    "submit: 100k tiny tasks, procspawn",
];

/// procspawn holds three descriptors a task until it is joined.
const OUTSTANDING: u64 = 250;

pub(crate) fn run(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let count = plan.size(100_000, 500);
    let few = plan.size(2000, 250);
    let (pool, rayon, procspawn) = (pool()?, rayon_pool()?, procspawn_pool()?);
    let mut by_pool = || rate(count, || by_pool(&pool, count));
    let mut by_scope = || rate(count, || by_rayon_scope(&rayon, count));
    let mut by_spawn = || rate(count, || by_rayon_spawn(&rayon, count));
    let mut by_procspawn = || rate(few, || by_procspawn(&procspawn, few));
    let contenders: [Contender<'_>; 4] = [
        &mut by_pool,
        &mut by_scope,
        &mut by_spawn,
        &mut by_procspawn,
    ];
    let [ours, scope, spawn, procspawn] = plan.interleave(9, contenders)?;
    let peers = [
        ("scope spawn", &scope, Bar::RatioAtLeast(0.5)),
        ("pool spawn", &spawn, Bar::None),
        ("procspawn", &procspawn, Bar::RatioAtLeast(25.0)),
    ];
    for (name, (who, theirs, bar)) in NAMES.into_iter().zip(peers) {
        let theirs = Some((who, theirs));
        report.row(&Row {
            name,
            unit: Unit::PerSecond,
            ours: &ours,
            theirs,
            bar,
        });
    }
    Ok(())
}

/// Tasks a second; what they returned is checked after the clock has stopped.
fn rate(count: u64, work: impl FnOnce() -> Result<Vec<u64>>) -> Result<f64> {
    let (seconds, results) = timed(work)?;
    if !results.iter().copied().eq((0..count).map(tiny)) {
        return Err("a wrong result".into());
    }
    Ok(count as f64 / seconds)
}

fn by_pool(pool: &ProcessPoolExecutor, count: u64) -> Result<Vec<u64>> {
    let futures: Vec<_> = (0..count).map(|n| pool.submit(tiny, n)).collect();
    let results = futures.into_iter().map(|it| it.result());
    Ok(results.collect::<procpool::Result<_>>()?)
}

/// The caller becomes one of rayon's threads: tasks go to its own queue, which is rayon at its
/// best.
fn by_rayon_scope(pool: &rayon::ThreadPool, count: u64) -> Result<Vec<u64>> {
    let mut results = vec![0; count as usize];
    pool.scope(|scope| {
        for (n, result) in (0..count).zip(&mut results) {
            scope.spawn(move |_| *result = tiny(n));
        }
    });
    Ok(results)
}

/// The caller stays outside, as ours does: tasks go through rayon's shared queue.
fn by_rayon_spawn(pool: &rayon::ThreadPool, count: u64) -> Result<Vec<u64>> {
    let results: Arc<[AtomicU64]> = (0..count).map(|_| AtomicU64::new(0)).collect();
    let (all_done, done) = mpsc::channel::<()>();
    for n in 0..count {
        let (results, all_done) = (results.clone(), all_done.clone());
        pool.spawn(move || {
            // Relaxed: the channel's end orders it before the read.
            results[n as usize].store(tiny(n), Ordering::Relaxed);
            drop(all_done);
        });
    }
    drop(all_done);
    done.recv()
        .expect_err("nothing is sent: the last sender's drop ends the wait");
    Ok(results
        .iter()
        .map(|it| it.load(Ordering::Relaxed))
        .collect())
}

fn by_procspawn(pool: &procspawn::Pool, count: u64) -> Result<Vec<u64>> {
    let mut results = Vec::new();
    for first in (0..count).step_by(OUTSTANDING as usize) {
        let slice = first..count.min(first + OUTSTANDING);
        let handles: Vec<_> = slice.map(|n| pool.spawn(n, tiny)).collect();
        for handle in handles {
            results.push(handle.join()?);
        }
    }
    Ok(results)
}
