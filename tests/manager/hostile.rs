//! Clients that know the key and nothing else, or not even that.

use common::{DEADLINE, failure, in_time};
use procpool::{Address, Connection, ErrorKind, Manager, Result, authkey, connect};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

fn reach(manager: &Manager) -> UnixStream {
    let Address::Unix(path) = manager.address() else {
        panic!("the default is a Unix socket");
    };
    let stream = UnixStream::connect(path).expect("a server");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    stream
}

fn authenticated(manager: &Manager) -> Connection<(), ()> {
    connect(manager.address().clone(), Some(authkey())).expect("a server")
}

/// Whether the server goes on as if nothing had been.
fn goes_on(manager: &Manager) -> Result<()> {
    let list = manager.list()?;
    list.push(1)?;
    assert_eq!(list.to_vec()?, [1]);
    Ok(())
}

#[test]
fn garbage_instead_of_a_proof_ends_that_connection_alone() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let mut streams: Vec<UnixStream> = (0..3).map(|_| reach(&manager)).collect();
        streams[0].write_all(&[0xff; 4096]).expect("a server");
        goes_on(&manager)?;
        let mut rest = Vec::new();
        // Reset or at its end: over in any case.
        let _ = streams[0].read_to_end(&mut rest);
        drop(streams);
        goes_on(&manager)
    })
}

#[test]
fn garbage_instead_of_a_greeting_or_a_request_is_an_error_and_the_end() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        for garbage in [&b""[..], b"x", &[0xff; 16], &[0xff; 100]] {
            let client = authenticated(&manager);
            client.send_bytes(garbage)?;
            // An error, and then nothing.
            assert_eq!(client.recv_bytes()?[0], 1);
            assert_eq!(failure(client.recv_bytes()).kind(), ErrorKind::Disconnected);
        }
        goes_on(&manager)
    })
}

#[test]
fn a_gigantic_length_is_refused_before_memory_is_taken() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let client = authenticated(&manager);
        let socket = std::os::fd::AsFd::as_fd(&client)
            .try_clone_to_owned()
            .expect("a copy");
        let mut stream = UnixStream::from(socket);
        let mut block = [0; 64];
        block[..8].copy_from_slice(&((1u64 << 47) << 16).to_le_bytes());
        stream.write_all(&block).expect("a server");
        assert_eq!(client.recv_bytes()?[0], 1);
        goes_on(&manager)
    })
}

#[test]
fn half_a_message_and_silence_hold_up_nobody() -> Result<()> {
    in_time(|| {
        let manager = Manager::start()?;
        let silent: Vec<_> = (0..20).map(|_| reach(&manager)).collect();
        let quiet: Vec<_> = (0..20).map(|_| authenticated(&manager)).collect();
        for client in &quiet {
            let socket = std::os::fd::AsFd::as_fd(client)
                .try_clone_to_owned()
                .expect("a copy");
            UnixStream::from(socket).write_all(&[1]).expect("a server");
        }
        goes_on(&manager)?;
        drop((silent, quiet));
        goes_on(&manager)
    })
}
