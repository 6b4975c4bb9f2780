//! The client side of a server in this process: its address, idle connections, and the counts of
//! its objects' proxies.
//!
//! A copy of the process (`fork`) inherits all this with the descriptors. It closes its copies at
//! their first use and starts anew, so that two processes never share a socket.

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

/// Maximum number of idle connections that are kept.
const MAX_IDLE: usize = 16;

/// The time limit for connecting to a server only to drop a token.
const DROPPED_WITHIN: Duration = Duration::from_secs(1);

/// How long no such server is contacted after a failure.
const FAILING: Duration = Duration::from_secs(60);

/// The time of the last such failure.
static UNREACHED: Mutex<Option<Instant>> = Mutex::new(None);

/// The servers that this process has connected to.
static CLIENTS: Mutex<Vec<Weak<Client>>> = Mutex::new(Vec::new());

/// This process as a client of one server.
#[derive(Debug)]
pub(in crate::manager) struct Client {
    /// The unique name of the server.
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

/// The objects that this process refers to, and the connection by which the server counts them.
#[derive(Debug, Default)]
struct References {
    process: u32,
    ref_connection: Option<Transport>,
    /// The number of proxies of each object.
    counts: HashMap<u64, usize>,
}

impl Client {
    /// Connects to the server at an address, whichever server that is.
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
            clients.retain(|client| client.strong_count() > 0);
            clients.push(Arc::downgrade(&client));
            client
        });
        client.return_to_pool(transport);
        Ok(client)
    }

    /// Returns the client of the server with this name, after connecting if necessary.
    pub(in crate::manager) fn for_server(server: u64, address: &Address) -> Result<Arc<Self>> {
        if let Some(client) = Self::find(server) {
            return Ok(client);
        }
        let connected = Self::connect(address, &known_key(address));
        let client = connected.map_err(|error| match error.kind() {
            ErrorKind::AuthenticationFailed => {
                let message = format!(
                    "{error}; a process that started before the manager must call \
                     `Manager::connect` with its key first"
                );
                error.with_message(message)
            }
            ErrorKind::Io if is_server_gone(&error) => err_server_gone(error),
            _ => error,
        })?;
        if client.server != server {
            return Err(err_server_gone("another server uses its address"));
        }
        Ok(client)
    }

    /// Returns the client of the server with this name if this process has connected to it.
    pub(in crate::manager) fn find(server: u64) -> Option<Arc<Self>> {
        let clients = CLIENTS.lock();
        let mut known = clients.iter().filter_map(Weak::upgrade);
        let found = known.find(|client| client.server == server);
        drop(known);
        found
    }

    pub(in crate::manager) fn server(&self) -> u64 {
        self.server
    }

    pub(in crate::manager) fn address(&self) -> &Address {
        &self.address
    }

    /// Takes an idle connection, or opens a new one.
    pub(in crate::manager) fn acquire(&self) -> Result<Transport> {
        let idle = self.lock_idle().transports.pop();
        idle.map_or_else(|| self.open(), Ok)
    }

    /// Keeps a connection for later calls.
    pub(in crate::manager) fn return_to_pool(&self, transport: Transport) {
        let mut idle = self.lock_idle();
        if transport.is_broken() {
            // All connections to the same server are broken.
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
            // The key was accepted earlier: the server has exited during the handshake.
            ErrorKind::AuthenticationFailed => err_server_gone(error),
            ErrorKind::Io if is_server_gone(&error) => err_server_gone(error),
            _ => error,
        })?;
        if server != self.server {
            return Err(err_server_gone("another server uses its address"));
        }
        Ok(transport)
    }

    /// Claims an object with the token of a proxy, and counts one more proxy.
    pub(in crate::manager) fn claim(&self, id: u64, token: u64) -> Result<()> {
        let mut references = self.lock_references();
        self.with_ref_connection(&mut references, |transport| {
            call_server::<_, ()>(transport, server::claim, &(id, token))
        })?;
        *references.counts.entry(id).or_default() += 1;
        Ok(())
    }

    /// Claims objects with the ids and tokens of proxies that are already counted.
    pub(in crate::manager) fn claim_all(&self, received: &[(u64, u64)]) -> Result<()> {
        let mut references = self.lock_references();
        self.with_ref_connection(&mut references, |transport| {
            // Continues after failures: the server must know every object that is counted here.
            let parts = received.chunks(transport.batch_capacity(size_of::<(u64, u64)>()));
            let claimed = parts.map(|part| call_server(transport, server::claim_all, &part));
            claimed.fold(Ok(()), Result::and)
        })
    }

    /// Creates a token for a proxy that leaves this process.
    pub(in crate::manager) fn issue_token(&self, id: u64) -> Result<u64> {
        let mut references = self.lock_references();
        self.with_ref_connection(&mut references, |transport| {
            call_server(transport, server::issue_token, &id)
        })
    }

    /// Makes a server drop the token of a proxy that was not used here.
    ///
    /// The bytes of a proxy may name any address as its server. So connecting takes at most
    /// [`DROPPED_WITHIN`], and is not tried again for [`FAILING`] after a failure. In that case the
    /// token ends with its maker.
    pub(in crate::manager) fn drop_token(server: u64, address: &Address, token: u64) {
        if let Some(client) = Self::find(server) {
            // Fails if the server has exited, and with it the token.
            let _ = client.unpin(token);
            return;
        }
        let is_failing = || {
            UNREACHED
                .lock()
                .is_some_and(|failed_at| failed_at.elapsed() < FAILING)
        };
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

    /// Counts one more proxy of an object that is already referred to.
    pub(in crate::manager) fn increment(&self, id: u64) {
        *self.lock_references().counts.entry(id).or_default() += 1;
    }

    /// Counts one proxy less. Tells the server after the last one.
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
            // Fails if the server has exited, and with it the object.
            let _: Result<()> = call_server(&connection, server::release, &id);
            references.ref_connection =
                Some(connection).filter(|connection| !connection.is_broken());
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
        references.ref_connection = Some(connection).filter(|connection| !connection.is_broken());
        outcome
    }

    /// Opens a reference connection. Claims again the objects of a cut previous connection, as
    /// long as they exist.
    fn open_ref_connection(&self, references: &References) -> Result<Transport> {
        let transport = self.open()?;
        if !references.counts.is_empty() {
            let ids: Vec<u64> = references.counts.keys().copied().collect();
            let mut parts = ids.chunks(transport.batch_capacity(size_of::<u64>()));
            parts.try_for_each(|part| {
                call_server::<_, ()>(&transport, server::claim_again, &part)
            })?;
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

/// Whether the server is unreachable. Other errors, such as a lack of descriptors, concern this
/// process.
fn is_server_gone(error: &Error) -> bool {
    use std::error::Error as _;
    let source = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|source| {
        let kinds = [
            io::ErrorKind::NotFound,
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::ConnectionReset,
            io::ErrorKind::BrokenPipe,
        ];
        kinds.contains(&source.kind())
    })
}

/// Returns the error for a handle of this very server whose object no longer exists.
pub(in crate::manager) fn err_object_gone() -> Error {
    Error::new(
        ErrorKind::Disconnected,
        "the manager's object no longer exists: its last reference was dropped",
    )
}
