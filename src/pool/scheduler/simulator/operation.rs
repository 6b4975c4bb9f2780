//! The steps of a history, drawn from its seed.

use super::random::Random;

/// One step of a history, with the seed of what is random in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operation {
    pub(super) kind: Kind,
    pub(super) seed: u64,
}

/// What happens in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Submit,
    SubmitMap,
    Cancel,
    KillTask,
    CancelMap,
    KillMap,
    CancelPending,
    Worker,
    Die,
    Reap,
    Event,
    StaleEvent,
    Tick,
    StartWorker,
    FinishStart,
    Advance,
    Deadline,
    Resize,
    Sleep,
    Close,
    Stop,
}

/// How often each kind comes, relative to the others.
const WEIGHTS: &[(Kind, usize)] = &[
    (Kind::Submit, 60),
    (Kind::SubmitMap, 15),
    (Kind::Cancel, 12),
    (Kind::KillTask, 10),
    (Kind::CancelMap, 3),
    (Kind::KillMap, 3),
    (Kind::CancelPending, 1),
    (Kind::Worker, 400),
    (Kind::Die, 6),
    (Kind::Reap, 25),
    (Kind::Event, 60),
    (Kind::StaleEvent, 3),
    (Kind::Tick, 80),
    (Kind::StartWorker, 20),
    (Kind::FinishStart, 30),
    (Kind::Advance, 40),
    (Kind::Deadline, 15),
    (Kind::Resize, 3),
    (Kind::Sleep, 15),
    (Kind::Close, 1),
    (Kind::Stop, 1),
];

/// Returns the operations of the history with this seed.
pub(super) fn operations(seed: u64) -> Vec<Operation> {
    let mut random = Random(seed ^ 0x5eed);
    // Some kinds are left out of each history, so that others meet more often.
    let weights: Vec<_> = WEIGHTS
        .iter()
        .map(|&(kind, weight)| (kind, if random.once_in(8) { 0 } else { weight }))
        .collect();
    let total: usize = weights.iter().map(|it| it.1).sum::<usize>().max(1);
    let count = 50 + random.below(400);
    let operation = |_| {
        let mut left = random.below(total);
        let kind = weights.iter().find(|(_, weight)| {
            let is_it = left < *weight;
            left = left.saturating_sub(*weight);
            is_it
        });
        let kind = kind.map_or(Kind::Tick, |it| it.0);
        Operation {
            kind,
            seed: random.next(),
        }
    };
    (0..count).map(operation).collect()
}
