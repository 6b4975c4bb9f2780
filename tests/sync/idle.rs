//! Waiting costs nothing: the waiter sleeps.

use crate::kind;
use common::in_time;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike,
};
use procpool::{
    Barrier, Condition, ErrorKind, Event, JoinableQueue, Lock, Process, Queue, RLock, Result,
    Semaphore,
};
use std::time::Duration;

/// How long each waits; what it may use of that is a tenth. It is awake for 50 microseconds at
/// first.
const LIMIT: Duration = Duration::from_millis(300);

/// The time on a CPU that this process has had so far.
fn on_cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process");
    let time = usage.user_time() + usage.system_time();
    Duration::from_micros(time.num_microseconds().unsigned_abs())
}

type Held = (Lock, RLock, Queue<u8>, JoinableQueue<u8>);

/// Waits in vain for everything, and says for what it did not sleep.
fn wait((lock, again, full, undone): Held) -> Vec<String> {
    let (event, semaphore) = (
        Event::new().expect("an event"),
        Semaphore::new(0).expect("a semaphore"),
    );
    let (condition, barrier) = (
        Condition::new().expect("one"),
        Barrier::new(2).expect("a barrier"),
    );
    let empty = Queue::<u8>::unbounded().expect("a queue");
    let mut held = condition.lock().expect("a free lock");
    let waits: [(&str, &mut dyn FnMut() -> Result<()>); 9] = [
        ("Lock", &mut || Ok(lock.acquire_timeout(LIMIT).map(drop)?)),
        ("RLock", &mut || {
            Ok(again.acquire_timeout(LIMIT).map(drop)?)
        }),
        ("Event", &mut || event.wait_timeout(LIMIT)),
        ("Semaphore", &mut || semaphore.acquire_timeout(LIMIT)),
        ("Condition", &mut || held.wait_timeout(LIMIT)),
        ("Barrier", &mut || barrier.wait_timeout(LIMIT).map(drop)),
        ("get", &mut || empty.get_timeout(LIMIT).map(drop)),
        ("put", &mut || full.put_timeout(&1, LIMIT)),
        ("join", &mut || undone.join_timeout(LIMIT)),
    ];
    let awake = waits.into_iter().filter_map(|(what, wait)| {
        let before = on_cpu();
        assert_eq!(kind(wait, LIMIT), ErrorKind::TimedOut, "{what}");
        let used = on_cpu() - before;
        (used > LIMIT / 10).then(|| format!("{what}: {used:?}"))
    });
    awake.collect()
}

#[test]
fn whoever_waits_uses_no_cpu() -> Result<()> {
    in_time(|| {
        let all = (
            Lock::new()?,
            RLock::new()?,
            Queue::bounded(1)?,
            JoinableQueue::unbounded()?,
        );
        let _held = (all.0.acquire()?, all.1.acquire()?);
        all.2.put(&0)?;
        all.3.put(&0)?;
        let awake = Process::start(wait, all.clone())?.result()?;
        assert_eq!(awake, Vec::<String>::new());
        Ok(())
    })
}
