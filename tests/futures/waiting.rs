//! Waiting for several futures: `wait` and `as_completed`.

use common::{Gate, failure, in_time, pass, pool_of, race, square};
use procpool::{
    ErrorKind, ProcessPoolExecutor, Result, ReturnWhen, TaskFuture, Waited, as_completed, wait,
};
use std::{path::PathBuf, sync::mpsc, thread, time::Duration};

const MODES: [ReturnWhen; 3] = [
    ReturnWhen::FirstCompleted,
    ReturnWhen::FirstError,
    ReturnWhen::AllCompleted,
];

/// Far longer than anything here takes, unless it waits for what never comes.
const A_WHILE: Duration = Duration::from_secs(20);

/// A task: waits at the gate if there is one, and fails for 0.
fn run((x, gate): (u64, Option<PathBuf>)) -> u64 {
    gate.into_iter().for_each(pass);
    assert_ne!(x, 0, "zero is refused");
    x
}

/// A task that waits at the gate.
fn held_up(pool: &ProcessPoolExecutor, gate: &Gate) -> TaskFuture<u64> {
    pool.submit(run, (1, Some(gate.path())))
}

fn ok(pool: &ProcessPoolExecutor) -> TaskFuture<u64> {
    pool.submit(run, (1, None))
}

fn failing(pool: &ProcessPoolExecutor) -> TaskFuture<u64> {
    pool.submit(run, (0, None))
}

/// Waits until the future is done, without taking its result.
fn finish(future: &TaskFuture<u64>) {
    while !future.is_done() {
        thread::yield_now();
    }
}

#[track_caller]
fn assert_waited(waited: Waited, done: &[usize], not_done: &[usize]) {
    assert_eq!((&*waited.done, &*waited.not_done), (done, not_done));
}

// wait.

#[test]
fn wait_for_all_returns_when_all_are_done() {
    in_time(|| {
        let pool = pool_of(2);
        let futures: Vec<_> = (0..1000).map(|x| pool.submit(square, x)).collect();
        let waited = wait(&futures, ReturnWhen::AllCompleted, None);
        assert_waited(waited, &(0..1000).collect::<Vec<_>>(), &[]);
    });
}

#[test]
fn wait_for_the_first_returns_while_others_run() {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let futures = [held_up(&pool, &gate), ok(&pool)];
        let waited = wait(&futures, ReturnWhen::FirstCompleted, None);
        assert_waited(waited, &[1], &[0]);
    });
}

#[test]
fn wait_for_the_first_takes_a_failure_as_well() {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let futures = [held_up(&pool, &gate), failing(&pool)];
        let waited = wait(&futures, ReturnWhen::FirstCompleted, None);
        assert_waited(waited, &[1], &[0]);
    });
}

#[test]
fn wait_for_the_first_returns_at_once_if_one_is_done() {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let futures = [held_up(&pool, &gate), ok(&pool)];
        finish(&futures[1]);
        let waited = wait(&futures, ReturnWhen::FirstCompleted, None);
        assert_waited(waited, &[1], &[0]);
    });
}

#[test]
fn wait_for_an_error_returns_while_others_run() {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let futures = [held_up(&pool, &gate), failing(&pool)];
        let waited = wait(&futures, ReturnWhen::FirstError, None);
        assert_waited(waited, &[1], &[0]);
    });
}

#[test]
fn wait_for_an_error_returns_for_a_failing_map() {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let maps = [
            pool.map_async(run, [(1, Some(gate.path()))]),
            pool.map_async(run, [(1, None), (0, None)]),
        ];
        let waited = wait(&maps, ReturnWhen::FirstError, None);
        assert_waited(waited, &[1], &[0]);
    });
}

#[test]
fn wait_for_an_error_does_not_return_for_a_success() {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let futures = [held_up(&pool, &gate), ok(&pool)];
        finish(&futures[1]);
        let limit = Some(Duration::from_millis(20));
        let waited = wait(&futures[..1], ReturnWhen::FirstError, limit);
        assert_waited(waited, &[], &[0]);
        gate.open();
        let waited = wait(&futures, ReturnWhen::FirstError, None);
        assert_waited(waited, &[0, 1], &[]);
    });
}

#[test]
fn wait_for_an_error_returns_at_once_if_one_has_failed() {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let futures = [failing(&pool), held_up(&pool, &gate)];
        finish(&futures[0]);
        let waited = wait(&futures, ReturnWhen::FirstError, None);
        assert_waited(waited, &[0], &[1]);
    });
}

#[test]
fn wait_for_an_error_returns_when_all_have_succeeded() {
    in_time(|| {
        let pool = pool_of(2);
        let futures = [ok(&pool), ok(&pool), ok(&pool)];
        let waited = wait(&futures, ReturnWhen::FirstError, None);
        assert_waited(waited, &[0, 1, 2], &[]);
    });
}

#[test]
fn wait_for_nothing_returns_at_once() {
    in_time(|| {
        for mode in MODES {
            let nothing: [&TaskFuture<u64>; 0] = [];
            assert_waited(wait(nothing, mode, None), &[], &[]);
        }
    });
}

#[test]
fn wait_with_a_limit_tells_what_is_done_and_what_is_not() {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let futures = [ok(&pool), held_up(&pool, &gate), failing(&pool), ok(&pool)];
        for done in [0, 2, 3] {
            finish(&futures[done]);
        }
        let limit = Some(Duration::from_millis(5));
        let waited = wait(&futures, ReturnWhen::AllCompleted, limit);
        assert_waited(waited, &[0, 2, 3], &[1]);
    });
}

#[test]
fn wait_with_a_limit_of_nothing_looks_and_returns() {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let futures = [held_up(&pool, &gate), ok(&pool)];
        finish(&futures[1]);
        let waited = wait(&futures, ReturnWhen::AllCompleted, Some(Duration::ZERO));
        assert_waited(waited, &[1], &[0]);
    });
}

#[test]
fn wait_with_a_limit_of_nothing_returns_though_nothing_is_done() {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let futures = [held_up(&pool, &gate), held_up(&pool, &gate)];
        for mode in MODES {
            assert_waited(wait(&futures, mode, Some(Duration::ZERO)), &[], &[0, 1]);
        }
    });
}

#[test]
fn to_wait_for_nothing_again_and_again_is_enough_for_tasks_to_get_done() {
    in_time(|| {
        let pool = pool_of(2);
        let futures: Vec<_> = (0..100).map(|x| pool.submit(square, x)).collect();
        let once = || wait(&futures, ReturnWhen::AllCompleted, Some(Duration::ZERO));
        while !once().not_done.is_empty() {
            thread::yield_now();
        }
    });
}

#[test]
fn wait_with_an_endless_limit_waits_for_all() {
    in_time(|| {
        let pool = pool_of(1);
        let futures = [ok(&pool), ok(&pool)];
        let waited = wait(&futures, ReturnWhen::AllCompleted, Some(Duration::MAX));
        assert_waited(waited, &[0, 1], &[]);
    });
}

#[test]
fn wait_leaves_the_results_in_their_futures() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let futures = [2, 3].map(|x| pool.submit(square, x));
        let _waited = wait(&futures, ReturnWhen::AllCompleted, None);
        let [two, three] = futures;
        assert_eq!((two.result()?, three.result()?), (4, 9));
        Ok(())
    })
}

#[test]
fn wait_counts_a_cancelled_task_as_done() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let futures = [held_up(&pool, &gate), ok(&pool)];
        gate.wait_for(1);
        assert!(futures[1].cancel());
        let waited = wait(&futures, ReturnWhen::FirstCompleted, None);
        assert_waited(waited, &[1], &[0]);
    });
}

#[test]
fn wait_takes_the_same_future_twice() {
    in_time(|| {
        let pool = pool_of(1);
        let future = ok(&pool);
        let waited = wait([&future, &future], ReturnWhen::AllCompleted, None);
        assert_waited(waited, &[0, 1], &[]);
    });
}

#[test]
fn several_threads_can_wait_for_the_same_futures() {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let futures = [held_up(&pool, &gate), ok(&pool), held_up(&pool, &gate)];
        thread::scope(|scope| {
            let wait_for_all = || wait(&futures, ReturnWhen::AllCompleted, None).done.len();
            let threads = [(); 4].map(|()| scope.spawn(wait_for_all));
            gate.wait_for(2);
            gate.open();
            let done = threads.map(|it| it.join().expect("no panic"));
            assert_eq!(done, [3; 4]);
        });
    });
}

#[test]
fn wait_ends_when_the_pool_is_stopped() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let futures = [held_up(&pool, &gate), ok(&pool)];
        gate.wait_for(1);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| wait(&futures, ReturnWhen::AllCompleted, None));
            pool.kill();
            assert_waited(waiting.join().expect("no panic"), &[0, 1], &[]);
        });
    });
}

// Several pools.

#[test]
fn wait_for_all_of_several_pools() {
    in_time(|| {
        let pools = [pool_of(1), pool_of(1), pool_of(1)];
        let futures: Vec<_> = (0..300)
            .map(|x| pools[x % 3].submit(square, x as u64))
            .collect();
        let waited = wait(&futures, ReturnWhen::AllCompleted, None);
        assert_waited(waited, &(0..300).collect::<Vec<_>>(), &[]);
    });
}

#[test]
fn wait_for_the_first_of_several_pools() {
    in_time(|| {
        let pools = [pool_of(1), pool_of(1)];
        let gate = Gate::new();
        let futures = [held_up(&pools[0], &gate), ok(&pools[1])];
        let waited = wait(&futures, ReturnWhen::FirstCompleted, None);
        assert_waited(waited, &[1], &[0]);
    });
}

#[test]
fn wait_for_an_error_in_one_of_several_pools() {
    in_time(|| {
        let pools = [pool_of(1), pool_of(1)];
        let gate = Gate::new();
        let futures = [held_up(&pools[0], &gate), failing(&pools[1])];
        let waited = wait(&futures, ReturnWhen::FirstError, None);
        assert_waited(waited, &[1], &[0]);
    });
}

#[test]
fn wait_for_several_pools_with_a_limit_of_nothing() {
    in_time(|| {
        let pools = [pool_of(1), pool_of(1)];
        let gate = Gate::new();
        let futures = [held_up(&pools[0], &gate), ok(&pools[1])];
        finish(&futures[1]);
        for mode in MODES {
            assert_waited(wait(&futures, mode, Some(Duration::ZERO)), &[1], &[0]);
        }
    });
}

#[test]
fn wait_for_several_pools_of_which_one_is_gone() {
    in_time(|| {
        let (gone, pool) = (pool_of(1), pool_of(1));
        let futures = [ok(&gone), ok(&pool)];
        drop(gone);
        let waited = wait(&futures, ReturnWhen::AllCompleted, None);
        assert_waited(waited, &[0, 1], &[]);
    });
}

// as_completed.

#[test]
fn as_completed_gives_every_future_once_with_its_position() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let futures = (0..1000).map(|x| pool.submit(square, x));
        let all = as_completed(futures).map(|(index, result)| Ok((index, result?)));
        let mut all: Vec<(usize, u64)> = all.collect::<Result<_>>()?;
        all.sort();
        assert!(all.into_iter().eq((0..1000).map(|x| (x, square(x as u64)))));
        Ok(())
    })
}

#[test]
fn as_completed_gives_them_in_the_order_in_which_they_end() {
    in_time(|| {
        let pool = pool_of(2);
        let gates = [Gate::new(), Gate::new()];
        let futures = [held_up(&pool, &gates[0]), held_up(&pool, &gates[1])];
        let mut results = as_completed(futures);
        gates[1].open();
        assert_eq!(results.next().map(|it| it.0), Some(1));
        gates[0].open();
        assert_eq!(results.next().map(|it| it.0), Some(0));
    });
}

#[test]
fn as_completed_gives_what_is_done_first() {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let futures = [held_up(&pool, &gate), ok(&pool), ok(&pool)];
        finish(&futures[1]);
        finish(&futures[2]);
        let mut results = as_completed(futures);
        let first: Vec<usize> = results.by_ref().take(2).map(|it| it.0).collect();
        assert_eq!(first, [1, 2]);
        gate.open();
        assert_eq!(results.next().map(|it| it.0), Some(0));
    });
}

#[test]
fn as_completed_goes_on_behind_an_error() {
    in_time(|| {
        let pool = pool_of(1);
        let futures = [ok(&pool), failing(&pool), ok(&pool)];
        let kinds =
            as_completed(futures).map(|(index, result)| (index, result.map_err(|it| it.kind())));
        let mut kinds: Vec<_> = kinds.collect();
        kinds.sort_by_key(|it| it.0);
        assert_eq!(
            kinds,
            [(0, Ok(1)), (1, Err(ErrorKind::Panicked)), (2, Ok(1))]
        );
    });
}

#[test]
fn as_completed_of_nothing_ends_at_once() {
    in_time(|| {
        let nothing: [TaskFuture<u64>; 0] = [];
        assert!(as_completed(nothing).next().is_none());
    });
}

#[test]
fn as_completed_stays_ended() {
    in_time(|| {
        let pool = pool_of(1);
        let mut results = as_completed([ok(&pool)]);
        assert!(results.next().is_some());
        assert!((0..3).all(|_| results.next().is_none()));
    });
}

#[test]
fn as_completed_says_exactly_how_many_are_left() {
    in_time(|| {
        let pool = pool_of(1);
        let mut results = as_completed((0..10).map(|x| pool.submit(square, x)));
        for left in (0..10).rev() {
            assert!(results.next().is_some());
            assert_eq!(
                (results.len(), results.size_hint()),
                (left, (left, Some(left)))
            );
        }
    });
}

#[test]
fn as_completed_over_several_pools() {
    in_time(|| {
        let pools = [pool_of(1), pool_of(1)];
        let gate = Gate::new();
        let futures = [held_up(&pools[0], &gate), ok(&pools[1]), ok(&pools[1])];
        let mut results = as_completed(futures);
        let mut first: Vec<usize> = results.by_ref().take(2).map(|it| it.0).collect();
        first.sort();
        assert_eq!(first, [1, 2]);
        gate.open();
        assert_eq!(results.next().map(|it| it.0), Some(0));
    });
}

#[test]
fn as_completed_dropped_early_leaves_the_rest_to_run() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let futures = [ok(&pool), held_up(&pool, &gate), held_up(&pool, &gate)];
        let mut results = as_completed(futures);
        assert!(results.next().is_some());
        drop(results);
        gate.open();
        gate.wait_for(2);
        pool.join()
    })
}

#[test]
fn as_completed_gives_what_a_stopped_pool_did_not_do() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let futures = [held_up(&pool, &gate), ok(&pool)];
        let mut results = as_completed(futures);
        gate.wait_for(1);
        pool.kill();
        assert_eq!(
            failure(results.next().expect("two").1).kind(),
            ErrorKind::Shutdown
        );
        assert_eq!(
            failure(results.next().expect("two").1).kind(),
            ErrorKind::Shutdown
        );
    });
}

#[test]
fn as_completed_can_be_read_by_another_thread() {
    in_time(|| {
        let pool = pool_of(1);
        let (sender, receiver) = mpsc::channel();
        let results = as_completed((0..100).map(|x| pool.submit(square, x)));
        thread::spawn(move || results.for_each(|it| sender.send(it.0).expect("a receiver")));
        assert_eq!(receiver.into_iter().count(), 100);
    });
}

// The worker has no reason to ring for a reply that a long task follows.

#[test]
fn a_result_is_not_held_up_by_the_task_behind_it_while_another_thread_waits() {
    in_time(|| {
        let (pool, long, gate) = (pool_of(2), Gate::new(), Gate::new());
        thread::scope(|scope| {
            let elsewhere = pool.submit(pass, long.path());
            long.wait_for(1);
            // It leads, asleep, and knows nothing of what is submitted from here on.
            let leading = scope.spawn(|| elsewhere.result());
            race(|| {
                // The worker rang for the last of these a moment ago and does not ring again so
                // soon.
                (0..20).for_each(|x| assert!(pool.apply(square, x).is_ok()));
                let mut short = pool.submit(square, 7);
                let behind = pool.submit(pass, gate.path());
                assert_eq!(short.result_timeout(A_WHILE).ok(), Some(49));
                gate.let_in(1);
                assert!(behind.result().is_ok());
            });
            long.open();
            assert!(leading.join().expect("no panic").is_ok());
        });
    });
}

#[test]
fn a_result_is_not_held_up_by_the_item_behind_it_after_an_idle_time() {
    in_time(|| {
        let (pool, gate) = (pool_of(1), Gate::new());
        race(|| {
            // Tiny items, after which a worker looks at the clock only now and then.
            assert!(pool.map(square, 0..200).is_ok());
            thread::sleep(Duration::from_millis(2));
            let items = [(1, None), (2, None), (3, Some(gate.path()))];
            let mut results = pool.options().chunk_size(3).imap(run, items);
            let mut next = || results.next().and_then(Result::ok);
            assert_eq!((next(), next()), (Some(1), Some(2)));
            gate.let_in(1);
            assert_eq!(next(), Some(3));
        });
    });
}
