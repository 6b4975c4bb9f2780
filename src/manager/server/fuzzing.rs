//! The fuzz target of a manager: requests with any argument to any object, and replies to a client.
//!
//! The script does not choose the functions: a client with the key may name any function of the
//! program, and is trusted. So only the methods of the proxies are called, on a server in this
//! process.

use super::{ReplyBuffer, Server, Session, connection, peer_monitor::PeerMonitor};
use crate::error::Result;
use crate::ipc::{Address, AuthKey, Connection, Listener};
use crate::manager::{
    ListProxy, Manager,
    client::transport::decode_reply,
    protocol::{
        CallRequest, Hello, ROOT, ServerLimits, VALUE, Welcome, decode_option, take_len_prefixed,
    },
};
use crate::process::function::WireMethod;
use crate::wire::{
    codec,
    fuzzing::{Script, Target, Tree, attached, ignore, part},
    kind::ObjectKind,
};
use parking_lot::Mutex;
use std::{sync::LazyLock, thread, time::Duration};

type Words = Vec<(String, u64)>;

/// Maximum number of calls in one input.
const MOST_CALLS: usize = 100;

const LIMITS: ServerLimits = ServerLimits {
    clients: 64,
    message: 1 << 20,
};

/// The requests so far, while a recording runs.
static NOTED: Mutex<Option<Vec<Vec<u8>>>> = Mutex::new(None);

/// Records a request before it is handled.
pub(super) fn note(request: &[u8]) {
    if let Some(noted) = NOTED.lock().as_mut() {
        noted.push(request.to_vec());
    }
}

/// A server in this process, and one request of each kind.
struct Recorded {
    server: &'static Server,
    requests: Vec<Vec<u8>>,
}

static RECORDED: LazyLock<Recorded> =
    LazyLock::new(|| record().expect("a server and its client in one process"));

fn record() -> Result<Recorded> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let key = AuthKey::from(b"key");
    let address = Address::Unix(folder.path().join("socket"));
    let listener = Listener::bind(address.clone(), Some(key.clone()))?;
    let server = Server::init(address.clone())?;
    thread::spawn(move || {
        let watcher: &'static PeerMonitor =
            Box::leak(Box::new(PeerMonitor::new().expect("room for descriptors")));
        while let Ok(connection) = listener.accept::<(), ()>() {
            serve(server, watcher, connection);
        }
    });
    *NOTED.lock() = Some(Vec::new());
    exercise(&Manager::connect(address, key)?)?;
    let noted = NOTED.lock().take().unwrap_or_default();
    let mut requests: Vec<Vec<u8>> = Vec::new();
    for request in noted {
        if !requests
            .iter()
            .any(|known| method(known) == method(&request))
        {
            requests.push(request);
        }
    }
    Ok(Recorded { server, requests })
}

fn serve(server: &'static Server, watcher: &'static PeerMonitor, connection: Connection<(), ()>) {
    thread::spawn(move || connection::serve(server, watcher, &connection, LIMITS));
}

/// Returns the method and the argument of a request that names a function of this crate.
fn method(request: &[u8]) -> (WireMethod, &[u8]) {
    let request = CallRequest::parse(request).expect("the request was sent by a client");
    (request.method, request.argument)
}

/// Calls every method that proxies have.
fn exercise(manager: &Manager) -> Result<()> {
    let list = exercise_list(manager)?;
    exercise_dict(manager)?;
    exercise_queue(manager)?;
    exercise_synchronisation(manager)?;
    exercise_values(manager, list)
}

fn exercise_list(manager: &Manager) -> Result<ListProxy<u64>> {
    let list = manager.list::<u64>()?;
    list.push(3)?;
    list.extend([5, 4])?;
    list.insert(1, 7)?;
    ignore((
        list.get(0)?,
        list.last()?,
        list.set(0, 9)?,
        list.len()?,
        list.to_vec()?,
    ));
    ignore((
        list.slice(1..2)?,
        list.drain(0..1)?,
        list.splice(0..1, [8, 9])?,
        list.contains(&8)?,
    ));
    ignore((
        list.position(&9)?,
        list.count(&9)?,
        list.swap(0, 1)?,
        list.truncate(9)?,
    ));
    ignore((
        list.sort()?,
        list.reverse()?,
        list.dedup()?,
        list.remove_item(&8)?,
        list.pop()?,
    ));
    ignore((
        list.remove(0)?,
        list.swap_remove(0),
        list.take()?,
        list.clear()?,
    ));
    ignore(list.call(|items, item: u64| items.push(item), 1)?);
    Ok(list)
}

fn exercise_values(manager: &Manager, list: ListProxy<u64>) -> Result<()> {
    let names = manager.namespace()?;
    names.set("a", Tree::example(None))?;
    names.set("list", list)?;
    ignore((
        names.get::<Tree>("a")?,
        names.contains("a")?,
        names.names()?,
        names.remove("a")?,
    ));
    let value = manager.value(Tree::Leaf)?;
    ignore((
        value.get()?,
        value.set(Tree::Flag(true))?,
        value.replace(Tree::Number(1))?,
    ));
    let array = manager.array(vec![1u8, 2, 3])?;
    ignore((
        array.get(1)?,
        array.set(1, 9)?,
        array.slice(1..2)?,
        array.set_slice(0, vec![4, 5])?,
    ));
    ignore((array.len()?, array.to_vec()?, manager.globals()?));
    manager
        .object(7u64)?
        .call(|it, by: u64| *it = it.wrapping_add(by), 1)
}

fn exercise_dict(manager: &Manager) -> Result<()> {
    let dict = manager.dict::<String, u64>()?;
    let (a, b) = ("a".to_owned(), "b".to_owned());
    ignore((
        dict.insert(a.clone(), 1)?,
        dict.get(&a)?,
        dict.get_or_insert(b.clone(), 2)?,
    ));
    ignore((
        dict.get_many([&a, &b])?,
        dict.contains_key(&a)?,
        dict.len()?,
    ));
    ignore(dict.modify(&a, |it, by: u64| *it = it.wrapping_add(by), 1)?);
    dict.retain(|_, value, least: &u64| *value >= *least, 1)?;
    ignore((
        dict.keys()?,
        dict.values()?,
        dict.items()?,
        dict.remove(&a)?,
    ));
    dict.update([(a.clone(), 5), (b, 6)])?;
    ignore((
        dict.remove_many([&a])?,
        dict.pop_first()?,
        dict.pop_last()?,
        dict.take()?,
    ));
    dict.clear()
}

fn exercise_queue(manager: &Manager) -> Result<()> {
    let queue = manager.joinable_queue::<Vec<u8>>(8)?;
    let (item, soon) = (vec![1, 2, 3], Duration::from_millis(1));
    queue.put(&item)?;
    queue.try_put(&item)?;
    queue.put_timeout(&item, soon)?;
    queue.put_many(&[item.clone(), item])?;
    ignore((
        queue.get()?,
        queue.get_many(2)?,
        queue.len()?,
        queue.join_timeout(soon),
    ));
    ignore((queue.task_done()?, queue.close()?));
    Ok(())
}

fn exercise_synchronisation(manager: &Manager) -> Result<()> {
    let soon = Duration::from_millis(1);
    ignore(manager.lock()?.acquire()?);
    ignore(manager.rlock()?.acquire()?);
    let semaphore = manager.bounded_semaphore(2)?;
    ignore((
        semaphore.acquire()?,
        semaphore.release()?,
        semaphore.value()?,
    ));
    ignore(manager.semaphore(1)?.try_acquire()?);
    let event = manager.event()?;
    ignore((event.set()?, event.is_set()?, event.wait()?, event.clear()?));
    let barrier = manager.barrier(1)?;
    ignore((
        barrier.wait()?,
        barrier.parties()?,
        barrier.waiting()?,
        barrier.is_broken()?,
    ));
    ignore((barrier.reset()?, barrier.abort()?));
    let condition = manager.condition()?;
    let mut guard = condition.lock()?;
    ignore(guard.wait_timeout(soon));
    drop(guard);
    condition.notify_one()?;
    condition.notify_all()
}

/// Two disconnected clients, so that their calls never wait.
struct Fuzzed {
    recorded: &'static Recorded,
    sessions: [Session; 2],
    objects: Vec<u64>,
    reply: ReplyBuffer,
}

impl Fuzzed {
    fn new() -> Self {
        let sessions = [Session::new(), Session::new()];
        sessions.iter().for_each(|it| it.waiter().hang_up());
        Self {
            recorded: &RECORDED,
            sessions,
            objects: Vec::new(),
            reply: ReplyBuffer::new(),
        }
    }

    fn answer(&mut self, session: u8, request: &[u8], handles: u8) {
        let session = &self.sessions[usize::from(session % 2)];
        let given = attached(usize::from(handles % 4), ObjectKind::Descriptor as u8);
        self.recorded
            .server
            .handle_request(session, request, given, &mut self.reply);
        if let [VALUE, made @ ..] = self.reply.bytes()
            && let Ok((id, _)) = codec::decode::<(u64, u64)>(&mut crate::shm::Cursor::new(made))
            && self.recorded.server.find(id).is_some()
        {
            self.objects.push(id);
        }
        session.discard_undo();
    }

    fn object(&self, number: u8) -> u64 {
        let count = self.objects.len().max(1);
        self.objects
            .get(usize::from(number) % count)
            .copied()
            .unwrap_or(ROOT)
    }

    /// Calls a method of this crate, with its recorded argument or one from the script.
    fn call(&mut self, script: &mut Script<'_>) {
        let (number, target, flags) = (script.byte(), script.byte(), script.byte());
        let requests = &self.recorded.requests;
        let recorded = &requests[usize::from(number) % requests.len()];
        let (method, own) = method(recorded);
        let is_of_server = recorded.starts_with(&ROOT.to_le_bytes());
        let target = if is_of_server {
            ROOT
        } else {
            self.object(target)
        };
        let mut request = Vec::new();
        CallRequest::write_header(target, method, &mut request);
        match flags >> 4 & 3 {
            0 => request.extend(own),
            1 => request.extend(
                self.object(script.byte())
                    .to_le_bytes()
                    .iter()
                    .chain(&[0; 8]),
            ),
            _ => request.extend(script.part()),
        }
        self.answer(flags, &request, flags >> 2);
    }
}

fn take_requests(script: &mut Script<'_>) {
    let mut fuzzed = Fuzzed::new();
    for _ in 0..MOST_CALLS {
        if script.is_over() {
            return;
        }
        fuzzed.call(script);
    }
}

/// Decodes any bytes as a server's reply to one of the requests.
fn take_reply(script: &mut Script<'_>) {
    let (kind, given) = (
        script.byte(),
        attached(usize::from(script.byte() % 4), ObjectKind::Descriptor as u8),
    );
    let reply = script.0;
    match kind % 8 {
        0 => ignore(decode_reply(reply, given, |reply| {
            codec::decode::<Welcome>(reply)
        })),
        1 => ignore(decode_reply(reply, given, |reply| {
            codec::decode::<(u64, u64)>(reply)
        })),
        2 => ignore(decode_reply(reply, given, |reply| {
            codec::decode::<Words>(reply)
        })),
        3 => ignore(decode_reply(reply, given, decode_option::<Tree>)),
        4 => ignore(decode_reply(reply, given, |reply| {
            codec::decode::<Tree>(reply)
        })),
        5 => ignore(decode_reply(reply, given, take_len_prefixed)),
        6 => ignore(decode_reply(reply, given, |reply| {
            codec::decode::<()>(reply)
        })),
        _ => ignore(decode_reply(reply, given, |reply| {
            codec::decode::<Vec<u8>>(reply)
        })),
    }
}

/// Parses any bytes as a client's message.
fn take_message(bytes: &[u8]) {
    ignore(Hello::check(bytes));
    if let Some(request) = CallRequest::parse(bytes) {
        ignore((request.target, request.method, request.argument));
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let requests = &RECORDED.requests;
    let call = |number: usize, target: u8| vec![number as u8, target, 0];
    let is_of_server = |it: &&Vec<u8>| it.starts_with(&ROOT.to_le_bytes());
    let makers = 0..requests.iter().filter(is_of_server).count();
    let numbers: Vec<usize> = (0..requests.len()).collect();
    // First the requests that create an object, then each method on each of the first objects.
    let of_server = |number: &usize| is_of_server(&&requests[*number]);
    let make: Vec<u8> = numbers
        .iter()
        .filter(|number| of_server(number))
        .flat_map(|number| call(*number, 0))
        .collect();
    let made = makers.len() as u8;
    let methods = numbers.iter().filter(|number| !of_server(number)).copied();
    let parts: Vec<usize> = methods.collect();
    let mut seeds: Vec<Vec<u8>> = parts
        .chunks(8)
        .map(|part| {
            let calls = part
                .iter()
                .flat_map(|number| (0..made).flat_map(move |to| call(*number, to)));
            let calls: Vec<u8> = calls.take(3 * MOST_CALLS).collect();
            [&[0][..], &make, &calls].concat()
        })
        .collect();
    let own = |number: usize| {
        let argument = part(method(&requests[number]).1);
        [&[0][..], &make, &[number as u8, 0, 0x20], &argument].concat()
    };
    seeds.extend(parts.iter().step_by(5).map(|it| own(*it)));
    let mut tree = vec![1, 4, 0, VALUE];
    codec::encode(&Tree::example(None), &mut tree).expect("an example");
    let mut error = vec![1, 1, 0, 1];
    codec::encode(
        &crate::process::task_error::TaskError::Encode("why".to_owned()),
        &mut error,
    )
    .expect("text");
    let hello = [&[2][..], &Hello::bytes()].concat();
    seeds.extend([tree, error, vec![1, 3, 0, VALUE, 0], hello]);
    seeds
}

pub(crate) const REQUESTS: Target = Target {
    name: "manager",
    run: |input| {
        let mut script = Script(input);
        match script.byte() % 3 {
            0 => take_requests(&mut script),
            1 => take_reply(&mut script),
            _ => take_message(script.0),
        }
    },
    seeds,
};
