//! The resource limits of workers.

use crate::sys::limits::{self, Limited};
use serde::{Deserialize, Serialize};
use std::{io, time::Duration};

/// Limits that the kernel enforces in each worker, starting before its initializer; see
/// [`ProcessPoolBuilder::limits`](crate::ProcessPoolBuilder::limits).
///
/// The limits apply to a worker's whole life and to the processes that it starts, not to one task.
/// The kernel decides how a task that reaches a limit fails. Either it kills the worker
/// ([`ErrorKind::WorkerDied`](crate::ErrorKind::WorkerDied), with the limit in the error if the
/// signal identifies it), or a call in the task fails (`Err`, or a panic).
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
    /// Creates a set without limits, but with core dumps disabled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the address space to `bytes` (`RLIMIT_AS`). This includes code, stacks and shared
    /// memory, about 10 MiB in an idle worker, so it is more than the resident memory. An
    /// allocation beyond the limit fails, which aborts a Rust program with SIGABRT.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// Limits the CPU time of all tasks of a worker together, rounded up to seconds (`RLIMIT_CPU`).
    /// The kernel then sends SIGXCPU, which ends the worker.
    pub fn cpu_time(mut self, limit: Duration) -> Self {
        self.cpu_time = Some(limit);
        self
    }

    /// Limits the number of file descriptors (`RLIMIT_NOFILE`). An idle worker has about eight.
    pub fn open_files(mut self, count: u64) -> Self {
        self.open_files = Some(count);
        self
    }

    /// Limits the size of written files to `bytes` (`RLIMIT_FSIZE`). The kernel then sends SIGXFSZ,
    /// which ends the worker. Large results use shared memory, which counts as a file.
    pub fn file_size(mut self, bytes: u64) -> Self {
        self.file_size = Some(bytes);
        self
    }

    /// Limits the number of processes and threads of the *user* (`RLIMIT_NPROC`): beyond it a
    /// worker cannot start more. It does not apply to root.
    pub fn processes(mut self, count: u64) -> Self {
        self.processes = Some(count);
        self
    }

    /// Sets the niceness of the workers, from -20 to 19. Values below 0 need privileges.
    pub fn nice(mut self, nice: i32) -> Self {
        self.nice = Some(nice);
        self
    }

    /// Sets whether a worker that crashes may leave a core dump. False by default, because a pool
    /// with crashing tasks would fill the disk.
    pub fn core_dumps(mut self, on: bool) -> Self {
        self.core_dumps = on;
        self
    }

    /// Applies the limits to this process. Fails with the name of the limit that could not be set.
    pub(super) fn apply(&self) -> Result<(), (&'static str, io::Error)> {
        let seconds = self.cpu_time.map(|limit| {
            let partial = u64::from(limit.subsec_nanos() > 0);
            limit.as_secs().saturating_add(partial)
        });
        let all = [
            ("memory", Limited::RLIMIT_AS, self.memory, 0),
            // At the hard limit the kernel sends SIGKILL, which does not identify the limit.
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
                    .map_err(|error| (what, error))?;
            }
        }
        self.nice
            .map_or(Ok(()), limits::set_niceness)
            .map_err(|error| ("niceness", error))
    }

    /// Returns a description of the limit that a worker reached if it was ended by `signal`. `None`
    /// if that limit is not set.
    pub(super) fn reason(&self, signal: i32) -> Option<String> {
        const SIGABRT: i32 = 6;
        const SIGXCPU: i32 = 24;
        const SIGXFSZ: i32 = 25;
        match signal {
            SIGABRT => self
                .memory
                .map(|bytes| format!("its memory is limited to {bytes} bytes")),
            SIGXCPU => self
                .cpu_time
                .map(|time| format!("its CPU time is limited to {time:?}")),
            SIGXFSZ => self
                .file_size
                .map(|bytes| format!("its files are limited to {bytes} bytes")),
            _ => None,
        }
    }
}
