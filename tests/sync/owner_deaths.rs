//! What becomes of what a process held, or waited for, when it is killed, and of what a thread held
//! that ends.

use crate::{SHORT, elsewhere, kind, wait_to_be_killed};
use common::for_every_method;
use common::methods::start;
use common::processes::wait_until_asleep;
use common::race;
use common::{DEADLINE, failure, in_time};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use procpool::{
    Array, Atomic, Barrier, Condition, ErrorKind, Event, Lock, Process, RLock, Result, Semaphore,
    StartMethod, Value, wait_ready,
};
use std::{
    mem,
    sync::{LazyLock, atomic::Ordering::SeqCst},
    thread,
    time::Duration,
};

type Held = (Lock, RLock, Condition, Value<u64>, Array<u8>, Event);

fn hold_all((lock, rlock, condition, value, array, ready): Held) {
    let _lock = lock.acquire();
    let _rlock = (rlock.acquire(), rlock.acquire());
    let _condition = condition.lock();
    let mut value = value.lock().expect("no holder died");
    let mut array = array.lock().expect("no holder died");
    *value = 7;
    array[0] = 1;
    wait_to_be_killed(&ready);
}

fn held() -> Result<Held> {
    Ok((
        Lock::new()?,
        RLock::new()?,
        Condition::new()?,
        Value::new(0)?,
        Array::new(2)?,
        Event::new()?,
    ))
}

/// Kills a process, and waits until it is dead, but leaves its status to be taken.
fn kill<R: procpool::Wire>(process: &Process<R>) -> Result<()> {
    process.kill()?;
    assert_eq!(wait_ready(&[&process.sentinel()], Some(DEADLINE))?, [0]);
    Ok(())
}

fn wait_for_event((event, ready): (Event, Event)) {
    ready.set();
    event.wait().expect("an event");
}

fn wait_for_permit((semaphore, ready): (Semaphore, Event)) {
    ready.set();
    semaphore.acquire().expect("a permit");
    wait_to_be_killed(&ready);
}

fn wait_for_notification((condition, ready): (Condition, Event)) {
    let mut held = condition.lock().expect("no holder died");
    ready.set();
    held.wait().expect("a notification");
    wait_to_be_killed(&ready);
}

fn wait_at_barrier((barrier, ready): (Barrier, Event)) -> bool {
    ready.set();
    barrier.wait().is_ok()
}

fn wait_until_waiting(barrier: &Barrier, count: usize) {
    while barrier.waiting() != count {
        thread::yield_now();
    }
}

for_every_method! {
    fn the_next_taker_of_what_the_dead_held_is_told_once(method) {
        let held = held()?;
        let (lock, rlock, condition, value, array, ready) = &held;
        let process = start(method, hold_all, held.clone())?;
        ready.wait()?;
        // Not waited for to be dead, nor is its status taken.
        process.kill()?;
        assert_eq!(kind(|| lock.acquire(), Duration::ZERO), ErrorKind::OwnerDied);
        assert_eq!(kind(|| rlock.acquire_timeout(DEADLINE), Duration::ZERO), ErrorKind::OwnerDied);
        drop(condition.lock().or_else(|it| it.into_inner())?);
        let error = failure(value.lock());
        assert_eq!(error.to_string(), "the last holder of the Value died while it held it");
        let mut mended = error.into_inner()?;
        assert_eq!(*mended, 7);
        *mended = 8;
        drop(mended);
        assert_eq!(kind(|| array.get(0), Duration::ZERO), ErrorKind::OwnerDied);
        drop((lock.try_acquire()?, rlock.try_acquire()?, condition.lock()?));
        assert_eq!((value.get()?, array.to_vec()?), (8, vec![1, 0]));
        drop(process);
        Ok(())
    }

    fn one_who_waits_for_a_lock_gets_it_at_its_holders_death(method) {
        let held = held()?;
        let process = start(method, hold_all, held.clone())?;
        held.5.wait()?;
        let take = |(lock, ready): (Lock, Event)| {
            ready.set();
            lock.acquire().map(drop).map_err(|it| it.kind() == ErrorKind::OwnerDied)
        };
        let ready = Event::new()?;
        let waiter = start(method, take, (held.0.clone(), ready.clone()))?;
        ready.wait()?;
        kill(&process)?;
        assert_eq!(waiter.result()?, Err(true));
        held.0.try_acquire().map(drop)?;
        Ok(())
    }

    fn a_killed_waiter_takes_no_permit_with_it(method) {
        let (semaphore, ready) = (Semaphore::new(0)?, Event::new()?);
        let process = start(method, wait_for_permit, (semaphore.clone(), ready.clone()))?;
        ready.wait()?;
        wait_until_asleep(process.pid());
        kill(&process)?;
        semaphore.release()?;
        semaphore.acquire_timeout(DEADLINE)?;
        Ok(())
    }

    fn a_permit_that_the_dead_have_is_gone_until_somebody_releases_it(method) {
        let (semaphore, ready) = (Semaphore::new(1)?, Event::new()?);
        let take = |(semaphore, ready): (Semaphore, Event)| {
            semaphore.acquire().expect("a permit");
            wait_to_be_killed(&ready);
        };
        let process: Process<()> = start(method, take, (semaphore.clone(), ready.clone()))?;
        ready.wait()?;
        kill(&process)?;
        assert_eq!(kind(|| semaphore.acquire_timeout(SHORT), SHORT), ErrorKind::TimedOut);
        semaphore.release()?;
        semaphore.try_acquire()
    }

    fn an_event_wakes_the_living_beside_a_killed_waiter(method) {
        let (event, ready) = (Event::new()?, [Event::new()?, Event::new()?]);
        let wait = |ready: &Event| start(method, wait_for_event, (event.clone(), ready.clone()));
        let [dead, living] = ready.each_ref().map(wait);
        let (dead, living) = (dead?, living?);
        ready.iter().try_for_each(Event::wait)?;
        wait_until_asleep(dead.pid());
        wait_until_asleep(living.pid());
        kill(&dead)?;
        event.set();
        living.result()
    }

    fn a_killed_waiter_takes_no_notification_with_it(method) {
        let condition = Condition::new()?;
        let ready = [Event::new()?, Event::new()?];
        let wait = |ready: &Event| {
            start(method, wait_for_notification, (condition.clone(), ready.clone()))
        };
        let [dead, living] = ready.each_ref().map(wait);
        let (dead, living) = (dead?, living?);
        ready.iter().try_for_each(Event::wait)?;
        // Both wait, or are about to: the lock is free.
        drop(condition.lock()?);
        kill(&dead)?;
        ready[1].clear();
        // One notification for the dead, one for the living, in whatever order.
        condition.notify_one();
        condition.notify_one();
        ready[1].wait_timeout(DEADLINE)?;
        living.kill()
    }

    fn a_party_that_is_killed_while_it_waits_gives_its_place_back(method) {
        let (barrier, ready) = (Barrier::new(3)?, Event::new()?);
        let party = || start(method, wait_at_barrier, (barrier.clone(), ready.clone()));
        let (dead, living) = (party()?, party()?);
        wait_until_waiting(&barrier, 2);
        kill(&dead)?;
        assert_eq!((barrier.waiting(), barrier.is_broken()), (1, false));
        let replacement = party()?;
        wait_until_waiting(&barrier, 2);
        barrier.wait()?;
        assert!(living.result()? && replacement.result()?);
        Ok(())
    }

    fn a_party_that_never_comes_breaks_the_barrier_by_the_others_time(method) {
        let (barrier, ready) = (Barrier::new(2)?, Event::new()?);
        let die = |(_barrier, ready): (Barrier, Event)| wait_to_be_killed(&ready);
        let dead: Process<()> = start(method, die, (barrier.clone(), ready.clone()))?;
        ready.wait()?;
        kill(&dead)?;
        assert_eq!(kind(|| barrier.wait_timeout(SHORT), SHORT), ErrorKind::TimedOut);
        assert!(barrier.is_broken());
        barrier.reset()
    }

    fn deaths_at_any_moment_hang_nobody_and_lose_nothing(method) {
        type Job = (Lock, Value<[u64; 64]>, Condition, Semaphore, Atomic<u64>);
        let work = |(lock, value, condition, semaphore, steps): Job| -> () {
            loop {
                drop(lock.acquire().or_else(|it| it.into_inner()));
                let mut held = value.lock().or_else(|it| it.into_inner()).expect("the value");
                let next = held[0] + 1;
                held.fill(next);
                drop(held);
                let mut held = condition.lock().or_else(|it| it.into_inner()).expect("the lock");
                // Whatever comes first.
                let _ = held.wait_timeout(Duration::from_micros(50));
                drop(held);
                condition.notify_one();
                if semaphore.acquire_timeout(Duration::from_micros(50)).is_ok() {
                    semaphore.release().expect("room");
                }
                steps.fetch_add(1, SeqCst);
            }
        };
        let (lock, value, condition) = (Lock::new()?, Value::new([0; 64])?, Condition::new()?);
        let job: Job = (lock, value, condition, Semaphore::new(1000)?, Atomic::new(0)?);
        let mut kills = 0;
        let begin = || start(method, work, job.clone());
        let mut processes = vec![begin()?, begin()?];
        race(|| {
            let before = job.4.load(SeqCst);
            while job.4.load(SeqCst) < before + 2 + kills % 7 {
                thread::yield_now();
            }
            let process = processes.remove(0);
            process.kill().expect("it runs");
            drop(job.0.acquire_timeout(DEADLINE).or_else(|it| it.into_inner()).expect("the lock"));
            drop(job.2.lock().or_else(|it| it.into_inner()).expect("the lock"));
            kills += 1;
            processes.push(begin().expect("a process"));
        });
        processes.iter().try_for_each(Process::kill)?;
        drop(processes);
        let mut held = job.1.lock().or_else(|it| it.into_inner())?;
        // Each death leaves at most one value half changed, which the next change mends.
        let least = held.iter().min().expect("items");
        assert!(held.iter().all(|item| item - least <= 1));
        held.fill(0);
        assert!(kills > 0 && 1000 - job.3.value() <= kills as usize);
        Ok(())
    }
}

#[test]
fn a_thread_that_ends_with_a_lock_leaves_it_to_the_next_taker() -> Result<()> {
    in_time(|| {
        let (lock, rlock, condition) = (Lock::new()?, RLock::new()?, Condition::new()?);
        elsewhere(|| {
            mem::forget(lock.acquire());
            mem::forget(rlock.acquire());
            mem::forget(condition.lock());
        });
        assert_eq!(
            kind(|| lock.try_acquire(), Duration::ZERO),
            ErrorKind::OwnerDied
        );
        assert_eq!(
            kind(|| rlock.acquire(), Duration::ZERO),
            ErrorKind::OwnerDied
        );
        assert_eq!(
            kind(|| condition.lock(), Duration::ZERO),
            ErrorKind::OwnerDied
        );
        drop((lock.try_acquire()?, rlock.try_acquire()?, condition.lock()?));
        Ok(())
    })
}

#[test]
fn a_lock_that_is_dropped_with_a_forgotten_guard_leaves_the_thread_whole() -> Result<()> {
    in_time(|| {
        let other = Lock::new()?;
        for _ in 0..100 {
            let lock = Lock::new()?;
            mem::forget(lock.acquire());
            drop(lock);
            // Takes its place in the list before the one that was forgotten, and its memory, were
            // that free.
            drop((Value::new([1u64; 512])?, other.acquire()?));
        }
        Ok(())
    })
}

#[test]
fn a_value_whose_guard_was_forgotten_goes_on_when_the_handle_is_gone() -> Result<()> {
    in_time(|| {
        let value = Value::new(1)?;
        let ours = value.clone();
        let end = move || {
            mem::forget(ours.lock());
            drop(ours);
        };
        thread::spawn(end).join().expect("no panic");
        assert_eq!(kind(|| value.get(), Duration::ZERO), ErrorKind::OwnerDied);
        assert_eq!(value.get()?, 1);
        Ok(())
    })
}

/// What a leaked guard has lent is in use as long as anybody likes; it must not be lent again.
#[test]
fn a_value_whose_guard_is_leaked_with_its_thread_is_never_lent_again() -> Result<()> {
    static VALUE: LazyLock<Value<u64>> = LazyLock::new(|| Value::new(1).expect("a value"));
    in_time(|| {
        let (lend, lent) = std::sync::mpsc::channel::<&'static mut u64>();
        let leak = move || {
            let guard = Box::leak(Box::new(VALUE.lock().expect("no holder died")));
            lend.send(&mut **guard).expect("it is waited for");
        };
        thread::spawn(leak).join().expect("no panic");
        let lent = lent.recv().expect("it was sent");
        for _ in 0..2 {
            let error = failure(VALUE.lock());
            assert_eq!(error.kind(), ErrorKind::OwnerDied);
            assert!(error.into_inner().is_err());
        }
        // Nor to another process.
        let look = |it: Value<u64>| it.lock().is_err_and(|it| it.into_inner().is_err());
        assert!(Process::start(look, VALUE.clone())?.result()?);
        *lent += 1;
        Ok(())
    })
}

/// Runs something in a process that finds no room for another descriptor until it is done.
fn without_descriptors<T>(run: impl FnOnce() -> T) -> T {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).expect("a lower limit");
    let done = run();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("the limit from before");
    done
}

/// Leaks a guard in a thread that ends.
fn leak_and_stay((value, has_room, ready): (Value<u64>, bool, Event)) {
    let leak = || elsewhere(|| mem::forget(value.lock()));
    match has_room {
        true => leak(),
        false => without_descriptors(leak),
    }
    wait_to_be_killed(&ready);
}

/// A process without descriptors can find out neither its own identity nor whether another lives.
#[test]
fn a_leaked_value_is_not_lent_again_for_the_lack_of_descriptors() -> Result<()> {
    in_time(|| {
        for (leaker_has_room, taker_has_room) in [(true, false), (false, true)] {
            let (value, ready) = (Value::new(1)?, Event::new()?);
            let leaker = (value.clone(), leaker_has_room, ready.clone());
            let leaker = Process::builder(leak_and_stay, leaker)
                .daemon(true)
                .start()?;
            ready.wait_timeout(DEADLINE)?;
            let take = |(value, has_room): (Value<u64>, bool)| {
                let is_refused = || value.lock().is_err_and(|it| it.into_inner().is_err());
                match has_room {
                    true => is_refused(),
                    false => without_descriptors(is_refused),
                }
            };
            assert!(Process::start(take, (value, taker_has_room))?.result()?);
            leaker.kill()?;
        }
        Ok(())
    })
}

/// The value is refused, and lent to the next taker that has room to find out that the holder,
/// which is not reaped yet, has ended.
fn take_from_a_zombie() -> Result<()> {
    let held = held()?;
    let (value, ready) = (&held.3, &held.5);
    let process = start(StartMethod::Fork, hold_all, held.clone())?;
    ready.wait_timeout(DEADLINE)?;
    kill(&process)?;
    let error = failure(without_descriptors(|| value.lock()));
    assert_eq!(error.kind(), ErrorKind::Io);
    let error = failure(value.lock());
    assert_eq!(error.kind(), ErrorKind::OwnerDied);
    assert_eq!(*error.into_inner()?, 7);
    assert_eq!(value.get()?, 7);
    Ok(())
}

#[test]
fn a_dead_holders_value_outlasts_a_taker_without_descriptors() -> Result<()> {
    in_time(|| {
        let take = |()| take_from_a_zombie().map_err(|it| it.to_string());
        assert_eq!(Process::start(take, ())?.result()?, Ok(()));
        Ok(())
    })
}
