//! `imap_stream` and `imap_stream_unordered`, and fed inputs as streams.

use common::{A_MOMENT, Gate, in_time, pass, pool_of, square};
use futures::{
    FutureExt, StreamExt, TryStreamExt,
    channel::mpsc,
    executor::block_on,
    future,
    stream::{self, Stream},
};
use procpool::{ErrorKind, Result};
use std::{
    cell::Cell,
    path::PathBuf,
    pin::Pin,
    sync::{self, Arc, Mutex},
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

/// A task: waits at the gate if there is one.
fn number((x, gate): (u64, Option<PathBuf>)) -> u64 {
    gate.into_iter().for_each(pass);
    x
}

#[test]
fn imap_stream_gives_the_results_in_the_order_of_the_items() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for size in [1, 7, 5000] {
            let options = pool.options().chunk_size(size);
            let results = options.imap_stream(square, stream::iter(0..5000));
            let squares: Vec<u64> = block_on(results.try_collect())?;
            assert!(squares.into_iter().eq((0..5000).map(square)));
        }
        Ok(())
    })
}

#[test]
fn imap_stream_unordered_gives_every_result_once() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let results = pool.imap_stream_unordered(square, stream::iter(0..50_000));
        let mut squares: Vec<u64> = block_on(results.try_collect())?;
        squares.sort();
        assert!(squares.into_iter().eq((0..50_000).map(square)));
        Ok(())
    })
}

#[test]
fn imap_stream_gives_the_results_of_a_channel_whose_sender_stays() -> Result<()> {
    in_time(|| {
        let (pool, (sender, receiver)) = (pool_of(2), mpsc::unbounded());
        (0..3).for_each(|x| sender.unbounded_send(x).expect("a receiver"));
        let results = pool.options().chunk_size(100).imap_stream(square, receiver);
        let squares: Vec<u64> = block_on(results.take(3).try_collect())?;
        assert_eq!(squares, [0, 1, 4]);
        Ok(())
    })
}

#[test]
fn imap_stream_gives_each_result_while_its_input_waits_for_it() -> Result<()> {
    in_time(|| {
        let (pool, (sender, receiver)) = (pool_of(2), mpsc::unbounded());
        let mut results = pool.imap_stream(square, receiver);
        for x in 0..200 {
            sender.unbounded_send(x).expect("a receiver");
            assert_eq!(block_on(results.next()).transpose()?, Some(x * x));
        }
        drop(sender);
        assert!(block_on(results.next()).is_none() && block_on(results.next()).is_none());
        Ok(())
    })
}

#[test]
fn imap_stream_is_woken_by_an_item_that_comes_later() -> Result<()> {
    in_time(|| {
        let (pool, (sender, receiver)) = (pool_of(1), mpsc::unbounded());
        let results = pool.imap_stream(square, receiver);
        let sending = thread::spawn(move || {
            for x in 0..5 {
                // The caller finds nothing, and sleeps.
                thread::sleep(A_MOMENT / 10);
                sender.unbounded_send(x).expect("a receiver");
            }
        });
        let squares: Vec<u64> = block_on(results.try_collect())?;
        assert!(squares.into_iter().eq((0..5).map(square)));
        sending.join().expect("no panic");
        Ok(())
    })
}

#[test]
fn a_poll_of_imap_stream_blocks_neither_for_the_input_nor_for_a_task() {
    in_time(|| {
        let (pool, gate) = (pool_of(1), Gate::new());
        let items = stream::iter([(0, Some(gate.path()))]).chain(stream::pending());
        let mut results = pool.imap_stream(number, items);
        assert!(results.next().now_or_never().is_none());
        gate.wait_for(1);
        assert!(results.next().now_or_never().is_none());
        gate.open();
        assert_eq!(block_on(results.next()).and_then(|it| it.ok()), Some(0));
        assert!(results.next().now_or_never().is_none());
    });
}

#[test]
fn imap_stream_polls_nothing_while_a_result_is_there() -> Result<()> {
    in_time(|| {
        let (pool, read) = (pool_of(2), Cell::new(0));
        let items = stream::iter(0..).inspect(|_| read.set(read.get() + 1));
        let mut results = pool.imap_stream(|x: u64| x, items);
        assert_eq!(block_on(results.next()).transpose()?, Some(0));
        let here = read.get();
        while pool.stats().done < here {
            thread::yield_now();
        }
        for x in 1..here {
            assert_eq!(block_on(results.next()).transpose()?, Some(x));
            assert_eq!(read.get(), here);
        }
        Ok(())
    })
}

#[test]
fn imap_stream_never_reads_further_ahead_than_its_window() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for window in [1, 2, 3, 10, 50] {
            let read = Cell::new(0);
            let items = stream::iter(0..).inspect(|_| read.set(read.get() + 1));
            let mut results = pool.options().window(window).imap_stream(square, items);
            for given in 0..200 {
                block_on(results.next()).transpose()?;
                assert!(read.get() <= given + window, "window {window}");
            }
        }
        Ok(())
    })
}

#[test]
fn the_input_of_imap_stream_need_not_be_unpin() -> Result<()> {
    in_time(|| {
        let items = stream::unfold(0..10, |mut it| async { it.next().map(|x| (x, it)) });
        let squares: Vec<u64> = block_on(pool_of(1).imap_stream(square, items).try_collect())?;
        assert!(squares.into_iter().eq((0..10).map(square)));
        Ok(())
    })
}

#[test]
fn imap_stream_runs_in_the_thread_of_its_input() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let (sender, receiver) = mpsc::channel(1);
        let sending = stream::iter(0..500).map(Ok).forward(sender);
        let results = pool.imap_stream(square, receiver).try_collect::<Vec<u64>>();
        let (sent, squares) = block_on(future::join(sending, results));
        assert!(sent.is_ok() && squares?.into_iter().eq((0..500).map(square)));
        Ok(())
    })
}

#[test]
fn a_failing_item_does_not_end_imap_stream() {
    in_time(|| {
        let fail = |x: u64| {
            assert!(x.is_multiple_of(2), "{x} is odd");
            x
        };
        let pool = pool_of(2);
        let results = pool.imap_stream(fail, stream::iter(0..6));
        let results = results.map(|it| it.map_err(|it| it.kind()));
        let panicked = Err(ErrorKind::Panicked);
        assert_eq!(
            block_on(results.collect::<Vec<_>>()),
            [Ok(0), panicked, Ok(2), panicked, Ok(4), panicked]
        );
    });
}

#[test]
fn a_dropped_imap_stream_starts_nothing_more() -> Result<()> {
    in_time(|| {
        let (pool, gate) = (pool_of(1), Gate::new());
        let items = stream::iter((0..100).map(|x| (x, Some(gate.path()))));
        let mut results = pool.options().chunk_size(1).imap_stream(number, items);
        assert!(results.next().now_or_never().is_none());
        gate.wait_for(1);
        drop(results);
        gate.open();
        pool.join()?;
        assert_eq!(gate.arrived(), 0);
        Ok(())
    })
}

#[test]
fn a_refused_imap_stream_gives_one_error() {
    in_time(|| {
        let pool = pool_of(1);
        let results = pool
            .options()
            .window(0)
            .imap_stream(square, stream::iter(0..3));
        let results = results.map(|it| it.map_err(|it| it.kind()));
        let results: Vec<_> = block_on(results.collect());
        assert_eq!(results, [Err(ErrorKind::InvalidInput)]);
    });
}

#[test]
fn a_poll_of_a_slow_iterator_reads_few_items() {
    in_time(|| {
        let (pool, read, gate) = (pool_of(2), Cell::new(0), Gate::new());
        let slow = (0..1000).map(|x| {
            read.set(read.get() + 1);
            // Longer than a poll may read on.
            thread::sleep(Duration::from_millis(3));
            (x, Some(gate.path()))
        });
        let mut results = pool
            .options()
            .chunk_size(100)
            .imap(number, slow)
            .into_stream();
        let mut context = Context::from_waker(Waker::noop());
        for polls in 1..=5 {
            let polled = Pin::new(&mut results).poll_next(&mut context);
            assert!(matches!(polled, Poll::Pending));
            // Two on an idle machine; all that the workers could have is 600.
            assert!(read.get() < 50 * polls, "{} in {polls} polls", read.get());
        }
    });
}

#[test]
fn a_fed_input_can_be_read_as_a_stream_while_it_blocks() -> Result<()> {
    in_time(|| {
        let (pool, (sender, receiver)) = (pool_of(2), sync::mpsc::channel());
        let mut results = pool.feed(square, receiver).into_stream();
        assert!(results.next().now_or_never().is_none());
        for x in 0..100 {
            sender.send(x).expect("a receiver");
            assert_eq!(block_on(results.next()).transpose()?, Some(x * x));
        }
        drop(sender);
        assert!(block_on(results.next()).is_none());
        Ok(())
    })
}

#[test]
fn an_unordered_fed_stream_gives_every_result_once() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let results = pool.feed_unordered(square, 0..5000).into_stream();
        let mut squares: Vec<u64> = block_on(results.try_collect())?;
        squares.sort();
        assert!(squares.into_iter().eq((0..5000).map(square)));
        Ok(())
    })
}

/// Blocks in `wake` while the lock is held.
struct Stuck {
    wakes: sync::mpsc::Sender<()>,
    lock: Mutex<()>,
}

impl Wake for Stuck {
    fn wake(self: Arc<Self>) {
        self.wakes.send(()).expect("a receiver");
        drop(self.lock.lock());
    }
}

// 1. The thread of an input that has ended runs the waker. 2. The waker waits for the thread that
// polls. 3. That thread finds the end, and must not wait for the thread of the input.
#[test]
fn the_end_of_a_fed_stream_does_not_wait_for_its_waker() {
    in_time(|| {
        let pool = pool_of(1);
        let (sender, items) = sync::mpsc::channel::<u64>();
        let mut results = pool.feed(square, items).into_stream();
        let (wakes, woken) = sync::mpsc::channel();
        let lock = Mutex::new(());
        let stuck = Arc::new(Stuck { wakes, lock });
        let waker = Waker::from(Arc::clone(&stuck));
        let mut context = Context::from_waker(&waker);
        let held = stuck.lock.lock();
        assert!(results.poll_next_unpin(&mut context).is_pending());
        drop(sender);
        woken.recv().expect("a waker that runs");
        let end = results.poll_next_unpin(&mut context);
        assert!(matches!(end, Poll::Ready(None)));
        drop((results, held));
    });
}
