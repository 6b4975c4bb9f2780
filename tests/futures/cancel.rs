//! Cancelling: what is queued, what was sent ahead to a worker, what runs, and whole maps.

use common::{Gate, arrive, failure, in_time, pass, pool_of, race, square};
use procpool::{ErrorKind, ProcessPoolExecutor, Result, TaskFuture};
use std::{path::PathBuf, sync::mpsc, thread, time::Duration};

#[track_caller]
fn assert_is_cancelled<T: std::fmt::Debug>(outcome: Result<T>) {
    assert_eq!(failure(outcome).kind(), ErrorKind::Cancelled);
}

/// A pool of one worker that is held up at the gate, and is taken to run tiny tasks, so that many
/// are sent ahead to it.
fn held_up_pool() -> (ProcessPoolExecutor, Gate, TaskFuture<()>) {
    let pool = pool_of(1);
    let gate = Gate::new();
    pool.map(square, 0..10_000).expect("squares");
    let tiny: Vec<_> = (0..1000).map(|x| pool.submit(square, x)).collect();
    tiny.into_iter().for_each(|it| assert!(it.result().is_ok()));
    let running = pool.submit(pass, gate.path());
    gate.wait_for(1);
    (pool, gate, running)
}

#[test]
fn a_queued_task_can_be_cancelled() {
    in_time(|| {
        let (pool, _gate, _running) = held_up_pool();
        // More than are ever sent ahead.
        let futures: Vec<_> = (0..1000).map(|x| pool.submit(square, x)).collect();
        let last = futures.into_iter().next_back().expect("a thousand");
        assert!(last.cancel());
        assert_is_cancelled(last.result());
    });
}

#[test]
fn a_cancelled_task_is_never_started() -> Result<()> {
    in_time(|| {
        let (pool, gate, _running) = held_up_pool();
        let futures: Vec<_> = (0..50).map(|_| pool.submit(pass, gate.path())).collect();
        assert!(futures.iter().all(|it| it.cancel()));
        gate.open();
        pool.join()?;
        assert_eq!(gate.arrived(), 0);
        Ok(())
    })
}

#[test]
fn to_cancel_a_cancelled_task_is_no_change() {
    in_time(|| {
        let (pool, _gate, _running) = held_up_pool();
        let future = pool.submit(square, 7);
        assert!((0..3).all(|_| future.cancel()));
        assert_is_cancelled(future.result());
    });
}

#[test]
fn a_running_task_cannot_be_cancelled() -> Result<()> {
    in_time(|| {
        let (_pool, gate, running) = held_up_pool();
        assert!(!running.cancel());
        gate.open();
        running.result()
    })
}

#[test]
fn a_done_task_cannot_be_cancelled() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(square, 7);
        future.result_timeout(Duration::MAX)?;
        assert!(!future.cancel() && !future.is_cancelled());
        Ok(())
    })
}

#[test]
fn a_done_task_whose_result_was_not_taken_cannot_be_cancelled() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let future = pool.submit(square, 7);
        while !future.is_done() {
            thread::yield_now();
        }
        assert!(!future.cancel());
        assert_eq!(future.result()?, 49);
        Ok(())
    })
}

#[test]
fn a_failed_task_cannot_be_cancelled() {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(|()| -> () { panic!("on purpose") }, ());
        let error = failure(future.result_timeout(Duration::MAX));
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert!(!future.cancel());
    });
}

#[test]
fn a_refused_task_cannot_be_cancelled() {
    in_time(|| {
        let pool = pool_of(1);
        pool.close();
        assert!(!pool.submit(square, 7).cancel());
    });
}

/// Cancels some of 20 tasks that were sent ahead, in the given order; then the others and the pool
/// must be as they were.
fn assert_the_others_run(order: impl IntoIterator<Item = usize>) -> Result<()> {
    let (pool, gate, running) = held_up_pool();
    let mut futures: Vec<_> = (0..20).map(|x| Some(pool.submit(square, x))).collect();
    for index in order {
        let cancelled = futures[index].take().expect("each index once");
        assert!(cancelled.cancel());
        assert_is_cancelled(cancelled.result());
    }
    gate.open();
    running.result()?;
    for (x, future) in (0..).zip(futures) {
        if let Some(future) = future {
            assert_eq!(future.result()?, x * x);
        }
    }
    assert_eq!(pool.apply(square, 7)?, 49);
    Ok(())
}

#[test]
fn tasks_sent_ahead_can_be_cancelled_from_the_first_to_the_last() -> Result<()> {
    in_time(|| assert_the_others_run(0..20))
}

#[test]
fn tasks_sent_ahead_can_be_cancelled_from_the_last_to_the_first() -> Result<()> {
    in_time(|| assert_the_others_run((0..20).rev()))
}

#[test]
fn the_last_task_sent_ahead_can_be_cancelled_alone() -> Result<()> {
    in_time(|| assert_the_others_run([19]))
}

#[test]
fn the_first_task_sent_ahead_can_be_cancelled_alone() -> Result<()> {
    in_time(|| assert_the_others_run([0]))
}

#[test]
fn every_other_task_sent_ahead_can_be_cancelled() -> Result<()> {
    in_time(|| assert_the_others_run((0..20).step_by(2)))
}

#[test]
fn every_other_task_sent_ahead_can_be_cancelled_backwards() -> Result<()> {
    in_time(|| assert_the_others_run((0..20).rev().step_by(2)))
}

#[test]
fn tasks_sent_ahead_can_be_cancelled_in_any_order() -> Result<()> {
    in_time(|| assert_the_others_run((0..15).map(|it| it * 7 % 20)))
}

#[test]
fn tasks_can_be_submitted_behind_a_cancelled_one() -> Result<()> {
    in_time(|| {
        let (pool, gate, running) = held_up_pool();
        let before = [1, 2, 3].map(|x| pool.submit(square, x));
        assert!(before[1].cancel());
        let behind = [4, 5].map(|x| pool.submit(square, x));
        gate.open();
        running.result()?;
        let [one, _cancelled, three] = before;
        assert_eq!([one.result()?, three.result()?], [1, 9]);
        assert_eq!(behind.map(|it| it.result().ok()), [Some(16), Some(25)]);
        Ok(())
    })
}

#[test]
fn tasks_behind_a_cancelled_one_get_done_while_nobody_waits() {
    in_time(|| {
        let (pool, gate, _running) = held_up_pool();
        let cancelled = pool.submit(square, 1);
        let (sender, receiver) = mpsc::channel();
        for x in 0..10 {
            let sender = sender.clone();
            let _unread =
                pool.apply_async(square, x, move |it| sender.send(it.is_ok()).unwrap_or(()));
        }
        assert!(cancelled.cancel());
        gate.open();
        assert!(receiver.into_iter().take(10).all(|it| it));
    });
}

#[test]
fn ten_thousand_tasks_can_be_cancelled_one_by_one() {
    in_time(|| {
        let (pool, _gate, _running) = held_up_pool();
        let futures: Vec<_> = (0..10_000).map(|x| pool.submit(square, x)).collect();
        assert!(futures.iter().all(|it| it.cancel()));
    });
}

#[test]
fn a_thread_that_waits_for_a_task_is_woken_when_it_is_cancelled() {
    in_time(|| {
        let (pool, _gate, _running) = held_up_pool();
        let future = pool.submit(square, 7);
        let waiting = std::sync::Barrier::new(2);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                waiting.wait();
                procpool::wait([&future], procpool::ReturnWhen::AllCompleted, None).done
            });
            waiting.wait();
            assert!(future.cancel());
            assert_eq!(waiter.join().expect("no panic"), [0]);
        });
    });
}

#[test]
fn a_task_is_either_cancelled_or_done() {
    in_time(|| {
        let pool = pool_of(2);
        race(|| {
            let futures: Vec<_> = (0..20).map(|x| pool.submit(square, x)).collect();
            let cancelled: Vec<bool> = futures.iter().rev().map(|it| it.cancel()).collect();
            let outcomes = futures.into_iter().map(|it| it.result());
            for (outcome, cancelled) in outcomes.zip(cancelled.into_iter().rev()) {
                match outcome {
                    Ok(_) => assert!(!cancelled),
                    Err(error) => assert!(cancelled, "{error}"),
                }
            }
        });
    });
}

#[test]
fn a_task_is_either_cancelled_by_another_thread_or_done() {
    in_time(|| {
        let pool = pool_of(2);
        race(|| {
            let futures: Vec<_> = (0..20).map(|x| pool.submit(square, x)).collect();
            thread::scope(|scope| {
                let cancelling =
                    scope.spawn(|| futures.iter().map(|it| it.cancel()).collect::<Vec<_>>());
                let waited = procpool::wait(&futures, procpool::ReturnWhen::AllCompleted, None);
                assert_eq!(waited.done.len(), 20);
                let cancelled = cancelling.join().expect("no panic");
                let said: Vec<bool> = futures.iter().map(|it| it.is_cancelled()).collect();
                assert_eq!(cancelled, said);
            });
        });
    });
}

// Maps.

#[test]
fn a_queued_map_can_be_cancelled() {
    in_time(|| {
        let (pool, _gate, _running) = held_up_pool();
        let map = pool.map_async(square, 0..1000);
        assert!(map.cancel() && map.is_cancelled());
        assert_is_cancelled(map.result());
    });
}

#[test]
fn no_item_of_a_cancelled_map_is_started() -> Result<()> {
    in_time(|| {
        let (pool, gate, _running) = held_up_pool();
        let touch = |gate: PathBuf| arrive(&gate);
        let map = pool.map_async(touch, (0..1000).map(|_| gate.path()));
        assert!(map.cancel());
        gate.open();
        pool.join()?;
        assert_eq!(gate.arrived(), 0);
        Ok(())
    })
}

#[test]
fn a_running_map_cannot_be_cancelled() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let map = pool
            .options()
            .chunk_size(1)
            .map_async(pass, (0..3).map(|_| gate.path()));
        gate.wait_for(1);
        assert!(!map.cancel());
        gate.open();
        assert_eq!(map.result()?.len(), 3);
        Ok(())
    })
}

#[test]
fn a_map_of_which_an_item_is_done_cannot_be_cancelled() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let map = pool
            .options()
            .chunk_size(1)
            .map_async(pass, (0..3).map(|_| gate.path()));
        gate.let_in(1);
        gate.wait_for(2);
        assert!(!map.cancel());
        gate.open();
        assert_eq!(map.result()?.len(), 3);
        Ok(())
    })
}

#[test]
fn a_done_map_cannot_be_cancelled() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let mut map = pool.map_async(square, 0..10);
        map.result_timeout(Duration::MAX)?;
        assert!(!map.cancel());
        Ok(())
    })
}

#[test]
fn an_empty_map_is_done_and_cannot_be_cancelled() {
    in_time(|| {
        let map = pool_of(1).map_async(square, 0..0);
        assert!(map.is_done() && !map.cancel());
    });
}

#[test]
fn a_map_is_either_cancelled_or_done() {
    in_time(|| {
        let pool = pool_of(2);
        race(|| {
            let map = pool.map_async(square, 0..100);
            let cancelled = map.cancel();
            match map.result() {
                Ok(_) => assert!(!cancelled),
                Err(error) => assert!(cancelled, "cancel() said no, and then: {error}"),
            }
        });
    });
}

#[test]
fn a_cancelled_map_does_not_touch_other_tasks() -> Result<()> {
    in_time(|| {
        let (pool, gate, running) = held_up_pool();
        let before = pool.submit(square, 3);
        let map = pool.map_async(square, 0..1000);
        let behind = pool.submit(square, 4);
        assert!(map.cancel());
        gate.open();
        running.result()?;
        assert_eq!((before.result()?, behind.result()?), (9, 16));
        Ok(())
    })
}
