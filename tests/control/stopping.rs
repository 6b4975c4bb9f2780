//! One task is stopped, by its limit of time or by its future, and nothing else is.

use common::processes::{Process as Seen, eventually, kill as send, process};
use common::{
    Gate, alone, block_sigterm, failure, in_time, pass, pool_of, process_id, race, square,
    wait_until_running,
};
use nix::sys::signal::Signal;
use procpool::{ErrorKind, ProcessPoolExecutor, Result, TaskFuture, current_worker};
use std::{
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_millis(30);

/// A task that never ends.
fn sleep((): ()) {
    loop {
        thread::park();
    }
}

/// A task that ends at an odd number only when it is stopped.
fn odd_sleeps(number: u64) -> u64 {
    if !number.is_multiple_of(2) {
        sleep(());
    }
    number
}

/// A task that SIGTERM does not end.
fn ignore_sigterm((): ()) {
    block_sigterm();
    sleep(());
}

#[test]
fn a_task_past_its_limit_times_out_and_the_pool_goes_on() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let before = pool.apply(process_id, ())?;
        let error = failure(pool.options().timeout(SOON).apply(sleep, ()));
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(
            error.to_string(),
            "the task ran longer than its limit of 30ms"
        );
        assert_ne!(pool.apply(process_id, ())?, before);
        Ok(())
    })
}

#[test]
fn the_pool_s_limit_holds_for_every_call_and_a_call_s_own_for_itself() -> Result<()> {
    in_time(|| {
        let builder = ProcessPoolExecutor::builder().workers(2);
        let pool = builder.task_timeout(SOON).build()?;
        assert_eq!(failure(pool.apply(sleep, ())).kind(), ErrorKind::TimedOut);
        let gate = Gate::new();
        let unlimited = pool.options().timeout(Duration::MAX);
        let held = unlimited.submit(pass, gate.path());
        gate.wait_for(1);
        // The limit of the pool has long passed when the other is past it.
        let error = failure(pool.apply(sleep, ()).and_then(|()| pool.apply(sleep, ())));
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        gate.open();
        held.result()
    })
}

#[test]
fn the_clock_starts_with_the_task_and_not_with_its_submission() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let held = pool.submit(pass, gate.path());
        let limited: Vec<_> = (0..10)
            .map(|it| pool.options().timeout(20 * SOON).submit(square, it))
            .collect();
        gate.wait_for(1);
        let start = Instant::now();
        while start.elapsed() < 24 * SOON {
            thread::yield_now();
        }
        gate.open();
        held.result()?;
        for (future, number) in limited.into_iter().zip(0..) {
            assert_eq!(future.result()?, number * number);
        }
        Ok(())
    })
}

#[test]
fn a_slow_item_of_a_map_fails_alone() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for chunk_size in [1, 3, 100] {
            // As long as no item that does nothing may take on a busy machine.
            let options = pool.options().timeout(8 * SOON).chunk_size(chunk_size);
            let results = options.map_results(odd_sleeps, (0..10).map(|it| it * it * it));
            for (result, number) in results.into_iter().zip((0..10).map(|it| it * it * it)) {
                match number % 2 {
                    0 => assert_eq!(result?, number),
                    _ => assert_eq!(failure(result).kind(), ErrorKind::TimedOut),
                }
            }
        }
        Ok(())
    })
}

#[test]
fn the_items_before_it_in_its_chunk_do_not_count_towards_an_item_s_limit() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        // All of them take longer than the limit, and each a small part: a busy machine wakes a
        // sleeper up to a second late.
        let options = pool.options().timeout(70 * SOON).chunk_size(80);
        assert_eq!(options.map(|_| thread::sleep(SOON), 0..80)?.len(), 80);
        Ok(())
    })
}

#[test]
fn a_limit_passes_while_nobody_waits() {
    in_time(|| {
        let pool = pool_of(1);
        let (told, heard) = std::sync::mpsc::channel();
        let future = pool
            .options()
            .timeout(SOON)
            .apply_async(sleep, (), move |it| {
                let kind = it.as_ref().err().map(procpool::Error::kind);
                told.send(kind).expect("the test waits");
            });
        assert_eq!(heard.recv(), Ok(Some(ErrorKind::TimedOut)));
        drop(future);
    });
}

#[test]
fn a_limit_passes_while_another_caller_sleeps_for_long() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let held = pool.submit(pass, gate.path());
        gate.wait_for(1);
        thread::scope(|scope| {
            let long = scope.spawn(|| held.result());
            // The leader sleeps until an event comes, and must wake up at the deadline.
            let error = failure(pool.options().timeout(SOON).apply(sleep, ()));
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            gate.open();
            long.join().expect("no panic")
        })
    })
}

#[test]
fn a_task_that_ignores_sigterm_is_killed() {
    in_time(|| {
        let pool = pool_of(1);
        let error = failure(pool.options().timeout(SOON).apply(ignore_sigterm, ()));
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(pool.apply(square, 3).ok(), Some(9));
    });
}

#[test]
fn a_killed_task_is_cancelled_and_no_other_is() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        race(|| {
            let running = pool.submit(sleep, ());
            let behind: Vec<_> = (0..10).map(|it| pool.submit(square, it)).collect();
            wait_until_running(&running);
            assert!(!running.cancel());
            assert!(running.kill());
            assert_eq!(failure(running.result()).kind(), ErrorKind::Cancelled);
            for (future, number) in behind.into_iter().zip(0..) {
                assert_eq!(future.result().ok(), Some(number * number));
            }
        });
        Ok(())
    })
}

#[test]
fn killing_at_any_moment_hits_its_task_or_none() {
    in_time(|| {
        let pool = pool_of(2);
        race(|| {
            let futures: Vec<_> = (0..40).map(|it| pool.submit(square, it)).collect();
            let killed: Vec<bool> = futures
                .iter()
                .map(|it| it.id() % 3 == 0 && it.kill())
                .collect();
            for ((future, number), killed) in futures.into_iter().zip(0..).zip(killed) {
                match future.result() {
                    Ok(value) => assert_eq!(value, number * number),
                    Err(error) => {
                        assert!(killed && error.kind() == ErrorKind::Cancelled, "{error}")
                    }
                }
            }
        });
    });
}

#[test]
fn a_task_that_has_not_started_or_is_done_is_killed_as_it_is_cancelled() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let held = pool.submit(pass, gate.path());
        let queued = pool.submit(square, 2);
        assert!(queued.kill() && queued.is_cancelled() && queued.kill());
        gate.open();
        held.result()?;
        let mut done = pool.submit(square, 2);
        assert_eq!(done.result_timeout(Duration::MAX)?, 4);
        assert!(!done.kill());
        Ok(())
    })
}

#[test]
fn a_killed_map_stops_all_its_items() {
    in_time(|| {
        let pool = pool_of(2);
        let map = pool.map_async(|_: u64| sleep(()), 0..100);
        wait_until_running(&map);
        assert!(map.kill());
        assert_eq!(failure(map.result()).kind(), ErrorKind::Cancelled);
        assert_eq!(pool.map(square, 0..4).ok(), Some(vec![0, 1, 4, 9]));
    });
}

#[test]
fn a_task_sees_that_it_is_asked_to_stop_and_the_next_is_not() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let until_asked = |gate: PathBuf| {
            let worker = current_worker().expect("a task runs in a worker");
            assert!(!worker.stop_requested());
            pass(gate);
            while !worker.stop_requested() {
                thread::yield_now();
            }
        };
        for _ in 0..3 {
            let gate = Gate::new();
            let future = pool.submit(until_asked, gate.path());
            gate.wait_for(1);
            gate.open();
            assert!(!future.cancel());
            future.result()?;
        }
        Ok(())
    })
}

/// The only worker of a pool, which is held up in a task and then stopped as by a debugger.
fn stopped_worker(timeout: Duration) -> (ProcessPoolExecutor, TaskFuture<()>, Seen) {
    let pool = pool_of(1);
    let worker = process(pool.worker_pids()[0]);
    let held = pool.options().timeout(timeout).submit(sleep, ());
    wait_until_running(&held);
    send(worker.pid, Signal::SIGSTOP);
    (pool, held, worker)
}

#[test]
fn a_task_whose_worker_is_stopped_runs_out_of_time_all_the_same() {
    in_time(|| {
        let (pool, held, worker) = stopped_worker(4 * SOON);
        assert_eq!(failure(held.result()).kind(), ErrorKind::TimedOut);
        eventually("the worker is gone", || !worker.runs());
        assert_eq!(pool.apply(square, 3).ok(), Some(9));
    });
}

#[test]
fn a_task_whose_worker_is_stopped_can_be_killed() {
    in_time(|| {
        let (pool, held, worker) = stopped_worker(Duration::MAX);
        assert!(held.kill());
        assert_eq!(failure(held.result()).kind(), ErrorKind::Cancelled);
        eventually("the worker is gone", || !worker.runs());
        assert_eq!(pool.apply(square, 3).ok(), Some(9));
    });
}

#[test]
fn a_pool_with_a_stopped_worker_can_be_stopped() {
    in_time(|| {
        for stop in [ProcessPoolExecutor::kill, ProcessPoolExecutor::terminate] {
            let (pool, held, worker) = stopped_worker(Duration::MAX);
            stop(&pool);
            assert_eq!(failure(held.result()).kind(), ErrorKind::Shutdown);
            drop(pool);
            assert!(!worker.runs());
        }
    });
}

#[test]
fn time_in_which_the_whole_program_is_stopped_does_not_count_against_limits() {
    alone("", || {
        let pool = pool_of(1);
        let gate = Gate::new();
        let limit = Duration::from_secs(3);
        let mut task = pool.options().timeout(limit).submit(pass, gate.path());
        gate.wait_for(1);
        let ours = [std::process::id(), pool.worker_pids()[0]];
        let ours = ours.map(|it| it.to_string()).join(" ");
        // As Ctrl-Z does, for longer than the limit, and then `fg`.
        let stop = format!("sleep 0.2; kill -STOP {ours}; sleep 4; kill -CONT {ours}");
        let mut shell = Command::new("sh")
            .arg("-c")
            .arg(stop)
            .spawn()
            .expect("a shell");
        assert!(shell.wait().expect("a child").success());
        assert!(task.result_timeout(Duration::from_millis(200)).is_err());
        gate.open();
        task.result().expect("it ran for less than its limit");
    });
}
