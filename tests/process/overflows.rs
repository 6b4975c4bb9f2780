//! Stack overflows: the error names them, wherever they happen, and no other fault is taken for
//! one.

#![expect(unsafe_code, reason = "faults, and handlers of them")]

use common::for_every_method;
use common::methods::{in_a_process_with_one_thread, start};
use common::{failure, in_time};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use procpool::{Error, ErrorKind, ProcessPoolExecutor, Result, StartMethod, fork_map};
use std::{ffi::c_void, hint::black_box, thread};

fn overflow(depth: u64) -> u64 {
    let frame = black_box([depth; 128]);
    if depth == u64::MAX {
        return frame[0];
    }
    overflow(depth + 1) + black_box(frame)[1]
}

fn overflow_in_a_thread(stack: usize) -> u64 {
    let thread = thread::Builder::new().stack_size(stack);
    let thread = thread.spawn(|| overflow(0)).expect("a thread");
    thread.join().expect("it never ends")
}

/// Reads unmapped memory, far from any stack.
fn touch_nothing((): ()) -> u8 {
    let nowhere = black_box(std::ptr::without_provenance::<u8>(1 << 20));
    // SAFETY: none: this is a bug, of the kind that a process is there for.
    unsafe { nowhere.read_volatile() }
}

/// Counts the mappings of this process, each stack among them.
fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("a list");
    maps.lines().count()
}

/// Ends a thread of the C library by `pthread_exit`, which unwinds its stack. Returns what it
/// leaves.
fn exit_a_thread((): ()) -> usize {
    unsafe extern "C-unwind" {
        fn pthread_exit(value: *mut c_void) -> !;
        fn pthread_create(
            thread: *mut libc::pthread_t,
            attributes: *const libc::pthread_attr_t,
            routine: extern "C-unwind" fn(*mut c_void) -> *mut c_void,
            argument: *mut c_void,
        ) -> i32;
    }
    extern "C-unwind" fn exit(value: *mut c_void) -> *mut c_void {
        // SAFETY: no frame of the thread has anything to be dropped.
        unsafe { pthread_exit(value) }
    }
    let (mut thread, mut left) = (0, std::ptr::null_mut());
    let seven = std::ptr::without_provenance_mut(7);
    // SAFETY: the thread is a local, and the routine has no other argument than a number.
    let code = unsafe { pthread_create(&raw mut thread, std::ptr::null(), exit, seven) };
    assert_eq!(code, 0);
    // SAFETY: the thread was just started, and no other thread joins it.
    assert_eq!(unsafe { libc::pthread_join(thread, &raw mut left) }, 0);
    left.addr()
}

/// A handler that ends the process with a code, which shows that it was called.
extern "C" fn exit_with_7(_: i32) {
    // SAFETY: a handler may call it.
    unsafe { libc::_exit(7) }
}

fn handle(signal: Signal, handler: extern "C" fn(i32)) {
    let handler = SigHandler::Handler(handler);
    let action = SigAction::new(handler, SaFlags::SA_ONSTACK, SigSet::empty());
    // SAFETY: the handlers of these tests do nothing that a handler may not do.
    unsafe { sigaction(signal, &action) }.expect("a handler");
}

fn check_overflowed(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::WorkerDied, "{error}");
    assert!(error.to_string().contains("stack overflow"), "{error}");
    let exit = error.worker().expect("how it ended");
    assert!(exit.stack_overflow);
    assert_eq!(exit.signal, Some(Signal::SIGSEGV as i32));
}

fn check_died_otherwise(error: &Error, signal: Signal) {
    assert_eq!(error.kind(), ErrorKind::WorkerDied, "{error}");
    assert!(!error.to_string().contains("stack overflow"), "{error}");
    let exit = error.worker().expect("how it ended");
    assert_eq!(exit.signal, Some(signal as i32));
}

fn pool_by(method: StartMethod) -> Result<ProcessPoolExecutor> {
    let builder = ProcessPoolExecutor::builder().workers(1);
    builder.start_method(method).build()
}

const SMALL: usize = 64 << 10;
const USUAL: usize = 2 << 20;

for_every_method! {
    fn the_error_of_a_task_names_the_overflow_of_its_stack(method) {
        let pool = pool_by(method)?;
        check_overflowed(&failure(pool.apply(overflow, 0)));
        assert_eq!(pool.apply(|x: u64| x + 1, 1)?, 2);
        check_overflowed(&failure(pool.apply(overflow, 0)));
        Ok(())
    }

    fn the_error_of_a_task_names_the_overflow_of_a_thread(method) {
        let pool = pool_by(method)?;
        for stack in [SMALL, USUAL] {
            check_overflowed(&failure(pool.apply(overflow_in_a_thread, stack)));
        }
        Ok(())
    }

    fn the_error_of_a_process_names_the_overflow_of_its_stack(method) {
        check_overflowed(&failure(start(method, overflow, 0)?.result()));
        Ok(())
    }

    fn the_error_of_a_process_names_the_overflow_of_a_thread(method) {
        for stack in [SMALL, USUAL] {
            check_overflowed(&failure(start(method, overflow_in_a_thread, stack)?.result()));
        }
        Ok(())
    }

    fn another_fault_is_no_overflow(method) {
        let pool = pool_by(method)?;
        check_died_otherwise(&failure(pool.apply(touch_nothing, ())), Signal::SIGSEGV);
        check_died_otherwise(&failure(start(method, touch_nothing, ())?.result()), Signal::SIGSEGV);
        Ok(())
    }

    fn a_signal_that_is_sent_is_no_fault(method) {
        for signal in [Signal::SIGSEGV, Signal::SIGBUS] {
            let task = |number: i32| {
                let signal = Signal::try_from(number).expect("a signal");
                raise(signal).expect("a signal of its own");
            };
            let number = signal as i32;
            check_died_otherwise(&failure(pool_by(method)?.apply(task, number)), signal);
            check_died_otherwise(&failure(start(method, task, number)?.result()), signal);
        }
        Ok(())
    }

    fn a_handler_of_the_task_is_called(method) {
        let task = |()| {
            handle(Signal::SIGSEGV, exit_with_7);
            overflow(0)
        };
        let error = failure(pool_by(method)?.apply(task, ()));
        assert_eq!(error.worker().expect("how it ended").exit_code, Some(7), "{error}");
        Ok(())
    }

    fn threads_leave_nothing_behind(method) {
        let threads = |()| {
            for number in 0..200 {
                let joined = thread::spawn(move || number).join();
                assert_eq!(joined.expect("a number"), number);
            }
            mappings()
        };
        let pool = pool_by(method)?;
        let before = pool.apply(threads, ())?;
        let after = pool.apply(threads, ())?;
        assert!(after < before + 100, "{before} mappings, then {after}");
        Ok(())
    }

    fn a_thread_may_end_anywhere(method) {
        let pool = pool_by(method)?;
        assert!(pool.apply(|()| thread::spawn(|| panic!("caught")).join().is_err(), ())?);
        assert_eq!(pool.apply(exit_a_thread, ())?, 7);
        Ok(())
    }
}

#[test]
fn a_handler_before_a_fork_is_called() -> Result<()> {
    in_time(|| {
        in_a_process_with_one_thread(|()| {
            handle(Signal::SIGSEGV, exit_with_7);
            let process = start(StartMethod::Fork, overflow, 0).map_err(|it| it.to_string())?;
            let error = failure(process.result());
            assert_eq!(
                error.worker().expect("how it ended").exit_code,
                Some(7),
                "{error}"
            );
            Ok(())
        })
    })
}

#[test]
fn the_error_of_a_map_of_forks_names_the_overflow() -> Result<()> {
    in_time(|| {
        in_a_process_with_one_thread(|()| {
            check_overflowed(&failure(fork_map(2, &[0u64; 3], |x| overflow(*x))));
            check_died_otherwise(
                &failure(fork_map(2, &[(); 3], |_| touch_nothing(()))),
                Signal::SIGSEGV,
            );
            Ok(())
        })
    })
}
