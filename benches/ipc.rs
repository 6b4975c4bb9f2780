//! Connections, and bare pipes that wait in the same way: round trip, small values one way,
//! megabytes. Queues, too.
//!
//! Both ends are threads of this process, on two cores where there are two: what is compared is
//! what a message costs, and that is the same between processes.

use std::{
    fs::File,
    hint::black_box,
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use procpool::{Queue, wait_ready};

/// As in benches/compare: the round trip's payload.
const SMALL: usize = 32;

const LARGE: usize = 1 << 20;

/// Values that go one way in one iteration.
const VALUES: u64 = 10_000;

/// Megabytes in one iteration.
const MEGABYTES: u64 = 64;

type Small = [u64; SMALL / 8];

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    bench_round_trip(&mut criterion);
    bench_one_way(&mut criterion);
    bench_large(&mut criterion);
    bench_queue(&mut criterion);
    criterion.final_summary();
}

/// A pipe whose reader asks for 50 µs before it goes to sleep, as a connection does while that
/// pays.
struct BarePipe {
    reader: File,
    writer: File,
}

impl BarePipe {
    fn new() -> Self {
        let (reader, writer) = io::pipe().expect("a pipe");
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a pipe");
        let file = |it: OwnedFd| File::from(it);
        Self {
            reader: file(reader.into()),
            writer: file(writer.into()),
        }
    }

    fn of_a_megabyte() -> Self {
        let pipe = Self::new();
        fcntl(&pipe.writer, FcntlArg::F_SETPIPE_SZ(LARGE as i32)).expect("room in a pipe");
        pipe
    }

    fn read(&self, buffer: &mut [u8]) {
        let mut filled = 0;
        while filled < buffer.len() {
            filled += self.read_some(&mut buffer[filled..]);
        }
    }

    fn read_some(&self, buffer: &mut [u8]) -> usize {
        let mut start = None;
        loop {
            match (&self.reader).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                count => return count.expect("a pipe"),
            }
            if start.get_or_insert_with(Instant::now).elapsed() > Duration::from_micros(50) {
                wait_ready(&[&self.reader.as_fd()], None).expect("a pipe");
            } else {
                thread::yield_now();
            }
        }
    }

    fn write(&self, bytes: &[u8]) {
        (&self.writer).write_all(bytes).expect("a pipe");
    }
}

/// A value there and back; the other end is a thread that answers with what it got.
fn bench_round_trip(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ipc round trip");
    let (ours, theirs) = procpool::pipe::<Small, Small>().expect("a pipe");
    thread::scope(|scope| {
        scope.spawn(move || {
            while let Ok(value) = theirs.recv() {
                theirs.send(&value).expect("the other end");
            }
        });
        group.bench_function("connection", |bencher| {
            bencher.iter(|| {
                ours.send(&[7; 4]).expect("the other end");
                ours.recv().expect("the other end")
            });
        });
        drop(ours);
    });
    let (there, back) = (BarePipe::new(), BarePipe::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; SMALL];
            while buffer[0] != 1 {
                there.read(&mut buffer);
                back.write(&buffer);
            }
        });
        group.bench_function("bare pipes", |bencher| {
            let mut buffer = [0; SMALL];
            bencher.iter(|| {
                there.write(&[7; SMALL]);
                back.read(&mut buffer);
            });
        });
        there.write(&[1; SMALL]);
    });
    group.finish();
}

/// Many small values, each sent and received by itself.
fn bench_one_way(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ipc one way");
    group.throughput(Throughput::Elements(VALUES));
    let (receiver, sender) = procpool::one_way::<Small>().expect("a pipe");
    group.bench_function("connection", |bencher| {
        bencher.iter(|| {
            thread::scope(|scope| {
                scope.spawn(|| (0..VALUES).try_for_each(|n| sender.send(&[n; 4])));
                for _ in 0..VALUES {
                    black_box(receiver.recv().expect("the other end"));
                }
            });
        });
    });
    let pipe = BarePipe::new();
    group.bench_function("bare pipe", |bencher| {
        bencher.iter(|| {
            thread::scope(|scope| {
                scope.spawn(|| (0..VALUES).for_each(|_| pipe.write(&[7; SMALL])));
                let mut buffer = [0; SMALL];
                for _ in 0..VALUES {
                    pipe.read(black_box(&mut buffer));
                }
            });
        });
    });
    group.finish();
}

/// Messages of 1 MiB, as values and as bytes; the bare pipe holds one of them whole.
fn bench_large(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ipc megabytes");
    group.throughput(Throughput::Bytes(MEGABYTES * LARGE as u64));
    let (receiver, sender) = procpool::one_way::<Vec<u8>>().expect("a pipe");
    let bytes = vec![7; LARGE];
    let mut buffer = vec![0; LARGE];
    group.bench_function(BenchmarkId::new("connection", "values"), |bencher| {
        bencher.iter(|| {
            thread::scope(|scope| {
                scope.spawn(|| (0..MEGABYTES).try_for_each(|_| sender.send(&bytes)));
                for _ in 0..MEGABYTES {
                    black_box(receiver.recv().expect("the other end"));
                }
            });
        });
    });
    group.bench_function(BenchmarkId::new("connection", "bytes"), |bencher| {
        bencher.iter(|| {
            thread::scope(|scope| {
                scope.spawn(|| (0..MEGABYTES).try_for_each(|_| sender.send_bytes(&bytes)));
                for _ in 0..MEGABYTES {
                    let received = receiver.recv_bytes_into(&mut buffer);
                    assert_eq!(received.expect("the other end"), LARGE);
                }
            });
        });
    });
    let pipe = BarePipe::of_a_megabyte();
    group.bench_function("bare pipe", |bencher| {
        bencher.iter(|| {
            thread::scope(|scope| {
                scope.spawn(|| (0..MEGABYTES).for_each(|_| pipe.write(&bytes)));
                (0..MEGABYTES).for_each(|_| pipe.read(black_box(&mut buffer)));
            });
        });
    });
    group.finish();
}

/// Small values through queues: one at a time, many at once, put and taken by one thread.
fn bench_queue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ipc queue");
    group.throughput(Throughput::Elements(VALUES));
    for (name, queue) in [
        ("unbounded", Queue::<Small>::unbounded()),
        ("bounded", Queue::bounded(1000)),
    ] {
        let queue = queue.expect("a queue");
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                thread::scope(|scope| {
                    scope.spawn(|| (0..VALUES).try_for_each(|n| queue.put(&[n; 4])));
                    for _ in 0..VALUES {
                        black_box(queue.get().expect("it is open"));
                    }
                });
            });
        });
    }
    let queue = Queue::<Small>::unbounded().expect("a queue");
    group.bench_function("hundreds", |bencher| {
        let values = [[7; 4]; 100];
        bencher.iter(|| {
            for _ in 0..VALUES / 100 {
                queue.put_many(&values).expect("it is open");
                black_box(queue.get_many(100).expect("it is open"));
            }
        });
    });
    group.bench_function("put and get", |bencher| {
        bencher.iter(|| {
            for n in 0..VALUES {
                queue.put(&[n; 4]).expect("it is open");
                black_box(queue.get().expect("it is open"));
            }
        });
    });
    group.finish();
}
