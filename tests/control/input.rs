//! What tasks find in their standard input.

use crate::{
    common::in_time,
    processes::{Program, listen, say},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use procpool::{Input, Process, ProcessPoolBuilder, ProcessPoolExecutor, StartMethod};
use std::{
    env,
    io::{read_to_string, stdin},
    os::fd::AsFd,
};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("read beside tasks", read_beside_tasks),
    ("have a task read", have_a_task_read),
];

/// Names the start method of a program's pool.
const METHOD: &str = "PROCPOOL_TEST_METHOD";

/// Builds a pool by the method that the program was started for; `Fork` is allowed in a process
/// with one thread.
fn with_a_pool(body: fn(String)) {
    let method = env::var(METHOD).expect("a start method");
    if method == "Fork" {
        let process = Process::start(body, method).expect("a process");
        process.result().expect("it ends well");
    } else {
        body(method);
    }
}

fn builder(method: &str) -> ProcessPoolBuilder {
    let mut all = StartMethod::ALL.into_iter();
    let method = all.find(|it| format!("{it:?}") == method);
    let builder = ProcessPoolExecutor::builder().workers(1);
    builder.start_method(method.expect("a start method"))
}

/// Waits until the test has sent a line, and leaves it where it is.
fn wait_for_a_line() {
    let input = stdin();
    let mut fds = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::NONE).expect("a pipe can be polled");
}

fn read_beside_tasks() {
    with_a_pool(|method| {
        let pool = builder(&method).build().expect("a pool");
        say("there");
        wait_for_a_line();
        let read = pool.apply(|()| read_to_string(stdin()).ok(), ());
        assert_eq!(read.expect("a task").as_deref(), Some(""));
        let _ = pool.apply(|()| -> () { std::process::abort() }, ());
        let read = pool.apply(|()| read_to_string(stdin()).ok(), ());
        assert_eq!(read.expect("in a replacement").as_deref(), Some(""));
        assert!(listen(), "a task took the line");
    });
}

fn have_a_task_read() {
    with_a_pool(|method| {
        let pool = builder(&method).stdin(Input::Inherit).build();
        let pool = pool.expect("a pool");
        say("there");
        wait_for_a_line();
        let read = pool.apply(|()| listen(), ());
        assert!(read.expect("a task"), "the task found no line");
    });
}

/// Sends a line to a program as soon as it is there, for every start method.
fn succeeds(name: &'static str) {
    in_time(move || {
        for method in StartMethod::ALL {
            let mut command = Program::command(name);
            command.env(METHOD, format!("{method:?}"));
            let mut program = Program::start_by(command);
            assert_eq!(program.hear(), "there");
            program.tell();
            program.succeed();
        }
    });
}

#[test]
fn tasks_leave_the_input_of_the_program_to_it() {
    succeeds("read beside tasks");
}

#[test]
fn tasks_read_the_input_of_the_program_where_they_inherit_it() {
    succeeds("have a task read");
}
