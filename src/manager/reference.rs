//! What all proxies are made of: an object of a server, and how it is called from here.

use super::{
    client::{Client, gone_here},
    link::Link,
    passage,
    server::{Guarded, Object, Server},
};
use crate::error::Result;
use crate::ipc::Address;
use crate::process::function::{Handler, Method};
use crate::shm::Cursor;
use crate::sys::pid;
use crate::wire::{
    Wire,
    codec::{self, Reason},
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
pub(super) struct Reference(Place);

#[derive(Clone)]
enum Place {
    /// In another process.
    There(There),
    /// In another process to which this one was not connected when the reference arrived.
    Unused(Arc<Arrival>),
    /// In this one, which is its server.
    Here(&'static Server, Arc<Object>),
}

struct There {
    client: Arc<Client>,
    id: u64,
    /// The process in which the server counts this reference: not a copy of it, until it is used there.
    ///
    /// | value | meaning |
    /// |---|---|
    /// | own id | counted |
    /// | another | counted in the process that this one is a copy of |
    /// | 0 | counted nowhere |
    counted_in: AtomicU32,
}

/// A reference that has arrived, and the token that keeps its object until the first use. Clones share it.
struct Arrival {
    ticket: Ticket,
    /// The process whose token it is: not a copy of it, which asks for the object by its id.
    process: u32,
    there: OnceLock<There>,
    /// Held by the thread that uses it first.
    first_use: Mutex<()>,
}

/// Stands for none: the id alone counts.
const NO_TOKEN: u64 = 0;

/// A reference as it travels.
#[derive(Serialize, Deserialize)]
struct Ticket {
    server: u64,
    id: u64,
    /// Keeps the object until the reference has arrived.
    token: u64,
    address: Address,
}

impl Reference {
    /// The one that a server has answered with.
    pub(super) fn claimed(client: &Arc<Client>, (id, token): (u64, u64)) -> Result<Self> {
        client.claim(id, token)?;
        Ok(Self::counted(Arc::clone(client), id))
    }

    /// One that the process counts already.
    pub(super) fn counted(client: Arc<Client>, id: u64) -> Self {
        Self(Place::There(There::counted(client, id)))
    }

    fn arrived(ticket: Ticket) -> Result<Self> {
        let Ticket {
            server, id, token, ..
        } = ticket;
        if let Some(here) = Server::here().filter(|it| it.name() == server) {
            let object = here.claim(id, token);
            return Ok(Self(Place::Here(here, object.ok_or_else(gone_here)?)));
        }
        if let Some(reference) = passage::receives(server, id, token) {
            return Ok(reference);
        }
        // Nobody knows yet what is at the address. Where this process is connected to the server, it is claimed at once.
        let claimed = Client::known(server).map(|it| Self::claimed(&it, (id, token)));
        if let Some(Ok(reference)) = claimed {
            return Ok(reference);
        }
        Ok(Self(Place::Unused(Arc::new(Arrival::new(ticket)))))
    }

    fn leave(&self) -> Result<Ticket> {
        let (server, id) = self.identity();
        let (token, address) = match &self.0 {
            Place::Here(server, object) => {
                let is_of_a_reply = handle::audience() == server.name();
                let token = match is_of_a_reply {
                    true => server.pin_for_reply(object),
                    false => server.pin(object),
                };
                (token, server.address())
            }
            Place::There(there) => self.pin(there)?,
            Place::Unused(arrival) => self.pin(arrival.there()?)?,
        };
        let address = address.clone();
        Ok(Ticket {
            server,
            id,
            token,
            address,
        })
    }

    /// Keeps the object until this has arrived elsewhere: its token, and where its server is.
    fn pin<'a>(&self, there: &'a There) -> Result<(u64, &'a Address)> {
        there.ensure_counted()?;
        let client = &there.client;
        let token = match passage::sends(self, client.server()) {
            true => NO_TOKEN,
            false => client.pin(there.id)?,
        };
        Ok((token, client.address()))
    }

    /// The names of its server and of the object there.
    pub(super) fn identity(&self) -> (u64, u64) {
        match &self.0 {
            Place::There(there) => (there.client.server(), there.id),
            Place::Unused(arrival) => (arrival.ticket.server, arrival.ticket.id),
            Place::Here(server, object) => (server.name(), object.id()),
        }
    }

    /// Takes a connection to the object, for as long as the result lives.
    pub(super) fn hold(&self) -> Result<Held> {
        let (link, client) = match &self.0 {
            Place::Here(server, _) => (Link::here(server), None),
            Place::There(there) => there.connection()?,
            Place::Unused(arrival) => arrival.there()?.connection()?,
        };
        Ok(Held {
            link: Some(link),
            client,
            id: self.identity().1,
            process: pid::current(),
        })
    }

    /// Calls a method, with an argument and a result that the caller takes care of.
    #[inline]
    pub(super) fn call<R>(
        &self,
        method: Method,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), Reason>,
        decode: impl FnOnce(&mut Cursor<'_>) -> Result<R, Reason>,
    ) -> Result<R> {
        self.hold()?.call(method, encode, decode)
    }

    /// Calls a function of this crate's.
    #[inline]
    pub(super) fn ask<O: 'static, A: Serialize, R: Wire>(
        &self,
        handler: Handler<O>,
        argument: &A,
    ) -> Result<R> {
        self.hold()?.ask(handler, argument)
    }

    /// Calls a plain function on a value that its users take turns at.
    #[inline]
    pub(super) fn apply<T, A, R>(&self, f: fn(&mut T, A) -> R, argument: &A) -> Result<R>
    where
        T: Send + 'static,
        A: Wire,
        R: Wire,
    {
        self.call(
            Method::of_user::<Guarded<T>, T, A, R>(f)?,
            |message| codec::encode(argument, message),
            |reply| codec::decode(reply),
        )
    }
}

impl Arrival {
    fn new(ticket: Ticket) -> Self {
        Self {
            ticket,
            process: pid::current(),
            there: OnceLock::new(),
            first_use: Mutex::new(()),
        }
    }

    /// The token, if it is this process's.
    fn token(&self) -> u64 {
        match self.process == pid::current() {
            true => self.ticket.token,
            false => NO_TOKEN,
        }
    }

    /// Its place, which the server has been told of.
    fn there(&self) -> Result<&There> {
        self.there.get().map_or_else(|| self.claim(), Ok)
    }

    #[cold]
    fn claim(&self) -> Result<&There> {
        let _first_use = self.first_use.lock();
        if let Some(there) = self.there.get() {
            return Ok(there);
        }
        let client = Client::of(self.ticket.server, &self.ticket.address)?;
        client.claim(self.ticket.id, self.token())?;
        Ok(self
            .there
            .get_or_init(|| There::counted(client, self.ticket.id)))
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let (is_unused, token) = (self.there.get().is_none(), self.token());
        if is_unused && token != NO_TOKEN {
            Client::drop_token(self.ticket.server, &self.ticket.address, token);
        }
    }
}

impl There {
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
    fn connection(&self) -> Result<(Link, Option<Arc<Client>>)> {
        self.ensure_counted()?;
        Ok((self.client.take()?, Some(Arc::clone(&self.client))))
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
            self.client.discount(self.id);
        }
        Ok(())
    }

    fn is_counted(&self) -> bool {
        self.counted_in.load(Ordering::Relaxed) == pid::current()
    }
}

impl Clone for There {
    fn clone(&self) -> Self {
        let is_counted = self.is_counted();
        if is_counted {
            self.client.count(self.id);
        }
        let counted_in = if is_counted { pid::current() } else { 0 };
        Self {
            client: Arc::clone(&self.client),
            id: self.id,
            counted_in: AtomicU32::new(counted_in),
        }
    }
}

impl Drop for There {
    fn drop(&mut self) {
        if self.is_counted() {
            self.client.discount(self.id);
        }
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ticket = self.leave().map_err(S::Error::custom)?;
        ticket.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ticket = Ticket::deserialize(deserializer)?;
        Self::arrived(ticket).map_err(D::Error::custom)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = match &self.0 {
            Place::There(there) => there.client.address(),
            Place::Unused(arrival) => &arrival.ticket.address,
            Place::Here(server, _) => server.address(),
        };
        write!(f, "object {} of {address}", self.identity().1)
    }
}

/// A connection to an object that nobody else uses meanwhile.
#[derive(Debug)]
pub(super) struct Held {
    /// None only while it is dropped.
    link: Option<Link>,
    client: Option<Arc<Client>>,
    id: u64,
    process: u32,
}

impl Held {
    #[inline]
    pub(super) fn call<R>(
        &self,
        method: Method,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), Reason>,
        decode: impl FnOnce(&mut Cursor<'_>) -> Result<R, Reason>,
    ) -> Result<R> {
        let link = self.link.as_ref().expect("only `drop` takes it");
        let call = || link.call(self.id, method, encode, decode);
        match &self.client {
            Some(client) => passage::during(client, call),
            None => call(),
        }
    }

    #[inline]
    pub(super) fn ask<O: 'static, A: Serialize, R: Wire>(
        &self,
        handler: Handler<O>,
        argument: &A,
    ) -> Result<R> {
        self.call(
            Method::handler(handler)?,
            |message| codec::encode(argument, message),
            |reply| codec::decode(reply),
        )
    }

    /// Whether this process has it, and not the one that this is a copy of.
    pub(super) fn is_own(&self) -> bool {
        self.process == pid::current()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let (Some(link), Some(client)) = (self.link.take(), &self.client)
            && self.is_own()
        {
            client.give_back(link);
        }
    }
}
