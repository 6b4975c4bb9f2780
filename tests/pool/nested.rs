//! Pools inside the workers of pools.

use common::processes::is_running;
use common::{failure, in_time, pool_of, square};
use procpool::{ErrorKind, ProcessPoolExecutor, Result, current_worker};
use std::{sync::LazyLock, thread, time::Duration};

static POOL: LazyLock<ProcessPoolExecutor> = LazyLock::new(|| pool_of(2));

/// A task with a pool of its own: the sum of the first squares.
fn sum_of_squares(n: u64) -> u64 {
    let squares = pool_of(2).map(square, 0..n).expect("squares");
    squares.iter().sum()
}

/// A task that nests pools as deep as it is told, and says how deep it got.
fn dive(depth: u64) -> u64 {
    match depth {
        0 => 0,
        _ => 1 + pool_of(1).apply(dive, depth - 1).expect("a nested pool"),
    }
}

#[test]
fn a_task_can_have_a_pool_of_its_own() -> Result<()> {
    in_time(|| {
        assert_eq!(pool_of(1).apply(sum_of_squares, 100)?, 328_350);
        Ok(())
    })
}

#[test]
fn tasks_of_several_workers_can_have_pools_of_their_own() -> Result<()> {
    in_time(|| {
        let sums = pool_of(2)
            .options()
            .chunk_size(1)
            .map(sum_of_squares, 0..8)?;
        assert_eq!(sums, [0, 0, 1, 5, 14, 30, 55, 91]);
        Ok(())
    })
}

#[test]
fn pools_nest_three_deep() -> Result<()> {
    in_time(|| {
        assert_eq!(pool_of(1).apply(dive, 3)?, 3);
        Ok(())
    })
}

#[test]
fn a_static_pool_in_a_task_is_the_workers_own() -> Result<()> {
    in_time(|| {
        let outer = POOL.worker_pids();
        let inner = pool_of(1).apply(|()| POOL.worker_pids(), ())?;
        assert_eq!(inner.len(), 2);
        assert!(inner.iter().all(|it| !outer.contains(it)));
        Ok(())
    })
}

#[test]
fn a_task_of_a_nested_pool_knows_its_own_worker() -> Result<()> {
    in_time(|| {
        let pids = pool_of(1).apply(
            |()| {
                let pid = |()| current_worker().map(|it| (it.pid, std::process::id()));
                (
                    current_worker().map(|it| it.pid),
                    pool_of(1).apply(pid, ()).ok().flatten(),
                )
            },
            (),
        )?;
        let (outer, Some((inner, inner_itself))) = pids else {
            panic!("{pids:?}");
        };
        assert_eq!(inner, inner_itself);
        assert_ne!(outer, Some(inner));
        Ok(())
    })
}

#[test]
fn an_error_in_a_nested_pool_is_a_value_like_any_other() -> Result<()> {
    in_time(|| {
        let kind = pool_of(1).apply(
            |()| {
                let error = pool_of(1).apply(|()| -> () { panic!("deep down") }, ());
                error.map_err(|it| (it.kind() == ErrorKind::Panicked, it.to_string()))
            },
            (),
        )?;
        let (panicked, text) = failure(kind);
        assert!(panicked && text.contains("deep down"), "{text}");
        Ok(())
    })
}

#[test]
fn the_end_of_a_pool_ends_the_pools_in_its_workers() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let nested = pool.apply(|()| POOL.worker_pids(), ())?;
        drop(pool);
        // The rest ends by itself, without a notice.
        while nested.iter().any(|it| is_running(*it)) {
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    })
}
