//! Ten processes print two lines each, and a lock keeps the two together.

use procpool::{Lock, Process, Result};

fn print((lock, number): (Lock, u32)) -> Result<(), String> {
    let _held = lock.acquire().map_err(|it| it.to_string())?;
    println!("hello from process {number}");
    println!("goodbye from process {number}");
    Ok(())
}

fn main() -> Result<()> {
    let lock = Lock::new()?;
    let started = (0..10).map(|number| Process::start(print, (lock.clone(), number)));
    for process in started.collect::<Result<Vec<_>>>()? {
        if let Err(message) = process.result()? {
            println!("{message}");
        }
    }
    Ok(())
}
