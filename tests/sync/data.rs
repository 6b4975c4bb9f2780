//! Values, arrays and atomics.

use crate::kind;
use common::for_every_method;
use common::in_time;
use common::methods::start;
use procpool::{Array, Atomic, AtomicInteger, ErrorKind, Pod, Result, Value};
use std::{fmt::Debug, sync::atomic::Ordering::SeqCst, time::Duration};

fn count(counter: Value<u64>) {
    (0..2000).for_each(|_| *counter.lock().expect("no holder died") += 1);
}

fn move_around(array: Array<i64>) {
    for round in 0..1000 {
        let mut held = array.lock().expect("no holder died");
        let (from, to) = (round % 10, (round + 3) % 10);
        held[from] -= 1;
        held[to] += 1;
    }
}

for_every_method! {
    fn no_increment_is_lost(method) {
        let counter = Value::new(0)?;
        let processes = [(); 2].map(|()| start(method, count, counter.clone()));
        count(counter.clone());
        for process in processes {
            process?.result()?;
        }
        assert_eq!(counter.get()?, 6000);
        Ok(())
    }

    fn an_array_is_seen_whole(method) {
        let array = Array::from_slice(&[100; 10])?;
        let process = start(method, move_around, array.clone())?;
        for _ in 0..1000 {
            assert_eq!(array.to_vec()?.iter().sum::<i64>(), 1000);
        }
        process.result()
    }

    fn a_child_changes_what_its_parent_sees(method) {
        let change = |(value, array): (Value<f64>, Array<i32>)| {
            value.set(2.5).expect("no holder died");
            array.lock().expect("no holder died").iter_mut().for_each(|it| *it = -*it);
        };
        let (value, array) = (Value::new(0.0)?, Array::from_slice(&[0, 1, 2, 3])?);
        start(method, change, (value.clone(), array.clone()))?.result()?;
        assert_eq!((value.get()?, array.to_vec()?), (2.5, vec![0, -1, -2, -3]));
        Ok(())
    }

    fn atomics_count_without_a_lock(method) {
        let add = |it: Atomic<u64>| {
            for _ in 0..10_000 {
                it.fetch_add(1, SeqCst);
            }
        };
        let hits = Atomic::new(0)?;
        let process = start(method, add, hits.clone())?;
        add(hits.clone());
        process.result()?;
        assert_eq!(hits.load(SeqCst), 20_000);
        Ok(())
    }
}

#[test]
fn what_is_not_in_an_array_cannot_be_had() -> Result<()> {
    in_time(|| {
        let array = Array::<u16>::new(3)?;
        assert_eq!((array.len(), array.to_vec()?), (3, vec![0; 3]));
        for outside in [3, usize::MAX] {
            assert_eq!(
                kind(|| array.get(outside), Duration::ZERO),
                ErrorKind::InvalidInput
            );
            assert_eq!(
                kind(|| array.set(outside, 1), Duration::ZERO),
                ErrorKind::InvalidInput
            );
        }
        for too_many in [usize::MAX, usize::MAX / 2] {
            assert_eq!(
                kind(|| Array::<u64>::new(too_many), Duration::ZERO),
                ErrorKind::InvalidInput
            );
        }
        assert!(Array::<u8>::new(1 << 60).is_err());
        Ok(())
    })
}

#[test]
fn any_plain_data_can_be_shared() -> Result<()> {
    fn goes_in_and_out<T: Pod + Debug + PartialEq>(items: &[T]) -> Result<()> {
        let array = Array::from_slice(items)?;
        assert_eq!(array.to_vec()?, items);
        assert!(array.lock()?.as_ptr().is_aligned());
        for item in items {
            assert_eq!(Value::new(*item)?.get()?, *item);
        }
        Ok(())
    }
    in_time(|| {
        goes_in_and_out::<u8>(&[1, 2, 3])?;
        goes_in_and_out::<u64>(&[])?;
        goes_in_and_out::<u128>(&[1 << 100, 7])?;
        goes_in_and_out::<[f32; 5]>(&[[0.5; 5]; 3])?;
        goes_in_and_out::<()>(&[(); 1000])?;
        assert!(Array::<f64>::new(0)?.is_empty());
        goes_in_and_out(&vec![[7u8; 4096]; 1000])
    })
}

#[test]
fn a_thread_that_holds_a_value_is_told_when_it_asks_for_it_again() -> Result<()> {
    in_time(|| {
        let value = Value::new(1)?;
        let held = value.lock()?;
        assert_eq!(
            kind(|| value.get(), Duration::ZERO),
            ErrorKind::InvalidInput
        );
        assert_eq!(
            kind(|| value.clone().set(2), Duration::ZERO),
            ErrorKind::InvalidInput
        );
        drop(held);
        value.get().map(drop)
    })
}

#[test]
fn every_operation_of_an_atomic_does_what_the_standard_librarys_does() -> Result<()> {
    fn integer<T: AtomicInteger + PartialEq>([zero, one, two, three]: [T; 4]) -> Result<()> {
        let it = Atomic::new(one)?;
        assert_eq!([it.fetch_add(two, SeqCst), it.load(SeqCst)], [one, three]);
        assert_eq!(
            [it.fetch_sub(one, SeqCst), it.swap(three, SeqCst)],
            [three, two]
        );
        assert_eq!(
            [it.fetch_and(two, SeqCst), it.fetch_or(one, SeqCst)],
            [three, two]
        );
        assert_eq!(
            [it.fetch_xor(one, SeqCst), it.fetch_max(one, SeqCst)],
            [three, two]
        );
        assert_eq!([it.fetch_min(one, SeqCst), it.load(SeqCst)], [two, one]);
        assert_eq!(it.compare_exchange(zero, two, SeqCst, SeqCst), Err(one));
        assert_eq!(it.compare_exchange(one, two, SeqCst, SeqCst), Ok(one));
        assert_eq!(it.fetch_update(SeqCst, SeqCst, |_| None), Err(two));
        assert_eq!(it.fetch_update(SeqCst, SeqCst, |_| Some(three)), Ok(two));
        it.store(zero, SeqCst);
        assert_eq!(it.clone().load(SeqCst), zero);
        Ok(())
    }
    in_time(|| {
        integer::<u8>([0, 1, 2, 3])?;
        integer::<u16>([0, 1, 2, 3])?;
        integer::<u32>([0, 1, 2, 3])?;
        integer::<u64>([0, 1, 2, 3])?;
        integer::<usize>([0, 1, 2, 3])?;
        integer::<i8>([0, 1, 2, 3])?;
        integer::<i16>([0, 1, 2, 3])?;
        integer::<i32>([0, 1, 2, 3])?;
        integer::<i64>([0, 1, 2, 3])?;
        integer::<isize>([0, 1, 2, 3])?;
        let flag = Atomic::new(false)?;
        assert!(!flag.fetch_or(true, SeqCst) && flag.fetch_and(false, SeqCst));
        assert!(!flag.fetch_xor(true, SeqCst) && flag.swap(true, SeqCst));
        assert_eq!(flag.compare_exchange(true, false, SeqCst, SeqCst), Ok(true));
        Ok(())
    })
}
