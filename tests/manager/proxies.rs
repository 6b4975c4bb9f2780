//! Proxies in other processes: as arguments, results, parts of other objects, and in a `static`.

use common::for_every_method;
use common::methods::{in_a_process_with_one_thread, start};
use common::processes::{descriptors_of, eventually};
use common::{in_time, pool_of};
use procpool::{
    Address, DictProxy, ErrorKind, ListProxy, Manager, Namespace, Process, Proxy, Result,
    StartMethod, authkey,
};
use serde::{Deserialize, Deserializer, Serialize};
use std::{
    fs::File,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};
use tempfile::TempDir;

static MANAGER: LazyLock<Manager> = LazyLock::new(|| Manager::start().expect("a manager"));
static TABLE: LazyLock<DictProxy<u32, u32>> = LazyLock::new(|| MANAGER.dict().expect("a dict"));

#[derive(Serialize, Deserialize)]
struct Bank {
    accounts: DictProxy<String, Proxy<i64>>,
    log: ListProxy<String>,
}

for_every_method! {
    fn ten_processes_fill_one_dict(method) {
        let manager = Manager::start()?;
        let dict = manager.dict()?;
        let fill = |(dict, number): (DictProxy<u32, u32>, u32)| {
            dict.insert(number, std::process::id()).is_ok()
        };
        let processes = (0..10).map(|number| start(method, fill, (dict.clone(), number)));
        let processes: Vec<Process<bool>> = processes.collect::<Result<_>>()?;
        for process in processes {
            let pid = process.pid();
            assert!(process.result()?);
            assert!(dict.values()?.contains(&pid));
        }
        assert_eq!(dict.len()?, 10);
        Ok(())
    }

    fn a_proxy_that_a_process_has_made_is_its_result(method) {
        let manager = Manager::start()?;
        let make = |address| -> Option<ListProxy<u32>> {
            let manager = Manager::connect(address, authkey()).ok()?;
            let list = manager.list().ok()?;
            list.extend(0..3).ok()?;
            Some(list)
        };
        let process = start(method, make, manager.address().clone())?;
        process.join()?;
        assert_eq!(process.result()?.expect("a list").to_vec()?, [0, 1, 2]);
        Ok(())
    }

    fn proxies_lie_in_structs_and_in_other_objects(method) {
        let manager = Manager::start()?;
        let bank = Bank { accounts: manager.dict()?, log: manager.list()? };
        bank.accounts.insert("a".to_owned(), manager.object(1)?)?;
        let work = |bank: Bank| {
            let account = bank.accounts.get(&"a".to_owned()).ok()??;
            bank.log.push("found it".to_owned()).ok()?;
            account.call(|balance, by| { *balance += by; *balance }, 41).ok()
        };
        let log = bank.log.clone();
        assert_eq!(start(method, work, bank)?.result()?, Some(42));
        assert_eq!(log.to_vec()?, ["found it"]);
        Ok(())
    }

    fn a_managers_own_key_reaches_the_children(method) {
        let manager = Manager::builder().authkey("a key of its own").start()?;
        let list = manager.list::<u8>()?;
        assert!(start(method, |list: ListProxy<u8>| list.push(1).is_ok(), list.clone())?.result()?);
        assert_eq!(list.to_vec()?, [1]);
        Ok(())
    }
}

fn sockets_of_this_process() -> Vec<String> {
    let all = descriptors_of(std::process::id())
        .into_iter()
        .map(|it| it.1);
    all.filter(|it| it.starts_with("socket:")).collect()
}

#[test]
fn proxies_in_a_static_connect_anew_in_copies_of_the_process() -> Result<()> {
    fn fill(number: u32) -> Option<Vec<String>> {
        (0..20)
            .try_for_each(|it| TABLE.insert(100 * number + it, number).map(drop))
            .ok()?;
        Some(sockets_of_this_process())
    }
    fn body() -> Result<()> {
        TABLE.insert(0, 0)?;
        let ours = sockets_of_this_process();
        let processes = (1..=10).map(|number| start(StartMethod::Fork, fill, number));
        let processes: Vec<_> = processes.collect::<Result<_>>()?;
        for process in processes {
            let theirs = process.result()?.expect("a filled dict");
            // The sockets that connect a process to its parent are among both; those to the manager
            // belong to one process each.
            let connections = theirs.iter().filter(|it| !ours.contains(it)).count();
            assert!(connections >= 2, "{ours:?} {theirs:?}");
        }
        assert_eq!(TABLE.len()?, 201);
        MANAGER
            .globals()?
            .set("the parent's connections are its own", true)
    }
    in_time(|| in_a_process_with_one_thread(|()| body().map_err(|it| it.to_string())))
}

#[test]
fn proxies_travel_to_the_workers_of_a_pool_and_back() -> Result<()> {
    in_time(|| {
        let (manager, pool) = (Manager::start()?, pool_of(2));
        let list = manager.list::<u64>()?;
        let push = |(list, number): (ListProxy<u64>, u64)| {
            list.push(number)
                .map(|()| list)
                .map_err(|it| it.to_string())
        };
        let items: Vec<_> = (0..20).map(|number| (list.clone(), number)).collect();
        for returned in pool.map(push, items)? {
            assert!(returned.expect("a list").len()? >= 20);
        }
        let mut numbers = list.to_vec()?;
        numbers.sort_unstable();
        assert_eq!(numbers, (0..20).collect::<Vec<_>>());
        Ok(())
    })
}

/// Stands between clients and a manager's server, and counts what clients say.
struct Relay {
    folder: TempDir,
    messages: Arc<AtomicUsize>,
}

impl Relay {
    /// Its threads end with the connections.
    fn to(server: &Address) -> Self {
        let Address::Unix(server) = server.clone() else {
            panic!("the default is a Unix socket");
        };
        let folder = tempfile::tempdir().expect("a folder");
        let messages = Arc::<AtomicUsize>::default();
        let listener = UnixListener::bind(folder.path().join("socket")).expect("a socket");
        let counted = Arc::clone(&messages);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = UnixStream::connect(&server).expect("a server");
                let ends = (client.try_clone(), server.try_clone());
                let (Ok(client_again), Ok(server_again)) = ends else {
                    panic!("no more descriptors");
                };
                let counted = Arc::clone(&counted);
                thread::spawn(move || pass_on(client, server, &counted));
                thread::spawn(move || pass_on(server_again, client_again, &AtomicUsize::new(0)));
            }
        });
        Self { folder, messages }
    }

    fn address(&self) -> Address {
        self.folder.path().join("socket").into()
    }
}

/// A message is one piece or more.
fn pass_on(mut from: UnixStream, mut to: UnixStream, pieces: &AtomicUsize) {
    let mut piece = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        pieces.fetch_add(1, Ordering::SeqCst);
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    // Fails only if the peer is gone, which needs no notice.
    let _ = to.shutdown(Shutdown::Both);
}

/// A process: puts proxies into objects, and takes them out again.
fn pass_around((address, number): (Address, usize)) -> Option<usize> {
    let manager = Manager::connect(address, authkey()).ok()?;
    let (shelf, dict) = (manager.list().ok()?, manager.dict().ok()?);
    let lists = vec![manager.list::<usize>().ok()?; number];
    shelf.extend(lists.iter().cloned()).ok()?;
    dict.update(lists.into_iter().enumerate()).ok()?;
    let found = [shelf.to_vec().ok()?, dict.values().ok()?].concat();
    found.last()?.push(number).ok()?;
    Some(found.len())
}

#[test]
fn many_proxies_travel_in_as_many_messages_as_one() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let messages_for = |number: usize| -> Result<usize> {
            let relay = Relay::to(manager.address());
            let process = Process::start(pass_around, (relay.address(), number))?;
            assert_eq!(process.result()?, Some(2 * number));
            Ok(relay.messages.load(Ordering::SeqCst))
        };
        let (of_one, of_many) = (messages_for(1)?, messages_for(300)?);
        assert!(of_many <= of_one + 30, "{of_one} {of_many}");
        Ok(())
    })
}

#[test]
fn what_is_sent_elsewhere_in_the_middle_of_a_call_arrives() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let (sender, receiver) = procpool::pipe::<ListProxy<u8>, ListProxy<u8>>()?;
        let dict = manager.dict::<u32, ListProxy<u8>>()?;
        let send = |number| {
            let (list, other) = (manager.list::<u8>(), manager.list::<u8>());
            sender.send(&list.expect("a server")).expect("room");
            (number, other.expect("a server"))
        };
        dict.update((0..3).map(send))?;
        for number in 0..3 {
            receiver.recv()?.push(1)?;
            dict.get(&number)?.expect("a list").push(1)?;
        }
        Ok(())
    })
}

#[test]
fn more_proxies_are_taken_out_than_fit_into_a_request() -> Result<()> {
    in_time(|| {
        let manager = Manager::builder().message_limit(4096).start()?;
        let shelf = manager.list::<ListProxy<usize>>()?;
        for number in 0..1000 {
            let list = manager.list()?;
            list.push(number)?;
            shelf.push(list)?;
        }
        let taken = shelf.take()?;
        assert_eq!(taken.len(), 1000);
        for (number, list) in taken.iter().enumerate().step_by(100) {
            assert_eq!(list.to_vec()?, [number]);
        }
        Ok(())
    })
}

/// Makes its list when it is encoded, and keeps nothing of it.
#[derive(Deserialize)]
struct Fresh(ListProxy<u8>);

impl Serialize for Fresh {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let list = MANAGER.list().and_then(|it: ListProxy<u8>| {
            it.push(5)?;
            Ok(it)
        });
        list.map_err(serde::ser::Error::custom)?.serialize(to)
    }
}

#[test]
fn a_proxy_whose_sender_keeps_none_arrives_and_calls_lie_in_calls() -> Result<()> {
    in_time(|| {
        let shelf = MANAGER.list::<Fresh>()?;
        let template = MANAGER.list::<u8>()?;
        shelf.push(Fresh(template.clone()))?;
        let found = shelf.call(|shelf, ()| shelf.pop().map(|it| it.0), ())?;
        let found = found.expect("it was pushed");
        assert_eq!(found.to_vec()?, [5]);
        assert!(template.is_empty()?);
        Ok(())
    })
}

/// Says in the server when it is dropped.
#[derive(Serialize, Deserialize)]
struct Watched;

static IS_DROPPED: AtomicBool = AtomicBool::new(false);

impl Drop for Watched {
    fn drop(&mut self) {
        IS_DROPPED.store(true, Ordering::SeqCst);
    }
}

#[test]
fn an_object_lives_exactly_as_long_as_anybody_refers_to_it() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let probe = manager.object(())?;
        let is_dropped = || probe.call(|(), ()| IS_DROPPED.load(Ordering::SeqCst), ());
        let watched = manager.object(Watched)?;
        probe.call(|(), ()| IS_DROPPED.store(false, Ordering::SeqCst), ())?;
        let clone = watched.clone();
        drop(watched);
        let shelf = manager.list::<Proxy<Watched>>()?;
        shelf.push(clone.clone())?;
        drop(clone);
        assert!(!is_dropped()?);
        let found = shelf.pop()?.expect("it was there");
        assert!(!is_dropped()?);
        drop(found);
        eventually("the object is dropped", || is_dropped().is_ok_and(|it| it));
        Ok(())
    })
}

/// Says by a file that it was dropped in the server.
#[derive(Serialize, Deserialize)]
struct Flag {
    maker: u32,
    path: PathBuf,
}

impl Drop for Flag {
    fn drop(&mut self) {
        if std::process::id() != self.maker {
            File::create(&self.path).expect("its folder is there");
        }
    }
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Decoding {
    Drops,
    Fails,
    Panics,
}

/// Keeps none of the proxies in it.
#[derive(Serialize)]
struct Sieve(Decoding, Vec<Proxy<Flag>>);

impl<'de> Deserialize<'de> for Sieve {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let (decoding, flags) = <(Decoding, Vec<Proxy<Flag>>)>::deserialize(from)?;
        drop(flags);
        match decoding {
            Decoding::Drops => Ok(Self(decoding, Vec::new())),
            Decoding::Fails => Err(serde::de::Error::custom("no")),
            Decoding::Panics => panic!("on purpose"),
        }
    }
}

#[test]
fn what_a_result_refers_to_is_gone_when_it_is_dropped_or_not_understood() -> Result<()> {
    in_time(|| {
        for decoding in [Decoding::Drops, Decoding::Fails, Decoding::Panics] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("is gone");
            let manager = Manager::start()?;
            let shelf = manager.list::<Proxy<Flag>>()?;
            let maker = std::process::id();
            let flag = manager.object(Flag {
                maker,
                path: path.clone(),
            })?;
            shelf.push(flag)?;
            let take = |list: &mut Vec<Proxy<Flag>>, it| Sieve(it, std::mem::take(list));
            let taken = catch_unwind(AssertUnwindSafe(|| shelf.call(take, decoding)));
            let is_taken = taken.is_ok_and(|it| it.is_ok());
            assert_eq!(is_taken, decoding == Decoding::Drops);
            assert!(shelf.is_empty()?);
            eventually("the object is gone", || path.exists());
        }
        Ok(())
    })
}

#[test]
fn a_second_decoding_of_a_proxy_is_a_plain_reference() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let list = manager.list::<u8>()?;
        let (sender, receiver) = procpool::pipe::<ListProxy<u8>, ListProxy<u8>>()?;
        sender.send(&list)?;
        let bytes = receiver.recv_bytes()?;
        for _ in 0..2 {
            sender.send_bytes(&bytes)?;
            receiver.recv()?.push(1)?;
        }
        assert_eq!(list.len()?, 2);
        drop(list);
        eventually("the object is gone", || {
            sender.send_bytes(&bytes).expect("room");
            let used = receiver.recv().and_then(|it| it.push(1));
            used.is_err_and(|it| it.kind() == ErrorKind::Disconnected)
        });
        Ok(())
    })
}

#[test]
fn those_who_connect_find_proxies_among_the_globals() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        manager.globals()?.set("list", manager.list::<u8>()?)?;
        let find = |address| -> Option<Namespace> {
            let globals = Manager::connect(address, authkey()).ok()?.globals().ok()?;
            let list: ListProxy<u8> = globals.get("list").ok()??;
            list.push(7).ok()?;
            Some(globals)
        };
        let globals = Process::start(find, manager.address().clone())?.result()?;
        let list: ListProxy<u8> = globals.expect("a namespace").get("list")?.expect("a list");
        assert_eq!(list.to_vec()?, [7]);
        Ok(())
    })
}
