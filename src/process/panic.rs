//! What a task's panic says: taken by a hook while it happens, on the task's thread alone.

use crate::process::fault::Fault;
use crate::sys::stack::Calls;
use std::{
    any::Any,
    cell::{Cell, RefCell},
    panic,
};

thread_local! {
    /// Whether this thread runs a task.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: RefCell<Option<Caught>> = const { RefCell::new(None) };
}

struct Caught {
    message: String,
    location: Option<String>,
    calls: Calls,
}

/// Whether a panic that is caught and told is printed as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    Silent,
    Printed,
}

/// What a process does about a panic of its task, besides handing it on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OnPanic {
    pub(crate) report: Report,
    /// Stops the task's clock, before anything else.
    pub(crate) stop_clock: fn(),
    /// Reports the fault of a panic that ends the process, after which nothing comes.
    pub(crate) last_words: fn(Fault),
}

impl OnPanic {
    /// Does nothing else.
    pub(crate) const SILENT: Self = Self {
        report: Report::Silent,
        stop_clock: || (),
        last_words: |_| (),
    };
}

/// Puts our hook before the one that is there. It acts while [`run`] is on the thread that panics and leaves every other
/// panic to the hook before it.
pub(crate) fn install_hook(on_panic: OnPanic) {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !IN_TASK.get() {
            return previous(info);
        }
        (on_panic.stop_clock)();
        let caught = Caught {
            message: text(info.payload()),
            location: info.location().map(ToString::to_string),
            calls: Calls::here(),
        };
        if on_panic.report == Report::Printed {
            previous(info);
        }
        if cfg!(panic = "abort") {
            return (on_panic.last_words)(caught.into());
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
        calls: Calls::default(),
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
            calls,
        } = caught;
        Self::Panicked {
            message,
            location,
            calls,
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
