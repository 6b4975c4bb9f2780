//! Messages between processes that signals interrupt all the time.
#![expect(unsafe_code, reason = "a handler that does not restart system calls")]

use common::{in_time, pattern};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use procpool::{Connection, Listener, Process, Result, connect, pipe, wait_ready};
use std::{
    process, ptr,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

type End = Connection<Vec<u16>, Vec<u16>>;

/// Signals that have come.
static SIGNALS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count(_signal: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Interrupts this process a thousand times a second; system calls fail then instead of going
/// on.
fn begin_storm() {
    let action = SigAction::new(
        SigHandler::Handler(count),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler adds to an atomic.
    unsafe { sigaction(Signal::SIGALRM, &action) }.expect("a signal that can be handled");
    let often = libc::timeval {
        tv_sec: 0,
        tv_usec: 1000,
    };
    let timer = libc::itimerval {
        it_interval: often,
        it_value: often,
    };
    // SAFETY: the kernel reads a local.
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
    assert_eq!(set, 0);
}

/// Bytes of the messages.
fn sizes() -> impl Iterator<Item = usize> {
    let small = (0..130).chain([4079, 4080, 4081, 4087, 4088, 4089, 65_000]);
    // Above a pipe's room: they are written in pieces.
    small.chain([65_536, 70_000, 1 << 20, (1 << 20) + 1, 5 << 20])
}

/// Elements of the messages that are encoded.
fn lengths() -> impl Iterator<Item = usize> {
    (0..40).chain([2040, 2044, 30_000, 100_000])
}

/// Sends messages and checks what comes back; the signals meanwhile.
fn ask(end: End) -> usize {
    begin_storm();
    for size in sizes() {
        let bytes = pattern(size, 1);
        end.send_bytes(&bytes).expect("the other end");
        wait_ready(&[&end], None).expect("the other end");
        let mut buffer = vec![0; size];
        assert_eq!(end.recv_bytes_into(&mut buffer).ok(), Some(size));
        assert!(buffer == bytes, "{size} bytes");
    }
    for length in lengths() {
        let value = vec![length as u16; length];
        end.send(&value).expect("the other end");
        assert!(end.recv().expect("the other end") == value, "{length}");
    }
    SIGNALS.load(Ordering::Relaxed)
}

/// Sends back what comes; the signals meanwhile.
fn answer(end: End) -> usize {
    begin_storm();
    for _ in sizes() {
        let bytes = end.recv_bytes().expect("the other end");
        end.send_bytes(&bytes).expect("the other end");
    }
    for _ in lengths() {
        let value = end.recv().expect("the other end");
        end.send(&value).expect("the other end");
    }
    SIGNALS.load(Ordering::Relaxed)
}

fn survives(here: End, there: End) -> Result<()> {
    let asks = Process::start(ask, here)?;
    let answers = Process::start(answer, there)?;
    let signals = [asks.result()?, answers.result()?];
    assert!(signals.iter().all(|it| *it > 0), "{signals:?}");
    Ok(())
}

#[test]
fn messages_of_every_size_survive_signals_through_pipes() {
    in_time(|| {
        let (here, there) = pipe().expect("a pipe");
        survives(here, there).expect("processes that work");
    });
}

#[test]
fn messages_of_every_size_survive_signals_through_a_socket() {
    in_time(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join(process::id().to_string());
        let listener = Listener::bind(path, None).expect("a path");
        let address = listener.address().clone();
        let client = thread::spawn(move || connect(address, None).expect("a listener"));
        let here = listener.accept().expect("a client");
        let there = client.join().expect("it does not panic");
        survives(here, there).expect("processes that work");
    });
}
