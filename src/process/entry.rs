//! Where a re-executed copy of the program turns into the fork server, or into a child that was to be executed, before `main`.
//!
//! The loader runs the functions in `.init_array` before `main`, in every program that has this crate linked in: binaries,
//! tests, doctests, examples, benches. Ours returns at once unless an environment variable invites it; then it never
//! returns, whatever fails. In this order, each step because of what happens without it:
//!
//! 1. The variable names this copy of the crate (two versions may be linked into one program) and a socket, and is meant for
//!    this process: `invitation` says how that is told from a variable that leaked into another program.
//! 2. The variable is unset, or every program that a worker starts would be invited too.
//! 3. Every other descriptor but 0, 1 and 2 is closed.
//! 4. The module's constructors that come after ours run, or users of `inventory`, `linkme` and `ctor` would see half of
//!    their registrations in workers.
//! 5. Signals are reset. 6. The server runs under `catch_unwind`, and the process ends with `_exit`.

#![expect(unsafe_code, reason = "the loader's table of constructors")]

use crate::error::{Error, ErrorKind, Result};
use crate::process::{
    ending,
    function::{ChildMain, Given},
    invitation::{self, Invited},
    start::{executed, server},
};
use crate::sys::{
    child::{self, PidFd},
    environment, fd, modules, new_threads,
    signal::{self, Ignored},
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

/// Whether `main` has said that it calls [`init`], so that a re-executed copy will, too.
static INIT_CALLED: AtomicBool = AtomicBool::new(false);

/// Whether this process is a copy whose constructors run, so that it is no more to invite another than before it took over
/// its invitation.
static PREPARES: AtomicBool = AtomicBool::new(false);

extern "C" fn constructor(
    count: c_int,
    arguments: *const *const c_char,
    env: *const *const c_char,
) {
    ending::register();
    enter(|| {
        let program = modules::containing(constructor as Constructor as usize);
        // SAFETY: it is the module of this function, which runs.
        let after = |it: modules::Module| unsafe {
            it.constructors_after(constructor as Constructor as usize)
        };
        let after = program.map(after);
        for address in after.unwrap_or_default() {
            let address = ptr::with_exposed_provenance::<()>(address);
            // SAFETY: an entry of the loader's table of constructors, which have this signature on glibc and ignore
            // their arguments elsewhere.
            let constructor = unsafe { mem::transmute::<*const (), Constructor>(address) };
            constructor(count, arguments, env);
        }
    });
}

/// Lets a re-executed copy of this program become the fork server; does nothing otherwise.
///
/// No program that links this crate into its executable needs it. Call it first thing in `main` where the crate lies in a
/// shared object that `main` loads later: the copy of the program would not find its way into the crate without.
///
/// ```
/// procpool::init();
/// ```
pub fn init() {
    INIT_CALLED.store(true, Ordering::Relaxed);
    enter(|| {});
}

/// Checks that a copy of this program can be invited by this process.
pub(crate) fn check_reachable() -> Result<()> {
    let reason = if !is_reachable() {
        "this code is not part of the program's executable, so a copy of the program would not find it; call \
         `procpool::init()` first thing in `main`"
    } else if modules::is_run_by_loader() {
        "this program was started through the loader (`/lib64/ld-linux-x86-64.so.2 program`), which would take the first \
         argument for the program to be started again; start the program itself, or use `StartMethod::Fork`"
    } else if is_being_prepared() {
        "a constructor, which runs before `main`, asks for it in a copy of the program that becomes the fork server itself; \
         build pools and start processes in `main`"
    } else if environment::is_strangers_in_a_copy() {
        "this program has more rights than its caller (set-user-ID, set-group-ID or file capabilities), and a copy of it \
         takes no orders from an environment; drop the rights before, or use `StartMethod::Fork`"
    } else {
        return Ok(());
    };
    let message = format!("failed to start the fork server: {reason}");
    Err(Error::new(ErrorKind::StartFailed, message))
}

/// Whether a re-executed copy of this program will come by here.
fn is_reachable() -> bool {
    let address = CONSTRUCTOR as usize;
    modules::program().offset_of(address).is_some() || INIT_CALLED.load(Ordering::Relaxed)
}

/// Whether this process is a copy of the program in which constructors run.
fn is_being_prepared() -> bool {
    let invited = Invited::find(&this_copy());
    PREPARES.load(Ordering::Relaxed) || invited.is_some_and(|it| it != Invited::Leaked)
}

/// The variable that invites this copy of the crate to a socket: its name and its value.
pub(crate) fn invitation(socket: i32) -> (&'static str, OsString) {
    (invitation::VARIABLE, invitation::to(&this_copy(), socket))
}

/// Tells this copy of the crate from others in the same program: its version, and where it lies.
fn this_copy() -> String {
    let address = constructor as Constructor as usize;
    let offset = modules::containing(address).and_then(|it| it.offset_of(address));
    format!(
        "{}:{:x}",
        env!("CARGO_PKG_VERSION"),
        offset.unwrap_or_default()
    )
}

/// Withdraws an invitation; not from a process with threads, which may read the environment.
fn unset_variable() {
    if threads::count().ok() == Some(1) {
        // SAFETY: this process has one thread, as was just checked.
        unsafe { std::env::remove_var(invitation::VARIABLE) };
    }
}

fn enter(run_constructors: impl FnOnce() + panic::UnwindSafe) {
    let Some(invited) = Invited::find(&this_copy()) else {
        return;
    };
    let control = match invited {
        Invited::By(socket) => invitation::take(socket),
        Invited::Lost => None,
        Invited::Leaked => return unset_variable(),
    };
    unset_variable();
    PREPARES.store(true, Ordering::Relaxed);
    // Before a constructor changes it.
    let ignored = Ignored::now();
    match control {
        Some(control) if executed::is_for(&control) => {
            run_executed(control, ignored, run_constructors)
        }
        Some(control) => run_server(control, ignored, run_constructors),
        None => child::exit_now(SOFTWARE),
    }
}

/// "Internal software error" of sysexits.h. The inviter sees the end of the socket, whatever the code.
const SOFTWARE: i32 = 70;

/// Becomes the fork server.
fn run_server(
    control: OwnedFd,
    ignored: Ignored,
    run_constructors: impl FnOnce() + panic::UnwindSafe,
) -> ! {
    let served = panic::catch_unwind(move || -> std::io::Result<()> {
        let invited = server::accept(control).ok_or(std::io::ErrorKind::InvalidData)?;
        // SAFETY: this process has one thread, as `claim_process` has found, which never leaves this function. A descriptor that
        // a constructor has kept is found closed by whoever asks for it, as is documented.
        let ready = invited.claim_process(|kept| unsafe { fd::keep_only(kept) })?;
        prepare(ignored, run_constructors);
        ready.serve(ignored)
    });
    let is_good = matches!(served, Ok(Ok(())));
    child::exit_now(if is_good { 0 } else { SOFTWARE })
}

/// Does in a copy what comes between the invitation and its work.
fn prepare(ignored: Ignored, run_constructors: impl FnOnce()) {
    run_constructors();
    PREPARES.store(false, Ordering::Relaxed);
    signal::reset(ignored);
    // What is forked from it has this, too.
    new_threads::give_alternate_stacks();
}

/// Runs the main function of a child that was just forked from the fork server, with no descriptor of the server's but
/// those that are passed, and ends the process.
pub(crate) fn run_child(main: ChildMain, given: Given) -> ! {
    // SAFETY: the server has one thread, or `child::fork` would have refused, so its child has, too; and as this never returns,
    // what the server's functions own is not used here any more.
    let Ok(fds) = (unsafe { fd::keep_only(given.fds) }) else {
        child::exit_now(SOFTWARE)
    };
    run_forked(main, Given { fds, ..given })
}

/// Becomes what the program was executed again for.
fn run_executed(
    control: OwnedFd,
    ignored: Ignored,
    run_constructors: impl FnOnce() + panic::UnwindSafe,
) -> ! {
    let ready = panic::catch_unwind(move || -> std::io::Result<_> {
        let mut executed = executed::accept(control).ok_or(std::io::ErrorKind::InvalidData)?;
        // SAFETY: as for the fork server.
        executed.claim_process(|kept| unsafe { fd::keep_only(kept) })?;
        prepare(ignored, run_constructors);
        executed.into_parts()
    });
    match ready {
        Ok(Ok((main, given))) => run_forked(main, given),
        _ => child::exit_now(SOFTWARE),
    }
}

/// Serves as a template, in a copy of the owner that was just forked, and ends the process.
pub(crate) fn run_template(control: OwnedFd, owner: PidFd) -> ! {
    let served = panic::catch_unwind(move || -> std::io::Result<()> {
        let ignored = Ignored::now();
        signal::reset(ignored);
        // Its children have what it has there.
        fd::fill_stdio()?;
        server::Server::template(control, owner)?.serve(ignored)
    });
    let is_good = matches!(served, Ok(Ok(())));
    child::exit_now(if is_good { 0 } else { SOFTWARE })
}

/// Runs a child's main function and ends the process.
pub(crate) fn run_forked(main: ChildMain, given: Given) -> ! {
    let outcome = panic::catch_unwind(|| main(given));
    flush_output();
    ending::end_children();
    // 101: what a Rust program exits with when `main` panics.
    child::exit_now(outcome.unwrap_or(101))
}

/// Writes out what was printed, by Rust or C, and not yet written.
pub(crate) fn flush_output() {
    use std::io::Write;
    // Nobody is left to tell when the other end of standard output is gone.
    let _ = std::io::stdout().flush();
    child::flush_c_stdio();
}
