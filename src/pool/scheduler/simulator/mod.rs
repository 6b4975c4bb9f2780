//! A simulator of everything around the scheduler: callers, worker processes, the system and the
//! clock.
//!
//! It runs the scheduler and the worker handles as they are, with simulated workers through
//! [`WorkerIo`](crate::pool::worker_handle::io::WorkerIo) and with real shared regions. A seed
//! determines a history of submits, cancels, deaths, late events, time that passes and the like;
//! workers also go on while the scheduler does something. After each step the books are checked:
//! each item ends once, with an outcome that its history permits; nothing runs more often than its
//! retries allow; counters agree; no worker idles while work waits. A history that fails is cut
//! down to the operations that it needs.
//!
//! `PROCPOOL_SIM_MILLIS` says for how long histories run, `PROCPOOL_SIM_SEED` repeats one of them.

mod books;
mod checks;
mod history;
mod operation;
mod process;
mod random;
mod world;

use history::History;
use operation::{Operation, operations};
use std::{
    env,
    panic::{self, AssertUnwindSafe},
    time::{Duration, Instant},
};
use world::with_world;

/// Milliseconds of a run, unless the environment says otherwise.
const DEFAULT_MILLIS: u64 = 1000;

/// Runs a history; returns why it fails, if it does.
fn run(seed: u64, operations: &[Operation]) -> Result<(), String> {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        let mut history = History::new(seed);
        for operation in operations {
            history.apply(*operation);
            if let Some(failure) = with_world(|world| world.books.failure.take()) {
                return Err(failure);
            }
        }
        history.end();
        with_world(|world| world.books.failure.take()).map_or(Ok(()), Err)
    }));
    outcome.unwrap_or_else(|_| Err(String::from("the scheduler panicked")))
}

/// Drops operations as long as the history fails without them.
fn shrink(seed: u64, mut operations: Vec<Operation>) -> Vec<Operation> {
    let mut size = operations.len().div_ceil(2);
    while size > 0 {
        let mut start = 0;
        while start < operations.len() {
            let end = operations.len().min(start + size);
            let shorter = [&operations[..start], &operations[end..]].concat();
            if run(seed, &shorter).is_err() {
                operations = shorter;
            } else {
                start = end;
            }
        }
        size /= 2;
    }
    operations
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Runs the history with this seed, and fails with what is left of it if it does.
fn check_seed(seed: u64) -> u64 {
    let all = operations(seed);
    let count = all.len() as u64;
    let Err(failure) = run(seed, &all) else {
        return count;
    };
    let steps = with_world(|world| world.steps);
    let shrunk = shrink(seed, all);
    let why = run(seed, &shrunk).err().unwrap_or_default();
    panic!(
        "history {seed} fails after {} steps: {failure}\nwith {} operations: {why}\n{shrunk:#?}",
        steps,
        shrunk.len(),
    );
}

#[test]
fn every_history_ends_as_its_events_permit() {
    if let Some(seed) = number("PROCPOOL_SIM_SEED") {
        check_seed(seed);
        return;
    }
    let budget = Duration::from_millis(number("PROCPOOL_SIM_MILLIS").unwrap_or(DEFAULT_MILLIS));
    let (begin, mut operations, mut histories) = (Instant::now(), 0, 0u64);
    while begin.elapsed() < budget {
        // The same seeds in each run, so that a run fails only if the code has changed.
        operations += check_seed(histories);
        histories += 1;
    }
    let steps = operations + with_world(|world| world.steps);
    println!(
        "{histories} histories, {steps} steps in {:?}",
        begin.elapsed()
    );
}
