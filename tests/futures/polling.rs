//! A future in async code: on `futures::executor` and polled by hand.

use common::{Gate, failure, in_time, pass, pool_of, race, square};
use futures::{
    executor::{LocalPool, block_on},
    future::{Either, select, try_join},
    task::{LocalSpawnExt, noop_waker},
};
use procpool::{ErrorKind, ProcessPoolExecutor, Result, TaskFuture};
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

/// What can be awaited in any task, and polled without being pinned first.
fn sendable<T: Send + Unpin + 'static>(value: T) -> T {
    value
}

// Runtimes.

#[test]
fn a_future_can_be_awaited_by_the_executor_of_futures() -> Result<()> {
    in_time(|| {
        assert_eq!(block_on(sendable(pool_of(1).submit(square, 7)))?, 49);
        Ok(())
    })
}

#[test]
fn many_futures_can_be_awaited_in_a_local_pool() {
    in_time(|| {
        let pool = Arc::new(pool_of(2));
        let mut local = LocalPool::new();
        let done = Arc::new(AtomicUsize::new(0));
        for x in 0..500 {
            let (pool, done) = (Arc::clone(&pool), Arc::clone(&done));
            let task = async move {
                assert_eq!(pool.submit(square, x).await.ok(), Some(x * x));
                done.fetch_add(1, Ordering::Relaxed);
            };
            local.spawner().spawn_local(task).expect("a running pool");
        }
        local.run();
        assert_eq!(done.load(Ordering::Relaxed), 500);
    });
}

#[test]
fn a_map_can_be_awaited() -> Result<()> {
    in_time(|| {
        let squares = block_on(pool_of(2).map_async(square, 0..1000))?;
        assert!(squares.into_iter().eq((0..1000).map(square)));
        Ok(())
    })
}

#[test]
fn an_error_can_be_awaited() {
    in_time(|| {
        let outcome = block_on(pool_of(1).submit(|()| -> () { panic!("on purpose") }, ()));
        assert_eq!(failure(outcome).kind(), ErrorKind::Panicked);
    });
}

#[test]
fn two_futures_can_be_joined() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let both = try_join(pool.submit(square, 2), pool.submit(square, 3));
        assert_eq!(block_on(both)?, (4, 9));
        Ok(())
    })
}

#[test]
fn the_loser_of_a_select_can_still_be_awaited() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let selected = block_on(select(
            pool.submit(pass, gate.path()),
            pool.submit(square, 7),
        ));
        let Either::Right((result, held_up)) = selected else {
            panic!("the task at the gate is done");
        };
        assert_eq!(result?, 49);
        gate.open();
        block_on(held_up)
    })
}

#[test]
fn the_loser_of_a_select_may_be_dropped() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        drop(block_on(select(
            pool.submit(pass, gate.path()),
            pool.submit(square, 7),
        )));
        gate.open();
        gate.wait_for(1);
        pool.join()
    })
}

#[test]
fn an_awaited_task_wakes_its_runtime_when_it_is_cancelled() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let _running = pool.submit(pass, gate.path());
        gate.wait_for(1);
        let queued = Arc::new(Mutex::new(pool.submit(square, 7)));
        let polled = Arc::new(std::sync::Barrier::new(2));
        let (awaited, was_polled) = (Arc::clone(&queued), Arc::clone(&polled));
        let awaiting = thread::spawn(move || {
            let mut first = true;
            block_on(poll_fn(|context| {
                let outcome = Pin::new(&mut *awaited.lock().expect("no poison")).poll(context);
                if std::mem::take(&mut first) {
                    was_polled.wait();
                }
                outcome
            }))
        });
        polled.wait();
        while !queued.lock().expect("no poison").cancel() {}
        let outcome = awaiting.join().expect("no panic");
        assert_eq!(failure(outcome).kind(), ErrorKind::Cancelled);
    });
}

#[test]
fn blocking_and_async_callers_share_a_pool() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        thread::scope(|scope| {
            let blocking =
                scope.spawn(|| (0..500).try_for_each(|x| pool.apply(square, x).map(drop)));
            let asynchronous = scope.spawn(|| {
                block_on(async {
                    for x in 0..500 {
                        assert_eq!(pool.submit(square, x).await?, x * x);
                    }
                    Ok(())
                })
            });
            blocking.join().expect("no panic")?;
            asynchronous.join().expect("no panic")
        })
    })
}

// By hand.

/// A waker that tells, and does something besides.
struct Bell<F> {
    rings: mpsc::SyncSender<()>,
    also: F,
}

impl<F: Fn() + Send + Sync> Wake for Bell<F> {
    fn wake(self: Arc<Self>) {
        (self.also)();
        // No receiver is left for a second wake-up.
        let _ = self.rings.try_send(());
    }
}

fn bell(also: impl Fn() + Send + Sync + 'static) -> (Waker, mpsc::Receiver<()>) {
    let (rings, heard) = mpsc::sync_channel(100);
    (Arc::new(Bell { rings, also }).into(), heard)
}

fn poll_with<R: procpool::Wire>(future: &mut TaskFuture<R>, waker: &Waker) -> Poll<Result<R>> {
    Pin::new(future).poll(&mut Context::from_waker(waker))
}

/// A task at a gate, polled once.
fn polled(pool: &ProcessPoolExecutor, gate: &Gate, waker: &Waker) -> TaskFuture<()> {
    let mut future = pool.submit(pass, gate.path());
    assert!(poll_with(&mut future, waker).is_pending());
    future
}

#[test]
fn a_waker_is_called_when_the_task_is_done() {
    in_time(|| {
        let (pool, gate, (waker, rings)) = (pool_of(1), Gate::new(), bell(|| ()));
        let mut future = polled(&pool, &gate, &waker);
        gate.open();
        rings.recv().expect("a ring");
        assert!(poll_with(&mut future, &waker).is_ready());
    });
}

#[test]
fn only_the_newest_waker_is_called() {
    in_time(|| {
        let (pool, gate) = (pool_of(1), Gate::new());
        let ((old, old_rings), (new, new_rings)) = (bell(|| ()), bell(|| ()));
        let mut future = polled(&pool, &gate, &old);
        assert!(poll_with(&mut future, &new).is_pending());
        gate.open();
        new_rings.recv().expect("a ring");
        pool.join().expect("an end");
        assert!(old_rings.try_recv().is_err());
    });
}

#[test]
fn a_waker_that_comes_back_is_called() {
    in_time(|| {
        let (pool, gate) = (pool_of(1), Gate::new());
        let ((first, rings), (second, _)) = (bell(|| ()), bell(|| ()));
        let mut future = polled(&pool, &gate, &first);
        assert!(poll_with(&mut future, &second).is_pending());
        assert!(poll_with(&mut future, &first).is_pending());
        gate.open();
        rings.recv().expect("a ring");
    });
}

#[test]
fn a_waker_is_called_once_however_often_the_future_was_polled() {
    in_time(|| {
        let (pool, gate, (waker, rings)) = (pool_of(1), Gate::new(), bell(|| ()));
        let mut future = polled(&pool, &gate, &waker);
        for _ in 0..100 {
            assert!(poll_with(&mut future, &waker).is_pending());
        }
        gate.open();
        pool.join().expect("an end");
        assert_eq!(rings.try_iter().count(), 1);
    });
}

#[test]
fn a_waker_is_called_when_the_pool_is_killed() {
    in_time(|| {
        let (pool, gate, (waker, rings)) = (pool_of(1), Gate::new(), bell(|| ()));
        let _future = polled(&pool, &gate, &waker);
        pool.kill();
        rings.recv().expect("a ring");
    });
}

#[test]
fn a_waker_is_called_when_the_worker_dies() {
    in_time(|| {
        let (pool, gate, (waker, rings)) = (pool_of(1), Gate::new(), bell(|| ()));
        let die = |gate| -> () {
            pass(gate);
            std::process::abort()
        };
        let mut future = pool.submit(die, gate.path());
        assert!(poll_with(&mut future, &waker).is_pending());
        gate.open();
        rings.recv().expect("a ring");
    });
}

#[test]
fn a_waker_may_use_the_pool() {
    in_time(|| {
        let (pool, gate) = (Arc::new(pool_of(1)), Gate::new());
        let in_waker = Arc::clone(&pool);
        let (waker, rings) = bell(move || {
            let future = in_waker.submit(square, 7);
            let _asked = (future.is_done(), future.cancel(), in_waker.worker_pids());
        });
        let _future = polled(&pool, &gate, &waker);
        gate.open();
        rings.recv().expect("a ring");
    });
}

#[test]
fn a_waker_may_ask_the_future_that_wakes_it() {
    in_time(|| {
        let (pool, gate) = (pool_of(1), Gate::new());
        let place: Arc<Mutex<Option<TaskFuture<()>>>> = Arc::default();
        let in_waker = Arc::clone(&place);
        let (waker, rings) = bell(move || {
            let future = in_waker.lock().expect("no poison");
            assert!(
                future
                    .as_ref()
                    .is_some_and(|it| it.is_done() && !it.is_running())
            );
        });
        let future = polled(&pool, &gate, &waker);
        *place.lock().expect("no poison") = Some(future);
        gate.open();
        rings.recv().expect("a ring");
    });
}

#[test]
fn a_waker_that_panics_does_not_stop_the_pool() -> Result<()> {
    in_time(|| {
        let (pool, gate) = (pool_of(1), Gate::new());
        let (waker, _rings) = bell(|| panic!("a waker, on purpose"));
        let future = polled(&pool, &gate, &waker);
        gate.open();
        future.result()?;
        assert_eq!(pool.apply(square, 7)?, 49);
        pool.join()
    })
}

#[test]
fn a_future_polled_before_can_be_waited_for() -> Result<()> {
    in_time(|| {
        let (pool, gate) = (pool_of(1), Gate::new());
        let future = polled(&pool, &gate, &noop_waker());
        gate.open();
        future.result()
    })
}

#[test]
fn a_future_polled_after_its_result_gives_an_error() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(square, 7);
        assert_eq!(block_on(&mut future)?, 49);
        assert_eq!(
            failure(block_on(&mut future)).kind(),
            ErrorKind::InvalidInput
        );
        Ok(())
    })
}

#[test]
fn a_future_polled_after_result_timeout_took_its_result_gives_an_error() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(square, 7);
        future.result_timeout(Duration::MAX)?;
        assert_eq!(failure(block_on(future)).kind(), ErrorKind::InvalidInput);
        Ok(())
    })
}

#[test]
fn a_refused_task_is_ready_at_once() {
    in_time(|| {
        let pool = pool_of(1);
        pool.close();
        let outcome = poll_with(&mut pool.submit(square, 7), &noop_waker());
        let Poll::Ready(outcome) = outcome else {
            panic!("nothing would ever wake it");
        };
        assert_eq!(failure(outcome).kind(), ErrorKind::Shutdown);
    });
}

#[test]
fn a_dropped_future_drops_its_waker_at_the_end_of_the_task() -> Result<()> {
    in_time(|| {
        let (pool, gate, (waker, rings)) = (pool_of(1), Gate::new(), bell(|| ()));
        drop(polled(&pool, &gate, &waker));
        drop(waker);
        gate.open();
        pool.join()?;
        // The sender is gone with the last waker.
        assert!(rings.into_iter().count() <= 1);
        Ok(())
    })
}

#[test]
fn an_awaited_task_is_not_held_up_by_the_one_that_runs_next() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        race(|| {
            // As for callbacks: the reply to the second comes when this thread has just stopped to
            // lead.
            let first = pool.submit(square, 7);
            let (waker, rings) = bell(|| ());
            let mut second = pin!(pool.submit(square, 8));
            let is_pending = second
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending();
            let third = pool.submit(pass, gate.path());
            first.result().expect("a square");
            if is_pending {
                let rung = rings.recv_timeout(Duration::from_secs(5));
                assert_ne!(
                    rung,
                    Err(RecvTimeoutError::Timeout),
                    "it waits for the third task"
                );
            }
            gate.let_in(1);
            third.result().expect("an end");
        });
    });
}

#[test]
fn a_waker_may_drop_the_pool_on_the_thread_that_waits_for_it() {
    /// Drops the pool when it wakes.
    struct Dropper(Mutex<Option<ProcessPoolExecutor>>);
    impl Wake for Dropper {
        fn wake(self: Arc<Self>) {
            let pool = self.0.lock().ok().and_then(|mut it| it.take());
            drop(pool);
        }
    }
    in_time(|| {
        let (pool, first, second) = (pool_of(2), Gate::new(), Gate::new());
        let mut short = pool.submit(pass, first.path());
        let long = pool.submit(pass, second.path());
        first.wait_for(1);
        second.wait_for(1);
        let waker = Waker::from(Arc::new(Dropper(Mutex::new(Some(pool)))));
        let polled = Pin::new(&mut short).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        let waiting = thread::spawn(move || long.result());
        first.open();
        second.open();
        assert!(waiting.join().expect("no panic").is_ok());
    });
}
