//! What a future says of its task, and its result with and without a limit.

use common::{Gate, failure, in_time, pass, pool_of, square};
use procpool::{ErrorKind, Result, TaskFuture};
use std::{collections::HashSet, thread, time::Duration};

/// A task that panics.
fn fall((): ()) {
    panic!("on purpose")
}

/// What a future says: whether it is running, done, cancelled.
fn states<R: procpool::Wire>(future: &TaskFuture<R>) -> [bool; 3] {
    [future.is_running(), future.is_done(), future.is_cancelled()]
}

#[test]
fn a_queued_task_is_neither_running_nor_done() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let _running = pool.submit(pass, gate.path());
        gate.wait_for(1);
        let queued: Vec<_> = (0..10).map(|x| pool.submit(square, x)).collect();
        assert!(queued.iter().all(|it| states(it) == [false, false, false]));
    });
}

#[test]
fn a_running_task_is_running() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let running = pool.submit(pass, gate.path());
        gate.wait_for(1);
        assert_eq!(states(&running), [true, false, false]);
    });
}

#[test]
fn a_running_map_is_running() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let running = pool.map_async(pass, [gate.path()]);
        gate.wait_for(1);
        assert_eq!(states(&running), [true, false, false]);
    });
}

#[test]
fn a_queued_map_is_neither_running_nor_done() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let _running = pool.submit(pass, gate.path());
        gate.wait_for(1);
        let queued = pool.map_async(square, 0..100);
        assert_eq!(states(&queued), [false, false, false]);
    });
}

#[test]
fn a_map_between_two_items_is_running() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let map = pool
            .options()
            .chunk_size(1)
            .map_async(pass, [gate.path(), gate.path()]);
        gate.wait_for(1);
        gate.let_in(1);
        gate.wait_for(1);
        assert_eq!(states(&map), [true, false, false]);
        gate.open();
        map.result()?;
        Ok(())
    })
}

#[test]
fn a_done_task_is_done() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(square, 7);
        future.result_timeout(Duration::MAX)?;
        assert_eq!(states(&future), [false, true, false]);
        Ok(())
    })
}

#[test]
fn a_failed_task_is_done() {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(fall, ());
        assert!(future.result_timeout(Duration::MAX).is_err());
        assert_eq!(states(&future), [false, true, false]);
    });
}

#[test]
fn a_refused_task_is_done() {
    in_time(|| {
        let pool = pool_of(1);
        pool.close();
        assert_eq!(states(&pool.submit(square, 7)), [false, true, false]);
    });
}

#[test]
fn a_cancelled_task_is_cancelled_and_done() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let _running = pool.submit(pass, gate.path());
        gate.wait_for(1);
        let future = pool.submit(square, 7);
        future.cancel();
        assert_eq!(states(&future), [false, true, true]);
    });
}

#[test]
fn to_ask_again_and_again_is_enough_for_a_task_to_get_done() {
    in_time(|| {
        let pool = pool_of(2);
        let futures: Vec<_> = (0..1000).map(|x| pool.submit(square, x)).collect();
        while !futures.iter().all(|it| it.is_done()) {
            thread::yield_now();
        }
    });
}

#[test]
fn to_ask_again_and_again_is_enough_for_a_task_to_run() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let before = pool.submit(square, 7);
        let future = pool.submit(pass, gate.path());
        while !future.is_running() {
            thread::yield_now();
        }
        gate.open();
        while future.is_running() {
            thread::yield_now();
        }
        assert!(before.is_done() && future.is_done());
    });
}

#[test]
fn a_task_gets_done_while_nobody_asks() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let first = pool.submit(square, 7);
        // It arrives without anybody leading: the first has been answered, or will be.
        let second = pool.submit(pass, gate.path());
        gate.wait_for(1);
        gate.open();
        second.result()?;
        assert_eq!(first.result()?, 49);
        Ok(())
    })
}

#[test]
fn no_two_tasks_have_the_same_id() {
    in_time(|| {
        let pools = [pool_of(1), pool_of(1)];
        let single = pools
            .iter()
            .flat_map(|pool| (0..100).map(|x| pool.submit(square, x).id()));
        let whole = pools.iter().map(|pool| pool.map_async(square, 0..10).id());
        let ids: Vec<u64> = single.chain(whole).collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    });
}

#[test]
fn a_tasks_id_does_not_change() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(square, 7);
        let before = future.id();
        future.result_timeout(Duration::MAX)?;
        assert_eq!(future.id(), before);
        Ok(())
    })
}

#[test]
fn a_dropped_future_neither_cancels_its_task_nor_waits_for_it() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        drop(pool.submit(pass, gate.path()));
        drop(pool.submit(pass, gate.path()));
        gate.wait_for(1);
        gate.open();
        gate.wait_for(1);
        pool.join()
    })
}

#[test]
fn a_result_with_a_limit_is_the_result_if_it_comes_in_time() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        assert_eq!(pool.submit(square, 7).result_timeout(Duration::MAX)?, 49);
        Ok(())
    })
}

#[test]
fn a_limit_that_passes_is_an_error_of_the_wait() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let mut future = pool.submit(pass, gate.path());
        let error = failure(future.result_timeout(Duration::from_millis(5)));
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(!future.is_done());
    });
}

#[test]
fn a_limit_that_passes_changes_nothing_for_the_task() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let mut future = pool.submit(pass, gate.path());
        let _timed_out = future.result_timeout(Duration::ZERO);
        gate.open();
        future.result()
    })
}

#[test]
fn a_limit_of_nothing_gives_a_result_that_is_there() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(square, 7);
        while !future.is_done() {
            thread::yield_now();
        }
        assert_eq!(future.result_timeout(Duration::ZERO)?, 49);
        Ok(())
    })
}

#[test]
fn many_limits_of_nothing_are_enough_for_a_task_to_get_done() {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(square, 7);
        let result = loop {
            match future.result_timeout(Duration::ZERO) {
                Err(error) if !future.is_done() => assert_eq!(error.kind(), ErrorKind::TimedOut),
                // It may have ended between the two questions.
                Err(error) if error.kind() == ErrorKind::TimedOut => {}
                result => break result,
            }
        };
        assert_eq!(result.ok(), Some(49));
    });
}

#[test]
fn a_result_is_given_once() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(square, 7);
        future.result_timeout(Duration::MAX)?;
        let error = failure(future.result_timeout(Duration::MAX));
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        Ok(())
    })
}

#[test]
fn an_error_is_given_as_often_as_it_is_asked_for() {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(fall, ());
        for _ in 0..3 {
            let error = failure(future.result_timeout(Duration::MAX));
            assert_eq!(error.kind(), ErrorKind::Panicked);
        }
    });
}

#[test]
fn a_blocked_result_is_woken_by_another_threads_wait() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let futures: Vec<_> = (0..8).map(|_| pool.submit(pass, gate.path())).collect();
        thread::scope(|scope| {
            let threads = futures.into_iter().map(|it| scope.spawn(|| it.result()));
            let threads: Vec<_> = threads.collect();
            gate.wait_for(2);
            gate.open();
            threads
                .into_iter()
                .try_for_each(|it| it.join().expect("no panic"))
        })
    })
}

#[test]
fn a_future_can_be_waited_for_in_another_thread() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let future = pool.submit(square, 7);
        let result = thread::spawn(|| future.result()).join().expect("no panic");
        assert_eq!(result?, 49);
        Ok(())
    })
}

#[test]
fn a_future_says_its_id_and_whether_it_is_done() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(square, 7);
        future.result_timeout(Duration::MAX)?;
        let text = format!("{future:?}");
        assert!(
            text.contains(&future.id().to_string()) && text.contains("true"),
            "{text}"
        );
        Ok(())
    })
}
