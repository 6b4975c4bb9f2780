//! Start: from no pool to its first result, against one re-execution of this program to its first
//! byte.

use std::hint::black_box;
use std::io::Read;
use std::process::Stdio;

use crate::Result;
use crate::child::{COLD_START, FIRST_BYTE, RE_EXECUTION, command, output};
use crate::plan::Plan;
use crate::report::{Bar, Report, Row, Unit};
use crate::samples::{Samples, timed};
use crate::work::{noop, pool};

pub(crate) const COLD: [&str; 1] = ["start: pool + first result"];
pub(crate) const TOUCHED: [&str; 1] = ["start: the same, 1 GiB touched"];
pub(crate) const WARM: [&str; 1] = ["start: next pool, fork server warm"];

/// Re-executions of which a helper process takes the median.
const RE_EXECUTIONS: usize = 5;

pub(crate) fn cold(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    cold_rows(plan, report, COLD[0], 21, 0)
}

pub(crate) fn touched(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    cold_rows(plan, report, TOUCHED[0], 9, plan.size(1024, 16))
}

/// The fork server starts with a program's first pool, so that each cold start needs a program of
/// its own. So does the re-execution: after a pool it would compete with that pool's end, before
/// one it would warm things up for it.
fn cold_rows(
    plan: &Plan,
    report: &mut Report<'_>,
    name: &str,
    rounds: usize,
    mib: usize,
) -> Result<()> {
    let mut cold_start = || Ok(output(COLD_START, mib)?.trim().parse()?);
    let mut re_execution = || Ok(output(RE_EXECUTION, mib)?.trim().parse()?);
    let [ours, theirs] = plan.interleave(rounds, [&mut cold_start, &mut re_execution])?;
    report.row(&row(name, &ours, &theirs, Bar::RatioAtMost(3.0)));
    Ok(())
}

/// In a helper process: prints the seconds of its first pool, after touching `mib` MiB.
pub(crate) fn print_cold_start(mib: usize) -> Result<()> {
    let touched = vec![1_u8; mib << 20];
    let seconds = first_result()?;
    black_box(&touched);
    println!("{seconds}");
    Ok(())
}

/// In a helper process: prints the median seconds of re-executions, after touching `mib` MiB.
pub(crate) fn print_re_execution(mib: usize) -> Result<()> {
    let touched = vec![1_u8; mib << 20];
    let seconds: Samples = (0..RE_EXECUTIONS)
        .map(|_| first_byte())
        .collect::<Result<_>>()?;
    black_box(&touched);
    println!("{}", seconds.median());
    Ok(())
}

pub(crate) fn warm(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let _keeps_the_server = pool()?;
    let [ours, theirs] = plan.interleave(30, [&mut first_result, &mut first_byte])?;
    report.row(&row(WARM[0], &ours, &theirs, Bar::None));
    Ok(())
}

/// Seconds; the pool's end is not timed, but waited for, as it would disturb the next row.
fn first_result() -> Result<f64> {
    let (seconds, pool) = timed(|| {
        let pool = pool()?;
        pool.apply(noop, ())?;
        Ok(pool)
    })?;
    pool.join()?;
    Ok(seconds)
}

/// Seconds; the program's end is not timed.
pub(crate) fn first_byte() -> Result<f64> {
    let (seconds, mut process) = timed(|| {
        let mut process = command(FIRST_BYTE, 0).stdout(Stdio::piped()).spawn()?;
        process
            .stdout
            .as_mut()
            .ok_or("stdout is piped")?
            .read_exact(&mut [0])?;
        Ok(process)
    })?;
    process.wait()?;
    Ok(seconds)
}

fn row<'a>(name: &'a str, ours: &'a Samples, theirs: &'a Samples, bar: Bar) -> Row<'a> {
    Row {
        name,
        unit: Unit::Seconds,
        ours,
        theirs: Some(("re-execution", theirs)),
        bar,
    }
}
