//! A pool that has nothing to do: memory of its workers, CPU time of everything that belongs to it.

use std::thread;
use std::time::Duration;

use crate::Result;
use crate::machine::{CpuUse, cpu_use, memory};
use crate::plan::Plan;
use crate::report::{Bar, Report, Row, Unit};
use crate::samples::Samples;
use crate::work::{pool, tiny};

pub(crate) const NAMES: [&str; 4] = [
    "idle worker: PSS of the largest",
    "idle pool: CPU ticks in 3 s",
    "idle pool: CPU time in 3 s",
    "idle pool: threads woken in 3 s",
];

pub(crate) fn run(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let pool = pool()?;
    pool.map(tiny, 0..1000)?;
    let used = cpu_use_over(plan.size(Duration::from_secs(3), Duration::from_millis(50)))?;
    // After that: a worker gives memory back once it has been idle for 0.1 s.
    let pids = pool.worker_pids().into_iter();
    let sizes = pids
        .map(|pid| memory(pid, "Pss"))
        .collect::<Result<Vec<_>>>()?;
    let largest = sizes.into_iter().max().ok_or("no workers")? as f64;
    let seconds = used.nanoseconds as f64 / 1e9;
    let [ticks, turns] = [used.ticks, used.turns].map(|it| it as f64);
    let rows = [
        (
            Unit::Bytes,
            Samples::from(largest),
            Bar::AtMost(300.0 * 1024.0),
        ),
        (Unit::Count, ticks.into(), Bar::AtMost(0.0)),
        (Unit::Seconds, seconds.into(), Bar::None),
        (Unit::Count, turns.into(), Bar::None),
    ];
    for (name, (unit, ours, bar)) in NAMES.into_iter().zip(&rows) {
        report.row(&Row {
            name,
            unit: *unit,
            ours,
            theirs: None,
            bar: *bar,
        });
    }
    Ok(())
}

/// What the fork server, the workers and our background threads use within `window`, without
/// calls.
fn cpu_use_over(window: Duration) -> Result<CpuUse> {
    let before = cpu_use()?;
    thread::sleep(window);
    let after = cpu_use()?.into_iter();
    Ok(after.fold(CpuUse::default(), |sum, (thread, used)| {
        sum.plus(used, before.get(&thread).copied().unwrap_or_default())
    }))
}
