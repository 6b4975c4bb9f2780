//! The hot path alone, without and with each setting of supervision, for tools that count its cost.
//!
//! ```text
//! benches/count                            # user instructions per submit and per item of a map
//! cargo bench --bench hot_path -- plain    # runs once and prints the time; `list`: the settings
//! ```
//! The program that cargo names takes a setting, the number of submits, the number of items of a
//! map, and a start method (`fork-server`, `spawn`, `fork`): `strace -f -c PROGRAM timeout` counts
//! system calls, and `valgrind --tool=callgrind PROGRAM timeout 10000 0 fork` instructions, with a
//! file for each process. Valgrind needs the start method `fork`: it stays with a copy of the
//! program, but loses the fork server, which executes the program again through `/proc/self/exe`.
//! It needs version 3.24 or later, because older ones lack `pidfd_open`; `benches/count` fetches
//! one. The pool has one worker, on its own core, because with several workers it is chance which
//! of them waits.

use std::env;
use std::error::Error;
use std::process;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use procpool::{ProcessPoolBuilder, ProcessPoolExecutor, ResourceLimits, StartMethod};

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Never reached: what is counted is the watch, not what follows from it.
const LONG: Duration = Duration::from_secs(3600);
const MUCH: u64 = 1 << 40;

type Setting = fn(ProcessPoolBuilder) -> ProcessPoolBuilder;

const SETTINGS: [(&str, Setting); 8] = [
    ("plain", |it| it),
    ("timeout", |it| it.task_timeout(LONG)),
    ("retries", |it| it.retries(2)),
    ("limits", |it| {
        it.limits(ResourceLimits::new().cpu_time(LONG))
    }),
    ("max_tasks", |it| it.max_tasks_per_worker(MUCH)),
    ("max_memory", |it| it.max_memory_per_worker(MUCH)),
    ("idle_timeout", |it| it.idle_timeout(LONG)),
    ("all", |it| {
        SETTINGS[1..7].iter().fold(it, |it, (_, add)| add(it))
    }),
];

const METHODS: [(&str, StartMethod); 3] = [
    ("fork-server", StartMethod::ForkServer),
    ("spawn", StartMethod::Spawn),
    ("fork", StartMethod::Fork),
];

fn main() -> Result<()> {
    let arguments = env::args().skip(1).filter(|it| !it.starts_with('-'));
    let arguments: Vec<String> = arguments.collect();
    let argument = |at: usize, default| arguments.get(at).map_or(default, String::as_str);
    if argument(0, "plain") == "list" {
        SETTINGS.iter().for_each(|it| println!("{}", it.0));
        return Ok(());
    }
    let setting = named(&SETTINGS, argument(0, "plain"))?;
    let method = named(&METHODS, argument(3, "fork-server"))?;
    let builder = setting(ProcessPoolExecutor::builder().workers(1)).start_method(method);
    run(
        builder,
        argument(1, "100").parse()?,
        argument(2, "100").parse()?,
    )
}

fn named<T: Copy>(all: &[(&str, T)], name: &str) -> Result<T> {
    let found = all.iter().find(|it| it.0 == name);
    Ok(found.ok_or_else(|| format!("unknown argument {name}"))?.1)
}

fn run(builder: ProcessPoolBuilder, submits: u64, items: u64) -> Result<()> {
    let mut core = CpuSet::new();
    core.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &core)?;
    let pool = builder.build()?;
    let worker = pool.apply(|()| process::id(), ())?;
    let started = Instant::now();
    submit_all(&pool, submits)?;
    let submitted = started.elapsed();
    pool.map(tiny, 0..items)?;
    let mapped = started.elapsed() - submitted;
    println!("{submits} submits in {submitted:?}, {items} items in {mapped:?}");
    println!("processes: {} {worker}", process::id());
    println!("done: {}", pool.stats().done);
    Ok(pool.join()?)
}

fn submit_all(pool: &ProcessPoolExecutor, submits: u64) -> Result<()> {
    let futures: Vec<_> = (0..submits).map(|n| pool.submit(tiny, n)).collect();
    for future in futures {
        future.result()?;
    }
    Ok(())
}

fn tiny(n: u64) -> u64 {
    n.wrapping_mul(3) ^ 1
}
