//! Pools under every start method.

#![expect(unsafe_code, reason = "an environment that changes")]

use common::for_every_method;
use common::methods::{in_a_process_with_one_thread, start};
use common::processes::{fork_server, kill_fork_server};
use common::{alone, failure, in_time, process_id, race, square};
use nix::{
    sched::{CloneFlags, unshare},
    time::ClockId,
};
use procpool::{
    Atomic, ErrorKind, Process, ProcessPoolExecutor, Result, StartMethod, current_process,
    current_worker, parent_process,
};
use std::{
    env, fs, panic,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

static STATE: AtomicU64 = AtomicU64::new(1);

/// Short, for tasks that only their limit ends.
const LIMIT: Duration = Duration::from_millis(50);

/// Nanoseconds that a clock of the system shows.
fn nanos(clock: ClockId) -> u64 {
    let time = Duration::from(clock.now().expect("a clock"));
    time.as_nanos().try_into().expect("some years")
}

fn this_try() -> u32 {
    current_worker().map_or(0, |it| it.attempt)
}

fn panic_with_the_number_of_this_try((): ()) {
    panic!("try {}", this_try());
}

/// Stores when the first try of a task has panicked and its worker has noted that.
fn tell_when_a_panic_is_noted(noted: Atomic<u64>) -> std::result::Result<(), String> {
    let note = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        note(info);
        if this_try() == 1 {
            noted.store(nanos(ClockId::CLOCK_MONOTONIC), Ordering::SeqCst);
        }
    }));
    Ok(())
}

/// Nanoseconds of CPU time that the first panic of a worker takes.
fn cost_of_a_panic((): ()) -> u64 {
    let before = nanos(ClockId::CLOCK_THREAD_CPUTIME_ID);
    panic::catch_unwind(|| panic!("the first")).expect_err("a panic");
    nanos(ClockId::CLOCK_THREAD_CPUTIME_ID) - before
}

fn panics_by_name(x: u32) -> u32 {
    panic!("{x}");
}

fn pool_by(method: StartMethod, workers: usize) -> Result<ProcessPoolExecutor> {
    let builder = ProcessPoolExecutor::builder().workers(workers);
    builder.start_method(method).build()
}

const VARIABLE: &str = "PROCPOOL_TEST_VARIABLE";

fn surroundings((): ()) -> (Option<PathBuf>, Option<String>) {
    (env::current_dir().ok(), env::var(VARIABLE).ok())
}

for_every_method! {
    fn a_pool_works(method) {
        let pool = pool_by(method, 2)?;
        assert!(pool.map(square, 0..1000)?.into_iter().eq((0..1000).map(square)));
        let large = vec![7u8; 1_000_000];
        assert!(pool.apply(|it: Vec<u8>| it, large.clone())? == large);
        pool.join()
    }

    fn a_dead_worker_is_replaced(method) {
        let pool = pool_by(method, 1)?;
        let before = pool.apply(process_id, ())?;
        let error = failure(pool.apply(|()| -> () { std::process::abort() }, ()));
        assert_eq!(error.kind(), ErrorKind::WorkerDied, "{error}");
        assert_ne!(pool.apply(process_id, ())?, before);
        Ok(())
    }

    fn a_panic_under_a_limit_of_time_is_a_panic(method) {
        let noted = Atomic::new(0u64)?;
        // A new worker for each task: what a process does for the first time takes the longest.
        let builder = ProcessPoolExecutor::builder().workers(1).max_tasks_per_worker(1);
        let builder = builder.initializer(tell_when_a_panic_is_noted, noted.clone());
        let pool = builder.start_method(method).build()?;
        for _ in 0..20 {
            noted.store(0, Ordering::SeqCst);
            let end = nanos(ClockId::CLOCK_MONOTONIC) + LIMIT.as_nanos() as u64;
            let limited = pool.options().timeout(LIMIT).retries(2);
            let error = failure(limited.apply(panic_with_the_number_of_this_try, ()));
            // A busy machine may take the CPU from a worker for as long as the limit.
            let is_in_time = (1..end).contains(&noted.load(Ordering::SeqCst));
            if is_in_time {
                let panic = error.remote_panic().expect("a panic, and no limit");
                assert_eq!(panic.message, "try 1");
            }
        }
        Ok(())
    }

    fn the_first_panic_of_a_worker_takes_little_cpu_time(method) {
        let pool = pool_by(method, 1)?;
        let cost = Duration::from_nanos(pool.apply(cost_of_a_panic, ())?);
        // To name the calls takes 70 ms and more where the tests have debug information.
        assert!(cost < LIMIT / 2, "{cost:?}");
        Ok(())
    }

    fn a_panic_that_takes_longer_than_the_limit_to_unwind_is_a_panic(method) {
        struct Slow;
        impl Drop for Slow {
            fn drop(&mut self) {
                thread::sleep(Duration::from_millis(600));
            }
        }
        let pool = pool_by(method, 1)?;
        let unwind = |()| -> () {
            let _slow = Slow;
            panic!("in time");
        };
        let limited = pool.options().timeout(Duration::from_millis(400));
        let error = failure(limited.apply(unwind, ()));
        assert_eq!(error.kind(), ErrorKind::Panicked, "{error}");
        Ok(())
    }

    fn a_task_that_never_ends_to_unwind_is_out_of_time(method) {
        struct Endless;
        impl Drop for Endless {
            fn drop(&mut self) {
                thread::sleep(Duration::MAX);
            }
        }
        let pool = pool_by(method, 1)?;
        let unwind = |()| -> () {
            let _endless = Endless;
            panic!("never heard");
        };
        let error = failure(pool.options().timeout(LIMIT).apply(unwind, ()));
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        Ok(())
    }

    fn a_task_that_panics_again_and_again_is_out_of_time(method) {
        let pool = pool_by(method, 1)?;
        let panics = |()| -> () {
            loop {
                let _ = panic::catch_unwind(|| panic!("caught"));
            }
        };
        let error = failure(pool.options().timeout(LIMIT).apply(panics, ()));
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        Ok(())
    }

    fn the_error_of_a_panic_is_a_value_with_its_backtrace(method) {
        fn ask(method: StartMethod) -> Result<u32> {
            pool_by(method, 1)?.apply(|x: u32| -> u32 { panics_by_name(x) }, 7)
        }
        let error = failure(pool_by(method, 1)?.apply(ask, method)?);
        let backtrace = error.remote_panic().expect("a panic").backtrace();
        assert!(backtrace.contains("panics_by_name"), "{backtrace}");
        Ok(())
    }

    fn a_worker_knows_its_name_and_its_parent(method) {
        let pool = pool_by(method, 1)?;
        let who = |()| (current_process().name().to_owned(), parent_process().map(|it| it.pid()));
        assert_eq!(pool.apply(who, ())?, ("Worker-0".to_owned(), Some(std::process::id())));
        Ok(())
    }

    fn pools_nest_to_any_depth(method) {
        fn descend((method, depth): (StartMethod, u32)) -> std::result::Result<u32, String> {
            if depth == 0 {
                return Ok(0);
            }
            let pool = pool_by(method, 1).map_err(|it| it.to_string())?;
            let deeper = pool.apply(descend, (method, depth - 1));
            deeper.map_err(|it| it.to_string())?.map(|it| it + 1)
        }
        assert_eq!(descend((method, 10)), Ok(10));
        Ok(())
    }

    fn a_pool_that_is_there_does_not_change_with_the_directory_and_the_environment(method) {
        fn changed(method: StartMethod) -> std::result::Result<(), String> {
            let pool = pool_by(method, 2).map_err(|it| it.to_string())?;
            let seen = || {
                let seen = [(); 8].map(|()| pool.submit(surroundings, ()));
                let seen = seen.map(|it| it.result().map_err(|it| it.to_string()));
                seen.into_iter().collect::<std::result::Result<Vec<_>, _>>()
            };
            let before = seen()?;
            env::set_current_dir("/proc/self").map_err(|it| it.to_string())?;
            // SAFETY: of this process's threads none but this one touches the environment.
            unsafe { env::set_var(VARIABLE, "new") };
            pool.resize(3).map_err(|it| it.to_string())?;
            failure(pool.apply(|()| -> () { std::process::abort() }, ()));
            assert_eq!(seen()?, before);
            Ok(())
        }
        // In a process of its own, whose directory and environment are its own.
        assert_eq!(start(StartMethod::ForkServer, changed, method)?.result()?, Ok(()));
        Ok(())
    }

    fn a_variable_that_no_program_can_be_started_with_reaches_workers_and_is_not_shown(method) {
        fn set(method: StartMethod) -> std::result::Result<(), String> {
            // Linux starts no program with a variable of 128 KiB.
            let value = "secret".repeat(50_000);
            // SAFETY: of this process's threads none but this one touches the environment.
            unsafe { env::set_var(VARIABLE, &value) };
            let pool = pool_by(method, 1).map_err(|it| it.to_string())?;
            let look = |()| (env::var(VARIABLE).ok(), fs::read("/proc/self/environ").ok());
            let (seen, shown) = pool.apply(look, ()).map_err(|it| it.to_string())?;
            assert_eq!(seen, Some(value));
            let shown = shown.ok_or("its environment cannot be read")?;
            assert!(!String::from_utf8_lossy(&shown).contains("secret"));
            Ok(())
        }
        // In a process of its own, whose environment is its own.
        assert_eq!(start(StartMethod::ForkServer, set, method)?.result()?, Ok(()));
        Ok(())
    }

    fn a_process_of_a_worker_works(method) {
        let nested = |method| {
            let process = start(method, square, 7).and_then(Process::result);
            process.map_err(|it| it.to_string())
        };
        assert_eq!(pool_by(method, 1)?.apply(nested, method)?, Ok(49));
        Ok(())
    }
}

#[test]
fn only_forked_workers_see_what_the_program_has_made_of_a_static() -> Result<()> {
    in_time(|| {
        in_a_process_with_one_thread(|()| {
            STATE.store(7, Ordering::Relaxed);
            for (method, seen) in StartMethod::ALL.into_iter().zip([1, 1, 7]) {
                let pool = pool_by(method, 1);
                let state = pool.and_then(|it| it.apply(|()| STATE.load(Ordering::Relaxed), ()));
                assert_eq!(state.map_err(|it| it.to_string()), Ok(seen), "{method:?}");
            }
            Ok(())
        })
    })
}

#[test]
fn a_pools_own_threads_do_not_stand_in_the_way_of_a_fork() -> Result<()> {
    in_time(|| {
        in_a_process_with_one_thread(|()| {
            let text = |it: procpool::Error| it.to_string();
            let first = pool_by(StartMethod::ForkServer, 1).map_err(text)?;
            let called = std::sync::Arc::new(AtomicU64::new(0));
            let count = std::sync::Arc::clone(&called);
            let task = first.submit(square, 3);
            task.add_done_callback(move || {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(task.result().map_err(text)?, 9);
            // Its thread ends when it has no more to do, not in the middle of the user's code.
            let mut second = None;
            common::processes::eventually("the callback's thread can rest", || {
                second = pool_by(StartMethod::Fork, 1).ok();
                second.is_some()
            });
            assert_eq!(called.load(Ordering::Relaxed), 1);
            let second = second.expect("a pool");
            let forked = start(StartMethod::Fork, square, 7).and_then(Process::result);
            assert_eq!(forked.map_err(text), Ok(49));
            for pool in [&first, &second] {
                assert_eq!(pool.apply(square, 5).map_err(text), Ok(25));
                // No thread waits: only the pool's own thread replaces the worker.
                let before = pool.worker_pids();
                drop(pool.apply(|()| -> () { std::process::exit(1) }, ()));
                common::processes::eventually("the worker is replaced", || {
                    pool.worker_pids() != before && !pool.worker_pids().is_empty()
                });
            }
            first.join().map_err(text)?;
            second.join().map_err(text)
        })
    })
}

/// Ends with much to do for the kernel: this thread has a table of descriptors of its own by then.
fn end_slowly() {
    unshare(CloneFlags::CLONE_FILES).expect("memory for a table");
    let null = || fs::File::open("/dev/null").ok();
    std::mem::forget((0..500).map_while(|_| null()).collect::<Vec<_>>());
}

// 1. A thread ends, and is joined. 2. This process counts its threads. 3. The kernel takes the
//    thread off its list.
#[test]
fn a_thread_that_was_joined_does_not_stand_in_the_way_of_a_fork() -> Result<()> {
    in_time(|| {
        in_a_process_with_one_thread(|()| {
            let text = |it: procpool::Error| it.to_string();
            let mut outcome = Ok(());
            race(|| {
                let ended = thread::spawn(end_slowly).join().is_ok();
                let copied = procpool::fork_map(1, &[ended], |it| *it).map_err(text);
                outcome = outcome.clone().and(copied.map(drop));
            });
            outcome
        })
    })
}

// As above, of the thread of a pool that was dropped.
#[test]
fn a_pool_that_was_dropped_does_not_stand_in_the_way_of_a_fork() -> Result<()> {
    in_time(|| {
        in_a_process_with_one_thread(|()| {
            let text = |it: procpool::Error| it.to_string();
            let mut outcome = Ok(());
            race(|| {
                drop(pool_by(StartMethod::ForkServer, 1));
                let forked = pool_by(StartMethod::Fork, 1).map_err(text);
                outcome = outcome.clone().and(forked.map(drop));
            });
            outcome
        })
    })
}

#[test]
fn a_program_with_threads_has_no_forked_pool() {
    let error = failure(pool_by(StartMethod::Fork, 1));
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn a_pool_has_one_thread_of_its_own_whoever_tries_to_fork() {
    alone("", || {
        let pool = pool_by(StartMethod::ForkServer, 1).expect("a pool");
        let own_threads = || {
            let tasks = fs::read_dir("/proc/self/task").expect("a list of threads");
            let names = tasks
                .flatten()
                .map(|it| fs::read_to_string(it.path().join("comm")));
            names.flatten().filter(|it| it == "procpool\n").count()
        };
        race(|| {
            thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        let refused = procpool::fork_map(1, &[1], |it| *it);
                        assert_eq!(failure(refused).kind(), ErrorKind::Unsupported);
                    });
                }
            });
            // What was joined is gone in a moment.
            common::processes::eventually("there is one thread", || own_threads() == 1);
        });
        assert_eq!(pool.apply(square, 7).ok(), Some(49));
    });
}

#[test]
fn a_copy_of_a_worker_is_no_worker() -> Result<()> {
    in_time(|| {
        let fork = |()| {
            let copy = Process::builder(|()| current_worker().is_some(), ());
            let outside = copy.start_method(StartMethod::Fork).start();
            let outside = outside
                .and_then(Process::result)
                .map_err(|it| it.to_string());
            (current_worker().is_some(), outside)
        };
        let pool = pool_by(StartMethod::ForkServer, 1)?;
        assert_eq!(pool.apply(fork, ())?, (true, Ok(false)));
        Ok(())
    })
}

#[test]
fn a_closed_standard_descriptor_is_empty_in_the_workers_of_a_fork() -> Result<()> {
    in_time(|| {
        in_a_process_with_one_thread(|()| {
            nix::unistd::close(0).map_err(|it| it.to_string())?;
            let pool = pool_by(StartMethod::Fork, 1).map_err(|it| it.to_string())?;
            let input = |()| fs::read_link("/proc/self/fd/0").ok();
            let input = pool.apply(input, ()).map_err(|it| it.to_string())?;
            assert_eq!(input, Some("/dev/null".into()));
            Ok(())
        })
    })
}

#[test]
fn a_pool_whose_template_was_killed_says_so() -> Result<()> {
    in_time(|| {
        in_a_process_with_one_thread(|()| {
            let pool = pool_by(StartMethod::Fork, 1).map_err(|it| it.to_string())?;
            let template = fork_server();
            kill_fork_server();
            // The first may have been on its way.
            drop(pool.apply(square, 3));
            let error = failure(pool.apply(square, 3));
            assert_eq!(error.kind(), ErrorKind::StartFailed, "{error}");
            let named = format!("process {template}, the template");
            assert!(error.to_string().contains(&named), "{error}");
            Ok(())
        })
    })
}
