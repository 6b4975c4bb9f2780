//! Servers: where they listen, which clients may connect, and how they end.

use common::processes::{Process as Seen, Program, eventually, listen, process, say};
use common::{alone, failure, in_time};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use procpool::{Address, ErrorKind, ListProxy, Manager, Process, Result, authkey};
use std::{
    env, fs, mem,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    thread,
};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("connect to a manager", connect_to_a_manager),
    ("keep a manager", keep_a_manager),
    ("own a manager", own_a_manager),
    (
        "own a manager in a long folder",
        own_a_manager_in_a_long_folder,
    ),
];

fn path_of(manager: &Manager) -> PathBuf {
    match manager.address() {
        Address::Unix(path) => path.clone(),
        Address::Tcp(_) => panic!("the default is a Unix socket"),
    }
}

fn server_of(manager: &Manager) -> Seen {
    process(manager.server_pid().expect("it has started one"))
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[test]
fn a_manager_that_is_dropped_ends_its_server_and_leaves_no_file() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let (path, server) = (path_of(&manager), server_of(&manager));
        let list = manager.list::<u8>()?;
        let folder = path.parent().expect("a folder").to_owned();
        assert!(path.exists() && server.runs());
        drop(manager);
        assert!(!folder.exists() && !server.runs());
        assert_eq!(failure(list.push(1)).kind(), ErrorKind::Disconnected);
        Ok(())
    })
}

fn keep_a_manager() {
    let manager = Manager::start().expect("a manager");
    say(path_of(&manager).display());
    mem::forget(manager);
}

// If process 1 reaps no children, a zombie stays forever.
#[test]
fn a_program_that_never_drops_its_manager_leaves_nothing_to_be_reaped() {
    alone("", || {
        nix::sys::prctl::set_child_subreaper(true).expect("it is always granted");
        let mut program = Program::start("keep a manager");
        let path = PathBuf::from(program.hear());
        program.succeed();
        assert_eq!(Seen::children_of(std::process::id()), []);
        assert!(!path.parent().expect("a folder").exists());
    });
}

fn own_a_manager_in_a_long_folder() {
    let manager = Manager::start().expect("a manager");
    let path = path_of(&manager);
    assert!(path.as_os_str().len() > 300 && path.exists());
    let list = manager.list::<u8>().expect("a list");
    let pushed = Process::start(|list: ListProxy<u8>| list.push(7).is_ok(), list.clone());
    assert!(pushed.and_then(Process::result).expect("a process"));
    assert_eq!(list.to_vec().expect("a list"), [7]);
    drop(manager);
    assert!(!path.exists());
}

// The address of a Unix socket has room for 107 bytes.
#[test]
fn a_manager_starts_where_the_folder_for_temporary_files_has_a_long_path() {
    in_time(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let long = folder.path().join("a".repeat(150)).join("b".repeat(150));
        fs::create_dir_all(&long).expect("a folder");
        let mut command = Program::command("own a manager in a long folder");
        command.env("TMPDIR", long);
        Program::start_by(command).succeed();
    });
}

#[test]
fn a_connected_manager_that_is_dropped_leaves_the_server_alone() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let other = Manager::connect(manager.address().clone(), authkey())?;
        let list = other.list::<u8>()?;
        assert_eq!(other.server_pid(), None);
        drop(other);
        list.push(1)?;
        assert_eq!(manager.list::<u8>()?.len()?, 0);
        Ok(())
    })
}

#[test]
fn an_address_can_be_used_again_and_old_proxies_do_not_mean_new_objects() -> Result<()> {
    in_time(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let first = Manager::builder().address(&*path).start()?;
        let old = first.list::<u8>()?;
        old.push(1)?;
        assert_eq!(
            failure(Manager::builder().address(&*path).start()).kind(),
            ErrorKind::Io
        );
        drop(first);
        assert!(!path.exists());
        let second = Manager::builder().address(&*path).start()?;
        let new = second.list::<u8>()?;
        assert_eq!(failure(old.push(1)).kind(), ErrorKind::Disconnected);
        assert_eq!(new.len()?, 0);
        Ok(())
    })
}

#[test]
fn a_server_at_a_tcp_address_does_the_same() -> Result<()> {
    in_time(|| {
        let manager = Manager::builder()
            .address(loopback())
            .authkey("secret")
            .start()?;
        let other = Manager::connect(manager.address().clone(), "secret".into())?;
        let list = manager.list::<u8>()?;
        other.globals()?.set("list", list.clone())?;
        let found: procpool::ListProxy<u8> = other.globals()?.get("list")?.expect("it was set");
        found.extend(vec![7; 100_000])?;
        assert_eq!(list.to_vec()?, [7; 100_000]);
        Ok(())
    })
}

#[test]
fn an_address_that_others_can_reach_needs_a_key() {
    in_time(|| {
        let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let refused = failure(Manager::builder().address(everywhere).start());
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        let empty = failure(Manager::builder().authkey("").start());
        assert_eq!(empty.kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn a_server_that_listens_everywhere_is_found_by_its_owners_children() -> Result<()> {
    in_time(|| {
        for everywhere in [
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        ] {
            let manager = Manager::builder().address(everywhere).authkey("secret");
            let manager = manager.start()?;
            let list = manager.list::<ListProxy<u8>>()?;
            list.push(manager.list()?)?;
            let push = |list: ListProxy<ListProxy<u8>>| -> std::result::Result<(), String> {
                let inner = list.get(0).map_err(|it| it.to_string())?;
                let pushed = inner.expect("a list").push(7);
                pushed.map_err(|it| it.to_string())
            };
            assert_eq!(Process::start(push, list.clone())?.result()?, Ok(()));
            assert_eq!(list.get(0)?.expect("a list").to_vec()?, [7]);
        }
        Ok(())
    })
}

/// Starts a manager, and prints its address.
fn own_a_manager() {
    let manager = Manager::start().expect("a manager");
    manager.list::<u8>().expect("a list");
    say(path_of(&manager).display());
    while listen() {}
}

#[test]
fn a_signal_that_ends_a_program_and_its_server_together_leaves_no_file() {
    in_time(|| {
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
            let mut command = Program::command("own a manager");
            command.process_group(0);
            let mut program = Program::start_by(command);
            let socket = PathBuf::from(program.hear());
            let folder = socket.parent().expect("a folder of its own").to_owned();
            assert!(socket.exists());
            let group = Pid::from_raw(program.pid().cast_signed());
            killpg(group, signal).expect("the program's process group");
            assert!(!program.finish().status.success());
            eventually("the folder is gone", || !folder.exists());
        }
    });
}

#[test]
fn a_server_leaves_the_input_of_the_program_to_it() {
    in_time(|| {
        let mut program = Program::start("own a manager");
        program.hear();
        let all = Seen::descendants_of(program.pid());
        let server = all.iter().find(|it| it.name == "Manager");
        let server = server.expect("a server").pid;
        let input = fs::read_link(format!("/proc/{server}/fd/0"));
        assert_eq!(input.expect("it is open"), Path::new("/dev/null"));
    });
}

#[test]
fn a_client_without_a_descriptor_for_a_connection_is_told_so() {
    alone("ulimit -n 64", || {
        let manager = Manager::start().expect("a manager");
        let list = manager.list::<u8>().expect("a list");
        // A held lock keeps its connection, and none is free after a few.
        let locks: Vec<_> = (0..5).map(|_| manager.lock().expect("a lock")).collect();
        let held: Vec<_> = locks
            .iter()
            .map(|it| it.acquire().expect("it is free"))
            .collect();
        let open = || fs::File::open("/dev/null").ok();
        let files: Vec<_> = std::iter::from_fn(open).collect();
        let error = failure(list.len());
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        drop((files, held));
        assert_eq!(list.len().expect("a server"), 0);
    });
}

/// Where a program finds the manager.
const PATH: &str = "PROCPOOL_TEST_MANAGER";

/// Says what comes of it.
fn connect_to_a_manager() {
    let path = env::var_os(PATH).expect("the test has set it");
    let manager = Manager::connect(Path::new(&path), "secret".into());
    let pushed = manager.and_then(|it| it.list::<u8>()?.push(1));
    say(pushed.map_or_else(|it| format!("{:?}", it.kind()), |()| "done".to_owned()));
}

/// This program as another build would be: it has another build-id.
fn as_another_build(program: &[u8]) -> Vec<u8> {
    // The head of the note that has it: the lengths of its name and of the id, its type, its name.
    const NOTE: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let found = program.windows(NOTE.len()).position(|it| it == NOTE);
    let id = found.expect("the linker writes a build-id") + NOTE.len();
    let mut program = program.to_vec();
    program[id] ^= 1;
    program
}

#[test]
fn the_same_program_from_another_place_is_served_and_another_build_refused() -> Result<()> {
    in_time(|| {
        let manager = Manager::builder().authkey("secret").start()?;
        let program = env::current_exe().and_then(fs::read).expect("this program");
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes, said) in [
            ("another", as_another_build(&program), "Unsupported"),
            ("the same", program, "done"),
        ] {
            let path = folder.path().join(name);
            fs::write(&path, bytes).expect("a copy of this program");
            let executable = fs::Permissions::from_mode(0o700);
            fs::set_permissions(&path, executable).expect("its own file");
            let mut command = Program::command_of(&path, "connect to a manager");
            command.env(PATH, path_of(&manager));
            assert_eq!(Program::start_by(command).succeed(), [said]);
        }
        Ok(())
    })
}

#[test]
fn a_wrong_key_and_an_address_where_nobody_is_are_told_apart() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let error = failure(Manager::connect(manager.address().clone(), "wrong".into()));
        assert_eq!(error.kind(), ErrorKind::AuthenticationFailed);
        let error = failure(Manager::connect(Path::new("/nowhere"), authkey()));
        assert_eq!(error.kind(), ErrorKind::Io);
        manager.list::<u8>().map(drop)
    })
}

#[test]
fn one_client_more_than_are_allowed_is_refused_until_one_has_gone() -> Result<()> {
    in_time(|| {
        let manager = Manager::builder().client_limit(2).start()?;
        let value = manager.value(0)?;
        let gate = common::Gate::new();
        thread::scope(|scope| {
            // One connection waits in a call, one is the process's lifeline.
            let path = gate.path();
            let wait = |_: &mut i32, path| common::pass(path);
            let value = &value;
            let waiting = scope.spawn(move || value.call(wait, path));
            gate.wait_for(1);
            let error = failure(manager.globals());
            assert_eq!(error.kind(), ErrorKind::Full);
            gate.open();
            waiting.join().expect("no panic")
        })?;
        manager.globals().map(drop)
    })
}

#[test]
fn a_message_larger_than_is_allowed_is_refused_and_the_next_is_not() -> Result<()> {
    in_time(|| {
        let manager = Manager::builder().message_limit(10_000).start()?;
        let value = manager.value(Vec::<u8>::new())?;
        assert_eq!(
            failure(value.set(vec![0; 10_000])).kind(),
            ErrorKind::InvalidInput
        );
        value.set(vec![0; 9_000])?;
        assert_eq!(value.get()?.len(), 9_000);
        Ok(())
    })
}

#[test]
fn the_server_has_none_of_the_programs_files_and_is_nobodys_business() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let server = server_of(&manager);
        let mode = fs::metadata(path_of(&manager).parent().expect("a folder")).expect("a folder");
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777,
            0o700
        );
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(server.pid.cast_signed()),
            nix::sys::signal::Signal::SIGINT,
        )
        .expect("a process");
        manager.value(1)?.get()?;
        eventually("the server runs on", || server.runs());
        Ok(())
    })
}
