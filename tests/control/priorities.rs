//! What is more urgent starts first.

use common::{Gate, in_time, pass, pool_of, square};
use procpool::{Result, TaskFuture, as_completed, current_worker};

/// A task: how many this worker has done before.
fn place((): ()) -> u64 {
    current_worker().map_or(0, |it| it.tasks_done)
}

#[test]
fn tasks_start_in_the_order_of_their_priorities_and_equals_as_they_came() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let held = pool.submit(pass, gate.path());
        gate.wait_for(1);
        let priorities = [0, 3, -2, 0, 3, i32::MIN, i32::MAX];
        let submit = |it| pool.options().priority(it).submit(place, ());
        let futures: Vec<TaskFuture<u64>> = priorities.into_iter().map(submit).collect();
        gate.open();
        held.result()?;
        let places: Result<Vec<u64>> = futures.into_iter().map(TaskFuture::result).collect();
        assert_eq!(places?, [4, 2, 6, 5, 3, 7, 1]);
        Ok(())
    })
}

#[test]
fn an_urgent_task_overtakes_what_was_sent_ahead_and_the_rest_of_a_chunk() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let chunk = pool.options().chunk_size(8);
        let slow = chunk.map_async(pass, (0..8).map(|_| gate.path()));
        gate.wait_for(1);
        let urgent = pool.options().priority(1).submit(place, ());
        gate.open();
        // One item of the chunk had started.
        assert_eq!(urgent.result()?, 1);
        assert_eq!(slow.result()?.len(), 8);
        Ok(())
    })
}

#[test]
fn every_task_of_whatever_priority_ends_once() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let futures = (0..2000).map(|it| {
            let priority = (it as i32 * 7919) % 5;
            pool.options().priority(priority).submit(square, it)
        });
        let futures: Vec<TaskFuture<u64>> = futures.collect();
        let maps: Vec<_> = (-2..3)
            .map(|it| pool.options().priority(it).map_async(square, 0..500))
            .collect();
        let mut done = vec![0; futures.len()];
        for (index, square) in as_completed(futures) {
            assert_eq!(square?, (index * index) as u64);
            done[index] += 1;
        }
        assert!(done.into_iter().all(|it| it == 1));
        for map in maps {
            assert_eq!(map.result()?.len(), 500);
        }
        assert_eq!(pool.stats().done, 4500);
        Ok(())
    })
}

#[test]
fn an_urgent_task_can_be_cancelled_where_it_waits() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let gate = Gate::new();
        let held = pool.submit(pass, gate.path());
        gate.wait_for(1);
        let plain = pool.submit(square, 2);
        let urgent = pool.options().priority(9).submit(square, 3);
        assert!(urgent.cancel() && urgent.is_cancelled());
        gate.open();
        held.result()?;
        assert_eq!(plain.result()?, 4);
        Ok(())
    })
}
