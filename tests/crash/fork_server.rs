//! The fork server killed: the running tasks fail, the queued ones run on new workers from a new
//! server.
//!
//! Every test runs in a program of its own: there is one fork server for all pools of a program.

#![expect(unsafe_code, reason = "the limits of another process")]

use common::processes::{
    Process, descriptors_of, eventually, find_fork_server, fork_server, kill, kill_fork_server,
    process,
};
use common::{Gate, alone, failure, park_forever, pass, pool_of, race, square};
use nix::sys::signal::Signal;
use procpool::{ErrorKind, ProcessPoolExecutor, Result};
use std::{
    mem, ptr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

#[test]
fn a_fork_server_killed_while_its_pools_are_idle_is_no_futures_business() {
    alone("", || {
        let pools = [pool_of(2), pool_of(3)];
        for _ in 0..5 {
            kill_fork_server();
            for pool in &pools {
                let results = pool.map(square, 0..1000).expect("new workers");
                assert_eq!(results.len(), 1000);
            }
        }
    });
}

#[test]
fn a_fork_server_killed_while_tasks_run_costs_those_that_run() {
    alone("", || {
        let pool = pool_of(2);
        for _ in 0..3 {
            let gate = Gate::new();
            let running: Vec<_> = (0..2).map(|_| pool.submit(pass, gate.path())).collect();
            gate.wait_for(2);
            let queued: Vec<_> = (0..500).map(|x| pool.submit(square, x)).collect();
            kill_fork_server();
            for future in running {
                assert_eq!(failure(future.result()).kind(), ErrorKind::WorkerDied);
            }
            for (x, future) in (0..).zip(queued) {
                assert_eq!(future.result().expect("new workers"), x * x);
            }
        }
    });
}

#[test]
fn a_fork_server_killed_again_and_again_is_replaced_each_time() {
    alone("", || {
        let pool = pool_of(2);
        let mut kills = 0;
        race(|| {
            // Sometimes before the new workers are ready, sometimes before the server is.
            if let Some(server) = find_fork_server() {
                kill(server, Signal::SIGKILL);
                kills += 1;
            }
            for x in 0..50 {
                match pool.apply(square, x) {
                    Ok(value) => assert_eq!(value, x * x),
                    // It may have been running just then.
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WorkerDied, "{error}"),
                }
            }
        });
        assert!(kills > 0);
        assert_eq!(
            pool.map(square, 0..1000).expect("a pool that works").len(),
            1000
        );
    });
}

#[test]
fn a_fork_server_killed_beside_a_pool_of_many_workers_is_replaced() {
    alone("", || {
        // All of them may be starting when their server dies: more than the failed starts that a
        // pool bears.
        let pool = pool_of(16);
        for _ in 0..5 {
            kill_fork_server();
            eventually("there is a new server", || find_fork_server().is_some());
        }
        assert_eq!(
            pool.map(square, 0..1000).expect("a pool that works").len(),
            1000
        );
    });
}

#[test]
fn a_pool_can_be_built_when_the_fork_server_has_died() {
    alone("", || {
        drop(pool_of(1));
        for _ in 0..5 {
            kill_fork_server();
            assert_eq!(pool_of(1).apply(square, 3).expect("a new server"), 9);
        }
    });
}

#[test]
fn a_pool_can_be_dropped_when_the_fork_server_has_died() {
    alone("", || {
        for _ in 0..5 {
            let pool = pool_of(2);
            let gate = Gate::new();
            let running: Vec<_> = [(), ()].map(|()| pool.submit(pass, gate.path())).into();
            gate.wait_for(2);
            let queued: Vec<_> = (0..100).map(|x| pool.submit(square, x)).collect();
            kill_fork_server();
            drop(pool);
            for future in running {
                assert_eq!(failure(future.result()).kind(), ErrorKind::WorkerDied);
            }
            for (x, future) in (0..).zip(queued) {
                assert_eq!(future.result().expect("it had not started"), x * x);
            }
        }
    });
}

#[test]
fn a_dead_fork_server_leaves_no_zombie_behind() {
    alone("", || {
        let pool = pool_of(1);
        for _ in 0..10 {
            kill_fork_server();
            assert_eq!(pool.apply(square, 3).expect("a new server"), 9);
        }
        let children = Process::children_of(std::process::id());
        assert_eq!(children.len(), 1, "{children:?}");
    });
}

#[test]
fn a_fork_server_that_is_stopped_for_a_while_loses_nothing() {
    alone("", || {
        let pool = pool_of(2);
        let server = fork_server();
        kill(server, Signal::SIGSTOP);
        let worker = pool.worker_pids()[0];
        kill(worker, Signal::SIGKILL);
        let futures: Vec<_> = (0..100).map(|x| pool.submit(square, x)).collect();
        kill(server, Signal::SIGCONT);
        for (x, future) in (0..).zip(futures) {
            assert_eq!(future.result().expect("no task ran in the victim"), x * x);
        }
    });
}

#[test]
fn a_stopped_fork_server_does_not_stop_workers_that_live() {
    alone("", || {
        let pool = pool_of(2);
        assert_eq!(
            pool.map(square, 0..1000).expect("a pool that works").len(),
            1000
        );
        let server = fork_server();
        kill(server, Signal::SIGSTOP);
        kill(pool.worker_pids()[0], Signal::SIGKILL);
        for x in 0..50 {
            assert_eq!(
                pool.apply(square, x).expect("no task ran in the victim"),
                x * x
            );
        }
        // No thread has waited long enough for it to be replaced.
        assert_eq!((process(server).state, fork_server()), ('T', server));
        kill(server, Signal::SIGCONT);
        eventually("the other worker is back", || pool.worker_pids().len() == 2);
    });
}

#[test]
fn a_task_that_kills_the_fork_server_costs_those_that_run() {
    alone("", || {
        let pool = pool_of(2);
        for _ in 0..10 {
            let task = |()| {
                kill(std::os::unix::process::parent_id(), Signal::SIGKILL);
                park_forever(());
            };
            let error = failure(pool.apply(task, ()));
            assert_eq!(error.kind(), ErrorKind::WorkerDied);
            let results = pool.map_results(square, 0..1000);
            let errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
            assert!(
                errors.iter().all(|it| it.kind() == ErrorKind::WorkerDied),
                "{errors:?}"
            );
            assert!(errors.len() <= 2, "{errors:?}");
        }
    });
}

#[test]
fn pools_that_are_built_while_fork_servers_are_killed_work_or_fail_to_start() {
    alone("", || {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if let Some(server) = find_fork_server() {
                        kill(server, Signal::SIGKILL);
                    }
                    thread::sleep(Duration::from_millis(3));
                }
            });
            race(|| match ProcessPoolExecutor::builder().workers(2).build() {
                Err(error) => assert_eq!(error.kind(), ErrorKind::StartFailed),
                Ok(pool) => {
                    for result in pool.map_results(square, 0..100) {
                        if let Err(error) = result {
                            let kinds = [ErrorKind::WorkerDied, ErrorKind::StartFailed];
                            assert!(kinds.contains(&error.kind()), "{error}");
                        }
                    }
                }
            });
            over.store(true, Ordering::Relaxed);
        });
    });
}

/// Sets the number below which a process's next descriptors must lie, and gives the one before.
fn limit_descriptors(pid: u32, most: u64) -> u64 {
    let pid = pid.cast_signed();
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes a local.
    let got = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, ptr::null(), &raw mut limit) };
    let before = mem::replace(&mut limit.rlim_cur, most);
    // SAFETY: the kernel reads a local.
    let set = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, ptr::null_mut()) };
    assert_eq!((got, set), (0, 0));
    before
}

#[test]
fn a_fork_server_that_runs_out_of_descriptors_says_so_and_goes_on() {
    alone("", || {
        assert_eq!(pool_of(1).apply(square, 3).expect("a pool that works"), 9);
        let server = fork_server();
        eventually("its worker is gone", || {
            Process::children_of(server).is_empty()
        });
        let before = descriptors_of(server);
        let is_free = |number: &i32| before.iter().all(|it| it.0 != *number);
        let free: Vec<i32> = (0..).filter(is_free).take(6).collect();
        // Room for none of the descriptors of a request, for some, and for all but what is opened
        // then.
        for most in free {
            let most = most.cast_unsigned().into();
            let usual = limit_descriptors(server, most);
            let error = failure(ProcessPoolExecutor::builder().workers(1).build());
            assert_eq!(error.kind(), ErrorKind::StartFailed);
            assert!(error.to_string().contains("Too many open files"), "{error}");
            limit_descriptors(server, usual);
            eventually("nothing is left of it", || descriptors_of(server) == before);
            assert_eq!(pool_of(1).apply(square, 3).expect("a pool that works"), 9);
            assert_eq!(fork_server(), server);
        }
    });
}

#[test]
fn pools_of_many_threads_share_one_fork_server() {
    alone("", || {
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| -> Result<()> {
                    let pool = ProcessPoolExecutor::builder().workers(1).build()?;
                    assert_eq!(pool.apply(square, 3)?, 9);
                    Ok(())
                });
            }
        });
        let children = Process::children_of(std::process::id());
        assert_eq!(children.len(), 1, "{children:?}");
    });
}
