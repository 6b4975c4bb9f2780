//! Locks, semaphores, conditions, events, barriers and shared data, and what happens at each death.

mod barriers;
mod conditions;
mod data;
mod events;
mod fork;
mod idle;
mod locks;
mod owner_deaths;
mod semaphores;

use procpool::{Error, ErrorKind, Event, Result};
use std::{
    thread,
    time::{Duration, Instant},
};

/// A limit that passes within a test.
const SHORT: Duration = Duration::from_millis(50);

/// What kind of error it failed with, and that it took the limit, if there was one.
#[track_caller]
fn kind<T, E: Into<Error>>(call: impl FnOnce() -> Result<T, E>, limit: Duration) -> ErrorKind {
    let started = Instant::now();
    let error = common::failure(call()).into();
    assert!(started.elapsed() >= limit, "{error}");
    error.kind()
}

/// Runs something on a thread of its own, to its end.
fn elsewhere<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    thread::scope(|it| it.spawn(run).join().expect("no panic"))
}

/// Says that this process is where it is to be killed, and waits for that.
fn wait_to_be_killed(ready: &Event) -> ! {
    ready.set();
    loop {
        thread::park();
    }
}
