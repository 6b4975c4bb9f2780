//! A program that is built with `panic = "abort"`: each of its arguments names something that it
//! does and checks.

use procpool::{
    Error, ErrorKind, Process, ProcessPoolExecutor, Result, StartMethod, TaskFuture,
};
use serde::{Deserialize, Deserializer, Serialize};
use std::hint::black_box;

fn pool(workers: usize) -> ProcessPoolExecutor {
    let pool = ProcessPoolExecutor::builder().workers(workers).build();
    pool.expect("a pool")
}

fn square(x: u64) -> u64 {
    x * x
}

fn check_works(pool: &ProcessPoolExecutor) {
    assert_eq!(
        pool.map(square, 0..1000).expect("a pool that works").len(),
        1000
    );
}

fn check_panicked(error: &Error, message: &str) {
    assert_eq!(error.kind(), ErrorKind::Panicked, "{error}");
    let panic = error.remote_panic().expect("the details");
    assert_eq!(panic.message, message);
    let location = panic.location.as_deref().unwrap_or_default();
    assert!(location.contains("main.rs:"), "{location}");
    assert!(!panic.backtrace().is_empty());
}

/// A panic in a task arrives, and its worker is replaced.
fn task() {
    let pool = pool(1);
    check_works(&pool);
    let worker = pool.worker_pids();
    let error = pool.apply(|x: u32| -> () { panic!("{x} is too much") }, 7);
    check_panicked(&error.expect_err("a panic"), "7 is too much");
    check_works(&pool);
    assert_ne!(pool.worker_pids(), worker);
}

/// Panics of a map are those of their items.
fn map() {
    let pool = pool(2);
    let task = |x: u32| {
        if x % 10 == 3 {
            panic!("{x}");
        }
        x
    };
    for (x, result) in (0..).zip(pool.map_results(task, 0..200)) {
        match result {
            Ok(value) => assert!(value == x && x % 10 != 3),
            Err(error) => {
                assert!(x % 10 == 3);
                check_panicked(&error, &x.to_string());
            }
        }
    }
    check_works(&pool);
}

struct Undecodable;

impl Serialize for Undecodable {
    fn serialize<S: serde::Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.serialize_u8(1)
    }
}

impl<'de> Deserialize<'de> for Undecodable {
    fn deserialize<D: Deserializer<'de>>(_: D) -> std::result::Result<Self, D::Error> {
        panic!("while decoding")
    }
}

/// A panic while the argument is decoded is the task's.
fn decode() {
    let pool = pool(1);
    let error = pool.apply(|_: Undecodable| (), Undecodable);
    check_panicked(&error.expect_err("a panic"), "while decoding");
    check_works(&pool);
}

/// A panic while a context is decoded is that map's alone, on fresh workers and used ones.
fn context() {
    let pool = pool(2);
    for _ in 0..3 {
        let outcome = pool.map_with(Undecodable, |_, x: u32| x, 0..10);
        check_panicked(&outcome.expect_err("a panic"), "while decoding");
        check_works(&pool);
    }
}

/// A panic in an initializer breaks the pool with its message.
fn initializer() {
    let built = ProcessPoolExecutor::builder()
        .workers(2)
        .initializer(
            |()| -> std::result::Result<(), String> { panic!("no tea") },
            (),
        )
        .build();
    let check = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::StartFailed, "{error}");
        assert!(error.to_string().contains("no tea"), "{error}");
    };
    match built {
        Err(error) => check(error),
        Ok(pool) => {
            let futures: Vec<TaskFuture<u64>> = (0..20).map(|x| pool.submit(square, x)).collect();
            for future in futures {
                check(future.result().expect_err("a broken pool"));
            }
            check(pool.apply(square, 3).expect_err("a broken pool"));
        }
    }
}

/// A panic on a thread of the worker aborts it, which is a death like any other, and is printed by
/// the previous hook.
fn thread() {
    let pool = pool(1);
    let task = |()| {
        std::thread::spawn(|| panic!("on a side thread"))
            .join()
            .is_ok()
    };
    let error = pool.apply(task, ()).expect_err("a death");
    assert_eq!(error.worker().and_then(|it| it.signal), Some(6), "{error}");
    check_works(&pool);
}

/// A copy of this program has the handler of std, which says that the stack has overflowed and
/// aborts: so does the error.
fn overflow() -> Result<()> {
    fn overflow(depth: u64) -> u64 {
        let frame = black_box([depth; 128]);
        if depth == u64::MAX {
            return frame[0];
        }
        overflow(depth + 1) + black_box(frame)[1]
    }
    fn overflow_in_a_thread(depth: u64) -> u64 {
        let thread = std::thread::spawn(move || overflow(depth));
        thread.join().expect("it never ends")
    }
    let check = |error: Error, signal| {
        assert!(error.to_string().contains("stack overflow"), "{error}");
        let exit = error.worker().expect("how it ended");
        assert!(exit.stack_overflow && exit.signal == Some(signal), "{error}");
    };
    for function in [overflow as fn(u64) -> u64, overflow_in_a_thread] {
        let process = Process::builder(function, 0).start_method(StartMethod::Fork);
        check(process.start()?.result().expect_err("a death"), 6);
        let builder = ProcessPoolExecutor::builder().workers(1);
        let pool = builder.start_method(StartMethod::Fork).build()?;
        // What a pool forks from has no handlers.
        check(pool.apply(function, 0).expect_err("a death"), 11);
        check_works(&pool);
    }
    Ok(())
}

/// A long row of panics costs a worker each, and nothing else.
fn row() -> Result<()> {
    let pool = pool(2);
    let futures: Vec<_> = (0..100)
        .map(|x: u32| pool.submit(|x: u32| -> () { panic!("{x}") }, x))
        .collect();
    for (x, future) in (0..).zip(futures) {
        check_panicked(&future.result().expect_err("a panic"), &format!("{x}"));
    }
    check_works(&pool);
    pool.join()
}

fn main() -> Result<()> {
    let argument = std::env::args().nth(1);
    match argument.as_deref() {
        Some("task") => task(),
        Some("map") => map(),
        Some("decode") => decode(),
        Some("context") => context(),
        Some("initializer") => initializer(),
        Some("thread") => thread(),
        Some("overflow") => overflow()?,
        Some("row") => row()?,
        _ => panic!("nothing to do"),
    }
    Ok(())
}
