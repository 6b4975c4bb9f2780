//! What tasks find in their standard input.

use common::in_time;
use common::processes::{Program, by_its_method, listen, say};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use procpool::{Input, ProcessPoolBuilder, ProcessPoolExecutor, StartMethod};
use std::{
    io::{read_to_string, stdin},
    os::fd::AsFd,
};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("read while tasks read", read_beside_tasks),
    ("have a task read", have_a_task_read),
];

fn builder(method: StartMethod) -> ProcessPoolBuilder {
    ProcessPoolExecutor::builder()
        .workers(1)
        .start_method(method)
}

/// Waits until the test has sent a line, and leaves it where it is.
fn wait_for_a_line() {
    let input = stdin();
    let mut fds = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::NONE).expect("a pipe can be polled");
}

fn read_beside_tasks() {
    by_its_method(|method| {
        let pool = builder(method).build().expect("a pool");
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
    by_its_method(|method| {
        let pool = builder(method).stdin(Input::Inherit).build();
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
            let mut program = Program::start_by(Program::command_by(name, method));
            assert_eq!(program.hear(), "there");
            program.tell();
            program.succeed();
        }
    });
}

#[test]
fn tasks_leave_the_input_of_the_program_to_it() {
    succeeds("read while tasks read");
}

#[test]
fn tasks_read_the_input_of_the_program_where_they_inherit_it() {
    succeeds("have a task read");
}
