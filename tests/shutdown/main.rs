//! How a pool ends: closed, joined, shut down, terminated, killed, dropped.

mod closed;
mod dropped;
mod joined;
mod stopped;

use common::{Gate, failure, pass, pool_of};
use nix::sys::signal::{SigSet, Signal};
use procpool::{ErrorKind, ProcessPoolExecutor, Result, TaskFuture};
use std::{fs, path::PathBuf};

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
    let mut deaf_to = SigSet::empty();
    deaf_to.add(Signal::SIGTERM);
    deaf_to.thread_block().expect("a valid set");
    pass(gate);
}

/// Whether the process is there, and more than a zombie.
fn is_running(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|it| !it.contains("State:\tZ"))
}
