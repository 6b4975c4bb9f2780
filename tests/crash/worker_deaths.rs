//! Workers that die: in a task, around it, while they are idle, stopped, one by one and all at
//! once.

#![expect(unsafe_code, reason = "ways to die that Rust has no safe word for")]

use common::processes::{Process, eventually, kill, process};
use common::{Gate, failure, in_time, pass, pool_of, process_id, race, race_until, square};
use nix::sys::signal::Signal;
use procpool::{
    Error, ErrorKind, ProcessPoolExecutor, Result, ReturnWhen, TaskFuture, Wire, as_completed,
    current_worker, wait,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    hint::black_box,
    os::unix::process::CommandExt,
    process::{self, Command},
    thread,
};

/// The number of SIGKILL.
const KILLED: Option<i32> = Some(Signal::SIGKILL as i32);

fn raise(signal: i32) {
    // SAFETY: a plain number; no handler of ours does anything.
    unsafe { libc::raise(signal) };
}

/// A task: ends its process at once.
pub(crate) fn exit_at_once(code: i32) {
    // SAFETY: it runs no code of this process.
    unsafe { libc::_exit(code) }
}

/// What becomes of one task on a pool of two workers, of which all works before and after.
fn death_by<A, R>(task: fn(A) -> R, arg: A) -> Error
where
    A: Wire + Send + 'static,
    R: Wire + Send + 'static,
{
    let pool = pool_of(2);
    let before = pool.map(square, 0..100).expect("a pool that works");
    let workers = pool.worker_pids();
    let error = failure(pool.apply(task, arg));
    let after = pool.map(square, 0..100).expect("a pool that works again");
    assert_eq!(before, after);
    assert_eq!(error.kind(), ErrorKind::WorkerDied, "{error:?}");
    let exit = error.worker().expect("how it ended");
    assert!(
        workers.contains(&exit.pid),
        "{exit:?} is not of {workers:?}"
    );
    error
}

fn signal_of(error: &Error) -> Option<i32> {
    error.worker().and_then(|it| it.signal)
}

fn code_of(error: &Error) -> Option<i32> {
    error.worker().and_then(|it| it.exit_code)
}

// How a task can die.

#[test]
fn a_task_that_dies_of_any_signal_fails_with_that_signal() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let harmless = [
            Signal::SIGCHLD,
            Signal::SIGCONT,
            Signal::SIGURG,
            Signal::SIGWINCH,
            // Rust programs ignore it, and Ctrl-C is the owner's to act on.
            Signal::SIGPIPE,
            Signal::SIGINT,
        ];
        let stopping = [
            Signal::SIGSTOP,
            Signal::SIGTSTP,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
        ];
        let deadly = Signal::iterator()
            .filter(|it| !harmless.contains(it) && !stopping.contains(it))
            .map(|it| it as i32)
            .chain([libc::SIGRTMIN(), libc::SIGRTMAX()]);
        for signal in deadly {
            let error = failure(pool.apply(raise, signal));
            let exit = error.worker().expect("a worker's death");
            assert_eq!((exit.signal, exit.exit_code), (Some(signal), None));
        }
        for signal in harmless {
            pool.apply(raise, signal as i32)?;
        }
        assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
        Ok(())
    })
}

#[test]
fn a_task_that_aborts_fails_with_the_signal() {
    in_time(|| {
        let error = death_by(|()| -> () { process::abort() }, ());
        assert_eq!(signal_of(&error), Some(Signal::SIGABRT as i32));
    });
}

#[test]
fn a_task_that_exits_fails_with_the_code() {
    in_time(|| {
        for code in [0, 1, 42, 255] {
            let error = death_by(|code| -> () { process::exit(code) }, code);
            assert_eq!((code_of(&error), signal_of(&error)), (Some(code), None));
        }
    });
}

#[test]
fn a_task_that_exits_at_once_fails_with_the_code() {
    in_time(|| {
        for code in [0, 7] {
            let error = death_by(exit_at_once, code);
            assert_eq!((code_of(&error), signal_of(&error)), (Some(code), None));
        }
    });
}

#[test]
fn a_task_that_touches_memory_that_is_not_there_fails_with_the_signal() {
    in_time(|| {
        let task = |()| {
            let nowhere = black_box(std::ptr::without_provenance::<u8>(8));
            // SAFETY: none: this is a bug, of the kind that a process pool is there for.
            unsafe { nowhere.read_volatile() }
        };
        let signal = signal_of(&death_by(task, ()));
        // Rust's own check for null pointers aborts in a debug build.
        let expected = [Signal::SIGSEGV, Signal::SIGABRT].map(|it| Some(it as i32));
        assert!(expected.contains(&signal), "{signal:?}");
    });
}

#[test]
fn a_task_that_turns_into_another_program_fails_with_its_exit_code() {
    in_time(|| {
        let task = |()| {
            let mut command = Command::new("sh");
            // It returns only if it fails.
            command.args(["-c", "exit 9"]).exec().to_string()
        };
        assert_eq!(code_of(&death_by(task, ())), Some(9));
    });
}

// Two processes come back from such a task, with one page, one pipe and one answer between them.
#[test]
fn a_task_that_forks_and_returns_twice_costs_no_more_than_itself() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let task = |x: u64| {
            // SAFETY: a worker has one thread.
            let _ = unsafe { nix::unistd::fork() };
            x + 1
        };
        for round in 0..20 {
            match pool.apply(task, round) {
                Ok(value) => assert_eq!(value, round + 1),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WorkerDied),
            }
            assert_eq!(
                pool.map(square, 0..500)?,
                (0..500).map(square).collect::<Vec<_>>()
            );
        }
        Ok(())
    })
}

fn overflow(depth: u64) -> u64 {
    let frame = black_box([depth; 128]);
    if depth == u64::MAX {
        return frame[0];
    }
    overflow(depth + 1) + black_box(frame)[1]
}

#[test]
fn a_task_that_overflows_its_stack_fails_with_the_signal() {
    in_time(|| {
        let signal = signal_of(&death_by(overflow, 0));
        let expected = [Signal::SIGSEGV, Signal::SIGABRT].map(|it| Some(it as i32));
        assert!(expected.contains(&signal), "{signal:?}");
    });
}

#[test]
fn a_task_whose_thread_kills_the_process_fails() {
    in_time(|| {
        let task = |()| thread::spawn(|| process::abort()).join().is_ok();
        let error = death_by(task, ());
        assert_eq!(signal_of(&error), Some(Signal::SIGABRT as i32));
    });
}

#[test]
fn the_error_of_a_death_names_the_process_and_the_signal_or_the_code() {
    in_time(|| {
        for (signal, name) in [(9, "SIGKILL"), (11, "SIGSEGV"), (15, "SIGTERM")] {
            let error = death_by(raise, signal);
            let pid = error.worker().expect("how it ended").pid.to_string();
            let text = error.to_string();
            assert!(text.contains(name) && text.contains(&pid), "{text}");
        }
        let text = death_by(exit_at_once, 42).to_string();
        assert!(text.contains("42"), "{text}");
    });
}

/// Ends the worker when it is decoded, encoded or dropped there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Moment {
    Decode,
    Encode,
    Drop,
}

#[derive(Debug)]
struct Deadly(Moment);

impl Deadly {
    fn acts_at(&self, moment: Moment) {
        if current_worker().is_some() && self.0 == moment {
            raise(Signal::SIGKILL as i32);
        }
    }
}

impl Serialize for Deadly {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        self.acts_at(Moment::Encode);
        self.0.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Deadly {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let decoded = Self(Moment::deserialize(from)?);
        decoded.acts_at(Moment::Decode);
        Ok(decoded)
    }
}

impl Drop for Deadly {
    fn drop(&mut self) {
        self.acts_at(Moment::Drop);
    }
}

#[test]
fn a_death_while_the_argument_is_decoded_is_the_tasks_own() {
    in_time(|| {
        let error = death_by(|_: Deadly| (), Deadly(Moment::Decode));
        assert_eq!(signal_of(&error), KILLED);
    });
}

#[test]
fn a_death_while_the_argument_is_dropped_is_the_tasks_own() {
    in_time(|| {
        let error = death_by(|_: Deadly| (), Deadly(Moment::Drop));
        assert_eq!(signal_of(&error), KILLED);
    });
}

#[test]
fn a_death_while_the_result_is_encoded_is_the_tasks_own() {
    in_time(|| {
        let error = death_by(Deadly, Moment::Encode);
        assert_eq!(signal_of(&error), KILLED);
    });
}

#[test]
fn a_death_while_the_result_is_dropped_is_the_tasks_own() {
    in_time(|| {
        let error = death_by(Deadly, Moment::Drop);
        assert_eq!(signal_of(&error), KILLED);
    });
}

// What a death costs.

#[test]
fn a_death_fails_exactly_one_of_many_futures() {
    in_time(|| {
        let pool = pool_of(2);
        for deadly in [0, 1, 50, 198, 199] {
            let task = |(x, deadly): (u32, u32)| {
                if x == deadly {
                    process::abort();
                }
                x
            };
            let futures: Vec<_> = (0..200).map(|x| pool.submit(task, (x, deadly))).collect();
            for (x, future) in (0..).zip(futures) {
                match future.result() {
                    Ok(value) => assert!(value == x && x != deadly),
                    Err(error) => {
                        assert_eq!(
                            (error.kind(), x),
                            (ErrorKind::WorkerDied, deadly),
                            "{error}"
                        );
                    }
                }
            }
        }
    });
}

fn dies_at_sevens(x: u32) -> u32 {
    if x % 100 == 7 {
        process::abort();
    }
    x
}

/// Checks that the items of a map over `0..` that `dies_at_sevens` failed, and no others.
fn check_sevens(results: impl IntoIterator<Item = Result<u32>>) {
    for (x, result) in (0..).zip(results) {
        match result {
            Ok(value) => assert!(value == x && x % 100 != 7),
            Err(error) => assert_eq!((error.kind(), x % 100), (ErrorKind::WorkerDied, 7)),
        }
    }
}

#[test]
fn a_death_in_a_map_costs_one_item_and_not_its_chunk() {
    in_time(|| {
        let pool = pool_of(2);
        check_sevens(pool.map_results(dies_at_sevens, 0..2000));
        for size in [1, 3, 64, 1000, 5000] {
            let options = pool.options().chunk_size(size);
            check_sevens(options.map_results(dies_at_sevens, 0..2000));
        }
    });
}

#[test]
fn deaths_in_a_stream_take_the_places_of_their_items() {
    in_time(|| {
        let pool = pool_of(2);
        let mut stream = pool.imap(dies_at_sevens, 0..1000);
        check_sevens(stream.by_ref());
        assert!(stream.next().is_none());
        let results: Vec<_> = pool.imap_unordered(dies_at_sevens, 0..1000).collect();
        let (values, errors): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        let mut values: Vec<u32> = values.into_iter().flatten().collect();
        values.sort_unstable();
        let expected: Vec<u32> = (0..1000).filter(|x| x % 100 != 7).collect();
        assert_eq!((values, errors.len()), (expected, 10));
    });
}

#[test]
fn a_map_fails_with_the_death_at_the_lowest_place() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let error = failure(pool.map(dies_at_sevens, 0..100_000));
        assert_eq!(error.kind(), ErrorKind::WorkerDied);
        let error = failure(pool.map_async(dies_at_sevens, 0..1000).result());
        assert_eq!(error.kind(), ErrorKind::WorkerDied);
        assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
        Ok(())
    })
}

#[test]
fn every_item_of_a_map_may_die() {
    in_time(|| {
        let results = pool_of(3).map_results(|_: u32| -> () { process::abort() }, 0..100);
        assert_eq!(results.len(), 100);
        for result in results {
            assert_eq!(failure(result).kind(), ErrorKind::WorkerDied);
        }
    });
}

#[test]
fn every_one_of_hundreds_of_tasks_may_die() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let futures: Vec<_> = (0..300)
            .map(|code| pool.submit(exit_at_once, code % 256))
            .collect();
        for (code, future) in (0..).zip(futures) {
            let error = failure(future.result());
            assert_eq!(code_of(&error), Some(code % 256), "{error:?}");
        }
        assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
        Ok(())
    })
}

#[test]
fn each_failed_future_has_a_death_of_its_own() {
    in_time(|| {
        let pool = pool_of(3);
        let gate = Gate::new();
        let futures: Vec<_> = (0..3).map(|_| pool.submit(pass, gate.path())).collect();
        gate.wait_for(3);
        let mut workers = pool.worker_pids();
        workers.iter().for_each(|it| kill(*it, Signal::SIGKILL));
        let errors = as_completed(futures).map(|it| failure(it.1));
        let mut dead: Vec<u32> = errors
            .map(|it| {
                assert_eq!(signal_of(&it), KILLED);
                it.worker().expect("how it ended").pid
            })
            .collect();
        workers.sort_unstable();
        dead.sort_unstable();
        assert_eq!(workers, dead);
    });
}

#[test]
fn a_death_wakes_every_kind_of_waiting() {
    in_time(|| {
        let pool = pool_of(2);
        let died = |outcome: Result<()>| assert_eq!(failure(outcome).kind(), ErrorKind::WorkerDied);
        let futures = [pool.submit(exit_at_once, 3), pool.submit(exit_at_once, 3)];
        let waited = wait(&futures, ReturnWhen::AllCompleted, None);
        assert_eq!(waited.done, [0, 1]);
        futures.into_iter().for_each(|it| died(it.result()));
        died(futures::executor::block_on(pool.submit(exit_at_once, 3)));
        let (tell, told) = std::sync::mpsc::channel();
        drop(pool.apply_async(exit_at_once, 3, move |it| {
            tell.send(it.as_ref().map(drop).map_err(Error::clone))
                .expect("the test waits");
        }));
        died(told.recv().expect("the callback was called"));
        let future = pool.submit(exit_at_once, 3);
        eventually("the future is done without a waiting thread", || {
            future.is_done()
        });
        died(future.result());
    });
}

#[test]
fn a_worker_that_died_is_replaced_at_its_place() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        for _ in 0..10 {
            let before = pool.worker_pids();
            failure(pool.apply(exit_at_once, 1));
            let worker = pool.apply(|()| current_worker().map(|it| (it.id, it.pid)), ())?;
            let (id, pid) = worker.expect("it runs in a worker");
            assert_eq!(id, 0);
            assert!(!before.contains(&pid));
            assert_eq!(pool.worker_pids(), [pid]);
        }
        Ok(())
    })
}

#[test]
fn dead_workers_are_replaced_while_nobody_waits() {
    in_time(|| {
        let pool = pool_of(3);
        let before = pool.worker_pids();
        before.iter().for_each(|it| kill(*it, Signal::SIGKILL));
        eventually("there are three other workers", || {
            let now = pool.worker_pids();
            now.len() == 3 && !now.iter().any(|it| before.contains(it))
        });
    });
}

// A death at the moment of the reply.

/// Lets a thread of this process kill it, about now.
fn race_to_the_end(value: Vec<u8>) -> (u32, Vec<u8>) {
    thread::spawn(|| raise(Signal::SIGKILL as i32));
    (process::id(), value)
}

#[test]
fn a_task_that_ends_with_its_worker_gives_its_value_or_the_death() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for size in [1, 1000, 60_000, 200_000] {
            for round in 0..20 {
                let bytes = vec![round; size];
                match pool.apply(race_to_the_end, bytes.clone()) {
                    Ok((pid, value)) => {
                        assert!(value == bytes);
                        // Else it dies in the next task.
                        eventually("the worker is dead", || {
                            Process::of(pid).is_none_or(|it| !it.runs())
                        });
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WorkerDied),
                }
            }
        }
        assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
        Ok(())
    })
}

#[test]
fn large_values_stay_whole_when_their_workers_die_before_they_are_read() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        for round in 0..10 {
            let bytes = |it: u8| vec![it ^ round; 300_000];
            let futures: Vec<_> = (0..8)
                .map(|it| pool.submit(|x: Vec<u8>| x, bytes(it)))
                .collect();
            wait(&futures, ReturnWhen::AllCompleted, None);
            pool.worker_pids()
                .iter()
                .for_each(|it| kill(*it, Signal::SIGKILL));
            for (it, future) in (0..).zip(futures) {
                assert!(future.result()? == bytes(it));
            }
        }
        Ok(())
    })
}

#[test]
fn large_arguments_reach_another_worker_when_theirs_dies() -> Result<()> {
    in_time(|| {
        for _ in 0..5 {
            let pool = pool_of(1);
            let gate = Gate::new();
            let held = pool.submit(pass, gate.path());
            gate.wait_for(1);
            let bytes = |it: u8| vec![it; 300_000];
            let futures: Vec<_> = (0..8)
                .map(|it| pool.submit(|x: Vec<u8>| x, bytes(it)))
                .collect();
            kill(pool.worker_pids()[0], Signal::SIGKILL);
            assert_eq!(failure(held.result()).kind(), ErrorKind::WorkerDied);
            for (it, future) in (0..).zip(futures) {
                assert!(future.result()? == bytes(it));
            }
        }
        Ok(())
    })
}

// Idle workers.

#[test]
fn an_idle_worker_that_is_killed_again_and_again_is_no_future_s_business() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        assert_eq!(pool.map(square, 0..10_000)?.len(), 10_000);
        let mut kills = 0;
        race(|| {
            let victim = pool.worker_pids().into_iter().nth(kills % 2);
            victim.into_iter().for_each(|it| kill(it, Signal::SIGKILL));
            kills += 1;
            let futures: Vec<_> = (0..20).map(|x| pool.submit(square, x)).collect();
            for (x, future) in (0..).zip(futures) {
                assert_eq!(future.result().expect("no task ran in the victim"), x * x);
            }
        });
        assert_eq!(pool.map(square, 0..10_000)?.len(), 10_000);
        Ok(())
    })
}

#[test]
fn all_idle_workers_may_be_killed_at_once() -> Result<()> {
    in_time(|| {
        let pool = pool_of(4);
        for _ in 0..20 {
            assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
            pool.worker_pids()
                .iter()
                .for_each(|it| kill(*it, Signal::SIGKILL));
        }
        assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
        Ok(())
    })
}

#[test]
fn workers_killed_before_they_are_ready_do_not_break_the_pool() -> Result<()> {
    in_time(|| {
        for _ in 0..5 {
            // More than the failed starts that a pool bears.
            let pool = pool_of(16);
            pool.worker_pids()
                .iter()
                .for_each(|it| kill(*it, Signal::SIGKILL));
            assert_eq!(pool.map(square, 0..100)?.len(), 100);
        }
        Ok(())
    })
}

#[test]
fn all_busy_workers_may_be_killed_at_once() -> Result<()> {
    in_time(|| {
        let pool = pool_of(4);
        let gate = Gate::new();
        let busy: Vec<_> = (0..4).map(|_| pool.submit(pass, gate.path())).collect();
        gate.wait_for(4);
        let queued: Vec<_> = (0..500).map(|x| pool.submit(square, x)).collect();
        pool.worker_pids()
            .iter()
            .for_each(|it| kill(*it, Signal::SIGKILL));
        for future in busy {
            assert_eq!(signal_of(&failure(future.result())), KILLED);
        }
        for (x, future) in (0..).zip(queued) {
            assert_eq!(future.result()?, x * x);
        }
        Ok(())
    })
}

// Stopped workers.

#[test]
fn a_stopped_idle_worker_that_is_killed_loses_nothing() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let worker = process(pool.worker_pids()[0]);
        kill(worker.pid, Signal::SIGSTOP);
        eventually("the worker is stopped", || {
            Process::of(worker.pid).is_some_and(|it| it.state == 'T')
        });
        let futures: Vec<_> = (0..1000).map(|x| pool.submit(square, x)).collect();
        let mut map = pool.imap(square, 0..1000);
        assert!(map.next().is_some());
        kill(worker.pid, Signal::SIGKILL);
        for (x, future) in (0..).zip(futures) {
            assert_eq!(future.result()?, x * x);
        }
        assert_eq!(map.collect::<Result<Vec<_>>>()?.len(), 999);
        Ok(())
    })
}

#[test]
fn a_stopped_busy_worker_that_is_killed_loses_its_task_alone() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let held = pool.submit(pass, gate.path());
        gate.wait_for(1);
        let futures: Vec<_> = (0..1000).map(|x| pool.submit(square, x)).collect();
        let worker = pool.worker_pids()[0];
        kill(worker, Signal::SIGSTOP);
        kill(worker, Signal::SIGKILL);
        assert_eq!(signal_of(&failure(held.result())), KILLED);
        for (x, future) in (0..).zip(futures) {
            assert_eq!(future.result()?, x * x);
        }
        Ok(())
    })
}

#[test]
fn a_stopped_worker_that_goes_on_has_lost_nothing() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let workers = pool.worker_pids();
        workers.iter().for_each(|it| kill(*it, Signal::SIGSTOP));
        let futures: Vec<_> = (0..1000).map(|x| pool.submit(square, x)).collect();
        workers.iter().for_each(|it| kill(*it, Signal::SIGCONT));
        for (x, future) in (0..).zip(futures) {
            assert_eq!(future.result()?, x * x);
        }
        assert_eq!(pool.worker_pids(), workers);
        Ok(())
    })
}

#[test]
fn a_stopped_worker_does_not_block_who_submits_and_cancels() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        // Short tasks, so that many are sent ahead.
        assert_eq!(pool.map(square, 0..10_000)?.len(), 10_000);
        for x in 0..2000 {
            assert_eq!(pool.apply(square, x)?, x * x);
        }
        let worker = pool.worker_pids()[0];
        kill(worker, Signal::SIGSTOP);
        // Each large argument comes with a descriptor, on a socket that the worker does not read.
        for _ in 0..10 {
            let futures: Vec<_> = (0..120)
                .map(|_| pool.submit(|x: Vec<u8>| x.len(), vec![0; 70_000]))
                .collect();
            futures.iter().for_each(|it| assert!(it.cancel()));
        }
        kill(worker, Signal::SIGKILL);
        assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
        Ok(())
    })
}

#[test]
fn a_pool_with_a_stopped_worker_comes_to_an_end() {
    in_time(|| {
        let pool = pool_of(2);
        assert_eq!(
            pool.map(square, 0..100).expect("a pool that works").len(),
            100
        );
        let worker = process(pool.worker_pids()[0]);
        kill(worker.pid, Signal::SIGSTOP);
        pool.join().expect("a pool that ends");
        assert!(!worker.runs());
    });
}

// The end of a pool whose workers die.

#[test]
fn a_worker_whose_thread_runs_on_ends_with_its_pool() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let task = |()| {
            thread::spawn(|| {
                loop {
                    std::hint::spin_loop();
                }
            });
        };
        pool.apply(task, ())?;
        let worker = process(pool.worker_pids()[0]);
        pool.join()?;
        assert!(!worker.runs());
        Ok(())
    })
}

#[test]
fn a_pool_whose_workers_die_while_it_is_joined_ends() {
    in_time(|| {
        race_until("a task died with its worker", || {
            let pool = pool_of(3);
            let futures: Vec<_> = (0..200).map(|x| pool.submit(square, x)).collect();
            pool.close();
            pool.worker_pids()
                .iter()
                .for_each(|it| kill(*it, Signal::SIGKILL));
            pool.join().expect("a pool that was closed");
            assert!(futures.iter().all(TaskFuture::is_done));
            let errors = futures
                .into_iter()
                .filter_map(|future| future.result().err());
            let kinds: Vec<_> = errors.map(|error| error.kind()).collect();
            assert!(kinds.iter().all(|kind| *kind == ErrorKind::WorkerDied));
            !kinds.is_empty()
        });
    });
}

#[test]
fn a_pool_whose_tasks_all_die_can_be_dropped() {
    in_time(|| {
        let pool = pool_of(2);
        let futures: Vec<_> = (0..100).map(|_| pool.submit(exit_at_once, 9)).collect();
        drop(pool);
        for future in futures {
            assert_eq!(code_of(&failure(future.result())), Some(9));
        }
    });
}

#[test]
fn a_worker_that_closes_all_its_descriptors_costs_no_more_than_its_task() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        for _ in 0..5 {
            let task = |()| {
                // SAFETY: none for the crate's own descriptors: a task is at fault that does so,
                // and pays for it.
                unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
            };
            if let Err(error) = pool.apply(task, ()) {
                assert_eq!(error.kind(), ErrorKind::WorkerDied);
            }
            assert_eq!(pool.apply(square, 5)?, 25);
        }
        Ok(())
    })
}

#[test]
fn a_worker_that_leaks_descriptors_costs_no_more_than_its_task() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let task = |()| {
            while let Ok(file) = std::fs::File::open("/dev/null") {
                std::mem::forget(file);
            }
        };
        pool.apply(task, ())?;
        // No descriptor is left for the memory of large values.
        let bytes = vec![7; 1 << 20];
        for _ in 0..5 {
            if let Err(error) = pool.apply(|x: Vec<u8>| x, bytes.clone()) {
                let kinds = [ErrorKind::WorkerDied, ErrorKind::Codec, ErrorKind::Io];
                assert!(kinds.contains(&error.kind()), "{error:?}");
            }
        }
        failure(pool.apply(exit_at_once, 1));
        assert!(pool.apply(|x: Vec<u8>| x, bytes.clone())? == bytes);
        Ok(())
    })
}

/// Leaves this process so little memory that no argument of megabytes can be taken in.
fn leave_no_room((): ()) -> std::result::Result<(), String> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(|it| it.to_string())?;
    let size = status.lines().find_map(|it| it.strip_prefix("VmSize:"));
    let kibibytes = size.and_then(|it| it.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let bytes = kibibytes.unwrap_or(0) * 1024 + (16 << 20);
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: the kernel reads a local.
    match unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) } {
        0 => Ok(()),
        _ => Err("setrlimit failed".to_owned()),
    }
}

#[test]
fn an_argument_that_no_worker_has_room_for_fails_its_task_alone() -> Result<()> {
    in_time(|| {
        let pool = ProcessPoolExecutor::builder()
            .workers(2)
            .initializer(leave_no_room, ())
            .build()?;
        assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
        for _ in 0..3 {
            let error = failure(pool.apply(|x: Vec<u8>| x.len(), vec![0; 64 << 20]));
            let kinds = [ErrorKind::WorkerDied, ErrorKind::Codec, ErrorKind::Io];
            assert!(kinds.contains(&error.kind()), "{error:?}");
            assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
        }
        Ok(())
    })
}

#[test]
fn the_programs_that_tasks_run_have_nothing_to_do_with_deaths() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let task = |code: i32| {
            let status = Command::new("sh")
                .args(["-c", &format!("exit {code}")])
                .status();
            status.ok().and_then(|it| it.code())
        };
        let codes = pool.map(task, 0..20)?;
        assert_eq!(codes, (0..20).map(Some).collect::<Vec<_>>());
        let first = pool.apply(process_id, ())?;
        assert!(pool.worker_pids().contains(&first));
        Ok(())
    })
}
