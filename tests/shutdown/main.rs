//! How a pool ends: closed, joined, shut down, terminated, killed, dropped.

mod closed;
mod dropped;
mod joined;
mod stopped;

use common::{Gate, block_sigterm, failure, pass, pool_of};
use procpool::{ErrorKind, ProcessPoolExecutor, Result, TaskFuture};
use std::path::PathBuf;

#[track_caller]
fn assert_is_shutdown<T>(outcome: Result<T>) {
    let error = failure(outcome);
    assert_eq!(error.kind(), ErrorKind::Shutdown, "{error}");
}

fn kinds<T>(outcomes: impl Iterator<Item = Result<T>>) -> Vec<Result<T, ErrorKind>> {
    outcomes.map(|it| it.map_err(|it| it.kind())).collect()
}

/// A pool of one worker that is held up at the gate.
fn held_up_pool() -> (ProcessPoolExecutor, Gate, TaskFuture<()>) {
    let pool = pool_of(1);
    let gate = Gate::new();
    let running = pool.submit(pass, gate.path());
    gate.wait_for(1);
    (pool, gate, running)
}

/// A task: waits at the gate, and does not hear SIGTERM.
fn pass_deaf(gate: PathBuf) {
    block_sigterm();
    pass(gate);
}
