//! What dead workers leave behind: processes that hold their pipes, and programs without a parent
//! that waits for them.

#![expect(unsafe_code, reason = "a task that forks")]

use super::worker_deaths::exit_at_once;
use common::processes::{Process, eventually, kill, process};
use common::{Gate, failure, in_time, pass, pool_of, square};
use nix::{
    sys::signal::Signal,
    unistd::{ForkResult, fork, pause, setsid},
};
use procpool::{ErrorKind, Result};
use std::{
    fs,
    path::PathBuf,
    process::{self, Command, Stdio},
};

/// Starts a program that runs forever, and returns its process id.
fn start_sleep((): ()) -> u32 {
    let mut command = Command::new("sleep");
    command
        .arg("1000")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
        .stderr(Stdio::null())
        .spawn()
        .map_or(0, |it| it.id())
}

/// Starts a program that runs forever, writes its process id to a file, and dies.
fn start_sleep_and_die(file: PathBuf) {
    if fs::write(file, start_sleep(()).to_string()).is_ok() {
        process::abort();
    }
}

/// The process whose id a task has written to a file.
fn written_to(file: &PathBuf) -> Option<Process> {
    Process::of(fs::read_to_string(file).ok()?.parse().ok()?)
}

/// Forks a process that holds every descriptor of the worker, pipes and all, and sleeps forever.
fn fork_a_sleeper((): ()) -> u32 {
    // SAFETY: a worker has one thread, and the child calls nothing that takes a lock.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => loop {
            pause();
        },
        Ok(ForkResult::Parent { child }) => child.as_raw().cast_unsigned(),
        Err(_) => 0,
    }
}

/// Forks a process twice removed that holds every descriptor of the worker, in a session of its
/// own.
fn fork_a_daemon((): ()) -> u32 {
    // SAFETY: as above.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            // It cannot fail for a process just forked.
            let _ = setsid();
            fork_a_sleeper(());
            // SAFETY: it runs no code of this process.
            unsafe { libc::_exit(0) }
        }
        Ok(ForkResult::Parent { child }) => child.as_raw().cast_unsigned(),
        Err(_) => 0,
    }
}

#[test]
fn a_program_that_a_dead_worker_has_started_is_killed() {
    in_time(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("pid");
        let pool = pool_of(2);
        let error = failure(pool.apply(start_sleep_and_die, file.clone()));
        assert_eq!(error.kind(), ErrorKind::WorkerDied);
        eventually("the program is gone", || {
            written_to(&file).is_none_or(|it| !it.runs())
        });
    });
}

#[test]
fn a_program_that_a_killed_worker_has_started_is_killed() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let orphan = process(pool.apply(start_sleep, ())?);
        kill(pool.worker_pids()[0], Signal::SIGKILL);
        eventually("the program is gone", || !orphan.runs());
        assert_eq!(pool.apply(square, 3)?, 9);
        Ok(())
    })
}

#[test]
fn a_program_that_a_task_has_started_goes_with_its_pool() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let orphan = process(pool.apply(start_sleep, ())?);
        drop(pool);
        eventually("the program is gone", || !orphan.runs());
        Ok(())
    })
}

/// Starts a program that runs forever and whose parent ends at once, and returns its process id.
fn detach_sleep((): ()) -> Option<u32> {
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]);
    let said = String::from_utf8(command.output().ok()?.stdout).ok()?;
    said.trim().parse().ok()
}

#[test]
fn a_program_that_a_task_has_detached_is_killed_when_another_pools_worker_ends() -> Result<()> {
    in_time(|| {
        let (pool, other) = (pool_of(1), pool_of(1));
        let pid = pool.apply(detach_sleep, ())?.expect("a shell");
        // Gone already if a worker of another test has ended meanwhile.
        let orphan = Process::of(pid);
        drop(other);
        eventually("the program is gone", || {
            orphan.as_ref().is_none_or(|it| !it.runs())
        });
        assert_eq!(pool.apply(square, 3)?, 9);
        Ok(())
    })
}

#[test]
fn a_program_of_a_living_worker_outlives_the_death_of_another() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let gate = Gate::new();
        let task = |gate| {
            pass(gate);
            start_sleep(())
        };
        let futures = [(), ()].map(|()| pool.submit(task, gate.path()));
        gate.wait_for(2);
        gate.open();
        let [one, other] = futures.map(|it| it.result().map(process));
        let (one, other) = (one?, other?);
        kill(one.parent, Signal::SIGKILL);
        eventually("the program of the dead worker is gone", || !one.runs());
        assert!(other.runs() && pool.worker_pids().contains(&other.parent));
        Ok(())
    })
}

#[test]
fn a_process_that_holds_a_dead_workers_pipes_delays_nothing() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        for fork in [fork_a_sleeper, fork_a_daemon] {
            pool.apply(fork, ())?;
            let error = failure(pool.apply(exit_at_once, 5));
            assert_eq!(error.worker().and_then(|it| it.exit_code), Some(5));
            assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
        }
        Ok(())
    })
}

#[test]
fn a_process_that_holds_a_living_workers_pipes_does_not_delay_the_pools_end() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let sleeper = process(pool.apply(fork_a_sleeper, ())?);
        pool.apply(fork_a_daemon, ())?;
        pool.join()?;
        eventually("the process is gone", || !sleeper.runs());
        Ok(())
    })
}

#[test]
fn a_process_that_holds_an_idle_killed_workers_pipes_delays_nothing() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        for _ in 0..10 {
            pool.apply(fork_a_sleeper, ())?;
            kill(pool.worker_pids()[0], Signal::SIGKILL);
            assert_eq!(pool.map(square, 0..100)?.len(), 100);
        }
        Ok(())
    })
}
