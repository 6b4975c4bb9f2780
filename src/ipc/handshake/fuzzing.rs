//! The fuzz target `handshake`: plays a peer that knows the key but makes mistakes, at either end.

use super::{ANSWER_LEN, CHALLENGE_LEN, Handshake, NONCE_LEN, PROTOCOL, mac, prove};
use crate::ipc::AuthKey;
use crate::sys::socket;
use crate::wire::fuzzing::{Script, Target};
use hmac::Mac;
use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

fn pair() -> (OwnedFd, OwnedFd) {
    std::os::unix::net::UnixStream::pair()
        .map(|(ours, theirs)| (ours.into(), theirs.into()))
        .expect("room for descriptors")
}

/// Changes bytes by the script: each pair of its bytes is a position and the bits to flip there.
fn spoil(bytes: &mut [u8], script: &mut Script<'_>) {
    for _ in 0..script.byte() % 4 {
        let (at, by) = (usize::from(script.byte()), script.byte());
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= by;
        }
    }
}

/// Plays a client against a listener's side, which must accept only the right answer.
fn answer(script: &mut Script<'_>) {
    let key = AuthKey::from(b"key");
    let (ours, theirs) = pair();
    let mut handshake = Handshake::begin(ours).expect("room for a challenge");
    let mut challenge = [0; CHALLENGE_LEN];
    assert_eq!(
        socket::try_read(&theirs, &mut challenge).ok(),
        Some(CHALLENGE_LEN)
    );
    let nonce = script.array::<NONCE_LEN>();
    let proof = mac(&key, b"client", &challenge[PROTOCOL.len()..], &nonce);
    let right = [&nonce[..], &proof.finalize().into_bytes()].concat();
    assert_eq!(right.len(), ANSWER_LEN);
    let mut answer = right.clone();
    spoil(&mut answer, script);
    let mut outcome = Ok(false);
    let mut rest = &answer[..];
    while !rest.is_empty() && matches!(outcome, Ok(false)) {
        let (now, later) = rest.split_at(usize::from(script.byte() % 65).clamp(1, rest.len()));
        socket::send_parts(&theirs, [now, &[]]).expect("room for an answer");
        (outcome, rest) = (handshake.advance(&key), later);
    }
    assert_eq!(outcome.is_ok_and(|it| it), answer == right);
}

/// Plays a listener against a client's side, which must refuse it: it does not know the client's
/// nonce.
fn challenge(script: &mut Script<'_>) {
    let (ours, theirs) = pair();
    let mut challenge = [&PROTOCOL[..], &script.array::<NONCE_LEN>()].concat();
    spoil(&mut challenge, script);
    challenge.truncate(script.byte().into());
    challenge.extend(script.bytes(64));
    socket::send_parts(&theirs, [&challenge, &[]]).expect("room for a challenge");
    if script.byte().is_multiple_of(2) {
        drop(theirs);
    } else {
        end_sending(&theirs);
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    assert!(prove(&ours, &AuthKey::from(b"key"), deadline).is_err());
}

/// Ends sending; receiving still works.
fn end_sending(socket: &OwnedFd) {
    let copy = socket.try_clone().expect("room for a descriptor");
    std::os::unix::net::UnixStream::from(copy)
        .shutdown(std::net::Shutdown::Write)
        .expect("a socket");
}

pub(crate) const HANDSHAKE: Target = Target {
    name: "handshake",
    run: |input| {
        let mut script = Script(input);
        match script.byte() % 2 {
            0 => answer(&mut script),
            _ => challenge(&mut script),
        }
    },
    seeds: || {
        let nonce = [7; NONCE_LEN];
        let right = [&[0][..], &nonce, &[0, 64]].concat();
        let in_parts = [&[0][..], &nonce, &[0, 10, 20, 34]].concat();
        let wrong = [&[0][..], &nonce, &[1, 40, 1, 64]].concat();
        let silent = [&[1][..], &nonce, &[0, CHALLENGE_LEN as u8]].concat();
        let unproved = [&silent[..], &[9; 32]].concat();
        vec![right, in_parts, wrong, silent, unproved]
    },
};
