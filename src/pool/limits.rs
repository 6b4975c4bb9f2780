//! What workers may use of the machine.

use crate::sys::limits::{self, Limited};
use serde::{Deserialize, Serialize};
use std::{io, time::Duration};

/// Limits that the kernel enforces in each worker, from before its initializer on; see
/// [`ProcessPoolBuilder::limits`](crate::ProcessPoolBuilder::limits).
///
/// They hold for a worker's whole life and for the processes that it starts, not for one task. A
/// task that runs into one fails as the kernel has it: its worker is killed
/// ([`ErrorKind::WorkerDied`](crate::ErrorKind::WorkerDied), with the limit in the error where the
/// signal tells), or its call fails in the task (`Err`, or a panic).
///
/// ```
/// use procpool::{ErrorKind, ProcessPoolExecutor, ResourceLimits};
///
/// let limits = ResourceLimits::new().memory(1 << 30);
/// let pool = ProcessPoolExecutor::builder().workers(1).limits(limits).build()?;
/// let error = pool.apply(|bytes: usize| vec![1u8; bytes].len(), 4 << 30).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::WorkerDied);
/// assert!(error.to_string().contains("its memory is limited to 1073741824 bytes"));
/// # Ok::<(), procpool::Error>(())
/// ```
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "limits do nothing until a pool is built with them"]
pub struct ResourceLimits {
    memory: Option<u64>,
    cpu_time: Option<Duration>,
    open_files: Option<u64>,
    file_size: Option<u64>,
    processes: Option<u64>,
    nice: Option<i32>,
    core_dumps: bool,
}

impl ResourceLimits {
    /// No limits, but no core dumps either.
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of address space (`RLIMIT_AS`), which is more than what is resident: code, stacks and
    /// shared memory count, too, about 10 MiB of them in an idle worker. An allocation beyond it
    /// fails, which ends a Rust program with SIGABRT.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Time on a CPU, of all tasks of a worker together, rounded up to seconds (`RLIMIT_CPU`).
    /// SIGXCPU ends the worker then.
    pub fn cpu_time(mut self, limit: Duration) -> Self {
        self.cpu_time = Some(limit);
        self
    }

    /// Descriptors (`RLIMIT_NOFILE`); an idle worker has about eight.
    pub fn open_files(mut self, count: u64) -> Self {
        self.open_files = Some(count);
        self
    }

    /// Bytes of a file that is written to (`RLIMIT_FSIZE`). SIGXFSZ ends the worker then. Large
    /// results need shared memory, which counts as a file.
    pub fn file_size(mut self, bytes: u64) -> Self {
        self.file_size = Some(bytes);
        self
    }

    /// Processes and threads of the *user* (`RLIMIT_NPROC`), beyond which a worker cannot start
    /// more. It does not bind root.
    pub fn processes(mut self, count: u64) -> Self {
        self.processes = Some(count);
        self
    }

    /// How far workers yield to other processes, from -20 to 19; below 0 only with privileges.
    pub fn nice(mut self, nice: i32) -> Self {
        self.nice = Some(nice);
        self
    }

    /// Whether a worker that crashes may leave a core dump. Not by default: a pool whose tasks
    /// crash would fill the disk.
    pub fn core_dumps(mut self, on: bool) -> Self {
        self.core_dumps = on;
        self
    }

    /// Puts them on this process; says which one failed.
    pub(super) fn apply(&self) -> Result<(), (&'static str, io::Error)> {
        let seconds = self.cpu_time.map(|it| {
            it.as_secs()
                .saturating_add(u64::from(it.subsec_nanos() > 0))
        });
        let all = [
            ("memory", Limited::RLIMIT_AS, self.memory, 0),
            // At the hard limit the kernel would send SIGKILL, which does not tell why.
            (
                "CPU time",
                Limited::RLIMIT_CPU,
                seconds.map(|it| it.max(1)),
                1,
            ),
            ("open files", Limited::RLIMIT_NOFILE, self.open_files, 0),
            ("file size", Limited::RLIMIT_FSIZE, self.file_size, 0),
            ("processes", Limited::RLIMIT_NPROC, self.processes, 0),
            (
                "core dumps",
                Limited::RLIMIT_CORE,
                (!self.core_dumps).then_some(0),
                0,
            ),
        ];
        for (what, resource, limit, beyond) in all {
            if let Some(limit) = limit {
                limits::set(resource, limit, limit.saturating_add(beyond))
                    .map_err(|it| (what, it))?;
            }
        }
        self.nice
            .map_or(Ok(()), limits::set_niceness)
            .map_err(|it| ("niceness", it))
    }

    /// The limit that a worker which was ended by this signal has run into, in words, if one was
    /// set.
    pub(super) fn reason(&self, signal: i32) -> Option<String> {
        const SIGABRT: i32 = 6;
        const SIGXCPU: i32 = 24;
        const SIGXFSZ: i32 = 25;
        match signal {
            SIGABRT => self
                .memory
                .map(|it| format!("its memory is limited to {it} bytes")),
            SIGXCPU => self
                .cpu_time
                .map(|it| format!("its CPU time is limited to {it:?}")),
            SIGXFSZ => self
                .file_size
                .map(|it| format!("its files are limited to {it} bytes")),
            _ => None,
        }
    }
}
