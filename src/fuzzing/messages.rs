//! The target of the message stream: bytes and lists of descriptors from a peer, in any order,
//! whole or not.

use crate::ipc::{Connection, pipe};
use crate::sys::{pipe, socket};
use crate::wire::{
    codec,
    fuzzing::{Script, Target, Tree, descriptors, ignore, part},
    handle::{self, Attached, Descriptor},
    kind::ObjectKind,
};
use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

type Ours = Connection<Tree, Tree>;

/// Messages that are received at the end, when nothing more can come.
const LAST: usize = 64;

/// The peer, as what it may write to.
enum Peer {
    Pipes(OwnedFd, OwnedFd),
    Socket(OwnedFd),
}

fn over_pipes() -> (Ours, Peer) {
    let (ours, theirs) = pipe::<Tree, Tree>().expect("room for descriptors");
    let (mut ends, mut bytes) = (Vec::new(), Vec::new());
    handle::collect(&mut ends, || codec::encode(&theirs, &mut bytes)).expect("a connection");
    let end = |it: usize| {
        ends[it]
            .as_fd()
            .try_clone_to_owned()
            .expect("room for descriptors")
    };
    (ours, Peer::Pipes(end(1), end(2)))
}

/// A socket as what a connection travels by.
fn as_connection(socket: UnixStream) -> Vec<Attached> {
    Attached::received(vec![socket.into()], &[ObjectKind::Connection as u8])
}

fn over_a_socket(carries_descriptors: bool) -> (Ours, Peer) {
    let (ours, theirs) = UnixStream::pair().expect("room for descriptors");
    let mut bytes = Vec::new();
    codec::encode(&(1u32, 0u32, carries_descriptors), &mut bytes).expect("numbers");
    let ours = handle::provide(as_connection(ours), || codec::decode(&mut bytes));
    (
        ours.expect("a connection over a socket"),
        Peer::Socket(theirs.into()),
    )
}

impl Peer {
    /// Sends the bytes of the stream that there is room for.
    fn send(&self, bytes: &[u8]) {
        // What does not fit is not sent: inputs are shorter than a pipe.
        let _ = match self {
            Self::Pipes(writer, _) => pipe::write(writer, bytes).map(drop),
            Self::Socket(socket) => socket::try_send(socket, bytes, &[]),
        };
    }

    /// Sends descriptors, with any bytes that say what they are.
    fn send_list(&self, bytes: &[u8], count: usize) {
        let fds = descriptors(count);
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let beside = match self {
            Self::Pipes(_, beside) => beside.as_fd(),
            Self::Socket(socket) => socket.as_fd(),
        };
        let _ = socket::try_send(beside, bytes, &fds);
    }
}

fn receive(ours: &Ours, how: u8) {
    let now = Some(Instant::now());
    match how % 4 {
        0 => ignore(ours.try_recv()),
        1 => ignore(ours.recv_message(100, now)),
        2 => ignore(ours.recv_timeout(Duration::ZERO)),
        _ => ignore(ours.poll(Duration::ZERO)),
    }
}

/// Receives what is left when the peer has gone, in each way that blocks.
fn receive_the_rest(ours: &Ours) {
    for number in 0..LAST {
        let received = match number % 3 {
            0 => ours.recv().map(drop),
            1 => ours.recv_bytes().map(drop),
            _ => ours.recv_bytes_into(&mut [0; 100]).map(drop),
        };
        if received.is_err_and(|it| it.kind() == crate::ErrorKind::Disconnected) {
            return;
        }
    }
}

/// The message of a value, with its list if it has one.
fn sent(value: &Tree) -> (Vec<u8>, Vec<u8>) {
    let (ours, theirs) = UnixStream::pair().expect("room for descriptors");
    let mut bytes = Vec::new();
    codec::encode(&(1u32, 0u32, true), &mut bytes).expect("numbers");
    let decode = || codec::decode::<Ours>(&mut bytes);
    let ours = handle::provide(as_connection(ours), decode).expect("a connection");
    ours.send(value).expect("room for a message");
    let (mut message, mut list) = (vec![0; 64], vec![0; 64]);
    let read = |into: &mut Vec<u8>| {
        let count = socket::try_receive(&theirs, into).map_or(0, |it| it.0);
        into.truncate(count);
    };
    read(&mut message);
    read(&mut list);
    (message, list)
}

pub(super) const MESSAGES: Target = Target {
    name: "messages",
    run: |input| {
        let mut script = Script(input);
        let (ours, peer) = match script.byte() % 3 {
            0 => over_pipes(),
            kind => over_a_socket(kind == 1),
        };
        while !script.is_over() {
            match script.byte() % 4 {
                0 => peer.send(script.part()),
                1 => {
                    let count = usize::from(script.byte() % 8);
                    peer.send_list(script.part(), count);
                }
                2 => receive(&ours, script.byte()),
                _ => peer.send_list(&script.array::<9>(), socket::MAX_FDS),
            }
        }
        drop(peer);
        receive_the_rest(&ours);
    },
    seeds: || {
        let (text, _) = sent(&Tree::Text("a message".to_owned()));
        let handle = descriptors(1).pop().map(Descriptor::from).map(Tree::Handle);
        let (handled, list) = sent(&handle.expect("one was asked for"));
        let long: Vec<u8> = (5000u64 << 16)
            .to_le_bytes()
            .into_iter()
            .chain([7; 600])
            .collect();
        let plain = [&[0, 0][..], &part(&text), &[2, 0, 0], &part(&text)].concat();
        let over_pipes = [&[0, 1, 1][..], &part(&list), &[0], &part(&handled), &[2, 0]].concat();
        let over_socket = [&[1, 0][..], &part(&handled), &[1, 1], &part(&list), &[2, 2]].concat();
        let cut = [&[2, 0][..], &part(&long), &[2, 1]].concat();
        vec![plain, over_pipes, over_socket, cut]
    },
};
