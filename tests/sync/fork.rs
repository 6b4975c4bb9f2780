//! Guards in copies of the process that holds them: they hold nothing there. A process with guards
//! that give references to shared memory is not copied.

#![expect(unsafe_code, reason = "a copy that no safe call makes")]

use crate::elsewhere;
use common::in_time;
use common::methods::start;
use procpool::{
    Array, Error, ErrorKind, Lock, LockGuard, Process, ProcessPoolExecutor, Result, StartMethod,
    Value, fork_map, fork_map_unchecked,
};
use std::{
    cell::{Cell, RefCell},
    fmt::Debug,
    mem,
    sync::Mutex,
    thread,
    time::Duration,
};

fn text(error: impl ToString) -> String {
    error.to_string()
}

/// Runs something in a process with one thread.
fn in_one_thread(run: fn(()) -> std::result::Result<(), String>) -> Result<()> {
    in_time(move || {
        let outcome = Process::start(run, ())?.result()?;
        assert_eq!(outcome, Ok(()));
        Ok(())
    })
}

#[test]
fn a_copy_must_not_touch_what_the_lock_protects() -> Result<()> {
    in_one_thread(|()| {
        let value = Value::new(1u64).map_err(text)?;
        let held = value.lock().map_err(text)?;
        // SAFETY: this process has one thread, and the copy gets no reference from the guard.
        let error = unsafe { fork_map_unchecked(1, &[()], |()| *held) };
        let error = error.map(drop);
        let error = error.expect_err("it is a copy");
        assert_eq!(error.kind(), ErrorKind::Panicked);
        assert!(error.to_string().contains("copy of the process"), "{error}");
        assert_eq!(*held, 1);
        Ok(())
    })
}

#[test]
fn a_copy_that_drops_a_guard_does_not_let_the_lock_go() -> Result<()> {
    in_one_thread(|()| {
        let lock = Lock::new().map_err(text)?;
        let held = std::cell::RefCell::new(Some(lock.acquire().map_err(text)?));
        fork_map(2, &[1, 2], |_| drop(held.borrow_mut().take())).map_err(text)?;
        let is_free = |it: Lock| it.acquire_timeout(Duration::from_millis(20)).is_ok();
        let ask = || {
            let process = start(StartMethod::ForkServer, is_free, lock.clone());
            process.and_then(Process::result).map_err(text)
        };
        assert!(!ask()?);
        drop(held);
        assert!(ask()?);
        Ok(())
    })
}

thread_local! {
    /// What this thread holds, also in a copy of its process.
    static HELD: RefCell<Option<LockGuard<'static>>> = const { RefCell::new(None) };
}

// 1. A process holds a lock and is copied; 2. it lets the lock go; 3. the copy takes the lock; 4.
//    the copy drops its copy of the first guard, which lets nothing go.
#[test]
fn a_copy_of_a_guard_does_not_let_go_what_the_copy_of_the_process_has_taken() -> Result<()> {
    in_one_thread(|()| {
        let lock: &Lock = Box::leak(Box::new(Lock::new().map_err(text)?));
        HELD.set(Some(lock.acquire().map_err(text)?));
        let copy = |lock: Lock| {
            let held = lock.acquire().map_err(text)?;
            HELD.take();
            let is_held = elsewhere(|| lock.try_acquire().is_err());
            drop(held);
            Ok::<_, String>(is_held)
        };
        let copy = start(StartMethod::Fork, copy, lock.clone()).map_err(text)?;
        HELD.take();
        assert!(copy.result().map_err(text)??);
        Ok(())
    })
}

/// What a call that would have copied this process says instead.
fn refusal<T: Debug>(copied: Result<T>) -> std::result::Result<String, String> {
    let error: Error = match copied {
        Ok(copied) => return Err(format!("the process was copied: {copied:?}")),
        Err(error) => error,
    };
    if error.kind() != ErrorKind::Unsupported {
        return Err(format!("{:?}: {error}", error.kind()));
    }
    Ok(error.to_string())
}

fn pool_of_copies() -> Result<ProcessPoolExecutor> {
    let builder = ProcessPoolExecutor::builder().workers(1);
    builder.start_method(StartMethod::Fork).build()
}

// 1. A guard's slice becomes a slice of cells; 2. the process is copied, with the slice; 3. both
// copies and the holder change the same items.
#[test]
fn a_function_with_a_slice_of_a_guard_is_not_mapped_in_copies() -> Result<()> {
    in_one_thread(|()| {
        let array = Array::from_slice(&[1u64, 2]).map_err(text)?;
        let mut held = array.lock().map_err(text)?;
        let cells = Cell::from_mut(&mut *held).as_slice_of_cells();
        let refusal = refusal(fork_map(2, &[0, 1], |it: &usize| cells[*it].replace(7)))?;
        assert!(refusal.contains("1 ArrayGuard"), "{refusal}");
        drop(held);
        assert_eq!(array.to_vec().map_err(text)?, [1, 2]);
        assert_eq!(fork_map(2, &[0, 1], |it| it + 1).map_err(text)?, [1, 2]);
        Ok(())
    })
}

/// A reference that a leaked guard has given out.
static LEAKED: Mutex<Option<&mut u64>> = Mutex::new(None);

fn change_what_was_leaked((): ()) {
    let mut leaked = LEAKED.lock().expect("no holder panics");
    **leaked.as_mut().expect("it was leaked") += 1;
}

fn leak() -> std::result::Result<(), String> {
    let value: &'static Value<u64> = Box::leak(Box::new(Value::new(1).map_err(text)?));
    let guard = Box::leak(Box::new(value.lock().map_err(text)?));
    *LEAKED.lock().map_err(text)? = Some(guard);
    Ok(())
}

// 1. A guard is leaked, and its reference is put in a static; 2. the process is copied; 3. the
// parent and the child change the same value.
#[test]
fn a_process_with_a_leaked_guard_is_not_copied() -> Result<()> {
    in_one_thread(|()| {
        leak()?;
        let child = start(StartMethod::Fork, change_what_was_leaked, ());
        let refusals = [
            refusal(child)?,
            refusal(pool_of_copies())?,
            refusal(fork_map(1, &[()], |()| change_what_was_leaked(())))?,
        ];
        for refusal in refusals {
            assert!(refusal.contains("1 ValueGuard"), "{refusal}");
        }
        // The other methods start processes without that memory.
        let child = start(StartMethod::ForkServer, |()| (), ());
        child.and_then(Process::result).map_err(text)
    })
}

#[test]
fn a_guard_that_an_ended_thread_has_leaked_counts() -> Result<()> {
    in_one_thread(|()| {
        thread::spawn(leak).join().map_err(|_| "a panic")??;
        let refusal = refusal(start(StartMethod::Fork, change_what_was_leaked, ()))?;
        assert!(refusal.contains("1 ValueGuard"), "{refusal}");
        Ok(())
    })
}

#[test]
fn a_leaked_guard_counts_as_long_as_its_handle_is_there() -> Result<()> {
    in_one_thread(|()| {
        let values = [0u64, 1].map(Value::new);
        for value in values {
            let value = value.map_err(text)?;
            mem::forget(value.lock().map_err(text)?);
            refusal(fork_map(1, &[()], |()| ()))?;
        }
        fork_map(1, &[()], |()| ()).map(drop).map_err(text)
    })
}

#[test]
fn a_guard_that_a_copy_takes_counts_there() -> Result<()> {
    in_one_thread(|()| {
        let value = Value::new(1u64).map_err(text)?;
        let refused = fork_map(1, &[()], |()| {
            let _held = value.lock().map_err(text)?;
            refusal(fork_map(1, &[()], |()| ())).map(drop)
        });
        refused.map_err(text)?.remove(0)?;
        fork_map(1, &[()], |()| ()).map(drop).map_err(text)
    })
}
