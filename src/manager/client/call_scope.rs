//! Proxies in a call to their own server: no message for each of them.
//!
//! | a proxy | what keeps its object until it has arrived | messages |
//! |---|---|---|
//! | in the argument | a copy of the sender's reference, until the reply is there | none |
//! | in the result | a token of the server's | one, which claims all of them that it has room for |

use crate::error::Result;
use crate::manager::{client::Client, client::reference::Reference};
use crate::wire::handle;
use std::{cell::RefCell, mem, sync::Arc};

thread_local! {
    /// The call that this thread makes now.
    static CURRENT: RefCell<Option<CallScope>> = const { RefCell::new(None) };
}

/// A call on its way.
struct CallScope {
    client: Arc<Client>,
    sent: Vec<Reference>,
    /// Each with its token. A copy, so that it is counted here until the server knows of it,
    /// whatever the user drops meanwhile.
    received: Vec<(Reference, u64)>,
}

/// Makes a call: what encodes its argument and decodes its result finds the scope.
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
    outcome.and_then(|it| received.map(|()| it))
}

impl CallScope {
    /// Claims what has arrived, also where the result could not be decoded: the tokens would keep
    /// the objects.
    fn claim_received(self) -> Result<()> {
        let id = |it: &(Reference, u64)| (it.0.identity().1, it.1);
        let received: Vec<_> = self.received.iter().map(id).collect();
        if received.is_empty() {
            return Ok(());
        }
        self.client.claim_all(&received)
    }
}

/// Whether a reference that leaves this process needs no token. What the user's own `Serialize`
/// sends elsewhere meanwhile does.
pub(in crate::manager) fn track_sent(reference: &Reference, server: u64) -> bool {
    if handle::audience() != server {
        return false;
    }
    let sends = |scope: &mut CallScope| scope.sent.push(reference.clone());
    with_scope_of(server, sends).is_some()
}

/// A reference that arrives in a call to its server, which claims it with the others.
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
        scope.filter(|it| it.client.server() == server).map(note)
    });
    // At the end of a thread there is none: each proxy has its message then.
    found.unwrap_or_default()
}

fn replace(scope: Option<CallScope>) -> Option<CallScope> {
    let replaced = CURRENT.try_with(|current| current.replace(scope));
    replaced.unwrap_or_default()
}

/// The call in whose argument or result another is made, by a user's own `Serialize` say.
struct OuterScope(Option<CallScope>);

impl OuterScope {
    fn restore(mut self) -> Option<CallScope> {
        let inner = replace(self.0.take());
        mem::forget(self);
        inner
    }
}

impl Drop for OuterScope {
    /// In a panic of the user's.
    fn drop(&mut self) {
        if let Some(inner) = replace(self.0.take()) {
            // Nobody is left to be told.
            let _ = inner.claim_received();
        }
    }
}
