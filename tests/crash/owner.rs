//! The end of the host program, in whatever way: no process of its pools is left.

use crate::{
    common::{in_time, pool_of, square},
    processes::{Process, Program, eventually, fork_server, listen, process, say},
};
use nix::{
    sys::signal::{SigSet, SigmaskHow, pthread_sigmask},
    unistd::{pause, setsid},
};
use procpool::ProcessPoolExecutor;
use std::{
    hint::spin_loop,
    os::unix::process::ExitStatusExt,
    process::{self, Command, Stdio},
    sync::OnceLock,
};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("be killed with busy workers", be_killed),
    ("be killed with a nested pool", be_killed_with_a_nested_pool),
    ("leave a static pool", leave_a_static_pool),
    ("exit beside a busy static pool", exit_beside_a_static_pool),
    ("abort beside a busy pool", abort_beside_a_pool),
];

/// How a task is busy.
const WAYS: u32 = 5;

fn be_busy(way: u32) {
    match way {
        0 => loop {
            spin_loop();
        },
        1 => loop {
            pause();
        },
        2 => {
            // Nothing but SIGKILL gets through.
            let everything = SigSet::all();
            let blocked = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&everything), None);
            blocked.expect("a valid mask");
            loop {
                spin_loop();
            }
        }
        3 => {
            setsid().expect("a session of its own");
            nix::sys::prctl::set_pdeathsig(None).expect("no signal");
            loop {
                pause();
            }
        }
        _ => {
            let mut command = Command::new("sleep");
            command.arg("1000").stdin(Stdio::null()).stdout(Stdio::null());
            let mut child = command.stderr(Stdio::null()).spawn().expect("a program");
            // It is killed with this process.
            let _ = child.wait();
        }
    }
}

/// Keeps workers busy in every way, and says which processes there are.
fn be_killed() {
    let pool = pool_of(WAYS as usize);
    let _running: Vec<_> = (0..WAYS).map(|way| pool.submit(be_busy, way)).collect();
    let own = process::id();
    eventually("a worker has started its program", || {
        Process::descendants_of(own).iter().any(|it| it.name == "sleep")
    });
    say_who_is_there();
    while listen() {}
}

fn say_who_is_there() {
    let all = Process::descendants_of(process::id());
    let pids: Vec<String> = all.iter().map(|it| it.pid.to_string()).collect();
    say(pids.join(" "));
}

/// Ends a program by SIGKILL once it has said which processes it has, and waits until they are gone.
fn leaves_nobody_when_killed(name: &str, least: usize) {
    let mut program = Program::start(name);
    let all: Vec<Process> = program.hear_numbers().into_iter().map(process).collect();
    assert!(all.len() >= least, "{all:?}");
    program.kill();
    eventually("no process is left", || !all.iter().any(Process::runs));
}

#[test]
fn no_process_outlives_an_owner_that_is_killed_whatever_its_workers_do() {
    // The fork server, the workers and the program that one of them has started.
    in_time(|| leaves_nobody_when_killed("be killed with busy workers", WAYS as usize + 2));
}

fn be_killed_with_a_nested_pool() {
    let pool = pool_of(1);
    let task = |()| {
        let inner = pool_of(2);
        let _running = [0, 4].map(|way| inner.submit(be_busy, way));
        be_busy(1);
    };
    let _running = pool.submit(task, ());
    let own = process::id();
    eventually("the inner worker has started its program", || {
        Process::descendants_of(own).iter().any(|it| it.name == "sleep")
    });
    say_who_is_there();
    while listen() {}
}

#[test]
fn no_process_of_a_nested_pool_outlives_an_owner_that_is_killed() {
    // Two fork servers, the outer worker, two inner ones and the program that one of them has started.
    in_time(|| leaves_nobody_when_killed("be killed with a nested pool", 6));
}

fn static_pool() -> &'static ProcessPoolExecutor {
    static POOL: OnceLock<ProcessPoolExecutor> = OnceLock::new();
    POOL.get_or_init(|| pool_of(2))
}

fn leave_a_static_pool() {
    assert_eq!(static_pool().apply(square, 3).expect("a pool that works"), 9);
    say_who_is_there();
}

#[test]
fn a_program_ends_with_a_static_pool_alive() {
    in_time(|| {
        let mut program = Program::start("leave a static pool");
        let pids = program.hear_numbers();
        let all: Vec<Process> = pids.into_iter().filter_map(Process::of).collect();
        let finished = program.finish();
        assert!(finished.status.success(), "{finished:#?}");
        eventually("no process is left", || !all.iter().any(Process::runs));
    });
}

fn exit_beside_a_static_pool() {
    let _running: Vec<_> = (0..100).map(|_| static_pool().submit(be_busy, 0)).collect();
    eventually("a task runs", || _running[0].is_running());
    say_who_is_there();
    listen();
    process::exit(7);
}

#[test]
fn a_program_exits_while_a_static_pool_is_busy() {
    in_time(|| {
        let mut program = Program::start("exit beside a busy static pool");
        let all: Vec<Process> = program.hear_numbers().into_iter().map(process).collect();
        program.tell();
        let finished = program.finish();
        assert_eq!(finished.status.code(), Some(7), "{finished:#?}");
        eventually("no process is left", || !all.iter().any(Process::runs));
    });
}

fn abort_beside_a_pool() {
    let pool = pool_of(2);
    let running = pool.submit(be_busy, 0);
    eventually("a task runs", || running.is_running());
    say(fork_server());
    say_who_is_there();
    listen();
    process::abort();
}

#[test]
fn no_process_outlives_an_owner_that_aborts() {
    in_time(|| {
        let mut program = Program::start("abort beside a busy pool");
        let server = process(program.hear_numbers()[0]);
        let all: Vec<Process> = program.hear_numbers().into_iter().map(process).collect();
        assert!(all.iter().any(|it| it.pid == server.pid));
        program.tell();
        assert_eq!(program.finish().status.signal(), Some(6));
        eventually("no process is left", || !all.iter().any(Process::runs));
    });
}
