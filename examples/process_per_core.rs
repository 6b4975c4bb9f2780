//! One process for each core that the program may use.

use procpool::{Process, Result, cpu_count};
use std::process;

fn work(core: usize) {
    println!("worker {core} runs in process {}", process::id());
}

fn main() -> Result<()> {
    let cores = 0..cpu_count();
    println!("{} cores", cores.len());
    let started = cores.map(|core| Process::start(work, core));
    let workers = started.collect::<Result<Vec<_>>>()?;
    workers.into_iter().try_for_each(Process::result)
}
