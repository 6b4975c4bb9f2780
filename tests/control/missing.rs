//! A machine that lacks what processes are made of: the error names it.

use super::kernel::{Kernel, Refusal, Which, Whose};
use common::in_time;
use common::processes::{Program, say};
use nix::errno::Errno;
use procpool::{ErrorKind, ProcessPoolExecutor};
use std::{ffi::c_long, process::Command, time::Duration};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("start where a call is missing", || {
        start_without(libc::SYS_pidfd_open, Errno::ENOSYS, Whose::Own);
    }),
    ("start where no process is left", || {
        start_without(libc::SYS_clone, Errno::EAGAIN, Whose::Others);
    }),
    ("start", || say(start())),
];

fn start_without(call: c_long, errno: Errno, whose: Whose) {
    let refusal = Refusal {
        name: "the missing call",
        call,
        errno,
        is_meant: |_| true,
    };
    let kernel = Kernel::new(&[refusal], Duration::from_secs(15));
    let (text, refused) = kernel.refusing(refusal, (whose, Which::All), start);
    assert!(refused > 0);
    say(text);
}

/// The text of the error that a pool's start gives.
fn start() -> String {
    let built = ProcessPoolExecutor::builder().workers(1).build();
    let error = built.expect_err("something is missing");
    assert_eq!(error.kind(), ErrorKind::StartFailed);
    error.to_string()
}

fn text_of(program: Program) -> String {
    program.succeed().concat()
}

#[test]
fn a_start_without_pidfd_open_names_it() {
    in_time(|| {
        let text = text_of(Program::start("start where a call is missing"));
        assert!(text.contains("pidfd_open is unavailable"), "{text}");
    });
}

#[test]
fn a_start_without_processes_names_their_limits() {
    in_time(|| {
        let text = text_of(Program::start("start where no process is left"));
        assert!(text.contains("no process is left"), "{text}");
    });
}

/// Needs the right to mount, as root has it.
#[test]
fn a_start_without_proc_names_it() {
    let mut hidden = Command::new("unshare");
    hidden.args(["--mount", "sh", "-c"]);
    hidden
        .arg("mount -t tmpfs none /proc && exec \"$@\"")
        .arg("sh");
    let may_mount = Command::new(hidden.get_program())
        .args(hidden.get_args())
        .arg("true")
        .output();
    if !may_mount.is_ok_and(|it| it.status.success()) {
        eprintln!("skipped: this user cannot mount over /proc");
        return;
    }
    in_time(move || {
        let program = Program::command("start");
        hidden.arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            hidden.env(name, value.expect("it is set"));
        }
        let text = text_of(Program::start_by(hidden));
        assert!(text.contains("/proc is not mounted"), "{text}");
    });
}
