//! What a process knows of a server: how to reach it, free connections to it, and which of its objects are referred to here.
//!
//! A copy of the process (`fork`) has a copy of all this, and of the descriptors. It closes its copies and starts afresh, at its
//! first use: no two processes ever talk through one socket.

use super::{
    link::{Link, gone},
    passage,
    protocol::{ROOT, Welcome},
    reference::Reference,
    server::{self, Server},
};
use crate::error::{Error, ErrorKind, Result};
use crate::ipc::{Address, AuthKey, known_key};
use crate::process::function::{Handler, Method};
use crate::sys::pid;
use crate::wire::{Wire, codec};
use parking_lot::Mutex;
use serde::Serialize;
use std::{
    collections::{HashMap, hash_map::Entry},
    io, mem,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

/// Connections that are kept for the next calls.
const MOST_FREE: usize = 16;

/// How long it may take to reach a server to which this process only has to say that it does not need something.
const DROPPED_WITHIN: Duration = Duration::from_secs(1);

/// How long no such server is tried after one was not reached.
const FAILING: Duration = Duration::from_secs(60);

/// When such a server was last not reached.
static UNREACHED: Mutex<Option<Instant>> = Mutex::new(None);

/// The servers that this process has to do with.
static CLIENTS: Mutex<Vec<Weak<Client>>> = Mutex::new(Vec::new());

/// This process as a client of one server.
#[derive(Debug)]
pub(super) struct Client {
    /// The server's name.
    server: u64,
    address: Address,
    key: AuthKey,
    free: Mutex<Free>,
    references: Mutex<References>,
}

#[derive(Debug, Default)]
struct Free {
    process: u32,
    links: Vec<Link>,
}

/// The objects that this process refers to, and the connection that the server counts them by.
#[derive(Debug, Default)]
struct References {
    process: u32,
    lifeline: Option<Link>,
    /// How many proxies there are of each.
    counts: HashMap<u64, usize>,
}

impl Client {
    /// Connects to whatever server is at an address.
    pub(super) fn connect(address: &Address, key: &AuthKey) -> Result<Arc<Self>> {
        let (link, welcome) = Link::open(address, key)?;
        let client = Self::known(welcome.server).unwrap_or_else(|| {
            let client = Arc::new(Self {
                server: welcome.server,
                address: address.clone(),
                key: key.clone(),
                free: Mutex::default(),
                references: Mutex::default(),
            });
            let mut clients = CLIENTS.lock();
            clients.retain(|it| it.strong_count() > 0);
            clients.push(Arc::downgrade(&client));
            client
        });
        client.give_back(link);
        Ok(client)
    }

    /// The client of a certain server that a proxy names.
    pub(super) fn of(server: u64, address: &Address) -> Result<Arc<Self>> {
        if let Some(client) = Self::known(server) {
            return Ok(client);
        }
        let connected = Self::connect(address, &known_key(address));
        let client = connected.map_err(|error| match error.kind() {
            ErrorKind::AuthenticationFailed => {
                let message = format!(
                    "{error}; a process that is older than the manager calls `Manager::connect` with its key first"
                );
                error.with_message(message)
            }
            ErrorKind::Io if is_of_a_server_that_is_gone(&error) => gone(error),
            _ => error,
        })?;
        if client.server != server {
            return Err(gone("another one is at its address"));
        }
        Ok(client)
    }

    /// The client of a certain server, if this process has been connected to that.
    pub(super) fn known(server: u64) -> Option<Arc<Self>> {
        let clients = CLIENTS.lock();
        let mut known = clients.iter().filter_map(Weak::upgrade);
        let found = known.find(|it| it.server == server);
        drop(known);
        found
    }

    pub(super) fn server(&self) -> u64 {
        self.server
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Takes a connection that nobody uses.
    pub(super) fn take(&self) -> Result<Link> {
        let free = self.own_free().links.pop();
        free.map_or_else(|| self.open(), Ok)
    }

    /// Keeps a connection for the next call.
    pub(super) fn give_back(&self, link: Link) {
        let mut free = self.own_free();
        if link.is_broken() {
            // The others are, too.
            let links = mem::take(&mut free.links);
            drop(free);
            drop((links, link));
        } else if free.links.len() < MOST_FREE {
            free.links.push(link);
        }
    }

    fn own_free(&self) -> parking_lot::MutexGuard<'_, Free> {
        let mut free = self.free.lock();
        let process = pid::current();
        if free.process != process {
            *free = Free {
                process,
                links: Vec::new(),
            };
        }
        free
    }

    fn open(&self) -> Result<Link> {
        let opened = Link::open(&self.address, &self.key);
        let (link, Welcome { server, .. }) = opened.map_err(|error| match error.kind() {
            // The key was right before: the server has ended in the middle of the handshake.
            ErrorKind::AuthenticationFailed => gone(error),
            ErrorKind::Io if is_of_a_server_that_is_gone(&error) => gone(error),
            _ => error,
        })?;
        if server != self.server {
            return Err(gone("another one is at its address"));
        }
        Ok(link)
    }

    /// Has the server make an object, or find one.
    pub(super) fn make<A: Serialize>(
        self: &Arc<Self>,
        handler: Handler<Server>,
        argument: &A,
    ) -> Result<Reference> {
        let link = self.take()?;
        let made = passage::during(self, || ask(&link, handler, argument));
        // As long as the connection is not used again, the token in the reply holds.
        let made = made.and_then(|it| Reference::claimed(self, it));
        self.give_back(link);
        made
    }

    /// Refers to an object by the token of a proxy, for one more proxy.
    pub(super) fn claim(&self, id: u64, token: u64) -> Result<()> {
        let mut references = self.own_references();
        self.on_lifeline(&mut references, |link| {
            ask::<_, ()>(link, server::claim, &(id, token))
        })?;
        *references.counts.entry(id).or_default() += 1;
        Ok(())
    }

    /// Refers to objects by the ids and tokens of proxies that are counted already.
    pub(super) fn claim_all(&self, arrived: &[(u64, u64)]) -> Result<()> {
        let mut references = self.own_references();
        self.on_lifeline(&mut references, |link| {
            // All of them, also if some are gone: the server must know what is counted here.
            let parts = arrived.chunks(link.room_for(size_of::<(u64, u64)>()));
            let claimed = parts.map(|it| ask(link, server::claim_all, &it));
            claimed.fold(Ok(()), Result::and)
        })
    }

    /// Makes a token for a proxy that leaves this process.
    pub(super) fn pin(&self, id: u64) -> Result<u64> {
        let mut references = self.own_references();
        self.on_lifeline(&mut references, |link| ask(link, server::pin, &id))
    }

    /// Has a server drop the token of a proxy that nobody here has used.
    ///
    /// A server that this process is not connected to may be anything that bytes have named. So this takes no longer than
    /// [`DROPPED_WITHIN`], and after a failure is not done again for a while: then the token ends with its maker.
    pub(super) fn drop_token(server: u64, address: &Address, token: u64) {
        if let Some(client) = Self::known(server) {
            // A server that is gone has no tokens.
            let _ = client.unpin(token);
            return;
        }
        let is_failing = || UNREACHED.lock().is_some_and(|it| it.elapsed() < FAILING);
        if !is_failing() && unpin_at(server, address, token).is_err() {
            *UNREACHED.lock() = Some(Instant::now());
        }
    }

    fn unpin(&self, token: u64) -> Result<()> {
        let mut references = self.own_references();
        self.on_lifeline(&mut references, |link| ask(link, server::unpin, &token))
    }

    /// Counts one more proxy of an object of which there is one.
    pub(super) fn count(&self, id: u64) {
        *self.own_references().counts.entry(id).or_default() += 1;
    }

    /// Counts one proxy less. The server learns of the last.
    pub(super) fn discount(&self, id: u64) {
        let mut references = self.own_references();
        let Entry::Occupied(mut count) = references.counts.entry(id) else {
            return;
        };
        *count.get_mut() -= 1;
        if *count.get() > 0 {
            return;
        }
        count.remove();
        if let Some(lifeline) = references.lifeline.take() {
            // A server that is gone has no objects.
            let _: Result<()> = ask(&lifeline, server::release, &id);
            references.lifeline = Some(lifeline).filter(|it| !it.is_broken());
        }
    }

    fn own_references(&self) -> parking_lot::MutexGuard<'_, References> {
        let mut references = self.references.lock();
        let process = pid::current();
        if references.process != process {
            *references = References {
                process,
                ..References::default()
            };
        }
        references
    }

    fn on_lifeline<R>(
        &self,
        references: &mut References,
        call: impl FnOnce(&Link) -> Result<R>,
    ) -> Result<R> {
        let lifeline = match references.lifeline.take() {
            Some(lifeline) => lifeline,
            None => self.new_lifeline(references)?,
        };
        let outcome = call(&lifeline);
        references.lifeline = Some(lifeline).filter(|it| !it.is_broken());
        outcome
    }

    /// Opens a lifeline. If there was one that was cut, what it held is referred to again, as far as it is there.
    fn new_lifeline(&self, references: &References) -> Result<Link> {
        let link = self.open()?;
        if !references.counts.is_empty() {
            let ids: Vec<u64> = references.counts.keys().copied().collect();
            let mut parts = ids.chunks(link.room_for(size_of::<u64>()));
            parts.try_for_each(|it| ask::<_, ()>(&link, server::claim_again, &it))?;
        }
        Ok(link)
    }
}

fn unpin_at(server: u64, address: &Address, token: u64) -> Result<()> {
    let (link, welcome) = Link::open_within(address, &known_key(address), DROPPED_WITHIN)?;
    match welcome.server == server {
        true => ask(&link, server::unpin, &token),
        false => Ok(()),
    }
}

fn ask<A: Serialize, R: Wire>(link: &Link, handler: Handler<Server>, argument: &A) -> Result<R> {
    let method = Method::handler(handler)?;
    link.call(
        ROOT,
        method,
        |message| codec::encode(argument, message),
        |reply| codec::decode(reply),
    )
}

/// Not of this process, which may be out of descriptors.
fn is_of_a_server_that_is_gone(error: &Error) -> bool {
    use std::error::Error as _;
    let source = error.source().and_then(|it| it.downcast_ref::<io::Error>());
    source.is_some_and(|it| {
        let kinds = [
            io::ErrorKind::NotFound,
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::BrokenPipe,
        ];
        kinds.contains(&it.kind())
    })
}

/// What is wrong with a handle whose server is this very process, and which names something that is gone.
pub(super) fn gone_here() -> Error {
    Error::new(
        ErrorKind::Disconnected,
        "the manager's object is gone: nobody has referred to it any more",
    )
}
