//! What is left when much has been done: nothing. And a thousand clients at once.

use common::processes::{descriptors_of, eventually, status_of};
use common::{alone, failure};
use procpool::{Connection, ListProxy, Manager, Proxy, Result, authkey, connect};
use std::thread;

fn descriptors(pid: u32) -> usize {
    descriptors_of(pid).len()
}

/// KiB of private memory.
fn memory(pid: u32) -> usize {
    let text = status_of(pid, "RssAnon");
    let number = text
        .split_whitespace()
        .next()
        .and_then(|it| it.parse().ok());
    number.expect("a number of KiB")
}

fn threads(pid: u32) -> usize {
    status_of(pid, "Threads").parse().expect("a number")
}

#[test]
fn objects_proxies_locks_and_failures_leave_nothing_behind() {
    alone("", || {
        let manager = Manager::start().expect("a manager");
        let server = manager.server_pid().expect("its own");
        let shelf = manager.list::<ListProxy<u64>>().expect("a list");
        let work = || -> Result<()> {
            let (list, lock) = (manager.list()?, manager.lock()?);
            list.extend(0..100)?;
            shelf.push(list.clone())?;
            drop(shelf.pop()?.map(|it| it.len()));
            drop(lock.acquire()?);
            let object = manager.object(vec![0u8; 10_000])?;
            failure(object.call(|_, ()| -> () { panic!("on purpose") }, ()));
            let nested: Proxy<ListProxy<u64>> = manager.object(list)?;
            nested.get()?.push(1)
        };
        (0..100).for_each(|_| work().expect("a server"));
        let own = std::process::id();
        let before = (descriptors(own), descriptors(server), threads(server));
        let (memory_before, own_before) = (memory(server), memory(own));
        (0..2000).for_each(|_| work().expect("a server"));
        assert_eq!(
            (descriptors(own), descriptors(server), threads(server)),
            before
        );
        // Two thousand objects of 10 kB are 20 MB.
        assert!(
            memory(server) < memory_before + 2_000,
            "{memory_before} {}",
            memory(server)
        );
        assert!(
            memory(own) < own_before + 2_000,
            "{own_before} {}",
            memory(own)
        );
    });
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() {
    alone("", || {
        let manager = Manager::start().expect("a manager");
        let server = manager.server_pid().expect("its own");
        let clients = || {
            let client = |_| -> Connection<(), ()> {
                connect(manager.address().clone(), Some(authkey())).expect("a server")
            };
            let clients: Vec<_> = (0..50).map(client).collect();
            clients[0].send_bytes(b"nonsense").expect("a server");
            drop(clients);
        };
        clients();
        let quiet = || (descriptors(server), threads(server));
        let at_rest = || {
            let before = quiet();
            thread::sleep(std::time::Duration::from_millis(20));
            quiet() == before && before.1 < 10
        };
        eventually("the server is at rest", at_rest);
        let before = quiet();
        (0..10).for_each(|_| clients());
        eventually("nothing is left", || quiet() == before);
    });
}

#[test]
fn a_thousand_clients_are_served_at_once() {
    alone("ulimit -n 4096", || {
        let manager = Manager::start().expect("a manager");
        let (event, list) = (
            manager.event().expect("an event"),
            manager.list().expect("a list"),
        );
        thread::scope(|scope| {
            let wait = |number| {
                let (event, list) = (&event, &list);
                move || event.wait().and_then(|()| list.push(number))
            };
            let start = |number| {
                thread::Builder::new()
                    .stack_size(128 << 10)
                    .spawn_scoped(scope, wait(number))
            };
            let waiting: Vec<_> = (0..1000).map(|it| start(it).expect("a thread")).collect();
            let server = manager.server_pid().expect("its own");
            eventually("a thousand wait", || threads(server) > 1000);
            manager
                .value(1)
                .expect("another object")
                .get()
                .expect("a server");
            event.set().expect("a server");
            for client in waiting {
                client.join().expect("no panic").expect("a server");
            }
        });
        assert_eq!(list.len().expect("a server"), 1000);
    });
}
