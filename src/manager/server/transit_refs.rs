//! Tokens for objects whose proxies are on their way: what was encoded and nobody has decoded yet.
//!
//! | a token | keeps its object until |
//! |---|---|
//! | in a reply | it is claimed, or the connection is used again or ends |
//! | whose maker is there | it is claimed |
//! | whose maker has gone | it is claimed, or [`SENDER_GONE_GRACE`] has passed |
//! | behind which there are [`MAX_IN_TRANSIT`] others | then: what is encoded and thrown away must not fill the server |

use super::object::ServerObject;
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a proxy may be on its way, or lie unused where it has arrived, when its sender has
/// ended.
const SENDER_GONE_GRACE: Duration = Duration::from_secs(3600);

/// Proxies that may be on their way at once, in any case.
const MAX_IN_TRANSIT: usize = 1 << 20;

/// The tokens of a server.
#[derive(Debug, Default)]
pub(super) struct TransitRefs {
    last_token: u64,
    /// In the order in which they were made.
    in_transit: BTreeMap<u64, TransitRef>,
    /// How many of those each session has made.
    makers: HashMap<u64, usize>,
    in_replies: HashMap<u64, Arc<ServerObject>>,
    /// When the first of those may go whose makers have.
    next_expiry: Option<Instant>,
}

#[derive(Debug)]
struct TransitRef {
    object: Arc<ServerObject>,
    /// The session in which it was made.
    maker: u64,
    expires_at: Option<Instant>,
}

impl TransitRefs {
    /// Makes a token for one that goes somewhere. What comes with it is to be dropped without the
    /// lock.
    pub(super) fn add(
        &mut self,
        object: Arc<ServerObject>,
        maker: u64,
    ) -> (u64, Vec<Arc<ServerObject>>) {
        let token = self.next_token();
        let until = None;
        let transit_ref = TransitRef {
            object,
            maker,
            expires_at: until,
        };
        self.in_transit.insert(token, transit_ref);
        *self.makers.entry(maker).or_default() += 1;
        let mut released = self.take_expired(Instant::now());
        if self.in_transit.len() > MAX_IN_TRANSIT
            && let Some((oldest, _)) = self.in_transit.first_key_value()
        {
            released.extend(self.claim(*oldest));
        }
        (token, released)
    }

    /// Makes a token for one that goes to a client in a reply.
    pub(super) fn add_to_reply(&mut self, object: Arc<ServerObject>) -> u64 {
        let token = self.next_token();
        self.in_replies.insert(token, object);
        token
    }

    fn next_token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }

    /// Takes a token back.
    pub(super) fn claim(&mut self, token: u64) -> Option<Arc<ServerObject>> {
        if let Some(object) = self.in_replies.remove(&token) {
            return Some(object);
        }
        let TransitRef { object, maker, .. } = self.in_transit.remove(&token)?;
        if let Entry::Occupied(mut count) = self.makers.entry(maker) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(object)
    }

    /// A session has ended. What comes back is to be dropped without the lock.
    pub(super) fn end_maker(&mut self, maker: u64) -> Vec<Arc<ServerObject>> {
        let now = Instant::now();
        // Of nearly all there are none, and nothing is to be searched.
        if self.makers.remove(&maker).is_none() {
            return self.take_expired(now);
        }
        let until = now + SENDER_GONE_GRACE;
        for transit_ref in self.in_transit.values_mut().filter(|it| it.maker == maker) {
            transit_ref.expires_at = Some(until);
            self.next_expiry.get_or_insert(until);
        }
        self.take_expired(now)
    }

    fn take_expired(&mut self, now: Instant) -> Vec<Arc<ServerObject>> {
        if self.next_expiry.is_none_or(|it| it > now) {
            return Vec::new();
        }
        let is_over = |it: &TransitRef| it.expires_at.is_some_and(|it| it <= now);
        let over = self.in_transit.iter().filter(|it| is_over(it.1));
        let over: Vec<u64> = over.map(|(token, _)| *token).collect();
        let released = over.into_iter().filter_map(|it| self.claim(it)).collect();
        self.next_expiry = self
            .in_transit
            .values()
            .filter_map(|it| it.expires_at)
            .min();
        released
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_outlives_its_maker_for_a_while() {
        let mut pins = TransitRefs::default();
        let objects = [1, 2].map(|id| Arc::new(ServerObject::new(id, ())));
        let tokens = objects.map(|it| pins.add(it, 7).0);
        assert!(pins.end_maker(7).is_empty());
        assert_eq!(pins.claim(tokens[0]).map(|it| it.id()), Some(1));
        let released = pins.take_expired(Instant::now() + SENDER_GONE_GRACE);
        assert_eq!(released.len(), 1);
        assert!(pins.claim(tokens[1]).is_none() && pins.makers.is_empty());
    }
}
