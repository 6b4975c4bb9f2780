//! What a future costs while nothing has come of it: descriptors and memory.

use std::path::PathBuf;

use procpool::{ProcessPoolExecutor, TaskFuture};
use tempfile::TempDir;

use crate::Result;
use crate::child::{OUTSTANDING, output};
use crate::heap::live_bytes_added;
use crate::machine::{memory, named_pipe, open_descriptors};
use crate::plan::Plan;
use crate::report::{Bar, Report, Row, Unit};
use crate::samples::Samples;
use crate::work::{WORKERS, hold, pool, tiny};

pub(crate) const NAMES: [&str; 3] = [
    "100k futures: descriptors added",
    "100k futures: heap a task",
    "100k futures: resident a task",
];

/// Bytes of a task's argument, a `u64`, which the bar leaves out.
const PAYLOAD: f64 = 8.0;
/// For all 100 000 together: a shared slab or two may come, one per task may not.
const DESCRIPTORS: f64 = 8.0;

/// In a helper process: memory that earlier rows left behind would hide what is needed.
pub(crate) fn run(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let text = output(OUTSTANDING, plan.size(100_000, 1000))?;
    let mut values = text.split_whitespace().map(str::parse);
    let rows = [
        (Unit::Count, Bar::AtMost(DESCRIPTORS)),
        (Unit::Bytes, Bar::AtMost(300.0)),
        (Unit::Bytes, Bar::None),
    ];
    for (name, (unit, bar)) in NAMES.into_iter().zip(rows) {
        let value: f64 = values.next().ok_or("three figures were expected")??;
        let ours = &Samples::from(value);
        report.row(&Row {
            name,
            unit,
            ours,
            theirs: None,
            bar,
        });
    }
    Ok(())
}

/// Prints descriptors in all, then heap and resident bytes a task beyond its payload.
pub(crate) fn print_costs(count: usize) -> Result<()> {
    let pool = pool()?;
    let held = Held::all_workers(&pool)?;
    let mut futures: Vec<TaskFuture<u64>> = Vec::with_capacity(count);
    let tasks = (0..count as u64).map(|n| pool.submit(tiny, n));
    let (descriptors, resident) = (open_descriptors()?, own_memory()?);
    let (heap, ()) = live_bytes_added(|| futures.extend(tasks));
    let descriptors = open_descriptors()? as f64 - descriptors as f64;
    let resident = (own_memory()? - resident) / count as f64 - PAYLOAD;
    // The vector was allocated before the count, so the handles in it come on top.
    let handle = size_of::<TaskFuture<u64>>() as f64;
    let heap = heap as f64 / count as f64 + handle - PAYLOAD;
    held.release()?;
    check(futures)?;
    println!("{descriptors} {heap} {resident}");
    Ok(())
}

fn check(futures: Vec<TaskFuture<u64>>) -> Result<()> {
    for (n, future) in (0..).zip(futures) {
        if future.result()? != tiny(n) {
            return Err("a wrong result".into());
        }
    }
    Ok(())
}

fn own_memory() -> Result<f64> {
    Ok(memory(std::process::id(), "Rss")? as f64)
}

/// Workers that are held until they are released, so that nothing submitted meanwhile can start.
struct Held {
    tasks: Vec<(TaskFuture<()>, PathBuf)>,
    _folder: TempDir,
}

impl Held {
    fn all_workers(pool: &ProcessPoolExecutor) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut tasks = Vec::new();
        for n in 0..WORKERS {
            let started = named_pipe(folder.path(), &format!("started {n}"))?;
            let release = named_pipe(folder.path(), &format!("release {n}"))?;
            tasks.push((
                pool.submit(hold, (started.clone(), release.clone())),
                release,
            ));
            std::fs::read(started)?;
        }
        Ok(Self {
            tasks,
            _folder: folder,
        })
    }

    fn release(self) -> Result<()> {
        for (task, release) in self.tasks {
            std::fs::write(release, "go on")?;
            task.result()?;
        }
        Ok(())
    }
}
