//! Workers killed at any moment: every task ends exactly once, with its value or with the death
//! that it had.

use common::processes::{find_fork_server, kill};
use common::random::Random;
use common::{alone, in_time, race};
use nix::sys::signal::Signal;
use procpool::{ErrorKind, ProcessPoolExecutor, Result, ReturnWhen, as_completed, wait};
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// Tasks of each kind of call.
const TASKS: u32 = 100_000;

/// Where the tasks of this worker leave their marks, and where it says that it can be killed.
static RECORD: OnceLock<(File, PathBuf)> = OnceLock::new();

fn open_record(directory: PathBuf) -> std::io::Result<()> {
    let path = directory.join("record");
    let file = File::options().append(true).create(true).open(path)?;
    RECORD.get_or_init(|| (file, directory.join(std::process::id().to_string())));
    Ok(())
}

/// A task: leaves a mark, in one piece, with other writers at work and whenever it is killed.
fn mark(x: u32) -> u32 {
    let (file, own) = RECORD.get().expect("the initializer has run");
    static SAID: OnceLock<()> = OnceLock::new();
    SAID.get_or_init(|| fs::write(own, "").expect("a file"));
    let mut file = file;
    file.write_all(&x.to_le_bytes()).expect("a file");
    x
}

/// A pool whose tasks' marks are counted.
struct Recorded {
    pool: ProcessPoolExecutor,
    directory: TempDir,
}

impl Recorded {
    fn new(workers: usize) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let pool = ProcessPoolExecutor::builder()
            .workers(workers)
            .initializer(open_record, directory.path().to_owned())
            .build()
            .expect("a pool");
        Self { pool, directory }
    }

    /// Returns the workers that have run a task: a pool breaks if workers are killed again and
    /// again while they start.
    fn victims(&self) -> Vec<u32> {
        let has_run = |it: &u32| self.directory.path().join(it.to_string()).exists();
        self.pool
            .worker_pids()
            .into_iter()
            .filter(has_run)
            .collect()
    }

    /// Checks that every task ran as often as its outcome says, and that no more failed than could.
    fn check(self, outcomes: Vec<Result<u32>>, deaths: usize) {
        self.pool.join().expect("a pool that ends");
        let runs = runs(&self.directory.path().join("record"), outcomes.len());
        let mut failed = 0;
        for ((x, outcome), runs) in (0..).zip(outcomes).zip(runs) {
            match outcome {
                Ok(value) => assert_eq!((value, runs), (x, 1), "value and runs of task {x}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WorkerDied, "{error}");
                    assert!(runs <= 1, "task {x} failed and ran {runs} times");
                    failed += 1;
                }
            }
        }
        assert!(failed <= deaths, "{failed} tasks failed by {deaths} deaths");
    }
}

/// How often each task has left a mark.
fn runs(record: &Path, tasks: usize) -> Vec<u32> {
    let mut runs = vec![0; tasks];
    let bytes = fs::read(record).expect("the record");
    for mark in bytes.chunks_exact(4) {
        let x = u32::from_le_bytes([mark[0], mark[1], mark[2], mark[3]]);
        runs[x as usize] += 1;
    }
    runs
}

/// Does something, and kills workers of the pool at random meanwhile; says how many times.
fn amid_kills<T>(recorded: &Recorded, signal: Signal, action: impl FnOnce() -> T) -> (T, usize) {
    let (over, kills) = (AtomicBool::new(false), AtomicUsize::new(0));
    let value = thread::scope(|scope| {
        let _over = SetWhenDropped(&over);
        scope.spawn(|| {
            let mut random = Random::new();
            while !over.load(Ordering::Relaxed) {
                let workers = recorded.victims();
                if !workers.is_empty() {
                    let victim = random.below(workers.len() as u64) as usize;
                    kill(workers[victim], signal);
                    kills.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_micros(random.below(5000)));
            }
        });
        action()
    });
    (value, kills.into_inner())
}

/// Ends the killing also when what goes on meanwhile panics.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn every_submitted_task_runs_once_while_workers_are_killed() {
    in_time(|| {
        let recorded = Recorded::new(3);
        let pool = &recorded.pool;
        let (outcomes, kills) = amid_kills(&recorded, Signal::SIGKILL, || {
            let futures: Vec<_> = (0..TASKS).map(|x| pool.submit(mark, x)).collect();
            futures.into_iter().map(|it| it.result()).collect()
        });
        recorded.check(outcomes, kills);
    });
}

#[test]
fn every_item_of_a_map_runs_once_while_workers_are_killed() {
    in_time(|| {
        let recorded = Recorded::new(3);
        let pool = &recorded.pool;
        let (outcomes, kills) = amid_kills(&recorded, Signal::SIGKILL, || {
            pool.map_results(mark, 0..TASKS)
        });
        recorded.check(outcomes, kills);
    });
}

#[test]
fn every_item_of_a_map_of_any_chunks_runs_once_while_workers_are_killed() {
    in_time(|| {
        race(|| {
            for size in [1, 7, 500] {
                let recorded = Recorded::new(2);
                let pool = &recorded.pool;
                let (outcomes, kills) = amid_kills(&recorded, Signal::SIGKILL, || {
                    pool.options().chunk_size(size).map_results(mark, 0..5000)
                });
                recorded.check(outcomes, kills);
            }
        });
    });
}

#[test]
fn every_item_of_a_stream_runs_once_while_workers_are_killed() {
    in_time(|| {
        race(|| {
            let recorded = Recorded::new(2);
            let pool = &recorded.pool;
            let (outcomes, kills) = amid_kills(&recorded, Signal::SIGKILL, || {
                pool.imap(mark, 0..10_000).collect()
            });
            recorded.check(outcomes, kills);
        });
    });
}

#[test]
fn every_task_of_many_threads_runs_once_while_workers_are_killed() {
    in_time(|| {
        race(|| {
            let recorded = Recorded::new(3);
            let pool = &recorded.pool;
            let (outcomes, kills) = amid_kills(&recorded, Signal::SIGKILL, || {
                thread::scope(|scope| {
                    let threads: Vec<_> = (0..4)
                        .map(|thread| {
                            let tasks = thread * 1000..(thread + 1) * 1000;
                            scope.spawn(move || -> Vec<_> {
                                tasks.map(|x| pool.apply(mark, x)).collect()
                            })
                        })
                        .collect();
                    let outcomes = threads.into_iter().map(|it| it.join().expect("no panic"));
                    outcomes.flatten().collect()
                })
            });
            recorded.check(outcomes, kills);
        });
    });
}

#[test]
fn every_way_to_wait_ends_while_workers_are_killed() {
    in_time(|| {
        race(|| {
            let recorded = Recorded::new(2);
            let pool = &recorded.pool;
            let (outcomes, kills) = amid_kills(&recorded, Signal::SIGKILL, || {
                let submitted = |tasks: std::ops::Range<u32>| -> Vec<_> {
                    tasks.map(|x| pool.submit(mark, x)).collect()
                };
                let (one, two) = (submitted(0..1000), submitted(1000..2000));
                let three = submitted(2000..3000);
                let waited = wait(&one, ReturnWhen::AllCompleted, None);
                assert_eq!(waited.done.len(), 1000);
                let mut outcomes: Vec<_> = one.into_iter().map(|it| it.result()).collect();
                let mut completed: Vec<_> = as_completed(two).collect();
                completed.sort_by_key(|it| it.0);
                outcomes.extend(completed.into_iter().map(|it| it.1));
                let all = futures::future::join_all(three);
                outcomes.extend(futures::executor::block_on(all));
                outcomes
            });
            recorded.check(outcomes, kills);
        });
    });
}

#[test]
fn every_task_runs_once_while_workers_are_killed_and_futures_cancelled() {
    in_time(|| {
        race(|| {
            let recorded = Recorded::new(2);
            let pool = &recorded.pool;
            let ((futures, cancelled), kills) = amid_kills(&recorded, Signal::SIGKILL, || {
                let futures: Vec<_> = (0..4000).map(|x| pool.submit(mark, x)).collect();
                let cancelled: Vec<_> = futures
                    .iter()
                    .map(|it| it.id() % 3 == 0 && it.cancel())
                    .collect();
                wait(&futures, ReturnWhen::AllCompleted, None);
                (futures, cancelled)
            });
            pool.join().expect("a pool that ends");
            let runs = runs(&recorded.directory.path().join("record"), futures.len());
            let mut failed = 0;
            for ((future, cancelled), runs) in futures.into_iter().zip(cancelled).zip(runs) {
                match future.result() {
                    Ok(_) => assert!(runs == 1 && !cancelled),
                    Err(error) if cancelled => {
                        assert_eq!((error.kind(), runs), (ErrorKind::Cancelled, 0));
                    }
                    Err(error) => {
                        assert!(error.kind() == ErrorKind::WorkerDied && runs <= 1);
                        failed += 1;
                    }
                }
            }
            assert!(failed <= kills, "{failed} tasks failed by {kills} deaths");
        });
    });
}

fn echo(bytes: Vec<u8>) -> Vec<u8> {
    mark(bytes[0].into());
    bytes
}

#[test]
fn large_values_stay_whole_while_workers_are_killed() {
    in_time(|| {
        race(|| {
            let recorded = Recorded::new(2);
            let pool = &recorded.pool;
            let (outcomes, kills) = amid_kills(&recorded, Signal::SIGKILL, || {
                let bytes = |it: u8| vec![it; 70_000 + usize::from(it) * 1000];
                let futures: Vec<_> = (0..100)
                    .map(|it| (it, pool.submit(echo, bytes(it))))
                    .collect();
                let whole = |(it, future): (u8, procpool::TaskFuture<Vec<u8>>)| {
                    future.result().map(|value| assert!(value == bytes(it)))
                };
                futures.into_iter().map(whole).collect::<Vec<_>>()
            });
            let errors: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
            let died = errors
                .iter()
                .filter(|it| it.kind() == ErrorKind::WorkerDied);
            assert_eq!(died.count(), errors.len(), "{errors:#?}");
            let failed = errors.len();
            assert!(failed <= kills, "{failed} tasks failed by {kills} deaths");
        });
    });
}

#[test]
fn workers_that_are_asked_to_end_from_outside_are_dead_like_any_other() {
    in_time(|| {
        race(|| {
            let recorded = Recorded::new(2);
            let pool = &recorded.pool;
            let (outcomes, kills) = amid_kills(&recorded, Signal::SIGTERM, || {
                pool.map_results(mark, 0..10_000)
            });
            recorded.check(outcomes, kills);
        });
    });
}

#[test]
fn pools_that_are_stopped_while_workers_are_killed_tell_every_future() {
    in_time(|| {
        let mut random = Random::new();
        race(|| {
            let recorded = Recorded::new(2);
            let pool = &recorded.pool;
            let (futures, _) = amid_kills(&recorded, Signal::SIGKILL, || {
                let futures: Vec<_> = (0..300).map(|x| pool.submit(mark, x)).collect();
                thread::sleep(Duration::from_micros(random.below(2000)));
                match random.below(4) {
                    0 => pool.kill(),
                    1 => pool.terminate(),
                    2 => pool.shutdown(true),
                    _ => pool.close(),
                }
                futures
            });
            drop(recorded);
            for future in futures {
                assert!(future.is_done());
                if let Err(error) = future.result() {
                    let kinds = [
                        ErrorKind::WorkerDied,
                        ErrorKind::Shutdown,
                        ErrorKind::Cancelled,
                    ];
                    assert!(kinds.contains(&error.kind()), "{error}");
                }
            }
        });
    });
}

#[test]
fn every_task_runs_once_while_fork_servers_are_killed() {
    alone("", || {
        let recorded = Recorded::new(2);
        let pool = &recorded.pool;
        let over = AtomicBool::new(false);
        let (outcomes, deaths) = thread::scope(|scope| {
            let _over = SetWhenDropped(&over);
            let killer = scope.spawn(|| {
                let (mut random, mut kills) = (Random::new(), 0);
                while !over.load(Ordering::Relaxed) {
                    let server = find_fork_server().filter(|_| !recorded.victims().is_empty());
                    if let Some(server) = server {
                        kill(server, Signal::SIGKILL);
                        kills += 1;
                    }
                    thread::sleep(Duration::from_micros(random.below(40_000)));
                }
                kills
            });
            let mut outcomes = pool.map_results(mark, 0..TASKS / 2);
            let futures: Vec<_> = (TASKS / 2..TASKS).map(|x| pool.submit(mark, x)).collect();
            outcomes.extend(futures.into_iter().map(|it| it.result()));
            over.store(true, Ordering::Relaxed);
            // Every worker dies with its server.
            (outcomes, killer.join().expect("no panic") * 2)
        });
        recorded.check(outcomes, deaths);
    });
}
