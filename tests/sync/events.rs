//! Events: set, cleared, waited for.

use crate::{SHORT, elsewhere, kind};
use common::for_every_method;
use common::in_time;
use common::methods::start;
use procpool::{Atomic, ErrorKind, Event, Result, Semaphore};
use std::{sync::atomic::Ordering::SeqCst, thread, time::Duration};

for_every_method! {
    fn a_set_wakes_all_who_wait(method) {
        let (ready, event) = (Semaphore::new(0)?, Event::new()?);
        let wait = |(ready, event): (Semaphore, Event)| {
            ready.release().and_then(|()| event.wait()).is_ok()
        };
        let processes = [(); 3].map(|()| start(method, wait, (ready.clone(), event.clone())));
        for _ in 0..3 {
            ready.acquire()?;
        }
        event.set();
        for process in processes {
            assert!(process?.result()?);
        }
        Ok(())
    }

    fn two_processes_take_turns(method) {
        let events = (Event::new()?, Event::new()?);
        let answer = |(ping, pong): (Event, Event)| {
            for _ in 0..500 {
                ping.wait().expect("the other process");
                ping.clear();
                pong.set();
            }
        };
        let process = start(method, answer, events.clone())?;
        for _ in 0..500 {
            events.0.set();
            events.1.wait()?;
            events.1.clear();
        }
        process.result()
    }
}

#[test]
fn an_event_is_set_until_it_is_cleared() -> Result<()> {
    in_time(|| {
        let event = Event::new()?;
        assert!(!event.is_set());
        assert_eq!(
            kind(|| event.wait_timeout(SHORT), SHORT),
            ErrorKind::TimedOut
        );
        event.set();
        event.set();
        assert!(event.is_set());
        event.wait()?;
        event.wait_timeout(Duration::ZERO)?;
        event.clear();
        assert!(!event.is_set());
        assert_eq!(
            kind(|| event.wait_timeout(Duration::ZERO), Duration::ZERO),
            ErrorKind::TimedOut
        );
        event.set();
        event.wait_timeout(Duration::MAX)
    })
}

#[test]
fn whoever_waits_goes_on_also_when_it_is_cleared_at_once() -> Result<()> {
    in_time(|| {
        for _ in 0..200 {
            let (event, waiting) = (Event::new()?, Atomic::new(false)?);
            thread::scope(|it| {
                let waiter = it.spawn(|| {
                    waiting.store(true, SeqCst);
                    event.wait()
                });
                while !waiting.load(SeqCst) {
                    thread::yield_now();
                }
                // It may not wait yet: set it as often as it takes. What is tested is that it is
                // not there for long.
                while !waiter.is_finished() {
                    event.set();
                    event.clear();
                    thread::yield_now();
                }
            });
            elsewhere(|| assert!(!event.is_set()));
        }
        Ok(())
    })
}
