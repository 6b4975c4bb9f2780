//! Ends that several threads use at once.

use common::{A_MOMENT, DEADLINE, failure, in_time, pattern};
use procpool::{ErrorKind, one_way};
use std::{
    collections::BTreeSet,
    sync::{Barrier, Mutex},
    thread,
    time::Instant,
};

/// Sizes on both sides of every limit inside, so that messages which tear or merge show it.
const SIZES: [usize; 6] = [0, 48, 57, 4080, 4096, 150_000];

#[test]
fn messages_of_many_threads_neither_tear_nor_merge() {
    in_time(|| {
        let (receiver, sender) = one_way::<(usize, Vec<u16>)>().expect("a pipe");
        let received = Mutex::new(BTreeSet::new());
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Ok((number, content)) = receiver.recv() {
                        assert_eq!(content.len(), SIZES[number % SIZES.len()]);
                        assert!(content.iter().all(|it| usize::from(*it) == number));
                        assert!(received.lock().expect("no panic").insert(number));
                    }
                });
            }
            thread::scope(|scope| {
                for first in 0..4 {
                    let sender = &sender;
                    scope.spawn(move || {
                        for number in (first..600).step_by(4) {
                            let content = vec![number as u16; SIZES[number % SIZES.len()]];
                            sender.send(&(number, content)).expect("the other end");
                        }
                    });
                }
            });
            sender.close();
        });
        assert_eq!(received.into_inner().expect("no panic").len(), 600);
    });
}

#[test]
fn bytes_of_many_threads_neither_tear_nor_merge() {
    in_time(|| {
        let (receiver, sender) = one_way::<()>().expect("a pipe");
        thread::scope(|scope| {
            for seed in 0..4 {
                let sender = &sender;
                scope.spawn(move || {
                    for size in (0..10_000).step_by(97) {
                        sender
                            .send_bytes(&pattern(size, seed))
                            .expect("the other end");
                    }
                });
            }
            for _ in 0..4 * 10_000_usize.div_ceil(97) {
                let bytes = receiver.recv_bytes().expect("a message");
                let mut seeds = 0..4;
                assert!(seeds.any(|seed| bytes == pattern(bytes.len(), seed)));
            }
        });
    });
}

#[test]
fn a_thread_that_waits_keeps_no_other_from_giving_up() {
    in_time(|| {
        let (receiver, sender) = one_way::<u32>().expect("a pipe");
        let started = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                started.wait();
                assert_eq!(receiver.recv().expect("a message"), 1);
            });
            started.wait();
            let start = Instant::now();
            assert_eq!(
                failure(receiver.recv_timeout(A_MOMENT)).kind(),
                ErrorKind::TimedOut
            );
            assert_eq!(failure(receiver.try_recv()).kind(), ErrorKind::Empty);
            assert!(start.elapsed() < DEADLINE / 2);
            sender.send(&1).expect("the other end");
        });
    });
}
