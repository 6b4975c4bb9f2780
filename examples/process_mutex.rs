//! A `std::sync::Mutex` as an argument is plain data: each process gets a copy with a lock of its
//! own.
//!
//! A `File` is not data and does not compile as an argument; process_descriptor.rs passes one.

use procpool::{Process, Result};
use std::process;
use std::sync::{Mutex, PoisonError};

fn count(counter: Mutex<u32>) {
    let mut count = counter.lock().unwrap_or_else(PoisonError::into_inner);
    *count += 1;
    println!("process {} counts {count}", process::id());
}

fn main() -> Result<()> {
    let started = (0..3).map(|_| Process::start(count, Mutex::new(0)));
    let processes = started.collect::<Result<Vec<_>>>()?;
    processes.into_iter().try_for_each(Process::result)
}
