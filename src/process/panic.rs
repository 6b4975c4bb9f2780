//! What a task's panic says: taken by a hook while it happens, on the task's thread alone.

use crate::process::fault::Fault;
use std::{
    any::Any,
    backtrace::Backtrace,
    cell::{Cell, RefCell},
    panic,
};

/// What is called when a panic will end the process: it reports the fault now, as nothing comes after.
pub(crate) type LastWords = fn(Fault);

thread_local! {
    /// Whether this thread runs a task.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: RefCell<Option<Caught>> = const { RefCell::new(None) };
}

struct Caught {
    message: String,
    location: Option<String>,
    backtrace: String,
}

/// Whether a panic that is caught and told is printed as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    Silent,
    Printed,
}

/// Puts our hook before the one that is there. It acts while [`run`] is on the thread that panics and leaves every other
/// panic to the hook before it.
pub(crate) fn install_hook(report: Report, last_words: LastWords) {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !IN_TASK.get() {
            return previous(info);
        }
        let caught = Caught {
            message: text(info.payload()),
            location: info.location().map(ToString::to_string),
            backtrace: Backtrace::force_capture().to_string(),
        };
        if report == Report::Printed {
            previous(info);
        }
        if cfg!(panic = "abort") {
            return last_words(caught.into());
        }
        CAUGHT.set(Some(caught));
    }));
}

/// Runs a task's code; a panic becomes a fault.
#[inline]
pub(crate) fn run<T>(code: impl FnOnce() -> T) -> Result<T, Box<Fault>> {
    let outer = IN_TASK.replace(true);
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(code)).map_err(into_fault);
    IN_TASK.set(outer);
    outcome
}

#[cold]
fn into_fault(payload: Box<dyn Any + Send>) -> Box<Fault> {
    let message = text(&*payload);
    // The hook is not called for a panic that is resumed, and what it took last may be of one that the task has caught.
    let caught = CAUGHT.take().filter(|it| it.message == message);
    drop_quietly(payload);
    let unknown = Caught {
        message,
        location: None,
        backtrace: String::new(),
    };
    Box::new(caught.unwrap_or(unknown).into())
}

/// Drops a panic's payload, which may panic once more.
fn drop_quietly(payload: Box<dyn Any + Send>) {
    if let Err(second) = panic::catch_unwind(panic::AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
    CAUGHT.take();
}

impl From<Caught> for Fault {
    fn from(caught: Caught) -> Self {
        let Caught {
            message,
            location,
            backtrace,
        } = caught;
        Self::Panicked {
            message,
            location,
            backtrace,
        }
    }
}

fn text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_owned();
    }
    match payload.downcast_ref::<String>() {
        Some(text) => text.clone(),
        None => "a value that is not text".to_owned(),
    }
}
