//! Listeners, clients, and strangers that try to connect.

use common::processes::{Program, descriptors_of, listen, say};
use common::{A_MOMENT, DEADLINE, alone, failure, in_time, pattern};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind,
    listen as listen_at, sendmsg, socket,
};
use procpool::{
    Address, AuthKey, Connection, ErrorKind, Listener, Sender, authkey, connect, one_way,
    set_authkey, wait_ready,
};
use std::{
    fs,
    io::{IoSlice, Read, Write},
    net::{SocketAddr, TcpStream},
    os::{
        fd::AsRawFd,
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::PathBuf,
    process, thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn path_in(directory: &TempDir) -> PathBuf {
    directory.path().join("socket")
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn key() -> Option<AuthKey> {
    Some("a key".into())
}

fn tcp(address: &Address) -> TcpStream {
    match address {
        Address::Tcp(address) => TcpStream::connect(address).expect("a listener"),
        Address::Unix(_) => panic!("it is a port"),
    }
}

/// Both ends of a connection by a listener.
fn connected(
    listener: &Listener,
    key: Option<AuthKey>,
) -> (Connection<Vec<u16>, u64>, Connection<u64, Vec<u16>>) {
    let address = listener.address().clone();
    let client = thread::spawn(move || connect(address, key).expect("a listener"));
    let accepted = listener.accept().expect("a client");
    (accepted, client.join().expect("it does not panic"))
}

fn both_kinds() -> (TempDir, [Listener; 2]) {
    let directory = directory();
    let unix = Listener::bind(path_in(&directory), key()).expect("a path");
    let tcp = Listener::bind(any_port(), key()).expect("a port");
    (directory, [unix, tcp])
}

#[test]
fn a_path_may_be_longer_than_the_address_of_a_socket() {
    in_time(|| {
        let directory = directory();
        let folder = directory.path().join("x".repeat(200));
        fs::create_dir(&folder).expect("a folder");
        let path = folder.join("y".repeat(82));
        let listener = Listener::bind(&*path, key()).expect("a listener");
        assert_eq!(listener.address(), &Address::Unix(path.clone()));
        let (server, client) = connected(&listener, key());
        client.send(&7).expect("a server");
        assert_eq!(server.recv().expect("a client"), 7);
        drop(listener);
        assert!(!path.exists());
    });
}

#[test]
fn messages_of_every_size_go_both_ways() {
    in_time(|| {
        let (_directory, listeners) = both_kinds();
        for listener in &listeners {
            let (server, client) = connected(listener, key());
            for size in [0, 1, 20, 28, 29, 4000, 100_000, 1 << 20] {
                thread::scope(|scope| {
                    scope.spawn(|| server.send(&vec![5; size]).expect("the other end"));
                    assert_eq!(client.recv().expect("a message"), vec![5; size]);
                    client.send(&(size as u64)).expect("the other end");
                    assert_eq!(server.recv().expect("a message"), size as u64);
                    scope.spawn(|| client.send_bytes(&pattern(size, 3)).expect("the other end"));
                    let mut buffer = vec![0; size];
                    assert_eq!(
                        server.recv_bytes_into(&mut buffer).expect("a message"),
                        size
                    );
                    assert!(buffer == pattern(size, 3));
                });
            }
            client.close();
            assert_eq!(failure(server.recv()).kind(), ErrorKind::Disconnected);
            assert_eq!(
                failure(server.send(&vec![0; 1 << 20])).kind(),
                ErrorKind::Disconnected
            );
        }
    });
}

#[test]
fn without_a_key_nobody_waits_for_the_other() {
    in_time(|| {
        let listener = Listener::bind(any_port(), None).expect("a port");
        let client = connect::<u8, u8>(listener.address().clone(), None).expect("a listener");
        client.send(&1).expect("the other end");
        let server = listener.accept::<u8, u8>().expect("a client");
        assert_eq!(server.recv().expect("a message"), 1);
    });
}

#[test]
fn an_accept_ends_in_time() {
    in_time(|| {
        let listener = Listener::bind(any_port(), key()).expect("a port");
        let _silent = tcp(listener.address());
        for limit in [Duration::ZERO, A_MOMENT] {
            let start = Instant::now();
            let error = failure(listener.accept_timeout::<u8, u8>(limit));
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            assert!(start.elapsed() >= limit);
        }
    });
}

#[test]
fn a_wrong_key_fails_at_both_ends_and_the_next_client_is_served() {
    in_time(|| {
        let (_directory, listeners) = both_kinds();
        for listener in &listeners {
            let address = listener.address().clone();
            let client = thread::spawn(move || connect::<u8, u8>(address, Some("yek".into())));
            let error = failure(listener.accept::<u8, u8>());
            assert_eq!(error.kind(), ErrorKind::AuthenticationFailed);
            let error = failure(client.join().expect("it does not panic"));
            assert_eq!(error.kind(), ErrorKind::AuthenticationFailed);
            connected(listener, key());
        }
    });
}

#[test]
fn a_client_without_a_key_is_refused() {
    in_time(|| {
        let listener = Listener::bind(any_port(), key()).expect("a port");
        let client = connect::<u8, u8>(listener.address().clone(), None).expect("a listener");
        client.send(&1).expect("a new connection has room");
        let error = failure(listener.accept::<u8, u8>());
        assert_eq!(error.kind(), ErrorKind::AuthenticationFailed);
        assert_eq!(failure(client.recv()).kind(), ErrorKind::Disconnected);
    });
}

#[test]
fn a_client_that_asks_for_a_key_refuses_a_listener_without() {
    in_time(|| {
        let listener = Listener::bind(any_port(), None).expect("a port");
        let address = listener.address().clone();
        let client = thread::spawn(move || connect::<u8, u8>(address, key()));
        let server = listener.accept::<u8, u8>().expect("a client");
        server.send(&1).expect("the other end");
        let error = failure(client.join().expect("it does not panic"));
        assert_eq!(error.kind(), ErrorKind::AuthenticationFailed);
    });
}

#[test]
fn strangers_are_errors_of_one_accept_each() {
    in_time(|| {
        let listener = Listener::bind(any_port(), key()).expect("a port");
        let garbage = [
            &b""[..],
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            &[255; 64],
            &[0; 4096],
        ];
        for garbage in garbage {
            let mut stranger = tcp(listener.address());
            stranger.write_all(garbage).expect("a listener");
            drop(stranger);
            // The system may report that the stranger has hung up before what it said.
            let error = failure(listener.accept::<u8, u8>()).kind();
            let refusals = [ErrorKind::AuthenticationFailed, ErrorKind::Disconnected];
            assert!(refusals.contains(&error), "{error:?}");
        }
        connected(&listener, key());
    });
}

#[test]
fn a_challenge_that_is_sent_back_proves_nothing() {
    in_time(|| {
        let listener = Listener::bind(any_port(), key()).expect("a port");
        let address = listener.address().clone();
        let client = thread::spawn(move || {
            let mut stream = tcp(&address);
            let mut challenge = [0; 40];
            stream.read_exact(&mut challenge).expect("a challenge");
            stream.write_all(&challenge).expect("the other end");
            stream.write_all(&challenge[8..32]).expect("the other end");
            let mut answer = Vec::new();
            // A reset says the same.
            let _ = stream.read_to_end(&mut answer);
            answer
        });
        let error = failure(listener.accept::<u8, u8>()).kind();
        assert_eq!(error, ErrorKind::AuthenticationFailed);
        assert!(client.join().expect("it does not panic").is_empty());
    });
}

#[test]
fn those_who_do_not_answer_keep_nobody_waiting_and_are_dropped() {
    in_time(|| {
        let listener = Listener::bind(any_port(), key()).expect("a port");
        let mut silent: Vec<_> = (0..20).map(|_| tcp(listener.address())).collect();
        silent[3].write_all(b"slow").expect("a listener");
        let start = Instant::now();
        connected(&listener, key());
        assert!(start.elapsed() < Duration::from_secs(4));
        for _ in &silent {
            let error = failure(listener.accept::<u8, u8>()).kind();
            assert_eq!(error, ErrorKind::AuthenticationFailed);
        }
        assert!(start.elapsed() < DEADLINE / 2);
    });
}

#[test]
fn a_crowd_that_does_not_answer_is_bounded() {
    alone("", || {
        let listener = Listener::bind(any_port(), key()).expect("a port");
        let own = || descriptors_of(process::id()).len();
        let before = own();
        for round in 0..10 {
            let crowd: Vec<_> = (0..100).map(|_| tcp(listener.address())).collect();
            while failure(listener.accept_timeout::<u8, u8>(Duration::ZERO)).kind()
                != ErrorKind::TimedOut
            {}
            assert!(own() <= before + crowd.len() + 64, "round {round}");
        }
    });
}

#[test]
fn a_listener_is_ready_when_a_client_is() {
    in_time(|| {
        let listener = Listener::bind(any_port(), key()).expect("a port");
        let ready = |limit| wait_ready(&[&listener], limit).expect("a wait");
        assert!(ready(Some(Duration::ZERO)).is_empty());
        let address = listener.address().clone();
        let client = thread::spawn(move || connect::<u8, u8>(address, key()).map(drop));
        // Whatever is left to be done makes it ready again.
        while ready(None) == [0] {
            match listener.accept_timeout::<u8, u8>(Duration::ZERO) {
                Err(error) => assert_eq!(error.kind(), ErrorKind::TimedOut),
                Ok(_) => break,
            }
        }
        client
            .join()
            .expect("it does not panic")
            .expect("a listener");
    });
}

#[test]
fn several_threads_accept() {
    in_time(|| {
        let listener = Listener::bind(any_port(), key()).expect("a port");
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        let connection = listener.accept::<u8, u8>().expect("a client");
                        connection.send(&7).expect("the other end");
                    }
                });
            }
            for _ in 0..30 {
                let client = connect::<u8, u8>(listener.address().clone(), key());
                assert_eq!(client.expect("a listener").recv().expect("a message"), 7);
            }
        });
    });
}

#[test]
fn the_file_is_the_owners_alone_and_goes_with_its_listener() {
    let directory = directory();
    let path = path_in(&directory);
    let listener = Listener::bind(path.as_path(), None).expect("a path");
    let mode = fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(listener);
    assert!(!path.exists());
    Listener::bind(path.as_path(), None).expect("a path that is free again");
}

#[test]
fn files_of_others_stay() {
    let directory = directory();
    let path = path_in(&directory);
    // A stale socket, without a listener.
    drop(UnixListener::bind(&path).expect("a path"));
    assert_eq!(
        failure(Listener::bind(path.as_path(), None)).kind(),
        ErrorKind::Io
    );
    assert!(path.exists());
    fs::remove_file(&path).expect("a file");
    let listener = Listener::bind(path.as_path(), None).expect("a path");
    fs::rename(&path, directory.path().join("elsewhere")).expect("a file");
    fs::write(&path, "another's").expect("a file");
    drop(listener);
    assert_eq!(fs::read_to_string(&path).expect("a file"), "another's");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let long = PathBuf::from("/tmp").join("x".repeat(200));
    for path in [long, PathBuf::new(), PathBuf::from("a\0b")] {
        assert_eq!(
            failure(Listener::bind(path, None)).kind(),
            ErrorKind::InvalidInput
        );
    }
    let empty = AuthKey::from("");
    assert_eq!(
        failure(Listener::bind(any_port(), Some(empty))).kind(),
        ErrorKind::InvalidInput
    );
    let nobody = directory();
    let error = failure(connect::<u8, u8>(path_in(&nobody), None));
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[test]
fn handles_travel_through_unix_sockets_alone() {
    in_time(|| {
        let (_directory, [unix, tcp]) = both_kinds();
        let connected = |listener: &Listener| {
            let address = listener.address().clone();
            let client = thread::spawn(move || {
                connect::<Vec<(u16, Sender<u16>)>, Vec<u16>>(address, key()).expect("a listener")
            });
            let server = listener.accept::<Vec<u16>, Vec<(u16, Sender<u16>)>>();
            (
                server.expect("a client"),
                client.join().expect("it does not panic"),
            )
        };
        let (receiver, sender) = one_way().expect("a pipe");
        let senders = vec![(1, sender)];
        let (server, client) = connected(&tcp);
        assert_eq!(
            failure(client.send(&senders)).kind(),
            ErrorKind::Unsupported
        );
        client.send(&Vec::new()).expect("the other end");
        assert!(server.recv().expect("a message").is_empty());
        let (server, client) = connected(&unix);
        for size in [0, 200] {
            client.send(&senders).expect("the other end");
            server.send(&vec![3; size]).expect("the other end");
            for (number, sender) in server.recv().expect("a message") {
                sender.send(&number).expect("the other end");
            }
            assert_eq!(receiver.recv().expect("a message"), 1);
            assert_eq!(client.recv().expect("a message"), vec![3; size]);
        }
    });
}

#[test]
fn the_key_of_a_process_is_made_up_once_and_can_be_set() {
    alone("", || {
        let listener = Listener::bind(any_port(), Some(authkey())).expect("a port");
        connected(&listener, Some(authkey()));
        set_authkey(b"another");
        let address = listener.address().clone();
        let client = thread::spawn(move || connect::<u8, u8>(address, Some(authkey())));
        assert_eq!(
            failure(listener.accept::<u8, u8>()).kind(),
            ErrorKind::AuthenticationFailed
        );
        assert!(client.join().expect("it does not panic").is_err());
        assert_eq!(format!("{:?}", authkey()), "AuthKey(..)");
        assert!(format!("{listener:?}").contains("Some(AuthKey(..))"));
    });
}

/// Connects, sends as much as there is room for, and waits to be killed.
pub(crate) fn sends_for_ever() {
    let path = PathBuf::from(std::env::var_os("SOCKET").expect("a path"));
    let connection = connect::<u64, ()>(path, key()).expect("a listener");
    connection.send(&1).expect("the other end");
    say("connected");
    listen();
    // Never ends: the other end does not receive.
    let _ = connection.send_bytes(&vec![0; 64 << 20]);
}

#[test]
fn a_peer_that_is_killed_in_the_middle_of_a_message_is_gone() {
    in_time(|| {
        let directory = directory();
        let listener = Listener::bind(path_in(&directory), key()).expect("a path");
        let mut command = Program::command("sends_for_ever");
        command.env("SOCKET", path_in(&directory));
        let mut program = Program::start_by(command);
        let connection = listener.accept::<(), u64>().expect("a client");
        program.hear();
        assert_eq!(connection.recv().expect("a message"), 1);
        program.tell();
        assert!(connection.poll(DEADLINE).expect("a connection"));
        program.kill();
        program.finish();
        assert_eq!(failure(connection.recv()).kind(), ErrorKind::Disconnected);
        assert_eq!(
            failure(connection.send(&())).kind(),
            ErrorKind::Disconnected
        );
    });
}

/// Bytes of a message with descriptors: a tag, whether more follow, and a byte about each.
const PART: usize = 8 + 1 + 253;

/// A message of a raw peer: bytes, and its own socket as a descriptor.
fn send_raw(stream: &UnixStream, bytes: &[u8], copies: usize) {
    let fds = vec![stream.as_raw_fd(); copies];
    let rights = [ControlMessage::ScmRights(&fds)];
    let rights = if copies == 0 { &[][..] } else { &rights };
    let (fd, parts) = (stream.as_raw_fd(), [IoSlice::new(bytes)]);
    // The other end may have had enough.
    let _ = sendmsg::<()>(
        fd,
        &parts,
        rights,
        MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
        None,
    );
}

#[test]
fn a_peer_cannot_use_up_the_descriptors() {
    alone("", || {
        let directory = directory();
        let listener = Listener::bind(path_in(&directory), None).expect("a path");
        let own = || descriptors_of(process::id()).len();
        for copies in [0, 1, 200] {
            let peer = UnixStream::connect(path_in(&directory)).expect("a listener");
            let server = listener.accept::<u8, Vec<Sender<u8>>>().expect("a client");
            let before = own();
            let mut block = [0; 64];
            // One descriptor, says its header; more are to follow, says each message with some, for
            // ever.
            block[0] = 1;
            send_raw(&peer, &block, 0);
            (0..100).for_each(|_| send_raw(&peer, &[0; PART], copies));
            for _ in 0..2 {
                let error = failure(server.recv_timeout(DEADLINE / 10));
                assert_eq!(error.kind(), ErrorKind::Disconnected, "{copies}");
                assert_eq!(own(), before);
            }
        }
    });
}

#[test]
fn garbage_to_a_listener_without_a_key_is_an_error() {
    in_time(|| {
        let listener = Listener::bind(any_port(), None).expect("a port");
        let garbage = [
            &b""[..],
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            &[255; 64],
            &[255; 100_000],
        ];
        for garbage in garbage {
            let mut stranger = tcp(listener.address());
            stranger.write_all(garbage).expect("a listener");
            drop(stranger);
            let server = listener.accept::<u8, u64>().expect("a client");
            assert_eq!(failure(server.recv()).kind(), ErrorKind::Disconnected);
        }
        let mut stranger = tcp(listener.address());
        stranger.write_all(&[0; 128]).expect("a listener");
        let server = listener.accept::<u8, u64>().expect("a client");
        for _ in 0..2 {
            assert_eq!(failure(server.recv()).kind(), ErrorKind::Codec);
        }
    });
}

#[test]
fn a_listener_that_does_not_let_in_is_an_error_in_time() {
    in_time(|| {
        let directory = directory();
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).expect("a socket");
        let address = UnixAddr::new(&path_in(&directory)).expect("a path");
        bind(socket.as_raw_fd(), &address).expect("a path");
        listen_at(&socket, Backlog::new(0).expect("a length")).expect("a socket");
        // It lets one in, without a key; the next one finds the queue full.
        let start = Instant::now();
        let first = connect::<u8, u8>(path_in(&directory), None).expect("a listener");
        let error = failure(connect::<u8, u8>(path_in(&directory), None));
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(start.elapsed() < DEADLINE / 2);
        // The limit was that of the connection, not of what is sent through it.
        first.send(&1).expect("there is room");
    });
}
