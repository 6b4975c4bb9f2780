//! What a task's panic says: taken by a hook while it happens, on the task's thread alone.

use crate::process::task_error::TaskError;
use crate::sys::stack::Frames;
use std::{
    any::Any,
    cell::{Cell, RefCell},
    panic,
};

thread_local! {
    /// Whether this thread runs a task.
    static IN_TASK: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: RefCell<Option<CaughtPanic>> = const { RefCell::new(None) };
}

struct CaughtPanic {
    message: String,
    location: Option<String>,
    calls: Frames,
}

/// Whether a panic that is caught and told is printed as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PanicOutput {
    Silent,
    Printed,
}

/// What a process does about a panic of its task, besides handing it on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OnPanic {
    pub(crate) output: PanicOutput,
    /// Stops the task's clock, before anything else.
    pub(crate) stop_clock: fn(),
    /// Reports the fault of a panic that ends the process, after which nothing comes.
    pub(crate) report_abort: fn(TaskError),
}

impl OnPanic {
    /// Does nothing else.
    pub(crate) const SILENT: Self = Self {
        output: PanicOutput::Silent,
        stop_clock: || (),
        report_abort: |_| (),
    };
}

/// Puts our hook before the one that is there. It acts while [`catch`] is on the thread that panics
/// and leaves every other panic to the hook before it.
pub(crate) fn install_hook(on_panic: OnPanic) {
    let previous = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !IN_TASK.get() {
            return previous(info);
        }
        (on_panic.stop_clock)();
        let caught = CaughtPanic {
            message: payload_text(info.payload()),
            location: info.location().map(ToString::to_string),
            calls: Frames::here(),
        };
        if on_panic.output == PanicOutput::Printed {
            previous(info);
        }
        if cfg!(panic = "abort") {
            return (on_panic.report_abort)(caught.into());
        }
        CAUGHT.set(Some(caught));
    }));
}

/// Runs a task's code; a panic becomes an error.
#[inline]
pub(crate) fn catch<T>(code: impl FnOnce() -> T) -> Result<T, Box<TaskError>> {
    let outer = IN_TASK.replace(true);
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(code)).map_err(into_task_error);
    IN_TASK.set(outer);
    outcome
}

#[cold]
fn into_task_error(payload: Box<dyn Any + Send>) -> Box<TaskError> {
    let message = payload_text(&*payload);
    // The hook is not called for a panic that is resumed, and what it took last may be of one that
    // the task has caught.
    let caught = CAUGHT.take().filter(|it| it.message == message);
    drop_quietly(payload);
    let unknown = CaughtPanic {
        message,
        location: None,
        calls: Frames::default(),
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

impl From<CaughtPanic> for TaskError {
    fn from(caught: CaughtPanic) -> Self {
        let CaughtPanic {
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

fn payload_text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_owned();
    }
    match payload.downcast_ref::<String>() {
        Some(text) => text.clone(),
        None => "a value that is not text".to_owned(),
    }
}
