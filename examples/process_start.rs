//! A function with an argument runs in a process of its own: `start`, `join`.

use procpool::Process;
use std::process;

fn run_process(name: String) {
    println!("Run child process {name} ({})...", process::id());
}

fn main() -> procpool::Result<()> {
    println!("Parent process {}.", process::id());
    println!("Process will start.");
    let child = Process::start(run_process, "test".to_owned())?;
    child.join()?;
    println!("Process end.");
    Ok(())
}
