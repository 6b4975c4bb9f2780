//! What one run measures: the filter, the sizes, and whose turn it is.

use crate::Result;
use crate::samples::Samples;

/// The command line: which rows, and whether this is a smoke run.
#[derive(Debug)]
pub(crate) struct Plan {
    filter: Option<String>,
    smoke: bool,
    pub(crate) list: bool,
}

/// Measures once, in the unit of its row.
pub(crate) type Contender<'a> = &'a mut dyn FnMut() -> Result<f64>;

impl Plan {
    /// Takes the first bare word as the filter; flags of other benches are passed over.
    pub(crate) fn from_arguments(arguments: impl Iterator<Item = String>) -> Self {
        let (flags, words): (Vec<_>, Vec<_>) = arguments.partition(|it| it.starts_with('-'));
        let has = |flag: &str| flags.iter().any(|it| it == flag);
        Self {
            filter: words.into_iter().next(),
            smoke: has("--smoke") || has("--test") || !has("--bench"),
            list: has("--list"),
        }
    }

    pub(crate) fn wants(&self, row: &str) -> bool {
        self.filter.as_deref().is_none_or(|it| row.contains(it))
    }

    /// A smoke run shows that everything works; its figures mean nothing.
    pub(crate) fn judges(&self) -> bool {
        !self.smoke
    }

    /// `full`, or `small` in a smoke run.
    pub(crate) fn size<T>(&self, full: T, small: T) -> T {
        if self.smoke { small } else { full }
    }

    /// Lets the contenders take turns for `rounds` rounds, after one that does not count.
    pub(crate) fn interleave<const N: usize>(
        &self,
        rounds: usize,
        mut contenders: [Contender<'_>; N],
    ) -> Result<[Samples; N]> {
        let mut samples = [const { Samples::new() }; N];
        for round in 0..=self.size(rounds, 1) {
            for (contender, samples) in contenders.iter_mut().zip(&mut samples) {
                let value = contender()?;
                if round > 0 {
                    samples.push(value);
                }
            }
        }
        Ok(samples)
    }
}
