//! Every way for a worker to come to grief, at every moment of a task's life: what the caller
//! hears, and what it costs.
//!
//! `ROWS` has a line for each blow. What is told follows from DESIGN.md's "What a caller can rely
//! on": a panic is an answer and the worker lives on, a death costs the one task that ran, an idle
//! worker's death costs nothing, and a loop ends at its limit.

#![expect(unsafe_code, reason = "a pointer to nowhere, which is followed")]

use common::methods::in_a_process_with_one_thread;
use common::processes::{Process, eventually, kill, status_of};
use common::{DEADLINE, Gate, failure, in_time, pass, square};
use nix::sys::signal::{Signal, raise};
use procpool::{
    Error, ErrorKind, Output, ProcessPoolBuilder, ProcessPoolExecutor, ResourceLimits, Result,
    StartMethod, current_worker,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{collections::BTreeSet, fs::File, hint, path::PathBuf, process, thread, time::Duration};

const WORKERS: usize = 2;

/// Bytes: more than a worker has, less than it tries to get.
const MEMORY: u64 = 1 << 30;

/// Of a loop, and of nothing else.
const LIMIT: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Blow {
    Panic,
    Abort,
    SegmentationFault,
    StackOverflow,
    Exit,
    Kill,
    OutOfMemory,
    EndlessLoop,
}

impl Blow {
    fn strike(self) {
        match self {
            Self::Panic => panic!("struck"),
            Self::Abort => process::abort(),
            Self::SegmentationFault => {
                let nowhere = hint::black_box(std::ptr::without_provenance::<u8>(8));
                // SAFETY: none: this is a bug, of the kind that a process pool is there for.
                unsafe { nowhere.read_volatile() };
            }
            Self::StackOverflow => drop(overflow(0)),
            Self::Exit => process::exit(0),
            Self::Kill => raise(Signal::SIGKILL).expect("a signal"),
            Self::OutOfMemory => drop(hint::black_box(vec![1u8; 4 * MEMORY as usize])),
            Self::EndlessLoop => loop {
                hint::spin_loop();
            },
        }
    }
}

fn overflow(depth: u64) -> u64 {
    let frame = hint::black_box([depth; 128]);
    if depth == u64::MAX {
        return frame[0];
    }
    overflow(depth + 1) + hint::black_box(frame)[1]
}

/// What a blow comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The worker lives on.
    Panicked,
    Killed(Signal),
    Exited(i32),
    /// Nothing ends it but its limit, where there is one.
    TimedOut,
}

/// What the caller is told of each blow: how it ends, and in which words.
const ROWS: [(Blow, End, &str); 8] = [
    (Blow::Panic, End::Panicked, "panicked"),
    (
        Blow::Abort,
        End::Killed(Signal::SIGABRT),
        "was killed by SIGABRT (signal 6)",
    ),
    (
        Blow::SegmentationFault,
        End::Killed(Signal::SIGSEGV),
        "was killed by SIGSEGV (signal 11)",
    ),
    (
        Blow::StackOverflow,
        End::Killed(Signal::SIGSEGV),
        "was killed by SIGSEGV (signal 11) on a stack overflow",
    ),
    (Blow::Exit, End::Exited(0), "exited with code 0"),
    (
        Blow::Kill,
        End::Killed(Signal::SIGKILL),
        "was killed by SIGKILL (signal 9)",
    ),
    (
        Blow::OutOfMemory,
        End::Killed(Signal::SIGABRT),
        "its memory is limited to 1073741824 bytes",
    ),
    (
        Blow::EndlessLoop,
        End::TimedOut,
        "the task ran longer than its limit of 300ms",
    ),
];

impl End {
    /// The error of a task that meets it.
    fn check(self, words: &str, error: &Error) {
        let kind = match self {
            Self::Panicked => ErrorKind::Panicked,
            Self::Killed(_) | Self::Exited(_) => ErrorKind::WorkerDied,
            Self::TimedOut => ErrorKind::TimedOut,
        };
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        let exit = error.worker().map(|it| (it.signal, it.exit_code));
        let expected = match self {
            Self::Killed(signal) => Some((Some(signal as i32), None)),
            Self::Exited(code) => Some((None, Some(code))),
            Self::Panicked | Self::TimedOut => None,
        };
        assert_eq!(exit, expected);
        let panic = error.remote_panic().map(|it| it.message.as_str());
        assert_eq!(panic, (self == Self::Panicked).then_some("struck"));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Moment {
    Decode,
    Body,
    Drop,
    Encode,
}

/// A value that strikes the worker that does something with it.
#[derive(Debug)]
struct Mine(Blow, Moment);

impl Mine {
    fn acts_at(&self, moment: Moment) {
        if current_worker().is_some() && self.1 == moment {
            self.0.strike();
        }
    }
}

impl Serialize for Mine {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        self.acts_at(Moment::Encode);
        (self.0, self.1).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Mine {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let (blow, moment) = Deserialize::deserialize(from)?;
        let mine = Self(blow, moment);
        mine.acts_at(Moment::Decode);
        Ok(mine)
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        self.acts_at(Moment::Drop);
    }
}

/// A task: gives back what would strike on its way, and drops the rest.
fn handle(mine: Mine) -> Option<Mine> {
    mine.acts_at(Moment::Body);
    (mine.1 == Moment::Encode).then_some(mine)
}

/// A task that has replied when its thread strikes.
fn leave_a_thread((blow, gate): (Blow, PathBuf)) {
    thread::spawn(move || {
        pass(gate);
        blow.strike();
    });
}

/// An initializer.
fn strike(blow: Blow) -> std::result::Result<(), String> {
    blow.strike();
    Ok(())
}

/// An initializer: one worker is struck, the one that makes the file.
fn strike_one((blow, file): (Blow, PathBuf)) -> std::result::Result<(), String> {
    if File::create_new(file).is_ok() {
        blow.strike();
    }
    Ok(())
}

fn builder(blow: Blow, method: StartMethod) -> ProcessPoolBuilder {
    let builder = ProcessPoolExecutor::builder()
        .workers(WORKERS)
        .start_method(method)
        .stderr(Output::Null);
    match blow {
        Blow::OutOfMemory => builder.limits(ResourceLimits::new().memory(MEMORY)),
        Blow::EndlessLoop => builder.task_timeout(LIMIT),
        _ => builder,
    }
}

/// All workers live, are at work at the same time, and give right results.
fn check_strength(pool: &ProcessPoolExecutor) -> Result<()> {
    eventually("every worker is there", || {
        pool.worker_pids().len() == WORKERS
    });
    let gate = Gate::new();
    let unlimited = pool.options().timeout(Duration::MAX);
    let meet = |gate| {
        pass(gate);
        process::id()
    };
    let held = [0; WORKERS].map(|_| unlimited.submit(meet, gate.path()));
    gate.wait_for(WORKERS);
    gate.open();
    let mut at_work = BTreeSet::new();
    for future in held {
        at_work.insert(future.result()?);
    }
    assert_eq!(at_work, BTreeSet::from_iter(pool.worker_pids()));
    assert!(
        at_work
            .iter()
            .all(|it| Process::of(*it).is_some_and(|it| it.runs()))
    );
    let squares = unlimited.map(square, 0..200)?;
    assert_eq!(squares, Vec::from_iter((0..200).map(|it| it * it)));
    Ok(())
}

fn check_in_task((blow, end, words): (Blow, End, &str), method: StartMethod) -> Result<()> {
    let pool = builder(blow, method).build()?;
    check_strength(&pool)?;
    let mut deaths = 0;
    for moment in [Moment::Decode, Moment::Body, Moment::Drop, Moment::Encode] {
        let before = BTreeSet::from_iter(pool.worker_pids());
        end.check(words, &failure(pool.apply(handle, Mine(blow, moment))));
        check_strength(&pool)?;
        let after = BTreeSet::from_iter(pool.worker_pids());
        let stayed = if end == End::Panicked {
            WORKERS
        } else {
            WORKERS - 1
        };
        assert_eq!(before.intersection(&after).count(), stayed, "{moment:?}");
        deaths += WORKERS - stayed;
        assert_eq!(pool.stats().restarts, deaths as u64);
    }
    pool.join()
}

/// No worker runs a task then: no future fails.
fn check_after_reply((blow, end, _): (Blow, End, &str), method: StartMethod) -> Result<()> {
    let pool = builder(blow, method).build()?;
    let gate = Gate::new();
    pool.apply(leave_a_thread, (blow, gate.path()))?;
    gate.wait_for(1);
    let before = BTreeSet::from_iter(pool.worker_pids());
    gate.open();
    match end {
        End::Panicked => eventually("the thread is gone", || {
            before.iter().all(|it| status_of(*it, "Threads") == "1")
        }),
        End::Killed(_) | End::Exited(_) => eventually("the worker is replaced", || {
            let now = BTreeSet::from_iter(pool.worker_pids());
            now.len() == WORKERS && now != before
        }),
        // A thread of the worker's own runs during its tasks, as long as the pool lives.
        End::TimedOut => {}
    }
    check_strength(&pool)?;
    let stats = pool.stats();
    let is_death = matches!(end, End::Killed(_) | End::Exited(_));
    assert_eq!((stats.failed, stats.restarts), (0, is_death.into()));
    pool.join()
}

/// A blow that comes again and again breaks the pool, in words that say why. A loop is no failure:
/// a limit is a task's.
fn check_initializer((blow, end, words): (Blow, End, &str), method: StartMethod) -> Result<()> {
    let pool = builder(blow, method).initializer(strike, blow).build()?;
    let mut waiting = pool.submit(square, 3);
    if end == End::TimedOut {
        let error = failure(waiting.result_timeout(2 * LIMIT));
        assert!(error.kind() == ErrorKind::TimedOut && !waiting.is_done());
        pool.kill();
        assert_eq!(failure(waiting.result()).kind(), ErrorKind::Shutdown);
        return pool.join();
    }
    for outcome in [waiting.result_timeout(DEADLINE), pool.apply(square, 3)] {
        let error = failure(outcome);
        assert_eq!(error.kind(), ErrorKind::StartFailed, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let ended = failure(pool.join());
    assert_eq!(ended.kind(), ErrorKind::StartFailed);
    assert!(pool.worker_pids().is_empty());
    Ok(())
}

/// A blow that comes once only delays the pool; but a panic is an answer, and the answer is no.
fn check_one_initializer((blow, end, words): (Blow, End, &str), method: StartMethod) -> Result<()> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("struck");
    let once = builder(blow, method).initializer(strike_one, (blow, file.clone()));
    let pool = once.build()?;
    eventually("a worker was struck", || file.exists());
    if end == End::Panicked {
        // The other worker may answer until that is read.
        eventually("the pool is broken", || pool.apply(square, 3).is_err());
        let error = failure(pool.apply(square, 3));
        assert_eq!(error.kind(), ErrorKind::StartFailed, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        return Ok(());
    }
    assert_eq!(pool.apply(square, 3)?, 9);
    if end == End::TimedOut {
        // The other worker does all the work until this one is killed.
        let idle = pool.apply(|()| process::id(), ())?;
        let struck = pool.worker_pids().into_iter().find(|it| *it != idle);
        kill(struck.expect("another worker"), Signal::SIGKILL);
        eventually("it is replaced", || {
            !pool.worker_pids().contains(&struck.unwrap_or(0))
        });
    }
    check_strength(&pool)?;
    assert_eq!(pool.stats().failed, 0);
    pool.join()
}

fn check_row(row: (Blow, End, &str), method: StartMethod) -> Result<()> {
    check_in_task(row, method)?;
    check_after_reply(row, method)?;
    check_initializer(row, method)?;
    check_one_initializer(row, method)
}

/// A row under every start method, `Fork` in a process that has one thread.
macro_rules! rows {
    ($($name:ident: $row:expr,)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn fork_server() -> Result<()> {
                in_time(|| check_row(ROWS[$row], StartMethod::ForkServer))
            }

            #[test]
            fn spawn() -> Result<()> {
                in_time(|| check_row(ROWS[$row], StartMethod::Spawn))
            }

            #[test]
            fn fork() -> Result<()> {
                in_time(|| {
                    in_a_process_with_one_thread(|()| {
                        check_row(ROWS[$row], StartMethod::Fork).map_err(|error| error.to_string())
                    })
                })
            }
        })*
    };
}

rows! {
    a_panic_is_its_tasks_error_and_the_worker_lives: 0,
    an_abort_costs_its_task_and_a_worker: 1,
    a_segmentation_fault_costs_its_task_and_a_worker: 2,
    a_stack_overflow_costs_its_task_and_a_worker: 3,
    an_exit_costs_its_task_and_a_worker: 4,
    a_kill_costs_its_task_and_a_worker: 5,
    running_out_of_memory_costs_its_task_and_a_worker: 6,
    an_endless_loop_costs_its_task_and_a_worker: 7,
}
