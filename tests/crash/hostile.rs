//! Tasks that write garbage to what their worker shares with the program: the page, pipes and
//! sockets.
//!
//! Such a worker may fail its own tasks. The program goes on, its figures can be read, and other
//! workers' tasks are right.

#![expect(
    unsafe_code,
    reason = "a task that writes to memory and descriptors that are not its own"
)]

use common::processes::{Process, Program, by_its_method};
use common::random::Random;
use common::{DEADLINE, Gate, arrive, in_time, pass, race, race_budget, square};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use procpool::{Error, ErrorKind, ProcessPoolExecutor, StartMethod};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::Write,
    ops::Range,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    path::PathBuf,
    process, thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Bytes of the shared region before the ring of replies.
const HEADER: usize = 8192;

/// Bytes of the ring.
const RING_BYTES: usize = 128 << 10;

/// Offsets in the shared region: `src/pool/protocol/region.rs`.
const START_WORD: usize = 0;
const TAIL: usize = 64;
const HEAD: usize = 128;
const WAKE_MODE: usize = 192;
const STARTED_AT: usize = 392;
const PANIC_ITEM: usize = 512;
const PANIC_SINCE: usize = 520;

/// What a task does to its worker's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Scribble {
    /// Fills the words and histograms with ones.
    Ones,
    Zeros,
    /// Random words before the ring.
    Words,
    /// Random words everywhere.
    Everything,
    /// A random place for the next record.
    Tail,
    /// A random place for what the pool has read.
    Head,
    /// The worker is not to wake the pool.
    WakeMode,
    /// One item less has started.
    StartedLess,
    /// More items have started than there are.
    StartedMore,
    /// Changes single words back and forth for a while.
    BackAndForth,
    /// Random bytes to every descriptor.
    Descriptors,
    /// Bytes to the wake-up pipe that look like an exit record, then wake-ups without end.
    Flood,
    /// Ones in one page.
    Page,
    /// Replies that it may not write.
    Records,
    /// Takes the first bytes that each descriptor holds.
    HalfFrames,
    /// Takes all bytes that each descriptor holds.
    Frames,
    /// Closes every descriptor.
    Close,
    /// Puts each descriptor in the place of another.
    Swap,
}

const ALL: [Scribble; 18] = [
    Scribble::Ones,
    Scribble::Zeros,
    Scribble::Words,
    Scribble::Everything,
    Scribble::Tail,
    Scribble::Head,
    Scribble::WakeMode,
    Scribble::StartedLess,
    Scribble::StartedMore,
    Scribble::BackAndForth,
    Scribble::Descriptors,
    Scribble::Flood,
    Scribble::Page,
    Scribble::Records,
    Scribble::HalfFrames,
    Scribble::Frames,
    Scribble::Close,
    Scribble::Swap,
];

/// How the task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum End {
    Returns,
    Aborts,
}

/// The mappings of shared memory that the crate has made in this process.
fn shared_mappings() -> Vec<Range<usize>> {
    let maps = fs::read_to_string("/proc/self/maps").expect("the list of mappings");
    let shared = maps
        .lines()
        .filter(|it| it.contains("rw-s") && it.contains("memfd:procpool"));
    let range = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let address = |it| usize::from_str_radix(it, 16).ok();
        Some(address(start)?..address(end)?)
    };
    shared.filter_map(range).collect()
}

fn write(at: usize, value: u64) {
    let place = std::ptr::with_exposed_provenance_mut::<u64>(at);
    // SAFETY: it is in a mapping of this process, and is aligned; that others use it is what is
    // tried.
    unsafe { place.write_volatile(value) };
}

fn read(at: usize) -> u64 {
    let place = std::ptr::with_exposed_provenance::<u64>(at);
    // SAFETY: as above.
    unsafe { place.read_volatile() }
}

fn fill(range: Range<usize>, mut word: impl FnMut() -> u64) {
    range.step_by(8).for_each(|at| write(at, word()));
}

/// The descriptors of this process above standard error.
fn descriptors() -> Vec<RawFd> {
    let list = fs::read_dir("/proc/self/fd").expect("the list of descriptors");
    let numbers = list.filter_map(|it| it.ok()?.file_name().to_str()?.parse().ok());
    let numbers: Vec<RawFd> = numbers.filter(|it| *it > 2).collect();
    // The list's own is closed by now.
    let is_open = |it: &RawFd| fs::read_link(format!("/proc/self/fd/{it}")).is_ok();
    numbers.into_iter().filter(is_open).collect()
}

/// Takes at most `most` of the bytes that can be read without waiting.
fn read_from(fd: RawFd, most: usize) {
    // SAFETY: it is only used for these calls, which fail if it is closed.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let mut watched = [PollFd::new(fd, PollFlags::POLLIN)];
    if poll(&mut watched, PollTimeout::ZERO) == Ok(1) {
        // Refused by what is not open for reading.
        let _ = nix::unistd::read(fd, &mut vec![0; most]);
    }
}

/// Puts each descriptor in the place of another.
fn swap(fds: &[RawFd], numbers: &mut Random) {
    for to in fds {
        let from = fds[numbers.next_u64() as usize % fds.len()];
        // SAFETY: that the crate's own descriptors become others is what is tried; memory is not
        // touched.
        unsafe { nix::libc::dup2(from, *to) };
    }
}

/// Writes what can be written without waiting.
fn write_to(fd: RawFd, bytes: &[u8]) {
    // SAFETY: it is only used for this one call, which fails if it is closed.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT;
    let sent = nix::sys::socket::send(fd.as_raw_fd(), bytes, flags);
    if sent == Err(nix::errno::Errno::ENOTSOCK) {
        // Refused by what is not open for writing.
        let _ = nix::unistd::write(fd, bytes);
    }
}

impl Scribble {
    /// Does to one mapping what is to be done to memory.
    fn apply(self, page: Range<usize>, numbers: &mut Random) {
        let header = page.start..page.start + HEADER.min(page.len());
        match self {
            Self::Ones => fill(header, || u64::MAX),
            Self::Zeros => fill(header, || 0),
            Self::Words => fill(header, || numbers.next_u64()),
            Self::Everything => fill(page, || numbers.next_u64()),
            Self::Tail => write(page.start + TAIL, numbers.next_u64() % (1 << 20)),
            Self::Head => write(page.start + HEAD, numbers.next_u64() % (1 << 20)),
            Self::WakeMode => write(page.start + WAKE_MODE, 0),
            Self::StartedLess => {
                let word = read(page.start + START_WORD);
                write(page.start + START_WORD, word.wrapping_sub(1));
            }
            Self::StartedMore => {
                let word = read(page.start + START_WORD);
                write(
                    page.start + START_WORD,
                    word.wrapping_add(numbers.next_u64() % 7 + 1),
                );
            }
            Self::BackAndForth => Self::flip(&header, numbers),
            Self::Page => {
                let at = page.start + numbers.next_u64() as usize % (page.len() / 4096) * 4096;
                fill(at..at + 4096, || u64::MAX);
            }
            Self::Records => Self::forge(&page, numbers),
            _ => {}
        }
    }

    /// Does to descriptors what is to be done to them.
    fn misuse(self, fds: &[RawFd], numbers: &mut Random) {
        match self {
            Self::Descriptors => {
                let bytes: Vec<u8> = (0..64).map(|_| numbers.next_u64() as u8).collect();
                fds.iter().for_each(|it| write_to(*it, &bytes));
            }
            Self::Flood => {
                let record = [1, 9, 0, 0, 0];
                fds.iter().for_each(|it| write_to(*it, &record));
                let end = Instant::now() + Duration::from_millis(5);
                while Instant::now() < end {
                    fds.iter().for_each(|it| write_to(*it, &[0; 256]));
                }
            }
            Self::HalfFrames => fds.iter().for_each(|it| read_from(*it, 7)),
            Self::Frames => fds.iter().for_each(|it| read_from(*it, 1 << 16)),
            Self::Close => fds.iter().for_each(|it| {
                // Refused for those that are closed by now.
                let _ = nix::unistd::close(*it);
            }),
            Self::Swap => swap(fds, numbers),
            _ => {}
        }
    }

    /// Appends a record with a head that looks right.
    fn forge(page: &Range<usize>, numbers: &mut Random) {
        let tail = read(page.start + TAIL);
        let (item, tag, words) = (
            numbers.next_u64() % 4,
            numbers.next_u64() % 9,
            numbers.next_u64() % 3,
        );
        let at = |word: u64| page.start + HEADER + (tail + word * 8) as usize % RING_BYTES;
        if tail.is_multiple_of(8) && page.len() >= HEADER + RING_BYTES {
            write(at(0), item | (words * 8) << 32 | tag << 60);
            (0..words).for_each(|it| write(at(1 + it), numbers.next_u64()));
            write(page.start + TAIL, tail + 8 + words * 8);
        }
    }

    fn flip(header: &Range<usize>, numbers: &mut Random) {
        let end = Instant::now() + Duration::from_millis(5);
        while Instant::now() < end {
            let at = header.start + numbers.next_u64() as usize % 64 * 8;
            let before = read(at);
            write(at, numbers.next_u64());
            write(at, before);
        }
    }
}

/// A task.
fn scribble((what, end, seed): (Scribble, End, u64)) -> u64 {
    scribble_beside((what, end, seed), Beside::default())
}

/// What a task is not to touch, and what it touches besides.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Beside {
    /// Descriptors that its worker does not share with its pool alone.
    spared: Vec<RawFd>,
    /// In shared memory, if it is large.
    argument: String,
    /// Where a byte is added for each run.
    runs: Option<PathBuf>,
}

impl Beside {
    fn of(hostile: &Hostile, number: u64, bytes: usize) -> Self {
        Self {
            spared: hostile.spared.clone(),
            argument: (number % 10).to_string().repeat(bytes),
            runs: Some(hostile.runs.path().join(number.to_string())),
        }
    }

    /// Notes that a task runs.
    fn note(&self) {
        if let Some(runs) = &self.runs {
            let file = fs::File::options().create(true).append(true).open(runs);
            file.expect("a file").write_all(&[0]).expect("room");
        }
    }
}

fn scribble_beside((what, end, seed): (Scribble, End, u64), beside: Beside) -> u64 {
    beside.note();
    let mut numbers = Random::seeded(seed);
    for mapping in shared_mappings() {
        what.apply(mapping, &mut numbers);
    }
    let mut fds = descriptors();
    fds.retain(|it| !beside.spared.contains(it));
    what.misuse(&fds, &mut numbers);
    match end {
        End::Returns => seed,
        End::Aborts => process::abort(),
    }
}

/// A task that does no harm: gives back what it was given.
fn echo(beside: Beside) -> String {
    beside.note();
    beside.argument
}

fn pool(method: StartMethod) -> ProcessPoolExecutor {
    let builder = ProcessPoolExecutor::builder()
        .workers(2)
        .start_method(method);
    builder.build().expect("a pool")
}

/// Rounds of one kind and end, in one pool: one for each 100 ms of the budget of a race, at least 3
/// and at most 200.
fn rounds() -> u64 {
    let rounds = race_budget().as_millis() / 100;
    (rounds as u64).clamp(3, 200)
}

const LIMIT: Duration = Duration::from_secs(1);

/// Bytes of an argument and a result that travel in shared memory.
const LARGE: usize = 100_000;

/// Whether this is the end of the worker, or of the limit, rather than of the patience of
/// `result_timeout`.
fn is_told(error: &Error) -> bool {
    let is_limit = error.to_string().contains("its limit");
    // What a task does to its own descriptors and memory may be all that becomes of a large value
    // of its worker's.
    let is_lost = matches!(error.kind(), ErrorKind::Codec | ErrorKind::Io);
    error.kind() == ErrorKind::WorkerDied
        || error.kind() == ErrorKind::TimedOut && is_limit
        || is_lost
}

/// A pool with tasks that scribble, and another whose tasks must not notice.
struct Hostile {
    pool: ProcessPoolExecutor,
    calm: ProcessPoolExecutor,
    what: Scribble,
    end: End,
    spared: Vec<RawFd>,
    runs: TempDir,
}

impl Hostile {
    fn new(method: StartMethod, what: Scribble, end: End) -> Self {
        // Copies of this process have what it has now.
        let spared = match method {
            StartMethod::Fork => descriptors(),
            _ => Vec::new(),
        };
        Self {
            pool: pool(method),
            calm: pool(method),
            what,
            end,
            spared,
            runs: tempfile::tempdir().expect("a directory"),
        }
    }

    /// One task that scribbles, and four others.
    fn round(&self, round: u64) {
        let (what, end) = (self.what, self.end);
        // A task that has started, as the worker has it, and has no end, is ended by its limit.
        let limited = self.pool.options().timeout(LIMIT);
        let large = [0, LARGE][round as usize % 2];
        let order = (what, end, round * 7919 + 17);
        let first = round * 5;
        let others = (first + 1..first + 5).map(|it| Beside::of(self, it, large));
        let mut scribbled = limited.submit(
            |(order, beside)| scribble_beside(order, beside),
            (order, Beside::of(self, first, large)),
        );
        let others: Vec<_> = others
            .map(|it| (it.argument.clone(), limited.submit(echo, it)))
            .collect();
        if let Err(error) = scribbled.result_timeout(DEADLINE / 4) {
            assert!(is_told(&error), "{what:?} {end:?}: {error}");
        }
        let _figures = self.pool.stats();
        for (expected, mut future) in others {
            match future.result_timeout(DEADLINE / 4) {
                Ok(value) => assert!(value == expected, "{what:?} {end:?}: a wrong value"),
                // It ran in the worker that was scribbled over.
                Err(error) => assert!(is_told(&error), "{what:?} {end:?}: {error}"),
            }
        }
        let squared = self.calm.apply(square, round);
        assert_eq!(squared.expect("a value"), round * round);
    }

    /// No task ran twice; but one that hides its start may.
    fn check_runs(&self) {
        for file in fs::read_dir(self.runs.path()).expect("a directory") {
            let file = file.expect("an entry");
            let runs = file.metadata().expect("a file").len();
            let number: u64 = file
                .file_name()
                .to_str()
                .and_then(|it| it.parse().ok())
                .expect("a number");
            let most = if number.is_multiple_of(5) { 3 } else { 1 };
            assert!(
                runs <= most,
                "task {number} ran {runs} times: {:?} {:?}",
                self.what,
                self.end
            );
        }
    }

    fn end(self) {
        // A new worker does as if nothing had been.
        let value = (0..4).find_map(|_| self.pool.apply(square, 9).ok());
        assert_eq!(value, Some(81), "{:?} {:?}", self.what, self.end);
        assert_eq!(self.calm.stats().failed, 0);
        self.check_runs();
        drop(self.pool);
        self.calm.join().expect("an end");
    }
}

fn scribbles_harm_nobody_else(method: StartMethod, what: Scribble, end: End) {
    let hostile = Hostile::new(method, what, end);
    (0..rounds()).for_each(|it| hostile.round(it));
    hostile.end();
}

/// Every kind of scribble, with either end of the task.
///
/// No descriptors are swapped under `Fork`: the workers of the second pool inherit those of the
/// first, and a swap may cross from one pool to the other.
fn kinds(method: StartMethod) -> Vec<(Scribble, End)> {
    let is_tried = |kind: &&Scribble| method != StartMethod::Fork || **kind != Scribble::Swap;
    let both = |kind: &Scribble| [(*kind, End::Returns), (*kind, End::Aborts)];
    ALL.iter().filter(is_tried).flat_map(both).collect()
}

fn under(method: StartMethod) {
    let thread = |(what, end)| {
        let run = move || scribbles_harm_nobody_else(method, what, end);
        (what, end, thread::spawn(run))
    };
    let mut first = None;
    // A few at a time: each has four workers.
    for some in kinds(method).chunks(4) {
        let running: Vec<_> = some.iter().copied().map(thread).collect();
        for (what, end, thread) in running {
            assert!(thread.join().is_ok(), "{what:?} {end:?} under {method:?}");
        }
        let memory = resident_bytes();
        let allowed = *first.get_or_insert(memory) + MAX_GROWTH;
        // Only this one is in a process of its own; other tests run next to the others.
        let is_alone = method == StartMethod::Fork;
        assert!(
            !is_alone || memory <= allowed,
            "{memory} bytes after {some:?}"
        );
    }
}

/// Bytes that the program may grow by after the first kinds: what the allocator keeps.
const MAX_GROWTH: u64 = 64 << 20;

/// Returns the resident memory of this process in bytes.
fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    let pages: u64 = pages.expect("the second field");
    pages * 4096
}

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("hostile forked workers", hostile_forked_workers),
    ("descriptors of a worker", descriptors_of_a_worker),
];

/// Two workers: the second must not have those of the first.
fn descriptors_of_a_worker() {
    by_its_method(|method| {
        let before = descriptors();
        let pool = pool(method);
        let gate = Gate::new();
        let list = |gate: PathBuf| {
            pass(gate);
            descriptors()
        };
        let lists = [(); 2].map(|()| pool.submit(list, gate.path()));
        gate.wait_for(2);
        gate.open();
        for list in lists {
            let list = list.result().expect("a list");
            let new = list.iter().filter(|it| !before.contains(it));
            assert_eq!(new.count(), 3, "{before:?} {list:?}");
        }
    });
}

#[test]
fn a_worker_shares_two_pipes_and_a_socket_with_its_pool_and_nothing_with_others() {
    in_time(|| {
        for method in StartMethod::ALL {
            let command = Program::command_by("descriptors of a worker", method);
            Program::start_by(command).succeed();
        }
    });
}

/// In a process with one thread, one after the other.
fn hostile_forked_workers() {
    by_its_method(|method| {
        for (what, end) in kinds(StartMethod::Fork) {
            scribbles_harm_nobody_else(method, what, end);
        }
    });
}

#[test]
fn what_a_worker_writes_to_its_share_harms_nobody_else() {
    in_time(|| under(StartMethod::ForkServer));
}

#[test]
fn what_a_spawned_worker_writes_to_its_share_harms_nobody_else() {
    in_time(|| under(StartMethod::Spawn));
}

#[test]
fn what_a_forked_worker_writes_to_its_share_harms_nobody_else() {
    in_time(|| {
        let command = Program::command_by("hostile forked workers", StartMethod::Fork);
        Program::start_by(command).succeed();
    });
}

#[test]
fn a_worker_has_no_descriptor_of_the_page_that_it_shares() {
    in_time(|| {
        let links = |()| {
            let path = |it: RawFd| fs::read_link(format!("/proc/self/fd/{it}")).ok();
            let paths = descriptors().into_iter().filter_map(path);
            paths
                .filter(|it| it.to_string_lossy().contains("memfd"))
                .count()
        };
        let pool = pool(StartMethod::ForkServer);
        assert_eq!(pool.apply(links, ()).expect("a value"), 0);
    });
}

/// Says that it runs, hides that its item has started, and ends its worker.
fn hide_its_start(gate: PathBuf) {
    arrive(&gate);
    let page = shared_mappings().swap_remove(0);
    Scribble::StartedLess.apply(page, &mut Random::seeded(1));
    process::abort()
}

/// Hides also that its worker is ready.
fn hide_its_worker(gate: PathBuf) {
    arrive(&gate);
    let page = shared_mappings().swap_remove(0);
    write(page.start + TAIL, 0);
    Scribble::StartedLess.apply(page, &mut Random::seeded(1));
    process::abort()
}

fn runs_three_times_at_most(task: fn(PathBuf)) {
    race(|| {
        let gate = Gate::new();
        let pool = pool(StartMethod::ForkServer);
        let error = pool.apply(task, gate.path()).expect_err("an error");
        assert_eq!(error.kind(), ErrorKind::WorkerDied, "{error}");
        let runs = gate.arrived();
        assert!((1..=3).contains(&runs), "{runs} runs: {error}");
        assert_eq!(pool.apply(square, 3).expect("a value"), 9);
    });
}

#[test]
fn a_task_that_hides_its_start_and_aborts_runs_three_times_at_most() {
    in_time(|| runs_three_times_at_most(hide_its_start));
}

#[test]
fn a_task_that_hides_that_its_worker_is_ready_runs_three_times_at_most_and_breaks_no_pool() {
    in_time(|| runs_three_times_at_most(hide_its_worker));
}

#[test]
fn a_task_that_tampers_with_its_page_before_its_worker_is_known_to_be_ready_breaks_no_pool() {
    in_time(|| {
        for round in 0..20 {
            let pool = pool(StartMethod::ForkServer);
            for seed in 0..10 {
                let what = (Scribble::Everything, End::Aborts, round * 31 + seed);
                let error = pool.apply(scribble, what).expect_err("an error");
                assert_eq!(error.kind(), ErrorKind::WorkerDied);
            }
            assert_eq!(pool.apply(square, 3).expect("a value"), 9);
        }
    });
}

#[test]
fn a_worker_that_closes_its_socket_is_replaced() {
    in_time(|| {
        let builder = ProcessPoolExecutor::builder().workers(1);
        let pool = builder.build().expect("a pool");
        let close = |()| {
            for fd in descriptors() {
                let path = fs::read_link(format!("/proc/self/fd/{fd}"));
                if path.is_ok_and(|it| it.to_string_lossy().starts_with("socket:")) {
                    nix::unistd::close(fd).expect("an open descriptor");
                }
            }
            process::id()
        };
        let pid = pool.apply(close, ()).expect("a value");
        let large = vec![7u8; 1 << 20];
        let sum = |it: Vec<u8>| (it.len(), process::id());
        let (length, other) = pool.apply(sum, large).expect("a value");
        assert_eq!(length, 1 << 20);
        assert_ne!(pid, other);
    });
}

#[test]
fn the_time_of_a_task_that_says_it_has_started_just_now_is_limited() {
    in_time(|| {
        let pool = pool(StartMethod::ForkServer);
        let pretend = |()| -> () {
            let page = shared_mappings().swap_remove(0);
            loop {
                // Its start and its panic are in the future.
                write(page.start + STARTED_AT, u64::MAX);
                write(page.start + PANIC_ITEM, 0);
                write(page.start + PANIC_SINCE, u64::MAX);
                thread::yield_now();
            }
        };
        let limited = pool.options().timeout(Duration::from_millis(50));
        let task = limited.submit(pretend, ());
        let error = task.result().expect_err("an error");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    });
}

/// Writes wake-ups to its pool without end.
fn flood(gate: PathBuf) {
    arrive(&gate);
    loop {
        descriptors().iter().for_each(|it| write_to(*it, &[0; 256]));
    }
}

#[test]
fn a_worker_that_floods_its_pipe_is_killed_and_holds_up_no_caller() {
    in_time(|| {
        let (calm, hostile) = (Gate::new(), Gate::new());
        let pool = pool(StartMethod::ForkServer);
        let mut waiting = pool.submit(pass, calm.path());
        calm.wait_for(1);
        let flooding = pool.submit(flood, hostile.path());
        hostile.wait_for(1);
        // It is not let in before this has returned.
        let early = waiting.result_timeout(Duration::from_millis(20));
        assert_eq!(early.expect_err("no value").kind(), ErrorKind::TimedOut);
        let error = flooding.result().expect_err("an error");
        assert_eq!(error.kind(), ErrorKind::WorkerDied);
        assert!(error.to_string().contains("flooded"), "{error}");
        calm.open();
        waiting.result().expect("another worker's task");
    });
}

/// Writes what looks like the record of its end to its pool, and goes on.
fn pretend_to_be_killed(gate: PathBuf) {
    fs::write(gate.join("pid"), process::id().to_string()).expect("room");
    descriptors()
        .iter()
        .for_each(|it| write_to(*it, &[1, 9, 0, 0, 0]));
    pass(gate);
}

#[test]
fn a_worker_that_writes_a_record_of_its_end_is_reported_only_when_it_has_ended() {
    in_time(|| {
        race(|| {
            let gate = Gate::new();
            let pool = pool(StartMethod::ForkServer);
            let task = pool.submit(pretend_to_be_killed, gate.path());
            let error = task.result().expect_err("an error");
            assert_eq!(error.kind(), ErrorKind::WorkerDied);
            let text = "its pipe to the pool was written to";
            assert!(error.to_string().contains(text), "{error}");
            let pid = fs::read_to_string(gate.path().join("pid")).expect("a file");
            let worker = Process::of(pid.parse().expect("a number"));
            assert!(worker.is_none_or(|it| !it.runs()));
        });
    });
}

/// Puts an end of a pipe to which nothing is written in the place of that from which its worker
/// reads.
fn lose_requests((): ()) -> u32 {
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    for fd in descriptors() {
        let path = fs::read_link(format!("/proc/self/fd/{fd}")).expect("it is open");
        // SAFETY: they are only used for these calls, and memory is not touched.
        let flags = unsafe { nix::libc::fcntl(fd, nix::libc::F_GETFL) };
        let is_read = flags & nix::libc::O_ACCMODE == nix::libc::O_RDONLY;
        if is_read && path.to_string_lossy().starts_with("pipe:") {
            // SAFETY: as above.
            unsafe { nix::libc::dup2(reader.as_raw_fd(), fd) };
        }
    }
    std::mem::forget((reader, writer));
    process::id()
}

#[test]
fn a_worker_that_has_lost_what_it_was_sent_is_replaced() {
    in_time(|| {
        let builder = ProcessPoolExecutor::builder().workers(1);
        let pool = builder.build().expect("a pool");
        let pid = pool.apply(lose_requests, ()).expect("a value");
        let other = pool.apply(|()| process::id(), ()).expect("a value");
        assert_ne!(pid, other);
    });
}
