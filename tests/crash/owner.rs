//! The end of the host program, in whatever way: no process of its pools is left.

use common::processes::{Process, Program, eventually, fork_server, kill, listen, process, say};
use common::{alone, in_time, pool_of, race, square};
use nix::{
    sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask},
    unistd::{pause, setsid},
};
use procpool::ProcessPoolExecutor;
use std::{
    fs,
    hint::spin_loop,
    os::unix::process::ExitStatusExt,
    process::{self, Command, Stdio},
    sync::OnceLock,
    thread,
    time::Duration,
};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("be killed with busy workers", be_killed),
    ("be killed with a nested pool", be_killed_with_a_nested_pool),
    ("build pools until it is killed", build_pools_for_ever),
    ("leave a static pool", leave_a_static_pool),
    ("exit with a busy static pool", exit_beside_a_static_pool),
    ("abort with a busy pool", abort_beside_a_pool),
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
            command
                .arg("1000")
                .stdin(Stdio::null())
                .stdout(Stdio::null());
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
        Process::descendants_of(own)
            .iter()
            .any(|it| it.name == "sleep")
    });
    say_who_is_there();
    while listen() {}
}

fn say_who_is_there() {
    let all = Process::descendants_of(process::id());
    let pids: Vec<String> = all.iter().map(|it| it.pid.to_string()).collect();
    say(pids.join(" "));
}

/// Ends a program by SIGKILL once it has said which processes it has, and waits until they are
/// gone.
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
        Process::descendants_of(own)
            .iter()
            .any(|it| it.name == "sleep")
    });
    say_who_is_there();
    while listen() {}
}

#[test]
fn no_process_of_a_nested_pool_outlives_an_owner_that_is_killed() {
    // Two fork servers, the outer worker, two inner ones and the program that one of them has
    // started.
    in_time(|| leaves_nobody_when_killed("be killed with a nested pool", 6));
}

#[test]
fn no_process_of_a_nested_pool_outlives_its_worker() {
    in_time(|| {
        let pool = pool_of(1);
        let task = |()| {
            let inner = Box::leak(Box::new(pool_of(2)));
            let running = [0, 4].map(|way| inner.submit(be_busy, way));
            let own = process::id();
            eventually("the inner worker has started its program", || {
                Process::descendants_of(own)
                    .iter()
                    .any(|it| it.name == "sleep")
            });
            running.iter().for_each(|it| assert!(!it.is_done()));
        };
        pool.apply(task, ()).expect("a pool that works");
        let worker = pool.worker_pids()[0];
        let all = Process::descendants_of(worker);
        assert!(all.len() >= 4, "{all:?}");
        kill(worker, Signal::SIGKILL);
        eventually("no process is left", || !all.iter().any(Process::runs));
    });
}

fn build_pools_for_ever() {
    say("there");
    loop {
        let pool = pool_of(2);
        let _running = [0, 1].map(|way| pool.submit(be_busy, way));
        assert!(pool.map(square, 0..0).is_ok());
        pool.kill();
        drop(pool);
        // The next pool needs a new server.
        kill(fork_server(), Signal::SIGKILL);
    }
}

/// Processes that were started, at whatever distance, with this variable.
fn processes_with(variable: &str) -> Vec<Process> {
    let has_it = |it: &Process| {
        let environment = fs::read(format!("/proc/{}/environ", it.pid)).unwrap_or_default();
        let mut variables = environment.split(|it| *it == 0);
        variables.any(|it| it == variable.as_bytes())
    };
    Process::all()
        .into_iter()
        .filter(|it| it.runs() && has_it(it))
        .collect()
}

#[test]
fn no_process_outlives_an_owner_that_is_killed_at_any_moment() {
    in_time(|| {
        let mut round = 0;
        race(|| {
            round += 1;
            let token = format!("{}-{round}", process::id());
            let mut command = Program::command("build pools until it is killed");
            command.env("PROCPOOL_TEST_TOKEN", &token);
            let mut program = Program::start_by(command);
            assert_eq!(program.hear(), "there");
            // A different moment each time, from before the first process is there.
            thread::sleep(Duration::from_micros(round * 700 % 30_000));
            program.kill();
            let variable = format!("PROCPOOL_TEST_TOKEN={token}");
            eventually("no process is left", || {
                processes_with(&variable).is_empty()
            });
        });
    });
}

fn static_pool() -> &'static ProcessPoolExecutor {
    static POOL: OnceLock<ProcessPoolExecutor> = OnceLock::new();
    POOL.get_or_init(|| pool_of(2))
}

fn leave_a_static_pool() {
    assert_eq!(
        static_pool().apply(square, 3).expect("a pool that works"),
        9
    );
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
        let mut program = Program::start("exit with a busy static pool");
        let all: Vec<Process> = program.hear_numbers().into_iter().map(process).collect();
        program.tell();
        let finished = program.finish();
        assert_eq!(finished.status.code(), Some(7), "{finished:#?}");
        eventually("no process is left", || !all.iter().any(Process::runs));
    });
}

// If process 1 reaps no children, a zombie stays forever.
#[test]
fn a_program_that_ends_leaves_nothing_to_be_reaped() {
    alone("", || {
        nix::sys::prctl::set_child_subreaper(true).expect("it is always granted");
        drop(Program::start("leave a static pool").succeed());
        assert_eq!(Process::children_of(process::id()), []);
        let mut program = Program::start("exit with a busy static pool");
        program.hear();
        program.tell();
        assert_eq!(program.finish().status.code(), Some(7));
        assert_eq!(Process::children_of(process::id()), []);
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
        let mut program = Program::start("abort with a busy pool");
        let server = process(program.hear_numbers()[0]);
        let all: Vec<Process> = program.hear_numbers().into_iter().map(process).collect();
        assert!(all.iter().any(|it| it.pid == server.pid));
        program.tell();
        assert_eq!(program.finish().status.signal(), Some(6));
        eventually("no process is left", || !all.iter().any(Process::runs));
    });
}
