//! Three processes work in phases: each waits for the others at the end of a phase, and one of them
//! prints.

use procpool::{Barrier, Process, Result};

fn work((barrier, name): (Barrier, char)) -> Result<(), String> {
    for phase in 1..=3 {
        println!("{name} works in phase {phase}");
        let turn = barrier.wait().map_err(|it| it.to_string())?;
        if turn.is_leader() {
            println!("phase {phase} is over");
        }
        barrier.wait().map_err(|it| it.to_string())?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let barrier = Barrier::new(3)?;
    let started = ['a', 'b', 'c'].map(|name| Process::start(work, (barrier.clone(), name)));
    for process in started {
        if let Err(message) = process?.result()? {
            println!("{message}");
        }
    }
    Ok(())
}
