//! A program that runs code in every kind of process, and prints their ids.

use procpool::{Manager, Process, ProcessPoolExecutor, Result, StartMethod};
use std::{os::unix::process::parent_id, process::id};

fn own_id((): ()) -> u32 {
    id()
}

fn main() -> Result<()> {
    // `Fork` comes first, as long as there is one thread.
    for method in [
        StartMethod::Fork,
        StartMethod::ForkServer,
        StartMethod::Spawn,
    ] {
        let process = Process::builder(own_id, ()).start_method(method);
        println!("{}", process.start()?.result()?);
        let pool = ProcessPoolExecutor::builder()
            .workers(1)
            .start_method(method);
        let pool = pool.build()?;
        println!("{}", pool.apply(own_id, ())?);
        println!("{}", pool.apply(|()| parent_id(), ())?);
        pool.join()?;
    }
    let copied = procpool::fork_map(1, &[()], |()| id())?;
    copied.iter().for_each(|it| println!("{it}"));
    let manager = Manager::start()?;
    println!("{}", manager.server_pid().unwrap_or_default());
    drop(manager);
    println!("{}", id());
    Ok(())
}
