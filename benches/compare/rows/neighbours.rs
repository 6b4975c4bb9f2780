//! Round trips on a machine with busy processes: `apply` and a `Connection`, against an echo
//! through pipes to a blocking child.
//!
//! The kernel wakes a process that blocks in `read` at once, even on a machine with more runnable
//! processes than cores. A process that spins with `sched_yield` instead gives a whole time slice
//! to each neighbour, so each row compares means: a median would hide those slices.
//!
//! The ratio of one run varies by a factor of five: the kernel chooses on which core a process
//! wakes, and there it waits for the end of a busy one's slice, however it waited before. Compare
//! the medians of ten runs.

use std::time::Duration;

use procpool::{Connection, Process, pipe};

use crate::Result;
use crate::child::{BLOCKING_ECHO, Helper};
use crate::plan::Plan;
use crate::report::{Bar, Report, Row, Unit};
use crate::samples::mean_call;
use crate::work::{noop, pool};

pub(crate) const NONE: [&str; 2] = [
    "neighbours: apply, idle machine",
    "neighbours: Connection, idle machine",
];
pub(crate) const ONE: [&str; 2] = [
    "neighbours: apply with 1 busy process",
    "neighbours: Connection with 1 busy process",
];
pub(crate) const TWO: [&str; 2] = [
    "neighbours: apply with 2 busy processes",
    "neighbours: Connection with 2 busy processes",
];
pub(crate) const FOUR: [&str; 2] = [
    "neighbours: apply with 4 busy processes",
    "neighbours: Connection with 4 busy processes",
];

const ROUNDS: usize = 9;
/// One round of one contender.
const BUDGET: Duration = Duration::from_millis(300);

pub(crate) fn none(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    compare(plan, report, NONE, 0)
}

pub(crate) fn one(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    compare(plan, report, ONE, 1)
}

pub(crate) fn two(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    compare(plan, report, TWO, 2)
}

pub(crate) fn four(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    compare(plan, report, FOUR, 4)
}

fn compare(plan: &Plan, report: &mut Report<'_>, names: [&str; 2], busy: usize) -> Result<()> {
    let _busy = (0..busy)
        .map(|_| Helper::spinning())
        .collect::<Result<Vec<_>>>()?;
    let calls = plan.size(20_000, 50);
    let pool = pool()?;
    let (here, there) = pipe::<u8, u8>()?;
    let child = Process::start(echo, there)?;
    let mut blocking = Helper::start(BLOCKING_ECHO, 0)?;
    let mut apply = || mean_call(calls, BUDGET, || Ok(pool.apply(noop, ())?));
    let mut connection = || {
        mean_call(calls, BUDGET, || {
            here.send(&1)?;
            here.recv()?;
            Ok(())
        })
    };
    let mut theirs = || mean_call(calls, BUDGET, || blocking.ping());
    let contenders: [&mut dyn FnMut() -> Result<f64>; 3] =
        [&mut apply, &mut connection, &mut theirs];
    let [apply, connection, theirs] = plan.interleave(ROUNDS, contenders)?;
    for (name, ours) in names.into_iter().zip([&apply, &connection]) {
        report.row(&Row {
            name,
            unit: Unit::Seconds,
            ours,
            theirs: Some(("blocking echo", &theirs)),
            bar: Bar::RatioAtMost(2.0),
        });
    }
    here.close();
    child.result()?;
    Ok(())
}

/// Sends every byte back until the other end is closed.
fn echo(connection: Connection<u8, u8>) {
    while let Ok(byte) = connection.recv() {
        if connection.send(&byte).is_err() {
            return;
        }
    }
}
