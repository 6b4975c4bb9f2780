//! Shut down with and without what is pending, terminated, killed.

use crate::{assert_is_shutdown, held_up_pool, pass_deaf};
use common::processes::is_running;
use common::{Gate, arrive, failure, in_time, pass, pool_of, race, square};
use procpool::{Error, ErrorKind, ProcessPoolExecutor, Result, ReturnWhen, wait};
use std::{path::PathBuf, sync::mpsc, thread};

#[test]
fn shutdown_without_cancelling_is_close() -> Result<()> {
    in_time(|| {
        let (pool, gate, running) = held_up_pool();
        let queued: Vec<_> = (0..50).map(|x| pool.submit(square, x)).collect();
        pool.shutdown(false);
        assert_is_shutdown(pool.apply(square, 7));
        gate.open();
        running.result()?;
        assert!(queued.into_iter().all(|it| it.result().is_ok()));
        Ok(())
    })
}

#[test]
fn shutdown_with_cancelling_cancels_all_that_has_not_started() {
    in_time(|| {
        let (pool, _gate, _running) = held_up_pool();
        let queued: Vec<_> = (0..50).map(|x| pool.submit(square, x)).collect();
        pool.shutdown(true);
        for future in queued {
            assert!(future.is_cancelled());
            assert_eq!(failure(future.result()).kind(), ErrorKind::Cancelled);
        }
    });
}

#[test]
fn shutdown_with_cancelling_lets_what_runs_finish() -> Result<()> {
    in_time(|| {
        let (pool, gate, running) = held_up_pool();
        pool.shutdown(true);
        assert!(!running.is_done());
        gate.open();
        running.result()
    })
}

#[test]
fn what_shutdown_cancelled_never_runs() -> Result<()> {
    in_time(|| {
        let (pool, gate, _running) = held_up_pool();
        let touch = |gate: PathBuf| arrive(&gate);
        for _ in 0..50 {
            let _unread = pool.submit(touch, gate.path());
        }
        pool.shutdown(true);
        gate.open();
        pool.join()?;
        assert_eq!(gate.arrived(), 0);
        Ok(())
    })
}

#[test]
fn shutdown_with_cancelling_cancels_a_queued_map() {
    in_time(|| {
        let (pool, _gate, _running) = held_up_pool();
        let map = pool.map_async(square, 0..1000);
        pool.shutdown(true);
        assert_eq!(failure(map.result()).kind(), ErrorKind::Cancelled);
    });
}

#[test]
fn shutdown_with_cancelling_cancels_the_rest_of_a_running_map() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let map = pool.map_async(pass, (0..100).map(|_| gate.path()));
        gate.wait_for(1);
        pool.shutdown(true);
        gate.open();
        assert_eq!(failure(map.result()).kind(), ErrorKind::Cancelled);
        pool.join()?;
        assert_eq!(gate.arrived(), 0);
        Ok(())
    })
}

#[test]
fn shutdown_with_cancelling_calls_back() {
    in_time(|| {
        let (pool, _gate, _running) = held_up_pool();
        let (sender, receiver) = mpsc::channel();
        let _unread = pool.apply_async(square, 7, move |it| {
            sender.send(it.clone()).expect("a receiver");
        });
        pool.shutdown(true);
        let outcome = receiver.recv().expect("a callback");
        assert_eq!(failure(outcome).kind(), ErrorKind::Cancelled);
    });
}

#[test]
fn shutdown_with_cancelling_wakes_a_thread_that_waits() {
    in_time(|| {
        let (pool, _gate, _running) = held_up_pool();
        let queued = pool.submit(square, 7);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| queued.result());
            pool.shutdown(true);
            let outcome = waiting.join().expect("no panic");
            assert_eq!(failure(outcome).kind(), ErrorKind::Cancelled);
        });
    });
}

#[test]
fn a_closed_pool_can_be_shut_down_with_cancelling() {
    in_time(|| {
        let (pool, _gate, _running) = held_up_pool();
        let queued = pool.submit(square, 7);
        pool.close();
        pool.shutdown(true);
        assert_eq!(failure(queued.result()).kind(), ErrorKind::Cancelled);
    });
}

// Terminated, killed.

/// Ways to stop a pool at once.
const STOPS: [fn(&ProcessPoolExecutor); 2] =
    [ProcessPoolExecutor::terminate, ProcessPoolExecutor::kill];

#[test]
fn a_stopped_pool_fails_what_runs_and_what_is_queued() {
    in_time(|| {
        for stop in STOPS {
            let (pool, _gate, running) = held_up_pool();
            let queued: Vec<_> = (0..100).map(|x| pool.submit(square, x)).collect();
            let map = pool.map_async(square, 0..1000);
            stop(&pool);
            assert_is_shutdown(running.result());
            queued
                .into_iter()
                .for_each(|it| assert_is_shutdown(it.result()));
            assert_is_shutdown(map.result());
        }
    });
}

#[test]
fn what_was_outstanding_is_done_when_stop_returns() {
    in_time(|| {
        for stop in STOPS {
            let (pool, _gate, running) = held_up_pool();
            let queued = pool.submit(square, 7);
            stop(&pool);
            assert!(running.is_done() && queued.is_done());
        }
    });
}

#[test]
fn a_stopped_pool_with_ten_thousand_queued_tasks_fails_them_all() {
    in_time(|| {
        for stop in STOPS {
            let (pool, _gate, _running) = held_up_pool();
            let queued: Vec<_> = (0..10_000).map(|x| pool.submit(square, x)).collect();
            stop(&pool);
            queued
                .into_iter()
                .for_each(|it| assert_is_shutdown(it.result()));
        }
    });
}

#[test]
fn a_stopped_pool_keeps_the_results_that_are_there() -> Result<()> {
    in_time(|| {
        for stop in STOPS {
            let pool = pool_of(1);
            let future = pool.submit(square, 7);
            while !future.is_done() {
                thread::yield_now();
            }
            stop(&pool);
            assert_eq!(future.result()?, 49);
        }
        Ok(())
    })
}

#[test]
fn a_stopped_pool_refuses_new_tasks() {
    in_time(|| {
        for stop in STOPS {
            let pool = pool_of(1);
            stop(&pool);
            assert_is_shutdown(pool.apply(square, 7));
            assert_is_shutdown(pool.map(square, 0..3));
        }
    });
}

#[test]
fn no_worker_runs_when_a_stopped_pool_is_joined() {
    in_time(|| {
        for stop in STOPS {
            let (pool, _gate, _running) = held_up_pool();
            let pids = pool.worker_pids();
            stop(&pool);
            assert!(pool.join().is_ok());
            assert!(!pids.into_iter().any(is_running));
        }
    });
}

#[test]
fn a_stopped_pool_ends_although_a_task_ignores_sigterm() {
    in_time(|| {
        for stop in STOPS {
            let pool = pool_of(1);
            let gate = Gate::new();
            let deaf = pool.submit(pass_deaf, gate.path());
            gate.wait_for(1);
            stop(&pool);
            assert_is_shutdown(deaf.result());
            assert!(pool.join().is_ok());
        }
    });
}

#[test]
fn a_terminated_pool_can_be_killed() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let _deaf = pool.submit(pass_deaf, gate.path());
        gate.wait_for(1);
        pool.terminate();
        pool.kill();
        assert!(pool.join().is_ok());
    });
}

#[test]
fn to_stop_a_stopped_or_joined_pool_is_no_change() {
    in_time(|| {
        for stop in STOPS {
            let pool = pool_of(1);
            stop(&pool);
            stop(&pool);
            assert!(pool.join().is_ok());
            stop(&pool);
            assert!(pool.join().is_ok());
        }
    });
}

#[test]
fn a_stopped_pool_wakes_the_threads_that_wait() {
    in_time(|| {
        for stop in STOPS {
            let (pool, gate, _running) = held_up_pool();
            let queued: Vec<_> = (0..3).map(|x| pool.submit(square, x)).collect();
            let waited = pool.submit(square, 7);
            thread::scope(|scope| {
                let threads = queued.into_iter().map(|it| scope.spawn(|| it.result()));
                let threads: Vec<_> = threads.collect();
                let mapping = scope.spawn(|| pool.map(pass, (0..10).map(|_| gate.path())));
                let waiting = scope.spawn(|| wait([&waited], ReturnWhen::AllCompleted, None));
                let joining = scope.spawn(|| pool.join());
                stop(&pool);
                for thread in threads {
                    assert_is_shutdown(thread.join().expect("no panic"));
                }
                assert_is_shutdown(mapping.join().expect("no panic"));
                assert_eq!(waiting.join().expect("no panic").done, [0]);
                assert!(joining.join().expect("no panic").is_ok());
            });
        }
    });
}

#[test]
fn a_stopped_pool_calls_back() {
    in_time(|| {
        for stop in STOPS {
            let (pool, _gate, _running) = held_up_pool();
            let (sender, receiver) = mpsc::channel();
            let _unread = pool.apply_async(square, 7, move |it| {
                sender.send(it.clone()).expect("a receiver");
            });
            stop(&pool);
            assert_is_shutdown(receiver.recv().expect("a callback"));
        }
    });
}

#[test]
fn imap_of_a_stopped_pool_has_one_outcome_for_each_item_and_ends() -> Result<()> {
    in_time(|| {
        for stop in STOPS {
            let pool = pool_of(2);
            let mut results = pool.options().window(10).imap(square, 0..50);
            results.next().transpose()?;
            stop(&pool);
            let rest: Vec<_> = results.collect();
            assert_eq!(rest.len(), 49);
            assert_is_shutdown(rest.into_iter().next_back().expect("an outcome"));
        }
        Ok(())
    })
}

#[test]
fn a_pool_can_be_stopped_while_tasks_are_submitted() {
    in_time(|| {
        for stop in STOPS {
            let pool = pool_of(2);
            thread::scope(|scope| {
                let submitting = scope.spawn(|| {
                    let results = (0..).map(|x| pool.submit(square, x).result());
                    results.into_iter().find_map(Result::err)
                });
                let mapping = scope.spawn(|| pool.map(square, 0..));
                while pool.submit(square, 7).is_done() {}
                stop(&pool);
                let error = submitting.join().expect("no panic").expect("an error");
                assert_eq!(error.kind(), ErrorKind::Shutdown);
                assert_is_shutdown(mapping.join().expect("no panic"));
            });
        }
    });
}

#[test]
fn every_future_ends_however_the_pool_is_stopped_meanwhile() {
    in_time(|| {
        let mut number = 0;
        race(|| {
            number += 1;
            let pool = pool_of(2);
            thread::scope(|scope| {
                let futures: Vec<_> = (0..50).map(|x| pool.submit(square, x)).collect();
                scope.spawn(|| match number % 4 {
                    0 => pool.terminate(),
                    1 => pool.kill(),
                    2 => pool.shutdown(true),
                    _ => pool.close(),
                });
                for (x, future) in (0..).zip(futures) {
                    match future.result() {
                        Ok(square) => assert_eq!(square, x * x),
                        Err(error) => assert!(is_an_end(&error), "{error}"),
                    }
                }
            });
        });
    });
}

fn is_an_end(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Shutdown | ErrorKind::Cancelled)
}
