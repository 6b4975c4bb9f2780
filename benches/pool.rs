//! The pool's own costs: round trip, submit, map, payloads and start.

use std::mem;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use procpool::ProcessPoolExecutor;

/// The figures are for two cores; `benches/compare` uses as many.
const WORKERS: usize = 2;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    bench_round_trip(&mut criterion);
    bench_submit(&mut criterion);
    bench_map(&mut criterion);
    bench_payloads(&mut criterion);
    bench_start(&mut criterion);
    criterion.final_summary();
}

fn pool() -> ProcessPoolExecutor {
    ProcessPoolExecutor::builder()
        .workers(WORKERS)
        .build()
        .expect("a pool starts")
}

fn noop((): ()) {}

fn tiny(n: u64) -> u64 {
    n.wrapping_mul(3) ^ 1
}

fn echo(bytes: Vec<u8>) -> Vec<u8> {
    bytes
}

/// One task at a time: the caller waits for each.
fn bench_round_trip(criterion: &mut Criterion) {
    let pool = pool();
    let mut group = criterion.benchmark_group("round trip");
    group.bench_function("apply", |bencher| {
        bencher.iter(|| pool.apply(noop, ()).expect("a no-op succeeds"));
    });
    group.bench_function("submit and result", |bencher| {
        bencher.iter(|| pool.submit(noop, ()).result().expect("a no-op succeeds"));
    });
    group.finish();
}

/// Many tasks, each submitted by itself, then awaited in order.
fn bench_submit(criterion: &mut Criterion) {
    let pool = pool();
    let mut group = criterion.benchmark_group("submit");
    for tasks in [10, 1000, 100_000_u64] {
        group.throughput(Throughput::Elements(tasks));
        group.bench_function(BenchmarkId::from_parameter(tasks), |bencher| {
            bencher.iter(|| {
                let futures: Vec<_> = (0..tasks).map(|n| pool.submit(tiny, n)).collect();
                let results = futures.into_iter().map(|it| it.result());
                results
                    .sum::<procpool::Result<u64>>()
                    .expect("no task fails")
            });
        });
    }
    group.finish();
}

/// Chunks and window as they are by default.
fn bench_map(criterion: &mut Criterion) {
    let pool = pool();
    let mut group = criterion.benchmark_group("map");
    for items in [10, 1000, 100_000, 1_000_000_u64] {
        group.throughput(Throughput::Elements(items));
        group.bench_function(BenchmarkId::from_parameter(items), |bencher| {
            bencher.iter(|| pool.map(tiny, 0..items).expect("no item fails"));
        });
    }
    group.finish();
}

/// Bytes there and back; throughput counts them once. The next call sends what came back, so that
/// nothing is copied here.
fn bench_payloads(criterion: &mut Criterion) {
    let pool = pool();
    let mut group = criterion.benchmark_group("payloads");
    let sizes = [
        ("1 KiB", 1 << 10),
        ("16 KiB", 16 << 10),
        ("64 KiB", 64 << 10),
        ("1 MiB", 1 << 20),
        ("8 MiB", 8 << 20),
        ("64 MiB", 64 << 20),
    ];
    for (name, size) in sizes {
        let mut bytes = vec![7; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                let sent = mem::take(&mut bytes);
                bytes = pool.apply(echo, sent).expect("an echo succeeds");
            });
        });
        assert_eq!(bytes.len(), size);
    }
    group.finish();
}

/// From no pool to its first result. The fork server runs already: its own start is in
/// `benches/compare`.
fn bench_start(criterion: &mut Criterion) {
    let _keeps_the_server = pool();
    let mut group = criterion.benchmark_group("start");
    group.bench_function("pool and first result", |bencher| {
        bencher.iter_custom(|times| (0..times).map(|_| time_to_first_result()).sum());
    });
    group.finish();
}

/// The pool's end is not timed.
fn time_to_first_result() -> Duration {
    let start = Instant::now();
    let pool = pool();
    pool.apply(noop, ()).expect("a no-op succeeds");
    start.elapsed()
}
