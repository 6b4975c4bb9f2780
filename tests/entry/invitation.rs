//! The variable that invites a copy of the program to become the fork server: nobody else follows it.

use crate::{
    common::{in_time, pool_of, square},
    processes::{Program, fork_server, say},
};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair},
    unistd::{pipe, write},
};
use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io::{Read, Seek, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("use a pool", use_a_pool),
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

/// A true invitation of this program, with another descriptor in it.
fn leaked_invitation(descriptor: i32) -> String {
    let _pool = pool_of(1);
    let environment = fs::read(format!("/proc/{}/environ", fork_server())).expect("our child");
    let prefix = format!("{VARIABLE}=");
    let value = environment
        .split(|it| *it == 0)
        .find_map(|it| it.strip_prefix(prefix.as_bytes()))
        .expect("the invitation");
    let value = std::str::from_utf8(value).expect("text");
    let (copy, _) = value.rsplit_once(':').expect("a descriptor");
    format!("{copy}:{descriptor}")
}

/// Starts a program with a true invitation that names a descriptor of quite another kind, which it must be able to read.
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
