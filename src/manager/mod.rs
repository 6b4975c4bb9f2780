//! Objects in a server process, and the proxies that use them from anywhere.
//!
//! Start with [`Manager`].

// ```text
// proxies/                       a method of a proxy: which function, with what argument
//   client/reference.rs          which object; client/call_scope.rs: those in argument and result
//     client/mod.rs              a free connection to its server; client/transport.rs: one call
//   -------- server --------
//   server/connection.rs         the thread of the connection
//     server/mod.rs              the object that is meant
//       process/function/        the function: decodes, waits for its turn, acts, encodes
// proxies/                       the server's side of the method, in the same file
// ```
//
// Relies on: a server that is a process of this program, so that it has every function and type;
// connections that both ends authenticate. README.md has the states, the deaths and the protocol.
//
// Invariant: the death of a client costs the others only the notice of it. The others do not notice
// what a client sends.

mod builder;
mod client;
mod protocol;
mod proxies;
mod server;

pub use builder::ManagerBuilder;
pub use proxies::barrier::BarrierProxy;
pub use proxies::condition::{ConditionProxy, ConditionProxyGuard};
pub use proxies::dict::DictProxy;
pub use proxies::event::EventProxy;
pub use proxies::list::ListProxy;
pub use proxies::lock::{LockProxy, ProxyGuard, RLockProxy};
pub use proxies::namespace::Namespace;
pub use proxies::object::Proxy;
pub use proxies::queue::{JoinableQueueProxy, QueueProxy};
pub use proxies::semaphore::{BoundedSemaphoreProxy, SemaphoreProxy};
pub use proxies::value::{ArrayProxy, ValueProxy};
#[cfg(fuzzing)]
pub(crate) use server::fuzzing::REQUESTS;

use crate::error::Result;
use crate::ipc::{Address, AuthKey, remember_key};
use crate::process::function::MethodHandler;
use crate::wire::Wire;
use client::{Client, reference::Reference};
use proxies::{barrier, condition, dict, event, list, lock, namespace, object, queue, semaphore};
use serde::Serialize;
use server::Server;
use std::{fmt, sync::Arc};

/// A server process with objects that any process can use, and the way to make them.
///
/// Each object is used through a proxy, which can be an argument or a result of a process or a
/// task, a part of a message, or lie in another object: it means the same object wherever it goes.
/// An object lives as long as there is a proxy of it, in any process or another object. A proxy
/// that arrives in a process connects to nothing: its first call does, and fails if the server is
/// not there or its key is another. Until then what keeps the object is the sender's: it goes an
/// hour after that has ended, and stays if the receiver is killed. Calls that block hold up nobody
/// else: neither other threads of the same process nor other clients nor other objects.
///
/// The server that [`main`](Self::main) has started ends with the manager that was returned, and
/// with this process, however that ends; then every call of a proxy is
/// [`Disconnected`](crate::ErrorKind::Disconnected). A client that dies takes nothing along but its
/// own references and locks. A `static` manager, and proxies in a `static`, work in copies of the
/// process ([`StartMethod::Fork`](crate::StartMethod::Fork)), which connect anew. Client and server
/// must be the same build of one program.
///
/// ```
/// use procpool::{DictProxy, Manager, Process};
///
/// fn square(table: DictProxy<u64, u64>, number: u64) -> bool {
///     table.insert(number, number * number).is_ok()
/// }
///
/// let manager = Manager::start()?;
/// let table = manager.dict()?;
/// let mut processes = Vec::new();
/// for number in 0..3 {
///     processes.push(Process::start(|(table, number)| square(table, number), (table.clone(), number))?);
/// }
/// processes.into_iter().try_for_each(|it| it.result().map(drop))?;
/// assert_eq!((table.len()?, table.get(&2)?), (3, Some(4)));
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Manager {
    client: Arc<Client>,
    address: Address,
    server: Option<Arc<builder::OwnedServer>>,
}

impl Manager {
    /// Starts a server at a Unix socket of its own, with the [key](crate::authkey) of this process.
    ///
    /// # Errors
    ///
    /// As [`ManagerBuilder::main`].
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// As [`main`](Self::main), with settings.
    pub fn builder() -> ManagerBuilder {
        ManagerBuilder::new()
    }

    /// Connects to a server that was started elsewhere. Dropping this manager leaves that running.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) when nobody listens at the address,
    /// [`AuthenticationFailed`](crate::ErrorKind::AuthenticationFailed) for another key,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when the server is another build of the
    /// program, [`Full`](crate::ErrorKind::Full) when it has as many clients as it may.
    pub fn connect(address: impl Into<Address>, authkey: AuthKey) -> Result<Self> {
        let address = address.into();
        let client = Client::connect(&address, &authkey)?;
        remember_key(&address, &authkey);
        Ok(Self {
            client,
            address,
            server: None,
        })
    }

    /// Where the server listens, with the port that was free if any was asked for.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The id of the server's process, if this manager has started it.
    #[must_use]
    pub fn server_pid(&self) -> Option<u32> {
        self.server.as_ref().map(|it| it.pid())
    }

    /// The namespace that the server has from the start, where those who [`connect`](Self::connect)
    /// find proxies.
    ///
    /// # Errors
    ///
    /// [`Disconnected`](crate::ErrorKind::Disconnected) when the server is gone, here and wherever
    /// objects are made.
    pub fn globals(&self) -> Result<Namespace> {
        self.make(server::find_globals, &()).map(Namespace::new)
    }

    /// Makes a list.
    pub fn list<T: Wire + Send + 'static>(&self) -> Result<ListProxy<T>> {
        self.make(list::create::<T>, &()).map(ListProxy::new)
    }

    /// Makes a dict.
    pub fn dict<K, V>(&self) -> Result<DictProxy<K, V>>
    where
        K: Wire + Send + 'static,
        V: Wire + Send + 'static,
    {
        self.make(dict::create::<K, V>, &()).map(DictProxy::new)
    }

    /// Makes a namespace.
    pub fn namespace(&self) -> Result<Namespace> {
        self.make(namespace::create, &()).map(Namespace::new)
    }

    /// Makes a queue with room for so many items, `usize::MAX` for any number.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for none.
    pub fn queue<T: Wire + Send + 'static>(&self, capacity: usize) -> Result<QueueProxy<T>> {
        self.make(queue::create::<T>, &capacity)
            .map(QueueProxy::new)
    }

    /// Makes a queue that knows when everything is done.
    ///
    /// # Errors
    ///
    /// As [`queue`](Self::queue).
    pub fn joinable_queue<T>(&self, capacity: usize) -> Result<JoinableQueueProxy<T>>
    where
        T: Wire + Send + 'static,
    {
        let queue = self.make(queue::create::<T>, &capacity);
        queue.map(JoinableQueueProxy::new)
    }

    /// Makes a lock.
    pub fn lock(&self) -> Result<LockProxy> {
        self.make(lock::create, &()).map(LockProxy::new)
    }

    /// Makes a lock that the thread which holds it may take again.
    pub fn rlock(&self) -> Result<RLockProxy> {
        self.make(lock::create, &()).map(RLockProxy::new)
    }

    /// Makes a semaphore with so many permits.
    pub fn semaphore(&self, permits: usize) -> Result<SemaphoreProxy> {
        self.make(semaphore::create, &permits)
            .map(SemaphoreProxy::new)
    }

    /// Makes a semaphore with so many permits and never more.
    pub fn bounded_semaphore(&self, permits: usize) -> Result<BoundedSemaphoreProxy> {
        let semaphore = self.make(semaphore::create_bounded, &permits);
        semaphore.map(BoundedSemaphoreProxy::new)
    }

    /// Makes a condition, with its lock.
    pub fn condition(&self) -> Result<ConditionProxy> {
        self.make(condition::create, &()).map(ConditionProxy::new)
    }

    /// Makes an event that is not set.
    pub fn event(&self) -> Result<EventProxy> {
        self.make(event::create, &()).map(EventProxy::new)
    }

    /// Makes a barrier for so many parties.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for none, and for more than a million.
    pub fn barrier(&self, parties: usize) -> Result<BarrierProxy> {
        self.make(barrier::create, &parties).map(BarrierProxy::new)
    }

    /// Makes a value.
    ///
    /// # Errors
    ///
    /// [`Codec`](crate::ErrorKind::Codec) when it cannot be encoded.
    pub fn value<T: Wire + Send + 'static>(&self, value: T) -> Result<ValueProxy<T>> {
        self.make(object::create::<T>, &value).map(ValueProxy::new)
    }

    /// Makes an array of these items.
    ///
    /// # Errors
    ///
    /// [`Codec`](crate::ErrorKind::Codec) when they cannot be encoded.
    pub fn array<T: Wire + Send + 'static>(&self, items: Vec<T>) -> Result<ArrayProxy<T>> {
        let array = self.make(object::create::<Vec<T>>, &items);
        array.map(ArrayProxy::new)
    }

    /// Makes an object of any type, which is sent to the server.
    ///
    /// # Errors
    ///
    /// [`Codec`](crate::ErrorKind::Codec) when it cannot be encoded.
    pub fn object<T: Wire + Send + 'static>(&self, object: T) -> Result<Proxy<T>> {
        self.make(object::create::<T>, &object).map(Proxy::new)
    }

    fn make<A: Serialize>(
        &self,
        handler: MethodHandler<Server>,
        argument: &A,
    ) -> Result<Reference> {
        Reference::create(&self.client, handler, argument)
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("address", &self.address)
            .field("server_pid", &self.server_pid())
            .finish_non_exhaustive()
    }
}
