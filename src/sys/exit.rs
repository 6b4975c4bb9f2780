//! What is done at the ordered end of this process.

use std::io;

/// Has `exit` and the return of `main` call `action`: after those that are registered later, before
/// those that were earlier.
pub(crate) fn at_exit(action: extern "C" fn()) -> io::Result<()> {
    // SAFETY: it registers a function without arguments, which unwinds nowhere.
    match unsafe { libc::atexit(action) } {
        0 => Ok(()),
        _ => Err(io::ErrorKind::OutOfMemory.into()),
    }
}
