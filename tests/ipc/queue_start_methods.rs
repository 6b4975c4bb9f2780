//! Queues between a process and those that it starts, by every method.

use common::methods::start;
use common::{failure, for_every_method, in_time, pattern};
use procpool::{
    Connection, ErrorKind, JoinableQueue, ProcessPoolExecutor, Queue, Result, SimpleQueue,
    StartMethod, pipe,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::LazyLock};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stage {
    input: Queue<u64>,
    outputs: Vec<JoinableQueue<String>>,
    spare: Option<SimpleQueue<Vec<u8>>>,
}

fn run_stage(stage: Stage) -> usize {
    let mut count = 0;
    while let Ok(n) = stage.input.get() {
        stage.outputs[0].put(&n.to_string()).expect("room");
        count += 1;
    }
    let spare = stage.spare.expect("it was there");
    spare.put(&pattern(300_000, 1)).expect("room");
    count
}

/// Puts numbers up to the end, of `step` apart.
fn produce((queue, first, step, end): (Queue<(u64, Vec<u8>)>, u64, usize, u64)) {
    for n in (first..end).step_by(step) {
        let item = (n, pattern(n as usize % 3000, n as usize));
        queue.put(&item).expect("room");
    }
}

/// Takes numbers until the end, and says which.
fn consume(queue: Queue<(u64, Vec<u8>)>) -> Vec<u64> {
    let items = std::iter::from_fn(|| queue.get().ok());
    let checked = items.map(|(n, bytes)| {
        assert!(bytes == pattern(n as usize % 3000, n as usize));
        n
    });
    checked.collect()
}

static SHARED: LazyLock<Queue<u32>> = LazyLock::new(|| Queue::unbounded().expect("a queue"));

for_every_method! {
    fn queues_travel_in_a_struct(method) {
        let stage = Stage {
            input: Queue::bounded(4)?,
            outputs: vec![JoinableQueue::unbounded()?],
            spare: Some(SimpleQueue::new()?),
        };
        let process = start(method, run_stage, stage.clone())?;
        for n in 0..100 {
            stage.input.put(&n)?;
        }
        stage.input.close();
        assert_eq!(process.result()?, 100);
        for n in 0..100 {
            assert_eq!(stage.outputs[0].get()?, n.to_string());
            stage.outputs[0].task_done()?;
        }
        stage.outputs[0].join()?;
        assert!(stage.spare.expect("it was there").get()? == pattern(300_000, 1));
        Ok(())
    }

    fn many_processes_put_and_take_each_item_once(method) {
        for capacity in [2, 1 << 20] {
            let queue = Queue::bounded(capacity)?;
            let mut producers = Vec::new();
            for first in 0..3 {
                producers.push(start(method, produce, (queue.clone(), first, 3, 1500))?);
            }
            let mut consumers = Vec::new();
            for _ in 0..2 {
                consumers.push(start(method, consume, queue.clone())?);
            }
            for process in producers {
                process.result()?;
            }
            queue.close();
            let mut all = BTreeSet::new();
            for process in consumers {
                let taken = process.result()?;
                for first in 0..3 {
                    let of_one = taken.iter().filter(|it| *it % 3 == first);
                    assert!(of_one.is_sorted());
                }
                assert!(taken.into_iter().all(|it| all.insert(it)));
            }
            assert!(all.into_iter().eq(0..1500));
        }
        Ok(())
    }

    fn what_a_process_put_outlives_it(method) {
        let queue = Queue::unbounded()?;
        let put = |queue: Queue<Vec<u8>>| {
            queue.put(&pattern(1 << 20, 5)).expect("room");
            std::process::abort();
        };
        let process = start::<_, ()>(method, put, queue.clone())?;
        assert_eq!(failure(process.result()).kind(), ErrorKind::WorkerDied);
        assert!(queue.try_get()? == pattern(1 << 20, 5));
        Ok(())
    }

    fn a_queue_comes_back_as_a_result_and_through_a_connection(method) {
        let (ours, theirs) = pipe::<Queue<u8>, Queue<u8>>()?;
        let process = start(method, |connection: Connection<_, _>| {
            let queue: Queue<u8> = connection.recv().expect("a queue");
            queue.put(&(queue.get().expect("an item") + 1)).expect("room");
            connection.send(&queue).expect("the other end");
            queue
        }, theirs)?;
        let queue = Queue::bounded(1)?;
        queue.put(&1)?;
        ours.send(&queue)?;
        let again = ours.recv()?;
        let result = process.result()?;
        drop(queue);
        assert_eq!((again.len(), result.capacity()), (1, Some(1)));
        assert_eq!(result.get()?, 2);
        assert!(again.is_empty());
        Ok(())
    }
}

#[test]
fn a_queue_in_a_static_is_shared_with_a_forked_process() {
    in_time(|| {
        let run = |()| {
            SHARED.put(&1).map_err(|it| it.to_string())?;
            let child = start(
                StartMethod::Fork,
                |()| SHARED.get().ok().map(|it| SHARED.put(&(it + 1)).is_ok()),
                (),
            );
            let child = child.map_err(|it| it.to_string())?.result();
            assert_eq!(child.map_err(|it| it.to_string())?, Some(true));
            SHARED.get().map_err(|it| it.to_string())
        };
        let outcome: std::result::Result<u32, String> = start(StartMethod::ForkServer, run, ())
            .expect("a process")
            .result()
            .expect("it ends well");
        assert_eq!(outcome, Ok(2));
    });
}

#[test]
fn a_queue_of_another_type_or_kind_is_refused() {
    in_time(|| {
        let queue = Queue::<u32>::unbounded().expect("a queue");
        let other = |it: Queue<i32>| drop(it);
        let refused = pretend(queue.clone(), other);
        assert_eq!(refused.kind(), ErrorKind::Codec);
        let other = |it: JoinableQueue<u32>| drop(it);
        assert_eq!(pretend(queue.clone(), other).kind(), ErrorKind::Codec);
        let other = |it: Connection<u8, u8>| drop(it);
        assert_eq!(pretend(queue, other).kind(), ErrorKind::Codec);
    });
}

/// Sends one handle, and has another received.
fn pretend<A: procpool::Wire, B: procpool::Wire>(handle: A, _: fn(B)) -> procpool::Error {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("socket");
    let listener = procpool::Listener::bind(path.clone(), None).expect("a socket");
    std::thread::scope(|scope| {
        let accepted = scope.spawn(|| listener.accept::<(), B>().expect("a connection"));
        let sender: Connection<A, ()> = procpool::connect(path, None).expect("a connection");
        sender.send(&handle).expect("the other end");
        failure(accepted.join().expect("no panic").recv())
    })
}

#[test]
fn strangers_share_a_queue_that_came_through_a_socket() {
    in_time(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("socket");
        let listener = procpool::Listener::bind(path.clone(), None).expect("a socket");
        let queue = Queue::<String>::unbounded().expect("a queue");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let connection = listener.accept::<Queue<String>, ()>();
                connection
                    .expect("a connection")
                    .send(&queue)
                    .expect("the other end");
            });
            let connection: Connection<(), Queue<String>> =
                procpool::connect(path, None).expect("a connection");
            let theirs = connection.recv().expect("a queue");
            theirs.put(&"hello".to_owned()).expect("room");
        });
        assert_eq!(queue.get().expect("an item"), "hello");
    });
}

#[test]
fn workers_of_a_pool_are_fed_and_drained_by_queues_that_their_processes_made() {
    in_time(|| {
        let pool = ProcessPoolExecutor::builder().workers(1).build();
        let make_and_use = |n: u64| {
            let queue = Queue::bounded(2).expect("a queue");
            queue.put(&n).expect("room");
            queue.get().expect("an item")
        };
        let results = pool.expect("a pool").map(make_and_use, 0..100);
        assert!(results.expect("results").into_iter().eq(0..100));
    });
}

/// A `bool` that decodes only if it is true.
#[derive(Debug, Serialize)]
struct Yes(bool);

impl<'de> Deserialize<'de> for Yes {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        match bool::deserialize(deserializer)? {
            true => Ok(Self(true)),
            false => Err(serde::de::Error::custom("no")),
        }
    }
}

static ASIDE: LazyLock<Queue<Yes>> = LazyLock::new(|| Queue::unbounded().expect("a queue"));

// 1. A process takes three items, of which the second cannot be decoded; 2. it is copied; 3. those
//    after the first come once.
#[test]
fn items_that_wait_behind_one_that_cannot_be_decoded_do_not_come_again_in_a_copy() -> Result<()> {
    in_time(|| {
        let run = |()| {
            ASIDE.put_many(&[true, false, true].map(Yes)).expect("room");
            assert_eq!(ASIDE.get_many(3).expect("items").len(), 1);
            let copy = |()| matches!(ASIDE.try_get(), Err(it) if it.kind() == ErrorKind::Empty);
            let copy = start(StartMethod::Fork, copy, ()).and_then(procpool::Process::result);
            let kinds = [ASIDE.try_get(), ASIDE.try_get()].map(|it| it.is_ok());
            (copy.ok(), kinds)
        };
        let outcome = start(StartMethod::ForkServer, run, ())?.result()?;
        assert_eq!(outcome, (Some(true), [false, true]));
        Ok(())
    })
}
