//! Tokens for objects whose proxies are on their way: what was encoded and nobody has decoded yet.
//!
//! | a token | keeps its object until |
//! |---|---|
//! | in a reply | it is claimed, or the connection is used again or ends |
//! | whose maker is there | it is claimed |
//! | whose maker has gone | it is claimed, or [`GRACE`] has passed |
//! | behind which there are [`MOST`] others | then: what is encoded and thrown away must not fill the server |

use super::object::Object;
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a proxy may be on its way, or lie unused where it has arrived, when its sender has ended.
const GRACE: Duration = Duration::from_secs(3600);

/// Proxies that may be on their way at once, in any case.
const MOST: usize = 1 << 20;

/// The tokens of a server.
#[derive(Debug, Default)]
pub(super) struct Pins {
    last: u64,
    /// In the order in which they were made.
    pins: BTreeMap<u64, Pin>,
    /// How many of those each session has made.
    makers: HashMap<u64, usize>,
    replied: HashMap<u64, Arc<Object>>,
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
    /// Makes a token for one that goes somewhere. What comes with it is to be dropped without the lock.
    pub(super) fn add(&mut self, object: Arc<Object>, maker: u64) -> (u64, Vec<Arc<Object>>) {
        let token = self.next();
        let until = None;
        let pin = Pin {
            object,
            maker,
            until,
        };
        self.pins.insert(token, pin);
        *self.makers.entry(maker).or_default() += 1;
        let mut gone = self.expired(Instant::now());
        if self.pins.len() > MOST
            && let Some((oldest, _)) = self.pins.first_key_value()
        {
            gone.extend(self.claim(*oldest));
        }
        (token, gone)
    }

    /// Makes a token for one that goes to a client in a reply.
    pub(super) fn add_to_reply(&mut self, object: Arc<Object>) -> u64 {
        let token = self.next();
        self.replied.insert(token, object);
        token
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Takes a token back.
    pub(super) fn claim(&mut self, token: u64) -> Option<Arc<Object>> {
        if let Some(object) = self.replied.remove(&token) {
            return Some(object);
        }
        let Pin { object, maker, .. } = self.pins.remove(&token)?;
        if let Entry::Occupied(mut count) = self.makers.entry(maker) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(object)
    }

    /// A session has ended. What comes back is to be dropped without the lock.
    pub(super) fn maker_has_gone(&mut self, maker: u64) -> Vec<Arc<Object>> {
        let now = Instant::now();
        // Of nearly all there are none, and nothing is to be searched.
        if self.makers.remove(&maker).is_none() {
            return self.expired(now);
        }
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
        let gone = over.into_iter().filter_map(|it| self.claim(it)).collect();
        self.next_to_go = self.pins.values().filter_map(|it| it.until).min();
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_outlives_its_maker_for_a_while() {
        let mut pins = Pins::default();
        let objects = [1, 2].map(|id| Arc::new(Object::new(id, ())));
        let tokens = objects.map(|it| pins.add(it, 7).0);
        assert!(pins.maker_has_gone(7).is_empty());
        assert_eq!(pins.claim(tokens[0]).map(|it| it.id()), Some(1));
        let gone = pins.expired(Instant::now() + GRACE);
        assert_eq!(gone.len(), 1);
        assert!(pins.claim(tokens[1]).is_none() && pins.makers.is_empty());
    }
}
