//! Objects in a server process, and the proxies that use them from any process.
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
// connections that authenticate both ends. README.md has the states, the deaths and the protocol.
//
// Invariant: the death of a client reaches the other clients only as an error or a wake-up. No
// client can observe the messages of another client.

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

/// A server process with objects that any process can use, and the constructors of these objects.
///
/// Each object is used through a proxy. A proxy can be an argument or result of a process or task,
/// part of a message, or part of another object. It refers to the same object in every process. An
/// object lives as long as a proxy of it exists in any process or in another object.
///
/// A proxy that arrives in a process opens no connection. Its first call connects, and fails if the
/// server has exited or uses another key. Until then the sender's reference keeps the object: it
/// expires an hour after the sender has exited, and stays if the receiver is killed. A blocking
/// call does not block other threads of the process, other clients or other objects.
///
/// The server that [`start`](Self::start) has started exits when the returned manager is dropped or
/// when this process exits for any reason. Every later call of a proxy fails with
/// [`Disconnected`](crate::ErrorKind::Disconnected). A client that dies loses only its own
/// references and locks. A `static` manager, and proxies in a `static`, work in copies of the
/// process ([`StartMethod::Fork`](crate::StartMethod::Fork)), which open new connections. Client
/// and server must be the same build of one program.
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
///     let argument = (table.clone(), number);
///     let process = Process::start(|(table, number)| square(table, number), argument)?;
///     processes.push(process);
/// }
/// processes.into_iter().try_for_each(|process| process.result().map(drop))?;
/// assert_eq!((table.len()?, table.get(&2)?), (3, Some(4)));
/// # Ok::<(), procpool::Error>(())
/// ```
pub struct Manager {
    client: Arc<Client>,
    address: Address,
    server: Option<Arc<builder::OwnedServer>>,
}

impl Manager {
    /// Starts a server at a private Unix socket, with the [key](crate::authkey) of this process.
    ///
    /// # Errors
    ///
    /// Fails like [`ManagerBuilder::start`].
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// Returns a builder, which starts a server like [`start`](Self::start) but with settings.
    pub fn builder() -> ManagerBuilder {
        ManagerBuilder::new()
    }

    /// Connects to a server that was started elsewhere. Dropping this manager leaves the server
    /// running.
    ///
    /// # Errors
    ///
    /// [`Io`](crate::ErrorKind::Io) if no server listens at the address,
    /// [`AuthenticationFailed`](crate::ErrorKind::AuthenticationFailed) if the key differs,
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if the server is another build of the
    /// program, [`Full`](crate::ErrorKind::Full) if the server has reached its client limit.
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

    /// Returns the address of the server, with the port that the system chose if port 0 was
    /// requested.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the id of the server's process, or `None` if this manager only connected to it.
    #[must_use]
    pub fn server_pid(&self) -> Option<u32> {
        self.server.as_ref().map(|it| it.pid())
    }

    /// Returns the namespace that the server has from the start. Processes that
    /// [`connect`](Self::connect) find proxies there.
    ///
    /// # Errors
    ///
    /// [`Disconnected`](crate::ErrorKind::Disconnected) if the server has exited, here and in all
    /// other methods that create objects.
    pub fn globals(&self) -> Result<Namespace> {
        self.make(server::find_globals, &()).map(Namespace::new)
    }

    /// Creates an empty list.
    pub fn list<T: Wire + Send + 'static>(&self) -> Result<ListProxy<T>> {
        self.make(list::create::<T>, &()).map(ListProxy::new)
    }

    /// Creates an empty dict.
    pub fn dict<K, V>(&self) -> Result<DictProxy<K, V>>
    where
        K: Wire + Send + 'static,
        V: Wire + Send + 'static,
    {
        self.make(dict::create::<K, V>, &()).map(DictProxy::new)
    }

    /// Creates an empty namespace.
    pub fn namespace(&self) -> Result<Namespace> {
        self.make(namespace::create, &()).map(Namespace::new)
    }

    /// Creates a queue for at most `capacity` items; `usize::MAX` means unbounded.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if `capacity` is 0.
    pub fn queue<T: Wire + Send + 'static>(&self, capacity: usize) -> Result<QueueProxy<T>> {
        self.make(queue::create::<T>, &capacity)
            .map(QueueProxy::new)
    }

    /// Creates a queue that counts unfinished tasks.
    ///
    /// # Errors
    ///
    /// Fails like [`queue`](Self::queue).
    pub fn joinable_queue<T>(&self, capacity: usize) -> Result<JoinableQueueProxy<T>>
    where
        T: Wire + Send + 'static,
    {
        let queue = self.make(queue::create::<T>, &capacity);
        queue.map(JoinableQueueProxy::new)
    }

    /// Creates a lock.
    pub fn lock(&self) -> Result<LockProxy> {
        self.make(lock::create, &()).map(LockProxy::new)
    }

    /// Creates a lock that its holder, a thread, can acquire again.
    pub fn rlock(&self) -> Result<RLockProxy> {
        self.make(lock::create, &()).map(RLockProxy::new)
    }

    /// Creates a semaphore with `permits` permits.
    pub fn semaphore(&self, permits: usize) -> Result<SemaphoreProxy> {
        self.make(semaphore::create, &permits)
            .map(SemaphoreProxy::new)
    }

    /// Creates a semaphore with `permits` permits, which is also its maximum.
    pub fn bounded_semaphore(&self, permits: usize) -> Result<BoundedSemaphoreProxy> {
        let semaphore = self.make(semaphore::create_bounded, &permits);
        semaphore.map(BoundedSemaphoreProxy::new)
    }

    /// Creates a condition and its lock.
    pub fn condition(&self) -> Result<ConditionProxy> {
        self.make(condition::create, &()).map(ConditionProxy::new)
    }

    /// Creates an event that is not set.
    pub fn event(&self) -> Result<EventProxy> {
        self.make(event::create, &()).map(EventProxy::new)
    }

    /// Creates a barrier for `parties` parties.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if `parties` is 0 or above 2^20.
    pub fn barrier(&self, parties: usize) -> Result<BarrierProxy> {
        self.make(barrier::create, &parties).map(BarrierProxy::new)
    }

    /// Creates a value.
    ///
    /// # Errors
    ///
    /// [`Codec`](crate::ErrorKind::Codec) if the value cannot be encoded.
    pub fn value<T: Wire + Send + 'static>(&self, value: T) -> Result<ValueProxy<T>> {
        self.make(object::create::<T>, &value).map(ValueProxy::new)
    }

    /// Creates an array of these items.
    ///
    /// # Errors
    ///
    /// [`Codec`](crate::ErrorKind::Codec) if the items cannot be encoded.
    pub fn array<T: Wire + Send + 'static>(&self, items: Vec<T>) -> Result<ArrayProxy<T>> {
        let array = self.make(object::create::<Vec<T>>, &items);
        array.map(ArrayProxy::new)
    }

    /// Creates an object of any type by sending it to the server.
    ///
    /// # Errors
    ///
    /// [`Codec`](crate::ErrorKind::Codec) if the object cannot be encoded.
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
