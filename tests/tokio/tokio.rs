//! Futures and streams of a pool on the runtimes of tokio.

use common::{Gate, in_time, pass, pool_of, square};
use futures::{StreamExt, TryStreamExt, future::join_all, stream};
use procpool::Result;
use std::{sync::Arc, time::Duration};
use tokio::runtime::{Builder, Runtime};

fn current_thread() -> Runtime {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime")
}

fn multi_thread() -> Runtime {
    let runtime = Builder::new_multi_thread().worker_threads(4).build();
    runtime.expect("a runtime")
}

#[test]
fn a_future_can_be_awaited_on_a_current_thread_runtime() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let result = current_thread().block_on(pool.submit(square, 7));
        assert_eq!(result?, 49);
        Ok(())
    })
}

#[test]
fn many_futures_can_be_awaited_on_a_current_thread_runtime() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let futures = (0..1000).map(|x| pool.submit(square, x));
        let results = current_thread().block_on(join_all(futures));
        let results: Result<Vec<u64>> = results.into_iter().collect();
        assert!(results?.into_iter().eq((0..1000).map(square)));
        Ok(())
    })
}

#[test]
fn many_tasks_of_a_multi_thread_runtime_await_futures() -> Result<()> {
    in_time(|| {
        let pool = Arc::new(pool_of(2));
        let runtime = multi_thread();
        let tasks = (0..1000).map(|x| {
            let pool = Arc::clone(&pool);
            runtime.spawn(async move { pool.submit(square, pool.submit(square, x).await?).await })
        });
        let results = runtime.block_on(join_all(tasks.collect::<Vec<_>>()));
        for (x, result) in (0..).zip(results) {
            assert_eq!(result.expect("no panic")?, square(square(x)));
        }
        Ok(())
    })
}

#[test]
fn a_future_can_be_awaited_in_another_task_than_it_was_made_in() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let runtime = multi_thread();
        let future = pool.submit(square, 7);
        let task = runtime.spawn(future);
        assert_eq!(runtime.block_on(task).expect("no panic")?, 49);
        Ok(())
    })
}

#[test]
fn a_future_can_be_awaited_again_after_a_timeout() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        current_thread().block_on(async {
            let mut future = pool.submit(pass, gate.path());
            let timed_out = tokio::time::timeout(Duration::from_millis(5), &mut future).await;
            assert!(timed_out.is_err());
            gate.open();
            future.await
        })
    })
}

#[test]
fn a_stream_can_be_read_on_a_current_thread_runtime() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let stream = pool.imap(square, 0..5000).into_stream();
        let squares: Vec<u64> = current_thread().block_on(stream.try_collect())?;
        assert!(squares.into_iter().eq((0..5000).map(square)));
        Ok(())
    })
}

#[test]
fn streams_can_be_read_by_several_tasks_of_a_multi_thread_runtime() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let runtime = multi_thread();
        let tasks = (0..8u64).map(|start| {
            let stream = pool
                .imap(|x| x, start * 1000..start * 1000 + 500)
                .into_stream();
            runtime.spawn(stream.try_collect::<Vec<u64>>())
        });
        for (start, task) in (0..).zip(tasks.collect::<Vec<_>>()) {
            let results = runtime.block_on(task).expect("no panic")?;
            assert!(results.into_iter().eq(start * 1000..start * 1000 + 500));
        }
        Ok(())
    })
}

#[test]
fn a_pool_can_be_dropped_in_async_code() -> Result<()> {
    in_time(|| {
        current_thread().block_on(async {
            let pool = pool_of(1);
            let future = pool.submit(square, 7);
            drop(pool);
            assert_eq!(future.await?, 49);
            Ok(())
        })
    })
}

#[test]
fn imap_stream_lets_its_input_sleep_on_a_current_thread_runtime() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let items = stream::iter(0..50).then(async |x| {
            tokio::time::sleep(Duration::from_millis(1)).await;
            x
        });
        let squares: Vec<u64> =
            current_thread().block_on(pool.imap_stream(square, items).try_collect())?;
        assert!(squares.into_iter().eq((0..50).map(square)));
        Ok(())
    })
}
