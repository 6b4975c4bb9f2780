//! What it costs to start a process: each start method to its result, and this program executed
//! by posix_spawn.

use std::process::{Command, Stdio};
use std::time::Duration;

use criterion::Criterion;
use procpool::{Process, StartMethod};

/// The argument with which this program ends at once.
const END: &str = "--end-at-once";

fn main() {
    if std::env::args().any(|it| it == END) {
        return;
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    bench_start(&mut criterion);
    criterion.final_summary();
}

fn square(x: u64) -> u64 {
    x * x
}

fn bench_start(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("start");
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        group.bench_function(format!("{method:?}, to its result"), |bencher| {
            bencher.iter(|| {
                let process = Process::builder(square, 7).start_method(method).start();
                process.and_then(Process::result).expect("a result")
            });
        });
    }
    group.bench_function("posix_spawn of this program, to its end", |bencher| {
        bencher.iter(execute);
    });
    group.finish();
}

fn execute() {
    let mut command = Command::new("/proc/self/exe");
    let command = command.arg(END).stdin(Stdio::null());
    assert!(command.status().expect("this program").success());
}
