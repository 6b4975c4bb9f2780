//! Tasks that lose their workers are tried again, as often as they may.

use common::{failure, in_time, pool_of, square};
use procpool::{ErrorKind, ProcessPoolExecutor, Result, current_worker};
use std::{process, thread, time::Duration};

fn attempt() -> u32 {
    current_worker().map_or(0, |it| it.attempt)
}

/// A task that ends its worker in all tries before the given one.
fn crash_before(tries: u32) -> u32 {
    if attempt() < tries {
        process::abort();
    }
    attempt()
}

#[test]
fn a_task_that_loses_its_worker_is_tried_again() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        assert_eq!(pool.options().retries(2).apply(crash_before, 3)?, 3);
        let pool = ProcessPoolExecutor::builder().retries(2).build()?;
        assert_eq!(pool.apply(crash_before, 3)?, 3);
        assert_eq!(pool.apply(|()| attempt(), ())?, 1);
        Ok(())
    })
}

#[test]
fn without_retries_no_task_runs_twice() {
    in_time(|| {
        let pool = pool_of(1);
        let error = failure(pool.apply(crash_before, 2));
        assert_eq!(error.kind(), ErrorKind::WorkerDied);
    });
}

#[test]
fn a_task_that_uses_up_its_tries_fails_alone_and_tells_of_all() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let others: Vec<_> = (0..20).map(|it| pool.submit(square, it)).collect();
        let error = failure(pool.options().retries(2).apply(crash_before, 9));
        assert_eq!(error.kind(), ErrorKind::WorkerDied);
        assert_eq!(error.worker().and_then(|it| it.signal), Some(6));
        let text = error.to_string();
        assert_eq!(text.matches("was killed by SIGABRT").count(), 3, "{text}");
        assert!(
            text.contains("(attempt 3 of 3; before that: worker "),
            "{text}"
        );
        for (future, number) in others.into_iter().zip(0..) {
            assert_eq!(future.result()?, number * number);
        }
        Ok(())
    })
}

#[test]
fn a_task_that_runs_out_of_time_is_tried_again() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let slow_at_first = |()| {
            while attempt() < 3 {
                thread::park();
            }
            attempt()
        };
        let options = pool.options().timeout(Duration::from_millis(30)).retries(5);
        assert_eq!(options.apply(slow_at_first, ())?, 3);
        Ok(())
    })
}

#[test]
fn a_panic_is_an_answer_and_not_retried() {
    in_time(|| {
        let pool = pool_of(1);
        let panics = |()| -> u32 { panic!("in try {}", attempt()) };
        let error = failure(pool.options().retries(3).apply(panics, ()));
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert!(error.to_string().contains("in try 1"), "{error}");
    });
}

#[test]
fn items_of_a_map_are_tried_again_one_by_one() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let work = |number: u32| {
            if number.is_multiple_of(5) {
                crash_before(2);
            }
            number
        };
        for chunk_size in [1, 7, 100] {
            let options = pool.options().retries(1).chunk_size(chunk_size);
            assert_eq!(options.map(work, 0..40)?, Vec::from_iter(0..40));
        }
        let results = pool
            .options()
            .retries(1)
            .map_results(crash_before, [1, 9, 2]);
        let kinds: Vec<_> = results
            .iter()
            .map(|it| it.as_ref().err().map(procpool::Error::kind))
            .collect();
        assert_eq!(kinds, [None, Some(ErrorKind::WorkerDied), None]);
        Ok(())
    })
}

#[test]
fn what_waits_for_its_next_try_can_be_cancelled() {
    in_time(|| {
        let pool = pool_of(1);
        let future = pool
            .options()
            .retries(u32::MAX)
            .submit(crash_before, u32::MAX);
        while !future.kill() {
            thread::yield_now();
        }
        assert_eq!(failure(future.result()).kind(), ErrorKind::Cancelled);
        // Nothing is left that would keep the pool from ending.
        assert!(pool.join().is_ok());
    });
}

#[test]
fn a_panic_is_tried_again_only_where_that_is_asked_for() -> Result<()> {
    in_time(|| {
        let panic_once = |()| match attempt() {
            1 => panic!("not yet"),
            attempt => (attempt, process::id()),
        };
        let pool = pool_of(1);
        let error = failure(pool.options().retries(1).apply(panic_once, ()));
        assert_eq!(error.kind(), ErrorKind::Panicked);
        let again = pool.options().retries(1).retry_panics(true);
        // The worker has not died of it.
        assert_eq!(again.apply(panic_once, ())?, (2, pool.worker_pids()[0]));
        let pool = ProcessPoolExecutor::builder()
            .retries(1)
            .retry_panics(true)
            .build()?;
        assert_eq!(pool.apply(panic_once, ())?.0, 2);
        Ok(())
    })
}

#[test]
fn a_panic_that_comes_again_with_every_try_tells_of_all() {
    in_time(|| {
        let pool = pool_of(1);
        let again = pool.options().retries(2).retry_panics(true);
        let error = failure(again.apply(|()| -> () { panic!("no {}", attempt()) }, ()));
        assert_eq!(error.kind(), ErrorKind::Panicked);
        let text = error.to_string();
        assert!(
            ["no 1", "no 2", "no 3"].iter().all(|it| text.contains(it)),
            "{text}"
        );
        assert_eq!(
            error.remote_panic().map(|it| it.message.as_str()),
            Some("no 3")
        );
        assert_eq!(pool.stats().retried, 2);
    });
}

#[test]
fn an_item_of_a_chunk_that_panics_is_tried_again_alone() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let options = pool.options().chunk_size(10).retries(1).retry_panics(true);
        let sometimes = |x: u64| match attempt() {
            1 if x % 10 == 3 || x == 50 => panic!("not yet"),
            attempt => (x, attempt),
        };
        let expected = |x: u64| (x, if x % 10 == 3 || x == 50 { 2 } else { 1 });
        let all: Vec<_> = (0..60).map(expected).collect();
        assert_eq!(options.map(sometimes, 0..60)?, all);
        let results: Result<Vec<_>> = options.imap(sometimes, 0..60).collect();
        assert_eq!(results?, all);
        Ok(())
    })
}
