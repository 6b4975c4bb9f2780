//! Single tasks: `submit`, `apply` and `apply_async`, from one thread and from many.

use common::{DEADLINE, Gate, failure, in_time, pass, pool_of, process_id, race, square};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use procpool::{ErrorKind, ProcessPoolExecutor, Result};
use serde::{Deserialize, Serialize, Serializer};
use std::{
    cell::RefCell,
    collections::HashSet,
    sync::{LazyLock, mpsc},
    thread,
};

static POOL: LazyLock<ProcessPoolExecutor> = LazyLock::new(|| pool_of(2));

#[test]
fn a_future_gives_what_the_function_returns() -> Result<()> {
    in_time(|| {
        assert_eq!(pool_of(1).submit(square, 7).result()?, 49);
        Ok(())
    })
}

#[test]
fn apply_gives_what_the_function_returns() -> Result<()> {
    in_time(|| {
        let doubled = pool_of(1).apply(|text: String| text.repeat(2), "ab".to_owned())?;
        assert_eq!(doubled, "abab");
        Ok(())
    })
}

#[test]
fn a_task_runs_in_a_worker() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let pid = pool.apply(process_id, ())?;
        assert!(pool.worker_pids().contains(&pid));
        assert_ne!(pid, std::process::id());
        Ok(())
    })
}

thread_local! {
    static AT_THE_END: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
}

/// Sends what the pool returns while the destructors of a thread's locals run.
struct AtTheEnd(mpsc::Sender<Result<u64>>);

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        // Fails only if the test has stopped waiting.
        let _ = self.0.send(POOL.apply(square, 7));
    }
}

#[test]
fn the_destructor_of_a_thread_local_may_use_a_pool() -> Result<()> {
    in_time(|| {
        let (sender, receiver) = mpsc::channel();
        let ended = thread::spawn(|| {
            AT_THE_END.set(Some(AtTheEnd(sender)));
            // The pool's own locals come later, and go earlier.
            POOL.apply(square, 3)
        });
        assert_eq!(ended.join().expect("no panic")?, 9);
        assert_eq!(receiver.recv().expect("a destructor")?, 49);
        Ok(())
    })
}

#[test]
fn a_function_can_be_chosen_at_run_time() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let table: [fn(u64) -> u64; 4] =
            [square, |x| x + 1, u64::count_zeros_of, u64::reverse_bits];
        let results: Result<Vec<u64>> = table.into_iter().map(|f| pool.apply(f, 3)).collect();
        assert_eq!(results?, table.map(|f| f(3)));
        Ok(())
    })
}

trait CountZeros {
    fn count_zeros_of(self) -> u64;
}

impl CountZeros for u64 {
    fn count_zeros_of(self) -> u64 {
        self.count_zeros().into()
    }
}

#[test]
fn a_task_that_returns_an_error_has_succeeded() -> Result<()> {
    in_time(|| {
        let parse = |text: String| text.parse::<u8>().map_err(|it| it.to_string());
        let outcome = pool_of(1).apply(parse, "300".to_owned())?;
        assert_eq!(outcome, Err(failure("300".parse::<u8>()).to_string()));
        Ok(())
    })
}

#[test]
fn every_one_of_many_tiny_tasks_is_answered() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let futures: Vec<_> = (0..50_000)
            .map(|x| pool.submit(|x: u64| x + 1, x))
            .collect();
        for (x, future) in (0..).zip(futures) {
            assert_eq!(future.result()?, x + 1);
        }
        Ok(())
    })
}

#[test]
fn tasks_behind_a_long_one_are_done_by_the_other_worker() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        // Tiny tasks, so that many are sent ahead to the worker that is about to block.
        pool.map(square, 0..10_000)?;
        race(|| {
            let long = pool.submit(pass, gate.path());
            // Few or many: what is left behind the long one may be worth less than the trouble to
            // move it.
            for count in [100, 10, 3] {
                let futures: Vec<_> = (0..count).map(|x| pool.submit(square, x)).collect();
                for (x, future) in (0..).zip(futures) {
                    assert_eq!(future.result().ok(), Some(x * x));
                }
            }
            gate.let_in(1);
            long.result().expect("an end");
        });
        Ok(())
    })
}

#[test]
fn tasks_behind_a_long_one_are_done_by_the_other_worker_while_nobody_waits() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        pool.map(square, 0..10_000)?;
        race(|| {
            let long = pool.submit(pass, gate.path());
            for count in [100, 10, 3] {
                let (done, all_done) = mpsc::channel();
                for x in 0..count {
                    let done = done.clone();
                    let _unread = pool.apply_async(square, x, move |it| {
                        done.send(it.is_ok()).expect("a receiver");
                    });
                }
                drop(done);
                assert_eq!(
                    all_done.into_iter().filter(|it| *it).count(),
                    count as usize
                );
            }
            gate.let_in(1);
            long.result().expect("an end");
        });
        Ok(())
    })
}

#[test]
fn a_callback_gets_the_result() {
    in_time(|| {
        let (sender, receiver) = mpsc::channel();
        let pool = pool_of(1);
        let _unread = pool.apply_async(square, 7, move |it| {
            sender.send(it.clone()).expect("a receiver");
        });
        assert_eq!(receiver.recv().expect("a callback").ok(), Some(49));
    });
}

#[test]
fn a_callback_gets_the_error() {
    in_time(|| {
        let (sender, receiver) = mpsc::channel();
        let pool = pool_of(1);
        let _unread = pool.apply_async(
            |()| -> () { panic!("on purpose") },
            (),
            move |it| sender.send(it.clone()).expect("a receiver"),
        );
        let error = failure(receiver.recv().expect("a callback"));
        assert_eq!(error.kind(), ErrorKind::Panicked);
    });
}

#[test]
fn a_callback_of_a_closed_pool_gets_shutdown() {
    in_time(|| {
        let (sender, receiver) = mpsc::channel();
        let pool = pool_of(1);
        pool.close();
        let _unread = pool.apply_async(square, 7, move |it| {
            sender.send(it.clone()).expect("a receiver");
        });
        let error = failure(receiver.recv().expect("a callback"));
        assert_eq!(error.kind(), ErrorKind::Shutdown);
    });
}

#[test]
fn the_result_is_there_beside_the_callback() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let future = pool.apply_async(square, 7, |_| ());
        assert_eq!(future.result()?, 49);
        Ok(())
    })
}

#[test]
fn a_callback_can_wait_for_a_task_of_its_pool() -> Result<()> {
    in_time(|| {
        let (sender, receiver) = mpsc::channel();
        let _unread = POOL.apply_async(square, 7, move |_| {
            sender.send(POOL.apply(square, 8)).expect("a receiver");
        });
        assert_eq!(receiver.recv().expect("a callback")?, 64);
        Ok(())
    })
}

#[test]
fn a_callback_can_map_over_its_pool() -> Result<()> {
    in_time(|| {
        let (sender, receiver) = mpsc::channel();
        let _unread = POOL.apply_async(square, 7, move |_| {
            sender.send(POOL.map(square, 0..100)).expect("a receiver");
        });
        let squares: Vec<u64> = (0..100).map(square).collect();
        assert_eq!(receiver.recv().expect("a callback")?, squares);
        Ok(())
    })
}

#[test]
fn a_callback_can_submit_with_a_callback() -> Result<()> {
    in_time(|| {
        let (sender, receiver) = mpsc::channel();
        let _unread = POOL.apply_async(square, 2, move |first| {
            let first = first.clone().expect("four");
            let _unread = POOL.apply_async(square, first, move |second| {
                sender.send(second.clone()).expect("a receiver");
            });
        });
        assert_eq!(receiver.recv().expect("a callback")?, 16);
        Ok(())
    })
}

#[test]
fn ten_threads_use_one_pool() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        thread::scope(|scope| {
            let uses = |number: u64| {
                let pool = &pool;
                move || -> Result<()> {
                    for x in number * 100..number * 100 + 50 {
                        assert_eq!(pool.apply(square, x)?, x * x);
                    }
                    let squares: Vec<u64> = (0..number * 50).map(square).collect();
                    assert_eq!(pool.map(square, 0..number * 50)?, squares);
                    let lazy: Result<Vec<u64>> = pool.imap(square, 0..number * 50).collect();
                    assert_eq!(lazy?, squares);
                    let futures: Vec<_> = (0..50).map(|x| pool.submit(square, x)).collect();
                    for (x, future) in (0..).zip(futures) {
                        assert_eq!(future.result()?, x * x);
                    }
                    Ok(())
                }
            };
            let threads: Vec<_> = (0..10).map(|number| scope.spawn(uses(number))).collect();
            threads
                .into_iter()
                .try_for_each(|it| it.join().expect("no panic"))
        })
    })
}

#[test]
fn threads_that_wait_for_each_others_tasks_all_get_them() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        // What one thread submits another one waits for.
        let (futures, submitted): (Vec<_>, Vec<_>) = (0..4).map(|_| mpsc::sync_channel(64)).unzip();
        thread::scope(|scope| {
            for (thread, futures) in futures.into_iter().enumerate() {
                let pool = &pool;
                scope.spawn(move || {
                    for x in 0..500 {
                        let future = pool.submit(|(a, b)| a + b, (x, thread as u64));
                        futures.send(future).expect("a receiver");
                    }
                });
            }
            let waiting = submitted
                .into_iter()
                .enumerate()
                .map(|(thread, submitted)| {
                    scope.spawn(move || -> Result<()> {
                        for (x, future) in (0..).zip(submitted) {
                            assert_eq!(future.result()?, x + thread as u64);
                        }
                        Ok(())
                    })
                });
            let waiting: Vec<_> = waiting.collect();
            waiting
                .into_iter()
                .try_for_each(|it| it.join().expect("no panic"))
        })
    })
}

#[test]
fn a_static_pool_serves_many_threads() {
    in_time(|| {
        let threads = (0..4u64).map(|x| thread::spawn(move || POOL.apply(square, x)));
        let threads: Vec<_> = threads.collect();
        for (x, thread) in (0..).zip(threads) {
            let result = thread.join().expect("no panic");
            assert_eq!(result.ok(), Some(x * x));
        }
    });
}

#[test]
fn pools_do_not_share_workers() -> Result<()> {
    in_time(|| {
        let pools = [pool_of(2), pool_of(2)];
        let pids: HashSet<u32> = pools.iter().flat_map(|it| it.worker_pids()).collect();
        assert_eq!(pids.len(), 4);
        Ok(())
    })
}

#[test]
fn a_pool_can_be_dropped_by_another_thread_than_its_builder() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let future = pool.submit(square, 7);
        thread::spawn(move || drop(pool)).join().expect("no panic");
        assert_eq!(future.result()?, 49);
        Ok(())
    })
}

/// A value whose encoding waits for a task.
#[derive(Deserialize)]
struct Busy(u64);

impl Serialize for Busy {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let square = POOL
            .apply(square, self.0)
            .map_err(serde::ser::Error::custom)?;
        square.serialize(serializer)
    }
}

#[test]
fn a_serialize_implementation_can_use_the_pool() -> Result<()> {
    in_time(|| {
        assert_eq!(POOL.apply(|busy: Busy| busy.0 + 1, Busy(7))?, 50);
        Ok(())
    })
}

#[test]
fn no_short_task_waits_behind_a_long_one_while_a_worker_is_free() -> Result<()> {
    in_time(|| {
        let pool = pool_of(3);
        let gate = Gate::new();
        let held = [0, 1].map(|_| pool.submit(pass, gate.path()));
        gate.wait_for(2);
        // 1. Some are sent ahead to each of the two. 2. The third worker takes those of one. 3. It
        //    must find those of the other.
        let futures: Vec<_> = (0..100).map(|it| pool.submit(square, it)).collect();
        for (future, number) in futures.into_iter().zip(0..) {
            assert_eq!(future.result()?, number * number);
        }
        gate.open();
        held.into_iter().try_for_each(procpool::TaskFuture::result)
    })
}

#[test]
fn what_was_sent_ahead_is_found_behind_a_long_task_although_another_worker_is_slow_to_start()
-> Result<()> {
    in_time(|| {
        let pool = pool_of(3);
        // All are ready.
        let gate = Gate::new();
        let ready = [(); 3].map(|()| pool.submit(pass, gate.path()));
        gate.wait_for(3);
        gate.open();
        ready
            .into_iter()
            .try_for_each(procpool::TaskFuture::result)?;
        // 1. The last worker does not come to its task. 2. One is sent ahead to the first. 3. The
        //    second has nothing to do.
        let last = Pid::from_raw(pool.worker_pids()[2] as i32);
        kill(last, Signal::SIGSTOP).expect("a worker");
        let gates = [Gate::new(), Gate::new()];
        let [long, soon_done] = [0, 1].map(|it: usize| pool.submit(pass, gates[it].path()));
        gates.iter().for_each(|it| it.wait_for(1));
        let (slow, mut ahead) = (pool.submit(square, 2), pool.submit(square, 3));
        gates[1].open();
        soon_done.result()?;
        assert_eq!(ahead.result_timeout(DEADLINE / 4)?, 9);
        kill(last, Signal::SIGCONT).expect("a worker");
        gates[0].open();
        long.result()?;
        assert_eq!(slow.result()?, 4);
        Ok(())
    })
}

#[test]
fn every_worker_gets_one_of_as_many_endless_tasks_whichever_is_ready_first() {
    in_time(|| {
        race(|| {
            let pool = pool_of(5);
            let gate = Gate::new();
            // Submitted while workers start: to those that are ready first, then shared with the
            // others, several at a time.
            let held = [(); 5].map(|()| pool.submit(pass, gate.path()));
            gate.wait_for(5);
            gate.open();
            assert!(held.into_iter().all(|it| it.result().is_ok()));
        });
    });
}
