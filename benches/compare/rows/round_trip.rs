//! Round trip: `apply` of a no-op, against a blocking ping-pong through pipes between two cores.

use std::time::Duration;

use crate::Result;
use crate::child::{ECHO, Helper};
use crate::machine::{Pinned, two_cores};
use crate::plan::Plan;
use crate::report::{Bar, Report, Row, Unit};
use crate::samples::median_call;
use crate::work::{WORKERS, noop, pool};

pub(crate) const IDLE: [&str; 1] = ["round trip: idle machine"];
pub(crate) const BUSY: [&str; 1] = ["round trip: with two busy processes"];

/// Each round reports the median of its calls: one sample of the p50.
const ROUNDS: usize = 11;
/// With busy processes a call may take milliseconds.
const BUDGET: Duration = Duration::from_millis(400);

pub(crate) fn idle(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    compare(plan, report, IDLE[0], Bar::RatioAtMost(0.25))
}

pub(crate) fn busy(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let _busy = (0..WORKERS)
        .map(|_| Helper::spinning())
        .collect::<Result<Vec<_>>>()?;
    compare(plan, report, BUSY[0], Bar::RatioAtMost(1.5))
}

fn compare(plan: &Plan, report: &mut Report<'_>, name: &str, bar: Bar) -> Result<()> {
    let calls = plan.size(3000, 50);
    let pool = pool()?;
    let (here, there) = two_cores()?;
    let mut echo = Helper::start(ECHO, there)?;
    let mut round_trip = || median_call(calls, BUDGET, || Ok(pool.apply(noop, ())?));
    let mut ping_pong = || {
        let _pinned = Pinned::to(here)?;
        median_call(calls, BUDGET, || echo.ping())
    };
    let [ours, theirs] = plan.interleave(ROUNDS, [&mut round_trip, &mut ping_pong])?;
    let theirs = Some(("ping-pong", &theirs));
    report.row(&Row {
        name,
        unit: Unit::Seconds,
        ours: &ours,
        theirs,
        bar,
    });
    Ok(())
}
