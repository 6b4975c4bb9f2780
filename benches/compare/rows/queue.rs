//! Items from this process to another through a queue: small ones against a bare ring in shared
//! memory, one by one and many at once, and megabytes against plain copies.

use std::hint::black_box;

use procpool::{Process, Queue, Wire};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::bare_ring::{Ring, RingEnd, ring};
use crate::machine::{Pinned, two_cores};
use crate::plan::Plan;
use crate::report::{Bar, Report, Row, Unit};
use crate::samples::timed;

pub(crate) const NAMES: [&str; 3] = [
    "queue: u64, bare ring",
    "queue: u64 in hundreds, bare ring",
    "queue: 1 MiB, memcpy",
];

/// In one `put_many`.
const MANY: usize = 100;

const LARGE: usize = 1 << 20;

pub(crate) fn run(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let (small, large) = (plan.size(1_000_000, 1000), plan.size(200, 4));
    let mut each = through_queue(Queue::unbounded()?, small, put_each, get_each)?;
    let mut many = through_queue(Queue::unbounded()?, small, put_many, get_many)?;
    let mut ring = through_ring(small)?;
    let mut megabytes = through_queue(Queue::bounded(4)?, large, put_megabytes, get_each)?;
    // On one core both would work in long turns, which says nothing about what an item costs to
    // move.
    let _pinned = Pinned::to(two_cores()?.0)?;
    let [each, many, ring] = plan.interleave(9, [&mut each, &mut many, &mut ring])?;
    let [megabytes, copies] = plan.interleave(9, [&mut megabytes, &mut copies(large)])?;
    let (ring, copies) = (("bare ring", &ring), ("2 memcpys", &copies));
    for (name, ours, theirs, bar) in [
        (NAMES[0], &each, ring, Bar::RatioAtLeast(0.3)),
        (NAMES[1], &many, ring, Bar::None),
        (NAMES[2], &megabytes, copies, Bar::RatioAtLeast(0.4)),
    ] {
        report.row(&Row {
            name,
            unit: Unit::PerSecond,
            ours,
            theirs: Some(theirs),
            bar,
        });
    }
    Ok(())
}

/// What a consuming process has to do.
#[derive(Serialize, Deserialize)]
struct Rounds {
    /// Items of one.
    count: usize,
    /// Where to say that all of them have come.
    ends: Queue<()>,
    /// Where to work.
    core: usize,
}

impl Rounds {
    fn new(count: usize) -> Result<Self> {
        Ok(Self {
            count,
            ends: Queue::unbounded()?,
            core: two_cores()?.1,
        })
    }

    fn run(self, mut take: impl FnMut(usize) -> usize) {
        let _pinned = Pinned::to(self.core).expect("a core of this program");
        loop {
            let mut left = self.count;
            while left > 0 {
                left -= take(left);
            }
            self.ends.put(&()).expect("it is open");
        }
    }
}

/// Items a second, from here to a process that says when it has them all.
fn through_queue<T: Wire + 'static>(
    queue: Queue<T>,
    count: usize,
    put: fn(&Queue<T>, usize) -> procpool::Result<()>,
    get: fn((Queue<T>, Rounds)),
) -> Result<impl FnMut() -> Result<f64>> {
    let rounds = Rounds::new(count)?;
    let ends = rounds.ends.clone();
    let process = Process::builder(get, (queue.clone(), rounds))
        .daemon(true)
        .start()?;
    Ok(move || {
        let (seconds, ()) = timed(|| {
            put(&queue, count)?;
            Ok(ends.get()?)
        })?;
        // Until it is dropped, the other process waits for more.
        black_box(&process);
        Ok(count as f64 / seconds)
    })
}

fn put_each(queue: &Queue<u64>, count: usize) -> procpool::Result<()> {
    (0..count as u64).try_for_each(|n| queue.put(&n))
}

fn put_many(queue: &Queue<u64>, count: usize) -> procpool::Result<()> {
    let items = [7; MANY];
    (0..count / MANY).try_for_each(|_| queue.put_many(&items))
}

fn put_megabytes(queue: &Queue<Vec<u8>>, count: usize) -> procpool::Result<()> {
    let item = vec![7; LARGE];
    (0..count).try_for_each(|_| queue.put(&item))
}

fn get_each<T: Wire>((queue, rounds): (Queue<T>, Rounds)) {
    rounds.run(|_| {
        black_box(queue.get().expect("it is open"));
        1
    });
}

fn get_many((queue, rounds): (Queue<u64>, Rounds)) {
    rounds.run(|left| black_box(queue.get_many(left.min(MANY)).expect("it is open")).len());
}

fn through_ring(count: usize) -> Result<impl FnMut() -> Result<f64>> {
    let (ring, rounds) = (ring()?, Rounds::new(count)?);
    let ends = rounds.ends.clone();
    let process = Process::builder(drain, (ring.clone(), rounds))
        .daemon(true)
        .start()?;
    let mut ring = RingEnd::new(ring);
    Ok(move || {
        let (seconds, ()) = timed(|| {
            (0..count as u64).for_each(|n| ring.put(n));
            Ok(ends.get()?)
        })?;
        black_box(&process);
        Ok(count as f64 / seconds)
    })
}

fn drain((ring, rounds): (Ring, Rounds)) {
    let mut ring = RingEnd::new(ring);
    rounds.run(|_| {
        black_box(ring.get());
        1
    });
}

/// Into shared memory and out of it: two copies between warm buffers.
fn copies(count: usize) -> impl FnMut() -> Result<f64> {
    let (mut here, mut there) = (vec![7_u8; LARGE], vec![8_u8; LARGE]);
    move || {
        let (seconds, ()) = timed(|| {
            for _ in 0..count {
                there.copy_from_slice(black_box(&here));
                here.copy_from_slice(black_box(&there));
            }
            Ok(())
        })?;
        Ok(count as f64 / seconds)
    }
}
