//! Waiting for several sources.

use common::{A_MOMENT, in_time};
use procpool::{one_way, pipe, wait_ready};
use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

#[test]
fn all_that_are_ready_are_named_in_their_order() {
    in_time(|| {
        let (receiver, sender) = one_way::<u8>().expect("a pipe");
        let (a, b) = pipe::<u8, u8>().expect("a pipe");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("a port");
        let sources: [&dyn AsFd; 4] = [&b, &listener, &receiver, &a];
        assert!(
            wait_ready(&sources, Some(Duration::ZERO))
                .expect("a wait")
                .is_empty()
        );
        sender.send(&1).expect("the other end");
        assert_eq!(wait_ready(&sources, None).expect("a wait"), [2]);
        let mut stream = TcpStream::connect(address).expect("a listener");
        assert_eq!(wait_ready(&sources, None).expect("a wait"), [1, 2]);
        a.close();
        let (served, _) = listener.accept().expect("a client");
        let sources: [&dyn AsFd; 3] = [&b, &served, &receiver];
        assert_eq!(
            wait_ready(&sources, Some(Duration::MAX)).expect("a wait"),
            [0, 2]
        );
        stream.write_all(b"x").expect("a server");
        receiver.recv().expect("a message");
        drop(stream);
        assert_eq!(wait_ready(&sources, None).expect("a wait"), [0, 1]);
    });
}

#[test]
fn nothing_is_ready_at_the_limit() {
    in_time(|| {
        let (receiver, _sender) = one_way::<u8>().expect("a pipe");
        for sources in [&[][..], &[&receiver as &dyn AsFd]] {
            let start = Instant::now();
            assert!(
                wait_ready(sources, Some(A_MOMENT))
                    .expect("a wait")
                    .is_empty()
            );
            assert!(start.elapsed() >= A_MOMENT);
        }
    });
}

#[test]
fn a_wait_ends_when_something_comes() {
    in_time(|| {
        let (receiver, sender) = one_way::<u8>().expect("a pipe");
        let many: Vec<_> = (0..100).map(|_| one_way::<u8>().expect("a pipe")).collect();
        let mut sources: Vec<&dyn AsFd> = many.iter().map(|it| &it.0 as &dyn AsFd).collect();
        sources.push(&receiver);
        thread::scope(|scope| {
            scope.spawn(move || sender.send(&1));
            assert_eq!(wait_ready(&sources, None).expect("a wait"), [100]);
        });
    });
}
