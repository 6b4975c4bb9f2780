//! The main function of a child, for every start method: sets up the process, calls the function
//! and sends the result.

use super::{
    child_exit::EX_SOFTWARE,
    control::{self, ParentMessage},
    function::{CallHandles, ChildArgs, Invocation, WireFunction},
    launch::{ChildSetup, LaunchData},
    panic::{self, OnPanic, PanicOutput},
    result_channel::{self, ResultSender},
    start_method::set_start_method,
    task_error::TaskError,
};
use crate::error::Error;
use crate::shm::{Buffer, Cursor, FreshSlabs};
use crate::sys::{child, environment, signal, socket};
use crate::wire::handle::Attached;
use std::{fmt, io, os::fd::OwnedFd, sync::Arc};

/// The exit code of a child whose function panicked, like that of a Rust program.
const EXIT_PANICKED: i32 = 101;

/// Runs a child. `args` contains its socket, its launch data, and the mark of a child that is not a
/// daemon.
pub(super) fn main(args: ChildArgs) -> i32 {
    run(args).unwrap_or(EX_SOFTWARE)
}

fn run(args: ChildArgs) -> Option<i32> {
    let mut fds = args.fds.into_iter();
    let sender = ResultSender::new(fds.next()?);
    sender.report_overflow();
    let launch = LaunchData::receive(args.bytes, &mut fds).ok()?;
    let _mark = fds.next();
    let setup = launch.setup()?;
    let function = WireFunction::from_bytes(&setup.function);
    panic::install_hook(OnPanic {
        output: PanicOutput::Printed,
        report_abort: result_channel::report_before_abort,
        ..OnPanic::SILENT
    });
    let count = setup.handles;
    match apply_setup(setup).and_then(|()| receive_handles_until_go(sender.socket(), count)) {
        Ok(fds) => Some(call_function(function, launch.argument(), fds?, &sender)),
        Err(error) => {
            sender.send_error(&TaskError::Setup(format!(
                "failed to set up the process: {error}"
            )));
            Some(EX_SOFTWARE)
        }
    }
}

fn apply_setup(setup: ChildSetup) -> io::Result<()> {
    child::set_name(&setup.identity.name);
    environment::replace(&setup.environment)?;
    // A service keeps the signals that request termination blocked until it has set up its own
    // handling.
    if !setup.is_copy && !setup.is_service {
        signal::unblock_all()?;
    }
    setup.identity.apply();
    set_start_method(setup.method).map_err(io::Error::other)
}

/// Receives the handles in the argument and the message to run. Returns `None` if the start was
/// cancelled.
fn receive_handles_until_go(socket: &OwnedFd, count: usize) -> io::Result<Option<Vec<Attached>>> {
    let mut fds = Vec::new();
    loop {
        let mut message = [ParentMessage::Stop as u8; control::MAX_MESSAGE_LEN];
        let (length, received) = socket::receive(socket, &mut message)?;
        match &message[..length] {
            [message, kinds @ ..] if *message == ParentMessage::Handles as u8 => {
                fds.extend(Attached::received(received, kinds));
            }
            [message] if *message == ParentMessage::Go as u8 => break,
            _ => return Ok(None),
        }
    }
    if fds.len() < count {
        return Err(io::Error::other(
            "it has too many open descriptors for the handles in its argument",
        ));
    }
    Ok(Some(fds))
}

fn call_function(
    function: WireFunction,
    argument: Cursor<'_>,
    fds: Vec<Attached>,
    sender: &ResultSender,
) -> i32 {
    let Err(error) = invoke(function, argument, fds, sender) else {
        return 0;
    };
    sender.send_error(&error);
    match error {
        TaskError::Panicked { .. } => EXIT_PANICKED,
        _ => EX_SOFTWARE,
    }
}

fn invoke(
    function: WireFunction,
    argument: Cursor<'_>,
    fds: Vec<Attached>,
    sender: &ResultSender,
) -> Result<(), TaskError> {
    let unknown = |error: Error| TaskError::UnknownFunction(error.to_string());
    let callable = function.resolve().map_err(unknown)?;
    let mut handles = CallHandles {
        received_fds: fds,
        ..CallHandles::default()
    };
    let mut result = Buffer::new(Arc::new(FreshSlabs));
    let mut invocation = Invocation {
        argument,
        context: None,
        result: &mut result,
        handles: &mut handles,
    };
    let called = panic::catch(|| callable.invoke(&mut invocation));
    called.map_err(|panic| *panic)?.map_err(TaskError::from)?;
    let encode_error = |what: &str, reason: &dyn fmt::Display| {
        TaskError::Encode(format!("{what} could not be sent: {reason}"))
    };
    sender
        .send_handles(&handles.sent_fds)
        .map_err(|error| encode_error("its handles", &error))?;
    sender
        .send_value(&mut result)
        .map_err(|reason| encode_error("it", &reason))
}
