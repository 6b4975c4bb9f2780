//! The hot path alone, without and with each setting of supervision, for tools that count what it costs: nothing, it should be.
//!
//! ```text
//! cargo bench --bench hot_path -- plain           # runs it once, and says how long it took; `list` names the settings
//! ```
//! The program that cargo names then is run below a counter: `strace -f -c PROGRAM timeout` for system calls, and
//! `valgrind --tool=callgrind --trace-children=yes PROGRAM timeout 10000 0` for instructions, of which a file is left for each
//! process. The numbers are submits, and items of a map. One worker, on the core of the pool: with more of them it is chance who
//! waits for whom, and how.

use std::env;
use std::error::Error;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use procpool::{ProcessPoolBuilder, ProcessPoolExecutor, ResourceLimits};

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

fn main() -> Result<()> {
    let arguments = env::args().skip(1).filter(|it| !it.starts_with('-'));
    let arguments: Vec<String> = arguments.collect();
    let number = |at: usize| arguments.get(at).map_or(Ok(100), |it| it.parse());
    let name = arguments.first().map_or("plain", String::as_str);
    if name == "list" {
        SETTINGS.iter().for_each(|it| println!("{}", it.0));
        return Ok(());
    }
    let setting = SETTINGS.iter().find(|it| it.0 == name);
    run(
        setting.ok_or("there is no such setting")?.1,
        number(1)?,
        number(2)?,
    )
}

fn run(setting: Setting, submits: u64, items: u64) -> Result<()> {
    let mut core = CpuSet::new();
    core.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &core)?;
    let pool = setting(ProcessPoolExecutor::builder().workers(1)).build()?;
    pool.apply(tiny, 0)?;
    let started = Instant::now();
    submit_all(&pool, submits)?;
    let submitted = started.elapsed();
    pool.map(tiny, 0..items)?;
    let mapped = started.elapsed() - submitted;
    println!("{submits} submits in {submitted:?}, {items} items in {mapped:?}");
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
