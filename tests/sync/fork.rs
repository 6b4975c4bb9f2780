//! Guards in copies of the process that holds them: they hold nothing there.

use crate::{elsewhere, start};
use common::in_time;
use procpool::{ErrorKind, Lock, LockGuard, Process, Result, StartMethod, Value, fork_map};
use std::{cell::RefCell, time::Duration};

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
        let error = fork_map(1, &[()], |()| *held).map(drop);
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

// 1. A process holds a lock and is copied; 2. it lets the lock go; 3. the copy takes the lock; 4. the copy drops its copy of
// the first guard, which lets nothing go.
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
