//! Joined, with and without a limit: when it returns, everything has ended.

use crate::{assert_is_shutdown, held_up_pool, pass_deaf};
use common::processes::{is_running, wait_until_asleep};
use common::{A_MOMENT, Gate, failure, in_time, pass, pool_of, race, square};
use nix::unistd::gettid;
use procpool::{ErrorKind, Result};
use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

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
        assert!(pool.worker_pids().is_empty());
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
fn join_can_be_called_by_a_callback_while_another_thread_joins() {
    in_time(|| {
        let pool = Arc::new(pool_of(1));
        let (joining, is_joining) = mpsc::channel();
        let in_callback = Arc::clone(&pool);
        let _unread = pool.apply_async(square, 7, move |_| {
            // The other thread waits for this callback.
            wait_until_asleep(is_joining.recv().expect("a sender"));
            assert!(in_callback.join().is_ok());
        });
        let thread = gettid().as_raw().cast_unsigned();
        joining.send(thread).expect("a receiver");
        assert!(pool.join().is_ok());
    });
}

#[test]
fn a_callback_added_while_the_pool_is_joined_runs() {
    in_time(|| {
        race(|| {
            let pool = pool_of(1);
            let future = pool.submit(square, 7);
            while !future.is_done() {
                thread::yield_now();
            }
            thread::scope(|scope| {
                let joining = scope.spawn(|| pool.join());
                while !joining.is_finished() {
                    let (sender, receiver) = mpsc::channel();
                    future.add_done_callback(move || sender.send(()).expect("a receiver"));
                    let called = receiver.recv_timeout(Duration::from_secs(5));
                    assert!(called.is_ok(), "the callback was forgotten");
                }
            });
        });
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

#[test]
fn join_with_a_limit_does_not_wait_for_a_callback_that_blocks() {
    in_time(|| {
        let pool = pool_of(1);
        let (release, released) = mpsc::channel::<()>();
        let future = pool.submit(square, 7);
        future.add_done_callback(move || {
            // It ends when the test lets go of the other end.
            let _ = released.recv();
        });
        let error = failure(pool.join_timeout(Duration::from_millis(10)));
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        drop(release);
        assert!(pool.join().is_ok());
    });
}
