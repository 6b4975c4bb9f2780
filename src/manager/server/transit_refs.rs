//! Tokens for objects whose proxies are in transit: encoded, but not claimed yet.
//!
//! | token | keeps its object until |
//! |---|---|
//! | in a reply | it is claimed, or the connection is used again or ends |
//! | of a live maker | it is claimed |
//! | of an ended maker | it is claimed, or [`SENDER_GONE_GRACE`] has passed |
//! | older than [`MAX_IN_TRANSIT`] others | there are that many: tokens must not fill the server |

use super::object::ServerObject;
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};

/// How long a proxy may be in transit, or be unused after its arrival, after its sender has ended.
const SENDER_GONE_GRACE: Duration = Duration::from_secs(3600);

/// Maximum number of proxies in transit.
const MAX_IN_TRANSIT: usize = 1 << 20;

/// The tokens of a server.
#[derive(Debug, Default)]
pub(super) struct TransitRefs {
    last_token: u64,
    /// In the order of creation.
    in_transit: BTreeMap<u64, TransitRef>,
    /// The number of those tokens for each session.
    makers: HashMap<u64, usize>,
    in_replies: HashMap<u64, Arc<ServerObject>>,
    /// The earliest expiry of a token of an ended session.
    next_expiry: Option<Instant>,
}

#[derive(Debug)]
struct TransitRef {
    object: Arc<ServerObject>,
    /// The session that created the token.
    maker: u64,
    expires_at: Option<Instant>,
}

impl TransitRefs {
    /// Creates a token for an object whose proxy leaves a process. The caller drops the returned
    /// objects after it has released the lock.
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

    /// Creates a token for an object whose proxy goes to a client in a reply.
    pub(super) fn add_to_reply(&mut self, object: Arc<ServerObject>) -> u64 {
        let token = self.next_token();
        self.in_replies.insert(token, object);
        token
    }

    fn next_token(&mut self) -> u64 {
        self.last_token += 1;
        self.last_token
    }

    /// Removes a token and returns its object.
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

    /// Handles the end of a session. The caller drops the returned objects after it has released
    /// the lock.
    pub(super) fn end_maker(&mut self, maker: u64) -> Vec<Arc<ServerObject>> {
        let now = Instant::now();
        // Most sessions have no tokens, and need no search.
        if self.makers.remove(&maker).is_none() {
            return self.take_expired(now);
        }
        let until = now + SENDER_GONE_GRACE;
        let of_maker = self
            .in_transit
            .values_mut()
            .filter(|transit_ref| transit_ref.maker == maker);
        for transit_ref in of_maker {
            transit_ref.expires_at = Some(until);
            self.next_expiry.get_or_insert(until);
        }
        self.take_expired(now)
    }

    fn take_expired(&mut self, now: Instant) -> Vec<Arc<ServerObject>> {
        if self.next_expiry.is_none_or(|expiry| expiry > now) {
            return Vec::new();
        }
        let expired = self
            .in_transit
            .iter()
            .filter(|(_, transit_ref)| transit_ref.expires_at.is_some_and(|expiry| expiry <= now));
        let expired: Vec<u64> = expired.map(|(token, _)| *token).collect();
        let released = expired
            .into_iter()
            .filter_map(|it| self.claim(it))
            .collect();
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
        let mut tokens_of_server = TransitRefs::default();
        let objects = [1, 2].map(|id| Arc::new(ServerObject::new(id, ())));
        let tokens = objects.map(|object| tokens_of_server.add(object, 7).0);
        assert!(tokens_of_server.end_maker(7).is_empty());
        assert_eq!(tokens_of_server.claim(tokens[0]).map(|it| it.id()), Some(1));
        let released = tokens_of_server.take_expired(Instant::now() + SENDER_GONE_GRACE);
        assert_eq!(released.len(), 1);
        assert!(tokens_of_server.claim(tokens[1]).is_none() && tokens_of_server.makers.is_empty());
    }
}
