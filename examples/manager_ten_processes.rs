//! Ten processes fill one dict, which is their argument. The parent polls until all have ended.

use procpool::{DictProxy, Manager, Process, Result};
use std::{thread, time::Duration};

fn fill((dict, number): (DictProxy<u32, u32>, u32)) -> bool {
    dict.insert(number, number * number).is_ok()
}

fn main() -> Result<()> {
    let manager = Manager::start()?;
    let dict = manager.dict()?;
    let processes: Vec<_> = (0..10)
        .map(|number| Process::start(fill, (dict.clone(), number)))
        .collect::<Result<_>>()?;
    while processes.iter().any(Process::is_alive) {
        thread::sleep(Duration::from_millis(1));
    }
    let mut items = dict.items()?;
    items.sort_unstable();
    println!("{} keys, the last is {:?}", items.len(), items[9]);
    Ok(())
}
