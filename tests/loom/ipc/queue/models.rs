//! Models of the queue: its position words, and puts and gets in blocks that hold one item each.

use super::{
    block::Block,
    position::{AtomicPosition, Position},
    ring::{ItemBuffer, Limit, Ring},
};
use crate::check;
use crate::error::{ErrorKind, Result};
use crate::shm::ObjectKind;
use crate::sys::atomic::{AtomicU64, Weakening, weaken};
use loom::thread;
use std::sync::Arc;

/// A position of which every part tells how many items there are.
fn position(items: u64) -> Position {
    Position {
        items,
        generation: items + 1,
        block: Block::FIRST,
        offset: 8 * items as usize,
        is_closed: false,
    }
}

/// One side commits two positions, the second over the one that was there at first. Another process
/// loads twice meanwhile.
fn move_on(weakening: Weakening) {
    let words = Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
    AtomicPosition(&words).init();
    let moved = Arc::clone(&words);
    let mover = thread::spawn(move || {
        weaken(weakening);
        (1..=2).for_each(|it| AtomicPosition(&moved).commit(position(it)));
    });
    let seen = [0; 2].map(|_| AtomicPosition(&words).load().expect("a position"));
    assert!(seen.iter().all(|it| *it == position(it.items)));
    assert!(seen[0].items <= seen[1].items);
    mover.join().expect("no panic");
}

#[test]
fn positions_are_never_torn_and_never_go_back() {
    check(3, || move_on(Weakening::None));
}

#[test]
#[should_panic(expected = "it == position")]
fn relaxed_commits_tear_positions() {
    check(3, || move_on(Weakening::RelaxedStores));
}

fn queue(capacity: u64) -> Arc<Ring> {
    let queue = Ring::create(ObjectKind::SimpleQueue, 0, capacity).expect("memory");
    // The words of its event counts are made.
    put(&queue, 0).expect("room");
    assert_eq!(get(&queue).expect("an item"), 0);
    Arc::new(queue)
}

fn put(queue: &Ring, item: u8) -> Result<()> {
    queue.put(&[&[item]], Limit::ENDLESS)
}

fn get(queue: &Ring) -> Result<u8> {
    let mut buffer = ItemBuffer::default();
    queue.get(1, &mut buffer, Limit::ENDLESS)?;
    assert_eq!(buffer.bytes.len(), 1);
    Ok(buffer.bytes[0])
}

/// One process puts some items, another gets them.
fn pass_on(items: u8, capacity: u64, producer: Weakening) {
    let queue = queue(capacity);
    let other = Arc::clone(&queue);
    let producing = thread::spawn(move || {
        weaken(producer);
        (1..=items).for_each(|it| put(&other, it).expect("no error"));
    });
    for item in 1..=items {
        assert_eq!(get(&queue).expect("an item"), item);
    }
    producing.join().expect("no panic");
}

#[test]
fn items_arrive_whole_in_their_order() {
    check(2, || pass_on(2, u64::MAX, Weakening::None));
}

/// The third item finds both of the smallest blocks in use, unless the consumer has left one.
#[test]
fn items_arrive_from_blocks_of_two_sizes() {
    check(2, || {
        let queue = queue(u64::MAX);
        put(&queue, 1).expect("no error");
        let other = Arc::clone(&queue);
        let producing = thread::spawn(move || {
            put(&other, 2).expect("no error");
            put(&other, 3).expect("no error");
        });
        for item in 1..=3 {
            assert_eq!(get(&queue).expect("an item"), item);
        }
        producing.join().expect("no panic");
    });
}

#[test]
fn a_full_queue_takes_the_next_item_when_there_is_room() {
    check(2, || pass_on(3, 1, Weakening::None));
}

#[test]
#[should_panic(expected = "something else has written to its memory")]
fn behind_relaxed_commits_items_are_not_whole() {
    check(2, || pass_on(1, u64::MAX, Weakening::RelaxedStores));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_sequential_consistency_a_consumer_sleeps_on() {
    check(2, || pass_on(1, u64::MAX, Weakening::NoSeqCst));
}

/// Two consumers get one item each.
#[test]
fn each_item_goes_to_one_consumer() {
    check(1, || {
        let queue = queue(u64::MAX);
        let consumers = [0; 2].map(|_| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || get(&queue).expect("an item"))
        });
        put(&queue, 1).expect("no error");
        put(&queue, 2).expect("no error");
        let mut got = consumers.map(|it| it.join().expect("no panic"));
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
    });
}

/// The item was put before the queue is closed by another process, or not at all.
#[test]
fn a_put_comes_before_a_close_or_fails() {
    check(2, || {
        let queue = queue(u64::MAX);
        let closer = Arc::clone(&queue);
        let producer = Arc::clone(&queue);
        let closing = thread::spawn(move || closer.close());
        let putting = thread::spawn(move || put(&producer, 1).is_ok());
        let got = get(&queue);
        let was_put = putting.join().expect("no panic");
        closing.join().expect("no panic");
        match got {
            Ok(item) => assert!(was_put && item == 1),
            Err(error) => assert!(!was_put && error.kind() == ErrorKind::Disconnected),
        }
    });
}

/// The process that has put an item waits until another is done with it.
#[test]
fn a_join_ends_when_all_items_are_done_with() {
    check(2, || {
        let queue = queue(u64::MAX);
        let other = Arc::clone(&queue);
        assert!(queue.task_done().expect("no damage"));
        put(&queue, 1).expect("no error");
        let consuming = thread::spawn(move || {
            get(&other).expect("an item");
            assert!(other.task_done().expect("no damage"));
        });
        assert!(queue.join(Limit::ENDLESS).expect("no damage"));
        assert_eq!(queue.len(), 0);
        consuming.join().expect("no panic");
    });
}
