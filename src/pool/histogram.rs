//! A histogram of durations.
//!
//! The buckets are those of HdrHistogram (<https://hdrhistogram.org>) with two bits of precision:
//! four for each power of two. The error is at most a quarter of the time, from a nanosecond to
//! centuries.

use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};

/// Bits after the highest set bit of a time that select its bucket.
const FINE_BITS: u32 = 2;

/// The number of buckets: four for each power of two from `FINE_BITS` up, and one for each time
/// below.
pub(super) const BUCKETS: usize = ((u64::BITS - FINE_BITS + 1) << FINE_BITS) as usize;

/// A histogram of the times of tasks, with an error of at most a quarter of each time; see
/// [`PoolStats`](crate::PoolStats).
///
/// ```
/// let pool = procpool::ProcessPoolExecutor::builder().workers(1).build()?;
/// pool.map(|x: u64| std::thread::sleep(std::time::Duration::from_millis(x)), [1, 1, 1, 20])?;
/// pool.join()?;
/// let times = pool.stats().run_times;
/// assert_eq!(times.count(), 4);
/// assert!(times.quantile(0.5) < times.quantile(1.0));
/// # Ok::<(), procpool::Error>(())
/// ```
///
/// It is serialized as a list of pairs like [`buckets`](Self::buckets): nanoseconds and count.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<(u64, u64)>", from = "Vec<(u64, u64)>")]
pub struct Histogram {
    /// Counts by bucket, up to the last bucket that is not empty.
    counts: Vec<u64>,
}

impl Histogram {
    /// Returns the number of recorded times.
    #[must_use]
    pub fn count(&self) -> u64 {
        let counts = self.counts.iter();
        counts.fold(0, |sum, it| sum.saturating_add(*it))
    }

    /// Returns the time that the fraction `part` of all times did not exceed: 0.5 for the median, 1
    /// for the longest. The time is rounded up to the end of its bucket. `None` if the histogram is
    /// empty.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let rank = (self.count() as f64 * part.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0u64;
        let mut buckets = self.buckets();
        buckets.find_map(|(end, count)| {
            seen = seen.saturating_add(count);
            (seen >= rank).then_some(end)
        })
    }

    /// Returns the end and the count of each bucket that is not empty, the shortest time first.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let counts = self.counts.iter().copied().enumerate();
        let filled = counts.filter(|(_, count)| *count > 0);
        filled.map(|(bucket, count)| (Duration::from_nanos(end_of(bucket)), count))
    }

    /// Adds counts of buckets, from the first bucket on.
    pub(super) fn add(&mut self, counts: impl Iterator<Item = u64>) {
        for (bucket, count) in counts.enumerate().filter(|(_, count)| *count > 0) {
            self.add_to(bucket, count);
        }
    }

    /// Adds `time` `count` times.
    pub(super) fn record(&mut self, time: Duration, count: u64) {
        if count > 0 {
            let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            self.add_to(bucket_of(nanos), count);
        }
    }

    /// Adds the times of another histogram.
    pub(super) fn merge(&mut self, other: &Self) {
        self.add(other.counts.iter().copied());
    }

    fn add_to(&mut self, bucket: usize, count: u64) {
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        // Saturating, because counts may come from a worker's memory or from a serialized
        // histogram.
        self.counts[bucket] = self.counts[bucket].saturating_add(count);
    }
}

impl From<Histogram> for Vec<(u64, u64)> {
    fn from(histogram: Histogram) -> Self {
        let nanos = |it: Duration| u64::try_from(it.as_nanos()).unwrap_or(u64::MAX);
        let buckets = histogram.buckets();
        buckets.map(|(end, count)| (nanos(end), count)).collect()
    }
}

impl From<Vec<(u64, u64)>> for Histogram {
    fn from(buckets: Vec<(u64, u64)>) -> Self {
        let mut histogram = Self::default();
        for (end, count) in buckets {
            histogram.record(Duration::from_nanos(end), count);
        }
        histogram
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Histogram")
            .field("count", &self.count())
            .field("median", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .field("longest", &self.quantile(1.0))
            .finish_non_exhaustive()
    }
}

/// Returns the bucket of a time in nanoseconds.
#[inline]
pub(super) fn bucket_of(nanos: u64) -> usize {
    let Some(shift) = nanos
        .checked_ilog2()
        .and_then(|it| it.checked_sub(FINE_BITS))
    else {
        return nanos as usize;
    };
    ((shift as usize) << FINE_BITS) + (nanos >> shift) as usize
}

/// Returns the longest time in a bucket, in nanoseconds.
fn end_of(bucket: usize) -> u64 {
    let shift = (bucket >> FINE_BITS).saturating_sub(1);
    let fine = (bucket - (shift << FINE_BITS)) as u64;
    (fine << shift) | ((1 << shift) - 1)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_one_bucket_that_ends_at_most_a_quarter_behind_it() {
        let powers = (0..64).flat_map(|bit| [1u64 << bit, (1 << bit) - 1, (1 << bit) | 1]);
        for nanos in powers.chain([u64::MAX, 5, 6, 1000, 1_000_000]) {
            let bucket = bucket_of(nanos);
            assert!(bucket < BUCKETS);
            assert!(end_of(bucket) >= nanos && end_of(bucket) - nanos <= nanos / 4);
            assert!(bucket == 0 || end_of(bucket - 1) < nanos);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn what_was_serialized_comes_back() {
        let mut counts = [0; BUCKETS];
        for nanos in [1, 5, 1_000_000, u64::MAX] {
            counts[bucket_of(nanos)] += u64::from(nanos.ilog2()) + 1;
        }
        let mut histogram = Histogram::default();
        histogram.add(counts.into_iter());
        let buckets = Vec::from(histogram.clone());
        assert_eq!((buckets.len(), buckets[0]), (4, (1, 1)));
        assert_eq!(Histogram::from(buckets), histogram);
    }

    #[test]
    fn counts_that_are_too_large_stay_at_the_largest() {
        let mut histogram = Histogram::from(vec![(1, u64::MAX), (1, 1), (9, u64::MAX)]);
        histogram.add([u64::MAX; BUCKETS].into_iter());
        assert_eq!(histogram.count(), u64::MAX);
        assert_eq!(histogram.quantile(0.5), Some(Duration::ZERO));
        assert_eq!(histogram.buckets().count(), BUCKETS);
    }

    #[test]
    fn quantiles_are_of_those_that_were_counted() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.count(), histogram.quantile(0.5)), (0, None));
        let mut counts = [0; BUCKETS];
        counts[bucket_of(100)] = 98;
        counts[bucket_of(10_000)] = 2;
        histogram.add(counts.into_iter());
        histogram.add([1].into_iter());
        let nanos = |part| histogram.quantile(part).map(|time| time.as_nanos());
        assert_eq!([0.0, 0.5, 0.98].map(nanos), [0, 111, 111].map(Some));
        assert_eq!([0.99, 1.0, 7.0].map(nanos), [10_239; 3].map(Some));
    }
}
