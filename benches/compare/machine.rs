//! What the system says about processes: cores, descriptors, memory and CPU time.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::Result;

/// Keeps the calling thread on one core until it is dropped.
#[derive(Debug)]
pub(crate) struct Pinned {
    before: CpuSet,
}

impl Pinned {
    pub(crate) fn to(core: usize) -> Result<Self> {
        let before = sched_getaffinity(CALLING_THREAD)?;
        let mut only = CpuSet::new();
        only.set(core)?;
        sched_setaffinity(CALLING_THREAD, &only)?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        sched_setaffinity(CALLING_THREAD, &self.before).expect("it was allowed before");
    }
}

const CALLING_THREAD: Pid = Pid::from_raw(0);

/// Two different cores that this process may use.
pub(crate) fn two_cores() -> Result<(usize, usize)> {
    let allowed = sched_getaffinity(CALLING_THREAD)?;
    let mut cores = (0..CpuSet::count()).filter(|it| allowed.is_set(*it) == Ok(true));
    cores
        .next()
        .zip(cores.next())
        .ok_or_else(|| "this row needs two cores".into())
}

/// Waits until the process of `pidfd` has ended.
pub(crate) fn wait_for_end(pidfd: &OwnedFd) -> Result<()> {
    poll(
        &mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)],
        PollTimeout::NONE,
    )?;
    Ok(())
}

#[expect(unsafe_code, reason = "neither std nor nix wraps pidfd_open")]
pub(crate) fn open_pidfd(pid: u32) -> Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error().into());
    }
    // SAFETY: the kernel just opened it for us, and no other object owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd.try_into()?) })
}

/// Makes a named pipe: it lets a task and this process wait for each other.
pub(crate) fn named_pipe(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    Ok(path)
}

pub(crate) fn open_descriptors() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

/// Bytes of a field of `/proc/<pid>/smaps_rollup`, such as `Pss`.
pub(crate) fn memory(pid: u32, field: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let value = text
        .lines()
        .find_map(|it| it.strip_prefix(field)?.strip_prefix(':'));
    let kib = value.and_then(|it| it.trim().strip_suffix(" kB"));
    Ok(kib
        .ok_or("no such field in smaps_rollup")?
        .trim()
        .parse::<u64>()?
        * 1024)
}

/// CPU use of threads since they began.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct CpuUse {
    /// 10 ms each, as `utime + stime` count them.
    pub(crate) ticks: u64,
    pub(crate) nanoseconds: u64,
    /// How often a core was given to the thread.
    pub(crate) turns: u64,
}

impl CpuUse {
    pub(crate) fn plus(self, later: Self, before: Self) -> Self {
        Self {
            ticks: self.ticks + later.ticks - before.ticks,
            nanoseconds: self.nanoseconds + later.nanoseconds - before.nanoseconds,
            turns: self.turns + later.turns - before.turns,
        }
    }
}

/// CPU use by thread id: of all threads below this process, and of its own but the main one, which
/// measures.
pub(crate) fn cpu_use() -> Result<HashMap<u32, CpuUse>> {
    let own = std::process::id();
    let mut threads = HashMap::new();
    for pid in descendants(own)?.into_iter().chain([own]) {
        // A process or thread that ends while we read is no longer of interest.
        let Ok(tasks) = numbers(Path::new(&format!("/proc/{pid}/task"))) else {
            continue;
        };
        for thread in tasks.into_iter().filter(|it| *it != own) {
            if let Ok(used) = thread_cpu_use(pid, thread) {
                threads.insert(thread, used);
            }
        }
    }
    Ok(threads)
}

fn thread_cpu_use(pid: u32, thread: u32) -> Result<CpuUse> {
    let folder = format!("/proc/{pid}/task/{thread}");
    // utime and stime: the 14th and 15th field of the line, the name being the 2nd.
    let ticks = stat_fields(&folder)?[11..13].iter().sum();
    let text = fs::read_to_string(folder + "/schedstat")?;
    let fields = text
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<Vec<u64>, _>>()?;
    Ok(CpuUse {
        ticks,
        nanoseconds: fields[0],
        turns: fields[2],
    })
}

/// Children, their children and so on.
pub(crate) fn descendants(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for pid in numbers(Path::new("/proc"))? {
        if let Ok(fields) = stat_fields(&format!("/proc/{pid}")) {
            parents.push((pid, fields[1]));
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        let children = parents.iter().filter(|(_, it)| *it == u64::from(parent));
        found.extend(children.map(|(pid, _)| *pid));
        next += 1;
    }
    Ok(found.split_off(1))
}

/// Returns the fields after the name, which may itself hold blanks and brackets. A field that is
/// not a plain number is 0.
fn stat_fields(folder: &str) -> Result<Vec<u64>> {
    let text = fs::read_to_string(format!("{folder}/stat"))?;
    let (_, fields) = text.rsplit_once(')').ok_or("no name in stat")?;
    Ok(fields
        .split_whitespace()
        .map(|it| it.parse().unwrap_or(0))
        .collect())
}

/// The entries of a folder that are numbers, as processes and threads are.
fn numbers(folder: &Path) -> Result<Vec<u32>> {
    let entries = fs::read_dir(folder)?;
    Ok(entries
        .filter_map(|it| it.ok()?.file_name().to_str()?.parse().ok())
        .collect())
}
