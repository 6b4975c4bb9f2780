//! Values of every size: inside a task, through a pipe, a ring, shared memory, and at the borders
//! between them.

use common::{Gate, alone, failure, in_time, pass, pattern, pool_of, square};
use futures::{StreamExt, executor::block_on};
use procpool::{ErrorKind, ProcessPoolExecutor, Result};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    iter,
    sync::{Mutex, mpsc},
};

/// Where a value changes its way: inline, chunk, private memory and pipe, ring, and a slab's first
/// growth.
const BORDERS: [usize; 6] = [22, 4 << 10, 32 << 10, 64 << 10, 128 << 10, 1 << 20];

/// How far from a border the sizes lie: a byte, a length prefix, a frame's or a slab's head.
const DISTANCES: [isize; 15] = [-72, -65, -64, -63, -9, -8, -7, -1, 0, 1, 7, 8, 9, 64, 65];

/// Bytes at and around the borders.
fn sizes() -> impl Iterator<Item = usize> {
    let around = |border: usize| {
        let sizes = DISTANCES.into_iter();
        sizes.filter_map(move |it| border.checked_add_signed(it))
    };
    [0, 1]
        .into_iter()
        .chain(BORDERS.into_iter().flat_map(around))
}

/// A value with bytes in one piece among others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Image {
    name: String,
    #[serde(with = "serde_bytes")]
    pixels: Vec<u8>,
    width: u32,
}

fn image(size: usize, seed: usize) -> Image {
    Image {
        name: format!("{size} bytes"),
        pixels: pattern(size, seed),
        width: seed as u32,
    }
}

fn echo<T>(value: T) -> T {
    value
}

/// A task: a large result for a small argument.
fn make((size, seed): (usize, usize)) -> Vec<u8> {
    pattern(size, seed)
}

// Sizes at the borders.

#[test]
fn vectors_of_all_sizes_come_back_as_they_went() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        for size in sizes() {
            let bytes = pattern(size, 1);
            assert!(pool.apply(echo, bytes.clone())? == bytes, "{size} bytes");
        }
        Ok(())
    })
}

#[test]
fn texts_of_all_sizes_come_back_as_they_went() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        for size in sizes() {
            let text = "x".repeat(size);
            assert!(pool.apply(echo, text.clone())? == text, "{size} bytes");
        }
        Ok(())
    })
}

#[test]
fn structs_with_bytes_of_all_sizes_come_back_as_they_went() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        for size in sizes() {
            let image = image(size, 1);
            assert!(pool.apply(echo, image.clone())? == image, "{size} bytes");
        }
        Ok(())
    })
}

#[test]
fn vectors_of_all_sizes_come_back_while_nobody_waits() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        for size in sizes() {
            let (sender, receiver) = mpsc::channel();
            let bytes = pattern(size, 1);
            let _unread = pool.apply_async(echo, bytes.clone(), move |it: &Result<Vec<u8>>| {
                sender.send(it.clone()).expect("a receiver");
            });
            assert!(
                receiver.recv().expect("a callback")? == bytes,
                "{size} bytes"
            );
        }
        Ok(())
    })
}

#[test]
fn vectors_of_all_sizes_come_back_to_async_code() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        for size in sizes() {
            let bytes = pattern(size, 1);
            assert!(
                block_on(pool.submit(echo, bytes.clone()))? == bytes,
                "{size} bytes"
            );
        }
        Ok(())
    })
}

#[test]
fn a_map_over_vectors_of_all_sizes_gives_them_back() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let all: Vec<Vec<u8>> = sizes().map(|size| pattern(size, size)).collect();
        for chunk in [1, 2, 1000] {
            let results = pool.options().chunk_size(chunk).map(echo, all.clone())?;
            assert!(results == all, "chunks of {chunk}");
        }
        Ok(())
    })
}

#[test]
fn a_map_over_vectors_of_all_sizes_ends_while_nobody_waits() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let all: Vec<Vec<u8>> = sizes().map(|size| pattern(size, size)).collect();
        for chunk in [1, 2, 1000] {
            let (sender, receiver) = mpsc::channel();
            let future = pool
                .options()
                .chunk_size(chunk)
                .map_async(echo, all.clone());
            future.add_done_callback(move || sender.send(()).expect("a receiver"));
            receiver.recv().expect("a callback");
            assert!(future.result()? == all, "chunks of {chunk}");
        }
        Ok(())
    })
}

#[test]
fn a_stream_over_vectors_of_all_sizes_gives_them_back() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let all: Vec<Vec<u8>> = sizes().map(|size| pattern(size, size)).collect();
        for chunk in [1, 2, 1000] {
            let results = pool.options().chunk_size(chunk).imap(echo, all.clone());
            let results: Vec<Result<Vec<u8>>> = block_on(results.into_stream().collect());
            let results: Vec<_> = results.into_iter().collect::<Result<_>>()?;
            assert!(results == all, "chunks of {chunk}");
        }
        Ok(())
    })
}

#[test]
fn results_of_all_sizes_wait_in_their_futures() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let futures: Vec<_> = sizes()
            .map(|size| (size, pool.submit(make, (size, size))))
            .collect();
        for (size, future) in futures.into_iter().rev() {
            assert!(future.result()? == pattern(size, size), "{size} bytes");
        }
        Ok(())
    })
}

// Many, and huge.

#[test]
fn a_vector_of_64_mib_comes_back_as_it_went() -> Result<()> {
    in_time(|| {
        let bytes = pattern(64 << 20, 1);
        assert!(pool_of(1).apply(echo, bytes.clone())? == bytes);
        Ok(())
    })
}

#[test]
fn a_struct_with_64_mib_comes_back_as_it_went() -> Result<()> {
    in_time(|| {
        let image = image(64 << 20, 1);
        assert!(pool_of(1).apply(echo, image.clone())? == image);
        Ok(())
    })
}

#[test]
fn hundreds_of_large_results_wait_unread() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let futures: Vec<_> = (0..300)
            .map(|seed| pool.submit(make, (100_000 + seed, seed)))
            .collect();
        for (seed, future) in futures.into_iter().enumerate().rev() {
            assert!(
                future.result()? == pattern(100_000 + seed, seed),
                "number {seed}"
            );
        }
        Ok(())
    })
}

#[test]
fn hundreds_of_large_structs_wait_unread() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let make = |(size, seed)| image(size, seed);
        let futures: Vec<_> = (0..300)
            .map(|seed| pool.submit(make, (100_000 + seed, seed)))
            .collect();
        for (seed, future) in futures.into_iter().enumerate() {
            assert!(
                future.result()? == image(100_000 + seed, seed),
                "number {seed}"
            );
        }
        Ok(())
    })
}

#[test]
fn thousands_of_results_of_40_kib_pile_up_while_nobody_reads() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let (done, all_done) = mpsc::channel();
        let futures = (0..3000).map(|seed| {
            let done = done.clone();
            let future = pool.submit(make, (40 << 10, seed));
            future.add_done_callback(move || done.send(()).expect("a receiver"));
            future
        });
        let futures: Vec<_> = futures.collect();
        for _ in 0..futures.len() {
            all_done.recv().expect("a callback");
        }
        for (seed, future) in futures.into_iter().enumerate() {
            assert!(future.result()? == pattern(40 << 10, seed), "number {seed}");
        }
        Ok(())
    })
}

#[test]
fn thousands_of_large_arguments_and_results_are_echoed() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let items = (0..2000).map(|seed| pattern(70_000, seed));
        for (seed, result) in pool.imap(echo, items).enumerate() {
            assert!(result? == pattern(70_000, seed), "number {seed}");
        }
        Ok(())
    })
}

#[test]
fn large_values_of_changing_sizes_keep_their_contents() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let size = |seed: usize| [100_000, 3 << 20, 70_000, 1 << 20, 5 << 20][seed % 5] + seed;
        let futures: Vec<_> = (0..40)
            .map(|seed| pool.submit(echo, pattern(size(seed), seed)))
            .collect();
        for (seed, future) in futures.into_iter().enumerate() {
            assert!(
                future.result()? == pattern(size(seed), seed),
                "number {seed}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_large_result_outlives_its_worker_and_its_pool() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let future = pool.submit(make, (1 << 20, 7));
        drop(pool);
        assert!(future.result()? == pattern(1 << 20, 7));
        Ok(())
    })
}

#[test]
fn large_arguments_behind_a_long_task_are_taken_by_the_other_worker() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        // Tiny tasks, so that many are sent ahead.
        pool.map(square, 0..10_000)?;
        let long = pool.submit(pass, gate.path());
        let futures: Vec<_> = (0..50)
            .map(|seed| pool.submit(echo, pattern(100_000, seed)))
            .collect();
        for (seed, future) in futures.into_iter().enumerate() {
            assert!(future.result()? == pattern(100_000, seed), "number {seed}");
        }
        gate.open();
        long.result()
    })
}

#[test]
fn a_thousand_large_arguments_need_few_descriptors() {
    alone("ulimit -n 256", || {
        let pool: ProcessPoolExecutor = pool_of(1);
        let gate = Gate::new();
        let long = pool.submit(pass, gate.path());
        let futures: Vec<_> = (0..1000)
            .map(|seed| pool.submit(echo, pattern(70_000, seed)))
            .collect();
        gate.open();
        for (seed, future) in futures.into_iter().enumerate() {
            let result = future.result().expect("an echo");
            assert!(result == pattern(70_000, seed), "number {seed}");
        }
        long.result().expect("an end");
    });
}

#[test]
fn a_thousand_large_results_need_few_descriptors() {
    alone("ulimit -n 256", || {
        let pool = pool_of(1);
        let futures: Vec<_> = (0..1000)
            .map(|seed| pool.submit(make, (70_000, seed)))
            .collect();
        // The last is done last: then all wait to be read.
        for (seed, future) in futures.into_iter().enumerate().rev() {
            let result = future.result().expect("bytes");
            assert!(result == pattern(70_000, seed), "number {seed}");
        }
    });
}

/// What a worker has opened.
static OPENED: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A task: opens files until there is no room for more.
fn open_all((): ()) {
    let files = iter::from_fn(|| File::open("/dev/null").ok());
    OPENED.lock().expect("no panic").extend(files);
}

/// A task: closes them.
fn close_all((): ()) {
    OPENED.lock().expect("no panic").clear();
}

#[test]
fn a_worker_that_had_no_room_for_a_large_argument_has_it_again() {
    alone("ulimit -n 128", || {
        let pool = pool_of(1);
        let large = || pattern(1 << 20, 0);
        let length = |bytes: Vec<u8>| bytes.len();
        pool.apply(open_all, ()).expect("it does not fail");
        for _ in 0..2 {
            let failed = failure(pool.apply(length, large()));
            assert_eq!(failed.kind(), ErrorKind::Codec);
        }
        pool.apply(close_all, ()).expect("it does not fail");
        assert_eq!(pool.apply(length, large()).expect("room"), 1 << 20);
        let mapped = pool.map(length, [large(), large()]).expect("room");
        assert_eq!(mapped, [1 << 20; 2]);
    });
}
