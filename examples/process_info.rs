//! Every process prints its module, its parent's id and its own id.
//!
//! `parent_process` returns the program that started the process, under every start method. The
//! kernel's `getppid` returns the same under `Fork`, and the fork server under `ForkServer` and
//! `Spawn`.

use procpool::{Process, parent_process};
use std::{os::unix, process};

fn info(title: &str) {
    println!("{title}");
    println!("module name: {}", module_path!());
    // The program itself was started by another program, such as a shell.
    let parent = parent_process().map_or_else(unix::process::parent_id, |it| it.pid());
    println!("parent process: {parent}");
    println!("process id: {}", process::id());
}

fn greet(name: String) {
    info("function greet");
    println!("hello {name}");
}

fn main() -> procpool::Result<()> {
    info("main line");
    Process::start(greet, "bob".to_owned())?.result()
}
