//! The fuzz target of a child's start and end: what it finds in its socket or in shared memory, and
//! what it leaves there.

use super::{
    control::ChildMessage,
    function::WireFunction,
    identity::ChildIdentity,
    launch::{ChildSetup, LaunchData},
    result_channel::{ChildResult, ResultReceiver},
    start::{exec, fork_server::server},
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

/// Bytes of the longest file.
const LONGEST: u64 = 1 << 20;

/// Bytes of a slab before its payload, and where its numbers are published.
const SLAB: (usize, [usize; 2]) = (64, [8, 16]);

/// A file that claims to be a slab.
fn slab(script: &mut Script<'_>) -> OwnedFd {
    let length = script.word() % LONGEST;
    let file = memory::anonymous_file(length as usize).expect("shared memory");
    let write = |at: usize, bytes: &[u8]| {
        let room = (length as usize).saturating_sub(at).min(bytes.len());
        memory::write_at(&file, at, &bytes[..room]).expect("a file of so many bytes");
    };
    for at in SLAB.1 {
        write(at, &script.array::<8>());
    }
    write(SLAB.0, script.part());
    file
}

/// What a child does with what it was given, before it becomes what that says.
fn unpack(bytes: &[u8], file: Option<OwnedFd>) {
    let received = LaunchData::receive(bytes.to_vec(), &mut file.into_iter());
    let Ok(luggage) = received else { return };
    if luggage.setup().is_some() {
        ignore(codec::decode::<Tree>(&mut luggage.argument()));
    }
}

/// What a starter does with what a child has left.
fn hear(script: &mut Script<'_>) {
    let (ours, theirs) = socket::pair().expect("room for descriptors");
    while !script.is_over() {
        let fds = match script.byte() % 4 {
            0 => vec![],
            1 => vec![slab(script)],
            2 => descriptors(2),
            _ => {
                let (left, kept) = socket::pair().expect("room for descriptors");
                // As many as there is room for.
                let _ = socket::try_send(&left, script.part(), &[left.as_fd()]);
                vec![kept]
            }
        };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let _ = socket::try_send(&theirs, script.part(), &fds);
    }
    drop(theirs);
    let outcome = ResultReceiver::new(ours);
    ignore((
        outcome.wait_for_exit_record(Duration::ZERO),
        outcome.has_value(),
        outcome.has_overflowed(),
    ));
    let (left, handles) = outcome.take();
    match left {
        ChildResult::Missing => {}
        ChildResult::Error(fault) => ignore(fault.into_error()),
        ChildResult::Value(payload) => {
            let read = || payload.read(|mut it| codec::decode::<Tree>(&mut it).map(drop));
            ignore(crate::wire::handle::provide(handles, read));
        }
    }
}

/// What a new image of the program does with what it finds.
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
        ignore(server::accept_invitation(ours));
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

/// The launch data of an example, and the same in a slab as [`slab`] takes it from a script.
fn packed() -> [Vec<u8>; 2] {
    let mut argument = Buffer::new(Arc::new(FreshSlabs));
    codec::encode(&Tree::example(None), &mut argument).expect("an example");
    let luggage = LaunchData::pack(argument, &setup()).expect("it is small");
    let bytes = luggage.inline_bytes().to_vec();
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
            2 => hear(&mut script),
            _ => accept(&mut script),
        }
    },
    seeds: || {
        let [beside, shared] = packed();
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
        let mut fault = vec![ChildMessage::Error as u8];
        let refused = super::task_error::TaskError::Decode("a reason".to_owned());
        codec::encode(&refused, &mut fault).expect("text");
        let ended = [&[0][..], &part(&[1, 0, 9, 0, 0])].concat();
        let handles = [&[3][..], &part(&[0]), &part(&[ChildMessage::Handles as u8])].concat();
        vec![
            [&[0][..], &beside].concat(),
            [&[1][..], &shared].concat(),
            [&[2, 0][..], &part(&value), &ended].concat(),
            [&[2, 1][..], &slab, &part(&large)].concat(),
            [&[2, 0][..], &part(&fault), &handles, &ended].concat(),
            [
                &[3, 3][..],
                &part(b"procpool process 1, and where its main function is"),
            ]
            .concat(),
            [&[3, 1][..], &part(b"procpool fork server 1")].concat(),
        ]
    },
};
