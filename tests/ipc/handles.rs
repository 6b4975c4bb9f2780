//! Handles as parts of messages.

use crate::common::{alone, failure, in_time};
use crate::processes::descriptors_of;
use procpool::{Connection, ErrorKind, Receiver, Sender, one_way, pipe};
use serde::{Deserialize, Serialize};
use std::{process, thread};

#[derive(Debug, Serialize, Deserialize)]
struct Job {
    name: String,
    answer: Sender<String>,
    inputs: Vec<Receiver<u32>>,
    both: Option<Connection<u8, u8>>,
}

#[test]
fn handles_travel_in_values() {
    in_time(|| {
        let (jobs, to_do) = one_way().expect("a pipe");
        let (answers, answer) = one_way().expect("a pipe");
        let (input, feed) = one_way().expect("a pipe");
        let (ours, theirs) = pipe::<u8, u8>().expect("a pipe");
        let job = Job {
            name: "sum".to_owned(),
            answer,
            inputs: vec![input],
            both: Some(theirs),
        };
        to_do.send(&job).expect("the other end");
        drop(job);
        thread::spawn(move || {
            let job: Job = jobs.recv().expect("a job");
            let sum = job.inputs[0].recv().expect("a number") + 1;
            job.answer
                .send(&format!("{} {sum}", job.name))
                .expect("the other end");
            let both = job.both.expect("it was there");
            both.send(&both.recv().expect("a number"))
                .expect("the other end");
        });
        feed.send(&41).expect("the other end");
        assert_eq!(answers.recv().expect("an answer"), "sum 42");
        ours.send(&7).expect("the other end");
        assert_eq!(ours.recv().expect("an answer"), 7);
        assert_eq!(failure(answers.recv()).kind(), ErrorKind::Disconnected);
    });
}

#[test]
fn hundreds_of_handles_travel_at_once() {
    alone("ulimit -n 4096", || {
        let (ours, theirs) = pipe::<Vec<Sender<usize>>, ()>().expect("a pipe");
        let (receivers, senders): (Vec<_>, Vec<_>) =
            (0..300).map(|_| one_way().expect("a pipe")).unzip();
        ours.send(&senders).expect("the other end");
        drop(senders);
        let senders = theirs.recv().expect("a message");
        for (number, sender) in senders.iter().enumerate() {
            sender.send(&number).expect("the other end");
        }
        drop(senders);
        for (number, receiver) in receivers.iter().enumerate() {
            assert_eq!(receiver.recv().expect("a message"), number);
            assert_eq!(failure(receiver.recv()).kind(), ErrorKind::Disconnected);
        }
    });
}

#[test]
fn handles_without_room_are_an_error_of_their_message() {
    alone("ulimit -n 64", || {
        let (ours, theirs) = pipe::<Vec<Sender<usize>>, ()>().expect("a pipe");
        let (receivers, senders): (Vec<_>, Vec<_>) =
            (0..10).map(|_| one_way().expect("a pipe")).unzip();
        // Sent twice, 20 descriptors each, where there is room for 10 more.
        for _ in 0..2 {
            ours.send(&senders).expect("the other end");
        }
        assert_eq!(failure(theirs.recv()).kind(), ErrorKind::Codec);
        drop((receivers, senders));
        assert_eq!(theirs.recv().expect("a message").len(), 10);
    });
}

#[test]
fn messages_with_handles_leave_nothing_behind() {
    alone("", || {
        let (ours, theirs) = pipe::<(Vec<u8>, Sender<u8>), ()>().expect("a pipe");
        let own = || descriptors_of(process::id()).len();
        let before = own();
        for round in 0..100 {
            let (receiver, sender) = one_way().expect("a pipe");
            ours.send(&(vec![7; 200 * round], sender))
                .expect("the other end");
            match round % 3 {
                // Not decoded: its handle is closed.
                0 => drop(theirs.recv_bytes().expect("a message")),
                1 => drop(theirs.recv().expect("a message")),
                _ => {
                    let error = failure(theirs.recv_bytes_into(&mut [0; 4]));
                    assert_eq!(error.kind(), ErrorKind::InvalidInput);
                    drop(theirs.recv().expect("a message"));
                }
            }
            assert_eq!(failure(receiver.recv()).kind(), ErrorKind::Disconnected);
        }
        assert_eq!(own(), before);
    });
}
