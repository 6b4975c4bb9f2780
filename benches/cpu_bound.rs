//! CPU-bound workloads over task sizes from 10 µs to 100 ms: one after the other, on rayon and on
//! the pool.

use std::hint::black_box;
use std::iter::repeat_n;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, Throughput};
use procpool::ProcessPoolExecutor;
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use sha2::{Digest, Sha256};

/// A computation whose length its argument sets.
struct Workload {
    name: &'static str,
    task: fn(u64) -> u64,
    /// The argument for each of `SIZES`, tuned on one core of the development machine.
    arguments: [u64; SIZES.len()],
}

const WORKLOADS: [Workload; 4] = [
    Workload {
        name: "prime sieve",
        task: count_primes,
        arguments: [11_000, 85_000, 800_000, 6_000_000, 20_000_000],
    },
    Workload {
        name: "mandelbrot row",
        task: mandelbrot_row,
        arguments: [28, 280, 2_800, 28_000, 280_000],
    },
    Workload {
        name: "sha-256",
        task: sha256_blocks,
        arguments: [4, 40, 400, 4_000, 40_000],
    },
    Workload {
        name: "matrix product",
        task: matrix_product,
        arguments: [30, 72, 160, 352, 752],
    },
];

/// Length of one task, and how many of them one measurement runs.
const SIZES: [(&str, usize); 5] = [
    ("10 us", 1000),
    ("100 us", 200),
    ("1 ms", 40),
    ("10 ms", 8),
    ("100 ms", 4),
];

/// Tasks of a measurement in `--test` mode, which runs each measurement once.
const SMOKE_TASKS: usize = 2;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let pool = ProcessPoolExecutor::new().expect("a pool starts");
    for workload in &WORKLOADS {
        bench_workload(&mut criterion, workload, &pool);
    }
    criterion.final_summary();
}

fn bench_workload(criterion: &mut Criterion, workload: &Workload, pool: &ProcessPoolExecutor) {
    let mut group = criterion.benchmark_group(workload.name);
    group
        .sample_size(10)
        .nresamples(2000)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    for ((size, tasks), argument) in SIZES.into_iter().zip(workload.arguments) {
        let tasks = if smoke() { SMOKE_TASKS } else { tasks };
        group.throughput(Throughput::Elements(tasks as u64));
        bench_size(&mut group, size, workload.task, argument, tasks, pool);
    }
    group.finish();
}

fn bench_size(
    group: &mut BenchmarkGroup<'_, WallTime>,
    size: &str,
    task: fn(u64) -> u64,
    argument: u64,
    tasks: usize,
    pool: &ProcessPoolExecutor,
) {
    group.bench_function(BenchmarkId::new("serial", size), |bencher| {
        bencher.iter(|| repeat_n(argument, tasks).map(task).collect::<Vec<_>>());
    });
    // rayon's own pool has a thread a core, as ours has a worker a core.
    group.bench_function(BenchmarkId::new("rayon", size), |bencher| {
        bencher.iter(|| {
            let arguments = (0..tasks).into_par_iter().map(|_| argument);
            arguments.map(task).collect::<Vec<_>>()
        });
    });
    group.bench_function(BenchmarkId::new("pool", size), |bencher| {
        bencher.iter(|| {
            pool.map(task, repeat_n(argument, tasks))
                .expect("no task fails")
        });
    });
}

/// Criterion's own rule: without cargo's `--bench` it tests.
fn smoke() -> bool {
    let has = |flag| std::env::args().any(|it| it == flag);
    has("--test") || !has("--bench")
}

/// Sieve of Eratosthenes below `limit`.
fn count_primes(limit: u64) -> u64 {
    let limit = limit as usize;
    let mut is_prime = vec![true; limit];
    is_prime.iter_mut().take(2).for_each(|it| *it = false);
    let mut n = 2;
    while n * n < limit {
        if is_prime[n] {
            (n * n..limit)
                .step_by(n)
                .for_each(|it| is_prime[it] = false);
        }
        n += 1;
    }
    is_prime.into_iter().filter(|it| *it).count() as u64
}

/// Iterations of all points on one row of the picture, `width` points wide.
fn mandelbrot_row(width: u64) -> u64 {
    (0..width)
        .map(|column| {
            let x = -2.0 + 2.5 * column as f64 / width as f64;
            escape_time(x, 0.1)
        })
        .sum()
}

fn escape_time(x: f64, y: f64) -> u64 {
    const MOST: u64 = 200;
    let (mut a, mut b) = (0.0_f64, 0.0_f64);
    for step in 0..MOST {
        if a * a + b * b > 4.0 {
            return step;
        }
        (a, b) = (a * a - b * b + x, 2.0 * a * b + y);
    }
    MOST
}

/// First bytes of the digest of `blocks` times 4 KiB.
fn sha256_blocks(blocks: u64) -> u64 {
    let block = [0x5A; 4096];
    let mut digest = Sha256::new();
    (0..blocks).for_each(|_| digest.update(black_box(&block)));
    let digest = digest.finalize();
    digest
        .iter()
        .take(8)
        .fold(0, |sum, it| sum << 8 | u64::from(*it))
}

/// Trace of the product of two square matrices with `n` rows.
fn matrix_product(n: u64) -> u64 {
    let n = n as usize;
    let a: Vec<f64> = (0..n * n).map(|it| (it % 7) as f64).collect();
    let b: Vec<f64> = (0..n * n).map(|it| (it % 5) as f64).collect();
    let mut product = vec![0.0; n * n];
    for (row, a) in product.chunks_mut(n).zip(a.chunks(n)) {
        // Row by row of `b`: the inner loop walks both along memory.
        for (factor, b) in a.iter().zip(b.chunks(n)) {
            row.iter_mut()
                .zip(b)
                .for_each(|(sum, it)| *sum += factor * it);
        }
    }
    product.iter().step_by(n + 1).sum::<f64>() as u64
}
