//! `imap` and `imap_unordered` as streams.

use common::{Gate, in_time, pass, pool_of, square};
use futures::{
    StreamExt, TryStreamExt,
    executor::block_on,
    stream::{self, Stream},
    task::noop_waker,
};
use procpool::{ErrorKind, Result};
use std::{
    cell::Cell,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll},
};

/// A task: waits at the gate if there is one.
fn number((x, gate): (u64, Option<PathBuf>)) -> u64 {
    gate.into_iter().for_each(pass);
    x
}

#[test]
fn a_stream_gives_the_results_in_the_order_of_the_items() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let stream = pool.imap(square, 0..5000).into_stream();
        let squares: Vec<u64> = block_on(stream.try_collect())?;
        assert!(squares.into_iter().eq((0..5000).map(square)));
        Ok(())
    })
}

#[test]
fn an_unordered_stream_gives_every_result_once() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let stream = pool.imap_unordered(square, 0..5000).into_stream();
        let mut squares: Vec<u64> = block_on(stream.try_collect())?;
        squares.sort();
        assert!(squares.into_iter().eq((0..5000).map(square)));
        Ok(())
    })
}

#[test]
fn a_stream_over_nothing_ends_at_once() {
    in_time(|| {
        let pool = pool_of(1);
        assert!(block_on(pool.imap(square, 0..0).into_stream().next()).is_none());
    });
}

#[test]
fn an_ended_stream_stays_ended() {
    in_time(|| {
        let pool = pool_of(1);
        let mut stream = pool.imap(square, 0..2).into_stream();
        assert_eq!(block_on(stream.by_ref().count()), 2);
        assert!((0..3).all(|_| block_on(stream.next()).is_none()));
    });
}

#[test]
fn a_stream_can_be_endless() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let stream = pool.imap(square, 0..).into_stream();
        let squares: Vec<u64> = block_on(stream.take(1000).try_collect())?;
        assert!(squares.into_iter().eq((0..1000).map(square)));
        Ok(())
    })
}

#[test]
fn an_error_does_not_end_a_stream() {
    in_time(|| {
        let pool = pool_of(2);
        let fail = |x: u64| if x == 3 { panic!("on purpose") } else { x };
        let results: Vec<_> = block_on(pool.imap(fail, 0..6).into_stream().collect());
        let kinds = results.into_iter().map(|it| it.map_err(|it| it.kind()));
        let expected = (0..6).map(|x| {
            if x == 3 {
                Err(ErrorKind::Panicked)
            } else {
                Ok(x)
            }
        });
        assert!(kinds.eq(expected));
    });
}

#[test]
fn a_stream_gives_a_result_while_the_next_item_runs() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let items = [(0, None), (1, Some(gate.path()))];
        let mut stream = pool
            .options()
            .chunk_size(2)
            .imap(number, items)
            .into_stream();
        assert_eq!(block_on(stream.next()).transpose()?, Some(0));
        gate.open();
        assert_eq!(block_on(stream.next()).transpose()?, Some(1));
        Ok(())
    })
}

#[test]
fn a_stream_goes_on_where_the_iterator_stopped() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let mut results = pool.imap(square, 0..100);
        assert_eq!(results.by_ref().take(10).count(), 10);
        let rest: Vec<u64> = block_on(results.into_stream().try_collect())?;
        assert!(rest.into_iter().eq((10..100).map(square)));
        Ok(())
    })
}

#[test]
fn a_stream_takes_nothing_from_its_input_before_it_is_polled() {
    in_time(|| {
        let (pool, read) = (pool_of(1), Cell::new(0));
        let input = (0..10).inspect(|_| read.set(read.get() + 1));
        let _stream = pool.imap(square, input).into_stream();
        assert_eq!(read.get(), 0);
    });
}

#[test]
fn a_stream_never_reads_further_ahead_than_its_window() -> Result<()> {
    in_time(|| {
        let (pool, read) = (pool_of(2), Cell::new(0));
        let input = (0..).inspect(|_| read.set(read.get() + 1));
        let mut stream = pool.options().window(5).imap(square, input).into_stream();
        for given in 0..200 {
            block_on(stream.next()).transpose()?;
            assert!(read.get() <= given + 5, "{} read at {given}", read.get());
        }
        Ok(())
    })
}

#[test]
fn a_stream_says_exactly_how_many_results_are_left() {
    in_time(|| {
        let pool = pool_of(2);
        let mut stream = pool.imap(square, 0..50).into_stream();
        for left in (0..50).rev() {
            assert!(block_on(stream.next()).is_some());
            assert_eq!(stream.size_hint(), (left, Some(left)));
        }
    });
}

#[test]
fn a_dropped_stream_starts_nothing_more() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let items = (0..100).map(|x| (x, Some(gate.path())));
        let mut stream = pool
            .options()
            .chunk_size(1)
            .imap(number, items)
            .into_stream();
        let polled = Pin::new(&mut stream).poll_next(&mut Context::from_waker(&noop_waker()));
        assert!(polled.is_pending());
        gate.wait_for(1);
        drop(stream);
        gate.open();
        pool.join()?;
        assert_eq!(gate.arrived(), 0);
        Ok(())
    })
}

#[test]
fn a_stream_polled_before_can_be_read_by_another_task() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let mut stream = pool.imap(number, [(0, Some(gate.path()))]).into_stream();
        let polled = Pin::new(&mut stream).poll_next(&mut Context::from_waker(&noop_waker()));
        assert!(matches!(polled, Poll::Pending));
        gate.open();
        assert_eq!(block_on(stream.next()).transpose()?, Some(0));
        Ok(())
    })
}

#[test]
fn several_streams_can_be_merged() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let streams = (0..3u64).map(|it| pool.imap(|x| x, it * 100..it * 100 + 100).into_stream());
        let mut all: Vec<u64> = block_on(stream::select_all(streams).try_collect())?;
        all.sort();
        assert!(all.into_iter().eq(0..300));
        Ok(())
    })
}

#[test]
fn a_stream_that_goes_through_other_futures_of_the_pool() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let stream = pool.imap(square, 0..500u64).into_stream();
        let sums = stream.map(|it| async { pool.submit(|x: u64| x + 1, it?).await });
        let sums: Vec<u64> = block_on(sums.buffered(8).try_collect())?;
        assert!(sums.into_iter().eq((0..500).map(|x| x * x + 1)));
        Ok(())
    })
}

#[test]
fn a_refused_stream_gives_one_error() {
    in_time(|| {
        let pool = pool_of(1);
        let stream = pool.options().window(0).imap(square, 0..3).into_stream();
        let results: Vec<_> = block_on(stream.map(|it| it.map_err(|it| it.kind())).collect());
        assert_eq!(results, [Err(ErrorKind::InvalidInput)]);
    });
}
