//! The fuzz target of launch data and results: the messages between a child and its parent, and
//! the shared memory attached to them.

use super::{
    control::ChildMessage,
    function::WireFunction,
    identity::ChildIdentity,
    launch::{ChildSetup, LaunchData},
    result_channel::{ChildResult, ResultReceiver},
    start::{exec, fork_server::pending},
    start_method::StartMethod,
};
use crate::shm::{Buffer, FreshSlabs};
use crate::sys::{memory, socket};
use crate::wire::{
    codec,
    fuzzing::{Script, Target, Tree, descriptors, ignore, part},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

/// Bytes of the largest file.
const LONGEST: u64 = 1 << 20;

/// The offset of a slab's payload, and the offsets of its published numbers, in bytes.
const SLAB: (usize, [usize; 2]) = (64, [8, 16]);

/// Creates a file that may be a slab, from a script.
fn slab(script: &mut Script<'_>) -> OwnedFd {
    let length = script.word() % LONGEST;
    let file = memory::anonymous_file(length as usize).expect("shared memory");
    let write = |at: usize, bytes: &[u8]| {
        let room = (length as usize).saturating_sub(at).min(bytes.len());
        memory::write_at(&file, at, &bytes[..room]).expect("a file of that length");
    };
    for at in SLAB.1 {
        write(at, &script.array::<8>());
    }
    write(SLAB.0, script.part());
    file
}

/// Unpacks launch data like a child.
fn unpack(bytes: &[u8], file: Option<OwnedFd>) {
    let received = LaunchData::receive(bytes.to_vec(), &mut file.into_iter());
    let Ok(launch) = received else { return };
    if launch.setup().is_some() {
        ignore(codec::decode::<Tree>(&mut launch.argument()));
    }
}

/// Receives messages like the parent of a child.
fn receive(script: &mut Script<'_>) {
    let (ours, theirs) = socket::pair().expect("room for descriptors");
    while !script.is_over() {
        let fds = match script.byte() % 4 {
            0 => vec![],
            1 => vec![slab(script)],
            2 => descriptors(2),
            _ => {
                let (sender, receiver) = socket::pair().expect("room for descriptors");
                // Fails if the socket is full.
                let _ = socket::try_send(&sender, script.part(), &[sender.as_fd()]);
                vec![receiver]
            }
        };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let _ = socket::try_send(&theirs, script.part(), &fds);
    }
    drop(theirs);
    let receiver = ResultReceiver::new(ours);
    ignore((
        receiver.wait_for_exit_record(Duration::ZERO),
        receiver.has_value(),
        receiver.has_overflowed(),
    ));
    let (result, handles) = receiver.take();
    match result {
        ChildResult::Missing => {}
        ChildResult::Error(error) => ignore(error.into_error()),
        ChildResult::Value(payload) => {
            let read = || payload.read(|mut bytes| codec::decode::<Tree>(&mut bytes).map(drop));
            ignore(crate::wire::handle::provide(handles, read));
        }
    }
}

/// Accepts an invitation like a new image of the program.
fn accept(script: &mut Script<'_>) {
    let (ours, theirs) = socket::pair().expect("room for descriptors");
    let count = usize::from(script.byte() % 4);
    let fds = descriptors(count);
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let _ = socket::try_send(&theirs, script.part(), &fds);
    drop(theirs);
    if exec::is_invitation(&ours) {
        ignore(exec::accept(ours));
    } else {
        ignore(pending::accept_invitation(ours));
    }
}

fn setup() -> ChildSetup {
    ChildSetup {
        identity: ChildIdentity::for_worker("child".to_owned()),
        is_copy: false,
        is_service: false,
        method: StartMethod::ForkServer,
        environment: b"A=b\0".to_vec(),
        function: [7; WireFunction::SIZE],
        handles: 1,
    }
}

/// Packs the launch data of an example: in a request, and as a script from which [`slab`] creates
/// a slab.
fn packed() -> [Vec<u8>; 2] {
    let mut argument = Buffer::new(Arc::new(FreshSlabs));
    codec::encode(&Tree::example(None), &mut argument).expect("an example");
    let launch = LaunchData::pack(argument, &setup()).expect("it is small");
    let bytes = launch.inline_bytes().to_vec();
    let (length, rest) = bytes.split_first_chunk::<8>().expect("a length");
    let (setup, argument) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let end = argument.len() as u64;
    let shared = [&(1u64 << 16).to_le_bytes()[..], length, &end.to_le_bytes()].concat();
    let payload = part(&[argument, setup].concat());
    [bytes, [shared, payload].concat()]
}

pub(crate) const LAUNCH: Target = Target {
    name: "launch",
    run: |input| {
        let mut script = Script(input);
        match script.byte() % 4 {
            0 => unpack(script.0, None),
            1 => unpack(&[], Some(slab(&mut script))),
            2 => receive(&mut script),
            _ => accept(&mut script),
        }
    },
    seeds: || {
        let [inline, shared] = packed();
        let mut value = vec![ChildMessage::Value as u8];
        codec::encode(&Tree::example(None), &mut value).expect("an example");
        let length = (value.len() as u64 - 1).to_le_bytes();
        let large = [&[ChildMessage::LargeValue as u8][..], &length].concat();
        let slab = [
            &(1u64 << 20 | 4096).to_le_bytes()[..],
            &[0; 16],
            &part(&value[1..]),
        ]
        .concat();
        let mut error_message = vec![ChildMessage::Error as u8];
        let error = super::task_error::TaskError::Decode("a reason".to_owned());
        codec::encode(&error, &mut error_message).expect("text");
        let ended = [&[0][..], &part(&[1, 0, 9, 0, 0])].concat();
        let handles = [&[3][..], &part(&[0]), &part(&[ChildMessage::Handles as u8])].concat();
        vec![
            [&[0][..], &inline].concat(),
            [&[1][..], &shared].concat(),
            [&[2, 0][..], &part(&value), &ended].concat(),
            [&[2, 1][..], &slab, &part(&large)].concat(),
            [&[2, 0][..], &part(&error_message), &handles, &ended].concat(),
            [
                &[3, 3][..],
                &part(b"procpool process 1, and where its main function is"),
            ]
            .concat(),
            [&[3, 1][..], &part(b"procpool fork server 1")].concat(),
        ]
    },
};
