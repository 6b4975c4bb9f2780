//! Dropped: like joined, in any place, and with futures of the pool still held.

use crate::{held_up_pool, kinds};
use common::processes::is_running;
use common::{Gate, alone, arrive, in_time, pass, pool_of, square};
use procpool::{ErrorKind, ProcessPoolExecutor, Result, ReturnWhen, as_completed, wait};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

#[test]
fn a_dropped_pool_finishes_what_it_has() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let futures: Vec<_> = (0..1000).map(|x| pool.submit(square, x)).collect();
        drop(pool);
        assert!(futures.iter().all(|it| it.is_done()));
        for (x, future) in (0..).zip(futures) {
            assert_eq!(future.result()?, x * x);
        }
        Ok(())
    })
}

#[test]
fn a_dropped_pool_finishes_what_nobody_holds_a_future_of() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        for _ in 0..50 {
            let touch = |gate: PathBuf| arrive(&gate);
            let _unread = pool.submit(touch, gate.path());
        }
        drop(pool);
        assert_eq!(gate.arrived(), 50);
    });
}

#[test]
fn an_unused_pool_can_be_dropped() {
    in_time(|| drop(pool_of(3)));
}

#[test]
fn a_stopped_pool_can_be_dropped() {
    in_time(|| {
        for stop in [ProcessPoolExecutor::terminate, ProcessPoolExecutor::kill] {
            let (pool, _gate, _running) = held_up_pool();
            stop(&pool);
            drop(pool);
        }
    });
}

#[test]
fn no_worker_runs_when_a_pool_is_dropped() {
    in_time(|| {
        let pool = pool_of(2);
        let pids = pool.worker_pids();
        drop(pool);
        assert!(!pids.into_iter().any(is_running));
    });
}

#[test]
fn a_pool_can_be_dropped_while_other_threads_wait_for_its_futures() {
    in_time(|| {
        let (pool, gate, running) = held_up_pool();
        let queued: Vec<_> = (0..4).map(|x| pool.submit(square, x)).collect();
        let waiting = queued
            .into_iter()
            .map(|it| thread::spawn(|| it.result().ok()));
        let waiting: Vec<_> = waiting.collect();
        let dropping = thread::spawn(move || drop(pool));
        gate.open();
        dropping.join().expect("no panic");
        assert!(running.is_done());
        for (x, thread) in (0..).zip(waiting) {
            assert_eq!(thread.join().expect("no panic"), Some(x * x));
        }
    });
}

#[test]
fn a_future_answers_every_question_after_its_pool_is_dropped() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(square, 7);
        drop(pool);
        assert!(future.is_done() && !future.is_running() && !future.is_cancelled());
        assert!(!future.cancel());
        let waited = wait([&future], ReturnWhen::AllCompleted, Some(Duration::ZERO));
        assert_eq!(waited.done, [0]);
        assert_eq!(future.result_timeout(Duration::ZERO)?, 49);
        Ok(())
    })
}

#[test]
fn the_last_handle_may_be_dropped_in_a_callback() {
    in_time(|| {
        let pool = Arc::new(pool_of(1));
        let gate = Gate::new();
        let (sender, receiver) = mpsc::channel();
        let in_callback = Arc::clone(&pool);
        let future = pool.submit(pass, gate.path());
        future.add_done_callback(move || {
            drop(in_callback);
            sender.send(()).expect("a receiver");
        });
        drop(pool);
        gate.open();
        receiver.recv().expect("the callback's end");
    });
}

#[test]
fn a_pool_dropped_in_a_callback_finishes_what_it_has() -> Result<()> {
    in_time(|| {
        let pool = Arc::new(pool_of(1));
        let gate = Gate::new();
        let in_callback = Arc::clone(&pool);
        let first = pool.submit(pass, gate.path());
        let queued: Vec<_> = (0..50).map(|x| pool.submit(square, x)).collect();
        first.add_done_callback(move || drop(in_callback));
        drop(pool);
        gate.open();
        for (x, future) in (0..).zip(queued) {
            assert_eq!(future.result()?, x * x);
        }
        Ok(())
    })
}

#[test]
fn the_callbacks_behind_one_that_drops_the_pool_run() {
    in_time(|| {
        let pool = Arc::new(pool_of(1));
        let gate = Gate::new();
        let (sender, receiver) = mpsc::channel();
        let in_callback = Arc::clone(&pool);
        let future = pool.submit(pass, gate.path());
        future.add_done_callback(move || drop(in_callback));
        for number in 0..3 {
            let sender = sender.clone();
            future.add_done_callback(move || sender.send(number).expect("a receiver"));
        }
        drop((pool, sender));
        gate.open();
        assert_eq!(receiver.into_iter().collect::<Vec<_>>(), [0, 1, 2]);
    });
}

#[test]
fn a_pool_can_be_dropped_while_its_thread_panics() {
    in_time(|| {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let pool = pool_of(1);
            let _unread: Vec<_> = (0..100).map(|x| pool.submit(square, x)).collect();
            panic!("on purpose")
        }));
        assert!(outcome.is_err());
    });
}

#[test]
fn imap_of_a_dropped_pool_has_one_outcome_for_each_item_and_ends() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let mut results = pool.options().window(4).chunk_size(1).imap(square, 0..20);
        assert_eq!(results.next().transpose()?, Some(0));
        drop(pool);
        let rest = kinds(results);
        let given = rest.iter().take_while(|it| it.is_ok()).count();
        assert!(
            rest[..given]
                .iter()
                .copied()
                .eq((1..).map(square).map(Ok).take(given))
        );
        assert_eq!(rest[given..], vec![Err(ErrorKind::Shutdown); 19 - given]);
        Ok(())
    })
}

#[test]
fn an_unread_imap_may_be_dropped_after_its_pool() {
    in_time(|| {
        let pool = pool_of(1);
        let mut results = pool.imap(square, 0..100);
        assert!(results.next().is_some());
        drop(pool);
        drop(results);
    });
}

#[test]
fn as_completed_outlives_the_pool() {
    in_time(|| {
        let pool = pool_of(2);
        let results = as_completed((0..100).map(|x| pool.submit(square, x)));
        drop(pool);
        assert_eq!(results.filter(|it| it.1.is_ok()).count(), 100);
    });
}

/// Entries of a directory that describes this process.
fn count(directory: &str) -> usize {
    fs::read_dir(directory)
        .expect("a directory of /proc")
        .count()
}

#[test]
fn pools_leave_no_descriptor_and_no_thread_behind() {
    alone("", || {
        let use_a_pool = || {
            let pool = pool_of(2);
            let _unread = pool.apply_async(square, 7, |_| ());
            let large = pool
                .map(|size| vec![0u8; size], [100_000; 20])
                .expect("bytes");
            assert_eq!(large.len(), 20);
            assert!(
                pool.apply(|()| -> () { std::process::abort() }, ())
                    .is_err()
            );
        };
        let threads = count("/proc/self/task");
        // The fork server stays.
        use_a_pool();
        let descriptors = count("/proc/self/fd");
        (0..20).for_each(|_| use_a_pool());
        assert_eq!(count("/proc/self/fd"), descriptors);
        // A thread that was joined is gone from there a moment later.
        while count("/proc/self/task") > threads {
            thread::yield_now();
        }
    });
}

#[test]
fn a_pool_works_on_threads_that_end_and_may_be_dropped_on_another() {
    in_time(|| {
        let build = thread::spawn(|| pool_of(2)).join();
        let pool = build.expect("no panic");
        let workers = pool.worker_pids();
        let used = thread::spawn(move || (pool.map(|x: u64| x + 1, 0..100), pool)).join();
        let (values, pool) = used.expect("no panic");
        assert_eq!(values.expect("results"), Vec::from_iter(1..101));
        // A worker is bound to no thread: none has ended with the one that started it.
        assert_eq!(pool.worker_pids(), workers);
        thread::spawn(|| drop(pool)).join().expect("no panic");
        assert!(!workers.into_iter().any(is_running));
    });
}
