//! `Fork` is unavailable in a process with threads: the error names the reason and another method.

use procpool::{ErrorKind, Process, StartMethod};
use std::{sync::mpsc, thread};

fn task(method: StartMethod) {
    println!("a process started by {method:?}");
}

fn run(method: StartMethod) -> procpool::Result<()> {
    let child = Process::builder(task, method).start_method(method);
    child.start()?.result()
}

fn main() -> procpool::Result<()> {
    let (_running, ended) = mpsc::channel::<()>();
    let _thread = thread::spawn(move || ended.recv());
    match run(StartMethod::Fork) {
        Err(error) if error.kind() == ErrorKind::Unsupported => println!("{error}"),
        other => return other,
    }
    run(StartMethod::ForkServer)
}
