//! Maps that give everything at once: `map`, `map_results`, `map_async`, `starmap` and `map_with`.

use common::{Gate, arrive, failure, in_time, pass, pool_of, square};
use procpool::{ErrorKind, ProcessPoolExecutor, Result};
use serde::{Deserialize, Deserializer, Serialize};
use std::{
    cell::Cell,
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

fn squares(n: u64) -> Vec<u64> {
    (0..n).map(square).collect()
}

/// A task: fails for the numbers 3, 13, 23, ...
fn picky(x: u64) -> u64 {
    assert!(x % 10 != 3, "{x} is refused");
    x * x
}

// Results.

#[test]
fn map_gives_what_a_serial_map_gives() -> Result<()> {
    in_time(|| {
        assert_eq!(pool_of(2).map(square, 0..10_000)?, squares(10_000));
        Ok(())
    })
}

#[test]
fn map_is_the_same_whatever_the_chunk_size() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for size in [1, 2, 3, 7, 64, 99, 100, 101, 1000] {
            let results = pool.options().chunk_size(size).map(square, 0..100)?;
            assert_eq!(results, squares(100), "chunks of {size}");
        }
        Ok(())
    })
}

#[test]
fn the_largest_chunk_sizes_are_as_good_as_any() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for size in [
            u32::MAX as usize,
            1 << 32,
            3 << 32,
            usize::MAX / 4,
            usize::MAX,
        ] {
            let results = pool.options().chunk_size(size).map(square, 0..100)?;
            assert_eq!(results, squares(100), "chunks of {size}");
            let options = pool.options().chunk_size(size).window(usize::MAX);
            assert_eq!(
                options.map(square, 0..100)?,
                squares(100),
                "chunks of {size}"
            );
        }
        Ok(())
    })
}

#[test]
fn map_is_the_same_whatever_the_window() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for window in [1, 2, 3, 99, 100, 101, usize::MAX] {
            let results = pool.options().window(window).map(square, 0..100)?;
            assert_eq!(results, squares(100), "a window of {window}");
        }
        Ok(())
    })
}

#[test]
fn the_pools_chunk_size_and_window_hold_for_its_maps() -> Result<()> {
    in_time(|| {
        let builder = ProcessPoolExecutor::builder().workers(2);
        let pool = builder.chunk_size(3).window(5).build()?;
        assert_eq!(pool.map(square, 0..100)?, squares(100));
        Ok(())
    })
}

#[test]
fn map_of_nothing_is_nothing() -> Result<()> {
    in_time(|| {
        assert!(pool_of(1).map(square, 0..0)?.is_empty());
        Ok(())
    })
}

#[test]
fn map_of_nothing_in_chunks_is_nothing() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        for size in [1, 10] {
            assert!(
                pool.options()
                    .chunk_size(size)
                    .map(square, 0..0)?
                    .is_empty()
            );
        }
        Ok(())
    })
}

#[test]
fn map_results_of_nothing_is_nothing() {
    in_time(|| assert!(pool_of(1).map_results(square, 0..0).is_empty()));
}

#[test]
fn map_async_of_nothing_is_nothing() -> Result<()> {
    in_time(|| {
        assert!(pool_of(1).map_async(square, 0..0).result()?.is_empty());
        Ok(())
    })
}

#[test]
fn starmap_of_nothing_is_nothing() -> Result<()> {
    in_time(|| {
        assert!(pool_of(1).starmap(u64::pow, [])?.is_empty());
        Ok(())
    })
}

#[test]
fn map_with_of_nothing_is_nothing() -> Result<()> {
    in_time(|| {
        assert!(pool_of(1).map_with(1, |a, b| a + b, 0..0u64)?.is_empty());
        Ok(())
    })
}

#[test]
fn map_of_items_without_bytes_gives_a_result_for_each() -> Result<()> {
    in_time(|| {
        assert_eq!(pool_of(2).map(|()| (), vec![(); 20_000])?.len(), 20_000);
        Ok(())
    })
}

#[test]
fn map_async_gives_what_a_serial_map_gives() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        assert_eq!(pool.map_async(square, 0..10_000).result()?, squares(10_000));
        Ok(())
    })
}

#[test]
fn map_async_reads_its_input_in_the_call() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        // The only worker is busy, and more than any window is read.
        let blocked = pool.submit(pass, gate.path());
        let read = Cell::new(0);
        let items = (0..30_000).inspect(|_| read.set(read.get() + 1));
        let future = pool.map_async(square, items);
        assert_eq!(read.get(), 30_000);
        gate.open();
        assert_eq!(future.result()?, squares(30_000));
        blocked.result()
    })
}

#[test]
fn starmap_spreads_pairs_over_two_arguments() -> Result<()> {
    in_time(|| {
        let powers = pool_of(2).starmap(u64::pow, [(2, 3), (3, 2), (7, 0)])?;
        assert_eq!(powers, [8, 9, 1]);
        Ok(())
    })
}

#[test]
fn starmap_over_two_inputs_ends_with_the_shorter() -> Result<()> {
    in_time(|| {
        let sums = pool_of(2).starmap(|a, b| a + b, (0..3u64).zip(10..))?;
        assert_eq!(sums, [10, 12, 14]);
        Ok(())
    })
}

#[test]
fn the_input_of_a_map_may_borrow() -> Result<()> {
    in_time(|| {
        let text = String::from("one two three");
        let lengths = pool_of(2).map(|word| word.len(), text.split(' ').map(String::from))?;
        assert_eq!(lengths, [3, 3, 5]);
        Ok(())
    })
}

#[test]
fn the_input_of_a_map_may_come_from_another_map_of_the_pool() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let lower = pool.imap(square, 0..1000).map(|it| it.expect("a square"));
        let upper = pool.map(|x: u64| x + 1, lower)?;
        assert_eq!(upper, (0..1000).map(|x| x * x + 1).collect::<Vec<u64>>());
        Ok(())
    })
}

#[test]
fn maps_of_several_threads_do_not_mix() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        thread::scope(|scope| {
            let map = |start: u64| {
                let pool = &pool;
                move || pool.map(|x| x, start..start + 5000)
            };
            let threads: Vec<_> = (0..4).map(|it| scope.spawn(map(it * 10_000))).collect();
            for (start, thread) in (0..).step_by(10_000).zip(threads) {
                let results = thread.join().expect("no panic")?;
                assert!(results.into_iter().eq(start..start + 5000));
            }
            Ok(())
        })
    })
}

// Failures.

#[test]
fn map_gives_the_error_of_the_lowest_failing_index() {
    in_time(|| {
        let pool = pool_of(2);
        for size in [1, 4, 100] {
            let error = failure(pool.options().chunk_size(size).map(picky, 0..100));
            assert_eq!(message(&error), "3 is refused", "chunks of {size}");
        }
    });
}

#[test]
fn a_failure_before_another_counts_even_if_it_comes_later() {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let fail = |(index, gate): (u64, PathBuf)| -> () {
            match index {
                0 => pass(gate),
                _ => arrive(&gate),
            }
            panic!("{index}")
        };
        let items = [(0, gate.path()), (1, gate.path())];
        thread::scope(|scope| {
            let pool = &pool;
            let error = scope.spawn(move || failure(pool.options().chunk_size(1).map(fail, items)));
            gate.wait_for(2);
            gate.open();
            assert_eq!(message(&error.join().expect("no panic")), "0");
        });
    });
}

#[test]
fn items_before_a_failing_one_are_done_when_map_returns() {
    in_time(|| {
        let pool = pool_of(2);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let leave_a_trace = |(index, directory): (u64, PathBuf)| {
            assert_ne!(index, 40);
            File::create(directory.join(index.to_string())).expect("a file");
        };
        let items = (0..100).map(|index| (index, directory.path().to_owned()));
        let failed = pool.options().chunk_size(1).map(leave_a_trace, items);
        assert!(failed.is_err());
        for index in 0..40 {
            assert!(directory.path().join(index.to_string()).exists(), "{index}");
        }
    });
}

#[test]
fn items_behind_a_failing_one_are_not_started() {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let run = |(index, gate): (u64, PathBuf)| {
            assert_ne!(index, 0);
            arrive(&gate);
        };
        let items = (0..10_000).map(|index| (index, gate.path()));
        let failed = pool.options().chunk_size(1).map(run, items);
        assert!(failed.is_err());
        pool.join().expect("an end");
        assert!(gate.arrived() < 1000);
    });
}

#[test]
fn a_map_over_an_endless_input_ends_with_the_first_failure() {
    in_time(|| {
        let error = failure(pool_of(2).map(picky, 0..));
        assert_eq!(message(&error), "3 is refused");
    });
}

#[test]
fn map_async_gives_the_error_of_the_lowest_failing_index() {
    in_time(|| {
        let error = failure(pool_of(2).map_async(picky, 0..100).result());
        assert_eq!(message(&error), "3 is refused");
    });
}

#[test]
fn starmap_gives_the_error_of_the_lowest_failing_index() {
    in_time(|| {
        let divide = |a: u64, b: u64| a / b;
        let error = failure(pool_of(1).starmap(divide, [(1, 1), (1, 0)]));
        assert_eq!(message(&error), "attempt to divide by zero");
    });
}

#[test]
fn map_results_gives_every_items_own_outcome() {
    in_time(|| {
        let pool = pool_of(2);
        for size in [1, 4, 100] {
            let results = pool.options().chunk_size(size).map_results(picky, 0..100);
            assert_eq!(results.len(), 100);
            for (x, result) in (0..).zip(results) {
                match result {
                    Ok(square) => assert_eq!(square, x * x),
                    Err(error) => assert_eq!(message(&error), format!("{x} is refused")),
                }
            }
        }
    });
}

#[test]
fn a_pool_is_as_good_as_new_after_a_failed_map() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for _ in 0..20 {
            assert!(pool.map(picky, 0..1000).is_err());
            assert_eq!(pool.map(square, 0..100)?, squares(100));
        }
        Ok(())
    })
}

fn message(error: &procpool::Error) -> &str {
    let panic = error.remote_panic();
    &panic.unwrap_or_else(|| panic!("{error}")).message
}

// Chunks and windows of nothing.

#[track_caller]
fn assert_is_refused<T: std::fmt::Debug>(outcome: Result<T>) {
    let error = outcome.expect_err("a size of 0");
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
}

#[test]
fn map_refuses_chunks_and_windows_of_nothing() {
    in_time(|| {
        let pool = pool_of(1);
        assert_is_refused(pool.options().chunk_size(0).map(square, 0..3));
        assert_is_refused(pool.options().window(0).map(square, 0..3));
    });
}

#[test]
fn map_refuses_chunks_of_nothing_for_an_empty_input_too() {
    in_time(|| assert_is_refused(pool_of(1).options().chunk_size(0).map(square, 0..0)));
}

#[test]
fn the_error_of_an_empty_window_names_the_setting() {
    in_time(|| {
        let error = failure(pool_of(1).options().window(0).map(square, 0..3));
        assert_eq!(error.to_string(), "`window` must be at least 1");
    });
}

#[test]
fn map_results_refuses_chunks_and_windows_of_nothing_for_every_item() {
    in_time(|| {
        let pool = pool_of(1);
        for options in [pool.options().chunk_size(0), pool.options().window(0)] {
            let results = options.map_results(square, 0..3);
            assert_eq!(results.len(), 3);
            results.into_iter().for_each(assert_is_refused);
        }
    });
}

#[test]
fn map_async_refuses_chunks_and_windows_of_nothing_in_its_future() {
    in_time(|| {
        let pool = pool_of(1);
        assert_is_refused(
            pool.options()
                .chunk_size(0)
                .map_async(square, 0..3)
                .result(),
        );
        assert_is_refused(pool.options().window(0).map_async(square, 0..3).result());
    });
}

#[test]
fn starmap_and_map_with_refuse_chunks_and_windows_of_nothing() {
    in_time(|| {
        let pool = pool_of(1);
        for options in [pool.options().chunk_size(0), pool.options().window(0)] {
            assert_is_refused(options.starmap(u64::pow, [(1, 2)]));
            assert_is_refused(options.map_with(1, |a, b| a + b, 0..3u64));
        }
    });
}

// Inputs that panic.

/// Panics in the place of item number `after`.
fn failing_input(after: u64) -> impl Iterator<Item = u64> {
    (0..).inspect(move |x| assert!(*x < after, "the input gave up"))
}

/// Makes the input panic at its first item and in its middle, twice each, and uses the pool in
/// between.
fn assert_input_panics_arrive<T>(call: impl Fn(&ProcessPoolExecutor, u64) -> T) -> Result<()> {
    let pool = pool_of(2);
    for after in [0, 1, 0, 1, 10, 1000] {
        let outcome = catch_unwind(AssertUnwindSafe(|| call(&pool, after)));
        let Err(panic) = outcome else {
            panic!("the input's panic was swallowed");
        };
        let text = panic.downcast_ref::<&str>().copied();
        assert_eq!(text, Some("the input gave up"));
        assert_eq!(pool.map(square, 0..100)?, squares(100));
    }
    Ok(())
}

#[test]
fn a_panic_of_the_input_comes_out_of_map() -> Result<()> {
    in_time(|| assert_input_panics_arrive(|pool, after| pool.map(square, failing_input(after))))
}

#[test]
fn a_panic_of_the_input_comes_out_of_map_results() -> Result<()> {
    in_time(|| {
        assert_input_panics_arrive(|pool, after| pool.map_results(square, failing_input(after)))
    })
}

#[test]
fn a_panic_of_the_input_comes_out_of_map_async() -> Result<()> {
    in_time(|| {
        assert_input_panics_arrive(|pool, after| pool.map_async(square, failing_input(after)))
    })
}

#[test]
fn a_panic_of_the_input_comes_out_of_map_with() -> Result<()> {
    in_time(|| {
        assert_input_panics_arrive(|pool, after| {
            pool.map_with(1, |a, b| a + b, failing_input(after))
        })
    })
}

#[test]
fn a_panic_of_the_input_comes_out_of_imap() -> Result<()> {
    in_time(|| {
        assert_input_panics_arrive(|pool, after| pool.imap(square, failing_input(after)).count())
    })
}

#[test]
fn a_panic_of_the_input_comes_out_of_imap_unordered() -> Result<()> {
    in_time(|| {
        assert_input_panics_arrive(|pool, after| {
            pool.imap_unordered(square, failing_input(after)).count()
        })
    })
}

// Contexts.

/// A context that counts how often a worker decodes and drops one.
#[derive(Serialize)]
struct Counted(u64);

static DECODED: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        DECODED.fetch_add(1, Ordering::Relaxed);
        u64::deserialize(deserializer).map(Self)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn every_item_of_map_with_sees_the_context() -> Result<()> {
    in_time(|| {
        let products = pool_of(2).map_with(3, |factor, x| factor * x, 0..1000u64)?;
        assert!(products.into_iter().eq((0..3000).step_by(3)));
        Ok(())
    })
}

#[test]
fn a_context_is_sent_once_to_each_worker() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let count = |_: &Counted, _: u64| DECODED.load(Ordering::Relaxed);
        let counts = pool
            .options()
            .chunk_size(1)
            .map_with(Counted(7), count, 0..100)?;
        assert!(counts.iter().all(|it| *it == 1), "{counts:?}");
        Ok(())
    })
}

#[test]
fn a_context_is_dropped_after_its_map() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        pool.map_with(Counted(7), |it, x| it.0 + x, 0..10)?;
        assert_eq!(pool.apply(|()| DROPPED.load(Ordering::Relaxed), ())?, 1);
        Ok(())
    })
}

#[test]
fn contexts_of_maps_at_the_same_time_do_not_mix() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        thread::scope(|scope| {
            let map = |context: u64| {
                let pool = &pool;
                move || pool.map_with(context, |context, x: u64| (*context, x), 0..2000)
            };
            let threads: Vec<_> = (0..4).map(|it| scope.spawn(map(it))).collect();
            for (context, thread) in (0..).zip(threads) {
                let results = thread.join().expect("no panic")?;
                assert!(results.into_iter().eq((0..2000).map(|x| (context, x))));
            }
            Ok(())
        })
    })
}

#[test]
fn a_context_may_be_large() -> Result<()> {
    in_time(|| {
        let context: Vec<u32> = (0..5 << 20).collect();
        let look = |numbers: &Vec<u32>, at: usize| numbers[at];
        let numbers = pool_of(2).map_with(context, look, (0..100).map(|it| it * 50_000))?;
        assert!(numbers.into_iter().eq((0..100).map(|it| it * 50_000)));
        Ok(())
    })
}

#[test]
fn a_context_reaches_a_replacement() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let run = |context: &u64, x: u64| match x {
            5 => std::process::abort(),
            x => context * x,
        };
        // `map_with` fails as a whole: the results of the items after the death are seen in
        // the next map.
        let died = failure(pool.map_with(3, run, 0..10));
        assert_eq!(died.kind(), ErrorKind::WorkerDied);
        assert_eq!(pool.map_with(4, run, 0..5)?, [0, 4, 8, 12, 16]);
        Ok(())
    })
}
