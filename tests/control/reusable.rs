//! The executor that all of a process shares. Each test has a process of its own.

use common::processes::{eventually, process};
use common::{Gate, alone, failure, pass, process_id, race, square};
use procpool::{ErrorKind, Lock, ProcessPoolExecutor, StartMethod};
use std::{process, sync::Arc, thread, time::Duration};

fn shared() -> Arc<ProcessPoolExecutor> {
    ProcessPoolExecutor::reusable().expect("a pool")
}

fn shared_of(workers: usize) -> Arc<ProcessPoolExecutor> {
    let builder = ProcessPoolExecutor::builder().workers(workers);
    builder.reusable().expect("a pool")
}

/// An initializer.
fn set_up(_: u32) -> Result<(), String> {
    Ok(())
}

/// Checks that a pool of a number of workers is at work.
fn check(pool: &ProcessPoolExecutor, workers: usize) {
    assert_eq!(pool.workers(), workers);
    let squares = pool.map(square, 0..20).expect("squares");
    assert_eq!(squares, Vec::from_iter((0..20).map(|it| it * it)));
}

#[test]
fn who_asks_for_the_same_gets_the_same() {
    alone("", || {
        assert!(Arc::ptr_eq(&shared(), &shared()));
        let numbered = |it: u32| {
            let builder = ProcessPoolExecutor::builder()
                .workers(2)
                .env("NUMBER", it.to_string())
                .initializer(set_up, it)
                .start_method(StartMethod::Spawn)
                .max_tasks_per_worker(1000)
                .idle_timeout(Duration::from_secs(1));
            builder.reusable().expect("a pool")
        };
        let one = numbered(1);
        let pids = one.worker_pids();
        assert!(Arc::ptr_eq(&one, &numbered(1)));
        assert_eq!(pids, numbered(1).worker_pids());
        assert!(!Arc::ptr_eq(&one, &numbered(2)));
    });
}

#[test]
fn other_settings_give_a_new_one_and_the_old_one_works_on_until_it_is_dropped() {
    alone("", || {
        let old = shared_of(1);
        let gate = Gate::new();
        let running = old.submit(pass, gate.path());
        gate.wait_for(1);
        let new = shared_of(2);
        check(&new, 2);
        let late = old.submit(square, 4);
        gate.open();
        assert_eq!(late.result().expect("it is open"), 16);
        running.result().expect("it was let in");
        drop(old);
        assert!(Arc::ptr_eq(&new, &shared_of(2)));
    });
}

#[test]
fn one_that_was_resized_is_another() {
    alone("", || {
        let pool = shared_of(1);
        pool.resize(3).expect("three workers");
        check(&shared_of(1), 1);
        check(&pool, 3);
    });
}

#[test]
fn an_initializer_with_the_same_handle_is_the_same() {
    alone("", || {
        let with = |lock: &Lock| {
            let hold = |lock: Lock| lock.acquire().map(drop).map_err(|it| it.to_string());
            let builder = ProcessPoolExecutor::builder().workers(1);
            let pool = builder.initializer(hold, lock.clone()).reusable();
            pool.expect("a pool")
        };
        let [one, other] = [(); 2].map(|()| Lock::new().expect("a lock"));
        let pool = with(&one);
        assert!(Arc::ptr_eq(&pool, &with(&one)));
        assert!(!Arc::ptr_eq(&pool, &with(&other)));
        check(&with(&other), 1);
    });
}

#[test]
fn what_was_submitted_to_one_that_is_replaced_is_finished() {
    alone("", || {
        let results: Vec<_> = (0..100).map(|it| shared_of(1).submit(square, it)).collect();
        check(&shared_of(2), 2);
        for (x, future) in (0..).zip(results) {
            assert_eq!(future.result().expect("a square"), x * x);
        }
    });
}

#[test]
fn one_that_is_closed_stopped_or_broken_is_replaced() {
    alone("", || {
        let ends: [fn(&ProcessPoolExecutor); 4] = [
            |it| it.close(),
            |it| it.terminate(),
            |it| it.kill(),
            |it| it.join().expect("it has nothing to do"),
        ];
        for end in ends {
            let pool = shared_of(2);
            end(&pool);
            assert_eq!(failure(pool.apply(square, 1)).kind(), ErrorKind::Shutdown);
            check(&shared_of(2), 2);
        }
        let broken = ProcessPoolExecutor::builder()
            .workers(1)
            .initializer(|()| -> Result<(), String> { process::abort() }, ());
        // Its first worker is found to have died at once, or by the first call.
        let error = failure(broken.reusable().and_then(|it| it.apply(square, 1)));
        assert_eq!(error.kind(), ErrorKind::StartFailed);
        check(&shared_of(2), 2);
    });
}

#[test]
fn a_crash_is_no_reason_for_another_one() {
    alone("", || {
        let pool = shared_of(2);
        for _ in 0..20 {
            let died = failure(pool.apply(|()| -> () { process::abort() }, ()));
            assert_eq!(died.kind(), ErrorKind::WorkerDied);
            assert!(Arc::ptr_eq(&pool, &shared_of(2)));
            check(&pool, 2);
        }
    });
}

#[test]
fn threads_that_ask_for_different_settings_each_get_what_they_asked_for() {
    alone("", || {
        thread::scope(|scope| {
            for workers in 1..=3 {
                scope.spawn(move || race(|| check(&shared_of(workers), workers)));
            }
        });
    });
}

#[test]
fn threads_that_ask_for_the_same_build_it_once() {
    alone("", || {
        let asked: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| shared_of(2))).collect();
            let pools = threads.into_iter().map(|it| it.join().expect("a pool"));
            pools.collect()
        });
        assert!(asked.iter().all(|it| Arc::ptr_eq(it, &asked[0])));
    });
}

/// A task: the worker that it runs in, and that of the executor which the former has for all of its
/// tasks.
fn with_one_of_its_own((): ()) -> (u32, u32) {
    let builder = ProcessPoolExecutor::builder().workers(1);
    let pool = builder.idle_timeout(Duration::from_secs(3600)).reusable();
    let inner = pool.and_then(|it| it.apply(process_id, ()));
    (process::id(), inner.expect("a pool in a worker"))
}

#[test]
fn a_task_has_one_of_its_own_that_does_not_delay_the_end_of_its_worker() {
    alone("", || {
        let outer = shared_of(1);
        let (own, inner) = outer.apply(with_one_of_its_own, ()).expect("pids");
        assert_eq!(vec![own], outer.worker_pids());
        let again = outer.apply(with_one_of_its_own, ()).expect("pids");
        assert_eq!((own, inner), again);
        let worker = process(inner);
        assert!(worker.runs());
        // It waits for the worker, which does not wait an hour for its own.
        outer.join().expect("nothing went wrong");
        eventually("the inner worker is gone", || !worker.runs());
    });
}

#[test]
fn what_cannot_be_built_is_said_and_changes_nothing() {
    alone("", || {
        let pool = shared_of(2);
        let refused = ProcessPoolExecutor::builder().workers(0).reusable();
        assert_eq!(failure(refused).kind(), ErrorKind::InvalidInput);
        let refused = ProcessPoolExecutor::builder().start_method(StartMethod::Fork);
        assert_eq!(failure(refused.reusable()).kind(), ErrorKind::Unsupported);
        assert!(Arc::ptr_eq(&pool, &shared_of(2)));
    });
}
