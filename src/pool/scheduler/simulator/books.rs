//! What the history of each item permits as its outcome.

use super::random::Random;
use crate::error::{Error, ErrorKind};
use crate::pool::task::config::TaskConfig;

/// What an item does when it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    Value,
    Panics,
    /// Replies with a panic, and then ends its worker.
    Aborts,
    /// Ends its worker.
    Dies,
    /// Runs until it is stopped.
    Hangs,
}

/// How the last run of an item ended, if it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastRun {
    Never,
    Running,
    Value,
    Panicked,
    Died,
}

/// One item, from its submission on.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) config: TaskConfig,
    /// The number of its map, if it belongs to one.
    pub(super) map: Option<usize>,
    seed: u64,
    pub(super) starts: u32,
    pub(super) last_run: LastRun,
    started_at: u64,
    /// A caller asked for its end, before its start or at any time.
    pub(super) is_cancelled: bool,
    /// A caller asked for its end while it runs; the answer may not be known yet.
    pub(super) is_unwanted: bool,
    /// It was killed: it must not start again.
    pub(super) is_killed: bool,
    /// Deaths of ready workers that the pool had reaped before it was submitted.
    deaths_before: u32,
    pub(super) is_done: bool,
}

/// All items of a history.
#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) items: Vec<Item>,
    pub(super) done: u64,
    /// Maps of which an item has failed, where that cancels the rest.
    pub(super) failed_maps: Vec<usize>,
    /// The pool was stopped, or broke.
    pub(super) is_stopped: bool,
    /// Deaths of workers that were ready, as the pool reaps them.
    pub(super) deaths: u32,
    /// The first thing that no history permits.
    pub(super) failure: Option<String>,
}

impl Books {
    pub(super) fn fail(&mut self, text: String) {
        self.failure.get_or_insert(text);
    }

    /// Notes a new item, and returns its number.
    pub(super) fn add(&mut self, config: TaskConfig, map: Option<usize>, seed: u64) -> u32 {
        self.items.push(Item {
            config,
            map,
            seed,
            starts: 0,
            last_run: LastRun::Never,
            started_at: 0,
            is_cancelled: false,
            is_unwanted: false,
            is_killed: false,
            deaths_before: self.deaths,
            is_done: false,
        });
        self.items.len() as u32 - 1
    }

    /// Returns what the item does in its present run.
    pub(super) fn behaviour(&self, id: u32) -> Behaviour {
        let item = &self.items[id as usize];
        let mut random = Random(item.seed ^ u64::from(item.starts));
        match random.below(16) {
            0 => Behaviour::Panics,
            1 => Behaviour::Aborts,
            2 => Behaviour::Dies,
            3 if item.config.timeout.is_some() => Behaviour::Hangs,
            _ => Behaviour::Value,
        }
    }

    /// Whether the item goes on after SIGTERM.
    pub(super) fn ignores_sigterm(&self, id: u32) -> bool {
        self.items[id as usize].seed & 3 == 0
    }

    /// Notes that a worker starts an item.
    pub(super) fn start(&mut self, id: u32, now: u64) {
        let item = &mut self.items[id as usize];
        let is_wrong = match item.last_run {
            LastRun::Never => false,
            LastRun::Panicked => !item.config.retries_panics,
            LastRun::Died => false,
            LastRun::Running | LastRun::Value => true,
        };
        let too_often = item.starts > item.config.retries;
        if is_wrong || too_often || item.is_killed || (item.is_done && !self.is_stopped) {
            let text = format!("item {id} starts again, or after its end: {item:?}");
            self.failure.get_or_insert(text);
        }
        item.starts += 1;
        item.last_run = LastRun::Running;
        item.started_at = now;
    }

    /// Checks that an item may be stopped by its pool while it runs.
    pub(super) fn check_stop(&mut self, id: u32, now: u64) {
        let item = &self.items[id as usize];
        let limit = item.config.timeout.map(|limit| limit.as_nanos() as u64);
        let ran_out = limit.is_some_and(|limit| item.started_at + limit <= now);
        if !(ran_out || item.is_unwanted || self.is_stopped) {
            let text = format!("item {id} is stopped without a reason: {item:?}");
            self.failure.get_or_insert(text);
        }
    }

    /// Notes how the run of an item ended.
    pub(super) fn end_run(&mut self, id: u32, how: LastRun) {
        self.items[id as usize].last_run = how;
    }

    /// Checks the outcome of an item against its history; `value` is what its result says.
    pub(super) fn finish(&mut self, id: u32, outcome: Result<u32, Error>, now: u64) {
        let item = &self.items[id as usize];
        let is_permitted = !item.is_done
            && match &outcome {
                Ok(value) => *value == id && item.last_run == LastRun::Value,
                // An answer is the outcome, unless the pool ended before it read the answer.
                Err(_) if item.last_run == LastRun::Value => self.is_stopped,
                Err(error) => self.permits(item, error.kind(), now),
            };
        if !is_permitted {
            let outcome = outcome.as_ref().map_err(Error::to_string);
            let text = format!("item {id} ends with {outcome:?} after {item:?}");
            self.failure.get_or_insert(text);
        }
        let item = &mut self.items[id as usize];
        item.is_done = true;
        self.done += 1;
        if outcome.is_err() {
            self.failed_maps.extend(item.map);
        }
    }

    fn permits(&self, item: &Item, kind: ErrorKind, now: u64) -> bool {
        let is_over = item.last_run != LastRun::Running;
        match kind {
            ErrorKind::Panicked => item.last_run == LastRun::Panicked,
            ErrorKind::WorkerDied => {
                let is_lost = self.deaths >= item.deaths_before + 3 && item.starts == 0;
                item.last_run == LastRun::Died || is_lost
            }
            ErrorKind::TimedOut => {
                let limit = item.config.timeout.map(|limit| limit.as_nanos() as u64);
                let ran_out = limit.is_some_and(|limit| item.started_at + limit <= now);
                item.last_run == LastRun::Died && ran_out
            }
            ErrorKind::Cancelled => {
                let is_unwanted = item.map.is_some_and(|map| self.failed_maps.contains(&map));
                is_over && (item.is_cancelled || is_unwanted)
            }
            ErrorKind::Shutdown | ErrorKind::StartFailed => self.is_stopped,
            _ => false,
        }
    }
}
