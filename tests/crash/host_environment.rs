//! Host programs with habits of their own: the pool works in each, and its workers do not inherit
//! them.

#![expect(
    unsafe_code,
    reason = "host programs that change what a process has one of"
)]

use common::processes::{
    Process, Program, descriptors_of, eventually, fork_server, kill, kill_fork_server, listen, say,
    status_of,
};
use common::{DEADLINE, Gate, arrive, failure, in_time, pass, pool_of, race, square};
use nix::{
    sys::{
        signal::{
            SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, killpg, pthread_sigmask,
            sigaction,
        },
        wait::waitpid,
    },
    unistd::Pid,
};
use procpool::{ErrorKind, ProcessPoolExecutor, Result};
use std::{
    env, fs,
    fs::File,
    io::{Write, stdout},
    os::{fd::AsRawFd, unix::process::CommandExt},
    panic,
    path::PathBuf,
    process, thread,
    time::{Duration, Instant},
};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("live through ctrl-c", live_through_ctrl_c),
    ("die of a signal", die_of_a_signal),
    ("unwind past a busy pool", unwind_past_a_busy_pool),
    ("build pools under ctrl-c", build_under_ctrl_c),
    ("be suspended", be_suspended),
    ("turn into another program", turn_into_another_program),
    ("be interrupted", be_interrupted),
    ("interrupt workers", interrupt_workers),
    ("ignore SIGCHLD", ignore_sigchld),
    ("reap all children", reap_all_children),
    ("close the standard descriptors", close_stdio),
    ("change the directory", change_the_directory),
    ("remove the directory", remove_the_directory),
    ("change the environment", change_the_environment),
    ("block and handle signals", block_and_handle_signals),
    ("die of SIGPIPE", die_of_sigpipe),
    ("run out of descriptors", run_out_of_descriptors),
    ("use a pool in many threads", use_a_pool_in_many_threads),
];

fn succeeds(name: &'static str) {
    in_time(|| drop(Program::start(name).succeed()));
}

extern "C" fn do_nothing(_: i32) {}

/// Sets a handler for a signal in this process.
fn handle(signal: Signal, handler: SigHandler) {
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the only handler is one that does nothing.
    unsafe { sigaction(signal, &action) }.expect("a signal that can be handled");
}

/// Checks that a pool runs tasks, tells how a task died, replaces idle workers, and ends.
fn check_works(pool: &ProcessPoolExecutor) {
    assert_eq!(
        pool.map(square, 0..1000).expect("a pool that works").len(),
        1000
    );
    let died = failure(pool.apply(|code| -> () { process::exit(code) }, 42));
    assert_eq!(died.worker().expect("a death").exit_code, Some(42));
    let died = failure(pool.apply(|()| -> () { process::abort() }, ()));
    assert_eq!(died.worker().expect("a death").signal, Some(6));
    pool.worker_pids()
        .iter()
        .for_each(|it| kill(*it, Signal::SIGKILL));
    assert_eq!(
        pool.map(square, 0..1000).expect("a pool that works").len(),
        1000
    );
    kill_fork_server();
    assert_eq!(
        pool.map(square, 0..1000).expect("a pool that works").len(),
        1000
    );
}

// Ctrl-C.

fn live_through_ctrl_c() {
    handle(Signal::SIGINT, SigHandler::Handler(do_nothing));
    let pool = pool_of(2);
    let workers = pool.worker_pids();
    let gate = Gate::new();
    let running = pool.submit(pass, gate.path());
    gate.wait_for(1);
    say("there");
    listen();
    drop(gate);
    running.result().expect("the task goes on");
    assert_eq!(
        pool.map(square, 0..1000).expect("a pool that works").len(),
        1000
    );
    assert_eq!(pool.worker_pids(), workers);
    let slept = pool.submit(thread::sleep, Duration::from_millis(50));
    eventually("the task sleeps", || slept.is_running() || slept.is_done());
    say("there");
    listen();
    slept.result().expect("the task goes on");
    assert_eq!(pool.worker_pids(), workers);
}

/// Presses Ctrl-C for a program that leads a process group.
fn press_ctrl_c(program: &Program) {
    let group = Pid::from_raw(program.pid().cast_signed());
    killpg(group, Signal::SIGINT).expect("the program's process group");
}

#[test]
fn ctrl_c_does_not_disturb_workers() {
    in_time(|| {
        let mut command = Program::command("live through ctrl-c");
        command.process_group(0);
        let mut program = Program::start_by(command);
        for _ in 0..2 {
            assert_eq!(program.hear(), "there");
            for _ in 0..20 {
                press_ctrl_c(&program);
            }
            program.tell();
        }
        let finished = program.finish();
        assert!(finished.status.success(), "{finished:#?}");
        assert_eq!(finished.errors, "");
    });
}

/// Where tasks leave files.
const FOLDER: &str = "PROCPOOL_TEST_FOLDER";

/// A task that leaves a trace of itself.
fn leave_a_file(name: String) -> bool {
    let folder = env::var_os(FOLDER).map(PathBuf::from);
    folder.is_some_and(|it| File::create(it.join(name)).is_ok())
}

/// A task that says that it is there, and never ends.
fn stay(gate: PathBuf) {
    arrive(&gate);
    loop {
        thread::park();
    }
}

fn die_of_a_signal() {
    let pool = pool_of(2);
    let gate = Gate::new();
    let _running = [(), ()].map(|()| pool.submit(stay, gate.path()));
    gate.wait_for(2);
    let name = |it: u32| it.to_string();
    let _queued: Vec<_> = (0..100)
        .map(|it| pool.submit(leave_a_file, name(it)))
        .collect();
    let _mapped = pool.map_async(leave_a_file, (100..200).map(name));
    let all = Process::descendants_of(process::id());
    let pids: Vec<String> = all.iter().map(|it| it.pid.to_string()).collect();
    say(pids.join(" "));
    while listen() {}
}

/// Ends a program that has tasks running and others queued; neither a word nor a process nor the
/// work of a task is left of it.
fn go_quietly(send: fn(&Program)) {
    in_time(move || {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Program::command("die of a signal");
        command.process_group(0).env(FOLDER, folder.path());
        let mut program = Program::start_by(command);
        let all: Vec<Process> = program
            .hear_numbers()
            .into_iter()
            .filter_map(Process::of)
            .collect();
        assert_eq!(all.len(), 3);
        send(&program);
        let finished = program.finish();
        assert!(!finished.status.success());
        assert_eq!(finished.errors, "");
        eventually("no process is left", || !all.iter().any(Process::runs));
        let files = fs::read_dir(folder.path()).expect("the folder");
        assert_eq!(files.count(), 0, "a queued task has run");
    });
}

#[test]
fn workers_go_quietly_with_a_program_that_ctrl_c_ends() {
    go_quietly(press_ctrl_c);
}

#[test]
fn workers_go_quietly_with_a_program_that_sigterm_ends() {
    go_quietly(|it| kill(it.pid(), Signal::SIGTERM));
}

#[test]
fn workers_go_quietly_with_a_program_that_the_terminal_hangs_up_on() {
    let hang_up = |it: &Program| {
        let group = Pid::from_raw(it.pid().cast_signed());
        killpg(group, Signal::SIGHUP).expect("the program's process group");
    };
    go_quietly(hang_up);
}

fn unwind_past_a_busy_pool() {
    let pool = pool_of(2);
    let name = |it: u32| it.to_string();
    let _queued: Vec<_> = (0..100)
        .map(|it| pool.submit(leave_a_file, name(it)))
        .collect();
    let all = Process::descendants_of(process::id());
    let pids: Vec<String> = all.iter().map(|it| it.pid.to_string()).collect();
    say(pids.join(" "));
    panic!("no handler catches this");
}

#[test]
fn a_panic_that_ends_the_program_ends_what_was_submitted_first() {
    in_time(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Program::command("unwind past a busy pool");
        command.env(FOLDER, folder.path());
        let mut program = Program::start_by(command);
        let pids = program.hear_numbers();
        let all: Vec<Process> = pids.into_iter().filter_map(Process::of).collect();
        let finished = program.finish();
        assert_eq!(finished.status.code(), Some(101), "{finished:#?}");
        eventually("no process is left", || !all.iter().any(Process::runs));
        let files = fs::read_dir(folder.path()).expect("the folder");
        assert_eq!(files.count(), 100);
    });
}

fn build_under_ctrl_c() {
    handle(Signal::SIGINT, SigHandler::Handler(do_nothing));
    say("there");
    race(|| {
        let pool = pool_of(1);
        assert_eq!(pool.apply(square, 3).expect("a pool that works"), 9);
        drop(pool);
        // The next one needs a new server, which is not yet itself when the signal comes.
        kill_fork_server();
    });
    say("done");
    listen();
}

#[test]
fn ctrl_c_does_not_disturb_the_start_of_workers() {
    in_time(|| {
        let mut command = Program::command("build pools under ctrl-c");
        command.process_group(0);
        let mut program = Program::start_by(command);
        assert_eq!(program.hear(), "there");
        let done = loop {
            press_ctrl_c(&program);
            if let Some(line) = program.try_hear() {
                break line;
            }
            thread::sleep(Duration::from_micros(200));
        };
        assert_eq!(done, "done");
        program.succeed();
    });
}

fn be_suspended() {
    let pool = pool_of(2);
    race(|| {
        say("there");
        assert_eq!(
            pool.map(square, 0..1000).expect("a pool that works").len(),
            1000
        );
        let futures: Vec<_> = (0..100).map(|x| pool.submit(square, x)).collect();
        for (x, future) in (0..).zip(futures) {
            assert_eq!(future.result().expect("a pool that works"), x * x);
        }
    });
    say("done");
}

#[test]
fn a_program_that_is_suspended_goes_on_where_it_was() {
    in_time(|| {
        let mut command = Program::command("be suspended");
        command.process_group(0);
        let mut program = Program::start_by(command);
        let group = Pid::from_raw(program.pid().cast_signed());
        while program.hear() != "done" {
            for _ in 0..5 {
                // It fails only when the program is done.
                let _ = killpg(group, Signal::SIGSTOP);
                let _ = killpg(group, Signal::SIGCONT);
            }
        }
        program.succeed();
    });
}

fn turn_into_another_program() {
    let pool = pool_of(2);
    let gate = Gate::new();
    let running = pool.submit(pass, gate.path());
    gate.wait_for(1);
    let all = Process::descendants_of(process::id());
    let pids: Vec<String> = all.iter().map(|it| it.pid.to_string()).collect();
    say(pids.join(" "));
    listen();
    let error = process::Command::new("sleep").arg("1000").exec();
    drop(running);
    panic!("{error}");
}

#[test]
fn no_worker_outlives_a_program_that_turns_into_another() {
    in_time(|| {
        let mut program = Program::start("turn into another program");
        let all: Vec<Process> = program
            .hear_numbers()
            .into_iter()
            .filter_map(Process::of)
            .collect();
        assert_eq!(all.len(), 3);
        program.tell();
        eventually("no process is left", || !all.iter().any(Process::runs));
        let program = Process::of(program.pid()).expect("it goes on");
        assert_eq!(program.name, "sleep");
    });
}

/// Interrupts this process again and again by a signal whose handler does not restart system
/// calls.
fn interrupt_this_process() {
    let action = SigAction::new(
        SigHandler::Handler(do_nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGALRM, &action) }.expect("a signal that can be handled");
    let often = libc::timeval {
        tv_sec: 0,
        tv_usec: 300,
    };
    let timer = libc::itimerval {
        it_interval: often,
        it_value: often,
    };
    // SAFETY: the kernel reads a local.
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    assert_eq!(set, 0);
}

fn be_interrupted() {
    interrupt_this_process();
    race(|| {
        let pool = pool_of(2);
        check_works(&pool);
        let bytes = vec![7; 3 << 20];
        assert!(
            pool.apply(|x: Vec<u8>| x, bytes.clone())
                .expect("a pool that works")
                == bytes
        );
        let slept = pool.map(thread::sleep, [Duration::from_millis(5); 4]);
        assert_eq!(slept.expect("a pool that works").len(), 4);
    });
}

#[test]
fn a_pool_works_in_a_program_that_signals_interrupt_all_the_time() {
    succeeds("be interrupted");
}

fn interrupt_workers() {
    let pool = pool_of(2);
    let gate = Gate::new();
    let task = |gate| {
        interrupt_this_process();
        pass(gate);
    };
    let futures = [(), ()].map(|()| pool.submit(task, gate.path()));
    gate.wait_for(2);
    gate.open();
    let interrupted = futures.into_iter().map(|it| it.result());
    interrupted.for_each(|it| it.expect("a pool that works"));
    let workers = pool.worker_pids();
    race(|| {
        assert_eq!(
            pool.map(square, 0..1000).expect("a pool that works").len(),
            1000
        );
        let values = (0..20).map(|it| vec![7u8; it * 20_000]);
        assert_eq!(
            pool.map(|x: Vec<u8>| x, values)
                .expect("a pool that works")
                .len(),
            20
        );
        thread::sleep(Duration::from_millis(2));
    });
    assert_eq!(pool.worker_pids(), workers);
}

#[test]
fn workers_that_signals_interrupt_all_the_time_work() {
    succeeds("interrupt workers");
}

// Children.

fn ignore_sigchld() {
    handle(Signal::SIGCHLD, SigHandler::SigIgn);
    check_works(&pool_of(2));
}

#[test]
fn a_pool_works_where_sigchld_is_ignored() {
    succeeds("ignore SIGCHLD");
}

fn reap_all_children() {
    thread::spawn(|| {
        loop {
            if waitpid(None, None).is_err() {
                // There is no child just now.
                thread::sleep(Duration::from_micros(100));
            }
        }
    });
    check_works(&pool_of(2));
    check_works(&pool_of(2));
}

#[test]
fn a_pool_works_where_all_children_are_reaped() {
    succeeds("reap all children");
}

// Descriptors.

fn close_stdio() {
    say("there");
    let errors = File::from(nix::unistd::dup(std::io::stderr()).expect("a descriptor"));
    panic::set_hook(Box::new(move |info| {
        // No other output is left.
        let _ = writeln!(&errors, "{info}");
        process::abort();
    }));
    for number in 0..3 {
        // SAFETY: the standard library expects that these may be closed; no other object holds
        // them.
        unsafe { libc::close(number) };
    }
    let pool = pool_of(2);
    check_works(&pool);
    let printed = pool.map(|x: u64| println!("{x} goes nowhere"), 0..100);
    assert_eq!(printed.expect("a pool that works").len(), 100);
    assert_eq!(
        pool.apply(|x: Vec<u8>| x, vec![7; 1 << 20])
            .expect("a pool that works")
            .len(),
        1 << 20
    );
    let open = descriptors_of(process::id());
    let standard: Vec<_> = open.iter().filter(|it| it.0 < 3).collect();
    // The one that reads the directory may be among them.
    let own: Vec<_> = standard
        .iter()
        .filter(|it| !it.1.starts_with("/proc/"))
        .collect();
    assert!(own.is_empty(), "{own:?} are written to by tasks that print");
}

#[test]
fn a_pool_works_where_the_standard_descriptors_are_closed() {
    succeeds("close the standard descriptors");
}

fn limit_descriptors(most: u64) {
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    // SAFETY: the kernel reads a local.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    assert_eq!(set, 0);
}

fn run_out_of_descriptors() {
    let pool = pool_of(1);
    let (server, workers) = (fork_server(), pool.worker_pids());
    limit_descriptors(256);
    let mut hoard: Vec<File> = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hoard.push(file);
    }
    // With a few left after each failure, every step of building comes to be the one that fails.
    loop {
        let before = descriptors_of_self();
        match ProcessPoolExecutor::builder().workers(3).build() {
            Ok(other) => {
                assert_eq!(other.apply(square, 3).expect("a pool that works"), 9);
                break;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::StartFailed, "{error}"),
        }
        assert_eq!(pool.apply(square, 3).expect("it needs no descriptor"), 9);
        assert_eq!(pool.worker_pids(), workers, "another pool was harmed");
        assert_eq!(
            descriptors_of_self(),
            before,
            "a failed build leaves descriptors"
        );
        hoard
            .pop()
            .expect("a pool needs fewer than 256 descriptors");
    }
    drop(hoard);
    assert_eq!(fork_server(), server);
    assert_eq!(
        pool.map(square, 0..1000).expect("a pool that works").len(),
        1000
    );
}

/// How many descriptors are open, found without opening one.
fn descriptors_of_self() -> usize {
    // SAFETY: fcntl takes plain numbers.
    (0..256)
        .filter(|it| unsafe { libc::fcntl(*it, libc::F_GETFD) } >= 0)
        .count()
}

#[test]
fn a_pool_that_runs_out_of_descriptors_while_it_is_built_fails_to_start() {
    succeeds("run out of descriptors");
}

// Directory and environment.

fn working_directory((): ()) -> Option<PathBuf> {
    env::current_dir().ok()
}

fn change_the_directory() {
    let directories = [(), ()].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let paths = directories
        .each_ref()
        .map(|it| fs::canonicalize(it.path()).expect("a path"));
    drop(pool_of(1));
    // The fork server is in the old one.
    env::set_current_dir(&paths[0]).expect("a directory");
    let pool = pool_of(1);
    let found = pool
        .apply(working_directory, ())
        .expect("a pool that works");
    assert_eq!(found.as_ref(), Some(&paths[0]));
    env::set_current_dir(&paths[1]).expect("a directory");
    failure(pool.apply(|()| -> () { process::abort() }, ()));
    let found = pool
        .apply(working_directory, ())
        .expect("a pool that works");
    assert_eq!(found.as_ref(), Some(&paths[0]));
}

#[test]
fn workers_start_in_the_directory_in_which_their_pool_was_built() {
    succeeds("change the directory");
}

fn remove_the_directory() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    env::set_current_dir(directory.path()).expect("a directory");
    directory.close().expect("an empty directory");
    check_works(&pool_of(2));
}

#[test]
fn a_pool_works_where_the_directory_was_removed() {
    succeeds("remove the directory");
}

fn variable(name: String) -> Option<String> {
    env::var(name).ok()
}

/// What new workers of a pool see of three variables.
fn seen(pool: &ProcessPoolExecutor) -> [Option<String>; 3] {
    ["ADDED", "CHANGED", "REMOVED"].map(|it| {
        pool.apply(variable, it.to_owned())
            .expect("a pool that works")
    })
}

fn change_the_environment() {
    let set = |name: &str, value: &str| {
        // SAFETY: the program's other threads are the test harness's and the pool's; neither
        // touches the environment now.
        unsafe { env::set_var(name, value) }
    };
    set("CHANGED", "before");
    set("REMOVED", "before");
    let first = pool_of(1);
    let [before, after] = ["before", "after"].map(|it| Some(it.to_owned()));
    assert_eq!(seen(&first), [None, before.clone(), before.clone()]);
    set("ADDED", "after");
    set("CHANGED", "after");
    // SAFETY: as above.
    unsafe { env::remove_var("REMOVED") };
    let changed = [after.clone(), after, None];
    assert_eq!(seen(&pool_of(1)), changed);
    let unchanged = [None, before.clone(), before];
    assert_eq!(seen(&first), unchanged);
    failure(first.apply(|()| -> () { process::abort() }, ()));
    assert_eq!(seen(&first), unchanged);
    // The next workers come from another server.
    kill_fork_server();
    assert_eq!(seen(&pool_of(1)), changed);
    assert_eq!(seen(&first), unchanged);
    set("ADDED", "");
    assert_eq!(seen(&pool_of(1))[0].as_deref(), Some(""));
}

#[test]
fn workers_see_the_environment_in_which_their_pool_was_built() {
    succeeds("change the environment");
}

// Signals.

fn block_and_handle_signals() {
    let everything = SigSet::all();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&everything), None).expect("a valid mask");
    handle(Signal::SIGTERM, SigHandler::Handler(do_nothing));
    handle(Signal::SIGUSR1, SigHandler::Handler(do_nothing));
    handle(Signal::SIGHUP, SigHandler::Handler(do_nothing));
    let pool = pool_of(1);
    let worker = pool.worker_pids()[0];
    assert_eq!(pool.apply(square, 3).expect("a pool that works"), 9);
    // glibc keeps 32 and 33 for itself.
    let own = 3 << 31;
    let mask = |field| u64::from_str_radix(&status_of(worker, field), 16).expect("a mask") & !own;
    let bit = |signal: Signal| 1 << (signal as u64 - 1);
    assert_eq!(mask("SigBlk"), 0);
    assert_eq!(mask("SigIgn"), bit(Signal::SIGPIPE));
    let leave_it_to_the_owner = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
    let note_an_overflow = [Signal::SIGSEGV, Signal::SIGBUS];
    let handled = leave_it_to_the_owner.iter().chain(&note_an_overflow);
    assert_eq!(mask("SigCgt"), handled.copied().map(bit).sum());
    for signal in [Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGHUP] {
        let task = |signal: i32| {
            nix::sys::signal::raise(Signal::try_from(signal).expect("a signal")).expect("raised");
        };
        let error = failure(pool.apply(task, signal as i32));
        assert_eq!(error.worker().expect("a death").signal, Some(signal as i32));
    }
    check_works(&pool);
    // The host's own are as they were.
    let own = SigSet::thread_get_mask().expect("a mask");
    assert!(own.contains(Signal::SIGTERM) && own.contains(Signal::SIGCHLD));
}

#[test]
fn the_hosts_blocked_and_handled_signals_do_not_reach_workers() {
    succeeds("block and handle signals");
}

// Many a command-line tool puts SIGPIPE back to its default, so that it ends with the reader of its
// output. A request that is written to a worker that has just died must not end the program.
fn die_of_sigpipe() {
    handle(Signal::SIGPIPE, SigHandler::SigDfl);
    let pool = pool_of(2);
    for round in 0..200 {
        pool.worker_pids()
            .iter()
            .for_each(|it| kill(*it, Signal::SIGKILL));
        for x in 0..4 {
            assert_eq!(
                pool.apply(square, x).expect("no task ran in a victim"),
                x * x
            );
        }
        if round % 20 == 0 {
            assert_eq!(
                pool.map(square, 0..1000).expect("a pool that works").len(),
                1000
            );
        }
    }
    check_works(&pool);
}

#[test]
fn a_program_that_dies_of_sigpipe_does_not_die_of_its_workers_deaths() {
    succeeds("die of SIGPIPE");
}

// Threads.

fn use_a_pool_in_many_threads() {
    let pool = pool_of(3);
    let end = Instant::now() + DEADLINE / 60;
    thread::scope(|scope| {
        for thread in 0..6u64 {
            let pool = &pool;
            scope.spawn(move || -> Result<()> {
                while Instant::now() < end {
                    let task = |x: u64| {
                        if x == 77 {
                            process::abort();
                        }
                        x + 1
                    };
                    match thread {
                        0 => assert_eq!(pool.apply(task, 1)?, 2),
                        1 => assert_eq!(pool.map(task, 100..200)?.len(), 100),
                        2 => drop(failure(pool.apply(task, 77))),
                        3 => assert_eq!(pool.imap(task, 100..200).flatten().count(), 100),
                        4 => pool.worker_pids().iter().for_each(|it| assert!(*it > 0)),
                        _ => drop(pool.submit(task, 5)),
                    }
                }
                Ok(())
            });
        }
    });
    assert!(stdout().as_raw_fd() == 1);
}

#[test]
fn threads_that_share_a_pool_do_not_share_its_tasks_deaths() {
    succeeds("use a pool in many threads");
}
