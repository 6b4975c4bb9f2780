//! Barriers: rounds that are complete, broken, reset.

use crate::{SHORT, kind};
use common::for_every_method;
use common::in_time;
use common::methods::start;
use procpool::{Atomic, Barrier, ErrorKind, Result};
use std::{sync::atomic::Ordering::SeqCst, thread, time::Duration};

/// Goes through phases. Returns false if another party was late or early.
fn phases((barrier, steps): (Barrier, Atomic<usize>)) -> bool {
    (0..100).all(|phase| {
        steps.fetch_add(1, SeqCst);
        let first = barrier.wait().is_ok();
        let all_here = steps.load(SeqCst) == (phase + 1) * barrier.parties();
        first && barrier.wait().is_ok() && all_here
    })
}

for_every_method! {
    fn nobody_is_in_the_next_phase_before_all_are_there(method) {
        let job = (Barrier::new(3)?, Atomic::new(0)?);
        let processes = [(); 2].map(|()| start(method, phases, job.clone()));
        assert!(phases(job.clone()));
        for process in processes {
            assert!(process?.result()?);
        }
        assert_eq!(job.0.waiting(), 0);
        Ok(())
    }
}

fn wait_until_waiting(barrier: &Barrier, count: usize) {
    while barrier.waiting() < count {
        thread::yield_now();
    }
}

#[test]
fn each_party_has_a_number_of_its_own_and_one_leads() -> Result<()> {
    in_time(|| {
        let barrier = Barrier::new(4)?;
        for _ in 0..50 {
            let mut turns = thread::scope(|it| {
                let parties = [(); 4].map(|()| it.spawn(|| barrier.wait().expect("a round")));
                parties.map(|it| it.join().expect("no panic"))
            });
            assert_eq!(turns.iter().filter(|it| it.is_leader()).count(), 1);
            turns.sort_by_key(procpool::BarrierWaitResult::index);
            assert_eq!(turns.map(|it| it.index()), [0, 1, 2, 3]);
        }
        Ok(())
    })
}

#[test]
fn more_threads_than_parties_pass_in_rounds() -> Result<()> {
    in_time(|| {
        let (barrier, turns) = (Barrier::new(2)?, Atomic::new(0u32)?);
        let pass = || {
            while barrier.wait().is_ok() {
                // Ends after enough rounds: no party may wait for one that does not come.
                if turns.fetch_add(1, SeqCst) == 1000 {
                    barrier.abort().expect("a barrier");
                }
            }
        };
        thread::scope(|it| (0..6).for_each(|_| drop(it.spawn(pass))));
        assert!(turns.load(SeqCst) > 1000);
        Ok(())
    })
}

#[test]
fn a_barrier_for_one_never_waits_and_one_for_none_cannot_be() -> Result<()> {
    in_time(|| {
        let barrier = Barrier::new(1)?;
        for _ in 0..100 {
            assert!(barrier.wait()?.is_leader());
        }
        // The places of the second would fill 128 GiB.
        for parties in [0, 1 << 30, usize::MAX] {
            let refused = kind(|| Barrier::new(parties), Duration::ZERO);
            assert_eq!(refused, ErrorKind::InvalidInput);
        }
        Ok(())
    })
}

#[test]
fn a_party_whose_time_is_up_breaks_the_barrier_for_all() -> Result<()> {
    in_time(|| {
        let barrier = Barrier::new(3)?;
        thread::scope(|it| {
            let other = it.spawn(|| barrier.wait());
            wait_until_waiting(&barrier, 1);
            assert_eq!(
                kind(|| barrier.wait_timeout(SHORT), SHORT),
                ErrorKind::TimedOut
            );
            let other = other.join().expect("no panic");
            assert_eq!(kind(|| other, Duration::ZERO), ErrorKind::BrokenBarrier);
        });
        assert!(barrier.is_broken());
        assert_eq!(
            kind(|| barrier.wait(), Duration::ZERO),
            ErrorKind::BrokenBarrier
        );
        barrier.reset()?;
        assert!(!barrier.is_broken());
        thread::scope(|it| {
            let parties = [(); 3].map(|()| it.spawn(|| barrier.wait().is_ok()));
            assert!(parties.into_iter().all(|it| it.join().expect("no panic")));
        });
        Ok(())
    })
}

#[test]
fn a_reset_and_an_abort_send_those_who_wait_away() -> Result<()> {
    in_time(|| {
        let barrier = Barrier::new(2)?;
        for abort in [false, true] {
            thread::scope(|it| {
                let other = it.spawn(|| barrier.wait());
                wait_until_waiting(&barrier, 1);
                let done = if abort {
                    barrier.abort()
                } else {
                    barrier.reset()
                };
                assert!(done.is_ok());
                let other = other.join().expect("no panic");
                assert_eq!(kind(|| other, Duration::ZERO), ErrorKind::BrokenBarrier);
            });
            assert_eq!((barrier.is_broken(), barrier.waiting()), (abort, 0));
        }
        barrier.reset()
    })
}
