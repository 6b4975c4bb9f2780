//! Four processes count in one number. Reading and writing in two steps loses counts; under one
//! lock none are lost.

use procpool::{Process, Result, Value};

fn count((counter, locked): (Value<u64>, bool)) -> Result<(), String> {
    let text = |it: procpool::Error| it.to_string();
    for _ in 0..10_000 {
        if locked {
            *counter.lock().map_err(|it| it.to_string())? += 1;
        } else {
            // Another process may count between the two.
            let before = counter.get().map_err(text)?;
            counter.set(before + 1).map_err(text)?;
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    for locked in [false, true] {
        let counter = Value::new(0)?;
        let started = (0..4).map(|_| Process::start(count, (counter.clone(), locked)));
        for process in started.collect::<Result<Vec<_>>>()? {
            if let Err(message) = process.result()? {
                println!("{message}");
            }
        }
        let how = if locked { "with" } else { "without" };
        println!("{how} one lock: {} of 40000", counter.get()?);
    }
    Ok(())
}
