//! Programs that may not signal their workers any more: they have become another user, or are in a
//! sandbox.

#![expect(unsafe_code, reason = "a filter of system calls")]

use common::processes::{
    Process as Seen, Program, by_its_method, eventually, listen, process, say,
};
use common::{failure, in_time, square, wait_until_running};
use nix::unistd::{Uid, pause, setuid};
use procpool::{
    ErrorKind, Manager, Process, ProcessPoolExecutor, Receiver, Sender, StartMethod, one_way,
};
use std::{process::id, time::Duration};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("become another user", become_nobody),
    ("forbid itself signals", forbid_itself_signals),
    ("forbid its server pidfds", forbid_its_server_pidfds),
    ("forbid all signals", forbid_everybody_signals),
];

const SOON: Duration = Duration::from_millis(50);

fn endless((): ()) {
    loop {
        pause();
    }
}

/// Runs a program by every start method, and waits until nothing is left of it.
fn succeeds(name: &'static str) {
    in_time(move || {
        for method in StartMethod::ALL {
            let mut program = Program::start_by(Program::command_by(name, method));
            let all: Vec<Seen> = program.hear_numbers().into_iter().map(process).collect();
            program.tell();
            program.succeed();
            eventually("no process is left", || !all.iter().any(Seen::runs));
        }
    });
}

fn wait_for_the_end(end: Receiver<()>) {
    // Its sender may be gone.
    let _ = end.recv();
}

/// What a program has when it loses its rights.
struct Household {
    method: StartMethod,
    pool: ProcessPoolExecutor,
    process: Process<()>,
    end: Sender<()>,
    manager: Manager,
}

impl Household {
    fn new(method: StartMethod) -> Self {
        let (end, say_end) = one_way().expect("a pipe");
        let process = Process::builder(wait_for_the_end, end).start_method(method);
        let builder = ProcessPoolExecutor::builder().workers(2);
        let household = Self {
            method,
            process: process.start().expect("a process"),
            end: say_end,
            pool: builder.start_method(method).build().expect("a pool"),
            manager: Manager::start().expect("a manager"),
        };
        household.pool.map(square, 0..100).expect("a pool");
        let pids: Vec<String> = Seen::descendants_of(id())
            .iter()
            .map(|it| it.pid.to_string())
            .collect();
        say(pids.join(" "));
        listen();
        household
    }

    /// Checks that limits and kills of tasks are kept, and that the pool goes on.
    fn check_tasks(&self) {
        let pool = &self.pool;
        for _ in 0..3 {
            let limited = pool.options().timeout(SOON).retries(1).apply(endless, ());
            assert_eq!(failure(limited).kind(), ErrorKind::TimedOut);
            assert_eq!(pool.apply(square, 3).expect("a worker"), 9);
        }
        let killed = pool.submit(endless, ());
        wait_until_running(&killed);
        assert!(killed.kill());
        assert_eq!(failure(killed.result()).kind(), ErrorKind::Cancelled);
        assert_eq!(pool.map(square, 0..100).expect("a pool").len(), 100);
    }

    /// Checks that a process ends by a signal where its parent is another that may send it, and
    /// that `terminate` fails elsewhere.
    fn check_process(&self, has_a_server_that_may: bool) {
        if has_a_server_that_may && self.method != StartMethod::Fork {
            self.process.terminate().expect("the server may");
            let status = self.process.join().expect("a child");
            assert_eq!(status.signal(), Some(15));
        } else {
            let error = failure(self.process.terminate());
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            self.end.send(&()).expect("it listens");
            assert!(self.process.join().expect("a child").success());
        }
    }

    /// Checks that a stopped pool ends, busy workers and all.
    fn check_end(self) {
        let running = self.pool.submit(endless, ());
        wait_until_running(&running);
        self.pool.terminate();
        assert_eq!(failure(running.result()).kind(), ErrorKind::Shutdown);
        self.pool.join().expect("it ends");
        drop(self.manager);
    }
}

fn become_nobody() {
    by_its_method(|method| {
        let household = Household::new(method);
        setuid(Uid::from_raw(65534)).expect("root may");
        household.check_tasks();
        household.check_process(true);
        household.check_end();
    });
}

#[test]
fn tasks_are_stopped_after_the_program_has_become_another_user() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root becomes another user");
    }
    succeeds("become another user");
}

/// Refuses system calls to every thread of this process, and to what it starts from now on.
fn forbid(calls: &[libc::c_long]) {
    let statement = |code: u32, k: u32, jf: u8| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    // The first field of what a filter is given is the number of the call.
    let mut filter = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    let refuse = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    for call in calls {
        let number = u32::try_from(*call).expect("a small number");
        filter.push(statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            number,
            1,
        ));
        filter.push(statement(libc::BPF_RET | libc::BPF_K, refuse, 0));
    }
    filter.push(statement(
        libc::BPF_RET | libc::BPF_K,
        libc::SECCOMP_RET_ALLOW,
        0,
    ));
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).expect("a short program"),
        filter: filter.as_mut_ptr(),
    };
    nix::sys::prctl::set_no_new_privs().expect("anybody may");
    // SAFETY: the kernel reads a program that lives, and its length.
    let set = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            &raw const program,
        )
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

fn forbid_itself_signals() {
    by_its_method(|method| {
        let household = Household::new(method);
        forbid(&[libc::SYS_pidfd_send_signal, libc::SYS_kill]);
        household.check_tasks();
        household.check_process(true);
        household.check_end();
    });
}

#[test]
fn tasks_are_stopped_where_a_sandbox_forbids_the_program_to_signal() {
    succeeds("forbid itself signals");
}

fn forbid_its_server_pidfds() {
    forbid(&[libc::SYS_pidfd_send_signal]);
    by_its_method(|method| {
        let household = Household::new(method);
        household.check_tasks();
        household.check_process(true);
        household.check_end();
    });
}

#[test]
fn tasks_are_stopped_where_a_sandbox_forbids_everybody_pidfds() {
    succeeds("forbid its server pidfds");
}

fn forbid_everybody_signals() {
    forbid(&[libc::SYS_pidfd_send_signal, libc::SYS_kill]);
    by_its_method(|method| {
        let household = Household::new(method);
        let limited = household.pool.options().timeout(SOON);
        let error = failure(limited.apply(endless, ()));
        assert!(error.to_string().contains("left alone"), "{error}");
        let daemon = Process::builder(endless, ()).daemon(true).start();
        household.check_tasks();
        household.check_process(false);
        drop(daemon.expect("a process"));
        household.check_end();
    });
}

#[test]
fn nothing_waits_for_ever_where_nobody_may_signal() {
    succeeds("forbid all signals");
}
