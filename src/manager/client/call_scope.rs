//! Batches the claims of proxies in one call to their own server: they need no message each.
//!
//! | a proxy | its object is kept until it arrives by | messages |
//! |---|---|---|
//! | in the argument | a copy of the sender's reference, until the reply arrives | none |
//! | in the result | a token of the server | one for all tokens that fit into it |

use crate::error::Result;
use crate::manager::{client::Client, client::reference::Reference};
use crate::wire::handle;
use std::{cell::RefCell, mem, sync::Arc};

thread_local! {
    /// The call that this thread is making.
    static CURRENT: RefCell<Option<CallScope>> = const { RefCell::new(None) };
}

/// A call in progress.
struct CallScope {
    client: Arc<Client>,
    sent: Vec<Reference>,
    /// Received references and their tokens. Copies, so that each object stays counted here until
    /// the server has the claim, even if the user drops the original.
    received: Vec<(Reference, u64)>,
}

/// Runs `call` in a scope that the encoder of its argument and the decoder of its result can find.
pub(in crate::manager) fn enter<R>(
    client: &Arc<Client>,
    call: impl FnOnce() -> Result<R>,
) -> Result<R> {
    let outer = OuterScope(replace(Some(CallScope {
        client: Arc::clone(client),
        sent: Vec::new(),
        received: Vec::new(),
    })));
    let outcome = call();
    let received = outer.restore().map_or(Ok(()), CallScope::claim_received);
    outcome.and_then(|result| received.map(|()| result))
}

impl CallScope {
    /// Claims received references, also after a failed decode: their tokens would keep the objects.
    fn claim_received(self) -> Result<()> {
        let id = |(reference, token): &(Reference, u64)| (reference.identity().1, *token);
        let received: Vec<_> = self.received.iter().map(id).collect();
        if received.is_empty() {
            return Ok(());
        }
        self.client.claim_all(&received)
    }
}

/// Whether a reference that leaves this process needs no token. It needs one if a user's
/// `Serialize` sends it elsewhere during the call.
pub(in crate::manager) fn track_sent(reference: &Reference, server: u64) -> bool {
    if handle::audience() != server {
        return false;
    }
    let sends = |scope: &mut CallScope| scope.sent.push(reference.clone());
    with_scope_of(server, sends).is_some()
}

/// Returns a reference that arrives in a call to its server. The call claims it with the others.
pub(in crate::manager) fn track_received(server: u64, id: u64, token: u64) -> Option<Reference> {
    with_scope_of(server, |scope| {
        scope.client.increment(id);
        let reference = Reference::from_counted(Arc::clone(&scope.client), id);
        scope.received.push((reference.clone(), token));
        reference
    })
}

fn with_scope_of<R>(server: u64, note: impl FnOnce(&mut CallScope) -> R) -> Option<R> {
    let found = CURRENT.try_with(|current| {
        let mut current = current.borrow_mut();
        let scope = current.as_mut();
        scope
            .filter(|scope| scope.client.server() == server)
            .map(note)
    });
    // Thread-locals are unavailable while a thread exits: each proxy then sends its own message.
    found.unwrap_or_default()
}

fn replace(scope: Option<CallScope>) -> Option<CallScope> {
    let replaced = CURRENT.try_with(|current| current.replace(scope));
    replaced.unwrap_or_default()
}

/// The outer call, if this call is made while the argument or result of another is encoded or
/// decoded, for example by a user's `Serialize`.
struct OuterScope(Option<CallScope>);

impl OuterScope {
    fn restore(mut self) -> Option<CallScope> {
        let inner = replace(self.0.take());
        mem::forget(self);
        inner
    }
}

impl Drop for OuterScope {
    /// Restores the outer call if the user's code panics.
    fn drop(&mut self) {
        if let Some(inner) = replace(self.0.take()) {
            // An error has no recipient during a panic.
            let _ = inner.claim_received();
        }
    }
}
