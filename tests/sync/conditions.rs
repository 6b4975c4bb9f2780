//! Conditions: each notification reaches one waiter, once.

use crate::{SHORT, kind};
use common::in_time;
use common::methods::start;
use common::{A_MOMENT, for_every_method};
use procpool::{Atomic, Condition, ErrorKind, Result};
use std::{sync::atomic::Ordering::SeqCst, thread, time::Duration};

type Baton = (Condition, Atomic<u32>);

/// Takes turns: adds one if the number is even, or odd.
fn pass_on((baton, parity): (Baton, u32)) {
    let (condition, turn) = baton;
    for _ in 0..500 {
        let mut held = condition.lock().expect("no holder died");
        held.wait_while(|| turn.load(SeqCst) % 2 != parity)
            .expect("no holder died");
        turn.fetch_add(1, SeqCst);
        condition.notify_all();
    }
}

fn take((condition, items): Baton) {
    let mut held = condition.lock().expect("no holder died");
    held.wait_while(|| items.load(SeqCst) == 0)
        .expect("no holder died");
    items.fetch_sub(1, SeqCst);
}

for_every_method! {
    fn two_processes_hand_a_baton_to_each_other(method) {
        let baton = (Condition::new()?, Atomic::new(0)?);
        let process = start(method, pass_on, (baton.clone(), 1))?;
        pass_on((baton.clone(), 0));
        process.result()?;
        assert_eq!(baton.1.load(SeqCst), 1000);
        Ok(())
    }

    fn each_item_wakes_one_who_wants_one(method) {
        let baton = (Condition::new()?, Atomic::new(0)?);
        let processes = [(); 3].map(|()| start(method, take, baton.clone()));
        for number in 0..3 {
            let held = baton.0.lock()?;
            baton.1.fetch_add(1, SeqCst);
            // With the lock held, and without.
            if number == 1 {
                baton.0.notify_one();
                drop(held);
            } else {
                drop(held);
                baton.0.notify_one();
            }
        }
        for process in processes {
            process?.result()?;
        }
        assert_eq!(baton.1.load(SeqCst), 0);
        Ok(())
    }
}

/// Waits until `count` threads wait: they have released the lock.
fn when_waiting(condition: &Condition, entered: &Atomic<usize>, count: usize) {
    while entered.load(SeqCst) < count {
        thread::yield_now();
    }
    // Each holds the lock from its entry until it waits.
    drop(condition.lock());
}

#[test]
fn as_many_go_on_as_were_notified() -> Result<()> {
    in_time(|| {
        let condition = Condition::new()?;
        let (entered, woken) = (Atomic::new(0usize)?, Atomic::new(0usize)?);
        let wait = || {
            let mut held = condition.lock().expect("no holder died");
            entered.fetch_add(1, SeqCst);
            held.wait().expect("a notification");
            woken.fetch_add(1, SeqCst);
        };
        thread::scope(|it| {
            (0..5).for_each(|_| drop(it.spawn(wait)));
            when_waiting(&condition, &entered, 5);
            condition.notify_one();
            condition.notify_one();
            while woken.load(SeqCst) < 2 {
                thread::yield_now();
            }
            // A third waiter that was woken by mistake would show itself now.
            thread::sleep(A_MOMENT);
            assert_eq!(woken.load(SeqCst), 2);
            condition.notify_all();
        });
        assert_eq!(woken.load(SeqCst), 5);
        Ok(())
    })
}

#[test]
fn a_notification_is_for_those_who_wait_then() -> Result<()> {
    in_time(|| {
        let condition = Condition::new()?;
        condition.notify_one();
        condition.notify_all();
        let mut held = condition.lock()?;
        assert_eq!(
            kind(|| held.wait_timeout(SHORT), SHORT),
            ErrorKind::TimedOut
        );
        Ok(())
    })
}

#[test]
fn the_lock_is_held_again_after_any_wait() -> Result<()> {
    in_time(|| {
        let (condition, inside) = (Condition::new()?, Atomic::new(0)?);
        thread::scope(|it| {
            for _ in 0..3 {
                it.spawn(|| {
                    for round in 0..200u64 {
                        let mut held = condition.lock().expect("no holder died");
                        // It may be notified or not.
                        let _ = held.wait_timeout(Duration::from_micros(10 * (round % 20)));
                        assert_eq!(inside.fetch_add(1, SeqCst), 0);
                        thread::yield_now();
                        inside.fetch_sub(1, SeqCst);
                        condition.notify_one();
                    }
                });
            }
        });
        Ok(())
    })
}

#[test]
fn a_wait_for_what_is_so_already_does_not_wait() -> Result<()> {
    in_time(|| {
        let condition = Condition::new()?;
        let mut held = condition.lock()?;
        held.wait_while(|| false)?;
        held.wait_while_timeout(Duration::ZERO, || false)?;
        assert_eq!(
            kind(|| held.wait_while_timeout(SHORT, || true), SHORT),
            ErrorKind::TimedOut
        );
        let mut asked = 0;
        held.wait_while_timeout(SHORT, || {
            asked += 1;
            asked < 2
        })?;
        assert_eq!(
            kind(|| condition.lock(), Duration::ZERO),
            ErrorKind::InvalidInput
        );
        Ok(())
    })
}
