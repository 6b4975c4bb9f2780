//! Maps over inputs that are slow: no result waits for the next item but one.

use common::{in_time, pool_of, square};
use procpool::{ProcessPoolExecutor, Result, TaskOptions};
use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

/// Items of a test.
const ITEMS: u64 = 40;

/// An input that gives an item when all items before it are done, and fails the test if by then
/// another result than the last is still to be handed out.
fn careful_input<'a>(
    pool: &'a ProcessPoolExecutor,
    given: &'a Cell<u64>,
) -> impl Iterator<Item = u64> + 'a {
    let before = pool.stats().done;
    (0..ITEMS).inspect(move |x| {
        assert!(given.get() + 1 >= *x, "{} given at item {x}", given.get());
        while pool.stats().done - before < *x {
            thread::yield_now();
        }
    })
}

fn options(pool: &ProcessPoolExecutor) -> [TaskOptions<'_>; 2] {
    [pool.options(), pool.options().chunk_size(100)]
}

#[test]
fn imap_gives_each_result_before_it_pulls_the_next_item_but_one() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for options in options(&pool) {
            let given = Cell::new(0);
            for result in options.imap(square, careful_input(&pool, &given)) {
                assert_eq!(result?, square(given.replace(given.get() + 1)));
            }
            assert_eq!(given.get(), ITEMS);
        }
        Ok(())
    })
}

#[test]
fn imap_unordered_gives_each_result_before_it_pulls_the_next_item_but_one() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for options in options(&pool) {
            let given = Cell::new(0);
            for result in options.imap_unordered(square, careful_input(&pool, &given)) {
                assert_eq!(result?, square(given.replace(given.get() + 1)));
            }
            assert_eq!(given.get(), ITEMS);
        }
        Ok(())
    })
}

#[test]
fn imap_gives_its_first_result_after_a_few_items_of_a_slow_input() -> Result<()> {
    in_time(|| {
        let (pool, read) = (pool_of(2), Cell::new(0));
        let slow = (0u64..).inspect(|_| {
            read.set(read.get() + 1);
            thread::sleep(Duration::from_micros(500));
        });
        let first = pool.imap_unordered(|x| x, slow).next();
        assert!(first.transpose()?.is_some());
        // Some more than it takes on an idle machine, and far less than the window.
        assert!(read.get() < 1000, "{} items were read", read.get());
        Ok(())
    })
}

#[test]
fn imap_pulls_nothing_while_a_result_is_there() -> Result<()> {
    in_time(|| {
        let (pool, read) = (pool_of(2), Cell::new(0));
        let input = (0..).inspect(|_| read.set(read.get() + 1));
        let mut results = pool.imap(|x: u64| x, input);
        assert_eq!(results.next().transpose()?, Some(0));
        let here = read.get();
        while pool.stats().done < here {
            thread::yield_now();
        }
        for x in 1..here {
            assert_eq!(results.next().transpose()?, Some(x));
            assert_eq!(read.get(), here);
        }
        Ok(())
    })
}

#[test]
fn map_runs_the_items_of_a_chunk_that_a_slow_input_does_not_fill() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for options in options(&pool) {
            let before = pool.stats().done;
            let input = (0..ITEMS).inspect(|x| {
                while pool.stats().done - before < *x {
                    thread::yield_now();
                }
            });
            let squares = options.map(square, input)?;
            assert!(squares.into_iter().eq((0..ITEMS).map(square)));
        }
        Ok(())
    })
}

#[test]
fn map_async_runs_the_items_of_a_chunk_that_a_slow_input_does_not_fill() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let input = (0..ITEMS).inspect(|x| {
            while pool.stats().done < *x {
                thread::yield_now();
            }
        });
        let squares = pool.options().chunk_size(100).map_async(square, input);
        assert!(squares.result()?.into_iter().eq((0..ITEMS).map(square)));
        Ok(())
    })
}

#[test]
fn the_items_before_a_panic_of_the_input_are_run_although_nobody_asks() {
    in_time(|| {
        let pool = pool_of(1);
        let input = (0..6).inspect(|x| assert!(*x < 5, "the input fails"));
        let mut results = pool.options().chunk_size(10).imap(square, input);
        let first = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| results.next()));
        assert!(first.is_err());
        while pool.stats().done < 5 {
            thread::yield_now();
        }
    });
}

#[test]
fn several_threads_with_slow_inputs_share_a_pool() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let total = AtomicUsize::new(0);
        thread::scope(|scope| {
            let run = || {
                let slow = (0..50).inspect(|_| thread::sleep(Duration::from_micros(300)));
                let results = pool.options().chunk_size(1000).imap(square, slow);
                let count = results.filter(Result::is_ok).count();
                total.fetch_add(count, Ordering::Relaxed);
            };
            (0..4).for_each(|_| drop(scope.spawn(run)));
        });
        assert_eq!(total.into_inner(), 200);
        Ok(())
    })
}
