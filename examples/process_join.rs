//! `join` orders processes: one after the other, two at once, a list of them.

use procpool::{Process, Result};
use std::{thread, time::Duration};

fn work(name: String) {
    println!("{name} starts");
    thread::sleep(Duration::from_millis(500));
    println!("{name} ends");
}

fn start(name: &str) -> Result<Process<()>> {
    Process::start(work, name.to_owned())
}

fn main() -> Result<()> {
    println!("one after the other:");
    start("a")?.join()?;
    start("b")?.join()?;

    println!("two at once:");
    let (c, d) = (start("c")?, start("d")?);
    c.join()?;
    d.join()?;

    println!("a list:");
    let names = ["e", "f", "g"].into_iter();
    let processes = names.map(start).collect::<Result<Vec<_>>>()?;
    for process in &processes {
        process.join()?;
    }
    println!("all have ended");
    Ok(())
}
