//! Clients that are killed at any moment, in the middle of whatever they do, again and again.

use common::{in_time, race};
use procpool::{
    JoinableQueueProxy, ListProxy, LockProxy, Manager, Process, Proxy, ProxyGuard, QueueProxy,
    Result, ValueProxy, Wire,
};
use std::{collections::HashMap, thread, time::Duration};

/// Lets some time pass, another each time.
fn let_it_work() {
    let micros = getrandom::u32().expect("a random number") % 5000;
    let end = std::time::Instant::now() + Duration::from_micros(micros.into());
    while std::time::Instant::now() < end {
        thread::yield_now();
    }
}

/// Starts processes of a kind, and kills one after the other.
fn start_and_kill<A: Wire + Clone>(f: fn(A), arg: &A, count: usize) -> Result<()> {
    let all = (0..count).map(|_| Process::start(f, arg.clone()));
    for process in all.collect::<Result<Vec<_>>>()? {
        let_it_work();
        process.kill()?;
        process.join()?;
    }
    Ok(())
}

#[test]
fn killed_putters_leave_the_first_of_their_items_and_no_gap() -> Result<()> {
    fn put((queue, _): (QueueProxy<(u32, u64)>, u32)) {
        let own = std::process::id();
        let mut next = 0;
        while next < u64::MAX {
            let items: Vec<_> = (next..next + 30).map(|it| (own, it)).collect();
            next += 30;
            if queue.put_many(&items).is_err() {
                return;
            }
        }
    }
    in_time(|| {
        let manager = Manager::start()?;
        race(|| {
            let queue = manager.queue(20).expect("a queue");
            let others = queue.clone();
            let consumer = thread::spawn(move || {
                let mut next: HashMap<u32, u64> = HashMap::new();
                while let Ok(items) = others.get_many(50) {
                    for (putter, number) in items {
                        let expected = next.entry(putter).or_default();
                        assert_eq!(*expected, number, "of {putter}");
                        *expected += 1;
                    }
                }
            });
            start_and_kill(put, &(queue.clone(), 0), 3).expect("processes");
            queue.put(&(0, 0)).expect("room");
            queue.close().expect("a server");
            consumer.join().expect("nothing is missing");
        });
        Ok(())
    })
}

#[test]
fn killed_getters_take_what_they_had_in_hand_and_nothing_twice() -> Result<()> {
    type Both = (JoinableQueueProxy<u64>, ListProxy<u64>);
    const ITEMS: u64 = 300;
    const BATCH: usize = 5;
    fn get((queue, taken): Both) {
        while let Ok(items) = queue.get_many(BATCH) {
            if taken.extend(items).is_err() {
                return;
            }
        }
    }
    in_time(|| {
        let manager = Manager::start()?;
        race(|| {
            let both: Both = (
                manager.joinable_queue(1000).expect("a queue"),
                manager.list().expect("a list"),
            );
            let items: Vec<u64> = (0..ITEMS).collect();
            both.0.put_many(&items).expect("room");
            start_and_kill(get, &both, 3).expect("processes");
            let (queue, taken) = both;
            queue.close().expect("a server");
            let mut all = taken.to_vec().expect("a list");
            while let Ok(left) = queue.get_many(usize::MAX) {
                all.extend(left);
            }
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), count, "none is there twice");
            // Each had a batch, and the server may have sent it another before it heard of its
            // death.
            assert!(count + 3 * 2 * BATCH >= ITEMS as usize, "{count}");
        });
        Ok(())
    })
}

#[test]
fn proxies_that_killed_processes_have_claimed_or_sent_lose_no_object() -> Result<()> {
    fn pass_around(shelf: ListProxy<Proxy<u64>>) {
        while let Ok(all) = shelf.to_vec() {
            if shelf.splice(..20, all[..20].to_vec()).is_err() {
                return;
            }
        }
    }
    in_time(|| {
        let manager = Manager::start()?;
        let shelf = manager.list::<Proxy<u64>>()?;
        for number in 0..100 {
            shelf.push(manager.object(number)?)?;
        }
        race(|| {
            start_and_kill(pass_around, &shelf, 2).expect("processes");
            let all = shelf.to_vec().expect("a list");
            for (index, number) in all.iter().enumerate() {
                assert_eq!(number.get().ok(), Some(index as u64));
            }
        });
        Ok(())
    })
}

#[test]
fn a_lock_outlives_all_its_killed_holders_and_what_it_guards_is_whole() -> Result<()> {
    type Guarded = (LockProxy, ValueProxy<(u64, u64)>);
    /// Takes the lock, and mends what a dead holder has left.
    fn take((lock, value): &Guarded) -> Result<ProxyGuard<'_>> {
        let (guard, was_told) = match lock.acquire() {
            Ok(guard) => (guard, false),
            Err(error) => (error.into_inner()?, true),
        };
        let (a, b) = value.get()?;
        if was_told {
            value.set((a, a))?;
        } else {
            assert_eq!(
                a, b,
                "a dead holder has left half of a step without a notice"
            );
        }
        Ok(guard)
    }
    fn count(guarded: Guarded) {
        let step = || -> Result<()> {
            let _guard = take(&guarded)?;
            let (a, b) = guarded.1.get()?;
            guarded.1.set((a + 1, b))?;
            guarded.1.set((a + 1, b + 1))
        };
        while step().is_ok() {}
    }
    in_time(|| {
        let manager = Manager::start()?;
        let guarded: Guarded = (manager.lock()?, manager.value((0, 0))?);
        race(|| {
            start_and_kill(count, &guarded, 3).expect("processes");
            drop(take(&guarded).expect("a lock"));
        });
        Ok(())
    })
}
