//! Turns a re-executed copy of the program into the fork server or an executed child, before
//! `main`.
//!
//! The loader runs the functions in `.init_array` before `main`, in every program that links this
//! crate: binaries, tests, doctests, examples, benches. Ours returns at once unless an environment
//! variable invites this process; then it never returns, even if it fails. The order of the steps
//! matters; each says why:
//!
//! 1. The variable names this copy of the crate, because two versions may be linked into one
//!    program. It also names a socket, and must be meant for this process: `Invitation::find` tells
//!    that from a variable that leaked into another program.
//! 2. The variable is unset. Otherwise every program that a worker starts would be invited too.
//! 3. Every descriptor except 0, 1 and 2 is closed.
//! 4. The module's constructors that come after ours run. Otherwise users of `inventory`, `linkme`
//!    and `ctor` would miss half of their registrations in workers.
//! 5. Signals are reset.
//! 6. The server runs under `catch_unwind`, and the process ends with `_exit`.

#![expect(unsafe_code, reason = "the loader's table of constructors")]

use crate::error::{Error, ErrorKind, Result};
use crate::process::{
    at_exit,
    child_exit::{EX_SOFTWARE, run_and_exit},
    function::{ChildArgs, ChildMain},
    invitation::{self, Invitation},
    start::{exec, fork_server::pending},
};
use crate::sys::{
    child, environment, fd, modules, new_threads,
    signal::{self, IgnoredSignals},
    threads,
};
use std::{
    ffi::{OsString, c_char, c_int},
    mem,
    os::fd::OwnedFd,
    panic, ptr,
    sync::atomic::{AtomicBool, Ordering},
};

type Constructor = extern "C" fn(c_int, *const *const c_char, *const *const c_char);

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: Constructor = constructor;

/// Whether `main` has called [`init`], so that a re-executed copy calls it too.
static INIT_CALLED: AtomicBool = AtomicBool::new(false);

/// Whether this process is a copy that is running constructors. Set from reading the invitation
/// until the constructors have returned. Such a process must not invite another copy.
static IS_PREPARING: AtomicBool = AtomicBool::new(false);

extern "C" fn constructor(
    count: c_int,
    arguments: *const *const c_char,
    env: *const *const c_char,
) {
    at_exit::install_handler();
    run_if_invited(|| {
        let program = modules::containing(constructor as Constructor as usize);
        let after = program.map(|module| {
            // SAFETY: it is the module of this function, which is running, so it is loaded.
            unsafe { module.constructors_after(constructor as Constructor as usize) }
        });
        for address in after.unwrap_or_default() {
            let address = ptr::with_exposed_provenance::<()>(address);
            // SAFETY: an entry of the loader's table of constructors, which have this signature on
            // glibc and ignore their arguments elsewhere.
            let constructor = unsafe { mem::transmute::<*const (), Constructor>(address) };
            constructor(count, arguments, env);
        }
    });
}

/// Turns a re-executed copy of this program into the fork server. Does nothing otherwise.
///
/// A program that links this crate into its executable does not need this. If the crate is in a
/// shared object that `main` loads later, call this first in `main`: the copy of the program never
/// loads the object otherwise.
///
/// ```
/// procpool::init();
/// ```
pub fn init() {
    INIT_CALLED.store(true, Ordering::Relaxed);
    run_if_invited(|| {});
}

/// Checks that this process can start a copy of the program. Fails with the reason if it cannot.
pub(crate) fn check_reachable() -> Result<()> {
    let reason = if !is_reachable() {
        "this code is not part of the program's executable, so a copy of the program would not find it; call \
         `procpool::init()` first thing in `main`"
    } else if modules::is_run_by_loader() {
        "this program was started through the loader (`/lib64/ld-linux-x86-64.so.2 program`), which would take the first \
         argument for the program to be started again; start the program itself, or use `StartMethod::Fork`"
    } else if is_preparing() {
        "a constructor of the program needs it in a copy of the program that is itself becoming the fork server; \
         build pools and start processes in `main`, and not in constructors"
    } else if environment::is_strangers_in_a_copy() {
        "this program has more rights than its caller (set-user-ID, set-group-ID or file capabilities), and a copy of it \
         ignores the environment; drop the rights first, or use `StartMethod::Fork`"
    } else {
        return Ok(());
    };
    let message = format!("failed to start the fork server: {reason}");
    Err(Error::new(ErrorKind::StartFailed, message))
}

/// Whether a re-executed copy of this program runs the constructor or [`init`].
fn is_reachable() -> bool {
    let address = CONSTRUCTOR as usize;
    modules::program().offset_of(address).is_some() || INIT_CALLED.load(Ordering::Relaxed)
}

/// Whether this process is a copy of the program that is running constructors.
fn is_preparing() -> bool {
    let invitation = Invitation::find(&crate_id());
    let is_copy = invitation.is_some_and(|invitation| invitation != Invitation::Leaked);
    is_copy || IS_PREPARING.load(Ordering::Relaxed)
}

/// Returns the name and the value of the variable that invites this copy of the crate to a socket.
pub(crate) fn invitation_variable(socket: i32) -> (&'static str, OsString) {
    (
        invitation::VARIABLE,
        invitation::value_for(&crate_id(), socket),
    )
}

/// Returns the version and the address of this copy of the crate, which distinguish it from others
/// in the same program.
fn crate_id() -> String {
    let address = constructor as Constructor as usize;
    let module = modules::containing(address);
    let offset = module.and_then(|module| module.offset_of(address));
    format!(
        "{}:{:x}",
        env!("CARGO_PKG_VERSION"),
        offset.unwrap_or_default()
    )
}

/// Unsets the variable, except in a process with other threads, which may be reading the
/// environment.
fn unset_variable() {
    if threads::count().ok() == Some(1) {
        // SAFETY: this process has one thread, as was just checked.
        unsafe { std::env::remove_var(invitation::VARIABLE) };
    }
}

fn run_if_invited(run_constructors: impl FnOnce() + panic::UnwindSafe) {
    let Some(invitation) = Invitation::find(&crate_id()) else {
        return;
    };
    let control = match invitation {
        Invitation::Socket(socket) => invitation::claim_socket(socket),
        Invitation::Orphaned => None,
        Invitation::Leaked => return unset_variable(),
    };
    unset_variable();
    IS_PREPARING.store(true, Ordering::Relaxed);
    // Read before a constructor changes the signals.
    let ignored = IgnoredSignals::now();
    match control {
        Some(control) if exec::is_invitation(&control) => {
            run_executed(control, ignored, run_constructors)
        }
        Some(control) => run_server(control, ignored, run_constructors),
        None => child::exit_now(EX_SOFTWARE),
    }
}

/// Runs this process as the fork server.
fn run_server(
    control: OwnedFd,
    ignored: IgnoredSignals,
    run_constructors: impl FnOnce() + panic::UnwindSafe,
) -> ! {
    let served = panic::catch_unwind(move || -> std::io::Result<()> {
        let invitation =
            pending::accept_invitation(control).ok_or(std::io::ErrorKind::InvalidData)?;
        // SAFETY: `claim_process` has found that this process has one thread, and that thread never
        // leaves this function. Code that uses a descriptor kept by a constructor finds it closed,
        // as documented.
        let ready = invitation.claim_process(|kept| unsafe { fd::keep_only(kept) })?;
        prepare(ignored, run_constructors);
        ready.serve(ignored)
    });
    let is_good = matches!(served, Ok(Ok(())));
    child::exit_now(if is_good { 0 } else { EX_SOFTWARE })
}

/// Runs the remaining constructors and resets the signals.
fn prepare(ignored: IgnoredSignals, run_constructors: impl FnOnce()) {
    run_constructors();
    IS_PREPARING.store(false, Ordering::Relaxed);
    signal::reset(ignored);
    // Every process forked from this one inherits the redirection.
    new_threads::redirect_pthread_create();
}

/// Runs the main function of a child that was just forked from the fork server, then ends the
/// process. Closes all descriptors of the server except those in `args`.
pub(crate) fn run_forked_child(main: ChildMain, args: ChildArgs) -> ! {
    // SAFETY: the server has one thread, as `child::fork` checked, so its child has one thread too.
    // This function never returns, so nothing uses the descriptors that the server's frames own.
    let Ok(fds) = (unsafe { fd::keep_only(args.fds) }) else {
        child::exit_now(EX_SOFTWARE)
    };
    run_and_exit(main, ChildArgs { fds, ..args })
}

/// Runs this process as an executed child.
fn run_executed(
    control: OwnedFd,
    ignored: IgnoredSignals,
    run_constructors: impl FnOnce() + panic::UnwindSafe,
) -> ! {
    let ready = panic::catch_unwind(move || -> std::io::Result<_> {
        let mut executed = exec::accept(control).ok_or(std::io::ErrorKind::InvalidData)?;
        // SAFETY: as for the fork server.
        executed.claim_process(|kept| unsafe { fd::keep_only(kept) })?;
        prepare(ignored, run_constructors);
        executed.into_parts()
    });
    match ready {
        Ok(Ok((main, args))) => run_and_exit(main, args),
        _ => child::exit_now(EX_SOFTWARE),
    }
}
