//! Stands for `src/sys/pipe.rs`: one pipe, the wake-up pipe of the one worker in a model.

use loom::sync::{Condvar, Mutex};
use std::{io, os::fd::AsFd};

loom::lazy_static! {
    static ref BYTES: Mutex<usize> = Mutex::new(0);
    static ref IS_READABLE: Condvar = Condvar::new();
}

pub(crate) fn write(_fd: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    *BYTES.lock().expect("no panic") += bytes.len();
    IS_READABLE.notify_one();
    Ok(bytes.len())
}

/// Sleeps until the pipe holds a byte, and reads it empty.
pub(crate) fn read_all() {
    let mut bytes = BYTES.lock().expect("no panic");
    while *bytes == 0 {
        bytes = IS_READABLE.wait(bytes).expect("no panic");
    }
    *bytes = 0;
}
