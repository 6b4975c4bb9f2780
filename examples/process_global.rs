//! A global chosen at random: a child has its own under `ForkServer` and `Spawn`, its parent's under `Fork`.

use procpool::{Process, StartMethod};
use std::hash::{BuildHasher, RandomState};
use std::{process, sync::LazyLock};

static NUMBER: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one("seed"));

fn own(_: ()) -> (u32, u64) {
    (process::id(), *NUMBER)
}

fn main() -> procpool::Result<()> {
    // Chosen now, before any child is forked: otherwise each would choose for itself even then.
    let (parent, number) = own(());
    for method in StartMethod::ALL {
        println!("{method:?}: parent {parent} has {number}");
        let child = Process::builder(own, ()).start_method(method).start()?;
        let (child, number) = child.result()?;
        println!("{method:?}: child {child} has {number}");
    }
    Ok(())
}
