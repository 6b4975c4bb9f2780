//! What supervision promises in milliseconds: replacing, timing out, ending, and leaving nothing;
//! compared with the bare wake-up by a killed process's pidfd, or a bare zygote's fork.

use std::fs;
use std::iter;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use procpool::{Error, ErrorKind, ProcessPoolExecutor};

use crate::Result;
use crate::child::{BUSY_POOL, Helper, ZYGOTE, tell_owner};
use crate::machine::{descendants, named_pipe, open_pidfd, wait_for_end};
use crate::plan::{Contender, Plan};
use crate::report::{Bar, Report, Row, Unit};
use crate::rows::killed::end_after_kill;
use crate::samples::timed;
use crate::work::{WORKERS, announce_and_spin, noop, pool, spin, tiny};

pub(crate) const REPLACED: [&str; 1] = ["killed worker: replacement's 1st result"];
pub(crate) const TIMED_OUT: [&str; 1] = ["timeout: its error, after it was due"];
pub(crate) const CHUNKED: [&str; 1] = ["timeout: the same, last of a long chunk"];
pub(crate) const JOINED: [&str; 1] = ["idle pool: join"];
pub(crate) const ORPHANED: [&str; 1] = ["killed program: all of its pool gone"];

/// From the error of the task whose worker was killed to the first result of the worker that
/// follows it.
pub(crate) fn replaced(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let pool = ProcessPoolExecutor::builder().workers(1).build()?;
    let mut zygote = Helper::start(ZYGOTE, 0)?;
    let mut ours = || result_after_death(&pool);
    let mut theirs = || Ok(timed(|| zygote.ping())?.0);
    let contenders: [Contender<'_>; 2] = [&mut ours, &mut theirs];
    beside(plan, report, REPLACED[0], 2e-3, "bare zygote", contenders)
}

/// From the end of a task's time to its error. Its worker has been killed in between, and is gone.
pub(crate) fn timed_out(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    against_wake_up(plan, report, TIMED_OUT[0], 0)
}

/// The same for an item that follows many tiny ones, none of which looks at the clock.
pub(crate) fn chunked(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    against_wake_up(plan, report, CHUNKED[0], 1000)
}

fn against_wake_up(plan: &Plan, report: &mut Report<'_>, name: &str, before: usize) -> Result<()> {
    let pool = pool()?;
    let limit = plan.size(Duration::from_millis(50), Duration::from_millis(5));
    let mut ours = || lateness(&pool, limit, before);
    let contenders: [Contender<'_>; 2] = [&mut ours, &mut end_after_kill];
    beside(plan, report, name, 5e-3, "bare wake-up", contenders)
}

pub(crate) fn joined(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    // Programs that end have a server to end; pools do not.
    let _keeps_the_server = pool()?;
    let contenders: [Contender<'_>; 2] = [&mut end_of_idle_pool, &mut end_after_kill];
    beside(plan, report, JOINED[0], 5e-3, "bare wake-up", contenders)
}

/// From the SIGKILL of a program to the end of its fork server and its workers, each of which is
/// busy forever.
pub(crate) fn orphaned(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let contenders: [Contender<'_>; 2] = [&mut end_of_busy_pool, &mut end_after_kill];
    beside(plan, report, ORPHANED[0], 1.0, "bare wake-up", contenders)
}

fn beside(
    plan: &Plan,
    report: &mut Report<'_>,
    name: &str,
    most: f64,
    who: &str,
    contenders: [Contender<'_>; 2],
) -> Result<()> {
    let [ours, theirs] = plan.interleave(40, contenders)?;
    report.row(&Row {
        name,
        unit: Unit::Seconds,
        ours: &ours,
        theirs: Some((who, &theirs)),
        bar: Bar::AtMost(most),
    });
    Ok(())
}

fn result_after_death(pool: &ProcessPoolExecutor) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let started = named_pipe(folder.path(), "started")?;
    let future = pool.submit(announce_and_spin, started.clone());
    kill_now(fs::read_to_string(started)?.parse()?)?;
    expect(ErrorKind::WorkerDied, future.result())?;
    Ok(timed(|| Ok(pool.apply(noop, ())?))?.0)
}

/// Seconds from the end of its time to the error of an item that is the last of a chunk.
fn lateness(pool: &ProcessPoolExecutor, limit: Duration, before: usize) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let started = named_pipe(folder.path(), "started")?;
    let items = iter::repeat_n(None, before).chain([Some(started.clone())]);
    let limited = pool.options().timeout(limit).chunk_size(before + 1);
    let future = limited.map_async(tell_time_and_spin, items);
    let due = Duration::from_nanos(fs::read_to_string(started)?.parse()?) + limit;
    expect(ErrorKind::TimedOut, future.result().map(drop))?;
    let late = now().saturating_sub(due);
    // The replacement's start would disturb the next contender.
    pool.map(tiny, 0..1000)?;
    Ok(late.as_secs_f64())
}

/// Tells when it has started, and then keeps its core busy forever, if it is to tell.
fn tell_time_and_spin(started: Option<PathBuf>) {
    let Some(started) = started else { return };
    fs::write(started, now().as_nanos().to_string()).expect("the measuring process reads it");
    loop {
        spin(1_000_000);
    }
}

/// On the clock that all processes share.
fn now() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    now.expect("every Linux has this clock").into()
}

fn end_of_idle_pool() -> Result<f64> {
    let pool = pool()?;
    pool.map(tiny, 0..1000)?;
    Ok(timed(|| Ok(pool.join()?))?.0)
}

fn end_of_busy_pool() -> Result<f64> {
    let mut owner = Helper::start(BUSY_POOL, 0)?;
    owner.read_byte()?;
    let processes = descendants(owner.pid())?.into_iter().map(open_pidfd);
    let processes = processes.collect::<Result<Vec<_>>>()?;
    if processes.len() != WORKERS + 1 {
        return Err(format!(
            "{} processes for a fork server and its workers",
            processes.len()
        )
        .into());
    }
    let wait = || processes.iter().try_for_each(wait_for_end);
    Ok(timed(|| kill_now(owner.pid()).and_then(|()| wait()))?.0)
}

/// In a helper process: a pool with tasks without end, and one byte when they run.
pub(crate) fn keep_pool_busy() -> Result<()> {
    let pool = pool()?;
    let forever = |()| loop {
        spin(1_000_000);
    };
    let futures: Vec<_> = (0..WORKERS)
        .map(|_| pool.submit::<_, ()>(forever, ()))
        .collect();
    while !futures.iter().all(|it| it.is_running()) {
        thread::yield_now();
    }
    tell_owner()?;
    loop {
        thread::park();
    }
}

fn kill_now(pid: u32) -> Result<()> {
    Ok(kill(Pid::from_raw(pid.try_into()?), Signal::SIGKILL)?)
}

fn expect(kind: ErrorKind, outcome: std::result::Result<(), Error>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() == kind => Ok(()),
        other => Err(format!("not {kind:?}, but {other:?}").into()),
    }
}
