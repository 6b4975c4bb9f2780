//! Models of events and semaphores, and of the event count that every wait uses.

use super::{
    event::Event,
    event_count::{Backoff, EventCount, SpinState},
    semaphore::Semaphore,
};
use crate::check;
use crate::shm::Byte;
use crate::sys::atomic::{AtomicU32, Ordering, Weakening, weaken};
use loom::thread;
use std::sync::Arc;

/// Three words: an event count, its sleepers, and how many threads have stored what they announce.
type Words = [AtomicU32; 3];

fn event_count(words: &Words) -> EventCount<'_> {
    EventCount {
        word: &words[0],
        sleepers: &words[1],
    }
}

/// Two processes store one thing each and notify. A third waits for both.
fn wait_for_two_notifiers() {
    let words: Arc<Words> = Arc::default();
    let notifiers = [0; 2].map(|_| {
        let words = Arc::clone(&words);
        thread::spawn(move || {
            words[2].fetch_add(1, Ordering::Release);
            event_count(&words).notify_all();
        })
    });
    let (event, spin) = (event_count(&words), SpinState::default());
    let mut backoff = Backoff::new(&spin);
    let mut ticket = event.ticket();
    while words[2].load(Ordering::Acquire) < 2 {
        event.wait(ticket, None, &mut backoff);
        ticket = event.ticket();
    }
    for notifier in notifiers {
        notifier.join().expect("no panic");
    }
}

/// The third preemption matters: it comes while a notifier clears `sleepers`.
#[test]
fn no_notification_is_missed_while_another_thread_wakes_all() {
    check(3, wait_for_two_notifiers);
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
fn without_sequential_consistency_a_notification_is_missed() {
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
