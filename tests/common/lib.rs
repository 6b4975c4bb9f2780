//! Helpers that the integration tests share: deadlines, a gate that orders events across processes,
//! and a few tasks.
//!
//! Create a [`Gate`] after its pool: it is dropped before the pool and opens, so that a failing
//! test does not hang when it drops the pool.

pub mod methods;
pub mod processes;
pub mod random;

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{SigSet, Signal},
    sys::stat::Mode,
    unistd::mkfifo,
};
use processes::eventually;
use procpool::{ProcessPoolExecutor, TaskFuture, Wire};
use std::{
    any::type_name,
    env,
    fs::File,
    io::{Read, Write},
    os::fd::AsFd,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// No test takes longer than a few seconds, even on a busy machine.
///
/// For slow machines (tests/aarch64), `PROCPOOL_TEST_DEADLINE` sets another number of seconds when
/// the tests are compiled.
pub const DEADLINE: Duration = Duration::from_secs(match option_env!("PROCPOOL_TEST_DEADLINE") {
    Some(seconds) => match u64::from_str_radix(seconds, 10) {
        Ok(seconds) => seconds,
        Err(_) => panic!("a number of seconds"),
    },
    None => 60,
});

/// Time that a test waits for an event that must not happen.
pub const A_MOMENT: Duration = Duration::from_millis(100);

/// Names the test that a copy of the test program started by [`alone`] runs.
const ALONE: &str = "PROCPOOL_TEST_ALONE";

/// Runs a test on a thread of its own. Panics with its name if it has not ended at the deadline.
pub fn in_time<T, F>(test: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let name = name_of::<F>();
    let (ended, end) = mpsc::channel();
    let thread = thread::spawn(move || {
        let outcome = test();
        // It is gone only after the deadline.
        let _ = ended.send(());
        outcome
    });
    if let Err(RecvTimeoutError::Timeout) = end.recv_timeout(DEADLINE) {
        panic!("`{name}` has not ended within {DEADLINE:?}");
    }
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Like [`in_time`], but in a copy of the test program that runs nothing else. A shell runs `setup`
/// and starts the copy.
///
/// For tests of a whole process: its limits, its descriptors, its end.
pub fn alone<F>(setup: &str, test: F)
where
    F: FnOnce() + Send + 'static,
{
    let name = name_of::<F>();
    if env::var_os(ALONE).is_some_and(|it| it == name) {
        return in_time(test);
    }
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(format!("{setup}\nexec \"$0\" \"$@\""))
        .arg(env::current_exe().expect("the path of this test"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(ALONE, name)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("a shell");
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child of this process") {
            break status;
        }
        if started.elapsed() > DEADLINE {
            // It fails only for a process that has ended.
            let _ = child.kill();
        }
        thread::sleep(Duration::from_millis(2));
    };
    assert!(status.success(), "`{name}`, run alone, ended with {status}");
}

/// Returns the path of a test function, such as `maps::a_claim`, from its closure's type.
fn name_of<F>() -> &'static str {
    let path = type_name::<F>().trim_end_matches("::{{closure}}");
    path.split_once("::").map_or(path, |it| it.1)
}

/// Repeats `round`, which fails only if events meet, for [`race_budget`].
pub fn race(mut round: impl FnMut()) {
    let end = Instant::now() + race_budget();
    while Instant::now() < end {
        round();
    }
}

/// Repeats `round` like [`race`], and goes on until it has returned true once: until the events
/// that it is about have met.
pub fn race_until(what: &str, mut round: impl FnMut() -> bool) {
    let end = Instant::now() + race_budget();
    let deadline = Instant::now() + DEADLINE / 2;
    let mut met = false;
    while Instant::now() < end || !met {
        assert!(Instant::now() < deadline, "in no round {what}");
        met |= round();
    }
}

/// Returns how long a race test repeats its rounds: `PROCPOOL_RACE_MILLIS`, 100 by default.
pub fn race_budget() -> Duration {
    let millis = env::var("PROCPOOL_RACE_MILLIS").ok();
    let millis = millis.map(|text| text.parse().expect("a number of milliseconds"));
    Duration::from_millis(millis.unwrap_or(100))
}

/// Builds a pool with n workers.
pub fn pool_of(workers: usize) -> ProcessPoolExecutor {
    let pool = ProcessPoolExecutor::builder().workers(workers).build();
    pool.expect("a pool")
}

/// Returns the error of a call that must have failed.
#[track_caller]
pub fn failure<T, E>(outcome: Result<T, E>) -> E {
    match outcome {
        Ok(_) => panic!("it did not fail"),
        Err(error) => error,
    }
}

/// Holds tasks until the test lets them go on.
///
/// Two named pipes: at `arrivals` each task writes a byte, at `entrance` it reads one.
#[derive(Debug)]
pub struct Gate {
    // Dropped in this order: a task that finds the directory finds the ends open, too.
    directory: TempDir,
    arrivals: File,
    entrance: File,
}

impl Gate {
    /// Creates a gate that is shut.
    #[expect(clippy::new_without_default, reason = "it makes files")]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let pipe = |name: &str| {
            let path = directory.path().join(name);
            mkfifo(&path, Mode::S_IRWXU).expect("a named pipe");
            // Both ends, so that opening the other one never waits.
            let file = File::options().read(true).write(true).open(path);
            file.expect("both ends of a named pipe")
        };
        Self {
            arrivals: pipe("arrivals"),
            entrance: pipe("entrance"),
            directory,
        }
    }

    /// Returns the path by which a task finds the gate.
    pub fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Waits until `count` more tasks have arrived.
    pub fn wait_for(&self, count: usize) {
        let deadline = Instant::now() + DEADLINE;
        for number in 0..count {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                self.arrives_within(left),
                "{number} of {count} tasks arrived at the gate"
            );
        }
    }

    /// Returns how many tasks have arrived since the last wait.
    pub fn arrived(&self) -> usize {
        std::iter::from_fn(|| self.arrives_within(Duration::ZERO).then_some(())).count()
    }

    /// Lets `count` tasks go on, waiting ones or later ones.
    pub fn let_in(&self, count: usize) {
        let mut entrance = &self.entrance;
        entrance.write_all(&vec![0; count]).expect("room in a pipe");
    }

    /// Lets every task go on.
    pub fn open(&self) {
        self.let_in(4096);
    }

    fn arrives_within(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(self.arrivals.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(limit).expect("a minute");
        let ready = loop {
            match poll(&mut fds, limit) {
                Err(Errno::EINTR) => {}
                ready => break ready.expect("a pipe can be polled"),
            }
        };
        ready == 1 && (&self.arrivals).read_exact(&mut [0]).is_ok()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// A task: arrives at the gate, then waits until it may go on.
pub fn pass(gate: PathBuf) {
    arrive(&gate);
    // A gate that is gone is open.
    if let Ok(mut entrance) = File::open(gate.join("entrance")) {
        let _ = entrance.read(&mut [0]);
    }
}

/// A part of a task: arrives at the gate, and goes on.
pub fn arrive(gate: &Path) {
    if let Ok(mut arrivals) = File::options().write(true).open(gate.join("arrivals")) {
        // Fails only if the test is gone.
        let _ = arrivals.write_all(&[0]);
    }
}

/// A task.
pub fn square(x: u64) -> u64 {
    x * x
}

/// A task: returns the id of its process.
pub fn process_id((): ()) -> u32 {
    std::process::id()
}

/// A task: waits until its process is killed.
pub fn park_forever((): ()) {
    loop {
        thread::park();
    }
}

/// Blocks SIGTERM in this thread.
pub fn block_sigterm() {
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGTERM);
    blocked
        .thread_block()
        .expect("a signal that can be blocked");
}

/// Waits until a worker runs the task.
pub fn wait_until_running<R: Wire>(future: &TaskFuture<R>) {
    eventually("the task runs", || {
        assert!(!future.is_done(), "the task has ended by itself");
        future.is_running()
    });
}

/// Returns bytes that differ from place to place and from seed to seed.
pub fn pattern(length: usize, seed: usize) -> Vec<u8> {
    /// Bytes; the pattern repeats after them.
    const PERIOD: usize = 1 << 16;
    let byte = |at: usize| (at.wrapping_mul(31) ^ (at >> 8) ^ seed.wrapping_mul(7)) as u8;
    let block: Vec<u8> = (0..length.min(PERIOD)).map(byte).collect();
    let mut bytes = block.repeat(length.div_ceil(PERIOD));
    bytes.truncate(length);
    bytes
}
