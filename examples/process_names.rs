//! Names and ids: the program is `MainProcess`. Its children are numbered unless they get a name.

use procpool::{Process, current_process};

fn introduce(_: ()) {
    let current = current_process();
    println!("{} has id {}", current.name(), current.pid());
}

fn main() -> procpool::Result<()> {
    introduce(());
    let numbered = Process::start(introduce, ())?;
    numbered.join()?;
    let named = Process::builder(introduce, ()).name("crawler").start()?;
    named.join()?;
    println!("started {} as {}", numbered.name(), numbered.pid());
    println!("started {} as {}", named.name(), named.pid());
    Ok(())
}
