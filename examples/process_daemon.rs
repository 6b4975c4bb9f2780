//! At its end the program waits for a process that is not a daemon, and kills a daemon.

use procpool::{Process, current_process};
use std::{thread, time::Duration};

fn work(time: Duration) {
    thread::sleep(time);
    println!("{} ends", current_process().name());
}

fn main() -> procpool::Result<()> {
    let _worker = Process::builder(work, Duration::from_millis(500))
        .name("worker")
        .start()?;
    let daemon = Process::builder(work, Duration::from_secs(600))
        .name("daemon")
        .daemon(true)
        .start()?;
    println!("started daemon as {}", daemon.pid());
    println!("main ends");
    Ok(())
} // both handles are dropped here
