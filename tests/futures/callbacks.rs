//! Callbacks: when they run, how often, in which order, on which thread, and what they may do.

use common::{A_MOMENT, Gate, in_time, pass, pool_of, race, square};
use procpool::{Result, TaskFuture};
use std::{
    sync::{
        Arc, Mutex,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

/// Adds three callbacks, and gives what they will say.
fn three_callbacks<R: procpool::Wire>(future: &TaskFuture<R>) -> mpsc::Receiver<u32> {
    let (sender, receiver) = mpsc::channel();
    for number in 1..=3 {
        let sender = sender.clone();
        future.add_done_callback(move || sender.send(number).expect("a receiver"));
    }
    receiver
}

#[track_caller]
fn assert_all_ran_once_in_order(callbacks: mpsc::Receiver<u32>) {
    // It ends when every callback is gone.
    assert_eq!(callbacks.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn callbacks_run_once_in_the_order_in_which_they_were_added() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let callbacks = three_callbacks(&pool.submit(pass, gate.path()));
        gate.open();
        assert_all_ran_once_in_order(callbacks);
    });
}

#[test]
fn callbacks_run_when_the_task_fails() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let fail = |gate| -> () {
            pass(gate);
            panic!("on purpose")
        };
        let callbacks = three_callbacks(&pool.submit(fail, gate.path()));
        gate.open();
        assert_all_ran_once_in_order(callbacks);
    });
}

#[test]
fn callbacks_run_when_the_worker_dies() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let die = |gate| -> () {
            pass(gate);
            std::process::abort()
        };
        let callbacks = three_callbacks(&pool.submit(die, gate.path()));
        gate.open();
        assert_all_ran_once_in_order(callbacks);
    });
}

#[test]
fn callbacks_run_when_the_task_is_cancelled() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let _running = pool.submit(pass, gate.path());
        gate.wait_for(1);
        let future = pool.submit(square, 7);
        let callbacks = three_callbacks(&future);
        assert!(future.cancel());
        assert_all_ran_once_in_order(callbacks);
    });
}

#[test]
fn callbacks_run_when_a_map_is_done() {
    in_time(|| {
        let pool = pool_of(2);
        assert_all_ran_once_in_order(three_callbacks(&pool.map_async(square, 0..1000)));
    });
}

#[test]
fn callbacks_run_when_the_pool_is_killed() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let callbacks = three_callbacks(&pool.submit(pass, gate.path()));
        pool.kill();
        assert_all_ran_once_in_order(callbacks);
    });
}

#[test]
fn a_callback_added_to_a_done_task_runs() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(square, 7);
        future.result_timeout(Duration::MAX)?;
        assert_all_ran_once_in_order(three_callbacks(&future));
        Ok(())
    })
}

#[test]
fn a_callback_added_to_a_failed_task_runs() {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(|()| -> () { panic!("on purpose") }, ());
        assert!(future.result_timeout(Duration::MAX).is_err());
        assert_all_ran_once_in_order(three_callbacks(&future));
    });
}

#[test]
fn a_callback_added_to_a_cancelled_task_runs() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let _running = pool.submit(pass, gate.path());
        gate.wait_for(1);
        let future = pool.submit(square, 7);
        assert!(future.cancel());
        assert_all_ran_once_in_order(three_callbacks(&future));
    });
}

#[test]
fn a_callback_added_to_a_refused_task_runs() {
    in_time(|| {
        let pool = pool_of(1);
        pool.close();
        assert_all_ran_once_in_order(three_callbacks(&pool.submit(square, 7)));
    });
}

#[test]
fn a_callback_added_to_a_task_of_a_pool_that_is_gone_runs() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(square, 7);
        future.result_timeout(Duration::MAX)?;
        drop(pool);
        assert_all_ran_once_in_order(three_callbacks(&future));
        Ok(())
    })
}

#[test]
fn callbacks_run_in_order_even_if_one_is_added_while_the_task_ends() {
    in_time(|| {
        let pool = pool_of(1);
        race(|| {
            let future = pool.submit(square, 7);
            let (sender, receiver) = mpsc::channel();
            let first = sender.clone();
            future.add_done_callback(move || first.send(1).expect("a receiver"));
            // The background thread reads the reply; this one sees at once that the task is done.
            while !format!("{future:?}").contains("is_done: true") {
                std::hint::spin_loop();
            }
            future.add_done_callback(move || sender.send(2).expect("a receiver"));
            assert_eq!(receiver.into_iter().collect::<Vec<_>>(), [1, 2]);
        });
    });
}

#[test]
fn a_callback_that_panics_does_not_stop_the_next() {
    in_time(|| {
        let pool = pool_of(1);
        let future = pool.submit(square, 7);
        future.add_done_callback(|| panic!("a callback, on purpose"));
        assert_all_ran_once_in_order(three_callbacks(&future));
    });
}

#[test]
fn a_callback_that_panics_does_not_stop_the_pool() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        for _ in 0..20 {
            let future = pool.apply_async(square, 7, |_| panic!("a callback, on purpose"));
            assert_eq!(future.result()?, 49);
        }
        assert_eq!(pool.apply(square, 8)?, 64);
        pool.join()
    })
}

#[test]
fn a_callback_may_take_a_lock_that_the_waiting_thread_holds() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let lock = Arc::new(Mutex::new(0));
        let future = pool.submit(square, 7);
        let (sender, receiver) = mpsc::channel();
        let in_callback = Arc::clone(&lock);
        future.add_done_callback(move || {
            *in_callback.lock().expect("no poison") += 1;
            sender.send(()).expect("a receiver");
        });
        {
            let _held = lock.lock().expect("no poison");
            assert_eq!(future.result()?, 49);
        }
        receiver.recv().expect("a callback");
        Ok(())
    })
}

#[test]
fn a_callback_never_runs_on_a_thread_that_uses_the_pool() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let (sender, receiver) = mpsc::channel();
        for x in 0..100 {
            let future = pool.submit(square, x);
            let sender = sender.clone();
            future.add_done_callback(move || {
                sender.send(thread::current().id()).expect("a receiver")
            });
            future.result()?;
        }
        let own = thread::current().id();
        assert!(receiver.into_iter().take(100).all(|it| it != own));
        Ok(())
    })
}

#[test]
fn a_callback_added_to_a_done_task_does_not_run_on_the_adding_thread() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let mut future = pool.submit(square, 7);
        future.result_timeout(Duration::MAX)?;
        let (sender, receiver) = mpsc::channel();
        future.add_done_callback(move || sender.send(thread::current().id()).expect("a receiver"));
        assert_ne!(receiver.recv().expect("a callback"), thread::current().id());
        Ok(())
    })
}

#[test]
fn a_callback_that_blocks_does_not_hold_up_the_pool() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let (release, released) = mpsc::channel::<()>();
        let (started, has_started) = mpsc::channel();
        let _unread = pool.apply_async(square, 7, move |_| {
            started.send(()).expect("a receiver");
            let _released = released.recv();
        });
        has_started.recv().expect("a callback");
        assert!(
            pool.map(square, 0..1000)?
                .into_iter()
                .eq((0..1000).map(square))
        );
        drop(release);
        Ok(())
    })
}

#[test]
fn a_callback_that_waits_for_a_later_task_does_not_hold_it_up() {
    in_time(|| {
        let pool = Arc::new(pool_of(1));
        let (sender, receiver) = mpsc::channel();
        let gate = Gate::new();
        let first = pool.submit(square, 7);
        let later = pool.submit(pass, gate.path());
        first.add_done_callback(move || sender.send(later.result()).expect("a receiver"));
        gate.open();
        assert!(receiver.recv().expect("a callback").is_ok());
    });
}

#[test]
fn a_callback_can_add_a_callback() {
    in_time(|| {
        let pool = pool_of(1);
        let (sender, receiver) = mpsc::channel();
        let future = Arc::new(pool.submit(square, 7));
        let inner = Arc::clone(&future);
        future.add_done_callback(move || {
            inner.add_done_callback(move || sender.send(()).expect("a receiver"));
        });
        receiver.recv().expect("a callback");
    });
}

#[test]
fn a_task_is_done_when_its_callback_runs() {
    in_time(|| {
        let pool = pool_of(1);
        let (sender, receiver) = mpsc::channel();
        let future = Arc::new(pool.submit(square, 7));
        let inner = Arc::clone(&future);
        future.add_done_callback(move || sender.send(inner.is_done()).expect("a receiver"));
        assert!(receiver.recv().expect("a callback"));
    });
}

#[test]
fn a_callback_runs_although_the_future_is_dropped() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let future = pool.submit(pass, gate.path());
        let callbacks = three_callbacks(&future);
        drop(future);
        gate.open();
        assert_all_ran_once_in_order(callbacks);
    });
}

#[test]
fn the_callbacks_of_many_tasks_run_once_each() {
    in_time(|| {
        let pool = pool_of(2);
        let (sender, receiver) = mpsc::channel();
        for x in 0..5000 {
            let sender = sender.clone();
            let _unread = pool.apply_async(square, x, move |it| {
                sender
                    .send(it.clone().expect("a square"))
                    .expect("a receiver");
            });
        }
        drop(sender);
        let mut squares: Vec<u64> = receiver.into_iter().collect();
        squares.sort();
        assert!(squares.into_iter().eq((0..5000).map(square)));
    });
}

#[test]
fn callbacks_run_one_at_a_time() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let running = Arc::new(Mutex::new(()));
        let (sender, receiver) = mpsc::channel();
        for x in 0..500 {
            let (running, sender) = (Arc::clone(&running), sender.clone());
            let _unread = pool.apply_async(square, x, move |_| {
                let alone = running.try_lock().is_ok();
                thread::yield_now();
                sender.send(alone).expect("a receiver");
            });
        }
        assert!(receiver.into_iter().take(500).all(|it| it));
        Ok(())
    })
}

#[test]
fn join_waits_for_a_callback_that_runs() {
    in_time(|| {
        let pool = pool_of(1);
        let (sender, receiver) = mpsc::channel();
        let _unread = pool.apply_async(square, 7, move |_| {
            thread::sleep(A_MOMENT);
            sender.send(()).expect("a receiver");
        });
        pool.join().expect("an end");
        assert!(receiver.try_recv().is_ok());
    });
}

#[test]
fn a_callback_is_not_held_up_by_the_task_that_runs_next() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        race(|| {
            // 1. This thread leads and reads the first reply, for which the worker rang a moment
            //    ago.
            // 2. The worker replies to the second and does not ring again so soon.
            // 3. This thread stops to lead; the worker runs the third and will not ring before that
            //    ends.
            let first = pool.submit(square, 7);
            let (sender, receiver) = mpsc::channel();
            let second = pool.submit(square, 8);
            second.add_done_callback(move || sender.send(()).expect("a receiver"));
            let third = pool.submit(pass, gate.path());
            first.result().expect("a square");
            let called = receiver.recv_timeout(Duration::from_secs(5));
            assert_ne!(
                called,
                Err(RecvTimeoutError::Timeout),
                "the callback waits for the third task"
            );
            gate.let_in(1);
            third.result().expect("an end");
        });
    });
}
