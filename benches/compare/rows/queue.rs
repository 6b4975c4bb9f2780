//! Items from this process to another through a queue: small ones against a bare ring in shared memory, one by one and many
//! at once, and megabytes against plain copies.

use std::hint::black_box;

use procpool::{Process, Queue, Wire};

use crate::Result;
use crate::bare_ring::{Ring, RingEnd, ring};
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
    let [each, many, ring] = plan.interleave(9, [&mut each, &mut many, &mut ring])?;
    let mut megabytes = through_queue(Queue::bounded(4)?, large, put_megabytes, get_each)?;
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

/// The queue, where to say that all items of a round have come, and how many those are.
type Consumer<T> = (Queue<T>, Queue<()>, usize);

/// Items a second, from here to a process that says when it has them all.
fn through_queue<T: Wire + 'static>(
    queue: Queue<T>,
    count: usize,
    put: fn(&Queue<T>, usize) -> procpool::Result<()>,
    get: fn(Consumer<T>),
) -> Result<impl FnMut() -> Result<f64>> {
    let ends = Queue::unbounded()?;
    let consumer = (queue.clone(), ends.clone(), count);
    let process = Process::builder(get, consumer).daemon(true).start()?;
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

fn get_each<T: Wire>((queue, ends, count): Consumer<T>) {
    loop {
        for _ in 0..count {
            black_box(queue.get().expect("it is open"));
        }
        ends.put(&()).expect("it is open");
    }
}

fn get_many((queue, ends, count): Consumer<u64>) {
    loop {
        let mut left = count;
        while left > 0 {
            left -= black_box(queue.get_many(left.min(MANY)).expect("it is open")).len();
        }
        ends.put(&()).expect("it is open");
    }
}

fn through_ring(count: usize) -> Result<impl FnMut() -> Result<f64>> {
    let (ring, ends) = (ring()?, Queue::unbounded()?);
    let consumer = (ring.clone(), ends.clone(), count);
    let mut ring = RingEnd::new(ring);
    let process = Process::builder(drain, consumer).daemon(true).start()?;
    Ok(move || {
        let (seconds, ()) = timed(|| {
            (0..count as u64).for_each(|n| ring.put(n));
            Ok(ends.get()?)
        })?;
        black_box(&process);
        Ok(count as f64 / seconds)
    })
}

fn drain((ring, ends, count): (Ring, Queue<()>, usize)) {
    let mut ring = RingEnd::new(ring);
    loop {
        for _ in 0..count {
            black_box(ring.get());
        }
        ends.put(&()).expect("it is open");
    }
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
