//! Where a re-executed copy of the program turns into the fork server, or into a child that was to be executed, before `main`.
//!
//! The loader runs the functions in `.init_array` before `main`, in every program that has this crate linked in: binaries,
//! tests, doctests, examples, benches. Ours returns at once unless an environment variable invites it; then it never
//! returns. In this order, each step because of what happens without it:
//!
//! 1. The variable names this copy of the crate (two versions may be linked into one program) and a descriptor; it is
//!    unset, or every program that a worker starts would be invited too.
//! 2. The descriptor must be a socket with our greeting in it: a variable that leaked into another program does nothing.
//! 3. Every other descriptor but 0, 1 and 2 is closed.
//! 4. The module's constructors that come after ours run, or users of `inventory`, `linkme` and `ctor` would see half of
//!    their registrations in workers.
//! 5. Signals are reset. 6. The server runs under `catch_unwind`, and the process ends with `_exit`.

#![expect(unsafe_code, reason = "the loader's table of constructors")]

use crate::process::{
    function::{ChildMain, Given},
    start::{
        executed::{self, Executed},
        server,
    },
};
use crate::sys::{
    child::{self, PidFd},
    fd, modules,
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

/// The name of the variable that invites a copy of the program to become the fork server.
pub(crate) const VARIABLE: &str = "PROCPOOL_FORK_SERVER";

extern "C" fn constructor(
    count: c_int,
    arguments: *const *const c_char,
    env: *const *const c_char,
) {
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

/// Whether a re-executed copy of this program will come by here.
pub(crate) fn is_reachable() -> bool {
    let address = CONSTRUCTOR as usize;
    modules::program().offset_of(address).is_some() || INIT_CALLED.load(Ordering::Relaxed)
}

/// The value of [`VARIABLE`] that invites this copy of the crate, with the number of its socket.
pub(crate) fn invitation(socket: i32) -> OsString {
    format!("{}:{socket}", this_copy()).into()
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

fn invited_socket() -> Option<i32> {
    let value = std::env::var_os(VARIABLE)?;
    let (copy, socket) = value.to_str()?.rsplit_once(':')?;
    socket.parse().ok().filter(|_| copy == this_copy())
}

/// Withdraws an invitation; not from a process with threads, which may read the environment.
fn unset_variable() {
    if threads::count().ok() == Some(1) {
        // SAFETY: this process has one thread, as was just checked.
        unsafe { std::env::remove_var(VARIABLE) };
    }
}

fn enter(run_constructors: impl FnOnce() + panic::UnwindSafe) {
    let Some(socket) = invited_socket() else {
        return;
    };
    // Before a constructor changes it.
    let ignored = Ignored::now();
    if let Some(executed) = executed::accept(socket) {
        unset_variable();
        run_executed(executed, ignored, run_constructors);
    }
    let Some(invited) = server::accept(socket) else {
        return unset_variable();
    };
    unset_variable();
    let served = panic::catch_unwind(move || -> std::io::Result<()> {
        // SAFETY: this process has one thread, as `claim_process` has found, which never leaves this function. A descriptor that
        // a constructor has kept is found closed by whoever asks for it, as is documented.
        let ready = invited.claim_process(|kept| unsafe { fd::keep_only(kept) })?;
        run_constructors();
        signal::reset(ignored);
        ready.serve(ignored)
    });
    // 70: "internal software error" of sysexits.h; the owner sees the end of the socket, whatever the code.
    child::exit_now(if matches!(served, Ok(Ok(()))) { 0 } else { 70 })
}

/// Runs the main function of a child that was just forked from the fork server, with no descriptor of the server's but
/// those that are passed, and ends the process.
pub(crate) fn run_child(main: ChildMain, given: Given) -> ! {
    // SAFETY: the server has one thread, or `child::fork` would have refused, so its child has, too; and as this never returns,
    // what the server's functions own is not used here any more.
    let Ok(fds) = (unsafe { fd::keep_only(given.fds) }) else {
        child::exit_now(70)
    };
    run_forked(main, Given { fds, ..given })
}

/// Becomes what the program was executed again for.
fn run_executed(
    mut executed: Executed,
    ignored: Ignored,
    run_constructors: impl FnOnce() + panic::UnwindSafe,
) -> ! {
    let ready = panic::catch_unwind(move || -> std::io::Result<_> {
        // SAFETY: as for the fork server.
        executed.claim_process(|kept| unsafe { fd::keep_only(kept) })?;
        run_constructors();
        signal::reset(ignored);
        executed.into_parts()
    });
    match ready {
        Ok(Ok((main, given))) => run_forked(main, given),
        _ => child::exit_now(70),
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
    child::exit_now(if matches!(served, Ok(Ok(()))) { 0 } else { 70 })
}

/// Runs a child's main function and ends the process.
pub(crate) fn run_forked(main: ChildMain, given: Given) -> ! {
    let outcome = panic::catch_unwind(|| main(given));
    flush_output();
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
