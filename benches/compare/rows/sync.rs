//! Locks, values and events between processes, a bare robust mutex and a bare futex.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use procpool::{Event, Lock, Process, SharedMemory, Value, Wire};

use crate::Result;
use crate::bare::{self, Bare};
use crate::plan::Plan;
use crate::report::{Bar, Report, Row, Unit};
use crate::samples::Samples;

pub(crate) const NAMES: [&str; 4] = [
    "lock: uncontended",
    "lock: uncontended, with threads",
    "lock: contended by two processes",
    "value: increments",
];

pub(crate) const EVENT: [&str; 1] = ["event: there and back"];

const ROUNDS: usize = 51;

pub(crate) fn run(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    alone(plan, report)?;
    contended(plan, report)
}

/// Seconds that one of many calls takes.
fn each(calls: u32, mut call: impl FnMut()) -> Result<f64> {
    let start = Instant::now();
    (0..calls).for_each(|_| call());
    Ok(start.elapsed().as_secs_f64() / f64::from(calls))
}

fn alone(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let calls = plan.size(20_000, 100);
    let (lock, bare, threads) = (Lock::new()?, Bare::new(), Mutex::new(()));
    let (value, mutex) = (Value::new(0u64)?, bare.mutex());
    let [ours, theirs, between_threads, counted, barely] = plan.interleave(
        ROUNDS,
        [
            &mut || each(calls, || drop(lock.acquire())),
            &mut || {
                each(calls, || {
                    Bare::lock(mutex);
                    Bare::unlock(mutex);
                })
            },
            &mut || each(calls, || drop(threads.lock())),
            &mut || each(calls, || *value.lock().expect("no holder died") += 1),
            &mut || each(calls, || bare.count(1)),
        ],
    )?;
    let mut row = |name, ours: &Samples, other, theirs: &Samples, most| {
        report.row(&Row {
            name,
            unit: Unit::Seconds,
            ours,
            theirs: Some((other, theirs)),
            bar: Bar::RatioAtMost(most),
        });
    };
    row(NAMES[0], &ours, "bare robust mutex", &theirs, 1.15);
    row(NAMES[1], &ours, "parking_lot", &between_threads, 2.2);
    row(NAMES[3], &counted, "bare robust mutex", &barely, 1.3);
    Ok(())
}

/// Turns a second of two processes.
fn beside_another<A: Wire + Clone>(turns: u32, take: fn((A, u32)), shared: &A) -> Result<f64> {
    let process = Process::start(take, (shared.clone(), turns))?;
    let start = Instant::now();
    take((shared.clone(), turns));
    process.result()?;
    let elapsed = start.elapsed().max(Duration::from_nanos(1));
    Ok(2.0 * f64::from(turns) / elapsed.as_secs_f64())
}

fn contended(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let turns = plan.size(500_000, 100);
    let (lock, bare) = (Lock::new()?, Bare::new());
    let ours = |(lock, turns): (Lock, u32)| (0..turns).for_each(|_| drop(lock.acquire()));
    let theirs = |(bare, turns): (Bare, u32)| {
        let mutex = bare.mutex();
        for _ in 0..turns {
            Bare::lock(mutex);
            Bare::unlock(mutex);
        }
    };
    let [ours, theirs] = plan.interleave(
        ROUNDS,
        [&mut || beside_another(turns, ours, &lock), &mut || {
            beside_another(turns, theirs, &bare)
        }],
    )?;
    report.row(&Row {
        name: NAMES[2],
        unit: Unit::PerSecond,
        ours: &ours,
        theirs: Some(("bare robust mutex", &theirs)),
        bar: Bar::RatioAtLeast(0.8),
    });
    Ok(())
}

type Events = (Event, Event);

fn answer(((ping, pong), rounds): (Events, u32)) {
    for _ in 0..rounds {
        ping.wait().expect("a set");
        ping.clear();
        pong.set();
    }
}

fn ask((ping, pong): &Events, rounds: u32) {
    for _ in 0..rounds {
        ping.set();
        pong.wait().expect("a set");
        pong.clear();
    }
}

/// Seconds of each round in which a process is woken that wakes this one. The first round waits
/// until it is there.
fn there_and_back<A: Wire + Clone>(
    rounds: u32,
    answer: fn((A, u32)),
    ask: fn(&A, u32),
    shared: &A,
) -> Result<f64> {
    let process = Process::start(answer, (shared.clone(), rounds + 1))?;
    ask(shared, 1);
    let start = Instant::now();
    ask(shared, rounds);
    let elapsed = start.elapsed();
    process.result()?;
    Ok(elapsed.as_secs_f64() / f64::from(rounds))
}

pub(crate) fn event(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let rounds = plan.size(5000, 50);
    let events = (Event::new()?, Event::new()?);
    let memory = SharedMemory::create(4096)?;
    let [ours, theirs] = plan.interleave(
        ROUNDS,
        [
            &mut || there_and_back(rounds, answer, ask, &events),
            &mut || there_and_back(rounds, bare::answer, bare::ask, &memory),
        ],
    )?;
    report.row(&Row {
        name: EVENT[0],
        unit: Unit::Seconds,
        ours: &ours,
        theirs: Some(("bare futex", &theirs)),
        bar: Bar::RatioAtMost(1.2),
    });
    Ok(())
}
