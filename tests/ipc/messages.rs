//! Messages as values and as bytes, and what goes wrong with them.

use common::{DEADLINE, alone, failure, in_time, pattern};
use procpool::{Connection, ErrorKind, Receiver, Wire, one_way, pipe};
use serde::{Deserialize, Serialize, Serializer, ser::Error};
use std::{
    collections::HashSet,
    fs, thread,
    time::{Duration, Instant},
};

fn ends() -> (Connection<u64, String>, Connection<String, u64>) {
    pipe().expect("a pipe")
}

#[derive(Debug, Deserialize)]
struct Refuses;

impl Serialize for Refuses {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(S::Error::custom("it does not want to"))
    }
}

#[test]
fn values_go_both_ways() {
    in_time(|| {
        let (a, b) = ends();
        for number in 0..100 {
            a.send(&number).expect("the other end");
        }
        for number in 0..100 {
            let received = b.recv().expect("the other end");
            b.send(&received.to_string()).expect("the other end");
            assert_eq!(a.recv().expect("the other end"), number.to_string());
        }
    });
}

#[test]
fn bytes_of_every_size_arrive_as_they_are() {
    in_time(|| {
        let (receiver, sender) = one_way::<()>().expect("a pipe");
        let sizes = (0..200).chain(4000..4200).chain([
            65471,
            65472,
            65535,
            65536,
            65537,
            (1 << 20) - 1,
            1 << 20,
            (1 << 20) + 1,
            (5 << 20) + 7,
        ]);
        let sizes: Vec<usize> = sizes.collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                for size in &sizes {
                    let bytes = pattern(*size, *size);
                    (0..3).for_each(|_| sender.send_bytes(&bytes).expect("the other end"));
                }
            });
            for size in &sizes {
                let expected = pattern(*size, *size);
                let mut buffer = vec![0; *size];
                let length = receiver.recv_bytes_into(&mut buffer).expect("a message");
                assert!(length == *size && buffer == expected, "{size} bytes");
                assert!(
                    receiver.recv_bytes().expect("a message") == expected,
                    "{size} bytes"
                );
                let mut larger = vec![0; size + 9];
                let length = receiver.recv_bytes_into(&mut larger).expect("a message");
                assert!(larger[..length] == expected, "{size} bytes");
            }
        });
    });
}

#[test]
fn values_of_every_size_arrive_as_they_are() {
    in_time(|| {
        let (a, b) = pipe::<(Vec<u16>, Vec<u8>), Vec<u8>>().expect("a pipe");
        for size in [0, 1, 10, 30, 60, 2000, 2010, 40_000, 1 << 20] {
            let value = (vec![7; size], pattern(size, 1));
            thread::scope(|scope| {
                scope.spawn(|| {
                    a.send(&value).expect("the other end");
                    assert!(a.recv().expect("the other end") == value.1);
                });
                let received = b.recv().expect("the other end");
                assert!(received == value, "{size} elements");
                b.send(&received.1).expect("the other end");
            });
        }
    });
}

/// More than 2 GiB, nearly all of it zeros that were never touched and take up no memory.
fn huge() -> Vec<u8> {
    let mut bytes = vec![0; (2 << 30) + 5];
    for at in [0, 4095, (1 << 31) - 1, 1 << 31, (2 << 30) + 4] {
        bytes[at] = 7;
    }
    bytes
}

#[test]
#[ignore = "it needs 3 GiB of memory and several seconds"]
fn a_message_may_be_larger_than_2_gib() {
    in_time(|| {
        let (receiver, sender) = one_way::<()>().expect("a pipe");
        let sent = huge();
        thread::scope(|scope| {
            scope.spawn(|| sender.send_bytes(&sent));
            let received = receiver.recv_bytes().expect("a message");
            assert!(received == sent, "{} bytes", received.len());
        });
    });
}

/// Whether this machine has memory to spare for a test.
fn has_memory(gibibytes: u64) -> bool {
    let text = fs::read_to_string("/proc/meminfo").expect("/proc is mounted");
    let line = text.lines().find_map(|it| it.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|it| it.trim().split(' ').next()?.parse::<u64>().ok());
    kibibytes.is_some_and(|it| it >> 20 >= gibibytes)
}

#[test]
fn a_buffer_may_be_larger_than_2_gib() {
    if !has_memory(8) {
        return;
    }
    in_time(|| {
        let (receiver, sender) = one_way::<()>().expect("a pipe");
        let sent = huge();
        thread::scope(|scope| {
            scope.spawn(|| sender.send_bytes(&sent));
            let mut buffer = vec![1; sent.len()];
            let length = receiver.recv_bytes_into(&mut buffer).expect("a message");
            assert!(length == sent.len() && buffer == sent, "{length} bytes");
        });
    });
}

#[test]
fn a_message_that_does_not_fit_stays() {
    in_time(|| {
        let (receiver, sender) = one_way::<()>().expect("a pipe");
        for (size, room) in [
            (1, 0),
            (8, 7),
            (56, 55),
            (57, 56),
            (100, 60),
            (100, 20),
            (5000, 4999),
        ] {
            sender
                .send_bytes(&pattern(size, size))
                .expect("the other end");
            for _ in 0..2 {
                let error = failure(receiver.recv_bytes_into(&mut vec![0; room]));
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{size} into {room}");
                let is_there = receiver.poll(Duration::ZERO).expect("a pipe");
                assert!(is_there, "{size} into {room}");
            }
            let mut buffer = vec![0; size];
            assert_eq!(
                receiver.recv_bytes_into(&mut buffer).expect("a message"),
                size
            );
            assert!(buffer == pattern(size, size));
            assert!(!receiver.poll(Duration::ZERO).expect("a pipe"));
        }
    });
}

#[test]
fn a_value_that_cannot_be_encoded_sends_nothing() {
    in_time(|| {
        let (receiver, sender) = one_way::<Option<Refuses>>().expect("a pipe");
        let error = failure(sender.send(&Some(Refuses)));
        assert_eq!(error.kind(), ErrorKind::Codec);
        assert!(
            error.to_string().ends_with("it does not want to"),
            "{error}"
        );
        sender.send(&None).expect("the other end");
        assert!(receiver.recv().expect("a message").is_none());
    });
}

#[test]
fn a_message_that_cannot_be_decoded_is_one_error() {
    in_time(|| {
        let (receiver, sender) = one_way::<(u64, String)>().expect("a pipe");
        for garbage in [&b""[..], b"short", &[255; 24], &[255; 5000]] {
            sender.send_bytes(garbage).expect("the other end");
            sender.send(&(1, "good".to_owned())).expect("the other end");
            assert_eq!(failure(receiver.recv()).kind(), ErrorKind::Codec);
            assert_eq!(receiver.recv().expect("a message"), (1, "good".to_owned()));
        }
    });
}

#[test]
fn what_was_sent_is_received_after_its_sender_is_gone() {
    in_time(|| {
        let (a, b) = ends();
        a.send(&1).expect("the other end");
        a.send(&2).expect("the other end");
        a.close();
        assert!(b.poll(Duration::ZERO).expect("a pipe"));
        assert_eq!((b.recv().ok(), b.try_recv().ok()), (Some(1), Some(2)));
        assert!(b.poll(Duration::ZERO).expect("a pipe"));
        for _ in 0..2 {
            assert_eq!(failure(b.recv()).kind(), ErrorKind::Disconnected);
            assert_eq!(failure(b.try_recv()).kind(), ErrorKind::Disconnected);
            assert_eq!(
                failure(b.recv_timeout(DEADLINE)).kind(),
                ErrorKind::Disconnected
            );
            assert_eq!(failure(b.recv_bytes()).kind(), ErrorKind::Disconnected);
            assert_eq!(
                failure(b.recv_bytes_into(&mut [])).kind(),
                ErrorKind::Disconnected
            );
            assert_eq!(
                failure(b.send(&String::new())).kind(),
                ErrorKind::Disconnected
            );
        }
    });
}

#[test]
fn a_sender_that_waits_for_room_learns_that_its_receiver_is_gone() {
    in_time(|| {
        let (receiver, sender) = one_way::<()>().expect("a pipe");
        let thread = thread::spawn(move || sender.send_bytes(&vec![0; 8 << 20]));
        assert!(receiver.poll(DEADLINE).expect("a pipe"));
        receiver.close();
        let error = failure(thread.join().expect("it does not panic"));
        assert_eq!(error.kind(), ErrorKind::Disconnected);
    });
}

#[test]
fn waits_end_in_time() {
    in_time(|| {
        let (receiver, _sender): (Receiver<u8>, _) = one_way().expect("a pipe");
        assert_eq!(failure(receiver.try_recv()).kind(), ErrorKind::Empty);
        for millis in [0, 1, 30] {
            let limit = Duration::from_millis(millis);
            let start = Instant::now();
            assert_eq!(
                failure(receiver.recv_timeout(limit)).kind(),
                ErrorKind::TimedOut
            );
            assert!(!receiver.poll(limit).expect("a pipe"));
            assert!(start.elapsed() >= 2 * limit);
        }
    });
}

#[test]
fn a_wait_without_end_is_a_valid_limit() {
    in_time(|| {
        let (receiver, sender) = one_way().expect("a pipe");
        sender.send(&3).expect("the other end");
        assert!(receiver.poll(Duration::MAX).expect("a pipe"));
        assert_eq!(receiver.recv_timeout(Duration::MAX).expect("a message"), 3);
    });
}

#[test]
fn a_wait_may_end_in_the_middle_of_a_message() {
    in_time(|| {
        let (receiver, sender) = one_way::<Vec<u8>>().expect("a pipe");
        let bytes = pattern(16 << 20, 3);
        thread::scope(|scope| {
            scope.spawn(|| sender.send(&bytes).expect("the other end"));
            let received = loop {
                match receiver.try_recv() {
                    Err(error) if error.kind() == ErrorKind::Empty => {}
                    received => break received.expect("a message"),
                }
            };
            assert!(received == bytes);
        });
    });
}

/// Sends bytes, and has them received as a value that they are not.
fn is_refused<T: Wire>(bytes: &[u8]) {
    let (receiver, sender) = one_way::<T>().expect("a pipe");
    thread::scope(|scope| {
        scope.spawn(|| sender.send_bytes(bytes).expect("the other end"));
        assert_eq!(failure(receiver.recv()).kind(), ErrorKind::Codec);
    });
}

#[test]
fn a_length_that_is_a_lie_is_an_error_of_its_message() {
    // Alone: it must not end the whole test program.
    alone("", || {
        for size in [8, 100, 1 << 20, 17 << 20] {
            for length in [u64::MAX, 1 << 62, 1 << 39, 1 << 26] {
                let mut bytes = vec![0; size];
                bytes[..8].copy_from_slice(&length.to_le_bytes());
                is_refused::<String>(&bytes);
                is_refused::<Vec<u64>>(&bytes);
                is_refused::<Vec<()>>(&bytes);
                is_refused::<HashSet<()>>(&bytes);
            }
        }
    });
}

#[test]
fn many_lengths_of_nothing_take_no_time() {
    in_time(|| {
        // Each of them is a length that one alone may have.
        let numbers = vec![1_u64 << 17; 1 << 17];
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
        bytes[..8].copy_from_slice(&((1 << 17) - 1_u64).to_le_bytes());
        is_refused::<Vec<Vec<()>>>(&bytes);
    });
}
