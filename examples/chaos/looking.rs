//! Counts what a program holds: processes, memory, descriptors.

use std::time::{Duration, Instant};
use std::{fs, process, thread};

use procpool::ProcessPoolExecutor;

use crate::{LIMIT, Result, WORKERS};

/// Pause between two samples.
const PAUSE: Duration = Duration::from_millis(20);

pub(crate) const SERVER: &str = "procpool-server";

/// A descendant of this process.
pub(crate) struct Descendant {
    pub(crate) pid: u32,
    parent: u32,
    pub(crate) name: String,
}

/// Returns all descendants, zombies included.
pub(crate) fn descendants() -> Result<Vec<Descendant>> {
    let entries = fs::read_dir("/proc")?.flatten();
    let numbers = entries.filter_map(|it| it.file_name().to_str()?.parse().ok());
    let mut others: Vec<Descendant> = numbers.filter_map(describe).collect();
    let (mut found, mut parents) = (Vec::new(), vec![process::id()]);
    while let Some(parent) = parents.pop() {
        let children: Vec<_> = others.extract_if(.., |it| it.parent == parent).collect();
        parents.extend(children.iter().map(|it| it.pid));
        found.extend(children);
    }
    Ok(found)
}

/// Returns `None` if the process has ended.
fn describe(pid: u32) -> Option<Descendant> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, fields) = text.split_once(" (")?.1.rsplit_once(") ")?;
    let parent = fields.split_whitespace().nth(1)?.parse().ok()?;
    let name = name.to_owned();
    Some(Descendant { pid, parent, name })
}

/// The resources that a program could leak.
#[derive(Debug)]
pub(crate) struct Holdings {
    resident_kib: u64,
    threads: u64,
    descriptors: u64,
    memory_files: u64,
    processes: u64,
}

impl Holdings {
    /// Samples once every worker lives and all earlier workers are gone.
    pub(crate) fn when_whole(pool: &ProcessPoolExecutor) -> Result<Self> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let holdings = Self::now()?;
            let is_whole =
                pool.worker_pids().len() == WORKERS && holdings.processes == WORKERS as u64 + 1;
            if is_whole || Instant::now() > deadline {
                return Ok(holdings);
            }
            thread::sleep(PAUSE);
        }
    }

    fn now() -> Result<Self> {
        let descriptors: Vec<_> = fs::read_dir("/proc/self/fd")?.flatten().collect();
        let targets = descriptors
            .iter()
            .filter_map(|it| fs::read_link(it.path()).ok());
        Ok(Self {
            resident_kib: status("VmRSS:")?,
            threads: status("Threads:")?,
            descriptors: descriptors.len() as u64,
            memory_files: targets
                .filter(|it| it.to_string_lossy().starts_with("/memfd:"))
                .count() as u64,
            processes: descendants()?.len() as u64,
        })
    }

    /// Compares two samples, except free memory that is kept for the next large value: its amount
    /// varies.
    pub(crate) fn are_flat(&self, before: &Self) -> bool {
        let slabs = 8;
        self.resident_kib <= before.resident_kib + before.resident_kib / 10 + 4096
            && self.descriptors <= before.descriptors + slabs
            && self.memory_files <= before.memory_files + slabs
            && (self.threads, self.processes) == (before.threads, before.processes)
    }
}

/// Reads a number from /proc/self.
fn status(field: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let value = text.lines().find_map(|it| it.strip_prefix(field));
    let number = value.and_then(|it| it.split_whitespace().next());
    Ok(number.ok_or("no such field")?.parse()?)
}
