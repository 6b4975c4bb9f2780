//! Proxies in transit, and unused ones that have arrived: what keeps their objects at each death.

use common::in_time;
use common::processes::eventually;
use procpool::{
    Address, Connection, ErrorKind, ListProxy, Manager, Process, Proxy, Receiver, Result, Sender,
    authkey, one_way, pipe,
};
use serde::{Deserialize, Serialize};
use std::{fs::File, io, mem, os::unix::net::UnixListener, path::PathBuf};

/// Says by a file that it was dropped in the server.
#[derive(Serialize, Deserialize)]
struct Flag {
    /// The process that drops it before it was sent to the server.
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

fn flag_of(manager: &Manager, path: PathBuf) -> Result<Proxy<Flag>> {
    let maker = std::process::id();
    manager.object(Flag { maker, path })
}

/// What a receiver does with its proxy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
enum Use {
    Drops,
    Calls,
    /// Sends it to itself, and drops that.
    SendsOn,
}

fn receive((flags, then): (Receiver<Proxy<Flag>>, Use)) -> bool {
    let flag = flags.recv().expect("a proxy");
    match then {
        Use::Drops => true,
        Use::Calls => flag.call(|_, ()| true, ()).is_ok_and(|it| it),
        Use::SendsOn => {
            let (receiver, sender) = one_way().expect("a pipe");
            sender.send(&flag).expect("room");
            receiver
                .recv()
                .is_ok_and(|it: Proxy<Flag>| it.call(|_, ()| true, ()).is_ok())
        }
    }
}

#[test]
fn a_receiver_that_drops_or_uses_a_proxy_lets_its_object_go() -> Result<()> {
    in_time(|| {
        for then in [Use::Drops, Use::Calls, Use::SendsOn] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("is gone");
            let manager = Manager::start()?;
            let (receiver, sender) = one_way()?;
            let child = Process::start(receive, (receiver, then))?;
            sender.send(&flag_of(&manager, path.clone())?)?;
            assert!(child.result()?, "{then:?}");
            eventually("the object is gone", || path.exists());
        }
        Ok(())
    })
}

fn send((address, path, flags): (Address, PathBuf, Sender<Proxy<Flag>>)) -> bool {
    let manager = Manager::connect(address, authkey()).expect("a manager");
    let flag = flag_of(&manager, path).expect("an object");
    flags.send(&flag).is_ok()
}

#[test]
fn a_proxy_outlives_its_sender_until_it_is_used_or_dropped() -> Result<()> {
    in_time(|| {
        for then in [Use::Drops, Use::Calls] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("is gone");
            let manager = Manager::start()?;
            let (receiver, sender) = one_way()?;
            let address = manager.address().clone();
            let maker = Process::start(send, (address, path.clone(), sender))?;
            assert!(maker.result()?);
            let child = Process::start(receive, (receiver, then))?;
            assert!(child.result()?, "{then:?}");
            eventually("the object is gone", || path.exists());
        }
        Ok(())
    })
}

/// Receives a proxy, says so, and waits for its end.
fn keep((flags, told): (Receiver<Proxy<Flag>>, Connection<(), ()>)) {
    let _flag = flags.recv().expect("a proxy");
    told.send(&()).expect("room");
    // The other end is never used.
    let _ = told.recv();
}

#[test]
fn an_object_outlives_a_receiver_that_is_killed_before_the_first_use() -> Result<()> {
    in_time(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("is gone");
        let manager = Manager::start()?;
        let (receiver, sender) = one_way::<Proxy<Flag>>()?;
        let (ours, theirs) = pipe()?;
        sender.send(&flag_of(&manager, path.clone())?)?;
        let message = receiver.recv_bytes()?;
        sender.send_bytes(&message)?;
        let child = Process::start(keep, (receiver, theirs))?;
        ours.recv()?;
        child.kill()?;
        // As if it had not arrived yet: the same bytes are the object still.
        let (receiver, sender) = one_way()?;
        sender.send_bytes(&message)?;
        let child = Process::start(receive, (receiver, Use::Calls))?;
        assert!(child.result()?);
        eventually("the object is gone", || path.exists());
        Ok(())
    })
}

fn decode((bytes, calls): (Vec<u8>, bool)) -> Option<ErrorKind> {
    let (receiver, sender) = one_way::<ListProxy<u8>>().expect("a pipe");
    sender.send_bytes(&bytes).expect("room");
    let list = receiver.recv().expect("a proxy");
    let called = calls.then(|| list.len().err()).flatten();
    mem::forget(list);
    called.map(|it| it.kind())
}

/// The bytes of a proxy that name another socket than its server's.
fn forged(manager: &Manager, from: &str, to: &str) -> Result<Vec<u8>> {
    let (receiver, sender) = one_way::<ListProxy<u8>>()?;
    sender.send(&manager.list()?)?;
    let mut bytes = receiver.recv_bytes()?;
    let name = bytes
        .windows(from.len())
        .position(|it| it == from.as_bytes());
    let name = name.expect("the address is in it");
    bytes[name..][..to.len()].copy_from_slice(to.as_bytes());
    Ok(bytes)
}

#[test]
fn decoding_a_proxy_connects_to_nothing_and_the_first_call_fails() -> Result<()> {
    in_time(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name| folder.path().join(name);
        let manager = Manager::builder().address(path("server.sock")).start()?;
        let listener = UnixListener::bind(path("listen.sock")).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        let bytes = forged(&manager, "server.sock", "listen.sock")?;
        assert_eq!(Process::start(decode, (bytes, false))?.result()?, None);
        let reached = listener.accept().map(drop).map_err(|it| it.kind());
        assert_eq!(reached, Err(io::ErrorKind::WouldBlock));
        let bytes = forged(&manager, "server.sock", "absent.sock")?;
        let called = Process::start(decode, (bytes, true))?.result()?;
        assert_eq!(called, Some(ErrorKind::Disconnected));
        Ok(())
    })
}
