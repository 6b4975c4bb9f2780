//! A manager's dict and a bare connection over the same kind of socket: round trip, two clients
//! at once, many items.
//!
//! The server and the echo are processes of their own, on two cores where there are two.

use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput};
use procpool::{Connection, DictProxy, Listener, Manager, Process, connect};

/// Items of one message.
const ITEMS: u64 = 10_000;

/// Calls of each of two clients in one iteration.
const CALLS: u64 = 1_000;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    bench_round_trip(&mut criterion);
    bench_clients(&mut criterion);
    bench_many(&mut criterion);
    criterion.final_summary();
}

/// A process that sends back what it gets, over a Unix socket.
fn echo() -> (Process<()>, Connection<u64, u64>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let listener = Listener::bind(&*path, None).expect("a listener");
    let echo = |path: std::path::PathBuf| {
        let connection = connect::<u64, u64>(path, None).expect("a listener");
        while let Ok(number) = connection.recv() {
            connection.send(&number).expect("a peer");
        }
    };
    let process = Process::start(echo, path).expect("a process");
    (process, listener.accept().expect("a client"))
}

fn dict(manager: &Manager) -> DictProxy<u64, u64> {
    let dict = manager.dict().expect("a dict");
    let filled = dict.update((0..100).map(|it| (it, it)));
    filled.expect("a server");
    dict
}

fn bench_round_trip(criterion: &mut Criterion) {
    let (process, connection) = echo();
    let manager = Manager::start().expect("a manager");
    let dict = dict(&manager);
    let mut group = criterion.benchmark_group("manager/round_trip");
    group.bench_function("bare_connection", |bencher| {
        bencher.iter(|| {
            connection.send(black_box(&7)).expect("a peer");
            connection.recv().expect("a peer")
        });
    });
    group.bench_function("dict_get", |bencher| {
        bencher.iter(|| dict.get(black_box(&7)).expect("a server"));
    });
    group.bench_function("dict_set", |bencher| {
        bencher.iter(|| dict.insert(black_box(7), 8).expect("a server"));
    });
    group.finish();
    drop(connection);
    process.join().expect("an echo");
}

fn bench_clients(criterion: &mut Criterion) {
    let manager = Manager::start().expect("a manager");
    let dict = dict(&manager);
    let mut group = criterion.benchmark_group("manager/clients");
    for clients in [1, 2] {
        group.throughput(Throughput::Elements(clients * CALLS));
        let id = BenchmarkId::from_parameter(clients);
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|rounds| {
                let start = Instant::now();
                thread::scope(|scope| {
                    for _ in 0..clients {
                        scope.spawn(|| {
                            for call in 0..rounds * CALLS {
                                dict.get(&(call % 100)).expect("a server");
                            }
                        });
                    }
                });
                start.elapsed()
            });
        });
    }
    group.finish();
}

fn bench_many(criterion: &mut Criterion) {
    let manager = Manager::start().expect("a manager");
    let (dict, list) = (dict(&manager), manager.list().expect("a list"));
    let mut group = criterion.benchmark_group("manager/many");
    group.throughput(Throughput::Elements(ITEMS));
    group.bench_function("dict_update", |bencher| {
        bencher.iter(|| {
            dict.update((0..ITEMS).map(|it| (it, it)))
                .expect("a server")
        });
    });
    group.bench_function("dict_items", |bencher| {
        bencher.iter(|| dict.items().expect("a server"));
    });
    group.bench_function("list_extend", |bencher| {
        bencher.iter(|| {
            list.extend(0..ITEMS).expect("a server");
            list.clear().expect("a server");
        });
    });
    group.finish();
}
