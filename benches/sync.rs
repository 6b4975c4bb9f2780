//! Locks and events, and what they are made of: a bare robust mutex, a bare futex, and a lock
//! between threads.

#[path = "compare/bare.rs"]
mod bare;

use bare::{Bare, answer, ask};
use criterion::Criterion;
use parking_lot::Mutex;
use procpool::{Event, Lock, Process, SharedMemory, Value};
use std::time::{Duration, Instant};

/// Turns of each of two processes in one measurement of contention.
const TURNS: u64 = 300_000;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    bench_uncontended(&mut criterion);
    bench_value(&mut criterion);
    bench_contended(&mut criterion);
    bench_event(&mut criterion);
    criterion.final_summary();
}

fn bench_uncontended(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("uncontended");
    let lock = Lock::new().expect("a lock");
    group.bench_function("Lock", |it| it.iter(|| drop(lock.acquire())));
    let bare = Bare::new();
    let mutex = bare.mutex();
    group.bench_function("bare robust mutex", |it| {
        it.iter(|| {
            Bare::lock(mutex);
            Bare::unlock(mutex);
        });
    });
    let threads = Mutex::new(());
    group.bench_function("parking_lot", |it| it.iter(|| drop(threads.lock())));
    group.finish();
}

fn bench_value(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("increment");
    let value = Value::new(0u64).expect("a value");
    group.bench_function("Value", |it| {
        it.iter(|| *value.lock().expect("no holder died") += 1);
    });
    let bare = Bare::new();
    group.bench_function("bare robust mutex", |it| it.iter(|| bare.count(1)));
    group.finish();
}

fn bench_contended(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("contended by two processes");
    group.bench_function("Value", |it| {
        it.iter_custom(|rounds| {
            let value = Value::new(0u64).expect("a value");
            let count = |value: Value<u64>| {
                (0..TURNS).for_each(|_| *value.lock().expect("no holder died") += 1);
            };
            (0..rounds).map(|_| timed(count, value.clone())).sum()
        });
    });
    group.bench_function("bare robust mutex", |it| {
        it.iter_custom(|rounds| {
            let bare = Bare::new();
            let count = |bare: Bare| bare.count(TURNS);
            (0..rounds).map(|_| timed(count, bare.clone())).sum()
        });
    });
    group.finish();
}

/// The time until this process and another have both done something.
fn timed<A: procpool::Wire + Clone>(run: fn(A), shared: A) -> Duration {
    let start = Instant::now();
    let process = Process::start(run, shared.clone()).expect("a process");
    run(shared);
    process.result().expect("an end");
    start.elapsed()
}

fn bench_event(criterion: &mut Criterion) {
    const ROUNDS: u32 = 1000;
    let mut group = criterion.benchmark_group("1000 round trips");
    group.bench_function("Event", |it| {
        it.iter(|| {
            let (ping, pong) = (
                Event::new().expect("an event"),
                Event::new().expect("an event"),
            );
            let answer = |(ping, pong): (Event, Event)| {
                for _ in 0..ROUNDS {
                    ping.wait().expect("a set");
                    ping.clear();
                    pong.set();
                }
            };
            let process = Process::start(answer, (ping.clone(), pong.clone())).expect("a process");
            for _ in 0..ROUNDS {
                ping.set();
                pong.wait().expect("a set");
                pong.clear();
            }
            process.result().expect("an end");
        });
    });
    group.bench_function("bare futex", |it| {
        it.iter(|| {
            let memory = SharedMemory::create(4096).expect("shared memory");
            let process = Process::start(answer, (memory.clone(), ROUNDS)).expect("a process");
            ask(&memory, ROUNDS);
            process.result().expect("an end");
        });
    });
    group.finish();
}
