//! Processes do not share memory: a process does not see what another appends to a global list.

use procpool::{Process, Result};
use std::sync::{Mutex, MutexGuard};

static LIST: Mutex<Vec<u32>> = Mutex::new(Vec::new());

fn list() -> MutexGuard<'static, Vec<u32>> {
    LIST.lock().expect("no holder panics")
}

fn append(number: u32) {
    list().push(number);
    println!("child {:?}", list());
}

fn main() -> Result<()> {
    Process::start(append, 666)?.result()?;
    println!("parent {:?}", list());

    let started = (0..10).map(|number| Process::start(append, number));
    let processes = started.collect::<Result<Vec<_>>>()?;
    processes.into_iter().try_for_each(Process::result)?;
    println!("parent {:?}", list());
    Ok(())
}
