//! The word of a barrier: which round it is, and how the last ones ended.

/// Bit 0: no party may wait until a reset.
const BROKEN: u64 = 1;
/// Bits 1 to 31: how the last rounds ended; 1 for a round that was broken off.
const ENDS: u64 = 0xffff_fffe;

/// How a round ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Complete,
    /// By a timeout, `abort` or `reset`.
    BrokenOff,
}

/// The number of the current round and the outcomes of the last ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Round(pub(super) u64);

impl Round {
    pub(super) const FIRST: Self = Self(1 << 32);

    pub(super) fn number(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub(super) fn is_broken(self) -> bool {
        self.0 & BROKEN != 0
    }

    /// Returns the next round, after this one was complete or broken off.
    pub(super) fn ended(self, outcome: Outcome) -> Self {
        let latest = u64::from(outcome == Outcome::BrokenOff) << 1;
        let ends = (self.0 & ENDS) << 1 & ENDS | latest;
        let number = self.number().wrapping_add(1);
        Self(u64::from(number) << 32 | ends)
    }

    pub(super) fn broken(self) -> Self {
        Self(self.ended(Outcome::BrokenOff).0 | BROKEN)
    }

    /// Returns how round `number` ended; `None` if it has not. Takes a round that ended more than
    /// 31 rounds ago for complete.
    pub(super) fn outcome_of(self, number: u32) -> Option<Outcome> {
        match self.number().wrapping_sub(number) {
            0 => None,
            age @ 1..=31 if self.0 >> age & 1 == 1 => Some(Outcome::BrokenOff),
            _ => Some(Outcome::Complete),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_each_of_the_last_rounds_ended_is_known() {
        let mut round = Round(u64::from(u32::MAX - 20) << 32);
        let mut ends = Vec::new();
        for turn in 0..40u32 {
            let outcome = match turn % 3 {
                0 => Outcome::BrokenOff,
                _ => Outcome::Complete,
            };
            assert_eq!(round.outcome_of(round.number()), None);
            ends.push((round.number(), outcome));
            round = round.ended(outcome);
            for (number, outcome) in ends.iter().rev().take(31) {
                assert_eq!(round.outcome_of(*number), Some(*outcome));
            }
        }
        assert!(!round.is_broken() && round.broken().is_broken());
        assert!(!round.broken().ended(Outcome::BrokenOff).is_broken());
        let outcome = round.broken().outcome_of(round.number());
        assert_eq!(outcome, Some(Outcome::BrokenOff));
    }
}
