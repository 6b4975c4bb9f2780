//! Signals from outside that are not the pool's: to a process group, as a terminal, `timeout` and
//! systemd send them.

#![expect(unsafe_code, reason = "host programs that set signal handlers")]

use common::processes::{
    Process as Seen, Program, by_its_method, eventually, fork_server, kill, listen, process, say,
    status_of,
};
use common::{Gate, failure, in_time, pass, square};
use nix::{
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, killpg, raise, sigaction},
    unistd::{ForkResult, Pid, fork, pause},
};
use procpool::{ErrorKind, Manager, Process, ProcessPoolExecutor, Result, StartMethod};
use std::{
    env,
    os::unix::process::CommandExt,
    process::{Command, Stdio, id},
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("drain", drain),
    ("ignore signals", ignore_signals),
    ("leave it to its owner", leave_it_to_its_owner),
];

/// Names the signal that a program lives through.
const SIGNAL: &str = "PROCPOOL_TEST_SIGNAL";

extern "C" fn do_nothing(_: i32) {}

/// Sets a handler for a signal in this process.
fn handle(signal: Signal, handler: SigHandler) {
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handlers of these tests do nothing, or store to an atomic.
    unsafe { sigaction(signal, &action) }.expect("a signal that can be handled");
}

fn pool_by(method: StartMethod, workers: usize) -> ProcessPoolExecutor {
    let builder = ProcessPoolExecutor::builder().workers(workers);
    let pool = builder.start_method(method).build();
    pool.expect("a pool")
}

/// Starts a program in a process group of its own.
fn start(name: &str, method: StartMethod, signal: &str) -> Program {
    let mut command = Program::command_by(name, method);
    command.process_group(0).env(SIGNAL, signal);
    Program::start_by(command)
}

fn send_to_group(program: &Program, signal: Signal) {
    let group = Pid::from_raw(program.pid().cast_signed());
    killpg(group, signal).expect("the program's process group");
}

/// Lives through a signal: `nohup` has it ignored, what drains handles it.
fn live_through(signal: Signal) {
    let handler = match signal {
        Signal::SIGHUP => SigHandler::SigIgn,
        _ => SigHandler::Handler(do_nothing),
    };
    handle(signal, handler);
}

/// Finishes what it has begun, whatever signal its group gets meanwhile.
fn drain() {
    let signal = env::var(SIGNAL).expect("a signal");
    live_through(Signal::from_str(&signal).expect("a signal"));
    by_its_method(|method| {
        // The fork server is there already when the program sets its handler.
        drop(pool_by(method, 1));
        let signal = env::var(SIGNAL).expect("a signal");
        live_through(Signal::from_str(&signal).expect("a signal"));
        let pool = pool_by(method, 2);
        let manager = Manager::start().expect("a manager");
        let list = manager.list::<u64>().expect("a list");
        let workers = pool.worker_pids();
        let gate = Gate::new();
        let running = pool.submit(pass, gate.path());
        gate.wait_for(1);
        let queued: Vec<_> = (0..100).map(|it| pool.submit(square, it)).collect();
        say("there");
        listen();
        gate.open();
        running.result().expect("the task goes on");
        let queued: Result<Vec<_>> = queued.into_iter().map(|it| it.result()).collect();
        assert_eq!(queued.expect("all are done").len(), 100);
        list.push(1).expect("the manager answers");
        assert_eq!(list.to_vec().expect("the manager answers"), [1]);
        assert_eq!(pool.worker_pids(), workers);
        let pids: Vec<String> = Seen::descendants_of(id())
            .iter()
            .map(|it| it.pid.to_string())
            .collect();
        say(pids.join(" "));
        listen();
    });
}

/// Sends a signal to the group of a program that drains, again and again.
fn drains(signal: Signal) {
    for method in StartMethod::ALL {
        let mut program = start("drain", method, signal.as_str());
        assert_eq!(program.hear(), "there");
        for _ in 0..50 {
            send_to_group(&program, signal);
        }
        program.tell();
        let all: Vec<Seen> = program.hear_numbers().into_iter().map(process).collect();
        assert!(
            all.len() >= 4,
            "server, workers, the manager's server: {all:?}"
        );
        send_to_group(&program, signal);
        program.tell();
        program.succeed();
        eventually("no process is left", || !all.iter().any(Seen::runs));
    }
}

#[test]
fn a_hang_up_disturbs_nothing_under_nohup() {
    in_time(|| drains(Signal::SIGHUP));
}

#[test]
fn a_sigterm_to_the_group_disturbs_nothing_of_a_program_that_drains() {
    in_time(|| drains(Signal::SIGTERM));
}

/// The signals in a mask of `/proc/<pid>/status`, but those that glibc keeps for itself.
fn signals_in(mask: &str) -> u64 {
    const GLIBC: u64 = 3 << 31;
    u64::from_str_radix(mask.trim(), 16).expect("a mask") & !GLIBC
}

/// The signals that a process ignores.
fn ignored_by(pid: u32) -> u64 {
    signals_in(&status_of(pid, "SigIgn"))
}

/// A task: the signals that a program ignores which it starts.
fn ignored_by_a_program((): ()) -> String {
    let mut command = Command::new("grep");
    command.args(["SigIgn", "/proc/self/status"]);
    let said = command.output().map(|it| it.stdout).unwrap_or_default();
    String::from_utf8_lossy(&said).replace("SigIgn:", "")
}

fn ignore_signals() {
    by_its_method(|method| {
        drop(pool_by(method, 1));
        let signals = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGINT];
        signals
            .iter()
            .for_each(|it| handle(*it, SigHandler::SigIgn));
        let bits = |all: &[Signal]| all.iter().fold(0, |sum, it| sum | 1 << (*it as u64 - 1));
        let wanted = bits(&[&signals[..], &[Signal::SIGPIPE]].concat());
        let pool = pool_by(method, 1);
        let own = |()| ignored_by(id());
        assert_eq!(pool.apply(own, ()).expect("a task"), wanted);
        let said = pool.apply(ignored_by_a_program, ()).expect("a task");
        let said = signals_in(&said);
        assert_eq!(said | bits(&[Signal::SIGPIPE]), wanted);
        let manager = Manager::start().expect("a manager");
        assert_eq!(ignored_by(manager.server_pid().expect("its own")), wanted);
        let process = Process::builder(own, ()).start_method(method);
        let seen = process.start().and_then(Process::result);
        assert_eq!(seen.expect("a process"), wanted);
        // The next server inherits them; a worker that comes later ignores what the program does by
        // then.
        handle(Signal::SIGUSR1, SigHandler::SigDfl);
        failure(pool.apply(|()| -> () { std::process::abort() }, ()));
        let seen = pool.apply(own, ()).expect("a task");
        assert_eq!(seen, wanted & !bits(&[Signal::SIGUSR1]));
    });
}

#[test]
fn what_the_program_ignores_is_ignored_in_every_process_that_it_starts() {
    in_time(|| {
        for method in StartMethod::ALL {
            start("ignore signals", method, "").succeed();
        }
    });
}

/// Waits, with a busy worker, an idle one and a manager.
fn leave_it_to_its_owner() {
    by_its_method(|method| {
        let pool = pool_by(method, 2);
        let _manager = Manager::start().expect("a manager");
        let gate = Gate::new();
        let _running = pool.submit(pass, gate.path());
        gate.wait_for(1);
        let mut pids: Vec<String> = Seen::descendants_of(id())
            .iter()
            .map(|it| it.pid.to_string())
            .collect();
        pids.push(id().to_string());
        say(pids.join(" "));
        loop {
            pause();
        }
    });
}

#[test]
fn a_sigterm_to_the_group_of_a_program_that_it_ends_leaves_no_process() {
    in_time(|| {
        for method in StartMethod::ALL {
            let mut program = start("leave it to its owner", method, "");
            let all: Vec<Seen> = program.hear_numbers().into_iter().map(process).collect();
            send_to_group(&program, Signal::SIGTERM);
            assert!(!program.finish().status.success());
            eventually("no process is left", || !all.iter().any(Seen::runs));
        }
    });
}

/// Runs a test here by `ForkServer` and `Spawn`, and by `Fork` in a process with one thread.
fn by_every_method(test: fn(StartMethod)) {
    in_time(move || {
        test(StartMethod::ForkServer);
        test(StartMethod::Spawn);
        let forked = Process::start(test, StartMethod::Fork).and_then(Process::result);
        forked.expect("it succeeds by `Fork`, too");
    });
}

#[test]
fn a_task_that_sends_its_own_worker_sigterm_ends_it() {
    by_every_method(|method| {
        let pool = pool_by(method, 1);
        let error = failure(pool.apply(|()| raise(Signal::SIGTERM).expect("raised"), ()));
        assert_eq!(error.worker().and_then(|it| it.signal), Some(15), "{error}");
    });
}

#[test]
fn a_stopped_pool_ends_workers_that_have_heard_sigterm_before() {
    by_every_method(|method| {
        let pool = pool_by(method, 2);
        let workers: Vec<Seen> = pool.worker_pids().into_iter().map(process).collect();
        let gate = Gate::new();
        let running = pool.submit(pass, gate.path());
        gate.wait_for(1);
        for _ in 0..50 {
            workers.iter().for_each(|it| kill(it.pid, Signal::SIGTERM));
        }
        pool.terminate();
        assert_eq!(failure(running.result()).kind(), ErrorKind::Shutdown);
        eventually("the workers are gone", || !workers.iter().any(Seen::runs));
    });
}

/// Whether a task's own handler has run.
static HEARD: AtomicBool = AtomicBool::new(false);

extern "C" fn hear(_: i32) {
    HEARD.store(true, Ordering::Relaxed);
}

#[test]
fn a_task_s_own_handler_gets_the_pool_s_sigterm() {
    by_every_method(|method| {
        let pool = pool_by(method, 1);
        let task = |()| {
            handle(Signal::SIGTERM, SigHandler::Handler(hear));
            while !HEARD.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(1));
            }
            7
        };
        let limited = pool.options().timeout(Duration::from_millis(30));
        assert_eq!(limited.apply(task, ()).expect("its result is kept"), 7);
    });
}

#[test]
fn what_a_task_forks_or_executes_ends_at_sigterm() {
    by_every_method(|method| {
        let pool = pool_by(method, 1);
        let fork_one = |()| {
            // SAFETY: a worker has one thread, and the child calls nothing that takes a lock.
            match unsafe { fork() } {
                Ok(ForkResult::Child) => loop {
                    pause();
                },
                Ok(ForkResult::Parent { child }) => child.as_raw().cast_unsigned(),
                Err(_) => 0,
            }
        };
        let execute_one = |()| {
            let mut command = Command::new("sleep");
            command
                .arg("1000")
                .stdin(Stdio::null())
                .stdout(Stdio::null());
            command
                .stderr(Stdio::null())
                .spawn()
                .map_or(0, |it| it.id())
        };
        let forked = process(pool.apply(fork_one, ()).expect("a process"));
        let executed = process(pool.apply(execute_one, ()).expect("a program"));
        for it in [forked, executed] {
            kill(it.pid, Signal::SIGTERM);
            eventually("it has ended", || !it.runs());
        }
    });
}

#[test]
fn terminate_ends_a_process_however_it_was_started() {
    by_every_method(|method| {
        let endless = |()| -> () {
            loop {
                pause();
            }
        };
        let process = Process::builder(endless, ()).start_method(method);
        let process = process.start().expect("a process");
        process.terminate().expect("its owner");
        let status = process.join().expect("its owner");
        assert_eq!(status.signal(), Some(15));
    });
}

#[test]
fn no_signal_but_sigkill_ends_the_fork_server() {
    in_time(|| {
        let pool = pool_by(StartMethod::ForkServer, 1);
        let (server, workers) = (fork_server(), pool.worker_pids());
        let deadly = [
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGUSR1,
            Signal::SIGALRM,
        ];
        deadly.into_iter().for_each(|it| kill(server, it));
        assert_eq!(pool.apply(square, 3).expect("a worker"), 9);
        drop(pool_by(StartMethod::ForkServer, 1));
        assert_eq!((fork_server(), pool.worker_pids()), (server, workers));
    });
}
