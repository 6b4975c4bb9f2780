//! Under `Fork` a child sees its parent's list without an argument. Its changes stay in the child.

use procpool::{Process, StartMethod};
use std::sync::{Mutex, MutexGuard};

static NAMES: Mutex<Vec<&str>> = Mutex::new(Vec::new());

fn names() -> MutexGuard<'static, Vec<&'static str>> {
    NAMES.lock().expect("no holder panics")
}

fn task(_: ()) {
    println!("child {:?}", names());
    names().push("sunkai");
    println!("child {:?}", names());
}

fn main() -> procpool::Result<()> {
    names().push("zhangkai");
    Process::builder(task, ())
        .start_method(StartMethod::Fork)
        .start()?
        .result()?;
    println!("parent {:?}", names());
    Ok(())
}
