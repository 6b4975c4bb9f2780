//! Tokens for objects whose proxies are on their way: what was encoded and nobody has decoded yet.
//!
//! | a token | keeps its object until |
//! |---|---|
//! | whose maker is there | it is claimed |
//! | whose maker has gone | it is claimed, or [`GRACE`] has passed |
//! | behind which there are [`MOST`] others | then: what is encoded and thrown away must not fill the server |

use super::object::Object;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a proxy may be on its way when its sender has ended: the result of a process that nobody has asked for, say.
const GRACE: Duration = Duration::from_secs(300);

/// Proxies that may be on their way at once, in any case.
const MOST: usize = 1 << 20;

/// The tokens of a server.
#[derive(Debug, Default)]
pub(super) struct Pins {
    last: u64,
    /// In the order in which they were made.
    pins: BTreeMap<u64, Pin>,
    /// When the first of those may go whose makers have.
    next_to_go: Option<Instant>,
}

#[derive(Debug)]
struct Pin {
    object: Arc<Object>,
    /// The session in which it was made.
    maker: u64,
    until: Option<Instant>,
}

impl Pins {
    /// Makes a token. What comes with it is to be dropped without the lock.
    pub(super) fn add(&mut self, object: Arc<Object>, maker: u64) -> (u64, Vec<Arc<Object>>) {
        self.last += 1;
        let until = None;
        let pin = Pin {
            object,
            maker,
            until,
        };
        self.pins.insert(self.last, pin);
        let mut gone = self.expired(Instant::now());
        if self.pins.len() > MOST {
            gone.extend(self.pins.pop_first().map(|(_, it)| it.object));
        }
        (self.last, gone)
    }

    /// Takes a token back.
    pub(super) fn claim(&mut self, token: u64) -> Option<Arc<Object>> {
        self.pins.remove(&token).map(|it| it.object)
    }

    /// A session has ended. What comes back is to be dropped without the lock.
    pub(super) fn maker_has_gone(&mut self, maker: u64) -> Vec<Arc<Object>> {
        let now = Instant::now();
        let until = now + GRACE;
        for pin in self.pins.values_mut().filter(|it| it.maker == maker) {
            pin.until = Some(until);
            self.next_to_go.get_or_insert(until);
        }
        self.expired(now)
    }

    fn expired(&mut self, now: Instant) -> Vec<Arc<Object>> {
        if self.next_to_go.is_none_or(|it| it > now) {
            return Vec::new();
        }
        let is_over = |it: &Pin| it.until.is_some_and(|it| it <= now);
        let over = self.pins.iter().filter(|it| is_over(it.1));
        let over: Vec<u64> = over.map(|(token, _)| *token).collect();
        let gone = over.iter().filter_map(|it| self.pins.remove(it));
        let gone = gone.map(|it| it.object).collect();
        self.next_to_go = self.pins.values().filter_map(|it| it.until).min();
        gone
    }
}
