//! The environment in the form that is sent to a child: a byte string of `NAME=value` entries, each
//! followed by a zero byte.

use super::threads;
use std::{
    collections::HashSet,
    ffi::{CStr, CString, OsStr, OsString, c_char},
    io,
    os::unix::ffi::OsStrExt,
};

/// Returns a variable that changes the behaviour of this crate, or `None` if [`is_strangers`].
pub(crate) fn trusted(name: &str) -> Option<OsString> {
    (!is_strangers()).then(|| std::env::var_os(name)).flatten()
}

/// Whether this program has more rights than the process that executed it and chose its
/// environment: a file that is set-user-ID or set-group-ID or has capabilities.
pub(crate) fn is_strangers() -> bool {
    // SAFETY: it reads a value that the kernel passed to this program at its start.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Whether [`is_strangers`] is true in this program or in a copy of it that this process executes.
pub(crate) fn is_strangers_in_a_copy() -> bool {
    use nix::unistd::{getegid, geteuid, getgid, getuid};
    is_strangers() || getuid() != geteuid() || getgid() != getegid()
}

/// Returns the environment of this process with some variables changed.
pub(crate) fn with(changes: &[(OsString, OsString)]) -> Vec<u8> {
    let is_changed = |name: &OsStr| changes.iter().any(|change| change.0 == name);
    let last = |at: usize| {
        !changes[at + 1..]
            .iter()
            .any(|change| change.0 == changes[at].0)
    };
    let mut all = Vec::new();
    for (name, value) in std::env::vars_os().filter(|(name, _)| !is_changed(name)) {
        put(&mut all, &name, &value);
    }
    for (_, (name, value)) in changes.iter().enumerate().filter(|(at, _)| last(*at)) {
        put(&mut all, name, value);
    }
    all
}

/// Returns the environment for a copy of this program: the initial environment of this program with
/// one more variable.
///
/// The current environment may prevent the program from starting: it may lack the `LD_LIBRARY_PATH`
/// that the loader needs, or have a variable that is too long for `execve` (128 KiB). It may also
/// contain secrets, which `/proc/*/environ` would show.
pub(crate) fn initial_with(name: &str, value: &OsStr) -> Vec<CString> {
    // Unreadable if the process has changed its user.
    let block = std::fs::read("/proc/self/environ").ok();
    let initial = block
        .and_then(|block| split(&block))
        .unwrap_or_else(present);
    let is_another = |variable: &CString| {
        let value = variable.as_bytes().strip_prefix(name.as_bytes());
        value.is_none_or(|rest| !rest.starts_with(b"="))
    };
    let added = CString::new([name.as_bytes(), b"=", value.as_bytes()].concat());
    initial
        .into_iter()
        .filter(is_another)
        .chain(added.ok())
        .collect()
}

/// Splits `/proc/self/environ` into variables. Returns `None` if the program has overwritten them,
/// for example with a title for `ps`.
fn split(block: &[u8]) -> Option<Vec<CString>> {
    let variables = block.split_inclusive(|byte| *byte == 0).map(|entry| {
        let variable = CStr::from_bytes_with_nul(entry).ok();
        variable.filter(|text| text.to_bytes().contains(&b'='))
    });
    variables
        .map(|variable| variable.map(CStr::to_owned))
        .collect()
}

fn present() -> Vec<CString> {
    let all = with(&[]);
    let variables = all.split_inclusive(|byte| *byte == 0);
    let variables = variables.map(CStr::from_bytes_with_nul);
    variables.flatten().map(CStr::to_owned).collect()
}

/// Whether a variable can have this name and this value.
pub(crate) fn can_be_set(name: &OsStr, value: &OsStr) -> bool {
    let name = name.as_bytes();
    let is_name = !name.is_empty() && !name.iter().any(|byte| [b'=', 0].contains(byte));
    is_name && !value.as_bytes().contains(&0)
}

/// Appends a variable. Skips one without a name, which cannot be set.
fn put(all: &mut Vec<u8>, name: &OsStr, value: &OsStr) {
    let name = name.as_bytes();
    if !name.is_empty() && !name.starts_with(b"=") {
        all.extend_from_slice(name);
        all.push(b'=');
        all.extend_from_slice(value.as_bytes());
        all.push(0);
    }
}

/// Replaces the environment of this process by the result of [`with`] in another process. Fails
/// if the process has several threads.
///
/// If a name occurs twice, its first value counts, as for `getenv`.
pub(crate) fn replace(wanted: &[u8]) -> io::Result<()> {
    if threads::count()? != 1 {
        if with(&[]) == wanted {
            return Ok(());
        }
        return Err(io::Error::other("another thread may read the environment"));
    }
    // The common case: the fork server has the environment of its owner.
    // SAFETY: this process has one thread, as was just checked.
    if unsafe { is(wanted) } {
        return Ok(());
    }
    let mut names = HashSet::new();
    let wanted = wanted.split(|byte| *byte == 0).filter_map(variable);
    let wanted: Vec<_> = wanted.filter(|(name, _)| names.insert(*name)).collect();
    for (name, _) in std::env::vars_os() {
        if !names.contains(&*name) {
            // SAFETY: this process has one thread, as was checked above.
            unsafe { std::env::remove_var(name) };
        }
    }
    for (name, value) in wanted {
        if std::env::var_os(name).as_deref() != Some(value) {
            // SAFETY: as above.
            unsafe { std::env::set_var(name, value) };
        }
    }
    Ok(())
}

/// Whether the environment of this process is exactly this. Does not allocate: in a process that
/// was just forked, each new page is a fault.
///
/// # Safety
///
/// No other thread may change the environment.
unsafe fn is(wanted: &[u8]) -> bool {
    unsafe extern "C" {
        static mut environ: *const *const c_char;
    }
    // SAFETY: a word of the C library that only `setenv` and related functions change; no thread
    // runs them now, by the caller's contract.
    let mut next = unsafe { environ };
    let mut left = wanted;
    // SAFETY: null, or the address of an entry or of the terminating null, which the C library
    // maintains.
    while let Some(text) = unsafe { next.as_ref() }.filter(|text| !text.is_null()) {
        // SAFETY: an entry that is not null is text with a terminating zero byte, and does not
        // change now, by the caller's contract.
        let text = unsafe { CStr::from_ptr(*text) };
        let Some(rest) = left.strip_prefix(text.to_bytes_with_nul()) else {
            return false;
        };
        left = rest;
        // SAFETY: the current entry is not the terminating null, so that another entry follows it.
        next = unsafe { next.add(1) };
    }
    left.is_empty()
}

fn variable(text: &[u8]) -> Option<(&OsStr, &OsStr)> {
    let end = text.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (&text[..end], &text[end + 1..]);
    Some((OsStr::from_bytes(name), OsStr::from_bytes(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_itself_and_nothing_less_or_more() {
        let own = with(&[]);
        let last = own[..own.len() - 1].iter().rposition(|byte| *byte == 0);
        let less = &own[..last.map_or(0, |index| index + 1)];
        let more = [&own[..], b"A=b\0"].concat();
        // SAFETY: no test of this crate's units changes the environment.
        let found = [&own[..], less, &more].map(|text| unsafe { is(text) });
        assert_eq!(found, [true, false, false]);
    }

    #[test]
    fn an_environment_that_was_overwritten_is_none() {
        let length = |block: &[u8]| split(block).map(|it| it.len());
        assert_eq!(length(b""), Some(0));
        assert_eq!(length(b"A=b\0C=\0=D\0"), Some(3));
        for block in [&b"\0\0\0"[..], b"a title\0A=b\0", b"A=b\0C=cut off"] {
            assert_eq!(length(block), None, "{block:?}");
        }
        assert_eq!(split(&with(&[])), Some(present()));
    }

    #[test]
    fn a_changed_variable_is_there_once() {
        let change = |value: &str| (OsString::from("PATH"), OsString::from(value));
        let all = with(&[change("/first"), change("/last")]);
        let paths = all.split(|byte| *byte == 0).filter_map(variable);
        let paths: Vec<_> = paths.filter(|(name, _)| *name == "PATH").collect();
        assert_eq!(paths, [(OsStr::new("PATH"), OsStr::new("/last"))]);
    }

    #[test]
    fn a_value_may_have_anything_in_it() {
        let (name, value) = (OsString::from("A"), OsString::from("b=c d\n"));
        let all = with(&[(name.clone(), value.clone())]);
        let found = all
            .split(|byte| *byte == 0)
            .filter_map(variable)
            .next_back();
        assert_eq!(found, Some((&*name, &*value)));
    }
}
