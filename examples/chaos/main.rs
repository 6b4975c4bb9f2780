//! A pool works while its workers are killed 50 times a second, and its fork server every two
//! seconds.
//!
//! ```text
//! cargo run --release --example chaos -- --seconds 60         # of killing, with calm in between
//! cargo run --release --example chaos -- --tasks 1000000      # until n tasks have been through it
//! ```
//! Of 100 tasks, 20 are the items of a `map_results`, and the others are submitted one by one: 1
//! takes 1 ms, 1 takes 1 ms and has three retries, 1 has an argument of 100 KiB, 10 go to
//! `apply_async`, and 67 are tiny. Every task leaves a mark in shared memory when it starts. The
//! report says how the tasks ended, how often they started, and what the program held before and
//! after. It ends with claims, and the program fails if one of them does not hold.

mod killing;
mod looking;
mod tally;
mod tasks;
mod telling;
mod working;

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use procpool::{ProcessPoolExecutor, SharedMemory};

use killing::Chaos;
use looking::Holdings;
use working::Spell;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

const WORKERS: usize = 2;
/// Number of tasks whose outcomes are awaited together.
const ROUND: u64 = 2000;
/// A task that takes longer counts as lost.
const LIMIT: Duration = Duration::from_secs(20);
/// Slices alternate, so that other load of the machine falls on both.
const CALM: Duration = Duration::from_millis(250);
const STORM: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let outcome = Goal::from_arguments(env::args().skip(1)).and_then(|goal| run(&goal));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::from(2)
        }
    }
}

/// The amount of work after which the program ends.
struct Goal {
    storm: Duration,
    tasks: u64,
}

impl Goal {
    fn from_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self> {
        let (mut seconds, mut tasks) = (None, None);
        while let Some(flag) = arguments.next() {
            let number = arguments.next().and_then(|it| it.parse().ok());
            match (flag.as_str(), number) {
                ("--seconds", Some(number)) => seconds = Some(number),
                ("--tasks", Some(number)) => tasks = Some(number),
                _ => return Err("usage: chaos [--seconds N] [--tasks N]".into()),
            }
        }
        // A missing option is no limit if the other is there.
        let by_default = if tasks.is_some() { 0 } else { 60 };
        Ok(Self {
            storm: Duration::from_secs(seconds.unwrap_or(by_default)),
            tasks: tasks.unwrap_or(0),
        })
    }

    fn is_reached(&self, storm: &Spell) -> bool {
        storm.lasted >= self.storm && storm.tasks >= self.tasks
    }
}

/// Runs calm and storm slices in turn. Returns true if every claim holds.
fn run(goal: &Goal) -> Result<bool> {
    let marks = SharedMemory::create(WORKERS * ROUND as usize)?;
    let pool = ProcessPoolExecutor::builder()
        .workers(WORKERS)
        .initializer(tasks::remember, marks.clone())
        .build()?;
    let mut chaos = Chaos::default();
    let (mut calm, mut storm) = (Spell::default(), Spell::default());
    let mut before = None;
    while before.is_none() || !goal.is_reached(&storm) {
        calm.work(&pool, &marks, CALM)?;
        chaos.reign(&pool, || storm.work(&pool, &marks, STORM))?;
        if before.is_none() {
            // The first slices have warmed everything up.
            before = Some(Holdings::when_whole(&pool)?);
        }
    }
    let after = Holdings::when_whole(&pool)?;
    pool.join()?;
    let before = before.ok_or("there is a first slice")?;
    telling::print_report(&chaos, &calm, &storm, [&before, &after]);
    Ok(telling::print_claims(&calm, &storm, [&before, &after]))
}
