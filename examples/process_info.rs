//! Every process says where it is: its module, its parent's id and its own.
//!
//! The parent of a child is the program that started it: that is what `parent_process` gives under every start method. The
//! kernel's `getppid` gives the same under `Fork`, but the fork server that made the child under `ForkServer` and `Spawn`.

use procpool::{Process, parent_process};
use std::{os::unix, process};

fn info(title: &str) {
    println!("{title}");
    println!("module name: {}", module_path!());
    // The program itself was started by something else, a shell say, which only the kernel knows.
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
