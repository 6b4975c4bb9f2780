//! Servers: where they listen, who may connect, and how they end.

use crate::{
    common::{failure, in_time},
    processes::{Process as Seen, eventually, process},
};
use procpool::{Address, ErrorKind, Manager, Result, authkey};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
};

fn path_of(manager: &Manager) -> PathBuf {
    match manager.address() {
        Address::Unix(path) => path.clone(),
        Address::Tcp(_) => panic!("the default is a Unix socket"),
    }
}

fn server_of(manager: &Manager) -> Seen {
    process(manager.server_pid().expect("it has started one"))
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[test]
fn a_manager_that_is_dropped_ends_its_server_and_leaves_no_file() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let (path, server) = (path_of(&manager), server_of(&manager));
        let list = manager.list::<u8>()?;
        let folder = path.parent().expect("a folder").to_owned();
        assert!(path.exists() && server.runs());
        drop(manager);
        assert!(!folder.exists() && !server.runs());
        assert_eq!(failure(list.push(1)).kind(), ErrorKind::Disconnected);
        Ok(())
    })
}

#[test]
fn a_connected_manager_that_is_dropped_leaves_the_server_alone() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let other = Manager::connect(manager.address().clone(), authkey())?;
        let list = other.list::<u8>()?;
        assert_eq!(other.server_pid(), None);
        drop(other);
        list.push(1)?;
        assert_eq!(manager.list::<u8>()?.len()?, 0);
        Ok(())
    })
}

#[test]
fn an_address_can_be_used_again_and_old_proxies_do_not_mean_new_objects() -> Result<()> {
    in_time(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let first = Manager::builder().address(&*path).start()?;
        let old = first.list::<u8>()?;
        old.push(1)?;
        assert_eq!(
            failure(Manager::builder().address(&*path).start()).kind(),
            ErrorKind::Io
        );
        drop(first);
        assert!(!path.exists());
        let second = Manager::builder().address(&*path).start()?;
        let new = second.list::<u8>()?;
        assert_eq!(failure(old.push(1)).kind(), ErrorKind::Disconnected);
        assert_eq!(new.len()?, 0);
        Ok(())
    })
}

#[test]
fn a_server_at_a_tcp_address_does_the_same() -> Result<()> {
    in_time(|| {
        let manager = Manager::builder()
            .address(loopback())
            .authkey("secret")
            .start()?;
        let other = Manager::connect(manager.address().clone(), "secret".into())?;
        let list = manager.list::<u8>()?;
        other.globals()?.set("list", list.clone())?;
        let found: procpool::ListProxy<u8> = other.globals()?.get("list")?.expect("it was set");
        found.extend(vec![7; 100_000])?;
        assert_eq!(list.to_vec()?, [7; 100_000]);
        Ok(())
    })
}

#[test]
fn an_address_that_others_can_reach_needs_a_key() {
    in_time(|| {
        let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let refused = failure(Manager::builder().address(everywhere).start());
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        let empty = failure(Manager::builder().authkey("").start());
        assert_eq!(empty.kind(), ErrorKind::InvalidInput);
        let with_key = Manager::builder()
            .address(everywhere)
            .authkey("secret")
            .start();
        with_key.expect("a manager").list::<u8>().expect("a list");
    });
}

#[test]
fn a_wrong_key_and_an_address_where_nobody_is_are_told_apart() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let error = failure(Manager::connect(manager.address().clone(), "wrong".into()));
        assert_eq!(error.kind(), ErrorKind::AuthenticationFailed);
        let error = failure(Manager::connect(Path::new("/nowhere"), authkey()));
        assert_eq!(error.kind(), ErrorKind::Io);
        manager.list::<u8>().map(drop)
    })
}

#[test]
fn one_client_more_than_are_allowed_is_refused_until_one_has_gone() -> Result<()> {
    in_time(|| {
        let manager = Manager::builder().client_limit(2).start()?;
        let value = manager.value(0)?;
        let gate = crate::common::Gate::new();
        thread::scope(|scope| {
            // One connection waits in a call, one is the process's lifeline.
            let path = gate.path();
            let wait = |_: &mut i32, path| crate::common::pass(path);
            let value = &value;
            let waiting = scope.spawn(move || value.call(wait, path));
            gate.wait_for(1);
            let error = failure(manager.globals());
            assert_eq!(error.kind(), ErrorKind::Full);
            gate.open();
            waiting.join().expect("no panic")
        })?;
        manager.globals().map(drop)
    })
}

#[test]
fn a_message_larger_than_is_allowed_is_refused_and_the_next_is_not() -> Result<()> {
    in_time(|| {
        let manager = Manager::builder().message_limit(10_000).start()?;
        let value = manager.value(Vec::<u8>::new())?;
        assert_eq!(
            failure(value.set(vec![0; 10_000])).kind(),
            ErrorKind::InvalidInput
        );
        value.set(vec![0; 9_000])?;
        assert_eq!(value.get()?.len(), 9_000);
        Ok(())
    })
}

#[test]
fn the_server_has_none_of_the_programs_files_and_is_nobodys_business() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let server = server_of(&manager);
        let mode = fs::metadata(path_of(&manager).parent().expect("a folder")).expect("a folder");
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777,
            0o700
        );
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(server.pid.cast_signed()),
            nix::sys::signal::Signal::SIGINT,
        )
        .expect("a process");
        manager.value(1)?.get()?;
        eventually("the server runs on", || server.runs());
        Ok(())
    })
}
