//! What a child does, however it came to exist: it learns who it is, calls its function and leaves the outcome.

use super::{
    fault::Fault,
    function::{Function, Given, Handles, Invocation},
    identity::Identity,
    luggage::Luggage,
    method::{StartMethod, set_start_method},
    outcome::{self, Report},
    panic::{self, OnPanic, Report as Printing},
    words::{self, Word},
};
use crate::error::Error;
use crate::shm::{Buffer, Cursor, FreshSlabs};
use crate::sys::{child, environment, signal, socket};
use crate::wire::handle::Attached;
use serde::{Deserialize, Serialize};
use std::{io, os::fd::OwnedFd, sync::Arc};

/// The code of a child that could not even begin: "internal software error" of sysexits.h.
const SOFTWARE: i32 = 70;

/// The code of a child whose function panicked, as of a Rust program.
const PANICKED: i32 = 101;

/// What a child is told, beside its encoded argument.
#[derive(Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) identity: Identity,
    /// Whether it is a copy of its parent, whose signal handlers are its own.
    pub(super) is_copy: bool,
    /// Whether it ends when its owner does, and not at a signal that asks it to.
    pub(super) is_service: bool,
    pub(super) method: StartMethod,
    #[serde(with = "serde_bytes")]
    pub(super) environment: Vec<u8>,
    pub(super) function: [u8; Function::SIZE],
    /// Descriptors in the socket.
    pub(super) handles: usize,
}

/// Runs a child: it gets its socket, its luggage, and the mark of one that runs on.
pub(super) fn main(given: Given) -> i32 {
    run(given).unwrap_or(SOFTWARE)
}

fn run(given: Given) -> Option<i32> {
    let mut fds = given.fds.into_iter();
    let report = Report::new(fds.next()?);
    report.note_overflow();
    let luggage = Luggage::received(given.bytes, &mut fds).ok()?;
    let _mark = fds.next();
    let setup = luggage.setup()?;
    let function = Function::from_bytes(&setup.function);
    panic::install_hook(OnPanic {
        report: Printing::Printed,
        last_words: outcome::last_words,
        ..OnPanic::SILENT
    });
    let count = setup.handles;
    match become_it(setup).and_then(|()| receive(report.socket(), count)) {
        Ok(fds) => Some(call(function, luggage.argument(), fds?, &report)),
        Err(error) => {
            report.fault(&Fault::Setup(format!(
                "failed to set up the process: {error}"
            )));
            Some(SOFTWARE)
        }
    }
}

fn become_it(setup: Setup) -> io::Result<()> {
    child::set_name(&setup.identity.name);
    environment::assume(&setup.environment)?;
    // A service says itself what it does at the signals that ask it to end, which wait meanwhile.
    if !setup.is_copy && !setup.is_service {
        signal::unblock_all()?;
    }
    setup.identity.assume();
    set_start_method(setup.method).map_err(io::Error::other)
}

/// Receives the handles in the argument, and waits for the word to run; none if that does not come.
fn receive(socket: &OwnedFd, count: usize) -> io::Result<Option<Vec<Attached>>> {
    let mut fds = Vec::new();
    loop {
        let mut message = [Word::Stop as u8; words::LONGEST];
        let (length, received) = socket::receive(socket, &mut message)?;
        match &message[..length] {
            [word, kinds @ ..] if *word == Word::Handles as u8 => {
                fds.extend(Attached::received(received, kinds));
            }
            [word] if *word == Word::Go as u8 => break,
            _ => return Ok(None),
        }
    }
    if fds.len() < count {
        return Err(io::Error::other("its handles have found no room in it"));
    }
    Ok(Some(fds))
}

fn call(function: Function, argument: Cursor<'_>, fds: Vec<Attached>, report: &Report) -> i32 {
    let outcome = invoke(function, argument, fds, report);
    let Err(fault) = outcome else { return 0 };
    report.fault(&fault);
    match fault {
        Fault::Panicked { .. } => PANICKED,
        _ => SOFTWARE,
    }
}

fn invoke(
    function: Function,
    argument: Cursor<'_>,
    fds: Vec<Attached>,
    report: &Report,
) -> Result<(), Fault> {
    let unknown = |error: Error| Fault::Unknown(error.to_string());
    let callable = function.resolve().map_err(unknown)?;
    let mut handles = Handles {
        given: fds,
        ..Handles::default()
    };
    let mut result = Buffer::new(Arc::new(FreshSlabs));
    let mut invocation = Invocation {
        argument,
        context: None,
        result: &mut result,
        handles: &mut handles,
    };
    let outcome = panic::run(|| callable.invoke(&mut invocation));
    outcome.map_err(|it| *it)?.map_err(Fault::from)?;
    let unsent = |it| Fault::Encode(format!("its handles could not be sent: {it}"));
    report.handles(&handles.left).map_err(unsent)?;
    let unsent = |it| Fault::Encode(format!("it could not be sent: {it}"));
    report.value(&mut result).map_err(unsent)
}
