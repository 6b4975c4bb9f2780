//! Panics: what arrives of them, and that nothing else happens.

use common::processes::{Program, say};
use common::{failure, in_time, pool_of, process_id, square};
use nix::sys::signal::Signal;
use procpool::{ErrorKind, RemotePanic, Result, current_worker};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind, set_hook},
    thread,
};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[("noisy", noisy)];

/// Runs a task that panics on a pool of one worker, and checks that the worker lives on.
fn panic_of<A, R>(task: fn(A) -> R, arg: A) -> RemotePanic
where
    A: procpool::Wire + Send + 'static,
    R: procpool::Wire + Send + 'static,
{
    let pool = pool_of(1);
    let worker = pool.apply(process_id, ()).expect("a task that works");
    let error = failure(pool.apply(task, arg));
    assert_eq!(error.kind(), ErrorKind::Panicked, "{error:?}");
    let again = pool.apply(process_id, ()).expect("a task that works");
    assert_eq!(worker, again, "the worker was replaced");
    error.remote_panic().expect("the details").clone()
}

fn located(file: &str, line: u32, panic: &RemotePanic) -> bool {
    let location = panic.location.as_deref().unwrap_or_default();
    location.starts_with(&format!("{file}:{line}:"))
}

#[test]
fn a_panic_arrives_with_its_message() {
    in_time(|| {
        let panic = panic_of(|x: u32| -> () { panic!("{x} is too much") }, 7);
        assert_eq!(panic.message, "7 is too much");
        let panic = panic_of(|()| -> () { panic!("a literal") }, ());
        assert_eq!(panic.message, "a literal");
    });
}

#[test]
fn the_error_of_a_panic_shows_its_message_and_its_place() {
    in_time(|| {
        let error = failure(pool_of(1).apply(|()| -> () { panic!("out of tea") }, ()));
        let text = error.to_string();
        assert!(
            text.contains("out of tea") && text.contains(file!()),
            "{text}"
        );
    });
}

const LINE_OF_A_PANIC: u32 = line!() + 3;

fn panics_on_a_known_line((): ()) {
    panic!("here");
}

#[test]
fn a_panic_arrives_with_its_location() {
    in_time(|| {
        let panic = panic_of(panics_on_a_known_line, ());
        assert!(located(file!(), LINE_OF_A_PANIC, &panic), "{panic:?}");
    });
}

#[test]
fn a_panic_arrives_with_the_backtrace_of_its_task() {
    in_time(|| {
        let panic = panic_of(panics_on_a_known_line, ());
        let backtrace = panic.backtrace();
        assert!(backtrace.contains("panics_on_a_known_line"), "{backtrace}");
    });
}

#[test]
fn a_panic_with_a_value_that_is_not_text_arrives_with_its_location() {
    in_time(|| {
        const LINE: u32 = line!() + 1;
        let panic = panic_of(|()| -> () { panic_any(vec![7]) }, ());
        assert!(!panic.message.is_empty());
        assert!(located(file!(), LINE, &panic), "{panic:?}");
    });
}

#[test]
fn a_panic_with_megabytes_of_text_arrives() {
    in_time(|| {
        let panic = panic_of(|()| -> () { panic!("{}", "é".repeat(5 << 20)) }, ());
        assert!(panic.message.starts_with("éé"));
    });
}

/// Panics when it is dropped, this many times one inside the other.
struct PanicsWhenDropped(u32);

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        if self.0 > 0 {
            panic_any(Self(self.0 - 1));
        }
    }
}

#[test]
fn a_panic_whose_value_panics_when_it_is_dropped_is_one_panic() {
    in_time(|| {
        for depth in 1..4 {
            const LINE: u32 = line!() + 1;
            let panic = panic_of(|depth| -> () { panic_any(PanicsWhenDropped(depth)) }, depth);
            assert!(located(file!(), LINE, &panic), "{panic:?}");
        }
    });
}

/// Panics in the worker when it is decoded, encoded or dropped there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Moment {
    Decode,
    Encode,
    Drop,
}

struct Fragile(Moment);

fn is_worker() -> bool {
    current_worker().is_some()
}

impl Serialize for Fragile {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        assert!(!(is_worker() && self.0 == Moment::Encode), "while encoding");
        self.0.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Fragile {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let moment = Moment::deserialize(from)?;
        assert!(!(is_worker() && moment == Moment::Decode), "while decoding");
        Ok(Self(moment))
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        assert!(!(is_worker() && self.0 == Moment::Drop), "while dropping");
    }
}

#[test]
fn a_panic_while_the_argument_is_decoded_is_the_tasks_own() {
    in_time(|| {
        let panic = panic_of(|_: Fragile| (), Fragile(Moment::Decode));
        assert_eq!(panic.message, "while decoding");
    });
}

#[test]
fn a_panic_while_the_argument_is_dropped_is_the_tasks_own() {
    in_time(|| {
        let panic = panic_of(|_: Fragile| (), Fragile(Moment::Drop));
        assert_eq!(panic.message, "while dropping");
    });
}

#[test]
fn a_panic_while_the_result_is_encoded_is_the_tasks_own() {
    in_time(|| {
        let panic = panic_of(Fragile, Moment::Encode);
        assert_eq!(panic.message, "while encoding");
    });
}

#[test]
fn a_panic_while_the_result_is_dropped_is_the_tasks_own() {
    in_time(|| {
        let panic = panic_of(Fragile, Moment::Drop);
        assert_eq!(panic.message, "while dropping");
    });
}

/// Encodes a good deal before it panics.
struct EncodesHalf(usize);

impl Serialize for EncodesHalf {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple;
        let mut tuple = to.serialize_tuple(2)?;
        tuple.serialize_element(&"x".repeat(self.0))?;
        panic!("in the middle");
    }
}

impl<'de> Deserialize<'de> for EncodesHalf {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        usize::deserialize(from).map(Self)
    }
}

#[test]
fn a_panic_in_the_middle_of_a_result_leaves_nothing_of_it_to_the_next() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        for size in [10, 10_000, 100_000, 10_000_000] {
            let error = failure(pool.apply(EncodesHalf, size));
            let panic = error.remote_panic().expect("a panic");
            assert_eq!(panic.message, "in the middle");
            assert_eq!(pool.apply(|x: Vec<u8>| x, vec![7; size])?, vec![7; size]);
        }
        Ok(())
    })
}

/// What becomes of a call whose own values panic.
fn caught<T>(call: impl FnOnce() -> T) -> thread::Result<T> {
    catch_unwind(AssertUnwindSafe(call))
}

#[test]
fn an_item_that_panics_while_it_is_encoded_panics_in_the_caller_alone() -> Result<()> {
    in_time(|| {
        struct Bomb(u32);
        impl Serialize for Bomb {
            fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
                assert!(self.0 != 500, "in the caller");
                self.0.serialize(to)
            }
        }
        impl<'de> Deserialize<'de> for Bomb {
            fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
                u32::deserialize(from).map(Self)
            }
        }
        let pool = pool_of(2);
        let outcome = caught(|| pool.map(|it: Bomb| it.0, (0..1000).map(Bomb)));
        assert!(outcome.is_err());
        let outcome = caught(|| pool.apply(|it: Bomb| it.0, Bomb(500)));
        assert!(outcome.is_err());
        assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
        Ok(())
    })
}

/// Panics when the caller decodes it.
#[derive(Debug)]
struct Undecodable;

impl Serialize for Undecodable {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.serialize_u8(0)
    }
}

impl<'de> Deserialize<'de> for Undecodable {
    fn deserialize<D: Deserializer<'de>>(_: D) -> std::result::Result<Self, D::Error> {
        panic!("in the caller")
    }
}

#[test]
fn a_result_that_panics_while_it_is_decoded_panics_in_the_caller_alone() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let outcome = caught(|| pool.apply(|()| Undecodable, ()));
        assert!(outcome.is_err());
        let outcome = caught(|| pool.map(|_: u32| Undecodable, 0..1000));
        assert!(outcome.is_err());
        assert_eq!(pool.map(square, 0..1000)?.len(), 1000);
        Ok(())
    })
}

#[test]
fn a_panic_that_the_task_catches_is_no_failure() -> Result<()> {
    in_time(|| {
        let caught = pool_of(1).apply(|()| catch_unwind(|| panic!("inside")).is_err(), ())?;
        assert!(caught);
        Ok(())
    })
}

#[test]
fn a_panic_after_a_caught_one_is_reported_with_its_own_location() {
    in_time(|| {
        let task = |()| -> () {
            let _ = catch_unwind(|| panic!("the first"));
            panic!("the second");
        };
        const LINE: u32 = line!() - 2;
        let panic = panic_of(task, ());
        assert_eq!(panic.message, "the second");
        assert!(located(file!(), LINE, &panic), "{panic:?}");
    });
}

#[test]
fn a_caught_panic_does_not_lend_its_location_to_one_that_has_none() {
    in_time(|| {
        let task = |()| -> () {
            let _ = catch_unwind(|| panic!("the first"));
            // Passes by every panic hook, as when a thread's panic is handed on.
            resume_unwind(Box::new("the second"));
        };
        let panic = panic_of(task, ());
        assert_eq!(panic.message, "the second");
        assert_eq!(panic.location, None);
    });
}

#[test]
fn a_panic_caught_in_one_task_does_not_lend_its_location_to_the_next() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        pool.apply(|()| drop(catch_unwind(|| panic!("the first"))), ())?;
        let task = |()| -> () { resume_unwind(Box::new("the second".to_owned())) };
        let error = failure(pool.apply(task, ()));
        let panic = error.remote_panic().expect("a panic");
        assert_eq!((&*panic.message, &panic.location), ("the second", &None));
        Ok(())
    })
}

#[test]
fn a_panic_that_a_task_hands_on_from_its_thread_is_the_tasks() {
    in_time(|| {
        let task = |()| -> () {
            let ended = thread::spawn(|| panic!("on a thread")).join();
            resume_unwind(ended.expect_err("it panics"));
        };
        assert_eq!(panic_of(task, ()).message, "on a thread");
    });
}

#[test]
fn a_panic_under_the_tasks_own_hook_arrives_with_its_message() {
    in_time(|| {
        let task = |()| -> () {
            set_hook(Box::new(|_| ()));
            panic!("unheard");
        };
        assert_eq!(panic_of(task, ()).message, "unheard");
    });
}

#[test]
fn a_panic_hook_that_panics_costs_only_its_task() -> Result<()> {
    in_time(|| {
        let pool = pool_of(1);
        let task = |()| -> () {
            set_hook(Box::new(|_| panic!("in the hook")));
            panic!("in the task");
        };
        let error = failure(pool.apply(task, ()));
        let exit = error.worker().expect("its worker was aborted");
        assert_eq!(exit.signal, Some(Signal::SIGABRT as i32));
        assert_eq!(pool.apply(square, 3)?, 9);
        Ok(())
    })
}

#[test]
fn a_panic_in_a_destructor_while_unwinding_costs_only_its_task() -> Result<()> {
    in_time(|| {
        let pool = pool_of(2);
        let task = |()| -> () {
            let _bomb = PanicsWhenDropped(1);
            panic!("the first");
        };
        let error = failure(pool.apply(task, ()));
        let exit = error.worker().expect("its worker was aborted");
        assert_eq!(exit.signal, Some(Signal::SIGABRT as i32));
        assert_eq!(pool.map(square, 0..100)?.len(), 100);
        Ok(())
    })
}

#[test]
fn every_panic_of_a_map_is_its_items_own() {
    in_time(|| {
        let results = pool_of(2).map_results(
            |x: u32| {
                assert!(!x.is_multiple_of(3), "{x}");
                x
            },
            0..3000,
        );
        for (x, result) in (0..).zip(results) {
            match result {
                Ok(value) => assert!(value == x && !x.is_multiple_of(3)),
                Err(error) => {
                    let panic = error.remote_panic().expect("a panic");
                    assert_eq!(panic.message, x.to_string());
                    assert!(x.is_multiple_of(3));
                }
            }
        }
    });
}

/// Panics on threads of its workers and in tasks.
fn noisy() {
    let pool = pool_of(1);
    let on_a_thread = |()| {
        thread::spawn(|| panic!("heard from a side thread"))
            .join()
            .is_err()
    };
    let outcome = pool.apply(on_a_thread, ());
    assert!(outcome.expect("the task does not panic"));
    let heard = failure(pool.apply(|()| -> () { panic!("never heard") }, ()));
    assert_eq!(heard.kind(), ErrorKind::Panicked);
    let heard = failure(pool.apply(|()| -> () { panic_any(PanicsWhenDropped(2)) }, ()));
    assert_eq!(heard.kind(), ErrorKind::Panicked);
    let caught = pool.apply(|()| catch_unwind(|| panic!("never heard")).is_err(), ());
    assert!(caught.expect("the task does not panic"));
    say("done");
}

#[test]
fn a_panic_on_another_thread_of_a_worker_goes_to_the_previous_hook() {
    in_time(|| {
        let finished = Program::start("noisy").finish();
        assert!(finished.status.success(), "{finished:#?}");
        let errors = finished.errors;
        assert_eq!(
            errors.matches("heard from a side thread").count(),
            1,
            "{errors}"
        );
    });
}

#[test]
fn a_panic_of_a_task_is_not_printed() {
    in_time(|| {
        let finished = Program::start("noisy").finish();
        assert!(finished.status.success(), "{finished:#?}");
        let errors = finished.errors;
        assert!(!errors.contains("never heard"), "{errors}");
        assert_eq!(errors.matches("panicked at").count(), 1, "{errors}");
    });
}
