//! How a pool ends: closed, joined, shut down, terminated, killed, dropped.

mod common;

use common::{A_MOMENT, Gate, alone, arrive, failure, in_time, pass, pool_of, race, square};
use futures::{StreamExt, executor::block_on};
use nix::sys::signal::{SigSet, Signal};
use procpool::{
    Error, ErrorKind, ProcessPoolExecutor, Result, ReturnWhen, TaskFuture, as_completed, wait,
};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

#[track_caller]
fn assert_is_shutdown<T>(outcome: Result<T>) {
    let error = failure(outcome);
    assert_eq!(error.kind(), ErrorKind::Shutdown, "{error}");
}

fn kinds<T>(outcomes: impl Iterator<Item = Result<T>>) -> Vec<Result<T, ErrorKind>> {
    outcomes.map(|it| it.map_err(|it| it.kind())).collect()
}

/// A pool of one worker that is held up at the gate.
fn held_up_pool() -> (ProcessPoolExecutor, Gate, TaskFuture<()>) {
    let pool = pool_of(1);
    let gate = Gate::new();
    let running = pool.submit(pass, gate.path());
    gate.wait_for(1);
    (pool, gate, running)
}

/// A task: waits at the gate, and does not hear SIGTERM.
fn pass_deaf(gate: PathBuf) {
    let mut deaf_to = SigSet::empty();
    deaf_to.add(Signal::SIGTERM);
    deaf_to.thread_block().expect("a valid set");
    pass(gate);
}

/// Whether the process is there, and more than a zombie.
fn is_running(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|it| !it.contains("State:\tZ"))
}

// Closed.

#[test]
fn a_closed_pool_refuses_every_call() {
    in_time(|| {
        let pool = pool_of(1);
        pool.close();
        assert_is_shutdown(pool.submit(square, 7).result());
        assert_is_shutdown(pool.apply(square, 7));
        assert_is_shutdown(pool.apply_async(square, 7, |_| ()).result());
        assert_is_shutdown(pool.map(square, 0..3));
        assert_is_shutdown(pool.map_async(square, 0..3).result());
        assert_is_shutdown(pool.starmap(u64::pow, [(1, 2)]));
        assert_is_shutdown(pool.map_with(1, |a, b| a + b, 0..3u64));
        pool.map_results(square, 0..3)
            .into_iter()
            .for_each(assert_is_shutdown);
        pool.imap(square, 0..3).for_each(assert_is_shutdown);
        pool.imap_unordered(square, 0..3)
            .for_each(assert_is_shutdown);
    });
}

#[test]
fn a_closed_pool_finishes_what_it_has() -> Result<()> {
    in_time(|| {
        let (pool, gate, running) = held_up_pool();
        let queued: Vec<_> = (0..100).map(|x| pool.submit(square, x)).collect();
        let map = pool.map_async(square, 0..100);
        pool.close();
        gate.open();
        running.result()?;
        for (x, future) in (0..).zip(queued) {
            assert_eq!(future.result()?, x * x);
        }
        assert_eq!(map.result()?.len(), 100);
        Ok(())
    })
}

#[test]
fn a_closed_pool_finishes_what_it_has_while_nobody_waits() {
    in_time(|| {
        let (pool, gate, _running) = held_up_pool();
        let (sender, receiver) = mpsc::channel();
        for x in 0..100 {
            let sender = sender.clone();
            let _unread =
                pool.apply_async(square, x, move |it| sender.send(it.is_ok()).unwrap_or(()));
        }
        drop(sender);
        pool.close();
        gate.open();
        assert_eq!(receiver.into_iter().filter(|it| *it).count(), 100);
    });
}

#[test]
fn close_returns_while_a_task_runs() {
    in_time(|| {
        let (pool, _gate, running) = held_up_pool();
        pool.close();
        assert!(!running.is_done());
    });
}

#[test]
fn the_workers_of_a_closed_pool_end_when_all_is_done() {
    in_time(|| {
        let (pool, gate, _running) = held_up_pool();
        pool.close();
        gate.open();
        while !pool.worker_pids().is_empty() {
            thread::yield_now();
        }
    });
}

#[test]
fn to_close_a_closed_pool_is_no_change() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let future = pool.submit(square, 7);
        pool.close();
        pool.close();
        assert_eq!(future.result()?, 49);
        Ok(())
    })
}

#[test]
fn a_map_whose_pool_is_closed_meanwhile_fails() {
    in_time(|| {
        let pool = pool_of(2);
        let closing = (0..).inspect(|x| {
            if *x == 1000 {
                pool.close();
            }
        });
        assert_is_shutdown(pool.map(square, closing));
    });
}

#[test]
fn the_items_that_imap_took_before_the_close_are_done_and_the_others_are_not() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let options = pool.options().window(3).chunk_size(1);
        // It takes three before it waits for the first.
        let mut results = options.imap(square, 0..6);
        assert_eq!(results.next().transpose()?, Some(0));
        pool.close();
        assert_eq!(
            kinds(results),
            [
                Ok(1),
                Ok(4),
                Err(ErrorKind::Shutdown),
                Err(ErrorKind::Shutdown),
                Err(ErrorKind::Shutdown)
            ]
        );
        Ok(())
    })
}

#[test]
fn imap_over_an_endless_input_gives_shutdown_when_its_pool_is_closed() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let mut results = pool.options().window(10).imap(square, 0..);
        results.next().transpose()?;
        pool.close();
        let outcome = results.find(|it| it.is_err()).expect("it is endless");
        assert_is_shutdown(outcome);
        Ok(())
    })
}

#[test]
fn imap_of_a_closed_pool_has_one_outcome_for_each_item_and_ends() {
    in_time(|| {
        let pool = pool_of(1);
        let mut results = pool.imap(square, 0..5);
        pool.close();
        for left in (0..5).rev() {
            assert_is_shutdown(results.next().expect("an outcome"));
            assert_eq!(results.size_hint(), (left, Some(left)));
        }
        assert!(results.next().is_none());
    });
}

#[test]
fn a_stream_of_a_closed_pool_has_one_outcome_for_each_item_and_ends() {
    in_time(|| {
        let pool = pool_of(1);
        let stream = pool.imap_unordered(square, 0..5).into_stream();
        pool.close();
        let outcomes: Vec<_> = block_on(stream.collect());
        assert_eq!(kinds(outcomes.into_iter()), [Err(ErrorKind::Shutdown); 5]);
    });
}

// Joined.

#[test]
fn every_task_is_done_when_join_returns() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let futures: Vec<_> = (0..1000).map(|x| pool.submit(square, x)).collect();
        pool.join()?;
        assert!(futures.iter().all(|it| it.is_done()));
        Ok(())
    })
}

#[test]
fn no_worker_runs_when_join_returns() -> Result<()> {
    in_time(|| {
        let pool = pool_of(3);
        let pids = pool.worker_pids();
        pool.join()?;
        assert!(!pids.into_iter().any(is_running));
        assert_eq!(pool.worker_pids(), []);
        Ok(())
    })
}

#[test]
fn a_joined_pool_is_closed() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        pool.join()?;
        assert_is_shutdown(pool.apply(square, 7));
        Ok(())
    })
}

#[test]
fn join_can_be_called_again() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        pool.apply(square, 7)?;
        pool.join()?;
        pool.join()
    })
}

#[test]
fn join_can_be_called_by_several_threads_at_once() {
    in_time(|| {
        let (pool, gate, running) = held_up_pool();
        let all = Barrier::new(5);
        thread::scope(|scope| {
            let join = || {
                all.wait();
                let joined = pool.join();
                (joined.is_ok(), running.is_done(), pool.worker_pids().len())
            };
            let threads = [(); 4].map(|()| scope.spawn(join));
            all.wait();
            gate.open();
            let joined = threads.map(|it| it.join().expect("no panic"));
            assert_eq!(joined, [(true, true, 0); 4]);
        });
    });
}

#[test]
fn join_in_several_threads_waits_for_callbacks_in_each() {
    in_time(|| {
        let pool = pool_of(1);
        let (called_back, returned) = (Arc::new(AtomicBool::new(false)), mpsc::channel());
        let in_callback = Arc::clone(&called_back);
        let (sender, receiver) = returned;
        let _unread = pool.apply_async(square, 7, move |_| {
            // A thread that returns before the callback does so now.
            let _early = receiver.recv_timeout(A_MOMENT);
            in_callback.store(true, Ordering::SeqCst);
        });
        thread::scope(|scope| {
            let join = || {
                pool.join().expect("an end");
                let in_time = called_back.load(Ordering::SeqCst);
                // The callback may be gone.
                let _ = sender.send(());
                in_time
            };
            let threads = [(); 4].map(|()| scope.spawn(join));
            let in_time = threads.map(|it| it.join().expect("no panic"));
            assert_eq!(in_time, [true; 4]);
        });
    });
}

#[test]
fn join_lets_other_threads_have_their_results() {
    in_time(|| {
        let (pool, gate, running) = held_up_pool();
        let queued: Vec<_> = (0..10).map(|x| pool.submit(square, x)).collect();
        thread::scope(|scope| {
            let waiting = queued
                .into_iter()
                .map(|it| scope.spawn(|| it.result().ok()));
            let waiting: Vec<_> = waiting.collect();
            let joining = scope.spawn(|| pool.join());
            gate.open();
            assert!(joining.join().expect("no panic").is_ok());
            for (x, thread) in (0..).zip(waiting) {
                assert_eq!(thread.join().expect("no panic"), Some(x * x));
            }
        });
        assert!(running.is_done());
    });
}

#[test]
fn join_waits_for_callbacks() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let (sender, receiver) = mpsc::channel();
        for x in 0..500 {
            let sender = sender.clone();
            let _unread =
                pool.apply_async(square, x, move |_| sender.send(()).expect("a receiver"));
        }
        pool.join()?;
        assert_eq!(receiver.try_iter().count(), 500);
        Ok(())
    })
}

#[test]
fn join_can_be_called_by_a_callback() {
    in_time(|| {
        let pool = Arc::new(pool_of(1));
        let (sender, receiver) = mpsc::channel();
        let in_callback = Arc::clone(&pool);
        let _unread = pool.apply_async(square, 7, move |_| {
            sender.send(in_callback.join()).expect("a receiver");
        });
        assert!(receiver.recv().expect("a callback").is_ok());
    });
}

#[test]
fn join_ends_when_the_last_worker_dies_in_its_task() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let die = |gate| -> () {
            pass(gate);
            std::process::abort()
        };
        let dying = pool.submit(die, gate.path());
        let behind = pool.submit(square, 7);
        gate.wait_for(1);
        thread::scope(|scope| {
            let joining = scope.spawn(|| pool.join());
            gate.open();
            assert!(joining.join().expect("no panic").is_ok());
        });
        assert_eq!(failure(dying.result()).kind(), ErrorKind::WorkerDied);
        assert_eq!(behind.result().ok(), Some(49));
    });
}

// Joined with a limit.

#[test]
fn join_with_a_limit_that_suffices_is_join() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let futures: Vec<_> = (0..100).map(|x| pool.submit(square, x)).collect();
        pool.join_timeout(Duration::MAX)?;
        assert!(futures.into_iter().all(|it| it.result().is_ok()));
        Ok(())
    })
}

#[test]
fn join_with_a_limit_that_passes_says_so() {
    in_time(|| {
        let (pool, _gate, _running) = held_up_pool();
        let error = failure(pool.join_timeout(Duration::from_millis(5)));
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    });
}

#[test]
fn join_with_a_limit_that_passes_cuts_off_what_is_left() {
    in_time(|| {
        let (pool, _gate, running) = held_up_pool();
        let queued: Vec<_> = (0..100).map(|x| pool.submit(square, x)).collect();
        let _timed_out = pool.join_timeout(Duration::from_millis(5));
        assert_is_shutdown(running.result());
        queued
            .into_iter()
            .for_each(|it| assert_is_shutdown(it.result()));
    });
}

#[test]
fn join_with_a_limit_that_passes_keeps_what_is_done() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let done = pool.submit(square, 7);
        let _running = pool.submit(pass, gate.path());
        gate.wait_for(1);
        let _timed_out = pool.join_timeout(Duration::from_millis(5));
        assert_eq!(done.result()?, 49);
        Ok(())
    })
}

#[test]
fn no_worker_runs_when_join_with_a_limit_returns() {
    in_time(|| {
        let (pool, _gate, _running) = held_up_pool();
        let pids = pool.worker_pids();
        let _timed_out = pool.join_timeout(Duration::from_millis(5));
        assert!(!pids.into_iter().any(is_running));
    });
}

#[test]
fn join_with_a_limit_kills_a_task_that_ignores_sigterm() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let deaf = pool.submit(pass_deaf, gate.path());
        gate.wait_for(1);
        let error = failure(pool.join_timeout(Duration::from_millis(5)));
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_is_shutdown(deaf.result());
    });
}

#[test]
fn a_pool_can_be_joined_after_a_limit_has_passed() {
    in_time(|| {
        let (pool, _gate, _running) = held_up_pool();
        assert!(pool.join_timeout(Duration::from_millis(5)).is_err());
        assert!(pool.join().is_ok());
    });
}

// Shut down.

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

// Dropped.

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
        for stop in STOPS {
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
fn a_pool_can_be_dropped_in_async_code() -> Result<()> {
    in_time(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(async {
            let pool = pool_of(1);
            let future = pool.submit(square, 7);
            drop(pool);
            assert_eq!(future.await?, 49);
            Ok(())
        })
    })
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
        // The fork server stays.
        use_a_pool();
        let before = (count("/proc/self/fd"), count("/proc/self/task"));
        (0..20).for_each(|_| use_a_pool());
        let after = (count("/proc/self/fd"), count("/proc/self/task"));
        assert_eq!(after, before);
    });
}
