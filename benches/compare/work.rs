//! The tasks, and the pools that run them.

use std::fs;
use std::hint::black_box;
use std::path::PathBuf;
use std::process;
use std::time::{Duration, Instant};

use procpool::ProcessPoolExecutor;

use crate::Result;

/// Of every pool, processes or threads: the bars are for two cores.
pub(crate) const WORKERS: usize = 2;

pub(crate) fn pool() -> Result<ProcessPoolExecutor> {
    Ok(ProcessPoolExecutor::builder().workers(WORKERS).build()?)
}

pub(crate) fn rayon_pool() -> Result<rayon::ThreadPool> {
    Ok(rayon::ThreadPoolBuilder::new()
        .num_threads(WORKERS)
        .build()?)
}

pub(crate) fn procspawn_pool() -> Result<procspawn::Pool> {
    Ok(procspawn::Pool::new(WORKERS)?)
}

pub(crate) fn noop((): ()) {}

pub(crate) fn tiny(n: u64) -> u64 {
    n.wrapping_mul(3) ^ 1
}

/// A fixed amount of pure CPU work: each step needs the one before, and none touches memory.
pub(crate) fn spin(steps: u64) -> u64 {
    let mut state = black_box(0x9E37_79B9_7F4A_7C15_u64);
    for _ in 0..steps {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    black_box(state)
}

/// How many steps `spin` takes in `duration` on an undisturbed core: the fastest of a few tries.
pub(crate) fn spin_steps(duration: Duration) -> u64 {
    const STEPS: u64 = 2_000_000;
    let try_once = || {
        let start = Instant::now();
        spin(STEPS);
        start.elapsed().as_secs_f64()
    };
    let fastest = (0..20).map(|_| try_once()).fold(f64::INFINITY, f64::min);
    (duration.as_secs_f64() / fastest * STEPS as f64) as u64
}

/// Tells its pid through the named pipe, then keeps its core busy forever.
pub(crate) fn announce_and_spin(started: PathBuf) {
    fs::write(started, process::id().to_string()).expect("the measuring process reads it");
    loop {
        spin(1_000_000);
    }
}

/// Tells through one named pipe that it runs, then holds its worker until the other one is opened.
pub(crate) fn hold((started, release): (PathBuf, PathBuf)) {
    fs::write(started, "running").expect("the measuring process reads it");
    fs::read(release).expect("the measuring process opens it");
}
