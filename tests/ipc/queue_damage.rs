//! A relative that writes to the memory of a queue: the calls of others fail, or give bytes that do
//! not decode, and end.

use common::in_time;
use common::methods::start;
use common::random::Random;
use procpool::{ErrorKind, Process, Queue, StartMethod};
use std::{fs::File, os::unix::fs::FileExt, time::Duration};

/// Offsets of the words of tail and head, and of records in the first block:
/// `src/ipc/queue/README.md`.
const WORDS: [u64; 16] = [
    384, 392, 400, 408, 416, 424, 432, 512, 520, 528, 536, 544, 552, 560, 65_536, 65_552,
];

/// Writes a word wherever in this process a queue's memory is.
fn write(fd: i32, at: u64, value: u64) {
    let file = File::options()
        .write(true)
        .open(format!("/proc/self/fd/{fd}"));
    let written = file.and_then(|it| it.write_all_at(&value.to_le_bytes(), at));
    written.expect("memory of a queue");
}

/// The number of a queue's descriptor here, which its text tells.
fn descriptor_of(queue: &Queue<String>) -> i32 {
    let text = format!("{queue:?}");
    let digits = text.split(|it: char| !it.is_ascii_digit());
    let number = digits.filter_map(|it| it.parse().ok()).next();
    number.expect("a queue prints its descriptor")
}

fn scribble((queue, seed): (Queue<String>, u64)) {
    let fd = descriptor_of(&queue);
    let mut numbers = Random::seeded(seed * 2);
    for word in WORDS {
        let random = numbers.next_u64();
        // Half of them stay, and some are small.
        match random % 4 {
            0 => write(fd, word, random >> 8),
            1 => write(fd, word, random >> 8 & 0xff),
            _ => {}
        }
    }
}

fn calls_end_in(queue: &Queue<String>) {
    let limit = Duration::from_millis(1);
    for outcome in [
        queue.put_timeout(&"another".repeat(20_000), limit),
        queue.try_put(&"another".to_owned()),
        queue.get_timeout(limit).map(drop),
        queue.try_get().map(drop),
    ] {
        let kind = outcome.err().map(|it| it.kind());
        let expected = [
            ErrorKind::Codec,
            ErrorKind::Disconnected,
            ErrorKind::Empty,
            ErrorKind::Full,
            ErrorKind::TimedOut,
            ErrorKind::Io,
        ];
        assert!(kind.is_none_or(|it| expected.contains(&it)), "{kind:?}");
    }
    assert!(queue.len() <= queue.capacity().unwrap_or(usize::MAX));
    queue.close();
}

#[test]
fn a_relative_that_writes_to_a_queue_fails_calls_and_holds_none_up() {
    in_time(|| {
        for seed in 0..40 {
            let queue = Queue::bounded(4).expect("a queue");
            queue
                .put_many(&["one", "two"].map(str::to_owned))
                .expect("room");
            let child = start(StartMethod::ForkServer, scribble, (queue.clone(), seed));
            let ended = child.and_then(Process::result);
            ended.expect("a child that writes");
            calls_end_in(&queue);
        }
    });
}

#[test]
fn a_queue_that_was_written_to_is_disconnected() {
    in_time(|| {
        let queue = Queue::unbounded().expect("a queue");
        queue.put(&"one".to_owned()).expect("room");
        let fd = descriptor_of(&queue);
        // The offset at which producers stand, and consumers.
        for place in [408, 432, 536, 560] {
            write(fd, place, 3);
        }
        let put = queue.put(&"two".to_owned());
        let got = queue.get();
        let kinds = [put.err(), got.err()].map(|it| it.map(|it| it.kind()));
        assert_eq!(kinds, [Some(ErrorKind::Disconnected); 2]);
    });
}
