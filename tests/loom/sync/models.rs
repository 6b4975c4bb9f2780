//! Models of events and semaphores, and of the bell under all that waits.

use super::{
    bell::{Alertness, Bell, Patience},
    event::Event,
    semaphore::Semaphore,
};
use crate::check;
use crate::shm::Byte;
use crate::sys::atomic::{AtomicU32, Ordering, Weakening, weaken};
use loom::thread;
use std::sync::Arc;

/// Three words: of a bell, its sleepers, and how many ringers have told.
type Words = [AtomicU32; 3];

fn bell(words: &Words) -> Bell<'_> {
    Bell {
        word: &words[0],
        sleepers: &words[1],
    }
}

/// Two processes tell one thing each and ring. A third waits for both.
fn wait_for_two_ringers() {
    let words: Arc<Words> = Arc::default();
    let ringing = [0; 2].map(|_| {
        let words = Arc::clone(&words);
        thread::spawn(move || {
            words[2].fetch_add(1, Ordering::Release);
            bell(&words).ring_all();
        })
    });
    let (bell, alertness) = (bell(&words), Alertness::default());
    let mut patience = Patience::new(&alertness);
    let mut ticket = bell.ticket();
    while words[2].load(Ordering::Acquire) < 2 {
        bell.wait(ticket, None, &mut patience);
        ticket = bell.ticket();
    }
    for it in ringing {
        it.join().expect("no panic");
    }
}

/// The third preemption matters: it comes while a ringer takes back `sleepers`.
#[test]
fn no_ring_is_missed_while_another_ringer_wakes_all() {
    check(3, wait_for_two_ringers);
}

/// An event that is not set and whose words are made.
fn event() -> Event {
    let event = Event::new().expect("memory");
    event.set();
    event.clear();
    event
}

fn wait_for_an_event(waiters: usize, setter: Weakening) {
    let (event, written) = (event(), Arc::new(Byte::new()));
    let wait = |_| {
        let (event, written) = (event.clone(), Arc::clone(&written));
        thread::spawn(move || {
            event.wait().expect("no error");
            assert_eq!(written.read(), 1);
        })
    };
    let waiters: Vec<_> = (0..waiters).map(wait).collect();
    weaken(setter);
    written.write(1);
    event.set();
    for waiter in waiters {
        waiter.join().expect("no panic");
    }
}

#[test]
fn an_event_wakes_all_who_wait() {
    check(2, || wait_for_an_event(2, Weakening::None));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_sequential_consistency_a_ring_is_missed() {
    check(3, || wait_for_an_event(1, Weakening::NoSeqCst));
}

#[test]
fn an_event_that_is_cleared_and_set_again_wakes_who_waits() {
    check(3, || {
        let event = event();
        let waiter = event.clone();
        let waiting = thread::spawn(move || waiter.wait().expect("no error"));
        event.set();
        event.clear();
        event.set();
        waiting.join().expect("no panic");
    });
}

/// A semaphore without permits whose words are made.
fn semaphore() -> Semaphore {
    let semaphore = Semaphore::new(0).expect("memory");
    semaphore.release().expect("no error");
    semaphore.acquire().expect("no error");
    semaphore
}

#[test]
fn each_of_two_permits_reaches_a_waiter() {
    check(1, || {
        let semaphore = semaphore();
        let waiters = [0; 2].map(|_| {
            let semaphore = semaphore.clone();
            thread::spawn(move || semaphore.acquire().expect("no error"))
        });
        semaphore.release().expect("no error");
        semaphore.release().expect("no error");
        for waiter in waiters {
            waiter.join().expect("no panic");
        }
        assert_eq!(semaphore.value(), 0);
    });
}

#[test]
fn permits_of_two_processes_reach_a_waiter() {
    check(2, || {
        let semaphore = semaphore();
        let releasing = [0; 2].map(|_| {
            let semaphore = semaphore.clone();
            thread::spawn(move || semaphore.release().expect("no error"))
        });
        semaphore.acquire().expect("no error");
        semaphore.acquire().expect("no error");
        for it in releasing {
            it.join().expect("no panic");
        }
        assert_eq!(semaphore.value(), 0);
    });
}
