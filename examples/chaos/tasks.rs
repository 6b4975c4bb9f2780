//! The tasks, and the marks that they leave when they start.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use procpool::{SharedMemory, current_worker};

use crate::ROUND;

pub(crate) const RETRIES: u32 = 2;
pub(crate) const LARGE: usize = 100 << 10;

static MARKS: OnceLock<SharedMemory> = OnceLock::new();

/// The initializer of the workers.
pub(crate) fn remember(marks: SharedMemory) -> Result<(), &'static str> {
    MARKS.set(marks).map_err(|_| "initialized twice")
}

/// Counts a start of task `n`. Each place in the pool has its own counters, and one worker at a
/// time, so there is one writer.
fn mark(n: u64) {
    let worker = current_worker().expect("a task runs in a worker").id;
    let marks = MARKS.get().expect("the initializer has run");
    let mut starts = [0];
    let counted = marks.read_at(place(worker, n), &mut starts).and_then(|()| {
        starts[0] += 1;
        marks.write_at(place(worker, n), &starts)
    });
    counted.expect("there is a place for each task of a round");
}

pub(crate) fn place(worker: usize, n: u64) -> usize {
    worker * ROUND as usize + (n % ROUND) as usize
}

pub(crate) fn tiny(n: u64) -> u64 {
    mark(n);
    n.wrapping_mul(3)
}

pub(crate) fn one_millisecond(n: u64) -> u64 {
    let started = Instant::now();
    let result = tiny(n);
    while started.elapsed() < Duration::from_millis(1) {}
    result
}

pub(crate) fn large((n, bytes): (u64, Vec<u8>)) -> u64 {
    assert!(bytes.len() == LARGE && bytes.iter().all(|it| u64::from(*it) == n % 251));
    tiny(n)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Tiny,
    Millisecond,
    Large,
    Retried,
    Callback,
    Item,
}

impl Kind {
    /// The last 20 of each 100 are the items of maps. They are together at the end of a round.
    pub(crate) fn of(n: u64) -> Self {
        if n % ROUND >= ROUND * 4 / 5 {
            return Self::Item;
        }
        match n % 80 {
            0 => Self::Millisecond,
            1 => Self::Retried,
            2 => Self::Large,
            3..13 => Self::Callback,
            _ => Self::Tiny,
        }
    }

    /// Returns how often a task may start at most.
    pub(crate) fn most_starts(self) -> u32 {
        match self {
            Self::Retried => 1 + RETRIES,
            _ => 1,
        }
    }
}
