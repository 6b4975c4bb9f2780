//! What a process knows of a server: how to reach it, free connections to it, and which of its
//! objects are referred to here.
//!
//! A copy of the process (`fork`) has a copy of all this, and of the descriptors. It closes its
//! copies and starts afresh, at its first use: no two processes ever talk through one socket.

pub(super) mod call_scope;
pub(super) mod held_locks;
pub(super) mod reference;
pub(super) mod transport;

use crate::error::{Error, ErrorKind, Result};
use crate::ipc::{Address, AuthKey, known_key};
use crate::manager::{
    client::transport::{Transport, err_server_gone},
    protocol::{ROOT, Welcome},
    server::{self, Server},
};
use crate::process::function::{MethodHandler, WireMethod};
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
const MAX_IDLE: usize = 16;

/// How long it may take to reach a server to which this process only has to say that it does not
/// need something.
const DROPPED_WITHIN: Duration = Duration::from_secs(1);

/// How long no such server is tried after one was not reached.
const FAILING: Duration = Duration::from_secs(60);

/// When such a server was last not reached.
static UNREACHED: Mutex<Option<Instant>> = Mutex::new(None);

/// The servers that this process has to do with.
static CLIENTS: Mutex<Vec<Weak<Client>>> = Mutex::new(Vec::new());

/// This process as a client of one server.
#[derive(Debug)]
pub(in crate::manager) struct Client {
    /// The server's name.
    server: u64,
    address: Address,
    key: AuthKey,
    idle: Mutex<IdleTransports>,
    references: Mutex<References>,
}

#[derive(Debug, Default)]
struct IdleTransports {
    process: u32,
    transports: Vec<Transport>,
}

/// The objects that this process refers to, and the connection that the server counts them by.
#[derive(Debug, Default)]
struct References {
    process: u32,
    ref_connection: Option<Transport>,
    /// How many proxies there are of each.
    counts: HashMap<u64, usize>,
}

impl Client {
    /// Connects to whatever server is at an address.
    pub(in crate::manager) fn connect(address: &Address, key: &AuthKey) -> Result<Arc<Self>> {
        let (transport, welcome) = Transport::open(address, key)?;
        let client = Self::find(welcome.server).unwrap_or_else(|| {
            let client = Arc::new(Self {
                server: welcome.server,
                address: address.clone(),
                key: key.clone(),
                idle: Mutex::default(),
                references: Mutex::default(),
            });
            let mut clients = CLIENTS.lock();
            clients.retain(|it| it.strong_count() > 0);
            clients.push(Arc::downgrade(&client));
            client
        });
        client.return_to_pool(transport);
        Ok(client)
    }

    /// The client of a certain server that a proxy names.
    pub(in crate::manager) fn for_server(server: u64, address: &Address) -> Result<Arc<Self>> {
        if let Some(client) = Self::find(server) {
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
            ErrorKind::Io if is_server_gone(&error) => err_server_gone(error),
            _ => error,
        })?;
        if client.server != server {
            return Err(err_server_gone("another one is at its address"));
        }
        Ok(client)
    }

    /// The client of a certain server, if this process has been connected to that.
    pub(in crate::manager) fn find(server: u64) -> Option<Arc<Self>> {
        let clients = CLIENTS.lock();
        let mut known = clients.iter().filter_map(Weak::upgrade);
        let found = known.find(|it| it.server == server);
        drop(known);
        found
    }

    pub(in crate::manager) fn server(&self) -> u64 {
        self.server
    }

    pub(in crate::manager) fn address(&self) -> &Address {
        &self.address
    }

    /// Takes a connection that nobody uses.
    pub(in crate::manager) fn acquire(&self) -> Result<Transport> {
        let idle = self.lock_idle().transports.pop();
        idle.map_or_else(|| self.open(), Ok)
    }

    /// Keeps a connection for the next call.
    pub(in crate::manager) fn return_to_pool(&self, transport: Transport) {
        let mut idle = self.lock_idle();
        if transport.is_broken() {
            // The others are, too.
            let transports = mem::take(&mut idle.transports);
            drop(idle);
            drop((transports, transport));
        } else if idle.transports.len() < MAX_IDLE {
            idle.transports.push(transport);
        }
    }

    fn lock_idle(&self) -> parking_lot::MutexGuard<'_, IdleTransports> {
        let mut idle = self.idle.lock();
        let process = pid::current();
        if idle.process != process {
            *idle = IdleTransports {
                process,
                transports: Vec::new(),
            };
        }
        idle
    }

    fn open(&self) -> Result<Transport> {
        let opened = Transport::open(&self.address, &self.key);
        let (transport, Welcome { server, .. }) = opened.map_err(|error| match error.kind() {
            // The key was right before: the server has ended in the middle of the handshake.
            ErrorKind::AuthenticationFailed => err_server_gone(error),
            ErrorKind::Io if is_server_gone(&error) => err_server_gone(error),
            _ => error,
        })?;
        if server != self.server {
            return Err(err_server_gone("another one is at its address"));
        }
        Ok(transport)
    }

    /// Refers to an object by the token of a proxy, for one more proxy.
    pub(in crate::manager) fn claim(&self, id: u64, token: u64) -> Result<()> {
        let mut references = self.lock_references();
        self.with_ref_connection(&mut references, |transport| {
            call_server::<_, ()>(transport, server::claim, &(id, token))
        })?;
        *references.counts.entry(id).or_default() += 1;
        Ok(())
    }

    /// Refers to objects by the ids and tokens of proxies that are counted already.
    pub(in crate::manager) fn claim_all(&self, received: &[(u64, u64)]) -> Result<()> {
        let mut references = self.lock_references();
        self.with_ref_connection(&mut references, |transport| {
            // All of them, also if some are gone: the server must know what is counted here.
            let parts = received.chunks(transport.batch_capacity(size_of::<(u64, u64)>()));
            let claimed = parts.map(|it| call_server(transport, server::claim_all, &it));
            claimed.fold(Ok(()), Result::and)
        })
    }

    /// Makes a token for a proxy that leaves this process.
    pub(in crate::manager) fn issue_token(&self, id: u64) -> Result<u64> {
        let mut references = self.lock_references();
        self.with_ref_connection(&mut references, |transport| {
            call_server(transport, server::issue_token, &id)
        })
    }

    /// Has a server drop the token of a proxy that nobody here has used.
    ///
    /// A server that this process is not connected to may be anything that bytes have named. So
    /// this takes no longer than [`DROPPED_WITHIN`], and after a failure is not done again for a
    /// while: then the token ends with its maker.
    pub(in crate::manager) fn drop_token(server: u64, address: &Address, token: u64) {
        if let Some(client) = Self::find(server) {
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
        let mut references = self.lock_references();
        self.with_ref_connection(&mut references, |transport| {
            call_server(transport, server::unpin, &token)
        })
    }

    /// Counts one more proxy of an object of which there is one.
    pub(in crate::manager) fn increment(&self, id: u64) {
        *self.lock_references().counts.entry(id).or_default() += 1;
    }

    /// Counts one proxy less. The server learns of the last.
    pub(in crate::manager) fn decrement(&self, id: u64) {
        let mut references = self.lock_references();
        let Entry::Occupied(mut count) = references.counts.entry(id) else {
            return;
        };
        *count.get_mut() -= 1;
        if *count.get() > 0 {
            return;
        }
        count.remove();
        if let Some(connection) = references.ref_connection.take() {
            // A server that is gone has no objects.
            let _: Result<()> = call_server(&connection, server::release, &id);
            references.ref_connection = Some(connection).filter(|it| !it.is_broken());
        }
    }

    fn lock_references(&self) -> parking_lot::MutexGuard<'_, References> {
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

    fn with_ref_connection<R>(
        &self,
        references: &mut References,
        call: impl FnOnce(&Transport) -> Result<R>,
    ) -> Result<R> {
        let connection = match references.ref_connection.take() {
            Some(connection) => connection,
            None => self.open_ref_connection(references)?,
        };
        let outcome = call(&connection);
        references.ref_connection = Some(connection).filter(|it| !it.is_broken());
        outcome
    }

    /// Opens a reference connection. If there was one that was cut, what it held is referred to
    /// again, as far as it is there.
    fn open_ref_connection(&self, references: &References) -> Result<Transport> {
        let transport = self.open()?;
        if !references.counts.is_empty() {
            let ids: Vec<u64> = references.counts.keys().copied().collect();
            let mut parts = ids.chunks(transport.batch_capacity(size_of::<u64>()));
            parts.try_for_each(|it| call_server::<_, ()>(&transport, server::claim_again, &it))?;
        }
        Ok(transport)
    }
}

fn unpin_at(server: u64, address: &Address, token: u64) -> Result<()> {
    let (transport, welcome) =
        Transport::open_within(address, &known_key(address), DROPPED_WITHIN)?;
    match welcome.server == server {
        true => call_server(&transport, server::unpin, &token),
        false => Ok(()),
    }
}

pub(in crate::manager) fn call_server<A: Serialize, R: Wire>(
    transport: &Transport,
    handler: MethodHandler<Server>,
    argument: &A,
) -> Result<R> {
    let method = WireMethod::handler(handler)?;
    transport.call(
        ROOT,
        method,
        |message| codec::encode(argument, message),
        |reply| codec::decode(reply),
    )
}

/// Not of this process, which may be out of descriptors.
fn is_server_gone(error: &Error) -> bool {
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

/// What is wrong with a handle whose server is this very process, and which names something that is
/// gone.
pub(in crate::manager) fn err_object_gone() -> Error {
    Error::new(
        ErrorKind::Disconnected,
        "the manager's object is gone: nobody has referred to it any more",
    )
}
