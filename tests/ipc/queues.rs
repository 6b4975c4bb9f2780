//! What queues do with items, bounds, deadlines, the end, and values that are no good.

use common::processes::{descriptors_of, wait_until_asleep};
use common::{A_MOMENT, alone, failure, in_time, pattern, race};
use nix::unistd::gettid;
use procpool::{
    ErrorKind::{Codec, Disconnected, Empty, Full, InvalidInput, TimedOut, Unsupported},
    JoinableQueue, Queue, SimpleQueue, pipe,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    process,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_millis(30);

#[test]
fn items_come_out_in_the_order_in_which_they_were_put() {
    in_time(|| {
        let queue = Queue::unbounded().expect("a queue");
        for n in 0..10_000_u32 {
            queue.put(&n).expect("room");
        }
        queue
            .put_many(&(10_000..20_000).collect::<Vec<_>>())
            .expect("room");
        assert_eq!(queue.len(), 20_000);
        for n in 0..10_000 {
            assert_eq!(queue.get().expect("an item"), n);
        }
        assert_eq!(queue.get_many(3).expect("items"), [10_000, 10_001, 10_002]);
        let rest = queue.get_many(usize::MAX).expect("items");
        assert!(rest.into_iter().eq(10_003..20_000));
        assert!(queue.is_empty());
    });
}

#[test]
fn items_of_every_size_come_out_as_they_went_in() {
    in_time(|| {
        let bytes = Queue::unbounded().expect("a queue");
        let values = Queue::unbounded().expect("a queue");
        let around = |it: usize| it.saturating_sub(80)..it + 8;
        let sizes = (0..100)
            .chain(around(1024))
            .chain((16..20).flat_map(|it| around(1 << it)))
            .chain([5 << 20, 70 << 20, 3, 20 << 20]);
        let sizes: Vec<usize> = sizes.collect();
        // One at a time, and all of the smaller ones at once.
        for (seed, size) in sizes.iter().enumerate() {
            let item = pattern(*size, seed);
            bytes.put(&item).expect("room");
            assert!(bytes.get().expect("an item") == item);
        }
        let small = || sizes.iter().enumerate().filter(|it| *it.1 < 1 << 20);
        for (seed, size) in small() {
            bytes.put(&pattern(*size, seed)).expect("room");
            values
                .put(&(seed, serde_bytes::ByteBuf::from(pattern(*size, seed))))
                .expect("room");
        }
        for (seed, size) in small() {
            assert!(bytes.get().expect("an item") == pattern(*size, seed));
            let (number, item) = values.get().expect("an item");
            assert!(number == seed && item == pattern(*size, seed));
        }
    });
}

#[test]
fn units_take_no_bytes_and_are_counted() {
    in_time(|| {
        let queue = Queue::bounded(100_000).expect("a queue");
        queue.put_many(&[(); 100_000]).expect("room");
        assert_eq!(failure(queue.try_put(&())).kind(), Full);
        assert_eq!(queue.get_many(usize::MAX).expect("items").len(), 100_000);
    });
}

#[test]
fn a_full_queue_takes_nothing_until_something_is_taken() {
    in_time(|| {
        let queue = Queue::bounded(2).expect("a queue");
        assert_eq!(queue.capacity(), Some(2));
        queue.put(&1).expect("room");
        assert!(!queue.is_full());
        queue.try_put(&2).expect("room");
        assert!(queue.is_full());
        assert_eq!(failure(queue.try_put(&3)).kind(), Full);
        let start = Instant::now();
        assert_eq!(failure(queue.put_timeout(&3, SOON)).kind(), TimedOut);
        assert!(start.elapsed() >= SOON);
        thread::scope(|scope| {
            let put = scope.spawn(|| queue.put(&3));
            assert_eq!(queue.get().expect("an item"), 1);
            put.join().expect("no panic").expect("room");
        });
        queue.put_timeout(&4, Duration::ZERO).expect_err("no room");
        assert_eq!(queue.get_many(9).expect("items"), [2, 3]);
        queue.put_timeout(&4, Duration::MAX).expect("room");
    });
}

#[test]
fn an_empty_queue_gives_nothing_until_something_is_put() {
    in_time(|| {
        let queue = Queue::unbounded().expect("a queue");
        assert_eq!((queue.capacity(), queue.is_full()), (None, false));
        assert_eq!(failure(queue.try_get()).kind(), Empty);
        let start = Instant::now();
        assert_eq!(failure(queue.get_timeout(SOON)).kind(), TimedOut);
        assert!(start.elapsed() >= SOON);
        assert_eq!(failure(queue.get_timeout(Duration::ZERO)).kind(), TimedOut);
        thread::scope(|scope| {
            let got = scope.spawn(|| queue.get_timeout(Duration::MAX));
            let many = scope.spawn(|| queue.get_many(8));
            queue.put(&"one".to_owned()).expect("room");
            queue.put(&"two".to_owned()).expect("room");
            let mut all = many.join().expect("no panic").expect("an item");
            // The first one may take both.
            if all.len() == 2 {
                queue.put(&"three".to_owned()).expect("room");
            }
            all.push(got.join().expect("no panic").expect("an item"));
            assert!(all.len() >= 2);
        });
        assert!(queue.get_many(0).expect("nothing").is_empty());
    });
}

#[test]
fn a_bound_of_nothing_is_refused() {
    let refused = [
        failure(Queue::<u8>::bounded(0)),
        failure(JoinableQueue::<u8>::bounded(0)),
    ];
    assert!(refused.iter().all(|it| it.kind() == InvalidInput));
}

#[test]
fn put_many_waits_for_room_for_all() {
    in_time(|| {
        let queue = Queue::bounded(10).expect("a queue");
        thread::scope(|scope| {
            let put = scope.spawn(|| queue.put_many(&(0..1000).collect::<Vec<u32>>()));
            let mut got = Vec::new();
            while got.len() < 1000 {
                let some = queue.get_many(7).expect("items");
                assert!((1..=7).contains(&some.len()) && queue.len() <= 10);
                got.extend(some);
            }
            assert!(got.into_iter().eq(0..1000));
            put.join().expect("no panic").expect("room");
        });
    });
}

#[test]
fn a_closed_queue_is_disconnected_once_it_is_drained() {
    in_time(|| {
        let queue = Queue::unbounded().expect("a queue");
        queue.put_many(&[1, 2]).expect("room");
        queue.close();
        queue.close();
        assert_eq!(failure(queue.put(&3)).kind(), Disconnected);
        assert_eq!(failure(queue.try_put(&3)).kind(), Disconnected);
        assert_eq!(failure(queue.put_many(&[])).kind(), Disconnected);
        assert_eq!(queue.get().expect("an item"), 1);
        assert_eq!(queue.get_many(9).expect("items"), [2]);
        for error in [
            failure(queue.get()),
            failure(queue.try_get()),
            failure(queue.get_timeout(SOON)),
        ] {
            assert_eq!(error.kind(), Disconnected);
        }
    });
}

#[test]
fn closing_wakes_whoever_waits() {
    in_time(|| {
        race(|| {
            let (empty, full) = (Queue::unbounded(), Queue::bounded(1));
            let (empty, full) = (empty.expect("a queue"), full.expect("a queue"));
            full.put(&1).expect("room");
            thread::scope(|scope| {
                let waiting = [
                    scope.spawn(|| failure(empty.get())),
                    scope.spawn(|| failure(empty.get_timeout(Duration::MAX))),
                    scope.spawn(|| failure(full.put(&2))),
                ];
                let start: Queue<u8> = empty.clone();
                start.close();
                full.close();
                for thread in waiting {
                    assert_eq!(thread.join().expect("no panic").kind(), Disconnected);
                }
            });
        });
    });
}

/// No put that returned `Ok` may be missed when the queue is drained.
#[test]
fn what_was_put_before_the_end_is_there() {
    in_time(|| {
        race(|| {
            let queue = Queue::unbounded().expect("a queue");
            let (put, got) = thread::scope(|scope| {
                let put = scope.spawn(|| (0..).take_while(|n| queue.put(n).is_ok()).count());
                let got = scope.spawn(|| std::iter::from_fn(|| queue.get().ok()).count());
                queue.close();
                (put.join().expect("no panic"), got.join().expect("no panic"))
            });
            assert_eq!(put, got);
        });
    });
}

#[test]
fn many_threads_share_a_queue_and_each_item_is_taken_once() {
    for capacity in [Some(1), Some(3), None] {
        in_time(move || {
            let queue = match capacity {
                Some(capacity) => Queue::bounded(capacity),
                None => Queue::unbounded(),
            };
            let queue: Queue<(usize, u32)> = queue.expect("a queue");
            let produce = |who| (0..3000).for_each(|n| queue.put(&(who, n)).expect("room"));
            let consume = || {
                let items = std::iter::from_fn(|| queue.get().ok());
                let mut last = BTreeMap::new();
                let mut count = 0;
                for (who, n) in items {
                    // One producer's items come in their order to each consumer.
                    assert!(last.insert(who, n).is_none_or(|it| it < n));
                    count += 1;
                }
                count
            };
            let total: u32 = thread::scope(|scope| {
                let producers = [0, 1, 2].map(|who| scope.spawn(move || produce(who)));
                let consumers = [0; 3].map(|_| scope.spawn(consume));
                let _ends = producers.map(|it| it.join().expect("no panic"));
                queue.close();
                consumers
                    .map(|it| it.join().expect("no panic"))
                    .iter()
                    .sum()
            });
            assert_eq!(total, 9000);
        });
    }
}

#[test]
fn a_handle_cannot_lie_in_a_queue() {
    let queue = Queue::unbounded().expect("a queue");
    let (ours, _theirs) = pipe::<u8, u8>().expect("a pipe");
    let item = (1, Some(ours));
    assert_eq!(failure(queue.put(&item)).kind(), Unsupported);
    assert_eq!(failure(queue.put_many(&[item])).kind(), Unsupported);
    assert!(queue.is_empty());
    let queues = Queue::unbounded().expect("a queue");
    assert_eq!(failure(queues.put(&queue)).kind(), Unsupported);
}

/// Encoded with care and decoded without: odd numbers come back as errors.
#[derive(Debug, Clone, PartialEq)]
struct Even(u32);

impl Serialize for Even {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 == 1000 {
            return Err(serde::ser::Error::custom("a thousand is too much"));
        }
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Even {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            odd if odd % 2 == 1 => Err(serde::de::Error::custom("it is odd")),
            even => Ok(Self(even)),
        }
    }
}

#[test]
fn an_item_that_cannot_be_encoded_is_not_put() {
    let queue = Queue::unbounded().expect("a queue");
    let error = failure(queue.put(&Even(1000)));
    assert_eq!(error.kind(), Codec);
    assert!(error.to_string().contains("a thousand is too much"));
    let error = failure(queue.put_many(&[Even(2), Even(1000)]));
    assert_eq!((error.kind(), queue.len()), (Codec, 0));
}

#[test]
fn an_item_that_cannot_be_decoded_is_the_error_of_one_get() {
    let queue = Queue::bounded(3).expect("a queue");
    queue.put_many(&[Even(1), Even(2), Even(3)]).expect("room");
    let error = failure(queue.get());
    assert_eq!(error.kind(), Codec);
    assert!(error.to_string().contains("it is odd"));
    queue.try_put(&Even(4)).expect("its place is free");
    assert_eq!(queue.get().expect("an item"), Even(2));
    assert_eq!(failure(queue.try_get()).kind(), Codec);
    assert_eq!(queue.get().expect("an item"), Even(4));
}

#[test]
fn get_many_loses_nothing_to_items_that_cannot_be_decoded() {
    let queue = Queue::unbounded().expect("a queue");
    queue
        .put_many(&[1, 2, 4, 5, 7, 8, 10].map(Even))
        .expect("room");
    let mut outcomes = Vec::new();
    while outcomes.len() < 7 {
        match queue.get_many(9) {
            Ok(items) => outcomes.extend(items.into_iter().map(|it| Some(it.0))),
            Err(error) => {
                assert_eq!(error.kind(), Codec);
                outcomes.push(None);
            }
        }
    }
    let expected = [None, Some(2), Some(4), None, None, Some(8), Some(10)];
    assert_eq!(outcomes, expected);
    assert_eq!(failure(queue.try_get()).kind(), Empty);
}

#[test]
fn a_value_may_use_the_queue_while_it_is_encoded() {
    #[derive(Deserialize)]
    struct Nested(u8);
    impl Serialize for Nested {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let other = SimpleQueue::new().expect("a queue");
            other.put(&vec![1_u16, 2, 3]).expect("room");
            assert_eq!(other.get().expect("an item"), [1, 2, 3]);
            serializer.serialize_u8(self.0)
        }
    }
    let queue = Queue::unbounded().expect("a queue");
    queue.put(&Nested(7)).expect("room");
    assert_eq!(queue.get().expect("an item").0, 7);
}

#[test]
fn a_queue_is_joined_when_each_item_is_done() {
    in_time(|| {
        let queue = JoinableQueue::unbounded().expect("a queue");
        queue.join().expect("nothing to do");
        assert_eq!(failure(queue.task_done()).kind(), InvalidInput);
        queue.put_many(&[1, 2, 3]).expect("room");
        assert_eq!(failure(queue.join_timeout(SOON)).kind(), TimedOut);
        thread::scope(|scope| {
            let joined = scope.spawn(|| queue.join());
            for _ in 0..3 {
                assert!(!joined.is_finished());
                queue.get().expect("an item");
                queue.task_done().expect("it was put");
            }
            joined.join().expect("no panic").expect("all is done");
        });
        assert_eq!(failure(queue.task_done()).kind(), InvalidInput);
        queue.close();
        queue.join_timeout(Duration::ZERO).expect("all is done");
    });
}

#[test]
fn a_join_ends_with_the_last_of_many_workers() {
    in_time(|| {
        race(|| {
            let queue = JoinableQueue::bounded(4).expect("a queue");
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        while queue.get().is_ok() {
                            queue.task_done().expect("it was put");
                        }
                    });
                }
                (0..20).for_each(|n| queue.put(&n).expect("room"));
                queue.join().expect("all will be done");
                assert!(queue.is_empty());
                queue.close();
            });
        });
    });
}

#[test]
fn a_waiting_consumer_costs_next_to_nothing() {
    alone("", || {
        let queue = Queue::<u8>::unbounded().expect("a queue");
        thread::scope(|scope| {
            let (consumer, its_id) = mpsc::channel();
            let queue = &queue;
            let waiting = scope.spawn(move || {
                consumer
                    .send(gettid().as_raw().cast_unsigned())
                    .expect("a receiver");
                queue.get()
            });
            wait_until_asleep(its_id.recv().expect("a sender"));
            let times = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
            let switches = |it: nix::sys::resource::Usage| it.voluntary_context_switches();
            let before = switches(times.expect("a process"));
            thread::sleep(10 * A_MOMENT);
            let times = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
            assert!(switches(times.expect("a process")) - before < 20);
            queue.put(&1).expect("room");
            assert_eq!(waiting.join().expect("no panic").expect("an item"), 1);
        });
    });
}

#[test]
fn queues_that_are_gone_leave_nothing_behind() {
    alone("", || {
        let maps = || {
            let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
            maps.matches("memfd:procpool").count()
        };
        let before = (descriptors_of(process::id()).len(), maps());
        for size in [0, 1000, 5 << 20] {
            let queue = Queue::bounded(3).expect("a queue");
            let again = queue.clone();
            queue.put(&vec![0_u8; size]).expect("room");
            again.get().expect("an item");
            again.put(&vec![0; size]).expect("room");
        }
        assert_eq!((descriptors_of(process::id()).len(), maps()), before);
    });
}
