//! The variable that invites a copy of the program to become the fork server: no other program
//! obeys it.

use common::processes::{Program, copy_program, fork_server, say};
use common::{failure, in_time, pool_of, square};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::socket::{
        AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, send, sendmsg, socketpair,
    },
    unistd::{pipe, write},
};
use procpool::{ErrorKind, ProcessPoolExecutor};
use std::{
    env,
    ffi::OsStr,
    fs::{self, File, Permissions},
    io::{IoSlice, Read, Seek, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{PermissionsExt, chown},
            process::parent_id,
        },
    },
    process::{self, Command},
};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("use a pool", use_a_pool),
    ("say main", say_main),
    ("build with more rights", build_with_more_rights),
    ("read from a descriptor and use a pool", read_and_use_a_pool),
];

const VARIABLE: &str = "PROCPOOL_FORK_SERVER";

fn use_a_pool() {
    let pool = pool_of(2);
    assert_eq!(
        pool.map(square, 0..100).expect("a pool that works").len(),
        100
    );
}

#[test]
fn a_variable_full_of_garbage_invites_nobody() {
    in_time(|| {
        let version = env!("CARGO_PKG_VERSION");
        let values = [
            "",
            ":",
            "::",
            "0",
            "garbage",
            "1:2:3:4",
            "0.0.0:0:3",
            &format!("{version}:0:3"),
            &format!("{version}:0:-1"),
            &format!("{version}:0:99999999999999999999"),
        ];
        let not_text = OsStr::from_bytes(b"\xff\xfe:\xfd");
        for value in values.into_iter().map(OsStr::new).chain([not_text]) {
            let mut command = Program::command("use a pool");
            command.env(VARIABLE, value);
            Program::start_by(command).succeed();
        }
    });
}

/// Names the descriptor that a program is to read from.
const DESCRIPTOR: &str = "PROCPOOL_TEST_DESCRIPTOR";

/// Says what can be read from a descriptor that was inherited.
fn read_and_use_a_pool() {
    let number = env::var(DESCRIPTOR).expect("a number");
    let mut text = [0; 5];
    let file = File::open(format!("/proc/self/fd/{number}"));
    let read = match file {
        Ok(mut file) => file.read_exact(&mut text).map(|()| 5),
        // A socket cannot be opened.
        Err(_) => read_raw(number.parse().expect("a number"), &mut text),
    };
    read.expect("something to read");
    say(String::from_utf8_lossy(&text));
    use_a_pool();
}

fn read_raw(number: i32, into: &mut [u8]) -> std::io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT;
    Ok(nix::sys::socket::recv(number, into, flags)?)
}

/// An invitation of this program to a descriptor, as a process with this number would make it.
fn invitation_by(inviter: u32, descriptor: i32) -> String {
    let _pool = pool_of(1);
    let environment = fs::read(format!("/proc/{}/environ", fork_server())).expect("our child");
    let prefix = format!("{VARIABLE}=");
    let value = environment
        .split(|it| *it == 0)
        .find_map(|it| it.strip_prefix(prefix.as_bytes()))
        .expect("the invitation");
    let value = std::str::from_utf8(value).expect("text");
    let (rest, _) = value.rsplit_once(':').expect("a descriptor");
    let (copy, own) = rest.rsplit_once(':').expect("a process");
    assert_eq!(own, process::id().to_string());
    format!("{copy}:{inviter}:{descriptor}")
}

/// One that has come to a process which its inviter has not started.
fn leaked_invitation(descriptor: i32) -> String {
    invitation_by(parent_id(), descriptor)
}

/// Starts a program with a true invitation that names a descriptor of quite another kind, which it
/// must be able to read.
fn is_left_alone(descriptor: impl AsFd) {
    let number = descriptor.as_fd().as_raw_fd();
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::empty())).expect("an open descriptor");
    let mut command = Program::command("read from a descriptor and use a pool");
    command.env(VARIABLE, leaked_invitation(number));
    command.env(DESCRIPTOR, number.to_string());
    assert_eq!(Program::start_by(command).succeed(), ["hello"]);
}

#[test]
fn an_invitation_that_leaked_without_its_descriptor_invites_nobody() {
    in_time(|| {
        for descriptor in [-1, 0, 2, 3, 77, i32::MAX] {
            let mut command = Program::command("use a pool");
            command.env(VARIABLE, leaked_invitation(descriptor));
            Program::start_by(command).succeed();
        }
    });
}

#[test]
fn an_invitation_that_leaked_leaves_a_file_alone() {
    in_time(|| {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(b"hello").expect("a file");
        file.rewind().expect("a file");
        is_left_alone(&file);
    });
}

#[test]
fn an_invitation_that_leaked_leaves_a_pipe_alone() {
    in_time(|| {
        let (reader, writer) = pipe().expect("a pipe");
        write(&writer, b"hello").expect("room in a pipe");
        is_left_alone(&reader);
    });
}

#[test]
fn an_invitation_that_leaked_leaves_a_socket_alone() {
    in_time(|| {
        for kind in [SockType::SeqPacket, SockType::Stream, SockType::Datagram] {
            let (ours, theirs) = sockets(kind);
            send(ours.as_raw_fd(), b"hello", MsgFlags::empty()).expect("room in a socket");
            is_left_alone(&theirs);
        }
    });
}

/// The ends of a socket in which lies what a fork server is invited with.
fn greeted_sockets() -> (OwnedFd, OwnedFd) {
    let (ours, theirs) = sockets(SockType::SeqPacket);
    // Whatever descriptor it is: a fork server would take it for one of its owner.
    let fds = [ours.as_raw_fd()];
    let parts = [IoSlice::new(b"procpool fork server 1")];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(ours.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).expect("room");
    fcntl(&ours, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("an open descriptor");
    (ours, theirs)
}

/// What a program that was started with a socket has said there.
fn said_in(socket: &OwnedFd) -> Vec<u8> {
    let mut said = vec![0; 128];
    let flags = MsgFlags::MSG_DONTWAIT;
    let length = nix::sys::socket::recv(socket.as_raw_fd(), &mut said, flags);
    said.truncate(length.unwrap_or_default());
    said
}

fn say_main() {
    say("main");
}

/// Starts a program with an invitation; a shell is its parent.
fn say_main_below_a_shell(invitation: &str) -> Program {
    let program = Program::command("say main");
    let mut command = Command::new("sh");
    command.args(["-c", "\"$0\" \"$@\"; exit $?"]);
    command.arg(program.get_program()).args(program.get_args());
    command.envs(program.get_envs().filter_map(|it| Some((it.0, it.1?))));
    command.env(VARIABLE, invitation);
    Program::start_by(command)
}

#[test]
fn an_invitation_by_a_process_that_is_not_the_parent_is_not_followed() {
    in_time(|| {
        let (ours, theirs) = greeted_sockets();
        let program = say_main_below_a_shell(&invitation_by(process::id(), theirs.as_raw_fd()));
        assert_eq!(program.succeed(), ["main"]);
        assert_eq!(said_in(&ours), b"");
    });
}

#[test]
fn a_copy_whose_inviter_has_ended_ends_and_does_not_run_main() {
    in_time(|| {
        let (ours, theirs) = greeted_sockets();
        let mut ended = Command::new("true").spawn().expect("a program");
        ended.wait().expect("a child of this process");
        let program = say_main_below_a_shell(&invitation_by(ended.id(), theirs.as_raw_fd()));
        let finished = program.finish();
        assert_eq!((finished.status.code(), finished.said), (Some(70), vec![]));
        assert_eq!(said_in(&ours), b"");
    });
}

fn build_with_more_rights() {
    let error = failure(ProcessPoolExecutor::builder().workers(1).build());
    assert_eq!(error.kind(), ErrorKind::StartFailed, "{error}");
    assert!(error.to_string().contains("set-user-ID"), "{error}");
    say("main");
}

// Linux sets `AT_SECURE` for it, and its caller has made its environment.
#[test]
fn a_program_that_is_set_user_id_follows_no_invitation_and_says_so_when_it_builds_a_pool() {
    in_time(|| {
        let nobody = 65534;
        let folder = tempfile::tempdir().expect("a temporary directory");
        let copy = folder.path().join("program");
        copy_program(&env::current_exe().expect("the path of this test"), &copy);
        if chown(&copy, Some(nobody), None).is_err() {
            eprintln!("only root can make a program another user's");
            return;
        }
        for path in [folder.path(), &copy] {
            fs::set_permissions(path, Permissions::from_mode(0o4755)).expect("our file");
        }
        let (ours, theirs) = greeted_sockets();
        let mut command = Program::command_of(&copy, "build with more rights");
        command.env(VARIABLE, invitation_by(process::id(), theirs.as_raw_fd()));
        assert_eq!(Program::start_by(command).succeed(), ["main"]);
        assert_eq!(said_in(&ours), b"");
    });
}

fn sockets(kind: SockType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::empty()).expect("two sockets")
}

#[test]
fn workers_and_what_they_start_are_not_invited() {
    in_time(|| {
        let pool = pool_of(1);
        let is_invited = |()| env::var_os(VARIABLE).is_some();
        assert!(!pool.apply(is_invited, ()).expect("a pool that works"));
        // In a worker, a copy of this program is a program like any other.
        let start = |()| {
            let output = Program::command("use a pool").output();
            output.is_ok_and(|it| it.status.success())
        };
        assert!(pool.apply(start, ()).expect("a pool that works"));
    });
}
