//! Five tasks on a pool of four: `apply_async`, `close`, `join`. The argument is the seconds that a
//! task takes.

use std::error::Error;
use std::time::{Duration, Instant};
use std::{env, process, thread};

use procpool::ProcessPoolExecutor;

fn run_task((name, pause): (u32, Duration)) {
    println!("Run task {name} ({})...", process::id());
    let started = Instant::now();
    thread::sleep(pause);
    let seconds = started.elapsed().as_secs_f64();
    println!("Task {name} runs {seconds:.2} seconds.");
}

fn report(outcome: &procpool::Result<()>) {
    if let Err(error) = outcome {
        eprintln!("{error}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let seconds = env::args().nth(1).map_or(Ok(2.0), |it| it.parse())?;
    let pause = Duration::try_from_secs_f64(seconds)?;
    println!("Parent process {}.", process::id());
    let pool = ProcessPoolExecutor::builder().workers(4).build()?;
    for name in 0..5 {
        pool.apply_async(run_task, (name, pause), report);
    }
    println!("Waiting for all subprocesses done...");
    pool.close();
    pool.join()?;
    println!("All subprocesses done.");
    Ok(())
}
