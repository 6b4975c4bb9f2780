//! What `stats()` tells: how long tasks ran, what all workers have done, and what runs now.

use common::{Gate, arrive, failure, in_time, pass, pool_of, square};
use procpool::{ErrorKind, ProcessPoolExecutor, Result};
use std::{
    path::PathBuf,
    process, thread,
    time::{Duration, Instant},
};

const SHORT: Duration = Duration::from_micros(5);
const LONG: Duration = Duration::from_millis(200);

/// A task: short, except one.
fn long_at((number, long): (u32, u32)) {
    if number == long {
        return thread::sleep(LONG);
    }
    let started = Instant::now();
    while started.elapsed() < SHORT {}
}

/// A task that takes less than a microsecond, except one.
fn tiny_but_for(number: u32) -> u32 {
    if number == 33_333 {
        thread::sleep(LONG);
    }
    number ^ 1
}

#[test]
fn the_longest_item_of_a_map_is_the_longest_run_time() -> Result<()> {
    in_time(|| {
        for chunk_size in [None, Some(1000), Some(7)] {
            let pool = pool_of(1);
            let mut options = pool.options();
            if let Some(size) = chunk_size {
                options = options.chunk_size(size);
            }
            options.map(long_at, (0..=5000).map(|it| (it, 2500)))?;
            pool.close();
            pool.join()?;
            let times = pool.stats().run_times;
            assert_eq!(times.count(), 5001);
            let longest = times.quantile(1.0);
            assert!(longest >= Some(LONG), "{chunk_size:?}: {longest:?}");
            let short = times.quantile(0.5);
            assert!(short < Some(LONG / 20), "{chunk_size:?}: {short:?}");
        }
        Ok(())
    })
}

#[test]
fn a_long_item_among_tiny_ones_is_the_longest_run_time() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        pool.options()
            .chunk_size(10_000)
            .map(tiny_but_for, 0..50_000)?;
        pool.close();
        pool.join()?;
        let times = pool.stats().run_times;
        assert_eq!(times.count(), 50_000);
        assert!(times.quantile(1.0) >= Some(LONG), "{times:?}");
        let long = times.buckets().filter(|it| it.0 >= LONG);
        // A busy machine may keep the core from some other item as long; the rest of the group of
        // 64 in which the long one was measured is not among them.
        let long = long.map(|it| it.1).sum::<u64>();
        assert!((1..64).contains(&long), "{long} long items");
        Ok(())
    })
}

#[test]
fn the_time_of_a_task_that_died_or_ran_out_of_time_counts() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let limit = Duration::from_millis(60);
        let slow = pool.options().timeout(limit);
        let sleep = |()| thread::sleep(Duration::from_secs(600));
        assert_eq!(failure(slow.apply(sleep, ())).kind(), ErrorKind::TimedOut);
        let times = pool.stats().run_times;
        assert_eq!(times.count(), 1);
        assert!(times.quantile(1.0) >= Some(limit), "{times:?}");
        let die_late = |()| -> () {
            thread::sleep(LONG);
            process::abort()
        };
        assert_eq!(
            failure(pool.apply(die_late, ())).kind(),
            ErrorKind::WorkerDied
        );
        let stats = pool.stats();
        assert_eq!((stats.run_times.count(), stats.wait_times.count()), (2, 2));
        assert!(stats.run_times.quantile(1.0) >= Some(LONG));
        assert!(stats.busy >= limit + LONG);
        Ok(())
    })
}

#[test]
fn a_death_in_the_middle_of_a_chunk_loses_no_item_s_time() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let die_at = |number: u32| match number {
            77 => process::abort(),
            number => number,
        };
        let options = pool.options().chunk_size(1000);
        let ended: Vec<Result<u32>> = options.imap(die_at, 0..1000).collect();
        assert_eq!(ended.iter().filter(|it| it.is_err()).count(), 1);
        pool.close();
        pool.join()?;
        let stats = pool.stats();
        assert_eq!(stats.run_times.count(), 1000);
        assert_eq!(stats.tasks_run, 1000);
        Ok(())
    })
}

#[test]
fn what_workers_have_done_counts_when_they_are_gone() -> Result<()> {
    in_time(|| {
        let builder = ProcessPoolExecutor::builder().workers(1);
        let pool = builder.max_tasks_per_worker(10).build()?;
        let nap = |()| thread::sleep(Duration::from_millis(1));
        pool.map(nap, [(); 105])?;
        pool.close();
        pool.join()?;
        let stats = pool.stats();
        assert_eq!((stats.done, stats.tasks_run), (105, 105));
        assert!(stats.busy >= Duration::from_millis(105), "{stats:?}");
        // What was taken back from a worker counts there, too.
        assert!(stats.restart_reasons.max_tasks >= 10);
        Ok(())
    })
}

#[test]
fn a_task_that_runs_shows_in_its_worker() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        assert_eq!(pool.stats().workers[0].running, None);
        let gate = Gate::new();
        let held = pool.submit(pass, gate.path());
        gate.wait_for(1);
        let running = || pool.stats().workers.pop().and_then(|it| it.running);
        let first = running().expect("a task that runs");
        assert_eq!((first.task, first.item), (Some(held.id()), None));
        let longer = first.elapsed + Duration::from_millis(20);
        while running().is_some_and(|it| it.elapsed < longer) {
            thread::yield_now();
        }
        assert_eq!(running().and_then(|it| it.task), Some(held.id()));
        gate.open();
        held.result()?;
        assert_eq!(running(), None);
        Ok(())
    })
}

#[test]
fn an_item_that_runs_shows_with_its_place_in_the_input() -> Result<()> {
    in_time(|| {
        fn pass_at((number, gate): (u32, PathBuf)) {
            if number == 5 {
                pass(gate);
            } else {
                square(number.into());
            }
        }
        let pool = pool_of(1);
        let gate = Gate::new();
        let items: Vec<_> = (0..10).map(|it| (it, gate.path())).collect();
        let map = pool.options().chunk_size(10).map_async(pass_at, items);
        gate.wait_for(1);
        // Until the pool has seen that it runs.
        let running = loop {
            let running = pool.stats().workers.pop().and_then(|it| it.running);
            if let Some(running) = running.filter(|it| it.item == Some(5)) {
                break running;
            }
            thread::yield_now();
        };
        assert_eq!(running.task, Some(map.id()));
        gate.open();
        map.result()?;
        Ok(())
    })
}

#[test]
fn a_task_that_has_stalled_shows_for_how_long_it_runs() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let stall = |gate: PathBuf| -> () {
            arrive(&gate);
            loop {
                thread::park();
            }
        };
        let stalled = pool.submit(stall, gate.path());
        gate.wait_for(1);
        thread::sleep(Duration::from_millis(50));
        pool.map(square, 0..100)?;
        let workers = pool.stats().workers;
        let running: Vec<_> = workers.iter().filter_map(|it| it.running).collect();
        assert_eq!(running.len(), 1);
        assert!(running[0].elapsed >= Duration::from_millis(50));
        assert!(stalled.kill());
        Ok(())
    })
}
