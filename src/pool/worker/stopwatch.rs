//! When a worker reads the clock between items: after each, or after several if they are tiny.

use crate::sys::clock;
use std::mem;

/// Nanoseconds; a shorter item is tiny.
const TINY: u64 = 1_000;

/// So many looks at the clock take as long as an item that is just not tiny, where that is more:
/// under a tool that counts instructions, or without the vDSO.
const LOOKS: u64 = 40;

/// Returns the nanoseconds below which an item is tiny in this process.
pub(crate) fn tiny_nanos() -> u64 {
    let look = || clock::now().abs_diff(clock::now());
    let fastest = (0..4).map(|_| look()).min().unwrap_or_default();
    TINY.max(fastest * LOOKS)
}

/// Tiny items between two looks at most.
const MOST: u32 = 64;

/// Measures the items of one frame.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    /// When the clock was read last.
    last: u64,
    /// Items between two looks, and how many of them are left.
    every: u32,
    left: u32,
    /// Nanoseconds an item took as measured last, one that stands out aside.
    usual: u64,
    /// Nanoseconds; a shorter item is tiny.
    tiny: u64,
}

/// What the items between two looks at the clock took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lap {
    /// All of them together, in nanoseconds.
    pub(crate) nanos: u64,
    pub(crate) items: u32,
    /// Nanoseconds for each of `items`: their mean.
    pub(crate) each: u64,
    /// Nanoseconds for one item more, which stands out.
    pub(crate) long: Option<u64>,
}

impl Stopwatch {
    /// Starts before the first item; shorter ones than `tiny_nanos` are measured in groups.
    pub(crate) fn new(now: u64, tiny: u64) -> Self {
        Self {
            last: now,
            every: 1,
            left: 1,
            usual: 0,
            tiny,
        }
    }

    /// Counts an item that is done; true if the clock is to be read.
    #[inline]
    pub(crate) fn count(&mut self) -> bool {
        self.left -= 1;
        self.left == 0
    }

    /// When the clock was read last.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Whether an item is done since.
    pub(crate) fn has_items(&self) -> bool {
        self.left < self.every
    }

    /// Ends a lap, which has items.
    pub(crate) fn lap(&mut self, now: u64) -> Lap {
        let nanos = now.saturating_sub(mem::replace(&mut self.last, now));
        let lap = match self.every - self.left {
            0 | 1 => Lap::of(nanos, 1, nanos),
            items => self.lap_of_several(nanos, items),
        };
        self.every = match lap.long {
            None if lap.each < self.tiny => (self.every * 4).min(MOST),
            _ => 1,
        };
        (self.left, self.usual) = (self.every, lap.each);
        lap
    }

    /// Tells one long item from the others, where together they took far more than is usual.
    fn lap_of_several(&self, nanos: u64, items: u32) -> Lap {
        let usual = self.usual * u64::from(items);
        if nanos <= 2 * usual + self.tiny {
            return Lap::of(nanos, items, nanos / u64::from(items));
        }
        let long = Some(nanos - usual + self.usual);
        Lap {
            long,
            ..Lap::of(nanos, items - 1, self.usual)
        }
    }
}

impl Lap {
    fn of(nanos: u64, items: u32, each: u64) -> Self {
        Self {
            nanos,
            items,
            each,
            long: None,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The laps of items that take so long.
    fn laps(items: impl IntoIterator<Item = u64>) -> Vec<Lap> {
        let mut now = 1_000_000;
        let (mut watch, mut laps) = (Stopwatch::new(now, TINY), Vec::new());
        for nanos in items {
            now += nanos;
            if watch.count() {
                laps.push(watch.lap(now));
            }
        }
        if watch.has_items() {
            laps.push(watch.lap(now));
        }
        laps
    }

    #[test]
    fn items_that_are_not_tiny_are_measured_one_by_one() {
        let laps = laps([5000, 200_000_000, 5000]);
        assert_eq!(laps.len(), 3);
        assert!(laps.iter().all(|it| it.items == 1 && it.long.is_none()));
        assert_eq!(laps[1].each, 200_000_000);
    }

    #[test]
    fn tiny_items_are_measured_in_groups() {
        let laps = laps([100; 1 + 4 + 16 + 64 + 64 + 3]);
        let items: Vec<u32> = laps.iter().map(|it| it.items).collect();
        assert_eq!(items, [1, 4, 16, 64, 64, 3]);
        assert!(laps.iter().all(|it| it.each == 100 && it.long.is_none()));
    }

    #[test]
    fn one_that_stands_out_among_tiny_items_has_its_own_time() {
        for at in 0..300 {
            let laps = laps((0..300).map(|it| if it == at { 50_000 } else { 100 }));
            let longest = laps.iter().map(|it| it.long.unwrap_or(it.each)).max();
            assert_eq!(longest, Some(50_000));
            let all: u32 = laps
                .iter()
                .map(|it| it.items + u32::from(it.long.is_some()))
                .sum();
            assert_eq!(all, 300);
        }
    }
}
