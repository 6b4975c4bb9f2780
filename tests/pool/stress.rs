//! Everything at once: callers of every kind on one pool, and a count of what the workers really
//! did.

use common::{Gate, in_time, pass, pool_of, race, square};
use futures::{StreamExt, executor::block_on};
use procpool::{
    ErrorKind, ProcessPoolExecutor, Result, ReturnWhen, as_completed, current_worker, wait,
};
use std::{
    hint::black_box,
    path::PathBuf,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// A task: takes some microseconds, or 1 ms now and then.
fn uneven(x: u64) -> u64 {
    let rounds = if x.is_multiple_of(97) {
        100_000
    } else {
        x % 500
    };
    black_box((0..rounds).map(black_box).sum::<u64>());
    x
}

/// How many tasks each worker has finished. Nothing else may be submitted meanwhile.
fn tasks_done(pool: &ProcessPoolExecutor) -> u64 {
    let gate = Gate::new();
    let count = |gate: PathBuf| {
        pass(gate);
        current_worker().map_or(0, |it| it.tasks_done)
    };
    let workers = pool.workers();
    let counts: Vec<_> = (0..workers)
        .map(|_| pool.submit(count, gate.path()))
        .collect();
    // Each holds a worker up, so there is one in each.
    gate.wait_for(workers);
    gate.open();
    let counts = counts.into_iter().map(|it| it.result().expect("a count"));
    counts.sum()
}

#[test]
fn every_item_runs_exactly_once() -> Result<()> {
    in_time(|| {
        let pool = pool_of(4);
        let mut submitted = 0;
        for chunk in [1, 10, 1000] {
            let results = pool.options().chunk_size(chunk).map(uneven, 0..10_000)?;
            assert!(results.into_iter().eq(0..10_000));
            submitted += 10_000;
        }
        let results = pool.map(uneven, 0..10_000)?;
        assert!(results.into_iter().eq(0..10_000));
        assert_eq!(tasks_done(&pool), submitted + 10_000);
        Ok(())
    })
}

#[test]
fn every_task_runs_exactly_once() -> Result<()> {
    in_time(|| {
        let pool = pool_of(4);
        let futures: Vec<_> = (0..10_000).map(|x| pool.submit(uneven, x)).collect();
        for (x, future) in (0..).zip(futures) {
            assert_eq!(future.result()?, x);
        }
        assert_eq!(tasks_done(&pool), 10_000);
        Ok(())
    })
}

#[test]
fn a_task_runs_if_and_only_if_it_was_not_cancelled() {
    in_time(|| {
        let pool = pool_of(2);
        let mut done = 0;
        race(|| {
            let futures: Vec<_> = (0..200).map(|x| pool.submit(uneven, x)).collect();
            // From several places at once, forwards and backwards.
            for index in (0..200).step_by(3).chain((0..200).rev().step_by(7)) {
                futures[index].cancel();
            }
            done += futures
                .into_iter()
                .filter_map(|it| it.result().ok())
                .count() as u64;
        });
        assert_eq!(tasks_done(&pool), done);
    });
}

#[test]
fn maps_that_are_given_up_leave_the_others_alone() {
    in_time(|| {
        let pool = pool_of(2);
        race(|| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut results = pool.imap(uneven, 0..);
                    assert!(results.by_ref().take(50).all(|it| it.is_ok()));
                });
                scope.spawn(|| assert!(pool.map(|x| 100 / (30 - x), 0..100u64).is_err()));
                let map = scope.spawn(|| pool.map(uneven, 0..500));
                let cancelled = pool.map_async(uneven, 0..500);
                cancelled.cancel();
                let results = map.join().expect("no panic").expect("results");
                assert!(results.into_iter().eq(0..500));
                // It ends, whatever came of it.
                let _cancelled_or_done = cancelled.result();
            });
        });
    });
}

#[test]
fn waits_that_time_out_hold_nobody_up() {
    in_time(|| {
        let pool = pool_of(2);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let patient = |micros: u64| {
                let (pool, stop) = (&pool, &stop);
                move || {
                    while !stop.load(Ordering::Relaxed) {
                        let mut future = pool.submit(uneven, micros);
                        let result = loop {
                            match future.result_timeout(Duration::from_micros(micros)) {
                                Err(error) if error.kind() == ErrorKind::TimedOut => {}
                                result => break result,
                            }
                        };
                        assert_eq!(result.ok(), Some(micros));
                    }
                }
            };
            for micros in [0, 1, 30, 200] {
                scope.spawn(patient(micros));
            }
            race(|| assert_eq!(pool.apply(square, 7).ok(), Some(49)));
            stop.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn callers_of_every_kind_share_a_pool() {
    in_time(|| {
        let pool = pool_of(3);
        race(|| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    let results = pool.map(uneven, 0..300).expect("results");
                    assert!(results.into_iter().eq(0..300));
                });
                scope.spawn(|| {
                    let stream = pool.imap_unordered(uneven, 0..300).into_stream();
                    assert_eq!(block_on(stream.count()), 300);
                });
                scope.spawn(|| {
                    let futures: Vec<_> = (0..50).map(|x| pool.submit(square, x)).collect();
                    let waited = wait(&futures, ReturnWhen::AllCompleted, None);
                    assert_eq!(waited.done.len(), 50);
                });
                scope.spawn(|| {
                    let results = as_completed((0..50).map(|x| pool.submit(square, x)));
                    assert_eq!(results.filter(|it| it.1.is_ok()).count(), 50);
                });
                scope.spawn(|| {
                    let (sender, receiver) = mpsc::channel();
                    for x in 0..50 {
                        let sender = sender.clone();
                        let callback =
                            move |it: &Result<u64>| sender.send(it.is_ok()).expect("a receiver");
                        let _unread = pool.apply_async(square, x, callback);
                    }
                    drop(sender);
                    assert_eq!(receiver.into_iter().filter(|it| *it).count(), 50);
                });
                scope.spawn(|| {
                    let large = pool.apply(|size| vec![7u8; size], 100_000).expect("bytes");
                    assert_eq!(large.len(), 100_000);
                });
                scope.spawn(|| {
                    assert!(pool.apply(|()| -> () { panic!("on purpose") }, ()).is_err())
                });
            });
        });
    });
}

#[test]
fn a_dying_worker_among_callers_of_every_kind_costs_one_task() {
    in_time(|| {
        let pool = pool_of(2);
        race(|| {
            thread::scope(|scope| {
                let map = scope.spawn(|| pool.map(uneven, 0..300));
                let single = scope.spawn(|| pool.apply(square, 7));
                let dying = scope.spawn(|| pool.apply(|()| -> () { std::process::abort() }, ()));
                let results = map.join().expect("no panic").expect("results");
                assert!(results.into_iter().eq(0..300));
                assert_eq!(single.join().expect("no panic").ok(), Some(49));
                let died = dying.join().expect("no panic");
                assert_eq!(died.map_err(|it| it.kind()), Err(ErrorKind::WorkerDied));
            });
        });
    });
}

#[test]
fn a_pool_may_have_many_more_workers_than_the_machine_has_cores() -> Result<()> {
    in_time(|| {
        let pool = pool_of(40);
        assert!(pool.map(uneven, 0..20_000)?.into_iter().eq(0..20_000));
        let futures: Vec<_> = (0..2000).map(|x| pool.submit(uneven, x)).collect();
        for (x, future) in (0..).zip(futures) {
            assert_eq!(future.result()?, x);
        }
        Ok(())
    })
}

#[test]
fn ten_thousand_futures_are_given_as_they_end() {
    in_time(|| {
        let pool = pool_of(2);
        let results = as_completed((0..10_000).map(|x| pool.submit(square, x)));
        assert_eq!(results.filter(|it| it.1.is_ok()).count(), 10_000);
    });
}
