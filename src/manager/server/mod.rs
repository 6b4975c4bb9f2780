//! The server: the process that has the objects, and runs what is called on them.
//!
//! One thread takes connections, one watches for ends, and each connection has a thread of its own, so that a call may block.
//! Locks are taken for a few steps, never while anything of the user's runs or is dropped; a call waits for nothing but the
//! turn at its object.

#[cfg(fuzzing)]
pub(super) mod fuzzing;
mod garbage;
mod object;
mod pins;
mod serving;
mod session;
mod start;
mod watcher;

pub(super) use object::{Guarded, Object};
pub(super) use session::{Holdable, Session};
pub(super) use start::{FOLDER, Limits, Started, socket_in, start};

use crate::error::{Error, ErrorKind, Result};
use crate::ipc::Address;
use crate::manager::{
    namespace,
    protocol::{Answer, FAULT, ROOT, Request, VALUE},
};
use crate::process::{
    fault::Fault,
    function::{Failure, Handles, Invocation},
    panic,
};
use crate::shm::{Buffer, Cursor, Slab, Slabs};
use crate::wire::{
    codec::{self, Output},
    handle::Attached,
};
use garbage::Garbage;
use parking_lot::{Mutex, RwLock};
use pins::Pins;
use std::{
    any::Any,
    cell::{Cell, RefCell},
    collections::HashMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// The server that this process is, if it is one.
static HERE: OnceLock<Server> = OnceLock::new();

thread_local! {
    /// The session in whose name this thread acts; 0 for none.
    static ACTING_FOR: Cell<u64> = const { Cell::new(0) };
    /// The tokens in the reply that this thread makes.
    static REPLIED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The objects of a server process.
#[derive(Debug)]
pub(super) struct Server {
    /// Tells it from every other.
    name: u64,
    address: Address,
    objects: RwLock<HashMap<u64, Weak<Object>>>,
    last_id: AtomicU64,
    pins: Mutex<Pins>,
    garbage: Garbage,
    /// The namespace that is there from the start.
    globals: OnceLock<Arc<Object>>,
}

impl Server {
    /// The server that this process is, if it is one.
    pub(super) fn here() -> Option<&'static Self> {
        HERE.get()
    }

    /// Makes this process one.
    fn settle(address: Address) -> Result<&'static Self> {
        let name = getrandom::u64()
            .map_err(|it| Error::io("failed to name a manager's server", it.into()))?;
        let garbage = Garbage::collector()
            .map_err(|it| Error::io("failed to start a thread of a manager's server", it))?;
        let server = HERE.get_or_init(|| Self {
            name,
            address,
            objects: RwLock::default(),
            last_id: AtomicU64::new(ROOT),
            pins: Mutex::default(),
            garbage,
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

    pub(super) fn globals(&self) -> &Arc<Object> {
        self.globals.get().expect("it is there from the start")
    }

    /// Adds an object, which is gone with the last reference to it.
    pub(super) fn add(&self, value: impl Any + Send + Sync) -> Arc<Object> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let object = Arc::new(Object::new(id, value));
        self.objects.write().insert(id, Arc::downgrade(&object));
        object
    }

    fn forget(&self, id: u64) {
        self.objects.write().remove(&id);
    }

    /// The object that an id names, if it is still there.
    pub(super) fn find(&self, id: u64) -> Option<Arc<Object>> {
        self.objects.read().get(&id).and_then(Weak::upgrade)
    }

    /// Keeps an object until a proxy that names it has arrived: the token that the proxy carries.
    pub(super) fn pin(&self, object: &Arc<Object>) -> u64 {
        let pinned = self.pins.lock().add(Arc::clone(object), ACTING_FOR.get());
        let (token, gone) = pinned;
        self.garbage.take(gone);
        token
    }

    /// As [`pin`](Self::pin), until the client has read the reply that is made now: it claims what is in there before it asks for
    /// anything else on the same connection.
    pub(super) fn pin_for_reply(&self, object: &Arc<Object>) -> u64 {
        let pinned = REPLIED.try_with(|replied| {
            let token = self.pins.lock().add_to_reply(Arc::clone(object));
            replied.borrow_mut().push(token);
            token
        });
        // At the end of a thread of the user's, in a destructor of which a proxy is used, there is no list.
        pinned.unwrap_or_else(|_| self.pin(object))
    }

    /// Nobody claims tokens in the last reply of a session any more.
    fn unpin_reply(&self, session: &Session) {
        for token in session.take_replied() {
            let object = self.pins.lock().claim(token);
            self.garbage.take(object);
        }
    }

    /// The object of a proxy that has arrived, by its token or, if somebody was faster, its id.
    pub(super) fn claim(&self, id: u64, token: u64) -> Option<Arc<Object>> {
        let pinned = self.pins.lock().claim(token);
        pinned.filter(|it| it.id() == id).or_else(|| self.find(id))
    }

    /// Adds an object, and answers with it.
    pub(super) fn create(
        &self,
        value: impl Any + Send + Sync,
        call: &mut Invocation<'_>,
    ) -> Answer {
        self.answer_with(&self.add(value), call)
    }

    /// Answers with an object's id, and a token for it.
    fn answer_with(&self, object: &Arc<Object>, call: &mut Invocation<'_>) -> Answer {
        call.encode(&(object.id(), self.pin_for_reply(object)))
    }

    /// A session has ended, and with it its references.
    fn has_ended(&self, session: &Session) {
        self.unpin_reply(session);
        let gone = self.pins.lock().maker_has_gone(session.number());
        self.garbage.take(gone);
        self.garbage.take(session.take_references());
    }

    /// Does what a request asks for, and leaves the reply. Nothing of the user's that panics gets further than here.
    pub(super) fn answer(
        &self,
        session: &Session,
        request: &[u8],
        given: Vec<Attached>,
        reply: &mut Reply,
    ) {
        #[cfg(fuzzing)]
        fuzzing::note(request);
        self.unpin_reply(session);
        reply.clear();
        reply.buffer.put(&[VALUE]);
        reply.handles.given = given;
        reply.handles.audience = self.name;
        let outer = (
            ACTING_FOR.replace(session.number()),
            replace_replied(Vec::new()),
        );
        let outcome = panic::run(|| self.dispatch(session, request, reply));
        ACTING_FOR.set(outer.0);
        session.has_replied(replace_replied(outer.1));
        let fault: Fault = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => failure.into(),
            Err(fault) => *fault,
        };
        reply.fail(&fault);
        self.unpin_reply(session);
    }

    fn dispatch(&self, session: &Session, request: &[u8], reply: &mut Reply) -> Answer {
        let request = Request::parse(request)
            .ok_or_else(|| Failure::Decode("the request is too short".to_owned()))?;
        let mut call = Invocation {
            argument: Cursor::new(request.argument),
            context: Some(session),
            result: &mut reply.buffer,
            handles: &mut reply.handles,
        };
        if request.target == ROOT {
            return request.method.call(self, &mut call);
        }
        let object = self.find(request.target).ok_or_else(gone)?;
        request.method.call(object.value(), &mut call)
    }
}

/// Sets the tokens in the reply that this thread makes; what they were. None at the end of a thread of the user's.
fn replace_replied(tokens: Vec<u64>) -> Vec<u64> {
    let replaced = REPLIED.try_with(|it| it.replace(tokens));
    replaced.unwrap_or_default()
}

/// What has become of an object that is no longer there.
fn gone() -> Failure {
    let message = "the manager's object is gone: nobody has referred to it any more";
    Failure::Refused(ErrorKind::Disconnected, message.to_owned())
}

/// Refers to an object in the name of a client: a proxy has arrived there.
pub(super) fn claim(server: &Server, call: &mut Invocation<'_>) -> Answer {
    let (id, token) = call.decode()?;
    let object = server.claim(id, token).ok_or_else(gone)?;
    server.garbage.take(Session::of(call).refer_to(object));
    Ok(())
}

/// As [`claim`], for several. Those that are there are referred to, also if others are not.
pub(super) fn claim_all(server: &Server, call: &mut Invocation<'_>) -> Answer {
    let arrived: Vec<(u64, u64)> = call.decode()?;
    let session = Session::of(call);
    let mut are_there = true;
    for (id, token) in arrived {
        match server.claim(id, token) {
            Some(object) => server.garbage.take(session.refer_to(object)),
            None => are_there = false,
        }
    }
    are_there.then_some(()).ok_or_else(gone)
}

/// Refers to what is still there of these objects: the client's last connection for its references was cut.
pub(super) fn claim_again(server: &Server, call: &mut Invocation<'_>) -> Answer {
    let ids: Vec<u64> = call.decode()?;
    let found = ids.into_iter().filter_map(|it| server.find(it));
    found.for_each(|it| server.garbage.take(Session::of(call).refer_to(it)));
    Ok(())
}

/// Takes a reference back: the client has dropped its last proxy.
pub(super) fn release(server: &Server, call: &mut Invocation<'_>) -> Answer {
    let id = call.decode()?;
    server.garbage.take(Session::of(call).release(id));
    Ok(())
}

/// Makes a token: a proxy is about to leave the client.
pub(super) fn pin(server: &Server, call: &mut Invocation<'_>) -> Answer {
    let object = server.find(call.decode()?).ok_or_else(gone)?;
    call.encode(&server.pin(&object))
}

/// Drops a token: the proxy that carried it was dropped before it was used.
pub(super) fn unpin(server: &Server, call: &mut Invocation<'_>) -> Answer {
    let token = call.decode()?;
    let object = server.pins.lock().claim(token);
    server.garbage.take(object);
    Ok(())
}

/// The namespace that is there from the start.
pub(super) fn find_globals(server: &Server, call: &mut Invocation<'_>) -> Answer {
    server.answer_with(server.globals(), call)
}

/// Where replies are made, one after the other.
#[derive(Debug)]
pub(super) struct Reply {
    buffer: Buffer,
    handles: Handles,
}

impl Reply {
    /// Bytes; what a connection keeps for its next reply.
    const KEPT: usize = 1 << 20;

    pub(super) fn new() -> Self {
        Self {
            buffer: Buffer::new(Arc::new(Private)),
            handles: Handles::default(),
        }
    }

    fn clear(&mut self) {
        if self.buffer.private().len() > Self::KEPT {
            self.buffer = Buffer::new(Arc::new(Private));
        }
        self.buffer.clear();
        self.handles = Handles::default();
    }

    fn fail(&mut self, fault: &Fault) {
        self.clear();
        self.buffer.put(&[FAULT]);
        // Text in memory cannot fail to encode.
        let _ = codec::encode(&fault.clone().shortened(), &mut self.buffer);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.buffer.private()
    }

    pub(super) fn handles(&mut self) -> &mut Handles {
        &mut self.handles
    }
}

/// Replies go through a socket, whatever their size.
struct Private;

impl Slabs for Private {
    fn take(&self, _bytes: usize) -> Option<Slab> {
        None
    }

    fn give_back(&self, _slab: Slab) {}
}
