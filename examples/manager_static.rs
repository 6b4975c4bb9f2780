//! Ten forked processes fill one dict in a `static`: each connects anew.

use procpool::{DictProxy, Manager, Process, Result, StartMethod, set_start_method};
use std::sync::LazyLock;

static MANAGER: LazyLock<Manager> = LazyLock::new(|| Manager::start().expect("a manager"));
static TABLE: LazyLock<DictProxy<u32, u32>> = LazyLock::new(|| MANAGER.dict().expect("a dict"));

fn fill(number: u32) {
    let inserted = TABLE.insert(number, std::process::id());
    inserted.expect("the manager's server lives");
}

fn main() -> Result<()> {
    set_start_method(StartMethod::Fork)?;
    println!("{} keys before", TABLE.len()?);
    let processes: Vec<_> = (0..10)
        .map(|number| Process::start(fill, number))
        .collect::<Result<_>>()?;
    let mut pids: Vec<u32> = processes.iter().map(Process::pid).collect();
    processes.into_iter().try_for_each(Process::result)?;
    let mut found = TABLE.values()?;
    found.sort_unstable();
    pids.sort_unstable();
    println!(
        "{} keys after, by the ten processes: {}",
        TABLE.len()?,
        found == pids
    );
    Ok(())
}
