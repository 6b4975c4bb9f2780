//! Decides when a worker reads the clock: after each item, or after several tiny ones.

use crate::sys::clock;
use std::mem;

/// Nanoseconds; a shorter item is tiny.
const TINY_NANOS: u64 = 1_000;

/// An item is also tiny if it takes less than this many reads of the clock, which are slow under a
/// tool that counts instructions, or without the vDSO.
const CLOCK_READS: u64 = 40;

/// Returns the nanoseconds below which an item is tiny in this process.
pub(crate) fn tiny_nanos() -> u64 {
    let read = || clock::now().abs_diff(clock::now());
    let fastest = (0..4).map(|_| read()).min().unwrap_or_default();
    TINY_NANOS.max(fastest * CLOCK_READS)
}

/// The largest number of tiny items between two reads of the clock.
const MAX_GROUP: u32 = 64;

/// Measures the items of one frame.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    /// Returns when the clock was read last.
    last: u64,
    /// Items between two reads of the clock, and how many of them are left.
    every: u32,
    left: u32,
    /// Nanoseconds per item as measured last, without outliers.
    usual: u64,
    /// Nanoseconds; a shorter item is tiny.
    tiny: u64,
}

/// The time that the items between two reads of the clock took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lap {
    /// Nanoseconds for all items together.
    pub(crate) nanos: u64,
    pub(crate) items: u32,
    /// The mean of `items`, in nanoseconds.
    pub(crate) each: u64,
    /// Nanoseconds of one more item that is an outlier.
    pub(crate) long: Option<u64>,
}

impl Stopwatch {
    /// Starts before the first item. Items shorter than `tiny` nanoseconds are measured in groups.
    pub(crate) fn new(now: u64, tiny: u64) -> Self {
        Self {
            last: now,
            every: 1,
            left: 1,
            usual: 0,
            tiny,
        }
    }

    /// Counts an item that is done. Returns true if the clock must be read.
    #[inline]
    pub(crate) fn count(&mut self) -> bool {
        self.left -= 1;
        self.left == 0
    }

    /// Returns when the clock was read last.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Whether an item is done since then.
    pub(crate) fn has_items(&self) -> bool {
        self.left < self.every
    }

    /// Ends a lap, which must have items.
    pub(crate) fn lap(&mut self, now: u64) -> Lap {
        let nanos = now.saturating_sub(mem::replace(&mut self.last, now));
        let lap = match self.every - self.left {
            0 | 1 => Lap::of(nanos, 1, nanos),
            items => self.lap_of_several(nanos, items),
        };
        self.every = match lap.long {
            None if lap.each < self.tiny => (self.every * 4).min(MAX_GROUP),
            _ => 1,
        };
        self.left = self.every;
        self.usual = lap.each;
        lap
    }

    /// Separates one long item from the others if together they took much longer than usual.
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

    /// Returns the laps of items with these times.
    fn laps(items: impl IntoIterator<Item = u64>) -> Vec<Lap> {
        let mut now = 1_000_000;
        let (mut watch, mut laps) = (Stopwatch::new(now, TINY_NANOS), Vec::new());
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
        assert!(laps.iter().all(|lap| lap.items == 1 && lap.long.is_none()));
        assert_eq!(laps[1].each, 200_000_000);
    }

    #[test]
    fn tiny_items_are_measured_in_groups() {
        let laps = laps([100; 1 + 4 + 16 + 64 + 64 + 3]);
        let items: Vec<u32> = laps.iter().map(|it| it.items).collect();
        assert_eq!(items, [1, 4, 16, 64, 64, 3]);
        assert!(laps.iter().all(|lap| lap.each == 100 && lap.long.is_none()));
    }

    #[test]
    fn one_that_stands_out_among_tiny_items_has_its_own_time() {
        for at in 0..300 {
            let laps = laps((0..300).map(|item| if item == at { 50_000 } else { 100 }));
            let longest = laps.iter().map(|lap| lap.long.unwrap_or(lap.each)).max();
            assert_eq!(longest, Some(50_000));
            let all: u32 = laps
                .iter()
                .map(|lap| lap.items + u32::from(lap.long.is_some()))
                .sum();
            assert_eq!(all, 300);
        }
    }
}
