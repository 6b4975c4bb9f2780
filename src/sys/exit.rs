//! Actions at the regular exit of this process.

use std::io;

/// Makes `exit` and the return of `main` call `action`: after later registered actions, and before
/// earlier ones.
pub(crate) fn at_exit(action: extern "C" fn()) -> io::Result<()> {
    // SAFETY: it registers a function without arguments, which unwinds nowhere.
    match unsafe { libc::atexit(action) } {
        0 => Ok(()),
        _ => Err(io::ErrorKind::OutOfMemory.into()),
    }
}
