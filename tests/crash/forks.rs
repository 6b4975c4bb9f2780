//! A host program that forks: the copy never touches the pool's workers, and can have a pool of its
//! own.
//!
//! Everything here runs in programs, as the copy has but one of the threads of its original.

#![expect(unsafe_code, reason = "a host program that forks")]

use common::processes::{Process, Program, eventually, listen, process, say};
use common::{Gate, failure, in_time, pass, pool_of, process_id, square};
use nix::{
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::{ForkResult, Pid, fork},
};
use procpool::{
    Error, ErrorKind, ProcessPoolExecutor, Result, ReturnWhen, as_completed, current_worker, wait,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("use the pool in a copy", use_in_a_copy),
    ("use futures in a copy", use_futures_in_a_copy),
    ("wait for futures in a copy", wait_in_a_copy),
    ("drop the pool in a copy", drop_in_a_copy),
    ("build a pool in a copy", build_in_a_copy),
    (
        "have the shared pool in a copy",
        have_the_shared_pool_in_a_copy,
    ),
    ("print next to a copy", print_beside_a_copy),
    ("be killed next to a copy", be_killed_beside_a_copy),
];

/// Runs `code` in a copy of this process.
fn start_copy(code: impl FnOnce()) -> Pid {
    // SAFETY: what the copy does in `code` is what is tested here; a deadlock of its own is a
    // failure in time.
    match unsafe { fork() }.expect("a copy of this process") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let outcome = catch_unwind(AssertUnwindSafe(code));
            // SAFETY: it runs no code of this process, of which the original is not done with
            // anything.
            unsafe { libc::_exit(i32::from(outcome.is_err())) }
        }
    }
}

/// Runs `code` in a copy of this process, which must come to a good end.
fn in_a_copy(code: impl FnOnce()) {
    let copy = start_copy(code);
    eventually("the copy ends", || {
        let status = waitpid(copy, Some(WaitPidFlag::WNOHANG)).expect("a child");
        match status {
            WaitStatus::Exited(_, code) => {
                assert_eq!(code, 0, "the copy failed");
                true
            }
            WaitStatus::Signaled(..) => panic!("the copy was killed"),
            _ => false,
        }
    });
}

fn is_unsupported(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

/// Checks that a pool has the workers it had and that they work.
fn check_unharmed(pool: &ProcessPoolExecutor, workers: &[u32]) {
    assert_eq!(
        pool.map(square, 0..1000).expect("a pool that works").len(),
        1000
    );
    assert_eq!(pool.worker_pids(), workers);
}

fn use_in_a_copy() {
    let pool = pool_of(2);
    let workers = pool.worker_pids();
    assert_eq!(pool.apply(square, 3).expect("a pool that works"), 9);
    in_a_copy(|| {
        is_unsupported(&failure(pool.apply(square, 3)));
        is_unsupported(&failure(pool.submit(square, 3).result()));
        is_unsupported(&failure(pool.map(square, 0..10)));
        is_unsupported(&failure(pool.map_async(square, 0..10).result()));
        is_unsupported(&failure(pool.starmap(u64::pow, [(2, 3)])));
        is_unsupported(&failure(pool.map_with(7, |c: &u64, x: u64| c + x, 0..10)));
        let results = pool.map_results(square, 0..10);
        assert_eq!(results.len(), 10);
        results
            .into_iter()
            .for_each(|it| is_unsupported(&failure(it)));
        let mut stream = pool.imap(square, 0..10);
        is_unsupported(&failure(stream.next().expect("an error")));
        is_unsupported(&failure(futures::executor::block_on(
            pool.submit(square, 3),
        )));
        assert!(pool.worker_pids().is_empty());
    });
    check_unharmed(&pool, &workers);
    in_a_copy(|| {
        is_unsupported(&failure(pool.join()));
        is_unsupported(&failure(pool.join_timeout(Duration::ZERO)));
        pool.close();
        pool.shutdown(true);
        pool.terminate();
        pool.kill();
    });
    check_unharmed(&pool, &workers);
}

#[test]
fn a_pool_cannot_be_used_in_a_copy_of_its_process() {
    in_time(|| drop(Program::start("use the pool in a copy").succeed()));
}

fn use_futures_in_a_copy() {
    let pool = pool_of(2);
    let workers = pool.worker_pids();
    let gate = Gate::new();
    let done = pool.submit(square, 3);
    eventually("a task is done", || done.is_done());
    let mut running = pool.submit(pass, gate.path());
    gate.wait_for(1);
    let mut stream = pool.imap(square, 0..1000);
    assert_eq!(stream.next().expect("a value").expect("a value"), 0);
    in_a_copy(|| {
        assert!(!running.is_done() && !running.is_running() && !running.cancel());
        is_unsupported(&failure(running.result_timeout(Duration::ZERO)));
        is_unsupported(&failure(futures::executor::block_on(&mut running)));
        // What had arrived before may be had.
        let error = stream.by_ref().find_map(Result::err);
        is_unsupported(&error.expect("the rest never comes"));
        assert!(done.is_done());
    });
    drop(gate);
    running
        .result_timeout(Duration::MAX)
        .expect("the original goes on");
    assert_eq!(stream.count(), 999);
    assert_eq!(done.result().expect("it was done before"), 9);
    check_unharmed(&pool, &workers);
}

#[test]
fn a_future_that_is_not_done_is_unsupported_in_a_copy_of_its_process() {
    in_time(|| drop(Program::start("use futures in a copy").succeed()));
}

fn wait_in_a_copy() {
    let pool = pool_of(2);
    let workers = pool.worker_pids();
    let gate = Gate::new();
    let running = [(), ()].map(|()| pool.submit(pass, gate.path()));
    gate.wait_for(2);
    in_a_copy(|| {
        let waited = wait(&running, ReturnWhen::AllCompleted, Some(Duration::ZERO));
        assert_eq!(waited.not_done, [0, 1]);
        // Nothing ever comes in a copy: a wait without a limit must fail.
        wait(&running, ReturnWhen::FirstCompleted, None);
    });
    check_busy(&pool, &workers);
    let mut running = Some(running);
    in_a_copy(|| {
        let completed = as_completed(running.take().into_iter().flatten());
        completed.for_each(|it| is_unsupported(&failure(it.1)));
    });
}

/// Checks that a pool has the workers it had.
fn check_busy(pool: &ProcessPoolExecutor, workers: &[u32]) {
    assert_eq!(pool.worker_pids(), workers);
}

#[test]
fn waiting_for_futures_in_a_copy_of_their_process_comes_to_an_end() {
    in_time(|| drop(Program::start("wait for futures in a copy").succeed()));
}

fn drop_in_a_copy() {
    let pool = pool_of(2);
    let workers = pool.worker_pids();
    let futures: Vec<_> = (0..1000).map(|x| pool.submit(square, x)).collect();
    let (mut pool, mut futures) = (Some(pool), Some(futures));
    in_a_copy(|| {
        drop(pool.take());
        drop(futures.take());
    });
    let (pool, futures) = (pool.expect("the original"), futures.into_iter().flatten());
    for (x, future) in (0..).zip(futures) {
        assert_eq!(future.result().expect("the original goes on"), x * x);
    }
    check_unharmed(&pool, &workers);
}

#[test]
fn a_pool_dropped_in_a_copy_of_its_process_is_unharmed() {
    in_time(|| drop(Program::start("drop the pool in a copy").succeed()));
}

fn build_in_a_copy() {
    let pool = pool_of(2);
    let workers = pool.worker_pids();
    in_a_copy(|| {
        let own = pool_of(2);
        assert_eq!(
            own.map(square, 0..1000).expect("a pool that works").len(),
            1000
        );
        let worker = own.apply(process_id, ()).expect("a pool that works");
        assert!(!workers.contains(&worker));
        let inner = own.apply(|()| current_worker().map(|it| it.id), ());
        assert!(inner.expect("a pool that works").is_some());
        // A copy of the copy.
        in_a_copy(|| {
            is_unsupported(&failure(own.apply(square, 3)));
            assert_eq!(pool_of(1).apply(square, 3).expect("a pool that works"), 9);
        });
        check_unharmed(&own, &own.worker_pids());
    });
    check_unharmed(&pool, &workers);
}

#[test]
fn a_copy_of_a_process_can_have_a_pool_of_its_own() {
    in_time(|| drop(Program::start("build a pool in a copy").succeed()));
}

fn have_the_shared_pool_in_a_copy() {
    let shared = || ProcessPoolExecutor::reusable().expect("a pool");
    let pool = shared();
    let workers = pool.worker_pids();
    in_a_copy(|| {
        let own = shared();
        assert!(!Arc::ptr_eq(&own, &pool) && Arc::ptr_eq(&own, &shared()));
        check_unharmed(&own, &own.worker_pids());
        assert!(own.worker_pids().iter().all(|it| !workers.contains(it)));
    });
    assert!(Arc::ptr_eq(&pool, &shared()));
    check_unharmed(&pool, &workers);
}

#[test]
fn a_copy_of_a_process_has_a_shared_pool_of_its_own() {
    in_time(|| drop(Program::start("have the shared pool in a copy").succeed()));
}

/// Runs a task that prints half a line, and ends the pool while a copy holds all its pipes.
fn print_beside_a_copy() {
    let pool = pool_of(1);
    // It ends with this process's input, at the latest.
    let copy = start_copy(|| while listen() {});
    pool.apply(|()| print!("=> half a line"), ())
        .expect("a pool that works");
    pool.join().expect("a pool that ends");
    println!();
    kill_copy(copy);
    say("done");
}

fn kill_copy(copy: Pid) {
    nix::sys::signal::kill(copy, nix::sys::signal::Signal::SIGKILL).expect("a child");
    waitpid(copy, None).expect("a child");
}

#[test]
fn what_a_worker_printed_appears_though_a_copy_of_its_owner_holds_the_pipes() {
    in_time(|| {
        let mut program = Program::start("print next to a copy");
        assert_eq!([program.hear(), program.hear()], ["half a line", "done"]);
        program.succeed();
    });
}

/// Lets a copy hold every descriptor, prints the processes, and runs on forever.
fn be_killed_beside_a_copy() {
    let pool = pool_of(2);
    let gate = Gate::new();
    let _running = [(), ()].map(|()| pool.submit(pass, gate.path()));
    gate.wait_for(2);
    let copy = start_copy(|| while listen() {});
    let [one, other] = pool.worker_pids()[..] else {
        unreachable!("two workers")
    };
    say(format!("{} {one} {other}", copy.as_raw()));
    while listen() {}
}

#[test]
fn no_worker_outlives_its_owner_though_a_copy_of_it_does() {
    in_time(|| {
        let mut program = Program::start("be killed next to a copy");
        let pids = program.hear_numbers();
        let (copy, workers) = (process(pids[0]), [pids[1], pids[2]].map(process));
        program.kill();
        eventually("the workers are gone", || {
            !workers.iter().any(Process::runs)
        });
        assert!(copy.runs());
    });
}
