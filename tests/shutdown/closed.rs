//! Closed: what was submitted is done, what comes later is refused.

use crate::{assert_is_shutdown, held_up_pool, kinds};
use common::{in_time, pool_of, square};
use futures::{StreamExt, executor::block_on, stream};
use procpool::{ErrorKind, Result};
use std::{cell::Cell, sync::mpsc, thread};

#[test]
fn a_closed_pool_refuses_every_call() {
    in_time(|| {
        let pool = pool_of(1);
        pool.close();
        assert_is_shutdown(pool.submit(square, 7).result());
        assert_is_shutdown(pool.apply(square, 7));
        assert_is_shutdown(pool.apply_async(square, 7, |_| ()).result());
        assert_is_shutdown(pool.map(square, 0..3));
        assert_is_shutdown(pool.map_async(square, 0..3).result());
        assert_is_shutdown(pool.starmap(u64::pow, [(1, 2)]));
        assert_is_shutdown(pool.map_with(1, |a, b| a + b, 0..3u64));
        pool.map_results(square, 0..3)
            .into_iter()
            .for_each(assert_is_shutdown);
        pool.imap(square, 0..3).for_each(assert_is_shutdown);
        pool.imap_unordered(square, 0..3)
            .for_each(assert_is_shutdown);
        pool.feed(square, 0..3).for_each(assert_is_shutdown);
        pool.feed_unordered(square, 0..3)
            .for_each(assert_is_shutdown);
    });
}

#[test]
fn a_closed_pool_finishes_what_it_has() -> Result<()> {
    in_time(|| {
        let (pool, gate, running) = held_up_pool();
        let queued: Vec<_> = (0..100).map(|x| pool.submit(square, x)).collect();
        let map = pool.map_async(square, 0..100);
        pool.close();
        gate.open();
        running.result()?;
        for (x, future) in (0..).zip(queued) {
            assert_eq!(future.result()?, x * x);
        }
        assert_eq!(map.result()?.len(), 100);
        Ok(())
    })
}

#[test]
fn a_closed_pool_finishes_what_it_has_while_nobody_waits() {
    in_time(|| {
        let (pool, gate, _running) = held_up_pool();
        let (sender, receiver) = mpsc::channel();
        for x in 0..100 {
            let sender = sender.clone();
            let _unread =
                pool.apply_async(square, x, move |it| sender.send(it.is_ok()).unwrap_or(()));
        }
        drop(sender);
        pool.close();
        gate.open();
        assert_eq!(receiver.into_iter().filter(|it| *it).count(), 100);
    });
}

#[test]
fn close_returns_while_a_task_runs() {
    in_time(|| {
        let (pool, _gate, running) = held_up_pool();
        pool.close();
        assert!(!running.is_done());
    });
}

#[test]
fn the_workers_of_a_closed_pool_end_when_all_is_done() {
    in_time(|| {
        let (pool, gate, _running) = held_up_pool();
        pool.close();
        gate.open();
        while !pool.worker_pids().is_empty() {
            thread::yield_now();
        }
    });
}

#[test]
fn to_close_a_closed_pool_is_no_change() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let future = pool.submit(square, 7);
        pool.close();
        pool.close();
        assert_eq!(future.result()?, 49);
        Ok(())
    })
}

#[test]
fn a_map_whose_pool_is_closed_meanwhile_fails() {
    in_time(|| {
        let pool = pool_of(2);
        let closing = (0..).inspect(|x| {
            if *x == 1000 {
                pool.close();
            }
        });
        assert_is_shutdown(pool.map(square, closing));
    });
}

#[test]
fn the_items_that_imap_took_before_the_close_are_done_and_the_others_are_not() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let read = Cell::new(0);
        let input = (0..6).inspect(|x| read.set(x + 1));
        let mut results = pool.options().chunk_size(1).imap(square, input);
        assert_eq!(results.next().transpose()?, Some(0));
        pool.close();
        let taken = read.get();
        for x in 1..6 {
            let expected = if x < taken {
                Ok(square(x))
            } else {
                Err(ErrorKind::Shutdown)
            };
            let result = results.next().map(|it| it.map_err(|it| it.kind()));
            assert_eq!(result, Some(expected));
        }
        assert!(results.next().is_none());
        Ok(())
    })
}

#[test]
fn imap_over_an_endless_input_gives_shutdown_when_its_pool_is_closed() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let mut results = pool.options().window(10).imap(square, 0..);
        results.next().transpose()?;
        pool.close();
        let outcome = results.find(|it| it.is_err()).expect("it is endless");
        assert_is_shutdown(outcome);
        Ok(())
    })
}

#[test]
fn imap_of_a_closed_pool_has_one_outcome_for_each_item_and_ends() {
    in_time(|| {
        let pool = pool_of(1);
        let mut results = pool.imap(square, 0..5);
        pool.close();
        for left in (0..5).rev() {
            assert_is_shutdown(results.next().expect("an outcome"));
            assert_eq!(results.size_hint(), (left, Some(left)));
        }
        assert!(results.next().is_none());
    });
}

#[test]
fn a_stream_of_a_closed_pool_has_one_outcome_for_each_item_and_ends() {
    in_time(|| {
        let pool = pool_of(1);
        let stream = pool.imap_unordered(square, 0..5).into_stream();
        pool.close();
        let outcomes: Vec<_> = block_on(stream.collect());
        assert_eq!(kinds(outcomes.into_iter()), [Err(ErrorKind::Shutdown); 5]);
    });
}

#[test]
fn feed_of_a_closed_pool_has_one_outcome_for_each_item_and_ends() {
    in_time(|| {
        let (pool, (sender, receiver)) = (pool_of(1), mpsc::channel());
        let results = pool.feed(square, receiver);
        pool.close();
        (0..5).for_each(|x| sender.send(x).expect("a receiver"));
        drop(sender);
        assert_eq!(kinds(results), [Err(ErrorKind::Shutdown); 5]);
    });
}

#[test]
fn feed_gives_shutdown_of_a_closed_pool_while_its_input_blocks() -> Result<()> {
    in_time(|| {
        let (pool, (sender, receiver)) = (pool_of(1), mpsc::channel());
        let mut results = pool.feed(square, receiver);
        sender.send(3).expect("a receiver");
        assert_eq!(results.next().transpose()?, Some(9));
        pool.close();
        assert_is_shutdown(results.next().expect("an outcome"));
        // That was the outcome of the first of these.
        (0..3).for_each(|x| sender.send(x).expect("a receiver"));
        drop(sender);
        assert_eq!(kinds(results), [Err(ErrorKind::Shutdown); 2]);
        Ok(())
    })
}

#[test]
fn a_caller_that_waits_for_a_blocked_feed_hears_that_the_pool_is_stopped() {
    in_time(|| {
        let (pool, (_sender, receiver)) = (pool_of(1), mpsc::channel());
        let mut results = pool.feed(square, receiver);
        thread::scope(|scope| {
            let waiting = scope.spawn(move || results.next());
            pool.terminate();
            let outcome = waiting.join().expect("no panic");
            assert_is_shutdown(outcome.expect("an outcome"));
        });
    });
}

#[test]
fn imap_stream_of_a_closed_pool_has_one_outcome_for_each_item_and_ends() {
    in_time(|| {
        let pool = pool_of(1);
        let results = pool.imap_stream_unordered(square, stream::iter(0..5));
        pool.close();
        let outcomes: Vec<_> = block_on(results.collect());
        assert_eq!(kinds(outcomes.into_iter()), [Err(ErrorKind::Shutdown); 5]);
    });
}
