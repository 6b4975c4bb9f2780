//! What all proxies are made of: an object of a server, and how it is called from here.

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

/// A reference to an object, which lives as long as there is one.
#[derive(Clone)]
pub(in crate::manager) struct Reference(RefTarget);

#[derive(Clone)]
enum RefTarget {
    /// In another process.
    Remote(RemoteRef),
    /// In another process to which this one was not connected when the reference arrived.
    Unused(Arc<Arrival>),
    /// In this one, which is its server.
    Local(&'static Server, Arc<ServerObject>),
}

struct RemoteRef {
    client: Arc<Client>,
    id: u64,
    /// The process in which the server counts this reference: not a copy of it, until it is used
    /// there.
    ///
    /// | value | meaning |
    /// |---|---|
    /// | own id | counted |
    /// | another | counted in the process that this one is a copy of |
    /// | 0 | counted nowhere |
    counted_in: AtomicU32,
}

/// A reference that has arrived, and the token that keeps its object until the first use. Clones
/// share it.
struct Arrival {
    wire: WireRef,
    /// The process whose token it is: not a copy of it, which asks for the object by its id.
    process: u32,
    remote: OnceLock<RemoteRef>,
    /// Held by the thread that uses it first.
    first_use: Mutex<()>,
}

/// Stands for none: the id alone counts.
const NO_TOKEN: u64 = 0;

/// A reference as it travels.
#[derive(Serialize, Deserialize)]
struct WireRef {
    server: u64,
    id: u64,
    /// Keeps the object until the reference has arrived.
    token: u64,
    address: Address,
}

impl Reference {
    /// Has the server make an object, or find one.
    pub(in crate::manager) fn create<A: Serialize>(
        client: &Arc<Client>,
        handler: MethodHandler<Server>,
        argument: &A,
    ) -> Result<Self> {
        let transport = client.acquire()?;
        let made = call_scope::enter(client, || call_server(&transport, handler, argument));
        // As long as the connection is not used again, the token in the reply holds.
        let made = made.and_then(|it| Self::claim(client, it));
        client.return_to_pool(transport);
        made
    }

    /// The one that a server has answered with.
    pub(in crate::manager) fn claim(client: &Arc<Client>, (id, token): (u64, u64)) -> Result<Self> {
        client.claim(id, token)?;
        Ok(Self::from_counted(Arc::clone(client), id))
    }

    /// One that the process counts already.
    pub(in crate::manager) fn from_counted(client: Arc<Client>, id: u64) -> Self {
        Self(RefTarget::Remote(RemoteRef::counted(client, id)))
    }

    fn from_wire(wire: WireRef) -> Result<Self> {
        let WireRef {
            server, id, token, ..
        } = wire;
        if let Some(local) = Server::current().filter(|it| it.name() == server) {
            let object = local.claim(id, token);
            return Ok(Self(RefTarget::Local(
                local,
                object.ok_or_else(err_object_gone)?,
            )));
        }
        if let Some(reference) = call_scope::track_received(server, id, token) {
            return Ok(reference);
        }
        // Nobody knows yet what is at the address. Where this process is connected to the server,
        // it is claimed at once.
        let claimed = Client::find(server).map(|it| Self::claim(&it, (id, token)));
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

    /// Keeps the object until this has arrived elsewhere: its token, and where its server is.
    fn pin<'a>(&self, remote: &'a RemoteRef) -> Result<(u64, &'a Address)> {
        remote.ensure_counted()?;
        let client = &remote.client;
        let token = match call_scope::track_sent(self, client.server()) {
            true => NO_TOKEN,
            false => client.issue_token(remote.id)?,
        };
        Ok((token, client.address()))
    }

    /// The names of its server and of the object there.
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

    /// Calls a method, with an argument and a result that the caller takes care of.
    #[inline]
    pub(in crate::manager) fn call<R>(
        &self,
        method: WireMethod,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), CodecErrorText>,
        decode: impl FnOnce(&mut Cursor<'_>) -> Result<R, CodecErrorText>,
    ) -> Result<R> {
        self.connect()?.call(method, encode, decode)
    }

    /// Calls a function of this crate's.
    #[inline]
    pub(in crate::manager) fn ask<O: 'static, A: Serialize, R: Wire>(
        &self,
        handler: MethodHandler<O>,
        argument: &A,
    ) -> Result<R> {
        self.connect()?.ask(handler, argument)
    }

    /// Calls a plain function on a value that its users take turns at.
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

    /// The token, if it is this process's.
    fn token(&self) -> u64 {
        match self.process == pid::current() {
            true => self.wire.token,
            false => NO_TOKEN,
        }
    }

    /// Its place, which the server has been told of.
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
    /// One that the process counts already.
    fn counted(client: Arc<Client>, id: u64) -> Self {
        Self {
            client,
            id,
            counted_in: AtomicU32::new(pid::current()),
        }
    }

    /// A connection that nobody else uses meanwhile, and whose it is.
    #[inline]
    fn connection(&self) -> Result<(Transport, Option<Arc<Client>>)> {
        self.ensure_counted()?;
        Ok((self.client.acquire()?, Some(Arc::clone(&self.client))))
    }

    /// Sees to it that the server counts this reference in this process.
    #[inline]
    fn ensure_counted(&self) -> Result<()> {
        // Relaxed: whoever reads the own id has written it, or has got the reference from who has.
        if self.counted_in.load(Ordering::Relaxed) == pid::current() {
            return Ok(());
        }
        self.count_here()
    }

    #[cold]
    fn count_here(&self) -> Result<()> {
        self.client.claim(self.id, NO_TOKEN)?;
        if self.counted_in.swap(pid::current(), Ordering::Relaxed) == pid::current() {
            // Another thread was faster.
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

/// A connection to an object that nobody else uses meanwhile.
#[derive(Debug)]
pub(in crate::manager) struct ObjectConnection {
    /// None only while it is dropped.
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

    /// Whether this process has it, and not the one that this is a copy of.
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
