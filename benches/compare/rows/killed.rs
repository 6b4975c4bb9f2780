//! A busy worker or process is killed: until its future fails or its sentinel is readable, against
//! a bare wait on a killed process's pidfd.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procpool::{ErrorKind, Process, ProcessPoolExecutor, wait_ready};

use crate::Result;
use crate::child::Helper;
use crate::machine::{named_pipe, open_pidfd, wait_for_end};
use crate::plan::Plan;
use crate::report::{Bar, Report, Row, Unit};
use crate::work::{WORKERS, announce_and_spin, pool, tiny};

pub(crate) const NAMES: [&str; 2] = [
    "killed worker: its error, pidfd",
    "killed worker: its error",
];

pub(crate) const SENTINEL: [&str; 2] = [
    "killed process: its sentinel, pidfd",
    "killed process: its sentinel",
];

pub(crate) fn run(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let pool = pool()?;
    let [ours, theirs] =
        plan.interleave(40, [&mut || error_after_kill(&pool), &mut end_after_kill])?;
    let unit = Unit::Seconds;
    let theirs = Some(("bare wake-up", &theirs));
    let bar = Bar::RatioAtMost(10.0);
    report.row(&Row {
        name: NAMES[0],
        unit,
        ours: &ours,
        theirs,
        bar,
    });
    let bar = Bar::AtMost(1e-3);
    report.row(&Row {
        name: NAMES[1],
        unit,
        ours: &ours,
        theirs: None,
        bar,
    });
    Ok(())
}

pub(crate) fn sentinel(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let [ours, theirs] = plan.interleave(40, [&mut sentinel_after_kill, &mut end_after_kill])?;
    let rows = [
        (SENTINEL[0], Some(("bare wake-up", &theirs)), Bar::None),
        (SENTINEL[1], None, Bar::AtMost(5e-3)),
    ];
    for (name, theirs, bar) in rows {
        report.row(&Row {
            name,
            unit: Unit::Seconds,
            ours: &ours,
            theirs,
            bar,
        });
    }
    Ok(())
}

/// Seconds from the kill to the sentinel's readiness.
fn sentinel_after_kill() -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let started = named_pipe(folder.path(), "started")?;
    let process = Process::start(announce_and_spin, started.clone())?;
    fs::read_to_string(started)?;
    let before = Instant::now();
    process.kill()?;
    wait_ready(&[&process.sentinel()], None)?;
    let seconds = before.elapsed().as_secs_f64();
    process.join()?;
    Ok(seconds)
}

/// Far more than a fork takes; a pool that is not whole by then has a fault.
const REPLACEMENT: Duration = Duration::from_secs(10);

/// Seconds from the kill to the error.
fn error_after_kill(pool: &ProcessPoolExecutor) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let started = named_pipe(folder.path(), "started")?;
    let future = pool.submit(announce_and_spin, started.clone());
    let pid = fs::read_to_string(started)?.parse()?;
    let before = Instant::now();
    kill(Pid::from_raw(pid), Signal::SIGKILL)?;
    let outcome = future.result();
    let seconds = before.elapsed().as_secs_f64();
    match outcome {
        Err(error) if error.kind() == ErrorKind::WorkerDied => {}
        other => return Err(format!("the killed task gave {other:?}").into()),
    }
    await_replacement(pool)?;
    Ok(seconds)
}

/// The replacement's start would disturb the next contender.
fn await_replacement(pool: &ProcessPoolExecutor) -> Result<()> {
    let deadline = Instant::now() + REPLACEMENT;
    while pool.worker_pids().len() < WORKERS {
        if Instant::now() > deadline {
            return Err("the killed worker was not replaced".into());
        }
        thread::yield_now();
    }
    pool.map(tiny, 0..1000)?;
    Ok(())
}

/// Seconds from the kill to the pidfd's wake-up.
pub(crate) fn end_after_kill() -> Result<f64> {
    let helper = Helper::spinning()?;
    let pidfd = open_pidfd(helper.pid())?;
    let before = Instant::now();
    kill(Pid::from_raw(helper.pid().try_into()?), Signal::SIGKILL)?;
    wait_for_end(&pidfd)?;
    Ok(before.elapsed().as_secs_f64())
}
