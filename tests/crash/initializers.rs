//! Initializers that fail, panic or die: every future hears of it, in bounded time.

use common::processes::{eventually, kill};
use common::{Gate, failure, in_time, pass, square};
use nix::sys::signal::Signal;
use procpool::{Error, ErrorKind, ProcessPoolExecutor, Result, TaskFuture};
use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    process,
};

type Initializer<A> = fn(A) -> std::result::Result<(), String>;

/// Builds a pool with an initializer that does not come to a good end, and checks that every call
/// fails.
fn broken_by<A>(initializer: Initializer<A>, arg: A) -> Error
where
    A: procpool::Wire + Send + 'static,
{
    let built = ProcessPoolExecutor::builder()
        .workers(3)
        .initializer(initializer, arg)
        .build();
    let pool = match built {
        Ok(pool) => pool,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::StartFailed);
            return error;
        }
    };
    let early: Vec<TaskFuture<u64>> = (0..100).map(|x| pool.submit(square, x)).collect();
    let mapped = pool.map_async(square, 0..1000);
    for future in early {
        assert_eq!(failure(future.result()).kind(), ErrorKind::StartFailed);
    }
    assert_eq!(failure(mapped.result()).kind(), ErrorKind::StartFailed);
    assert_eq!(
        failure(pool.map(square, 0..10)).kind(),
        ErrorKind::StartFailed
    );
    for result in pool.map_results(square, 0..10) {
        assert_eq!(failure(result).kind(), ErrorKind::StartFailed);
    }
    let late = failure(pool.apply(square, 1));
    assert_eq!(late.kind(), ErrorKind::StartFailed);
    assert_eq!(failure(pool.join()).kind(), ErrorKind::StartFailed);
    eventually("no worker is left", || pool.worker_pids().is_empty());
    late
}

#[test]
fn an_initializer_that_fails_breaks_the_pool_with_its_text() {
    in_time(|| {
        let error = broken_by(|what: String| Err(format!("no {what}")), "tea".to_owned());
        assert!(error.to_string().contains("no tea"), "{error}");
    });
}

#[test]
fn an_initializer_that_panics_breaks_the_pool_with_its_message() {
    in_time(|| {
        let error = broken_by(|()| panic!("no more tea"), ());
        assert!(error.to_string().contains("no more tea"), "{error}");
    });
}

#[test]
fn an_initializer_that_dies_breaks_the_pool_with_the_signal() {
    in_time(|| {
        let error = broken_by(|()| process::abort(), ());
        assert!(error.to_string().contains("SIGABRT"), "{error}");
    });
}

#[test]
fn an_initializer_that_exits_breaks_the_pool_with_the_code() {
    in_time(|| {
        for code in [0, 42] {
            let error = broken_by(|code| process::exit(code), code);
            assert!(error.to_string().contains(&code.to_string()), "{error}");
        }
    });
}

/// Dies as often as there are names in the list; a place in it can be taken once.
fn die_a_few_times(places: Vec<PathBuf>) -> std::result::Result<(), String> {
    for place in places {
        if File::create_new(place).is_ok() {
            process::abort();
        }
    }
    Ok(())
}

#[test]
fn an_initializer_that_dies_a_few_times_only_delays_the_pool() -> Result<()> {
    in_time(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let places = (0..4).map(|it| directory.path().join(it.to_string()));
        let pool = ProcessPoolExecutor::builder()
            .workers(2)
            .initializer(die_a_few_times, places.collect())
            .build()?;
        let futures: Vec<_> = (0..100).map(|x| pool.submit(square, x)).collect();
        for (x, future) in (0..).zip(futures) {
            assert_eq!(future.result()?, x * x);
        }
        eventually("both workers live", || pool.worker_pids().len() == 2);
        Ok(())
    })
}

fn wait_at(gate: PathBuf) -> std::result::Result<(), String> {
    pass(gate);
    Ok(())
}

// One blow, no place in the pool has failed twice: nothing that starting again would not mend.
#[test]
fn workers_that_are_killed_together_while_they_start_do_not_break_the_pool() -> Result<()> {
    in_time(|| {
        let gate = Gate::new();
        let pool = ProcessPoolExecutor::builder()
            .workers(16)
            .initializer(wait_at, gate.path())
            .build()?;
        let futures: Vec<_> = (0..100).map(|x| pool.submit(square, x)).collect();
        gate.wait_for(16);
        pool.worker_pids()
            .iter()
            .for_each(|it| kill(*it, Signal::SIGKILL));
        drop(gate);
        for (x, future) in (0..).zip(futures) {
            assert_eq!(future.result()?, x * x);
        }
        Ok(())
    })
}

#[test]
fn a_worker_that_is_killed_again_and_again_while_it_starts_does_not_break_the_pool() -> Result<()> {
    in_time(|| {
        let gate = Gate::new();
        let pool = ProcessPoolExecutor::builder()
            .workers(1)
            .initializer(wait_at, gate.path())
            .build()?;
        let future = pool.submit(square, 3);
        for _ in 0..7 {
            gate.wait_for(1);
            kill(pool.worker_pids()[0], Signal::SIGKILL);
        }
        drop(gate);
        assert_eq!(future.result()?, 9);
        Ok(())
    })
}

#[test]
fn an_initializer_that_kills_each_worker_breaks_the_pool() {
    in_time(|| {
        let kill_itself = |()| -> std::result::Result<(), String> {
            kill(process::id(), Signal::SIGKILL);
            Ok(())
        };
        let error = broken_by(kill_itself, ());
        assert!(error.to_string().contains("SIGKILL"), "{error}");
    });
}

/// Waits at the gate in the first worker that comes by.
fn hold_up_one((gate, place): (PathBuf, PathBuf)) -> std::result::Result<(), String> {
    if File::create_new(place).is_ok() {
        pass(gate);
    }
    Ok(())
}

#[test]
fn no_task_waits_for_an_initializer_while_another_worker_is_idle() -> Result<()> {
    in_time(|| {
        for round in 0..20 {
            let gate = Gate::new();
            let place = gate.path().join("place");
            let pool = ProcessPoolExecutor::builder()
                .workers(2)
                .initializer(hold_up_one, (gate.path(), place))
                .build()?;
            // Before any worker is ready, or after that.
            if round % 2 == 1 {
                gate.wait_for(1);
            }
            let futures: Vec<_> = (0..3).map(|x| pool.submit(square, x)).collect();
            for (x, future) in (0..).zip(futures) {
                assert_eq!(future.result()?, x * x);
            }
            assert_eq!(pool.apply(square, 3)?, 9);
            assert_eq!(pool.map(square, 0..100)?.len(), 100);
            drop(gate);
            pool.join()?;
        }
        Ok(())
    })
}

/// Fails once the file is there.
fn fail_behind(file: PathBuf) -> std::result::Result<(), String> {
    if file.exists() {
        return Err("too late".to_owned());
    }
    Ok(())
}

#[test]
fn an_initializer_that_fails_in_a_replacement_breaks_the_pool() -> Result<()> {
    in_time(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("file");
        let pool = ProcessPoolExecutor::builder()
            .workers(1)
            .initializer(fail_behind, file.clone())
            .build()?;
        assert_eq!(pool.apply(square, 3)?, 9);
        fs::write(&file, "").expect("a file");
        kill(pool.worker_pids()[0], Signal::SIGKILL);
        let error = failure(pool.apply(square, 3));
        assert_eq!(error.kind(), ErrorKind::StartFailed);
        assert!(error.to_string().contains("too late"), "{error}");
        Ok(())
    })
}

/// Writes a line to a file.
fn leave_a_line(file: PathBuf) -> std::result::Result<(), String> {
    let file = File::options().append(true).create(true).open(file);
    let written = file.and_then(|mut it| it.write_all(b"here\n"));
    written.map_err(|it| it.to_string())
}

#[test]
fn an_initializer_runs_once_in_every_replacement() -> Result<()> {
    in_time(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("file");
        let pool = ProcessPoolExecutor::builder()
            .workers(1)
            .initializer(leave_a_line, file.clone())
            .build()?;
        for lines in 1..10 {
            assert_eq!(pool.apply(square, 3)?, 9);
            let text = fs::read_to_string(&file).expect("a file");
            assert_eq!(text.lines().count(), lines);
            failure(pool.apply(|()| -> () { process::abort() }, ()));
        }
        Ok(())
    })
}

#[test]
fn an_initializers_argument_may_be_larger_than_a_pipe() -> Result<()> {
    in_time(|| {
        let pool = ProcessPoolExecutor::builder()
            .workers(2)
            .initializer(
                |bytes: Vec<u8>| match bytes.len() {
                    5_000_000 => Ok(()),
                    length => Err(format!("{length} bytes")),
                },
                vec![7; 5_000_000],
            )
            .build()?;
        assert_eq!(pool.map(square, 0..100)?.len(), 100);
        Ok(())
    })
}

#[test]
fn a_pool_that_is_dropped_while_its_initializer_fails_ends() {
    in_time(|| {
        for _ in 0..20 {
            let built = ProcessPoolExecutor::builder()
                .workers(2)
                .initializer(|()| Err::<(), _>("no"), ())
                .build();
            let future = built.map(|pool| pool.submit(square, 3));
            if let Ok(future) = future {
                assert_eq!(failure(future.result()).kind(), ErrorKind::StartFailed);
            }
        }
    });
}
