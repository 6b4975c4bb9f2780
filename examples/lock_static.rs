//! A re-entrant lock in a `static`, which forked children share without passing it: each holds it
//! for two seconds.

use procpool::{Process, RLock, Result, StartMethod};
use std::{sync::LazyLock, thread, time::Duration};

static LOCK: LazyLock<RLock> = LazyLock::new(|| RLock::new().expect("shared memory"));

fn hold(seconds: f64) {
    let _outer = LOCK.acquire().expect("no holder died");
    let _inner = LOCK.acquire().expect("no holder died");
    println!("acquired");
    thread::sleep(Duration::from_secs_f64(seconds));
    println!("released");
}

fn main() -> Result<()> {
    // The lock must exist before the forks.
    LazyLock::force(&LOCK);
    let argument = std::env::args().nth(1).and_then(|it| it.parse().ok());
    let seconds = argument.unwrap_or(2.0);
    let forked = [(); 2].map(|()| {
        let builder = Process::builder(hold, seconds);
        builder.start_method(StartMethod::Fork).start()
    });
    for process in forked {
        process?.result()?;
    }
    Ok(())
}
