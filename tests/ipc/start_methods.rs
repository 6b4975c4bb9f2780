//! Connections between a process and those that it starts, by every method.

use common::methods::start;
use common::{DEADLINE, failure, for_every_method, pattern};
use procpool::{Connection, ErrorKind, Receiver, Sender, one_way, pipe, wait_ready};
use std::{collections::BTreeSet, os::fd::AsFd};

/// Sends back `count` messages. It does not wait for the end of the file: a forked child has copies
/// of both ends.
fn echo((connection, count): (Connection<Vec<u8>, Vec<u8>>, usize)) {
    for _ in 0..count {
        let message = connection.recv().expect("the other end");
        connection.send(&message).expect("the other end");
    }
}

/// Sends the start of a message that never ends, or waits to receive, until it is killed.
fn never_ends((connection, sends): (Connection<Vec<u8>, u8>, bool)) {
    connection.send(&vec![1]).expect("the other end");
    if sends {
        // It ends with this process.
        let _ = connection.send(&vec![0; 64 << 20]);
    } else {
        let _ = connection.recv();
    }
}

fn count_to((sender, first, end): (Sender<(u32, Vec<u8>)>, u32, u32)) {
    for number in first..end {
        let size = (number as usize * 37) % 4000;
        let sent = sender.send(&(number, pattern(size, number as usize)));
        sent.expect("the other end");
    }
}

for_every_method! {
    fn messages_go_to_a_child_and_back(method) {
        let (ours, theirs) = pipe()?;
        let sizes = [0, 1, 56, 57, 4096, 100_000, 3 << 20];
        let process = start(method, echo, (theirs, sizes.len()))?;
        for size in sizes {
            ours.send(&pattern(size, 5))?;
            assert!(ours.recv()? == pattern(size, 5), "{size} bytes");
        }
        process.result()?;
        assert_eq!(failure(ours.recv()).kind(), ErrorKind::Disconnected);
        Ok(())
    }

    fn ends_come_back_as_results(method) {
        let (receiver, sender) = one_way::<String>()?;
        let process = start(method, |it: Receiver<String>| it, receiver)?;
        sender.send(&"on its way".to_owned())?;
        let receiver = process.result()?;
        assert_eq!(receiver.recv()?, "on its way");
        drop(receiver);
        assert_eq!(failure(sender.send(&String::new())).kind(), ErrorKind::Disconnected);
        Ok(())
    }

    fn a_child_that_has_ended_is_disconnected(method) {
        let (receiver, sender) = one_way::<u8>()?;
        let process = start(method, |it: Sender<u8>| it.send(&1).is_ok(), sender)?;
        assert_eq!(receiver.recv()?, 1);
        assert_eq!(failure(receiver.recv()).kind(), ErrorKind::Disconnected);
        assert!(process.result()?);
        Ok(())
    }

    fn a_child_that_was_killed_is_disconnected(method) {
        for sends in [true, false] {
            let (ours, theirs) = pipe::<u8, Vec<u8>>()?;
            let process = start(method, never_ends, (theirs, sends))?;
            assert_eq!(ours.recv()?, [1]);
            assert_eq!(ours.poll(if sends { DEADLINE } else { DEADLINE / 1000 })?, sends);
            process.kill()?;
            let both: [&dyn AsFd; 2] = [&process.sentinel(), &ours];
            assert!(!wait_ready(&both, None)?.is_empty());
            assert_eq!(failure(ours.recv()).kind(), ErrorKind::Disconnected);
            process.join()?;
            assert_eq!(failure(ours.send(&1)).kind(), ErrorKind::Disconnected);
        }
        Ok(())
    }

    fn several_processes_send_through_one_end(method) {
        let (receiver, sender) = one_way::<(u32, Vec<u8>)>()?;
        let (ours, theirs) = pipe::<Sender<(u32, Vec<u8>)>, ()>()?;
        let mut processes = Vec::new();
        for first in [0, 500, 1000] {
            // Its copies are what travels: the end itself stays here.
            ours.send(&sender)?;
            let argument = (theirs.recv()?, first, first + 500);
            processes.push(start(method, count_to, argument)?);
        }
        drop(sender);
        let mut numbers = BTreeSet::new();
        while let Ok((number, content)) = receiver.recv() {
            assert!(content == pattern((number as usize * 37) % 4000, number as usize));
            assert!(numbers.insert(number));
        }
        assert_eq!(numbers.len(), 1500);
        for process in processes {
            process.result()?;
        }
        Ok(())
    }
}
