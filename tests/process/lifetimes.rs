//! Daemons die with their owner, and no other process with the fork server.

#![expect(unsafe_code, reason = "forks of a process with threads")]

use common::for_every_method;
use common::methods::{in_a_process_with_one_thread, start};
use common::processes::{Program, eventually, fork_server, is_running, kill, listen, process, say};
use common::{A_MOMENT, Gate, alone, arrive, failure, in_time, park_forever, pass, square};
use nix::{
    errno::Errno,
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::Signal,
        socket::{MsgFlags, send},
    },
};
use procpool::{ErrorKind, Process, Receiver, Result, StartMethod, one_way, wait_ready};
use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    (
        "be killed with a daemon and another",
        be_killed_beside_children,
    ),
    ("give too many handles", give_too_many_handles),
    ("lose the fork server", lose_the_fork_server),
    ("reap every child", reap_every_child),
    ("fork a daemon in a thread", fork_a_daemon_in_a_thread),
    ("start with few descriptors", start_with_few_descriptors),
];

fn be_killed_beside_children() {
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let [other, daemon] = [false, true].map(|it| {
            let builder = Process::builder(park_forever, ()).daemon(it);
            builder.start_method(method).start().expect("a process")
        });
        say(format_args!("{} {}", other.pid(), daemon.pid()));
        [other, daemon].into_iter().for_each(Process::detach);
    }
    listen();
}

#[test]
fn a_daemon_ends_with_its_owner_and_another_process_runs_on() {
    in_time(|| {
        let mut program = Program::start("be killed with a daemon and another");
        let pairs = [program.hear_numbers(), program.hear_numbers()];
        let alive = |pid| common::processes::Process::of(pid).is_some_and(|it| it.runs());
        assert!(pairs.iter().flatten().all(|it| alive(*it)));
        program.kill();
        eventually("the daemons are gone", || {
            pairs.iter().all(|it| !alive(it[1]))
        });
        for pair in &pairs {
            assert!(process(pair[0]).runs());
            kill(pair[0], Signal::SIGKILL);
        }
        // They held its standard output open.
        drop(program.finish());
    });
}

fn lose_the_fork_server() {
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let gate = Gate::new();
        let answer = |gate: PathBuf| {
            pass(gate);
            vec![7u8; 1_000_000]
        };
        let process = start(method, answer, gate.path()).expect("a process");
        gate.wait_for(1);
        let server = fork_server();
        kill(server, Signal::SIGKILL);
        eventually("the server is gone", || {
            common::processes::Process::of(server).is_none_or(|it| !it.runs())
        });
        assert!(process.is_alive());
        gate.open();
        assert!(process.join().expect("an end").success(), "{process:?}");
        assert_eq!(process.result().expect("a result").len(), 1_000_000);
        assert_eq!(
            start(method, square, 7).and_then(Process::result).ok(),
            Some(49)
        );
    }
}

#[test]
fn a_result_outlives_the_fork_server() {
    in_time(|| drop(Program::start("lose the fork server").succeed()));
}

fn results_arrive() {
    for method in StartMethod::ALL {
        let results = |()| {
            for x in 0..20 {
                let process = start(StartMethod::Fork, square, x).map_err(|it| it.to_string())?;
                process.join().map_err(|it| it.to_string())?;
                assert_eq!(process.result().map_err(|it| it.to_string()), Ok(x * x));
            }
            Ok(())
        };
        match method {
            StartMethod::Fork => in_a_process_with_one_thread(results).expect("results"),
            _ => (0..20).for_each(|x| {
                let result = start(method, square, x).and_then(Process::result);
                assert_eq!(result.map_err(|it| it.to_string()), Ok(x * x));
            }),
        }
    }
}

fn reap_every_child() {
    static STOP: AtomicBool = AtomicBool::new(false);
    let reaper = thread::spawn(|| {
        while !STOP.load(Ordering::Relaxed) {
            // There may be no child at the moment.
            let _ = nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        }
    });
    results_arrive();
    STOP.store(true, Ordering::Relaxed);
    reaper.join().expect("no panic");
}

#[test]
fn results_arrive_in_a_program_that_reaps_every_child() {
    in_time(|| drop(Program::start("reap every child").succeed()));
}

#[test]
fn results_arrive_in_a_program_that_ignores_sigchld() {
    alone("trap '' CHLD", results_arrive);
}

for_every_method! {
    fn processes_nest_to_any_depth(method) {
        fn descend((method, depth): (StartMethod, u32)) -> u32 {
            if depth == 0 {
                return 0;
            }
            let next = start(method, descend, (method, depth - 1)).and_then(Process::result);
            next.map_or(1000, |it| it + 1)
        }
        assert_eq!(start(method, descend, (method, 10))?.result()?, 10);
        Ok(())
    }

    fn a_daemon_ends_with_the_process_that_started_it(method) {
        let gate = Gate::new();
        let nest = |(method, gate): (StartMethod, PathBuf)| {
            let daemon = Process::builder(park_forever, ()).daemon(true);
            let daemon = daemon.start_method(method).start();
            let pid = daemon.as_ref().map_or(0, Process::pid);
            std::fs::write(gate.join("pid"), pid.to_string()).expect("a directory");
            arrive(&gate);
            park_forever(());
            drop(daemon);
        };
        let outer = start(method, nest, (method, gate.path()))?;
        gate.wait_for(1);
        let pid = std::fs::read_to_string(gate.path().join("pid")).expect("a file");
        let pid: u32 = pid.parse().expect("a number");
        assert!(process(pid).runs());
        outer.kill()?;
        eventually("the daemon is gone", || !is_running(pid));
        Ok(())
    }

    fn a_process_runs_though_its_starter_ends_at_once(method) {
        // 1. The inner process is forked. 2. Its starter ends, and with that the server of the
        //    starter. 3. The server of this process adopts it before it has taken a step.
        let nest = |(method, file): (StartMethod, PathBuf)| {
            let run = |file: PathBuf| drop(std::fs::write(file, ""));
            let inner = Process::builder(run, file).start_method(method).start();
            inner.map(Process::detach).is_ok()
        };
        let directory = tempfile::tempdir().expect("a temporary directory");
        for inner in StartMethod::ALL {
            for round in 0..20 {
                let file = directory.path().join(format!("{inner:?} {round}"));
                assert!(start(method, nest, (inner, file.clone()))?.result()?);
                eventually("the inner process has run", || file.exists());
            }
        }
        Ok(())
    }
}

fn start_with_few_descriptors() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        start(method, square, 7)
            .and_then(Process::result)
            .expect("a server");
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 64, hard).expect("a lower limit");
    let null = || std::fs::File::open("/dev/null");
    let mut failed = Vec::new();
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        for free in 0..16 {
            let mut taken: Vec<_> = std::iter::from_fn(|| null().ok()).collect();
            taken.truncate(taken.len() - free);
            let file = directory.path().join(format!("{method:?} {free}"));
            let run = |file: PathBuf| std::fs::write(file, "").is_ok();
            match start(method, run, file.clone()) {
                Ok(process) => drop(process),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::StartFailed, "{free}: {error}");
                    failed.push(file);
                }
            }
        }
    }
    assert!(!failed.is_empty() && failed.len() < 32, "{failed:?}");
    // They would have run by now.
    thread::sleep(A_MOMENT);
    failed.retain(|it| it.exists());
    assert!(failed.is_empty(), "{failed:?} ran");
}

#[test]
fn a_process_whose_start_has_failed_does_not_run() {
    in_time(|| drop(Program::start("start with few descriptors").succeed()));
}

fn fork_a_daemon_in_a_thread() {
    let gate = Gate::new();
    let arrive_twice = |gate: PathBuf| {
        pass(gate.clone());
        arrive(&gate);
        park_forever(());
    };
    let path = gate.path();
    let forking = thread::spawn(move || {
        let builder = Process::builder(arrive_twice, path).daemon(true);
        let builder = builder.start_method(StartMethod::Fork);
        // SAFETY: the other threads wait, and hold nothing.
        let daemon = unsafe { builder.allow_fork_with_threads() }.start();
        (daemon.expect("a process"), nix::unistd::gettid())
    });
    let (daemon, thread) = forking.join().expect("no panic");
    gate.wait_for(1);
    eventually("the thread is gone", || {
        !std::fs::exists(format!("/proc/self/task/{thread}")).expect("a directory")
    });
    gate.let_in(1);
    gate.wait_for(1);
    say(daemon.pid());
    daemon.detach();
    listen();
}

#[test]
fn a_daemon_ends_with_its_owner_and_not_with_the_thread_that_forked_it() {
    in_time(|| {
        let mut program = Program::start("fork a daemon in a thread");
        let daemon = process(program.hear_numbers()[0]);
        assert!(daemon.runs());
        program.kill();
        eventually("the daemon is gone", || !daemon.runs());
        drop(program.finish());
    });
}

/// Writes into every socket of this process that takes it, until none has room.
fn fill_every_socket((): ()) {
    for number in 3..300 {
        while let Ok(_) | Err(Errno::EINTR) = send(number, &[0; 4096], MsgFlags::MSG_DONTWAIT) {}
    }
}

#[test]
fn a_process_that_fills_its_own_socket_does_not_hold_up_the_fork_server() -> Result<()> {
    in_time(|| {
        let full = start(StartMethod::ForkServer, fill_every_socket, ())?;
        let server = fork_server();
        // Not joined, which takes what is in the socket.
        wait_ready(&[&full.sentinel()], None)?;
        assert_eq!(start(StartMethod::ForkServer, square, 7)?.result()?, 49);
        assert_eq!(fork_server(), server);
        assert_eq!(failure(full.result()).kind(), ErrorKind::WorkerDied);
        Ok(())
    })
}

fn give_too_many_handles() {
    let started = start(StartMethod::ForkServer, square, 7).and_then(Process::result);
    assert_eq!(started.expect("a server"), 49);
    let server = fork_server().cast_signed();
    let limit = libc::rlimit {
        rlim_cur: 40,
        rlim_max: 40,
    };
    // SAFETY: the kernel reads a local.
    let set = unsafe {
        libc::prlimit(
            server,
            libc::RLIMIT_NOFILE,
            &raw const limit,
            std::ptr::null_mut(),
        )
    };
    assert_eq!(set, 0);
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        let handles: Result<Vec<_>> = (0..100).map(|_| one_way::<u64>().map(|it| it.0)).collect();
        let count = |it: Vec<Receiver<u64>>| it.len();
        let outcome = start(method, count, handles.expect("handles")).and_then(Process::result);
        let error = failure(outcome);
        assert_eq!(error.kind(), ErrorKind::StartFailed, "{error}");
    }
}

#[test]
fn a_process_without_room_for_its_handles_has_not_started() {
    in_time(|| drop(Program::start("give too many handles").succeed()));
}
