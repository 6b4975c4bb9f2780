//! Semaphores: permits that are counted across processes.

use crate::{SHORT, kind};
use common::for_every_method;
use common::in_time;
use common::methods::start;
use procpool::{Atomic, BoundedSemaphore, ErrorKind, Result, Semaphore};
use std::{sync::atomic::Ordering::SeqCst, time::Duration};

/// How many are inside at most.
fn pass((semaphore, inside, most): (Semaphore, Atomic<usize>, Atomic<usize>)) {
    for _ in 0..1000 {
        semaphore.acquire().expect("a permit");
        most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
        inside.fetch_sub(1, SeqCst);
        semaphore.release().expect("room");
    }
}

for_every_method! {
    fn no_more_are_inside_than_there_are_permits(method) {
        let job = (Semaphore::new(2)?, Atomic::new(0)?, Atomic::new(0)?);
        let processes = [(); 3].map(|()| start(method, pass, job.clone()));
        pass(job.clone());
        for process in processes {
            process?.result()?;
        }
        assert!(job.2.load(SeqCst) <= 2);
        assert_eq!(job.0.value(), 2);
        Ok(())
    }

    fn a_release_wakes_one_who_waits(method) {
        let (semaphore, done) = (Semaphore::new(0)?, Semaphore::new(0)?);
        let take = |(semaphore, done): (Semaphore, Semaphore)| {
            semaphore.acquire().and_then(|()| done.release()).is_ok()
        };
        let processes = [(); 3].map(|()| start(method, take, (semaphore.clone(), done.clone())));
        for _ in 0..3 {
            semaphore.release()?;
            done.acquire()?;
        }
        for process in processes {
            assert!(process?.result()?);
        }
        assert_eq!((semaphore.value(), done.value()), (0, 0));
        Ok(())
    }
}

#[test]
fn a_permit_that_is_not_there_is_not_had_in_time() -> Result<()> {
    in_time(|| {
        let semaphore = Semaphore::new(1)?;
        semaphore.acquire_timeout(Duration::MAX)?;
        assert_eq!(
            kind(|| semaphore.try_acquire(), Duration::ZERO),
            ErrorKind::WouldBlock
        );
        assert_eq!(
            kind(|| semaphore.acquire_timeout(SHORT), SHORT),
            ErrorKind::TimedOut
        );
        semaphore.release()?;
        semaphore.release()?;
        assert_eq!(semaphore.value(), 2);
        Ok(())
    })
}

#[test]
fn only_so_many_permits_can_be_released() -> Result<()> {
    in_time(|| {
        let bounded = BoundedSemaphore::new(2)?;
        assert_eq!(
            kind(|| bounded.release(), Duration::ZERO),
            ErrorKind::InvalidInput
        );
        bounded.acquire()?;
        bounded.try_acquire()?;
        assert_eq!(
            kind(|| bounded.acquire_timeout(SHORT), SHORT),
            ErrorKind::TimedOut
        );
        bounded.release()?;
        bounded.release()?;
        assert_eq!(
            kind(|| bounded.release(), Duration::ZERO),
            ErrorKind::InvalidInput
        );
        assert_eq!(bounded.value(), 2);
        let full = Semaphore::new(usize::MAX)?;
        assert_eq!(
            kind(|| full.release(), Duration::ZERO),
            ErrorKind::InvalidInput
        );
        assert_eq!(full.value(), usize::MAX);
        Ok(())
    })
}
