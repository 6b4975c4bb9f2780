//! Counts how tasks ended, and what is wrong.

use std::collections::BTreeMap;

use procpool::{ErrorKind, SharedMemory};

use crate::tasks::{Kind, place};
use crate::working::Outcome;
use crate::{Result, WORKERS};

/// Counts how tasks ended, and what is wrong.
#[derive(Default)]
pub(crate) struct Tally {
    /// Tasks by kind: with a result, and with a dead worker.
    pub(crate) ended: BTreeMap<Kind, [u64; 2]>,
    /// Repeated starts of tasks with retries.
    pub(crate) tried_again: u64,
    pub(crate) not_once: Vec<String>,
    pub(crate) too_often: Vec<String>,
    pub(crate) wrong: Vec<String>,
}

impl Tally {
    pub(crate) fn add(
        &mut self,
        first: u64,
        outcomes: &[Vec<Outcome>],
        marks: &SharedMemory,
    ) -> Result<()> {
        let mut starts = vec![0; marks.len()];
        marks.read_at(0, &mut starts)?;
        marks.write_at(0, &vec![0; marks.len()])?;
        for (n, outcomes) in (first..).zip(outcomes) {
            let starts = (0..WORKERS).map(|it| u32::from(starts[place(it, n)])).sum();
            self.add_task(n, outcomes, starts);
        }
        Ok(())
    }

    fn add_task(&mut self, n: u64, outcomes: &[Outcome], starts: u32) {
        let kind = Kind::of(n);
        let task = format_args!("task {n} ({kind:?}): {starts} starts, {outcomes:?}");
        let ended = self.ended.entry(kind).or_default();
        match outcomes {
            [Ok(value)] if *value == n.wrapping_mul(3) && starts > 0 => ended[0] += 1,
            [Err(error)] if error.kind() == ErrorKind::WorkerDied => ended[1] += 1,
            [_] => self.wrong.push(task.to_string()),
            _ => self.not_once.push(task.to_string()),
        }
        if starts > kind.most_starts() {
            self.too_often.push(task.to_string());
        }
        self.tried_again += u64::from(starts.saturating_sub(1));
    }
}
