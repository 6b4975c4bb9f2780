//! Locks: one holder at a time, of any process; and the ways in which handles travel.

use crate::{SHORT, elsewhere, kind};
use common::for_every_method;
use common::in_time;
use common::methods::start;
use procpool::{
    Array, Atomic, Barrier, Condition, ErrorKind, Event, Lock, Process, RLock, Result, Semaphore,
    SharedMemory, StartMethod, Value, one_way, pipe,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    sync::{LazyLock, atomic::Ordering::Relaxed},
    time::Duration,
};

static STATIC: LazyLock<RLock> = LazyLock::new(|| RLock::new().expect("a lock"));

/// Adds by two steps, which only a lock keeps together.
fn add((lock, sum, times): (Lock, Atomic<u64>, u64)) {
    for _ in 0..times {
        let _held = lock.acquire().expect("no holder died");
        let before = sum.load(Relaxed);
        sum.store(before + 1, Relaxed);
    }
}

fn add_reentrantly((lock, sum, times): (RLock, Atomic<u64>, u64)) {
    for _ in 0..times {
        let _outer = lock.acquire().expect("no holder died");
        let _inner = lock.try_acquire().expect("this thread has it");
        let before = sum.load(Relaxed);
        sum.store(before + 1, Relaxed);
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Shared {
    lock: Lock,
    started: Option<Event>,
    rest: Vec<(Semaphore, Barrier, Condition)>,
    cells: Array<f64>,
    value: Value<[u8; 3]>,
    memory: SharedMemory,
}

fn use_all(shared: Shared) -> Option<usize> {
    let _held = shared.lock.acquire().ok()?;
    shared.started.as_ref()?.set();
    shared.rest.iter().try_for_each(|it| it.0.acquire()).ok()?;
    shared.cells.set(1, 0.5).ok()?;
    shared.value.set([1, 2, 3]).ok()?;
    shared.memory.write_at(0, b"x").ok()?;
    Some(shared.rest[0].1.parties())
}

for_every_method! {
    fn one_process_at_a_time_holds_a_lock(method) {
        let (lock, sum) = (Lock::new()?, Atomic::new(0)?);
        let job = || (lock.clone(), sum.clone(), 2000);
        let processes = [start(method, add, job())?, start(method, add, job())?];
        add(job());
        for process in processes {
            process.result()?;
        }
        assert_eq!(sum.load(Relaxed), 6000);
        Ok(())
    }

    fn one_process_at_a_time_holds_an_rlock_however_often(method) {
        let (lock, sum) = (RLock::new()?, Atomic::new(0)?);
        let job = || (lock.clone(), sum.clone(), 2000);
        let process = start(method, add_reentrantly, job())?;
        add_reentrantly(job());
        process.result()?;
        assert_eq!(sum.load(Relaxed), 4000);
        Ok(())
    }

    fn handles_lie_in_structs(method) {
        let shared = Shared {
            lock: Lock::new()?,
            started: Some(Event::new()?),
            rest: vec![(Semaphore::new(1)?, Barrier::new(7)?, Condition::new()?); 3],
            cells: Array::new(2)?,
            value: Value::new([0; 3])?,
            memory: SharedMemory::create(1)?,
        };
        // Three handles to one semaphore.
        shared.rest[0].0.release()?;
        shared.rest[0].0.release()?;
        assert_eq!(start(method, use_all, shared.clone())?.result()?, Some(7));
        assert!(shared.started.is_some_and(|it| it.is_set()));
        assert_eq!((shared.cells.to_vec()?, shared.value.get()?), (vec![0.0, 0.5], [1, 2, 3]));
        assert_eq!(shared.rest[2].0.value(), 0);
        Ok(())
    }

    fn a_handle_comes_back(method) {
        let lock = Lock::new()?;
        let back = start(method, |it: Lock| it, lock.clone())?.result()?;
        let _held = lock.acquire()?;
        assert!(elsewhere(|| back.try_acquire().is_err()));
        let made = start(method, |()| Value::new(7u64).ok(), ())?.result()?;
        assert_eq!(made.expect("a value").get()?, 7);
        Ok(())
    }
}

#[test]
fn a_lock_that_is_taken_is_not_had_in_time() -> Result<()> {
    in_time(|| {
        let lock = Lock::new()?;
        let held = lock.acquire()?;
        elsewhere(|| {
            assert_eq!(
                kind(|| lock.try_acquire(), Duration::ZERO),
                ErrorKind::WouldBlock
            );
            assert_eq!(
                kind(|| lock.acquire_timeout(SHORT), SHORT),
                ErrorKind::TimedOut
            );
            assert_eq!(
                kind(|| lock.acquire_timeout(Duration::ZERO), Duration::ZERO),
                ErrorKind::TimedOut
            );
        });
        drop(held);
        drop(lock.acquire_timeout(Duration::MAX)?);
        drop(lock.try_acquire()?);
        Ok(())
    })
}

#[test]
fn a_thread_that_waits_for_itself_is_told() -> Result<()> {
    in_time(|| {
        let lock = Lock::new()?;
        // Another handle to the same.
        let again = lock.clone();
        let _held = lock.acquire()?;
        assert_eq!(
            kind(|| again.acquire(), Duration::ZERO),
            ErrorKind::InvalidInput
        );
        assert_eq!(
            kind(|| again.try_acquire(), Duration::ZERO),
            ErrorKind::WouldBlock
        );
        assert_eq!(
            kind(|| again.acquire_timeout(SHORT), SHORT),
            ErrorKind::TimedOut
        );
        assert_eq!(
            kind(|| again.acquire_timeout(Duration::MAX), Duration::ZERO),
            ErrorKind::InvalidInput
        );
        Ok(())
    })
}

#[test]
fn an_rlock_is_free_when_all_of_its_guards_are_gone() -> Result<()> {
    in_time(|| {
        let lock = RLock::new()?;
        let mut guards = Vec::new();
        for _ in 0..1000 {
            guards.push(lock.acquire()?);
        }
        while guards.pop().is_some() {
            let is_free = elsewhere(|| lock.try_acquire().is_ok());
            assert_eq!(is_free, guards.is_empty());
        }
        let _held = lock.acquire()?;
        elsewhere(|| {
            assert_eq!(
                kind(|| lock.acquire_timeout(SHORT), SHORT),
                ErrorKind::TimedOut
            )
        });
        Ok(())
    })
}

#[test]
fn a_static_is_shared_with_forks() -> Result<()> {
    in_time(|| {
        let run = |()| {
            let text = |it: procpool::Error| it.to_string();
            let held = STATIC.acquire().map_err(|it| it.to_string())?;
            let is_taken = |()| STATIC.try_acquire().is_err();
            let fork = || start(StartMethod::Fork, is_taken, ()).and_then(Process::result);
            let first = fork().map_err(text)?;
            drop(held);
            Ok::<_, String>((first, fork().map_err(text)?))
        };
        let outcome = start(StartMethod::ForkServer, run, ())?.result()?;
        assert_eq!(outcome, Ok((true, false)));
        Ok(())
    })
}

#[test]
fn handles_travel_through_connections() -> Result<()> {
    in_time(|| {
        let (ours, theirs) = pipe::<Lock, bool>()?;
        let answer = |it: procpool::Connection<bool, Lock>| {
            let lock = it.recv().expect("a lock");
            it.send(&lock.try_acquire().is_err())
                .expect("the other end");
        };
        let process = Process::start(answer, theirs)?;
        let lock = Lock::new()?;
        let _held = lock.acquire()?;
        ours.send(&lock)?;
        assert!(ours.recv()?);
        process.result()
    })
}

/// Goes away as one handle, and is taken for another.
enum Disguise {
    Lock(Lock),
    Number(Value<u64>),
    Event,
}

impl Serialize for Disguise {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Self::Lock(it) => (0u8, it).serialize(serializer),
            Self::Number(it) => (1u8, it).serialize(serializer),
            Self::Event => unreachable!("it only arrives"),
        }
    }
}

impl<'de> Deserialize<'de> for Disguise {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Either;
        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = Disguise;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("two")
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut two: A,
            ) -> std::result::Result<Disguise, A::Error> {
                match two.next_element::<u8>()? {
                    Some(0) => two.next_element::<Event>().map(|_| Disguise::Event),
                    _ => two.next_element::<Value<f64>>().map(|_| Disguise::Event),
                }
            }
        }
        deserializer.deserialize_tuple(2, Either)
    }
}

#[test]
fn a_handle_is_not_taken_for_another() -> Result<()> {
    in_time(|| {
        let (receiver, sender) = one_way::<Disguise>()?;
        sender.send(&Disguise::Lock(Lock::new()?))?;
        let error = common::failure(receiver.recv());
        assert_eq!(error.kind(), ErrorKind::Codec);
        assert!(
            error
                .to_string()
                .contains("was sent as Lock and cannot be received as Event"),
            "{error}"
        );
        sender.send(&Disguise::Number(Value::new(1)?))?;
        let error = common::failure(receiver.recv());
        assert!(
            error.to_string().contains("this Value holds another type"),
            "{error}"
        );
        Ok(())
    })
}
