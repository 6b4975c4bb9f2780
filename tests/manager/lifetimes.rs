//! The server dies with its owner, and a client alone.

use common::processes::{Process as Seen, Program, eventually, kill, listen, process, say};
use common::{failure, in_time};
use nix::sys::signal::Signal;
use procpool::{Address, ErrorKind, Manager, Process, Proxy, Result};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("be killed with a manager", own_a_manager),
    ("end with a manager in a static", own_a_manager_in_a_static),
];

fn tell_of(manager: &Manager) {
    let Address::Unix(path) = manager.address() else {
        panic!("the default is a Unix socket");
    };
    say(path.display());
    say(manager.server_pid().expect("it has started one"));
}

fn own_a_manager() {
    let manager = Manager::start().expect("a manager");
    tell_of(&manager);
    listen();
}

static MANAGER: LazyLock<Manager> = LazyLock::new(|| Manager::start().expect("a manager"));

fn own_a_manager_in_a_static() {
    tell_of(&MANAGER);
    listen();
}

fn heard(program: &mut Program) -> (PathBuf, Seen) {
    let path = PathBuf::from(program.hear());
    let server = process(program.hear_numbers()[0]);
    (path, server)
}

fn nothing_is_left(path: &Path, server: &Seen) {
    let folder = path.parent().expect("a folder");
    eventually("the server and its socket are gone", || {
        !server.runs() && !folder.exists()
    });
}

#[test]
fn a_server_ends_with_its_killed_owner_and_takes_its_socket_along() {
    in_time(|| {
        let mut program = Program::start("be killed with a manager");
        let (path, server) = heard(&mut program);
        program.kill();
        nothing_is_left(&path, &server);
    });
}

#[test]
fn a_server_in_a_static_ends_with_the_program() {
    in_time(|| {
        let mut program = Program::start("end with a manager in a static");
        let (path, server) = heard(&mut program);
        program.tell();
        program.succeed();
        nothing_is_left(&path, &server);
    });
}

#[test]
fn every_call_of_a_killed_server_is_disconnected() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let (list, dict) = (manager.list::<u8>()?, manager.dict::<u8, u8>()?);
        let value = manager.value(0)?;
        let gate = common::Gate::new();
        let path = gate.path();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| value.call(|_, path| common::pass(path), path));
            gate.wait_for(1);
            kill(manager.server_pid().expect("its own"), Signal::SIGKILL);
            let error = failure(waiting.join().expect("no panic"));
            assert_eq!(error.kind(), ErrorKind::Disconnected);
        });
        for _ in 0..3 {
            let kinds = [
                failure(list.push(1)).kind(),
                failure(dict.len()).kind(),
                failure(manager.list::<u8>()).kind(),
                failure(manager.globals()).kind(),
            ];
            assert_eq!(kinds, [ErrorKind::Disconnected; 4]);
        }
        drop((list, dict, value));
        Ok(())
    })
}

/// Counts in the server how many of it are dropped.
#[derive(Serialize, Deserialize)]
struct Counted;

static DROPPED: AtomicU32 = AtomicU32::new(0);

impl Drop for Counted {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_killed_clients_references_are_freed_and_nobody_elses() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let probe = manager.object(())?;
        let dropped = || probe.call(|(), ()| DROPPED.load(Ordering::SeqCst), ());
        let (keep, ready) = (manager.object(Counted)?, manager.value(false)?);
        let hold =
            |(address, keep, ready): (Address, Proxy<Counted>, procpool::ValueProxy<bool>)| {
                let manager = Manager::connect(address, procpool::authkey()).expect("a manager");
                let mine: Vec<_> = (0..3)
                    .map(|_| manager.object(Counted).expect("an object"))
                    .collect();
                ready.set(true).expect("a server");
                loop {
                    std::thread::park();
                    std::hint::black_box((&mine, &keep));
                }
            };
        let argument = (manager.address().clone(), keep.clone(), ready.clone());
        let client: Process<()> = Process::start(hold, argument)?;
        eventually("the client has its objects", || {
            ready.get().is_ok_and(|it| it)
        });
        assert_eq!(dropped()?, 0);
        client.kill()?;
        eventually("its objects are dropped", || {
            dropped().is_ok_and(|it| it == 3)
        });
        keep.get().map(std::mem::forget)?;
        assert_eq!(dropped()?, 3);
        client.join().map(drop)
    })
}
