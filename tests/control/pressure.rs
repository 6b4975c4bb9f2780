//! A pool holds at most the set number of bytes: the caller waits, or gets the argument back.

use common::{Gate, failure, in_time, pass, square};
use procpool::{ErrorKind, ProcessPoolExecutor, Result, TaskFuture, TrySubmitError};
use std::{
    cell::Cell,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
};

const BUDGET: u64 = 64 << 10;

fn narrow_pool(workers: usize) -> ProcessPoolExecutor {
    let builder = ProcessPoolExecutor::builder().workers(workers);
    builder.max_pending_bytes(BUDGET).build().expect("a pool")
}

/// A task with an argument of this many bytes, besides the gate where it waits.
fn pass_with((gate, bytes): (PathBuf, Vec<u8>)) -> usize {
    pass(gate);
    bytes.len()
}

fn half(gate: &Gate) -> (PathBuf, Vec<u8>) {
    (gate.path(), vec![0; BUDGET as usize / 2])
}

#[test]
fn a_task_for_which_there_is_no_room_comes_back_with_its_argument() -> Result<()> {
    in_time(|| {
        let pool = narrow_pool(1);
        let gate = Gate::new();
        let first = pool.try_submit(pass_with, half(&gate))?;
        let refused = failure(pool.try_submit(pass_with, half(&gate)));
        assert_eq!(refused.kind(), ErrorKind::Full);
        assert!(
            refused.to_string().contains("bytes of tasks pending"),
            "{refused}"
        );
        let argument = refused.into_inner();
        assert_eq!(argument, half(&gate));
        // What is small still finds room.
        let small = pool.try_submit(square, 3)?;
        gate.open();
        first.result()?;
        let second = pool.try_submit(pass_with, argument)?;
        assert_eq!(
            (second.result()?, small.result()?),
            (BUDGET as usize / 2, 9)
        );
        Ok(())
    })
}

#[test]
fn what_is_refused_for_another_reason_comes_back_too() {
    in_time(|| {
        let pool = narrow_pool(1);
        pool.close();
        let refused = failure(pool.try_submit(square, 7));
        assert_eq!(
            (refused.kind(), refused.into_inner()),
            (ErrorKind::Shutdown, 7)
        );
        let error = procpool::Error::from(failure(pool.try_submit(square, 7)));
        assert_eq!(error.kind(), ErrorKind::Shutdown);
        let broken = ProcessPoolExecutor::builder()
            .workers(1)
            .max_pending_bytes(0);
        assert_eq!(failure(broken.build()).kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn submitting_waits_for_room() -> Result<()> {
    in_time(|| {
        let pool = Arc::new(narrow_pool(1));
        let gate = Gate::new();
        let first = pool.submit(pass_with, half(&gate));
        gate.wait_for(1);
        let (sender, submitted) = mpsc::channel();
        let (shared, argument) = (Arc::clone(&pool), half(&gate));
        let thread = thread::spawn(move || {
            let second = shared.submit(pass_with, argument);
            sender.send(()).expect("the test waits");
            second.result()
        });
        assert!(submitted.recv_timeout(common::A_MOMENT).is_err());
        gate.open();
        assert_eq!(thread.join().expect("no panic")?, BUDGET as usize / 2);
        submitted.recv().expect("it was submitted");
        first.result()?;
        Ok(())
    })
}

#[test]
fn who_waits_for_room_hears_that_the_pool_was_closed_or_stopped() {
    in_time(|| {
        let ends: [fn(&ProcessPoolExecutor); 3] = [
            ProcessPoolExecutor::close,
            ProcessPoolExecutor::terminate,
            ProcessPoolExecutor::kill,
        ];
        for end in ends {
            let pool = Arc::new(narrow_pool(1));
            let gate = Gate::new();
            let _first = pool.submit(pass_with, half(&gate));
            gate.wait_for(1);
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    let (shared, argument) = (Arc::clone(&pool), half(&gate));
                    thread::spawn(move || failure(shared.apply(pass_with, argument)).kind())
                })
                .collect();
            end(&pool);
            for thread in threads {
                assert_eq!(thread.join().expect("no panic"), ErrorKind::Shutdown);
            }
        }
    });
}

#[test]
fn many_threads_that_submit_more_than_there_is_room_for_all_get_on() -> Result<()> {
    in_time(|| {
        let pool = Arc::new(narrow_pool(2));
        let threads: Vec<_> = (0..4)
            .map(|seed: usize| {
                let pool = Arc::clone(&pool);
                thread::spawn(move || -> Result<usize> {
                    let length = |it: usize| (it * 7919 + seed * 104_729) % (BUDGET as usize);
                    let submit = |it| pool.submit(|it: Vec<u8>| it.len(), vec![1; length(it)]);
                    let futures: Vec<TaskFuture<usize>> = (0..100).map(submit).collect();
                    for (number, future) in futures.into_iter().enumerate() {
                        assert_eq!(future.result()?, length(number));
                    }
                    Ok(100)
                })
            })
            .collect();
        for thread in threads {
            assert_eq!(thread.join().expect("no panic")?, 100);
        }
        // Nothing is taken up any more: what takes all of it has room.
        let whole = pool.try_submit(|it: Vec<u8>| it.len(), vec![0; BUDGET as usize - 512])?;
        assert!(whole.result()? > 0);
        Ok(())
    })
}

#[test]
fn what_is_larger_than_all_room_is_taken_when_nothing_else_is_pending() -> Result<()> {
    in_time(|| {
        let pool = narrow_pool(1);
        let large = vec![1u8; 4 * BUDGET as usize];
        for _ in 0..3 {
            let future = pool.submit(|it: Vec<u8>| it.len(), large.clone());
            assert_eq!(future.result()?, large.len());
        }
        assert_eq!(pool.map(|it: Vec<u8>| it.len(), vec![large; 5])?.len(), 5);
        Ok(())
    })
}

#[test]
fn maps_read_no_further_ahead_than_there_is_room_for() -> Result<()> {
    in_time(|| {
        let pool = narrow_pool(2);
        let gate = Gate::new();
        let (read, let_in) = (Cell::new(0), Cell::new(0));
        let item = (gate.path(), vec![0u8; 8 << 10]);
        let input = std::iter::repeat_with(|| {
            read.set(read.get() + 1);
            // All room, and a chunk of 32 KiB.
            assert!(read.get() <= let_in.get() + 8 + 5, "{}", read.get());
            item.clone()
        });
        let mut lengths = pool.imap_unordered(pass_with, input.take(200));
        while read.get() < 200 {
            let_in.set(let_in.get() + 1);
            gate.let_in(1);
            assert_eq!(lengths.next().expect("a result")?, 8 << 10);
        }
        gate.open();
        drop(lengths);
        let all = pool.map_async(|it: Vec<u8>| it.len(), vec![item.1; 100]);
        assert_eq!(all.result()?.len(), 100);
        Ok(())
    })
}

#[test]
fn a_map_goes_on_beside_others_that_take_up_all_room() -> Result<()> {
    in_time(|| {
        let pool = narrow_pool(2);
        let gate = Gate::new();
        let hog = pool.submit(pass_with, (gate.path(), vec![0; BUDGET as usize]));
        gate.wait_for(1);
        assert_eq!(pool.map(square, 0..500)?.len(), 500);
        let results: Result<Vec<u64>> = pool.imap_unordered(square, 0..500).collect();
        assert_eq!(results?.len(), 500);
        gate.open();
        hog.result()?;
        Ok(())
    })
}

#[test]
fn room_is_given_back_by_tasks_that_are_cancelled_fail_or_are_forgotten() -> Result<()> {
    in_time(|| {
        let pool = narrow_pool(1);
        let gate = Gate::new();
        let held = pool.submit(pass, gate.path());
        gate.wait_for(1);
        let waiting = pool.submit(pass_with, half(&gate));
        let refused = |it: &ProcessPoolExecutor| {
            let kept = it.try_submit(pass_with, half(&gate));
            kept.map_err(|it: TrySubmitError<_>| it.kind())
        };
        assert_eq!(failure(refused(&pool)), ErrorKind::Full);
        assert!(waiting.cancel());
        // It is forgotten, and runs.
        drop(refused(&pool).expect("room"));
        gate.open();
        held.result()?;
        let crash = |it: Vec<u8>| -> () {
            drop(it);
            std::process::abort()
        };
        for _ in 0..3 {
            failure(pool.apply(crash, vec![0; BUDGET as usize - 512]));
        }
        Ok(())
    })
}
