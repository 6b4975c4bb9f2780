//! Programs in a pid namespace of their own that see /proc of another, as `unshare --pid --fork`
//! starts them.

#![expect(unsafe_code, reason = "a descriptor of a process, and its numbers")]

use common::processes::{Program, eventually};
use common::{failure, in_time, pool_of, square};
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};
use procpool::{ErrorKind, Process};
use std::{
    fs,
    process::{Child, Command, Stdio, abort, id},
};

pub(crate) const PROGRAMS: &[(&str, fn())] =
    &[("leave an orphan among strangers", leave_an_orphan)];

/// Runs a program in a pid namespace of its own, but in the mounts of this process.
fn run_in_a_namespace(name: &'static str) {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root makes a pid namespace");
    }
    in_time(move || {
        let program = Program::command(name);
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]);
        command.arg(program.get_program()).args(program.get_args());
        let variables = program.get_envs();
        command.envs(variables.filter_map(|(name, value)| Some((name, value?))));
        Program::start_by(command).succeed();
    });
}

/// The number that a process has in /proc.
fn number_in_proc(pid: u32) -> u32 {
    // SAFETY: pidfd_open takes plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    assert!(fd >= 0, "{}", Errno::last());
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("it is open");
    let number = info.lines().find_map(|it| it.strip_prefix("Pid:"));
    let number = number.expect("a pidfd").trim().parse();
    number.expect("a number")
}

fn sleep() -> Command {
    let mut command = Command::new("sleep");
    command
        .arg("1000")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command.stderr(Stdio::null());
    command
}

/// Starts a program that has this number in this namespace.
fn start_with_number(number: u32) -> Child {
    loop {
        // The next process gets the number after the last one, unless another thread is faster.
        let last = (number - 1).to_string();
        fs::write("/proc/sys/kernel/ns_last_pid", last).expect("root may");
        let mut child = sleep().spawn().expect("a program");
        if child.id() == number {
            return child;
        }
        child.kill().expect("it runs");
        child.wait().expect("a child of this process");
    }
}

fn is_there(pid: u32) -> bool {
    kill(Pid::from_raw(pid.cast_signed()), None) != Err(Errno::ESRCH)
}

fn leave_an_orphan() {
    assert_ne!(number_in_proc(id()), id(), "it has a namespace of its own");
    let pool = pool_of(1);
    let orphan = pool.apply(|()| sleep().spawn().map_or(0, |it| it.id()), ());
    let orphan = orphan.expect("a program");
    let mut stranger = start_with_number(number_in_proc(orphan));
    let error = failure(pool.apply(|()| -> () { abort() }, ()));
    assert_eq!(error.kind(), ErrorKind::WorkerDied);
    let runs = |stranger: &mut Child| matches!(stranger.try_wait(), Ok(None));
    eventually("one of the two is killed", || {
        !is_there(orphan) || !runs(&mut stranger)
    });
    assert!(runs(&mut stranger), "a stranger was killed");
    assert_eq!(pool.apply(square, 3).expect("a worker"), 9);
    // Processes that are no daemons are not left-overs here either.
    let process = Process::start(square, 3).and_then(Process::result);
    assert_eq!(process.expect("a process"), 9);
}

#[test]
fn what_a_worker_left_is_killed_and_no_stranger_with_its_number_elsewhere() {
    run_in_a_namespace("leave an orphan among strangers");
}
