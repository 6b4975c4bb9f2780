//! Locks, semaphores, conditions, events, barriers and queues: waiting, and the death of
//! waiters and holders.

use common::for_every_method;
use common::methods::start;
use common::processes::{eventually, wait_until_asleep};
use common::{A_MOMENT, DEADLINE, failure, in_time, park_forever};
use procpool::{
    BarrierProxy, BoundedSemaphoreProxy, ConditionProxy, ErrorKind, Event, EventProxy,
    JoinableQueueProxy, LockProxy, Manager, Process, QueueProxy, RLockProxy, Result,
    SemaphoreProxy, StartMethod, ValueProxy,
};
use serde::{Deserialize, Serialize, Serializer};
use std::{thread, time::Duration};

/// A limit that is never reached.
const LONG: Duration = Duration::from_secs(50);

/// Kills a process, and waits for its end.
fn kill<R: procpool::Wire>(process: Process<R>) -> Result<()> {
    process.kill()?;
    process.join().map(drop)
}

#[derive(Clone, Serialize, Deserialize)]
struct All {
    lock: LockProxy,
    rlock: RLockProxy,
    condition: ConditionProxy,
    semaphore: SemaphoreProxy,
    bounded: BoundedSemaphoreProxy,
    event: EventProxy,
    barrier: BarrierProxy,
    queue: QueueProxy<u64>,
    joinable: JoinableQueueProxy<String>,
    done: ValueProxy<u32>,
}

impl All {
    fn new(manager: &Manager) -> Result<Self> {
        Ok(Self {
            lock: manager.lock()?,
            rlock: manager.rlock()?,
            condition: manager.condition()?,
            semaphore: manager.semaphore(1)?,
            bounded: manager.bounded_semaphore(1)?,
            event: manager.event()?,
            barrier: manager.barrier(2)?,
            queue: manager.queue(1)?,
            joinable: manager.joinable_queue(8)?,
            done: manager.value(0)?,
        })
    }

    /// Uses each of them once, as the other party.
    fn take_part(self) -> Result<()> {
        self.semaphore.acquire()?;
        self.bounded.acquire()?;
        {
            let _outer = self.rlock.acquire()?;
            let _inner = self.rlock.try_acquire()?;
            let _lock = self.lock.acquire()?;
            self.done.call(|it, ()| *it += 1, ())?;
        }
        self.semaphore.release()?;
        self.bounded.release()?;
        self.event.wait()?;
        let item = self.queue.get()?;
        self.joinable.put(&item.to_string())?;
        {
            let _held = self.condition.lock()?;
            self.done.call(|it, ()| *it += 1, ())?;
            self.condition.notify_all()?;
        }
        self.barrier.wait().map(drop)
    }
}

for_every_method! {
    fn every_kind_works_between_processes(method) {
        let manager = Manager::start()?;
        let all = All::new(&manager)?;
        let take_part = |all: All| all.take_part().map_err(|error| error.to_string());
        let process = start(method, take_part, all.clone())?;
        all.event.set()?;
        all.queue.put(&42)?;
        assert_eq!(all.joinable.get()?, "42");
        all.joinable.task_done()?;
        all.joinable.join()?;
        let mut held = all.condition.lock()?;
        held.wait_while(|| all.done.get().is_ok_and(|it| it < 2))?;
        drop(held);
        all.barrier.wait()?;
        assert_eq!(process.result()?, Ok(()));
        assert_eq!((all.semaphore.value()?, all.bounded.value()?), (1, 1));
        Ok(())
    }

    fn locks_of_a_killed_holder_are_told_of_once(method) {
        let manager = Manager::start()?;
        let all = All::new(&manager)?;
        let hold = |all: All| {
            let _locks = (all.lock.acquire(), all.condition.lock());
            let _twice = (all.rlock.acquire(), all.rlock.acquire());
            all.event.set().expect("a server");
            park_forever(())
        };
        let process = start(method, hold, all.clone())?;
        all.event.wait()?;
        assert_eq!(failure(all.lock.try_acquire()).kind(), ErrorKind::WouldBlock);
        kill(process)?;
        let error = failure(all.lock.acquire());
        assert_eq!(error.kind(), ErrorKind::OwnerDied);
        let held = error.into_inner()?;
        assert_eq!(failure(all.lock.clone().try_acquire()).kind(), ErrorKind::WouldBlock);
        drop(held);
        drop(all.lock.acquire()?);
        assert_eq!(failure(all.rlock.acquire()).kind(), ErrorKind::OwnerDied);
        drop(all.rlock.acquire()?);
        assert_eq!(failure(all.condition.lock()).kind(), ErrorKind::OwnerDied);
        drop(all.condition.lock()?);
        Ok(())
    }
}

/// Says that it is about to wait, and waits for one kind; it never comes back.
fn wait_for((kind, all, ready): (String, All, Event)) {
    // The first call connects to the server: from here on, it only sleeps for an answer.
    all.done.call(|it, ()| *it += 1, ()).expect("a server");
    ready.set();
    match &*kind {
        "lock" => drop(all.lock.acquire()),
        "condition" => drop(all.condition.lock().map(|mut it| it.wait())),
        "semaphore" => drop(all.semaphore.acquire()),
        "event" => drop(all.event.wait()),
        "barrier" => drop(all.barrier.wait()),
        "get" => drop(all.queue.get()),
        "put" => drop(all.queue.put(&2)),
        "join" => drop(all.joinable.join()),
        _ => panic!("no such kind"),
    }
    all.done.call(|it, ()| *it += 100, ()).expect("a server");
}

/// Starts a process that waits for a kind, and kills it.
fn kill_a_waiter(all: &All, kind: &str) -> Result<()> {
    all.done.set(0)?;
    let ready = Event::new()?;
    let waiter = Process::start(wait_for, (kind.to_owned(), all.clone(), ready.clone()))?;
    ready.wait_timeout(DEADLINE)?;
    wait_until_asleep(waiter.pid());
    if kind == "barrier" {
        // The server counts it even if it dies before its request is read.
        eventually("it waits at the barrier", || {
            all.barrier.waiting().is_ok_and(|count| count == 1)
        });
    }
    kill(waiter)?;
    assert_eq!(all.done.get()?, 1);
    Ok(())
}

#[test]
fn a_killed_waiter_takes_nothing_with_it() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let all = All::new(&manager)?;
        let held = all.lock.acquire()?;
        kill_a_waiter(&all, "lock")?;
        drop(held);
        drop(all.lock.acquire_timeout(LONG)?);
        all.semaphore.acquire()?;
        kill_a_waiter(&all, "semaphore")?;
        all.semaphore.release()?;
        all.semaphore.acquire_timeout(LONG)?;
        kill_a_waiter(&all, "get")?;
        all.queue.put(&1)?;
        kill_a_waiter(&all, "put")?;
        assert_eq!(all.queue.get_timeout(LONG)?, 1);
        assert_eq!(failure(all.queue.try_get()).kind(), ErrorKind::Empty);
        kill_a_waiter(&all, "barrier")?;
        eventually("its place is free", || {
            all.barrier.waiting().is_ok_and(|it| it == 0)
        });
        thread::scope(|scope| {
            let other = scope.spawn(|| all.barrier.wait_timeout(LONG));
            all.barrier.wait_timeout(LONG)?;
            other.join().expect("no panic")
        })?;
        kill_a_waiter(&all, "condition")?;
        // It may have been killed before it came to wait.
        drop(all.condition.lock().or_else(|it| it.into_inner())?);
        thread::scope(|scope| {
            let other = scope.spawn(|| all.condition.lock()?.wait_timeout(LONG));
            eventually("the other is notified", || {
                all.condition.notify_one().is_ok() && other.is_finished()
            });
            other.join().expect("no panic")
        })?;
        all.joinable.put(&String::new())?;
        kill_a_waiter(&all, "join")?;
        kill_a_waiter(&all, "event")?;
        all.event.set()
    })
}

#[test]
fn what_takes_too_long_is_told_in_each_kinds_words() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let all = All::new(&manager)?;
        let _held = all.lock.acquire()?;
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                let never = failure(all.lock.try_acquire()).kind();
                (never, failure(all.lock.acquire_timeout(A_MOMENT)).kind())
            });
            let kinds = other.join().expect("no panic");
            assert_eq!(kinds, (ErrorKind::WouldBlock, ErrorKind::TimedOut));
        });
        all.semaphore.acquire()?;
        all.queue.put(&1)?;
        all.joinable.put(&String::new())?;
        let mut held = all.condition.lock()?;
        let kinds = [
            failure(all.semaphore.try_acquire()).kind(),
            failure(all.queue.try_put(&2)).kind(),
            failure(manager.queue::<u8>(1)?.try_get()).kind(),
            failure(all.semaphore.acquire_timeout(A_MOMENT)).kind(),
            failure(all.queue.put_timeout(&2, A_MOMENT)).kind(),
            failure(manager.queue::<u8>(1)?.get_timeout(A_MOMENT)).kind(),
            failure(all.event.wait_timeout(A_MOMENT)).kind(),
            failure(all.joinable.join_timeout(A_MOMENT)).kind(),
            failure(held.wait_timeout(A_MOMENT)).kind(),
            failure(held.wait_while_timeout(A_MOMENT, || true)).kind(),
            failure(all.barrier.wait_timeout(A_MOMENT)).kind(),
        ];
        let expected = [ErrorKind::WouldBlock, ErrorKind::Full, ErrorKind::Empty];
        assert_eq!(kinds[..3], expected);
        assert_eq!(kinds[3..], [ErrorKind::TimedOut; 8]);
        assert_eq!(failure(all.barrier.wait()).kind(), ErrorKind::BrokenBarrier);
        assert!(all.barrier.is_broken()?);
        all.barrier.reset()?;
        assert_eq!(
            (all.barrier.is_broken()?, all.barrier.parties()?),
            (false, 2)
        );
        all.queue.get_timeout(Duration::MAX).map(drop)
    })
}

#[test]
fn a_lock_that_its_thread_takes_again_is_refused_and_an_rlock_counted() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let (lock, rlock) = (manager.lock()?, manager.rlock()?);
        let held = lock.acquire()?;
        let kinds = [
            failure(lock.acquire()).kind(),
            failure(lock.acquire_timeout(Duration::MAX)).kind(),
            failure(lock.clone().try_acquire()).kind(),
            failure(lock.acquire_timeout(A_MOMENT)).kind(),
        ];
        let expected = [
            ErrorKind::InvalidInput,
            ErrorKind::InvalidInput,
            ErrorKind::WouldBlock,
            ErrorKind::TimedOut,
        ];
        assert_eq!(kinds, expected);
        drop(held);
        drop(lock.acquire()?);
        let (outer, inner) = (rlock.acquire()?, rlock.acquire()?);
        drop(outer);
        let refused = || {
            thread::scope(|it| {
                it.spawn(|| rlock.try_acquire().map(drop).map_err(procpool::Error::from))
                    .join()
                    .expect("no panic")
            })
        };
        assert_eq!(failure(refused()).kind(), ErrorKind::WouldBlock);
        drop(inner);
        assert!(refused().is_ok());
        Ok(())
    })
}

#[test]
fn many_threads_under_one_lock_lose_no_increment() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let (lock, count) = (manager.lock()?, manager.value(0)?);
        let increment = || -> Result<()> {
            let _held = lock.acquire()?;
            count.set(count.get()? + 1)
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..25).try_for_each(|_| increment())))
                .collect();
            threads
                .into_iter()
                .try_for_each(|it| it.join().expect("no panic"))
        })?;
        assert_eq!(count.get()?, 100);
        Ok(())
    })
}

#[test]
fn over_release_and_over_done_and_nothing_are_invalid_input() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let joinable = manager.joinable_queue::<u8>(1)?;
        let kinds = [
            failure(manager.bounded_semaphore(1)?.release()).kind(),
            failure(joinable.task_done()).kind(),
            failure(manager.queue::<u8>(0)).kind(),
            failure(manager.barrier(0)).kind(),
            failure(manager.barrier(usize::MAX)).kind(),
        ];
        assert_eq!(kinds, [ErrorKind::InvalidInput; 5]);
        let semaphore = manager.semaphore(0)?;
        semaphore.release()?;
        semaphore.acquire()
    })
}

#[test]
fn a_closed_queue_gives_what_is_there_and_then_an_error() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let queue = manager.queue(2)?;
        queue.put(&1)?;
        thread::scope(|scope| {
            let empty = manager.queue::<u8>(1)?;
            let other = empty.clone();
            let waiting = scope.spawn(move || other.get());
            empty.close()?;
            assert_eq!(
                failure(waiting.join().expect("no panic")).kind(),
                ErrorKind::Disconnected
            );
            Ok::<_, procpool::Error>(())
        })?;
        queue.close()?;
        assert_eq!(failure(queue.put(&2)).kind(), ErrorKind::Disconnected);
        assert_eq!(
            (queue.get()?, failure(queue.get()).kind()),
            (1, ErrorKind::Disconnected)
        );
        Ok(())
    })
}

#[test]
fn many_items_are_put_as_there_is_room_and_taken_as_they_are_there() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let queue = manager.queue::<u32>(10)?;
        queue.put_many(&[])?;
        assert_eq!(queue.get_many(0)?, []);
        queue.put_many(&[1, 2, 3])?;
        assert_eq!(
            (queue.get_many(2)?, queue.get_many(2)?),
            (vec![1, 2], vec![3])
        );
        let all: Vec<u32> = (0..1000).collect();
        let producer = Process::start(
            |(queue, items): (QueueProxy<u32>, Vec<u32>)| queue.put_many(&items).is_ok(),
            (queue.clone(), all.clone()),
        )?;
        let mut taken = Vec::new();
        while taken.len() < all.len() {
            let some = queue.get_many(7)?;
            assert!(!some.is_empty() && some.len() <= 7);
            taken.extend(some);
        }
        assert_eq!((taken, producer.result()?), (all, true));
        queue.put_many(&[1; 10])?;
        let blocked = queue.clone();
        thread::scope(|scope| {
            let waiting = scope.spawn(move || blocked.put_many(&[2, 3]));
            assert_eq!(queue.get()?, 1);
            eventually("one has room", || queue.is_full().is_ok_and(|it| it));
            queue.close()?;
            let error = failure(waiting.join().expect("no panic"));
            assert_eq!(error.kind(), ErrorKind::Disconnected);
            assert_eq!(queue.get_many(99)?, [1, 1, 1, 1, 1, 1, 1, 1, 1, 2]);
            assert_eq!(failure(queue.get_many(99)).kind(), ErrorKind::Disconnected);
            Ok::<_, procpool::Error>(())
        })?;
        let joinable = manager.joinable_queue(9)?;
        joinable.put_many(&["a".to_owned(), "b".to_owned()])?;
        assert_eq!(joinable.get_many(9)?.concat(), "ab");
        joinable.task_done()?;
        assert!(joinable.join_timeout(Duration::ZERO).is_err());
        joinable.task_done()?;
        joinable.join()
    })
}

#[test]
fn nothing_is_put_and_taken_at_once_whoever_waits() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let (empty, full) = (manager.queue::<u8>(1)?, manager.queue::<u8>(1)?);
        full.put(&1)?;
        thread::scope(|scope| {
            let getter = scope.spawn(|| empty.get());
            let putter = scope.spawn(|| full.put(&2));
            // At the latest the last of them come while the others wait.
            for _ in 0..500 {
                assert_eq!(empty.get_many(0)?, []);
                full.put_many(&[])?;
            }
            empty.put(&3)?;
            assert_eq!((getter.join().expect("no panic")?, full.get()?), (3, 1));
            putter.join().expect("no panic")
        })
    })
}

/// Cannot leave the server, where it is number 2.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Item {
    number: u32,
    maker: u32,
}

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        if self.number == 2 && self.maker != std::process::id() {
            return Err(serde::ser::Error::custom("it stays"));
        }
        (self.number, self.maker).serialize(to)
    }
}

#[test]
fn one_item_that_cannot_be_sent_costs_no_other() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let queue = manager.queue::<Item>(10)?;
        let maker = std::process::id();
        let items: Vec<_> = (1..=3).map(|number| Item { number, maker }).collect();
        queue.put_many(&items)?;
        let error = failure(queue.get_many(10));
        assert_eq!(error.kind(), ErrorKind::Codec, "{error}");
        assert_eq!(queue.get_many(10)?, [items[0].clone(), items[2].clone()]);
        Ok(())
    })
}

#[test]
fn an_aborted_or_reset_barrier_lets_those_go_who_wait() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let barrier = manager.barrier(2)?;
        for is_aborted in [true, false] {
            thread::scope(|scope| {
                let waiting = scope.spawn(|| barrier.wait());
                eventually("one waits", || barrier.waiting().is_ok_and(|it| it == 1));
                if is_aborted {
                    barrier.abort()
                } else {
                    barrier.reset()
                }?;
                assert_eq!(
                    failure(waiting.join().expect("no panic")).kind(),
                    ErrorKind::BrokenBarrier
                );
                barrier.reset()
            })?;
        }
        Ok(())
    })
}

#[test]
fn a_hundred_threads_that_wait_hold_up_nobody() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let (event, barrier) = (manager.event()?, manager.barrier(100)?);
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..100)
                .map(|_| scope.spawn(|| event.wait().and_then(|()| barrier.wait())))
                .collect();
            let list = manager.list()?;
            (0..100).try_for_each(|it| list.push(it))?;
            // It stays set: late waiters go on, too.
            event.set()?;
            let indices = waiting.into_iter().map(|it| it.join().expect("no panic"));
            let mut indices = indices
                .map(|it| it.map(|it| it.index()))
                .collect::<Result<Vec<_>>>()?;
            indices.sort_unstable();
            assert_eq!(indices, (0..100).collect::<Vec<_>>());
            Ok(())
        })
    })
}

/// Takes a lock, leaves a copy of itself that has the same sockets, and says that it is ready.
fn hold_and_fork((lock, ready): (LockProxy, EventProxy)) {
    let _held = lock.acquire();
    let copy = start(StartMethod::Fork, park_forever, ());
    let copy = copy.expect("a copy of a process with one thread");
    ready.set().expect("a server");
    copy.join().expect("a copy");
    park_forever(())
}

#[test]
fn a_killed_holder_is_dead_although_a_copy_of_it_has_its_sockets() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let (lock, ready) = (manager.lock()?, manager.event()?);
        let holder = Process::start(hold_and_fork, (lock.clone(), ready.clone()))?;
        ready.wait()?;
        let copy = common::processes::Process::children_of(holder.pid());
        kill(holder)?;
        assert_eq!(
            failure(lock.acquire_timeout(LONG)).kind(),
            ErrorKind::OwnerDied
        );
        for copy in copy {
            common::processes::kill(copy.pid, nix::sys::signal::Signal::SIGKILL);
        }
        Ok(())
    })
}

#[test]
fn a_lock_that_was_forgotten_is_let_go_with_its_process() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let lock = manager.lock()?;
        let forget = |lock: LockProxy| std::mem::forget(lock.acquire());
        Process::start(forget, lock.clone())?.result()?;
        assert_eq!(
            failure(lock.acquire_timeout(LONG)).kind(),
            ErrorKind::OwnerDied
        );
        Ok(())
    })
}
