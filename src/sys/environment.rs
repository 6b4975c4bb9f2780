//! The environment, as it travels to a child: one piece of `NAME=value`s, each with a zero byte behind it.

use super::child;
use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt,
};

/// That of this process, with some variables set to other values.
pub(crate) fn with(changes: &[(OsString, OsString)]) -> Vec<u8> {
    let is_changed = |name: &OsStr| changes.iter().any(|it| it.0 == name);
    let last = |at: usize| !changes[at + 1..].iter().any(|it| it.0 == changes[at].0);
    let mut all = Vec::new();
    for (name, value) in std::env::vars_os().filter(|it| !is_changed(&it.0)) {
        put(&mut all, &name, &value);
    }
    for (_, (name, value)) in changes.iter().enumerate().filter(|it| last(it.0)) {
        put(&mut all, name, value);
    }
    all
}

/// Whether a variable can have this name and this value.
pub(crate) fn can_be_set(name: &OsStr, value: &OsStr) -> bool {
    let name = name.as_bytes();
    let is_name = !name.is_empty() && !name.iter().any(|it| [b'=', 0].contains(it));
    is_name && !value.as_bytes().contains(&0)
}

/// One without a name cannot be set.
fn put(all: &mut Vec<u8>, name: &OsStr, value: &OsStr) {
    let name = name.as_bytes();
    if !name.is_empty() && !name.starts_with(b"=") {
        all.extend_from_slice(name);
        all.push(b'=');
        all.extend_from_slice(value.as_bytes());
        all.push(0);
    }
}

/// Makes the environment of this process what [`with`] gave in another. Refused once it has threads.
///
/// Of two variables with one name, the first counts, as for `getenv`.
pub(crate) fn assume(wanted: &[u8]) -> io::Result<()> {
    // So it is nearly always: the fork server has its owner's.
    if with(&[]) == wanted {
        return Ok(());
    }
    if child::thread_count()? != 1 {
        return Err(io::Error::other("another thread may read the environment"));
    }
    let mut names = HashSet::new();
    let wanted = wanted.split(|it| *it == 0).filter_map(variable);
    let wanted: Vec<_> = wanted.filter(|it| names.insert(it.0)).collect();
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

fn variable(text: &[u8]) -> Option<(&OsStr, &OsStr)> {
    let end = text.iter().position(|it| *it == b'=')?;
    let (name, value) = (&text[..end], &text[end + 1..]);
    Some((OsStr::from_bytes(name), OsStr::from_bytes(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_variable_is_there_once() {
        let change = |value: &str| (OsString::from("PATH"), OsString::from(value));
        let all = with(&[change("/first"), change("/last")]);
        let paths = all.split(|it| *it == 0).filter_map(variable);
        let paths: Vec<_> = paths.filter(|it| it.0 == "PATH").collect();
        assert_eq!(paths, [(OsStr::new("PATH"), OsStr::new("/last"))]);
    }

    #[test]
    fn a_value_may_have_anything_in_it() {
        let (name, value) = (OsString::from("A"), OsString::from("b=c d\n"));
        let all = with(&[(name.clone(), value.clone())]);
        let found = all.split(|it| *it == 0).filter_map(variable).next_back();
        assert_eq!(found, Some((&*name, &*value)));
    }
}
