//! How much memory queues take up, and that it goes back.

use common::{alone, failure, pattern};
use procpool::{ErrorKind, Queue};
use std::{fs, os::unix::fs::MetadataExt};

const MIB: u64 = 1 << 20;

/// What a queue keeps to work with.
const KEPT: u64 = 17 * MIB;

/// Bytes of memory of the only queue of this process.
fn memory() -> u64 {
    let entries = fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    let files = entries.flatten().filter(|it| {
        let target = fs::read_link(it.path()).unwrap_or_default();
        target.to_string_lossy().starts_with("/memfd:procpool")
    });
    let sizes: Vec<u64> = files
        .map(|it| fs::metadata(it.path()).expect("an open file").blocks() * 512)
        .collect();
    assert_eq!(sizes.len(), 1, "a queue is one file");
    sizes[0]
}

#[test]
fn memory_is_flat_over_many_items() {
    alone("", || {
        let queue = Queue::unbounded().expect("a queue");
        for n in 0..100_000 {
            queue.put(&vec![n as u8; n % 2000]).expect("room");
            assert_eq!(queue.get().expect("an item").len(), n % 2000);
        }
        assert!(memory() < MIB / 4, "{}", memory());
    });
}

#[test]
fn memory_follows_what_waits() {
    alone("", || {
        let queue = Queue::unbounded().expect("a queue");
        let item = pattern(50_000, 1);
        for count in [200, 4000] {
            (0..count).for_each(|_| queue.put(&item).expect("room"));
            let waits = count * 50_000;
            assert!(memory() < 2 * waits + MIB, "{} for {waits}", memory());
            (0..count).for_each(|_| assert!(queue.get().expect("an item") == item));
            assert!(memory() < KEPT, "{} for nothing", memory());
        }
        // Small ones lead back to small blocks.
        for _ in 0..20_000 {
            queue.put(&vec![1; 1000]).expect("room");
            queue.get().expect("an item");
        }
        assert!(memory() < MIB, "{} for nothing", memory());
    });
}

#[test]
fn memory_of_a_large_item_goes_back_when_it_was_read() {
    alone("", || {
        let queue = Queue::unbounded().expect("a queue");
        for size in [3 << 20, 20 << 20, 100 << 20] {
            for _ in 0..3 {
                queue.put(&vec![1_u8; size]).expect("room");
                assert!(memory() > size as u64);
                assert_eq!(queue.get().expect("an item").len(), size);
                assert!(memory() < KEPT, "{} after {size}", memory());
            }
        }
    });
}

#[test]
fn queues_need_no_room_for_what_does_not_wait() {
    // KiB: a queue's file is far longer.
    alone("ulimit -v 4000000", || {
        let queues: Vec<Queue<Vec<u8>>> = (0..100)
            .map(|_| Queue::unbounded().expect("a queue"))
            .collect();
        for queue in queues {
            queue.put(&vec![1; 10 << 20]).expect("room");
            assert_eq!(queue.get().expect("an item").len(), 10 << 20);
        }
    });
}

#[test]
fn an_item_for_which_there_are_no_addresses_is_refused() {
    alone("ulimit -v 800000", || {
        let queue = Queue::unbounded().expect("a queue");
        let large = vec![1_u8; 300 << 20];
        queue.put(&vec![2]).expect("room");
        assert_eq!(failure(queue.put(&large)).kind(), ErrorKind::Io);
        queue.put(&vec![3]).expect("room");
        assert_eq!(queue.get_many(3).expect("items"), [[2], [3]]);
    });
}

#[test]
fn a_process_that_may_make_no_long_files_has_queues_for_small_items() {
    // Blocks of 512 bytes or 1 KiB: the shell decides.
    alone("ulimit -f 2048", || {
        let queue = Queue::unbounded().expect("a queue");
        assert_eq!(
            failure(queue.put(&vec![1_u8; 5 << 20])).kind(),
            ErrorKind::Io
        );
        for size in [0, 1000, 100_000] {
            queue.put(&vec![1; size]).expect("room");
            assert_eq!(queue.get().expect("an item").len(), size);
        }
    });
}
