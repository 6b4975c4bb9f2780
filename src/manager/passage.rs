//! Proxies in a call to their own server: no message for each of them.
//!
//! | a proxy | what keeps its object until it has arrived | messages |
//! |---|---|---|
//! | in the argument | a copy of the sender's reference, until the reply is there | none |
//! | in the result | a token of the server's | one, which claims all of them that it has room for |

use super::{client::Client, reference::Reference};
use crate::error::Result;
use crate::wire::handle;
use std::{cell::RefCell, mem, sync::Arc};

thread_local! {
    /// The call that this thread makes now.
    static CURRENT: RefCell<Option<Passage>> = const { RefCell::new(None) };
}

/// A call on its way.
struct Passage {
    client: Arc<Client>,
    sent: Vec<Reference>,
    /// Each with its token. A copy, so that it is counted here until the server knows of it, whatever the user drops meanwhile.
    arrived: Vec<(Reference, u64)>,
}

/// Makes a call: what encodes its argument and decodes its result finds the passage.
pub(super) fn during<R>(client: &Arc<Client>, call: impl FnOnce() -> Result<R>) -> Result<R> {
    let outer = Outer(replace(Some(Passage {
        client: Arc::clone(client),
        sent: Vec::new(),
        arrived: Vec::new(),
    })));
    let outcome = call();
    let arrived = outer.come_back().map_or(Ok(()), Passage::arrive);
    outcome.and_then(|it| arrived.map(|()| it))
}

impl Passage {
    /// Claims what has arrived, also where the result could not be decoded: the tokens would keep the objects.
    fn arrive(self) -> Result<()> {
        let id = |it: &(Reference, u64)| (it.0.identity().1, it.1);
        let arrived: Vec<_> = self.arrived.iter().map(id).collect();
        if arrived.is_empty() {
            return Ok(());
        }
        self.client.claim_all(&arrived)
    }
}

/// Whether a reference that leaves this process needs no token. What the user's own `Serialize` sends elsewhere meanwhile does.
pub(super) fn sends(reference: &Reference, server: u64) -> bool {
    if handle::audience() != server {
        return false;
    }
    let sends = |passage: &mut Passage| passage.sent.push(reference.clone());
    in_call_to(server, sends).is_some()
}

/// A reference that arrives in a call to its server, which claims it with the others.
pub(super) fn receives(server: u64, id: u64, token: u64) -> Option<Reference> {
    in_call_to(server, |passage| {
        passage.client.count(id);
        let reference = Reference::counted(Arc::clone(&passage.client), id);
        passage.arrived.push((reference.clone(), token));
        reference
    })
}

fn in_call_to<R>(server: u64, note: impl FnOnce(&mut Passage) -> R) -> Option<R> {
    let found = CURRENT.try_with(|current| {
        let mut current = current.borrow_mut();
        let passage = current.as_mut();
        passage.filter(|it| it.client.server() == server).map(note)
    });
    // At the end of a thread there is none: each proxy has its message then.
    found.unwrap_or_default()
}

fn replace(passage: Option<Passage>) -> Option<Passage> {
    let replaced = CURRENT.try_with(|current| current.replace(passage));
    replaced.unwrap_or_default()
}

/// The call in whose argument or result another is made, by a user's own `Serialize` say.
struct Outer(Option<Passage>);

impl Outer {
    fn come_back(mut self) -> Option<Passage> {
        let inner = replace(self.0.take());
        mem::forget(self);
        inner
    }
}

impl Drop for Outer {
    /// In a panic of the user's.
    fn drop(&mut self) {
        if let Some(inner) = replace(self.0.take()) {
            // Nobody is left to be told.
            let _ = inner.arrive();
        }
    }
}
