//! Repeated measurements of one thing.

use std::time::{Duration, Instant};

use crate::Result;

/// Measurements in the order in which they were taken.
#[derive(Debug)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Linear between neighbours; 0.25 and 0.75 are the quartiles.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return f64::NAN;
        };
        let place = part * last as f64;
        let (low, high) = (
            sorted[place.floor() as usize],
            sorted[place.ceil() as usize],
        );
        low + (high - low) * place.fract()
    }

    /// Round by round: what both met in the same round (load, frequency) cancels out.
    pub(crate) fn ratios_to(&self, other: &Self) -> Self {
        self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl From<f64> for Samples {
    fn from(value: f64) -> Self {
        Self(vec![value])
    }
}

/// Calls that are timed even when they take longer than the budget.
const FEWEST_CALLS: usize = 20;

/// Median seconds of one call, over `calls` of them or as many as fit into `budget`.
pub(crate) fn median_call(
    calls: usize,
    budget: Duration,
    mut call: impl FnMut() -> Result<()>,
) -> Result<f64> {
    let mut samples = Samples(Vec::with_capacity(calls));
    let start = Instant::now();
    while samples.0.len() < calls && (samples.0.len() < FEWEST_CALLS || start.elapsed() < budget) {
        let before = Instant::now();
        call()?;
        samples.push(before.elapsed().as_secs_f64());
    }
    Ok(samples.median())
}

/// Mean seconds of one call, over `calls` of them or as many as fit into `budget`.
pub(crate) fn mean_call(
    calls: usize,
    budget: Duration,
    mut call: impl FnMut() -> Result<()>,
) -> Result<f64> {
    let start = Instant::now();
    let mut made = 0;
    while made < calls && (made < FEWEST_CALLS || start.elapsed() < budget) {
        call()?;
        made += 1;
    }
    Ok(start.elapsed().as_secs_f64() / made as f64)
}

/// Seconds that `work` takes, and what it returns.
pub(crate) fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let start = Instant::now();
    let value = work()?;
    Ok((start.elapsed().as_secs_f64(), value))
}
