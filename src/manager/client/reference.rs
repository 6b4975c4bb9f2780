//! The common part of all proxies: a reference to an object of a server, and the calls through it.

use crate::error::Result;
use crate::ipc::Address;
use crate::manager::{
    client::call_scope,
    client::transport::Transport,
    client::{Client, call_server, err_object_gone},
    server::{Guarded, Server, ServerObject},
};
use crate::process::function::{MethodHandler, WireMethod};
use crate::shm::Cursor;
use crate::sys::pid;
use crate::wire::{
    Wire,
    codec::{self, CodecErrorText},
    handle,
};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};
use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// A reference to an object, which keeps the object alive.
#[derive(Clone)]
pub(in crate::manager) struct Reference(RefTarget);

#[derive(Clone)]
enum RefTarget {
    /// An object in another process.
    Remote(RemoteRef),
    /// An object in another process. This process was not connected to it when the reference
    /// arrived.
    Unused(Arc<Arrival>),
    /// An object in this process, which is its server.
    Local(&'static Server, Arc<ServerObject>),
}

struct RemoteRef {
    client: Arc<Client>,
    id: u64,
    /// The process in which the server counts this reference. Not a copy of that process until the
    /// copy uses the reference.
    ///
    /// | value | meaning |
    /// |---|---|
    /// | own id | counted |
    /// | another | counted in the process that this one is a copy of |
    /// | 0 | not counted |
    counted_in: AtomicU32,
}

/// A reference that has arrived, and the token that keeps its object until the first use. Clones
/// share it.
struct Arrival {
    wire: WireRef,
    /// The process that owns the token. A copy of that process claims the object by its id instead.
    process: u32,
    remote: OnceLock<RemoteRef>,
    /// Held by the thread that uses the reference first.
    first_use: Mutex<()>,
}

/// Stands for a missing token: the id alone identifies the object.
const NO_TOKEN: u64 = 0;

/// The wire form of a reference.
#[derive(Serialize, Deserialize)]
struct WireRef {
    server: u64,
    id: u64,
    /// Keeps the object until the reference arrives.
    token: u64,
    address: Address,
}

impl Reference {
    /// Makes the server create or find an object.
    pub(in crate::manager) fn create<A: Serialize>(
        client: &Arc<Client>,
        handler: MethodHandler<Server>,
        argument: &A,
    ) -> Result<Self> {
        let transport = client.acquire()?;
        let made = call_scope::enter(client, || call_server(&transport, handler, argument));
        // The token in the reply is valid until the connection is used again.
        let claimed = made.and_then(|reply| Self::claim(client, reply));
        client.return_to_pool(transport);
        claimed
    }

    /// Claims the object in a server's reply.
    pub(in crate::manager) fn claim(client: &Arc<Client>, (id, token): (u64, u64)) -> Result<Self> {
        client.claim(id, token)?;
        Ok(Self::from_counted(Arc::clone(client), id))
    }

    /// Returns a reference that the process already counts.
    pub(in crate::manager) fn from_counted(client: Arc<Client>, id: u64) -> Self {
        Self(RefTarget::Remote(RemoteRef::counted(client, id)))
    }

    fn from_wire(wire: WireRef) -> Result<Self> {
        let WireRef {
            server, id, token, ..
        } = wire;
        if let Some(local) = Server::current().filter(|current| current.name() == server) {
            let object = local.claim(id, token);
            return Ok(Self(RefTarget::Local(
                local,
                object.ok_or_else(err_object_gone)?,
            )));
        }
        if let Some(reference) = call_scope::track_received(server, id, token) {
            return Ok(reference);
        }
        // The address comes from received bytes and is not trusted. The object is claimed at once
        // only if this process is already connected to its server.
        let claimed = Client::find(server).map(|client| Self::claim(&client, (id, token)));
        if let Some(Ok(reference)) = claimed {
            return Ok(reference);
        }
        Ok(Self(RefTarget::Unused(Arc::new(Arrival::new(wire)))))
    }

    fn to_wire(&self) -> Result<WireRef> {
        let (server, id) = self.identity();
        let (token, address) = match &self.0 {
            RefTarget::Local(server, object) => {
                let is_of_a_reply = handle::audience() == server.name();
                let token = match is_of_a_reply {
                    true => server.issue_reply_token(object),
                    false => server.issue_token(object),
                };
                (token, server.address())
            }
            RefTarget::Remote(remote) => self.pin(remote)?,
            RefTarget::Unused(arrival) => self.pin(arrival.there()?)?,
        };
        let address = address.clone();
        Ok(WireRef {
            server,
            id,
            token,
            address,
        })
    }

    /// Keeps the object until this reference arrives elsewhere. Returns its token and its server's
    /// address.
    fn pin<'a>(&self, remote: &'a RemoteRef) -> Result<(u64, &'a Address)> {
        remote.ensure_counted()?;
        let client = &remote.client;
        let token = match call_scope::track_sent(self, client.server()) {
            true => NO_TOKEN,
            false => client.issue_token(remote.id)?,
        };
        Ok((token, client.address()))
    }

    /// Returns the name of the server and the id of the object.
    pub(in crate::manager) fn identity(&self) -> (u64, u64) {
        match &self.0 {
            RefTarget::Remote(remote) => (remote.client.server(), remote.id),
            RefTarget::Unused(arrival) => (arrival.wire.server, arrival.wire.id),
            RefTarget::Local(server, object) => (server.name(), object.id()),
        }
    }

    /// Takes a connection to the object, for as long as the result lives.
    pub(in crate::manager) fn connect(&self) -> Result<ObjectConnection> {
        let (transport, client) = match &self.0 {
            RefTarget::Local(server, _) => (Transport::local(server), None),
            RefTarget::Remote(remote) => remote.connection()?,
            RefTarget::Unused(arrival) => arrival.there()?.connection()?,
        };
        Ok(ObjectConnection {
            transport: Some(transport),
            client,
            id: self.identity().1,
            process: pid::current(),
        })
    }

    /// Calls a method. The caller encodes the argument and decodes the result.
    #[inline]
    pub(in crate::manager) fn call<R>(
        &self,
        method: WireMethod,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecErrorText>,
        decode: impl FnOnce(&mut Cursor<'_>) -> Result<R, CodecErrorText>,
    ) -> Result<R> {
        self.connect()?.call(method, encode, decode)
    }

    /// Calls a handler of this crate.
    #[inline]
    pub(in crate::manager) fn ask<O: 'static, A: Serialize, R: Wire>(
        &self,
        handler: MethodHandler<O>,
        argument: &A,
    ) -> Result<R> {
        self.connect()?.ask(handler, argument)
    }

    /// Calls a plain function on a value, with exclusive access to it.
    #[inline]
    pub(in crate::manager) fn apply<T, A, R>(
        &self,
        f: fn(&mut T, A) -> R,
        argument: &A,
    ) -> Result<R>
    where
        T: Send + 'static,
        A: Wire,
        R: Wire,
    {
        self.call(
            WireMethod::of_user::<Guarded<T>, T, A, R>(f)?,
            |message| codec::encode(argument, message),
            |reply| codec::decode(reply),
        )
    }
}

impl Arrival {
    fn new(wire: WireRef) -> Self {
        Self {
            wire,
            process: pid::current(),
            remote: OnceLock::new(),
            first_use: Mutex::new(()),
        }
    }

    /// Returns the token if it belongs to this process.
    fn token(&self) -> u64 {
        match self.process == pid::current() {
            true => self.wire.token,
            false => NO_TOKEN,
        }
    }

    /// Returns the remote object, after the server was told about this reference.
    fn there(&self) -> Result<&RemoteRef> {
        self.remote.get().map_or_else(|| self.claim(), Ok)
    }

    #[cold]
    fn claim(&self) -> Result<&RemoteRef> {
        let _first_use = self.first_use.lock();
        if let Some(remote) = self.remote.get() {
            return Ok(remote);
        }
        let client = Client::for_server(self.wire.server, &self.wire.address)?;
        client.claim(self.wire.id, self.token())?;
        Ok(self
            .remote
            .get_or_init(|| RemoteRef::counted(client, self.wire.id)))
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let (is_unused, token) = (self.remote.get().is_none(), self.token());
        if is_unused && token != NO_TOKEN {
            Client::drop_token(self.wire.server, &self.wire.address, token);
        }
    }
}

impl RemoteRef {
    /// Returns a remote object that the process already counts.
    fn counted(client: Arc<Client>, id: u64) -> Self {
        Self {
            client,
            id,
            counted_in: AtomicU32::new(pid::current()),
        }
    }

    /// Takes a connection for exclusive use, and its client.
    #[inline]
    fn connection(&self) -> Result<(Transport, Option<Arc<Client>>)> {
        self.ensure_counted()?;
        Ok((self.client.acquire()?, Some(Arc::clone(&self.client))))
    }

    /// Makes the server count this reference in this process.
    #[inline]
    fn ensure_counted(&self) -> Result<()> {
        // Relaxed: a reader of its own id is the writer, or got the reference from the writer.
        if self.counted_in.load(Ordering::Relaxed) == pid::current() {
            return Ok(());
        }
        self.count_here()
    }

    #[cold]
    fn count_here(&self) -> Result<()> {
        self.client.claim(self.id, NO_TOKEN)?;
        if self.counted_in.swap(pid::current(), Ordering::Relaxed) == pid::current() {
            // Another thread counted the reference first.
            self.client.decrement(self.id);
        }
        Ok(())
    }

    fn is_counted(&self) -> bool {
        self.counted_in.load(Ordering::Relaxed) == pid::current()
    }
}

impl Clone for RemoteRef {
    fn clone(&self) -> Self {
        let is_counted = self.is_counted();
        if is_counted {
            self.client.increment(self.id);
        }
        let counted_in = if is_counted { pid::current() } else { 0 };
        Self {
            client: Arc::clone(&self.client),
            id: self.id,
            counted_in: AtomicU32::new(counted_in),
        }
    }
}

impl Drop for RemoteRef {
    fn drop(&mut self) {
        if self.is_counted() {
            self.client.decrement(self.id);
        }
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let wire = self.to_wire().map_err(S::Error::custom)?;
        wire.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = WireRef::deserialize(deserializer)?;
        Self::from_wire(wire).map_err(D::Error::custom)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = match &self.0 {
            RefTarget::Remote(remote) => remote.client.address(),
            RefTarget::Unused(arrival) => &arrival.wire.address,
            RefTarget::Local(server, _) => server.address(),
        };
        write!(f, "object {} of {address}", self.identity().1)
    }
}

/// A connection to an object, for exclusive use.
#[derive(Debug)]
pub(in crate::manager) struct ObjectConnection {
    /// `None` only during the drop.
    transport: Option<Transport>,
    client: Option<Arc<Client>>,
    id: u64,
    process: u32,
}

impl ObjectConnection {
    #[inline]
    pub(in crate::manager) fn call<R>(
        &self,
        method: WireMethod,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecErrorText>,
        decode: impl FnOnce(&mut Cursor<'_>) -> Result<R, CodecErrorText>,
    ) -> Result<R> {
        let transport = self.transport.as_ref().expect("only `drop` takes it");
        let call = || transport.call(self.id, method, encode, decode);
        match &self.client {
            Some(client) => call_scope::enter(client, call),
            None => call(),
        }
    }

    #[inline]
    pub(in crate::manager) fn ask<O: 'static, A: Serialize, R: Wire>(
        &self,
        handler: MethodHandler<O>,
        argument: &A,
    ) -> Result<R> {
        self.call(
            WireMethod::handler(handler)?,
            |message| codec::encode(argument, message),
            |reply| codec::decode(reply),
        )
    }

    /// Whether this process took the connection, not the process that this one is a copy of.
    pub(in crate::manager) fn is_of_this_process(&self) -> bool {
        self.process == pid::current()
    }
}

impl Drop for ObjectConnection {
    fn drop(&mut self) {
        if let (Some(transport), Some(client)) = (self.transport.take(), &self.client)
            && self.is_of_this_process()
        {
            client.return_to_pool(transport);
        }
    }
}
