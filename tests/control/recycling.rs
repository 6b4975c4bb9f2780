//! Workers that are replaced in good order, and pools that grow and shrink.

use common::{Gate, failure, in_time, pass, pool_of, process_id, race, square};
use procpool::{ErrorKind, ProcessPoolExecutor, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    thread,
};

static LEAKED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn recycled(workers: usize, tasks: u64) -> Result<ProcessPoolExecutor> {
    let builder = ProcessPoolExecutor::builder().workers(workers);
    builder.max_tasks_per_worker(tasks).build()
}

fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        thread::yield_now();
    }
}

#[test]
fn a_worker_is_replaced_after_its_share_of_tasks() -> Result<()> {
    in_time(|| {
        let pool = recycled(1, 3)?;
        let one_by_one: Result<Vec<u32>> = (0..9).map(|_| pool.apply(process_id, ())).collect();
        let pids = one_by_one?;
        assert!(
            pids.chunks(3).all(|it| it.iter().all(|pid| *pid == it[0])),
            "{pids:?}"
        );
        assert_eq!(BTreeSet::from_iter(&pids).len(), 3);
        // Items count, not chunks.
        let pids = pool
            .options()
            .chunk_size(100)
            .map(|_: u32| std::process::id(), 0..30)?;
        let mut counts = BTreeMap::new();
        pids.iter()
            .for_each(|it| *counts.entry(it).or_insert(0) += 1);
        assert!(
            counts.values().all(|it| *it <= 3) && counts.len() >= 10,
            "{counts:?}"
        );
        Ok(())
    })
}

#[test]
fn no_task_is_lost_or_run_twice_while_workers_come_and_go() -> Result<()> {
    in_time(|| {
        let pool = recycled(2, 1)?;
        assert_eq!(
            pool.map(square, 0..200)?,
            Vec::from_iter((0..200).map(|it| it * it))
        );
        let pool = recycled(3, 7)?;
        race(|| {
            let futures: Vec<_> = (0..50).map(|it| pool.submit(square, it)).collect();
            let results: Result<Vec<u64>> = futures
                .into_iter()
                .map(procpool::TaskFuture::result)
                .collect();
            assert_eq!(
                results.expect("results"),
                Vec::from_iter((0..50).map(|it| it * it))
            );
        });
        pool.join()
    })
}

#[test]
fn a_replacement_waits_for_the_one_before_it() -> Result<()> {
    in_time(|| {
        let pool = recycled(1, 1)?;
        let gate = Gate::new();
        let held = pool.submit(pass, gate.path());
        let next = pool.submit(square, 3);
        gate.wait_for(1);
        // The replacement is there before the first worker is done, and idle.
        until(|| pool.worker_pids().len() == 2);
        assert!(!next.is_running() && !next.is_done());
        gate.open();
        held.result()?;
        assert_eq!(next.result()?, 9);
        Ok(())
    })
}

#[test]
fn a_worker_that_takes_up_too_much_memory_is_replaced() -> Result<()> {
    in_time(|| {
        let builder = ProcessPoolExecutor::builder().workers(1);
        let pool = builder.max_memory_per_worker(100 << 20).build()?;
        let first = pool.apply(process_id, ())?;
        let leak = |bytes: usize| {
            LEAKED.lock().expect("no panic").push(vec![1; bytes]);
            thread::sleep(std::time::Duration::from_millis(11));
            std::process::id()
        };
        assert_eq!(pool.apply(leak, 1 << 20)?, first);
        assert_eq!(pool.apply(leak, 128 << 20)?, first);
        until(|| pool.apply(process_id, ()).is_ok_and(|it| it != first));
        assert_eq!(pool.stats().restarts, 1);
        Ok(())
    })
}

#[test]
fn shares_of_nothing_are_refused() {
    in_time(|| {
        let builder = ProcessPoolExecutor::builder;
        for refused in [
            builder().max_tasks_per_worker(0),
            builder().max_memory_per_worker(0),
        ] {
            assert_eq!(failure(refused.build()).kind(), ErrorKind::InvalidInput);
        }
        let pool = pool_of(1);
        assert_eq!(failure(pool.resize(0)).kind(), ErrorKind::InvalidInput);
        pool.close();
        assert_eq!(failure(pool.resize(2)).kind(), ErrorKind::Shutdown);
    });
}

#[test]
fn a_pool_grows_and_shrinks_and_those_that_stay_are_the_same() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let before = BTreeSet::from_iter(pool.worker_pids());
        pool.resize(5)?;
        until(|| pool.worker_pids().len() == 5);
        assert!(before.is_subset(&BTreeSet::from_iter(pool.worker_pids())));
        assert_eq!(pool.workers(), 5);
        pool.resize(2)?;
        until(|| pool.worker_pids().len() == 2);
        assert_eq!(before, BTreeSet::from_iter(pool.worker_pids()));
        assert_eq!(pool.map(square, 0..10)?.len(), 10);
        Ok(())
    })
}

#[test]
fn a_busy_pool_is_resized_without_a_loss() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let held = [0, 1].map(|_| pool.submit(pass, gate.path()));
        gate.wait_for(2);
        let futures: Vec<_> = (0..100).map(|it| pool.submit(square, it)).collect();
        // No worker is idle: running tasks finish, and tasks that were sent ahead go to other
        // workers.
        pool.resize(3)?;
        for (future, number) in futures.into_iter().zip(0..) {
            assert_eq!(future.result()?, number * number);
        }
        pool.resize(1)?;
        gate.open();
        for held in held {
            held.result()?;
        }
        until(|| pool.worker_pids().len() == 1);
        race(|| {
            for workers in [4, 1, 3, 2] {
                pool.resize(workers).expect("an open pool");
                assert_eq!(pool.map(square, 0..20).expect("results").len(), 20);
            }
        });
        pool.join()
    })
}
