//! Maps that give results one by one: `imap` and `imap_unordered`.

use common::{A_MOMENT, Gate, arrive, in_time, pass, pool_of, square};
use procpool::{ErrorKind, Result};
use std::{
    cell::Cell,
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    thread,
};

/// An input that counts what was taken from it.
fn counted<T>(read: &Cell<usize>, input: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    input.inspect(|_| read.set(read.get() + 1))
}

/// A task: waits at the gate if there is one.
fn number((x, gate): (u64, Option<PathBuf>)) -> u64 {
    gate.into_iter().for_each(pass);
    x
}

// Results.

#[test]
fn imap_gives_the_results_in_the_order_of_the_items() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for size in [1, 7, 100, 5000] {
            let results = pool.options().chunk_size(size).imap(square, 0..1000);
            let results: Vec<u64> = results.collect::<Result<_>>()?;
            assert!(
                results.into_iter().eq((0..1000).map(square)),
                "chunks of {size}"
            );
        }
        Ok(())
    })
}

#[test]
fn imap_unordered_gives_every_result_once() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for size in [1, 7, 100, 5000] {
            let results = pool
                .options()
                .chunk_size(size)
                .imap_unordered(square, 0..1000);
            let mut results: Vec<u64> = results.collect::<Result<_>>()?;
            results.sort();
            assert!(
                results.into_iter().eq((0..1000).map(square)),
                "chunks of {size}"
            );
        }
        Ok(())
    })
}

#[test]
fn imap_over_nothing_ends_at_once() {
    in_time(|| assert!(pool_of(1).imap(square, 0..0).next().is_none()));
}

#[test]
fn imap_unordered_over_nothing_ends_at_once() {
    in_time(|| assert!(pool_of(1).imap_unordered(square, 0..0).next().is_none()));
}

#[test]
fn imap_gives_a_result_while_the_next_item_runs() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let items = [(0, None), (1, Some(gate.path()))];
        let mut results = pool.options().chunk_size(1).imap(number, items);
        assert_eq!(results.next().transpose()?, Some(0));
        gate.open();
        assert_eq!(results.next().transpose()?, Some(1));
        Ok(())
    })
}

#[test]
fn imap_gives_a_result_while_the_rest_of_its_chunk_runs() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let items = [(0, None), (1, Some(gate.path())), (2, None)];
        let mut results = pool.options().chunk_size(3).imap(number, items);
        assert_eq!(results.next().transpose()?, Some(0));
        gate.open();
        assert_eq!(results.collect::<Result<Vec<_>>>()?, [1, 2]);
        Ok(())
    })
}

#[test]
fn imap_unordered_gives_a_result_while_an_earlier_item_runs() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let items = [(0, Some(gate.path())), (1, None)];
        let mut results = pool.options().chunk_size(1).imap_unordered(number, items);
        assert_eq!(results.next().transpose()?, Some(1));
        gate.open();
        assert_eq!(results.next().transpose()?, Some(0));
        Ok(())
    })
}

#[test]
fn the_items_behind_a_long_one_are_done_by_the_other_worker() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        // One chunk for everything: its rest has to be taken back from the worker that is held up.
        let items = (0..100).map(|x| (x, (x == 0).then(|| gate.path())));
        let mut results = pool.options().chunk_size(100).imap_unordered(number, items);
        let others: BTreeSet<u64> = results.by_ref().take(99).collect::<Result<_>>()?;
        assert!(others.into_iter().eq(1..100));
        gate.open();
        assert_eq!(results.next().transpose()?, Some(0));
        Ok(())
    })
}

#[test]
fn a_failing_item_does_not_end_imap() {
    in_time(|| {
        let pool = pool_of(2);
        let fail = |x: u64| {
            if x.is_multiple_of(2) {
                x
            } else {
                panic!("{x} is odd")
            }
        };
        let results: Vec<_> = pool.imap(fail, 0..100).collect();
        let kinds = results
            .iter()
            .map(|it| it.as_ref().map_err(|it| it.kind()).copied());
        let expected = (0..100).map(|x| {
            if x % 2 == 0 {
                Ok(x)
            } else {
                Err(ErrorKind::Panicked)
            }
        });
        assert!(kinds.eq(expected));
    });
}

#[test]
fn a_failing_item_does_not_end_imap_unordered() {
    in_time(|| {
        let fail = |x: u64| {
            if x.is_multiple_of(2) {
                x
            } else {
                panic!("{x} is odd")
            }
        };
        let results: Vec<_> = pool_of(2).imap_unordered(fail, 0..100).collect();
        assert_eq!(results.iter().filter(|it| it.is_ok()).count(), 50);
        assert_eq!(results.len(), 100);
    });
}

#[test]
fn a_worker_that_dies_does_not_end_imap() {
    in_time(|| {
        let die = |x: u64| if x == 5 { std::process::abort() } else { x };
        let results: Vec<_> = pool_of(2).imap(die, 0..100).collect();
        let failed: Vec<_> = (0..)
            .zip(&results)
            .filter(|it| it.1.is_err())
            .map(|it| it.0)
            .collect();
        assert_eq!((failed, results.len()), (vec![5], 100));
    });
}

#[test]
fn an_ended_imap_stays_ended() {
    in_time(|| {
        let pool = pool_of(1);
        let mut results = pool.imap(square, 0..3);
        assert_eq!(results.by_ref().filter(|it| it.is_ok()).count(), 3);
        assert!((0..5).all(|_| results.next().is_none()));
    });
}

#[test]
fn an_ended_imap_unordered_stays_ended() {
    in_time(|| {
        let pool = pool_of(1);
        let mut results = pool.imap_unordered(square, 0..3);
        assert_eq!(results.by_ref().filter(|it| it.is_ok()).count(), 3);
        assert!((0..5).all(|_| results.next().is_none()));
    });
}

#[test]
fn two_imaps_can_be_read_in_turn() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let pairs = pool
            .imap(square, 0..500)
            .zip(pool.imap(|x: u64| x + 1, 0..500));
        for (x, (square, successor)) in (0..).zip(pairs) {
            assert_eq!((square?, successor?), (x * x, x + 1));
        }
        Ok(())
    })
}

#[test]
fn another_thread_can_read_the_results() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let mut results = pool.imap(square, 0..100);
        assert_eq!(results.next().transpose()?, Some(0));
        let rest = thread::spawn(move || results.collect::<Result<Vec<u64>>>());
        assert_eq!(rest.join().expect("no panic")?.len(), 99);
        Ok(())
    })
}

#[test]
fn the_input_of_imap_may_borrow() -> Result<()> {
    in_time(|| {
        let words = ["one".to_owned(), "three".to_owned()];
        let pool = pool_of(1);
        let lengths = pool.imap(|word: String| word.len(), words.iter().cloned());
        assert_eq!(lengths.collect::<Result<Vec<_>>>()?, [3, 5]);
        Ok(())
    })
}

// The input.

#[test]
fn imap_takes_nothing_from_its_input_before_it_is_asked() {
    in_time(|| {
        let (pool, read) = (pool_of(1), Cell::new(0));
        let _results = pool.imap(square, counted(&read, 0..10));
        assert_eq!(read.get(), 0);
    });
}

#[test]
fn imap_takes_nothing_from_its_input_while_nobody_asks() -> Result<()> {
    in_time(|| {
        let (pool, read) = (pool_of(2), Cell::new(0));
        let mut results = pool.imap(square, counted(&read, 0..));
        results.next().transpose()?;
        let before = read.get();
        // The same thread drives the pool here, and the items of the map become done.
        pool.map(square, 0..1000)?;
        assert_eq!(read.get(), before);
        Ok(())
    })
}

#[test]
fn imap_never_reads_further_ahead_than_its_window() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for window in [1, 2, 3, 10, 50] {
            for chunk in [1, 2, 7, 100] {
                let read = Cell::new(0);
                let options = pool.options().window(window).chunk_size(chunk);
                let results = options.imap(square, counted(&read, 0..));
                for (given, result) in (0..200).zip(results) {
                    result?;
                    assert!(
                        read.get() <= given + window,
                        "window {window}, chunk {chunk}"
                    );
                }
            }
        }
        Ok(())
    })
}

#[test]
fn imap_unordered_never_reads_further_ahead_than_its_window() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for window in [1, 2, 3, 10, 50] {
            let read = Cell::new(0);
            let results = pool
                .options()
                .window(window)
                .imap_unordered(square, counted(&read, 0..));
            for (given, result) in (0..200).zip(results) {
                result?;
                assert!(read.get() <= given + window, "window {window}");
            }
        }
        Ok(())
    })
}

#[test]
fn imap_reads_no_further_while_its_first_item_runs() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let read = Cell::new(0);
        let items = (0..).map(|x| (x, (x == 0).then(|| gate.path())));
        let mut results = pool
            .options()
            .window(20)
            .imap(number, counted(&read, items));
        thread::scope(|scope| {
            let gate = &gate;
            scope.spawn(move || {
                gate.wait_for(1);
                // If it read further than the window, it would do so now.
                thread::sleep(A_MOMENT);
                gate.open();
            });
            results.next().transpose()
        })?;
        assert!(read.get() <= 20, "{}", read.get());
        Ok(())
    })
}

#[test]
fn the_default_window_bounds_an_endless_input() -> Result<()> {
    in_time(|| {
        let (pool, read) = (pool_of(2), Cell::new(0));
        let results = pool.imap(|x: u64| x, counted(&read, 0..));
        for (given, result) in (0..50_000).zip(results) {
            result?;
            assert!(
                read.get() <= given + 32_768,
                "{} read at {given}",
                read.get()
            );
        }
        Ok(())
    })
}

#[test]
fn an_input_that_has_ended_is_not_asked_again() {
    in_time(|| {
        let (pool, asked) = (pool_of(1), Cell::new(0));
        let input = std::iter::from_fn(|| {
            asked.set(asked.get() + 1);
            // It would go on after its end.
            (asked.get() != 4).then_some(1u64)
        });
        let mut results = pool.imap(square, input);
        assert_eq!(results.by_ref().count(), 3);
        assert!(results.next().is_none() && results.next().is_none());
        assert_eq!(asked.get(), 4);
    });
}

#[test]
fn imap_refuses_chunks_and_windows_of_nothing_once() {
    in_time(|| {
        let pool = pool_of(1);
        for options in [pool.options().chunk_size(0), pool.options().window(0)] {
            let results: Vec<_> = options
                .imap(square, 0..3)
                .map(|it| it.map_err(|it| it.kind()))
                .collect();
            assert_eq!(results, [Err(ErrorKind::InvalidInput)]);
        }
    });
}

#[test]
fn imap_unordered_refuses_chunks_and_windows_of_nothing_once() {
    in_time(|| {
        let pool = pool_of(1);
        for options in [pool.options().chunk_size(0), pool.options().window(0)] {
            let results = options.imap_unordered(square, 0..3);
            let results: Vec<_> = results.map(|it| it.map_err(|it| it.kind())).collect();
            assert_eq!(results, [Err(ErrorKind::InvalidInput)]);
        }
    });
}

#[test]
fn a_refused_imap_leaves_its_input_alone() {
    in_time(|| {
        let (pool, read) = (pool_of(1), Cell::new(0));
        let results = pool
            .options()
            .chunk_size(0)
            .imap(square, counted(&read, 0..3));
        assert_eq!((results.count(), read.get()), (1, 0));
    });
}

#[test]
fn imap_says_exactly_how_many_results_are_left() {
    in_time(|| {
        let pool = pool_of(2);
        let mut results = pool.imap(square, 0..100);
        for left in (0..100).rev() {
            assert!(results.next().is_some_and(|it| it.is_ok()));
            assert_eq!(results.size_hint(), (left, Some(left)));
        }
    });
}

#[test]
fn imap_unordered_says_exactly_how_many_results_are_left() {
    in_time(|| {
        let pool = pool_of(2);
        let mut results = pool.imap_unordered(square, vec![1; 100]);
        assert_eq!(results.len(), 100);
        for left in (0..100).rev() {
            assert!(results.next().is_some_and(|it| it.is_ok()));
            assert_eq!(results.size_hint(), (left, Some(left)));
        }
    });
}

#[test]
fn a_refused_imap_says_that_one_result_is_left() {
    in_time(|| {
        let pool = pool_of(1);
        let mut results = pool.options().window(0).imap(square, 0..3);
        assert_eq!(results.size_hint(), (1, Some(1)));
        assert!(results.next().is_some());
        assert_eq!(results.size_hint(), (0, Some(0)));
    });
}

#[test]
fn imap_knows_no_more_than_its_input() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let mut results = pool.imap(square, (0..10).filter(|x| x % 2 == 0));
        assert_eq!(results.size_hint().1, Some(10));
        results.next().transpose()?;
        let (low, high) = results.size_hint();
        assert!(low <= 4 && high.is_some_and(|it| it >= 4));
        Ok(())
    })
}

#[test]
fn a_dropped_imap_starts_nothing_more() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let run = |(x, gate): (u64, PathBuf)| if x == 0 { arrive(&gate) } else { pass(gate) };
        let items = (0..100).map(|x| (x, gate.path()));
        let mut results = pool.options().chunk_size(1).imap(run, items);
        results.next().transpose()?;
        gate.wait_for(2);
        // The second item runs; the third was sent ahead.
        drop(results);
        gate.open();
        pool.join()?;
        assert_eq!(gate.arrived(), 0);
        Ok(())
    })
}

#[test]
fn the_rest_of_a_dropped_imaps_chunk_is_not_started() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let run = |(x, gate): (u64, PathBuf)| if x == 0 { arrive(&gate) } else { pass(gate) };
        let items = (0..100).map(|x| (x, gate.path()));
        let mut results = pool.options().chunk_size(100).imap(run, items);
        results.next().transpose()?;
        gate.wait_for(2);
        drop(results);
        gate.open();
        pool.join()?;
        assert_eq!(gate.arrived(), 0);
        Ok(())
    })
}

#[test]
fn a_pool_is_as_good_as_new_after_a_dropped_imap() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for taken in 0..50 {
            assert_eq!(pool.imap(square, 0..).take(taken).count(), taken);
            assert_eq!(pool.imap_unordered(square, 0..).take(taken).count(), taken);
            assert_eq!(pool.apply(square, 7)?, 49);
        }
        Ok(())
    })
}

/// The items in the place of which [`bumpy_input`] panics.
const BUMPS: [u64; 2] = [5, 20];

/// An input that panics now and then, and goes on after that.
fn bumpy_input() -> impl Iterator<Item = u64> {
    (0..100).inspect(|x| assert!(!BUMPS.contains(x), "a bump at {x}"))
}

/// Reads on after every panic, and gives all results in order.
fn read_over_the_bumps(mut results: impl Iterator<Item = Result<u64>>) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    loop {
        match catch_unwind(AssertUnwindSafe(|| results.next())) {
            Ok(Some(result)) => all.push(result?),
            Ok(None) => break,
            Err(_bump) => {}
        }
    }
    all.sort();
    Ok(all)
}

#[test]
fn imap_loses_no_item_when_its_input_panics_and_goes_on() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let smooth: Vec<u64> = (0..100).filter(|x| !BUMPS.contains(x)).collect();
        for size in [1, 8, 100] {
            let results = pool
                .options()
                .chunk_size(size)
                .imap(|x: u64| x, bumpy_input());
            assert_eq!(read_over_the_bumps(results)?, smooth, "chunks of {size}");
        }
        Ok(())
    })
}

#[test]
fn imap_unordered_loses_no_item_when_its_input_panics_and_goes_on() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let smooth: Vec<u64> = (0..100).filter(|x| !BUMPS.contains(x)).collect();
        for size in [1, 8, 100] {
            let results = pool
                .options()
                .chunk_size(size)
                .imap_unordered(|x: u64| x, bumpy_input());
            assert_eq!(read_over_the_bumps(results)?, smooth, "chunks of {size}");
        }
        Ok(())
    })
}
