//! The server: the process that holds the objects and runs the calls on them.
//!
//! One thread accepts connections, one watches for disconnects, and each connection has its own
//! thread, so that a call may block. Locks are held for a few steps, never while user code runs or
//! user values are dropped. A call waits only for exclusive access to its object.

mod connection;
mod drop_thread;
#[cfg(fuzzing)]
pub(super) mod fuzzing;
mod main;
mod object;
mod peer;
mod peer_monitor;
mod session;
mod transit_refs;
pub(super) mod wait_queue;

pub(super) use main::{DIR_PREFIX, StartedServer, socket_path, start};
pub(super) use object::{Guarded, ServerObject};
pub(super) use session::{Holdable, Session};

use crate::error::{Error, ErrorKind, Result};
use crate::ipc::Address;
use crate::manager::{
    protocol::{CallRequest, ERROR, HandlerResult, ROOT, VALUE},
    proxies::namespace,
};
use crate::process::{
    function::{CallError, CallHandles, Invocation},
    panic,
    task_error::TaskError,
};
use crate::shm::{Buffer, Cursor, Slab, SlabSource};
use crate::wire::{
    codec::{self, ByteSink},
    handle::Attached,
};
use drop_thread::DropThread;
use parking_lot::{Mutex, RwLock};
use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};
use transit_refs::TransitRefs;

/// The server in this process, if there is one.
static SERVER: OnceLock<Server> = OnceLock::new();

thread_local! {
    /// The session for which this thread acts; 0 outside of sessions.
    static CURRENT_SESSION: Cell<u64> = const { Cell::new(0) };
    /// The tokens in the reply that this thread creates.
    static REPLY_TOKENS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The state of a server process.
#[derive(Debug)]
pub(super) struct Server {
    /// Identifies this server among all servers.
    name: u64,
    address: Address,
    objects: RwLock<HashMap<u64, Weak<ServerObject>>>,
    last_id: AtomicU64,
    transit_refs: Mutex<TransitRefs>,
    drop_thread: DropThread,
    /// The namespace that every server has from the start.
    globals: OnceLock<Arc<ServerObject>>,
}

impl Server {
    /// Returns the server in this process, if there is one.
    pub(super) fn current() -> Option<&'static Self> {
        SERVER.get()
    }

    /// Makes this process a server.
    fn init(address: Address) -> Result<&'static Self> {
        let name = getrandom::u64()
            .map_err(|error| Error::io("failed to name a manager's server", error.into()))?;
        let drop_thread = DropThread::spawn()
            .map_err(|error| Error::io("failed to start a thread of a manager's server", error))?;
        let server = SERVER.get_or_init(|| Self {
            name,
            address,
            objects: RwLock::default(),
            last_id: AtomicU64::new(ROOT),
            transit_refs: Mutex::default(),
            drop_thread,
            globals: OnceLock::new(),
        });
        server
            .globals
            .get_or_init(|| server.add(namespace::empty()));
        Ok(server)
    }

    pub(super) fn name(&self) -> u64 {
        self.name
    }

    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    pub(super) fn globals(&self) -> &Arc<ServerObject> {
        self.globals.get().expect("`init` has set the globals")
    }

    /// Adds an object, which is dropped after the last reference to it.
    pub(super) fn add(&self, value: impl Any + Send + Sync) -> Arc<ServerObject> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let object = Arc::new(ServerObject::new(id, value));
        self.objects.write().insert(id, Arc::downgrade(&object));
        object
    }

    fn remove(&self, id: u64) {
        self.objects.write().remove(&id);
    }

    /// Returns the object with this id, if it still exists.
    pub(super) fn find(&self, id: u64) -> Option<Arc<ServerObject>> {
        self.objects.read().get(&id).and_then(Weak::upgrade)
    }

    /// Returns a token, which keeps an object until the proxy that carries it arrives.
    pub(super) fn issue_token(&self, object: &Arc<ServerObject>) -> u64 {
        let pinned = self
            .transit_refs
            .lock()
            .add(Arc::clone(object), CURRENT_SESSION.get());
        let (token, released) = pinned;
        self.drop_thread.drop_all(released);
        token
    }

    /// Like [`issue_token`](Self::issue_token), but the token lasts only until the client has read
    /// the current reply: the client claims it before it sends another request on the same
    /// connection.
    pub(super) fn issue_reply_token(&self, object: &Arc<ServerObject>) -> u64 {
        let pinned = REPLY_TOKENS.try_with(|replied| {
            let token = self.transit_refs.lock().add_to_reply(Arc::clone(object));
            replied.borrow_mut().push(token);
            token
        });
        // The list is unavailable while a thread exits, for example if a destructor of a
        // thread-local uses a proxy.
        pinned.unwrap_or_else(|_| self.issue_token(object))
    }

    /// Drops the tokens of a session's last reply, which the client can no longer claim.
    fn drop_reply_tokens(&self, session: &Session) {
        for token in session.take_reply_tokens() {
            let object = self.transit_refs.lock().claim(token);
            self.drop_thread.drop_all(object);
        }
    }

    /// Claims the object of a received proxy by its token, or by its id if the token was already
    /// claimed.
    pub(super) fn claim(&self, id: u64, token: u64) -> Option<Arc<ServerObject>> {
        let pinned = self.transit_refs.lock().claim(token);
        pinned
            .filter(|object| object.id() == id)
            .or_else(|| self.find(id))
    }

    /// Adds an object and replies with it.
    pub(super) fn create(
        &self,
        value: impl Any + Send + Sync,
        call: &mut Invocation<'_>,
    ) -> HandlerResult {
        self.reply_with(&self.add(value), call)
    }

    /// Replies with an object's id and a token for it.
    fn reply_with(&self, object: &Arc<ServerObject>, call: &mut Invocation<'_>) -> HandlerResult {
        call.encode(&(object.id(), self.issue_reply_token(object)))
    }

    /// Ends a session and drops its references.
    fn end_session(&self, session: &Session) {
        self.drop_reply_tokens(session);
        let released = self.transit_refs.lock().end_maker(session.number());
        self.drop_thread.drop_all(released);
        self.drop_thread.drop_all(session.take_references());
    }

    /// Handles a request and writes the reply. Panics of user code are caught here.
    pub(super) fn handle_request(
        &self,
        session: &Session,
        request: &[u8],
        given: Vec<Attached>,
        reply: &mut ReplyBuffer,
    ) {
        #[cfg(fuzzing)]
        fuzzing::note(request);
        self.drop_reply_tokens(session);
        reply.clear();
        reply.buffer.put(&[VALUE]);
        reply.handles.received_fds = given;
        reply.handles.audience = self.name;
        let outer = (
            CURRENT_SESSION.replace(session.number()),
            replace_reply_tokens(Vec::new()),
        );
        let outcome = panic::catch(|| self.dispatch(session, request, reply));
        CURRENT_SESSION.set(outer.0);
        session.set_reply_tokens(replace_reply_tokens(outer.1));
        let error: TaskError = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.into(),
            Err(error) => *error,
        };
        reply.set_error(&error);
        self.drop_reply_tokens(session);
    }

    fn dispatch(
        &self,
        session: &Session,
        request: &[u8],
        reply: &mut ReplyBuffer,
    ) -> HandlerResult {
        let request = CallRequest::parse(request)
            .ok_or_else(|| CallError::Decode("the request is too short".to_owned()))?;
        let mut call = Invocation {
            argument: Cursor::new(request.argument),
            context: Some(session),
            result: &mut reply.buffer,
            handles: &mut reply.handles,
        };
        if request.target == ROOT {
            return request.method.call(self, &mut call);
        }
        let object = self.find(request.target).ok_or_else(err_object_gone)?;
        request.method.call(object.value(), &mut call)
    }
}

/// Sets the tokens in the reply that this thread creates. Returns the previous ones, or an empty
/// list while the thread exits.
fn replace_reply_tokens(tokens: Vec<u64>) -> Vec<u64> {
    let replaced = REPLY_TOKENS.try_with(|it| it.replace(tokens));
    replaced.unwrap_or_default()
}

/// Returns the error for an object that no longer exists.
fn err_object_gone() -> CallError {
    let message = "the manager's object no longer exists: its last reference was dropped";
    CallError::Refused(ErrorKind::Disconnected, message.to_owned())
}

/// Adds a client's reference to an object: a proxy has arrived there.
pub(super) fn claim(server: &Server, call: &mut Invocation<'_>) -> HandlerResult {
    let (id, token) = call.decode()?;
    let object = server.claim(id, token).ok_or_else(err_object_gone)?;
    server
        .drop_thread
        .drop_all(Session::of(call).add_reference(object));
    Ok(())
}

/// Like [`claim`], for several objects. Claims the existing ones even if others no longer exist.
pub(super) fn claim_all(server: &Server, call: &mut Invocation<'_>) -> HandlerResult {
    let arrived: Vec<(u64, u64)> = call.decode()?;
    let session = Session::of(call);
    let mut all_found = true;
    for (id, token) in arrived {
        match server.claim(id, token) {
            Some(object) => server.drop_thread.drop_all(session.add_reference(object)),
            None => all_found = false,
        }
    }
    all_found.then_some(()).ok_or_else(err_object_gone)
}

/// Adds references to those of the objects that still exist. The client's previous reference
/// connection was cut.
pub(super) fn claim_again(server: &Server, call: &mut Invocation<'_>) -> HandlerResult {
    let ids: Vec<u64> = call.decode()?;
    let found = ids.into_iter().filter_map(|it| server.find(it));
    found.for_each(|object| {
        server
            .drop_thread
            .drop_all(Session::of(call).add_reference(object))
    });
    Ok(())
}

/// Drops a client's reference: the client has dropped its last proxy.
pub(super) fn release(server: &Server, call: &mut Invocation<'_>) -> HandlerResult {
    let id = call.decode()?;
    server
        .drop_thread
        .drop_all(Session::of(call).remove_reference(id));
    Ok(())
}

/// Creates a token: a proxy is about to leave the client.
pub(super) fn issue_token(server: &Server, call: &mut Invocation<'_>) -> HandlerResult {
    let object = server.find(call.decode()?).ok_or_else(err_object_gone)?;
    call.encode(&server.issue_token(&object))
}

/// Drops a token: the proxy that carried it was dropped before its first use.
pub(super) fn unpin(server: &Server, call: &mut Invocation<'_>) -> HandlerResult {
    let token = call.decode()?;
    let object = server.transit_refs.lock().claim(token);
    server.drop_thread.drop_all(object);
    Ok(())
}

/// Replies with the namespace that every server has from the start.
pub(super) fn find_globals(server: &Server, call: &mut Invocation<'_>) -> HandlerResult {
    server.reply_with(server.globals(), call)
}

/// The buffer in which a connection creates its replies, one at a time.
#[derive(Debug)]
pub(super) struct ReplyBuffer {
    buffer: Buffer,
    handles: CallHandles,
}

impl ReplyBuffer {
    /// Maximum size of the buffer that a connection keeps for its next reply, in bytes.
    const MAX_KEPT: usize = 1 << 20;

    pub(super) fn new() -> Self {
        Self {
            buffer: Buffer::new(Arc::new(NoSharedSlabs)),
            handles: CallHandles::default(),
        }
    }

    fn clear(&mut self) {
        if self.buffer.private().len() > Self::MAX_KEPT {
            self.buffer = Buffer::new(Arc::new(NoSharedSlabs));
        }
        self.buffer.clear();
        self.handles = CallHandles::default();
    }

    fn set_error(&mut self, error: &TaskError) {
        self.clear();
        self.buffer.put(&[ERROR]);
        // Encoding text into memory cannot fail.
        let _ = codec::encode(&error.clone().truncated(), &mut self.buffer);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.private()
    }

    pub(super) fn handles(&mut self) -> &mut CallHandles {
        &mut self.handles
    }
}

/// Sends every reply through the socket, regardless of its size.
struct NoSharedSlabs;

impl SlabSource for NoSharedSlabs {
    fn take(&self, _bytes: usize) -> Option<Slab> {
        None
    }

    fn give_back(&self, _slab: Slab) {}
}
