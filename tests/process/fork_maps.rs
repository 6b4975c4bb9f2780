//! `fork_map`: functions that borrow, and what becomes of their results.

#![expect(
    unsafe_code,
    reason = "a program that ignores the ends of its children"
)]

use common::methods::in_a_process_with_one_thread;
use common::{failure, in_time, race};
use nix::sys::signal::{SigHandler, Signal, signal};
use procpool::{ErrorKind, Result, fork_map};
use std::{cell::Cell, process};

fn text(error: procpool::Error) -> String {
    error.to_string()
}

#[test]
fn a_function_may_borrow_what_cannot_be_sent() -> Result<()> {
    in_time(|| {
        in_a_process_with_one_thread(|()| {
            let table: Vec<u64> = (0..1000).map(|x| x * x).collect();
            let called = Cell::new(0);
            let items: Vec<&u64> = table.iter().collect();
            for workers in [1, 2, 7, 5000] {
                let workers = workers.min(50);
                let sums = fork_map(workers, &items, |it| {
                    called.set(called.get() + 1);
                    **it + table[1]
                });
                assert!(
                    sums.map_err(text)?
                        .into_iter()
                        .eq(table.iter().map(|it| it + 1))
                );
            }
            // What a copy changes stays there.
            assert_eq!(called.get(), 0);
            Ok(())
        })
    })
}

#[test]
fn results_of_every_size_arrive() -> Result<()> {
    in_time(|| {
        in_a_process_with_one_thread(|()| {
            let lengths = [0usize, 1, 100_000, 3_000_000, 7];
            let results = fork_map(2, &lengths, |it| vec![*it as u8; *it]).map_err(text)?;
            assert!(
                results
                    .iter()
                    .zip(lengths)
                    .all(|(it, length)| it.len() == length)
            );
            assert_eq!(fork_map(3, &[(); 0], |()| 1).map_err(text)?, []);
            Ok(())
        })
    })
}

#[test]
fn the_lowest_failure_is_told() -> Result<()> {
    in_time(|| {
        in_a_process_with_one_thread(|()| {
            let items: Vec<u32> = (0..100).collect();
            let error = failure(fork_map(2, &items, |it| {
                assert!(*it % 10 != 3, "item {it}")
            }));
            assert_eq!(error.kind(), ErrorKind::Panicked);
            assert!(error.to_string().contains("item 3"), "{error}");
            Ok(())
        })
    })
}

#[test]
fn a_copy_that_dies_costs_its_item() -> Result<()> {
    in_time(|| {
        in_a_process_with_one_thread(|()| {
            let items: Vec<u32> = (0..100).collect();
            let dies: [fn(); 2] = [|| process::abort(), || process::exit(0)];
            for die in dies {
                let error = failure(fork_map(2, &items, |it| {
                    if *it == 50 {
                        die()
                    }
                }));
                assert_eq!(error.kind(), ErrorKind::WorkerDied, "{error}");
            }
            Ok(())
        })
    })
}

#[test]
fn what_cannot_be_is_refused() {
    assert_eq!(
        failure(fork_map(0, &[1], |it| *it)).kind(),
        ErrorKind::InvalidInput
    );
    // The test harness has threads.
    assert_eq!(
        failure(fork_map(1, &[1], |it| *it)).kind(),
        ErrorKind::Unsupported
    );
}

#[test]
fn copies_that_are_gone_at_once_have_started() -> Result<()> {
    // 1. A copy is forked. 2. It does its work, ends, and is gone, as it leaves no zombie. 3. Its
    //    parent opens its pidfd.
    in_time(|| {
        in_a_process_with_one_thread(|()| {
            // SAFETY: nothing is called.
            unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) }.map_err(|it| it.to_string())?;
            let mut outcomes = Vec::new();
            race(|| outcomes.push(fork_map(2, &[1u8; 4], |it| it + 1).map_err(text)));
            let failed = outcomes.into_iter().find(|it| *it != Ok(vec![2; 4]));
            assert_eq!(failed, None);
            Ok(())
        })
    })
}
