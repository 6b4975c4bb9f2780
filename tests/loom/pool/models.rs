//! Models of the shared region: the start word, the ring of replies, and the wake-up.

use super::{
    protocol::region::{RING, RING_BYTES, ReplyHeader, ReplyKind, SharedRegion, WakeMode},
    worker::reply_writer::ReplyWriter,
    worker_handle::checked_region::{CheckedRegion, may_sleep},
};
use crate::check;
use crate::sys::{
    atomic::{Weakening, weaken},
    pipe,
};
use loom::{sync::Notify, thread};
use std::{fs::File, sync::Arc};

/// What a model is to leave out.
#[derive(Debug, Clone, Copy)]
struct Weak {
    worker: Weakening,
    pool: Weakening,
    looks: bool,
}

const SOUND: Weak = Weak {
    worker: Weakening::None,
    pool: Weakening::None,
    looks: true,
};

/// The region as the worker and as the pool have it.
fn both() -> (SharedRegion, CheckedRegion) {
    let region = SharedRegion::new().expect("memory");
    region.view().copy_in(RING, &[0; RING_BYTES]);
    let _ = (region.start_word(), region.tail(), region.head());
    let _ = (region.wake_mode_word(), region.wants_room());
    (region.clone(), CheckedRegion::from_region(region))
}

/// The pool, which reads records and sleeps in between, as a caller that leads does.
struct Pool {
    region: CheckedRegion,
    wake_mode: WakeMode,
    looks: bool,
    records: Vec<u8>,
}

impl Pool {
    /// Waits for the record of this item, whose one byte is the item's number.
    fn receive(&mut self, item: u32) {
        while self.records.is_empty() {
            self.region.drain(&mut self.records).expect("records");
            if self.records.is_empty() {
                self.region.prepare_sleep(self.wake_mode);
                if may_sleep([&self.region]) || !self.looks {
                    pipe::read_all();
                }
                self.region.set_wake_mode(WakeMode::Never);
            }
        }
        let header = ReplyHeader::parse(&self.records).expect("a whole record");
        let parts = (header.item, header.kind, header.len);
        assert_eq!(parts, (item, ReplyKind::Value, 1));
        self.records.drain(..ReplyHeader::SIZE);
        assert_eq!(self.records.remove(0), item as u8);
    }
}

/// Starts an item and replies to it.
fn run(replies: &ReplyWriter, item: u32) {
    assert!(replies.region.try_start(item));
    replies.wake_if_requested();
    replies.append(item, ReplyKind::Value, &[item as u8]);
}

/// A worker runs some items, then has nothing to do; the pool reads a reply to each.
fn reply(items: u32, wake_mode: WakeMode, weak: Weak) {
    let (worker, region) = both();
    region.allow(0, items);
    let worker = thread::spawn(move || {
        weaken(weak.worker);
        let replies = replies(worker);
        (0..items).for_each(|it| run(&replies, it));
        replies.wake_before_waiting();
    });
    let mut pool = pool(region, wake_mode, weak);
    (0..items).for_each(|it| pool.receive(it));
    worker.join().expect("no panic");
}

fn replies(region: SharedRegion) -> ReplyWriter {
    let wake_pipe = File::open("/dev/null").expect("a descriptor");
    ReplyWriter::new(wake_pipe.into(), region)
}

fn pool(region: CheckedRegion, wake_mode: WakeMode, weak: Weak) -> Pool {
    weaken(weak.pool);
    Pool {
        region,
        wake_mode,
        looks: weak.looks,
        records: Vec::new(),
    }
}

#[test]
fn a_pool_that_sleeps_is_told_of_every_reply() {
    for wake_mode in [WakeMode::Immediate, WakeMode::Batched] {
        check(3, move || reply(2, wake_mode, SOUND));
    }
}

/// The third record does not fit before the first is read, and wraps around the end.
#[test]
fn a_worker_whose_ring_is_full_waits_for_room_and_goes_on() {
    check(2, || reply(4, WakeMode::Immediate, SOUND));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_workers_barrier_a_reply_is_missed() {
    let worker = Weakening::NoFences;
    check(3, move || {
        reply(1, WakeMode::Immediate, Weak { worker, ..SOUND })
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_pools_barrier_a_reply_is_missed() {
    let pool = Weakening::NoFences;
    check(3, move || {
        reply(1, WakeMode::Immediate, Weak { pool, ..SOUND })
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_a_look_before_sleeping_a_reply_is_missed() {
    let weak = Weak {
        looks: false,
        ..SOUND
    };
    check(3, move || reply(1, WakeMode::Immediate, weak));
}

#[test]
#[should_panic(expected = "Causality violation")]
fn behind_a_relaxed_tail_a_record_is_not_whole() {
    let worker = Weakening::RelaxedStores;
    check(3, move || {
        reply(1, WakeMode::Immediate, Weak { worker, ..SOUND })
    });
}

/// The second item ends after the pool has read the reply to the first.
fn run_a_long_item(weak: Weak) {
    let (worker, region) = both();
    region.allow(0, 2);
    let is_read = Arc::new(Notify::new());
    let ends = Arc::clone(&is_read);
    let worker = thread::spawn(move || {
        weaken(weak.worker);
        let replies = replies(worker);
        run(&replies, 0);
        assert!(replies.region.try_start(1));
        replies.wake_if_requested();
        ends.wait();
    });
    pool(region, WakeMode::Immediate, weak).receive(0);
    is_read.notify();
    worker.join().expect("no panic");
}

#[test]
fn a_reply_is_told_of_before_a_long_item() {
    check(3, || run_a_long_item(SOUND));
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_the_barrier_behind_a_start_a_reply_waits_for_a_long_item() {
    let worker = Weakening::NoFences;
    check(3, move || run_a_long_item(Weak { worker, ..SOUND }));
}

/// A worker starts what it can of three items while the pool takes back all from `from` on.
fn revoke(from: u32) {
    let (worker, pool) = both();
    pool.allow(0, 3);
    let worker = thread::spawn(move || {
        let started = (0..3).take_while(|it| worker.try_start(*it)).count() as u32;
        (started, worker)
    });
    let first = pool.revoke(from, 3);
    // The pool sends nothing more while the worker keeps items that have not started:
    // `WorkerHandle::revoked_at`.
    let has_unstarted = pool.started() != first;
    if !has_unstarted {
        pool.allow(3, 1);
    }
    let (started, worker) = worker.join().expect("no panic");
    assert!(started <= first && first >= from);
    assert!((started..first).all(|it| worker.try_start(it)));
    assert!((first..3).all(|it| !worker.try_start(it)));
    if has_unstarted {
        pool.allow(3, 1);
    }
    assert!((first..3).all(|it| !worker.try_start(it)));
    assert!(worker.try_start(3) && !pool.is_broken());
}

#[test]
fn an_item_starts_or_is_taken_back_and_never_both() {
    for from in 0..3 {
        check(3, move || revoke(from));
    }
}
