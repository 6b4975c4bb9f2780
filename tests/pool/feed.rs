//! Maps whose input a thread reads: `feed` and `feed_unordered`.

use common::{Gate, alone, failure, in_time, pass, pool_of, square};
use futures::{StreamExt, executor::block_on};
use procpool::{ErrorKind, ProcessPoolExecutor, Result};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

/// An input that counts what was taken from it.
fn counted(read: Arc<AtomicUsize>, input: impl Iterator<Item = u64>) -> impl Iterator<Item = u64> {
    input.inspect(move |_| _ = read.fetch_add(1, Ordering::Relaxed))
}

/// Threads of this process that read an input.
fn feeding_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").expect("the threads");
    let names = tasks
        .flatten()
        .filter_map(|it| fs::read_to_string(it.path().join("comm")).ok());
    names.filter(|it| it.trim() == "procpool-feed").count()
}

#[test]
fn feed_gives_the_results_in_the_order_of_the_items() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for size in [1, 7, 100, 5000] {
            let results = pool.options().chunk_size(size).feed(square, 0..1000);
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
fn feed_unordered_gives_every_result_once() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let results = pool.feed_unordered(square, 0..100_000);
        let mut results: Vec<u64> = results.collect::<Result<_>>()?;
        results.sort();
        assert!(results.into_iter().eq((0..100_000).map(square)));
        Ok(())
    })
}

#[test]
fn feed_gives_the_results_of_a_channel_whose_sender_stays() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for options in [pool.options(), pool.options().chunk_size(100)] {
            let (sender, receiver) = mpsc::channel();
            (0..3).for_each(|x| sender.send(x).expect("a receiver"));
            let results = options.feed(square, receiver);
            assert_eq!(results.take(3).collect::<Result<Vec<_>>>()?, [0, 1, 4]);
        }
        Ok(())
    })
}

#[test]
fn feed_unordered_gives_the_results_of_a_channel_whose_sender_stays() -> Result<()> {
    in_time(|| {
        let (pool, (sender, receiver)) = (pool_of(2), mpsc::channel());
        (0..3).for_each(|x| sender.send(x).expect("a receiver"));
        let results = pool.feed_unordered(square, receiver);
        let mut results = results.take(3).collect::<Result<Vec<_>>>()?;
        results.sort();
        assert_eq!(results, [0, 1, 4]);
        Ok(())
    })
}

#[test]
fn feed_gives_each_result_while_its_input_waits_for_it() -> Result<()> {
    in_time(|| {
        let (pool, (sender, receiver)) = (pool_of(2), mpsc::channel());
        let mut results = pool.feed(square, receiver);
        for x in 0..200 {
            sender.send(x).expect("a receiver");
            assert_eq!(results.next().transpose()?, Some(x * x));
        }
        drop(sender);
        assert!(results.next().is_none() && results.next().is_none());
        Ok(())
    })
}

#[test]
fn feed_never_reads_further_ahead_than_its_window() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for window in [1, 2, 3, 10, 50] {
            let read = Arc::new(AtomicUsize::new(0));
            let results = pool
                .options()
                .window(window)
                .feed(square, counted(Arc::clone(&read), 0..));
            for (given, result) in (0..200).zip(results) {
                result?;
                let read = read.load(Ordering::Relaxed);
                assert!(read <= given + window, "window {window}: {read} at {given}");
            }
        }
        Ok(())
    })
}

#[test]
fn feed_reads_on_as_far_as_its_window_while_nobody_asks() {
    in_time(|| {
        let (pool, read) = (pool_of(2), Arc::new(AtomicUsize::new(0)));
        let _results = pool
            .options()
            .window(100)
            .feed(square, counted(Arc::clone(&read), 0..));
        while read.load(Ordering::Relaxed) < 100 {
            thread::yield_now();
        }
    });
}

#[test]
fn feed_keeps_to_the_budget_of_its_pool() -> Result<()> {
    in_time(|| {
        let builder = ProcessPoolExecutor::builder().workers(2);
        let pool = builder.max_pending_bytes(4096).build()?;
        let lengths = pool.feed(
            |bytes: Vec<u8>| bytes.len(),
            (0..200).map(|it| vec![0; it * 10]),
        );
        let lengths: Vec<usize> = lengths.collect::<Result<_>>()?;
        assert!(lengths.into_iter().eq((0..200).map(|it| it * 10)));
        Ok(())
    })
}

#[test]
fn the_iterator_of_a_fed_input_need_not_be_send() -> Result<()> {
    struct Input(u64);
    impl IntoIterator for Input {
        type Item = u64;
        type IntoIter = Box<dyn Iterator<Item = u64>>;

        fn into_iter(self) -> Self::IntoIter {
            let offset = Rc::new(self.0);
            Box::new((0..10).map(move |x| x + *offset))
        }
    }
    in_time(|| {
        let results = pool_of(1)
            .feed(|x: u64| x, Input(5))
            .collect::<Result<Vec<_>>>()?;
        assert!(results.into_iter().eq(5..15));
        Ok(())
    })
}

#[test]
fn a_failing_item_does_not_end_feed() {
    in_time(|| {
        let fail = |x: u64| {
            assert!(x.is_multiple_of(2), "{x} is odd");
            x
        };
        let results: Vec<_> = pool_of(2).feed(fail, 0..100).collect();
        assert_eq!(results.len(), 100);
        for (x, result) in (0..).zip(results) {
            let result = result.map_err(|it| it.kind());
            let expected = if x % 2 == 0 {
                Ok(x)
            } else {
                Err(ErrorKind::Panicked)
            };
            assert_eq!(result, expected);
        }
    });
}

#[test]
fn a_panic_of_a_fed_input_reaches_the_caller_after_the_results_before_it() {
    in_time(|| {
        let pool = pool_of(1);
        let input = (0..8).inspect(|x| assert!(*x < 7, "the input fails"));
        let mut results = pool.options().chunk_size(5).feed(square, input);
        for x in 0..7 {
            assert_eq!(results.next().and_then(|it| it.ok()), Some(square(x)));
        }
        let panic = catch_unwind(AssertUnwindSafe(|| results.next()));
        let panic = panic.expect_err("a panic");
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"the input fails"));
        assert!(results.next().is_none());
    });
}

#[test]
fn a_panic_as_a_fed_input_is_made_reaches_the_caller() {
    struct Input;
    impl IntoIterator for Input {
        type Item = u64;
        type IntoIter = std::ops::Range<u64>;

        fn into_iter(self) -> Self::IntoIter {
            panic!("no input")
        }
    }
    in_time(|| {
        let pool = pool_of(1);
        let mut results = pool.feed(square, Input);
        assert!(catch_unwind(AssertUnwindSafe(|| results.next())).is_err());
    });
}

#[test]
fn a_dropped_feed_lets_its_blocked_input_go_with_the_next_item() -> Result<()> {
    in_time(|| {
        let (pool, (sender, receiver)) = (pool_of(1), mpsc::channel());
        sender.send(0).expect("a receiver");
        let mut results = pool.feed(square, receiver);
        assert_eq!(results.next().transpose()?, Some(0));
        drop(results);
        // The receiver goes with the thread that reads it.
        while sender.send(1).is_ok() {
            thread::yield_now();
        }
        Ok(())
    })
}

#[test]
fn a_dropped_feed_starts_nothing_more() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let held_up = pool.submit(pass, gate.path());
        gate.wait_for(1);
        drop(pool.feed(square, 0..100));
        gate.open();
        held_up.result()?;
        pool.join()?;
        assert_eq!(pool.stats().done, 1);
        Ok(())
    })
}

#[test]
fn feed_refuses_chunks_and_windows_of_nothing_once() {
    in_time(|| {
        let pool = pool_of(1);
        for options in [pool.options().chunk_size(0), pool.options().window(0)] {
            let results = options.feed(square, 0..3);
            let results: Vec<_> = results.map(|it| it.map_err(|it| it.kind())).collect();
            assert_eq!(results, [Err(ErrorKind::InvalidInput)]);
        }
    });
}

#[test]
fn the_thread_of_a_feed_ends_with_its_input() {
    alone("", || {
        let pool = pool_of(1);
        assert_eq!(pool.feed(square, 0..1000).count(), 1000);
        // The kernel may list a thread that was joined for a moment.
        while feeding_threads() > 0 {
            thread::yield_now();
        }
    });
}

#[test]
fn feeds_of_several_threads_share_a_pool() {
    in_time(|| {
        let pool = pool_of(2);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let results = pool.feed(square, 0..2000);
                    assert!(results.flatten().eq((0..2000).map(square)));
                });
            }
        });
    });
}

#[test]
fn a_stream_of_an_ended_pool_does_not_wait_for_a_blocked_input() -> Result<()> {
    in_time(|| {
        let (pool, (sender, receiver)) = (pool_of(1), mpsc::channel());
        let mut results = pool.feed(square, receiver).into_stream();
        sender.send(7).expect("a receiver");
        assert_eq!(block_on(results.next()).transpose()?, Some(49));
        let ended = thread::spawn(move || {
            let outcome = block_on(results.next()).expect("an outcome");
            (failure(outcome).kind(), results)
        });
        pool.terminate();
        let (kind, mut results) = ended.join().expect("no panic");
        assert_eq!(kind, ErrorKind::Shutdown);
        // The item has had its error.
        sender.send(8).expect("a receiver");
        drop(sender);
        assert!(block_on(results.next()).is_none());
        Ok(())
    })
}
