//! Workers that have nothing to do end, and come again when they are needed.

use common::{Gate, failure, in_time, pass, process_id, race, square};
use procpool::{ProcessPoolExecutor, Result};
use std::{process, thread, time::Duration};

fn pool_that_rests(workers: usize, limit: Duration) -> ProcessPoolExecutor {
    let builder = ProcessPoolExecutor::builder().workers(workers);
    builder.idle_timeout(limit).build().expect("a pool")
}

fn wait_until_all_rest(pool: &ProcessPoolExecutor) {
    while !pool.worker_pids().is_empty() {
        thread::yield_now();
    }
}

#[test]
fn workers_with_nothing_to_do_end_and_come_again_for_the_next_task() -> Result<()> {
    in_time(|| {
        let pool = pool_that_rests(2, Duration::from_millis(5));
        let mut pids = Vec::new();
        for _ in 0..5 {
            wait_until_all_rest(&pool);
            pids.push(pool.apply(process_id, ())?);
        }
        pids.sort_unstable();
        pids.dedup();
        assert_eq!(pids.len(), 5);
        assert_eq!(pool.workers(), 2);
        assert_eq!(pool.stats().restarts, 0);
        Ok(())
    })
}

#[test]
fn as_many_workers_come_again_as_there_is_work_for() -> Result<()> {
    in_time(|| {
        let pool = pool_that_rests(3, Duration::from_millis(5));
        wait_until_all_rest(&pool);
        let gate = Gate::new();
        let one = pool.submit(pass, gate.path());
        gate.wait_for(1);
        assert_eq!(pool.worker_pids().len(), 1);
        let two = pool.submit(pass, gate.path());
        gate.wait_for(1);
        assert_eq!(pool.worker_pids().len(), 2);
        let others: Vec<_> = (0..9).map(|_| pool.submit(pass, gate.path())).collect();
        gate.wait_for(1);
        assert_eq!(pool.worker_pids().len(), 3);
        gate.open();
        for future in [one, two].into_iter().chain(others) {
            future.result()?;
        }
        wait_until_all_rest(&pool);
        pool.join()
    })
}

#[test]
fn a_worker_that_is_needed_stays() -> Result<()> {
    in_time(|| {
        let pool = pool_that_rests(1, Duration::from_secs(3600));
        let pids = pool.map(|_: u32| process::id(), 0..100)?;
        assert!(pids.iter().all(|it| *it == pids[0]));
        assert_eq!(pool.apply(process_id, ())?, pids[0]);
        Ok(())
    })
}

#[test]
fn no_task_is_lost_between_the_end_of_a_worker_and_the_next() {
    in_time(|| {
        let pool = pool_that_rests(2, Duration::ZERO);
        let mut number = 0;
        race(|| {
            number += 1;
            assert_eq!(pool.apply(square, number).ok(), Some(number * number));
            let squares = pool.map(square, 0..number % 7).expect("squares");
            assert_eq!(squares.len() as u64, number % 7);
        });
    });
}

#[test]
fn a_retry_finds_a_worker_although_all_have_ended_meanwhile() -> Result<()> {
    in_time(|| {
        let pool = pool_that_rests(1, Duration::from_millis(1));
        let crash_once = |()| match procpool::current_worker().map(|it| it.attempt) {
            Some(1) => process::abort(),
            attempt => attempt,
        };
        assert_eq!(pool.options().retries(1).apply(crash_once, ())?, Some(2));
        let error = failure(pool.apply(|()| -> () { process::abort() }, ()));
        assert!(error.worker().is_some());
        wait_until_all_rest(&pool);
        pool.join()
    })
}

#[test]
fn a_pool_whose_workers_rest_can_be_resized_closed_and_dropped() -> Result<()> {
    in_time(|| {
        let pool = pool_that_rests(2, Duration::from_millis(1));
        wait_until_all_rest(&pool);
        pool.resize(1)?;
        assert_eq!(pool.map(square, 0..4)?, [0, 1, 4, 9]);
        wait_until_all_rest(&pool);
        pool.resize(3)?;
        wait_until_all_rest(&pool);
        let late = pool.submit(square, 5);
        pool.close();
        assert_eq!(late.result()?, 25);
        drop(pool);
        drop(pool_that_rests(2, Duration::ZERO));
        Ok(())
    })
}
