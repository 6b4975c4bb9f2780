//! A global with a random value: a child has its own value under `ForkServer` and `Spawn`, and its
//! parent's under `Fork`.

use procpool::{Process, StartMethod};
use std::hash::{BuildHasher, RandomState};
use std::{process, sync::LazyLock};

static NUMBER: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one("seed"));

fn own(_: ()) -> (u32, u64) {
    (process::id(), *NUMBER)
}

fn main() -> procpool::Result<()> {
    // Initialised before the forks: otherwise each child would draw its own value.
    let (parent, number) = own(());
    for method in StartMethod::ALL {
        println!("{method:?}: parent {parent} has {number}");
        let child = Process::builder(own, ()).start_method(method).start()?;
        let (child, number) = child.result()?;
        println!("{method:?}: child {child} has {number}");
    }
    Ok(())
}
