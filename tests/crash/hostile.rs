//! Tasks that write garbage to what their worker shares with the program: the page, pipes and sockets.
//!
//! Such a worker may fail its own tasks. The program goes on, its figures can be read, and other workers' tasks are right.

#![expect(
    unsafe_code,
    reason = "a task that writes to memory and descriptors that are not its own"
)]

use common::processes::Process;
use common::random::Random;
use common::{DEADLINE, Gate, arrive, in_time, pass, race, square};
use procpool::{Error, ErrorKind, ProcessPoolExecutor, StartMethod};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    ops::Range,
    os::fd::{BorrowedFd, RawFd},
    path::PathBuf,
    process, thread,
    time::{Duration, Instant},
};

/// Bytes of the page before the ring of replies.
const HEADER: usize = 8192;

/// Offsets in the page: `src/pool/page.rs`.
const WORD: usize = 0;
const TAIL: usize = 64;
const HEAD: usize = 128;
const BELL: usize = 192;
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
    /// The pool is not to be rung for.
    Bell,
    /// One item less has started.
    StartedLess,
    /// More items have started than there are.
    StartedMore,
    /// Changes single words back and forth for a while.
    BackAndForth,
    /// Random bytes to every descriptor.
    Descriptors,
    /// Bytes to the pipe of the bell that look like a record of its end, and bells without end.
    Flood,
}

const ALL: [Scribble; 12] = [
    Scribble::Ones,
    Scribble::Zeros,
    Scribble::Words,
    Scribble::Everything,
    Scribble::Tail,
    Scribble::Head,
    Scribble::Bell,
    Scribble::StartedLess,
    Scribble::StartedMore,
    Scribble::BackAndForth,
    Scribble::Descriptors,
    Scribble::Flood,
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
    // SAFETY: it lies in a mapping of this process, and is aligned; that others use it is what is tried.
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

fn descriptors() -> Vec<RawFd> {
    let list = fs::read_dir("/proc/self/fd").expect("the list of descriptors");
    let numbers = list.filter_map(|it| it.ok()?.file_name().to_str()?.parse().ok());
    numbers.filter(|it| *it > 2).collect()
}

/// Writes what can be written without waiting.
fn write_to(fd: RawFd, bytes: &[u8]) {
    // SAFETY: it is only used for this one call, which fails if it is closed.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT;
    let sent = nix::sys::socket::send(std::os::fd::AsRawFd::as_raw_fd(&fd), bytes, flags);
    if sent == Err(nix::errno::Errno::ENOTSOCK) {
        // Refused by what is not open for writing.
        let _ = nix::unistd::write(fd, bytes);
    }
}

impl Scribble {
    fn apply(self, page: Range<usize>, numbers: &mut Random) {
        let header = page.start..page.start + HEADER;
        match self {
            Self::Ones => fill(header, || u64::MAX),
            Self::Zeros => fill(header, || 0),
            Self::Words => fill(header, || numbers.next_u64()),
            Self::Everything => fill(page, || numbers.next_u64()),
            Self::Tail => write(page.start + TAIL, numbers.next_u64() % (1 << 20)),
            Self::Head => write(page.start + HEAD, numbers.next_u64() % (1 << 20)),
            Self::Bell => write(page.start + BELL, 0),
            Self::StartedLess => {
                let word = read(page.start + WORD);
                write(page.start + WORD, word.wrapping_sub(1));
            }
            Self::StartedMore => {
                let word = read(page.start + WORD);
                write(
                    page.start + WORD,
                    word.wrapping_add(numbers.next_u64() % 7 + 1),
                );
            }
            Self::BackAndForth => Self::flip(&header, numbers),
            Self::Descriptors => {
                let bytes: Vec<u8> = (0..64).map(|_| numbers.next_u64() as u8).collect();
                descriptors().iter().for_each(|it| write_to(*it, &bytes));
            }
            Self::Flood => {
                let record = [1, 9, 0, 0, 0];
                let fds = descriptors();
                fds.iter().for_each(|it| write_to(*it, &record));
                let end = Instant::now() + Duration::from_millis(5);
                while Instant::now() < end {
                    fds.iter().for_each(|it| write_to(*it, &[0; 256]));
                }
            }
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
    let mut numbers = Random::seeded(seed);
    for mapping in shared_mappings() {
        what.apply(mapping, &mut numbers);
    }
    match end {
        End::Returns => seed,
        End::Aborts => process::abort(),
    }
}

fn pool(method: StartMethod) -> ProcessPoolExecutor {
    let builder = ProcessPoolExecutor::builder()
        .workers(2)
        .start_method(method);
    builder.build().expect("a pool")
}

/// Rounds of one kind and end, in one pool.
const ROUNDS: u64 = 12;

const LIMIT: Duration = Duration::from_secs(1);

/// Whether this is the end of the worker, or of the limit, rather than of the patience of `result_timeout`.
fn is_told(error: &Error) -> bool {
    let is_limit = error.to_string().contains("its limit");
    error.kind() == ErrorKind::WorkerDied || error.kind() == ErrorKind::TimedOut && is_limit
}

fn scribbles_harm_nobody_else(method: StartMethod, what: Scribble, end: End) {
    let calm = pool(method);
    let hostile = pool(method);
    for round in 0..ROUNDS {
        // A task that has started, as the worker has it, and has no end, is ended by its limit.
        let limited = hostile.options().timeout(LIMIT);
        let mut scribbled = limited.submit(scribble, (what, end, round * 7919 + 17));
        let beside: Vec<_> = (0..4).map(|it| limited.submit(square, it)).collect();
        let outcome = scribbled.result_timeout(DEADLINE / 4);
        if let Err(error) = outcome {
            assert!(is_told(&error), "{what:?} {end:?}: {error}");
        }
        let _figures = hostile.stats();
        for (number, mut future) in beside.into_iter().enumerate() {
            match future.result_timeout(DEADLINE / 4) {
                Ok(value) => assert_eq!(value, (number * number) as u64),
                // It ran in the worker that was scribbled over.
                Err(error) => assert!(is_told(&error), "{what:?} {end:?}: {error}"),
            }
        }
        assert_eq!(calm.apply(square, round).expect("a value"), round * round);
    }
    // A new worker does as if nothing had been.
    let value = (0..4).find_map(|_| hostile.apply(square, 9).ok());
    assert_eq!(value, Some(81), "{what:?} {end:?}");
    assert_eq!(calm.stats().failed, 0);
    drop(hostile);
    calm.join().expect("an end");
}

fn under(method: StartMethod) {
    let thread = |(what, end)| {
        let run = move || scribbles_harm_nobody_else(method, what, end);
        (what, end, thread::spawn(run))
    };
    let kinds = ALL
        .iter()
        .flat_map(|it| [(*it, End::Returns), (*it, End::Aborts)]);
    // A few at a time: each has four workers.
    let kinds: Vec<_> = kinds.collect();
    for some in kinds.chunks(4) {
        let running: Vec<_> = some.iter().copied().map(thread).collect();
        for (what, end, thread) in running {
            assert!(thread.join().is_ok(), "{what:?} {end:?} under {method:?}");
        }
    }
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
                // Its start and its panic lie in the future.
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

/// Writes bells to its pool without end.
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
        // Nobody lets it in before this has returned.
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
