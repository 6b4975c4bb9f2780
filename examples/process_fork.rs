//! A bare `fork`: the parent knows its child's id, and the child knows its own and its parent's.
//!
//! `parent_process` returns the id of the program. Under `Fork` the kernel's `getppid` is the same;
//! under the other start methods it is the fork server's.

use procpool::{Process, StartMethod, parent_process};
use std::process;

fn child(_: ()) {
    if let Some(parent) = parent_process() {
        let (own, parent) = (process::id(), parent.pid());
        println!("I am child process ({own}) and my parent is ({parent}).");
    }
}

fn main() -> procpool::Result<()> {
    let forked = Process::builder(child, ())
        .start_method(StartMethod::Fork)
        .start()?;
    let (own, child) = (process::id(), forked.pid());
    println!("I ({own}) just created a child process ({child}).");
    forked.result()
}
