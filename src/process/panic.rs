//! Catches the panics of tasks, and records their message, location and backtrace in a panic hook.

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

/// Whether a caught panic is also printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PanicOutput {
    Silent,
    Printed,
}

/// How a process handles a panic of its task, in addition to catching it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OnPanic {
    pub(crate) output: PanicOutput,
    /// Stops the task's clock, before the panic is handled.
    pub(crate) stop_clock: fn(),
    /// Reports a panic that aborts the process. Called last.
    pub(crate) report_abort: fn(TaskError),
}

impl OnPanic {
    /// Catches panics and does nothing else.
    pub(crate) const SILENT: Self = Self {
        output: PanicOutput::Silent,
        stop_clock: || (),
        report_abort: |_| (),
    };
}

/// Installs the panic hook in front of the current one. It handles panics inside [`catch`] and
/// passes every other panic to the previous hook.
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

/// Runs a task's code and turns a panic into an error.
#[inline]
pub(crate) fn catch<T>(code: impl FnOnce() -> T) -> Result<T, Box<TaskError>> {
    let outer = IN_TASK.replace(true);
    let result = panic::catch_unwind(panic::AssertUnwindSafe(code)).map_err(into_task_error);
    IN_TASK.set(outer);
    result
}

#[cold]
fn into_task_error(payload: Box<dyn Any + Send>) -> Box<TaskError> {
    let message = payload_text(&*payload);
    // The recorded panic may be another one: the hook does not run for a resumed panic, and the
    // last record may belong to a panic that the task caught itself. So the messages must match.
    let caught = CAUGHT.take();
    let caught = caught.filter(|caught| caught.message == message);
    drop_quietly(payload);
    let unknown = CaughtPanic {
        message,
        location: None,
        calls: Frames::default(),
    };
    Box::new(caught.unwrap_or(unknown).into())
}

/// Drops the payload of a panic. A panic of its drop is ignored.
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
