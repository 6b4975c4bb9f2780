//! Processes in /proc, which may be mounted for another pid namespace than that of this process.
//!
//! In such a /proc, processes have other numbers: `unshare --pid --fork` without `--mount-proc`
//! leads to this. Numbers in the /proc of an outer namespace are translated. In the /proc of an
//! unrelated namespace, no process is found.

use super::pidfd::PidFd;
use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd},
    path::PathBuf,
};

/// Returns the number of this process in /proc, or `None` if it has none.
pub(crate) fn own_number() -> Option<u32> {
    let link = fs::read_link("/proc/self").ok()?;
    link.to_str()?.parse().ok()
}

/// Whether processes have the same numbers in /proc as in this namespace.
fn is_of_this_namespace() -> bool {
    own_number() == Some(std::process::id())
}

/// Returns the directory in /proc of the process with this number in this namespace.
pub(crate) fn folder_of(pid: u32) -> io::Result<PathBuf> {
    let number = if is_of_this_namespace() {
        pid
    } else {
        let number = number_in_proc(&PidFd::open(pid)?);
        number.ok_or(io::ErrorKind::NotFound)?
    };
    Ok(PathBuf::from(format!("/proc/{number}")))
}

/// Returns the number in /proc of a descriptor's process, or `None` if the process has ended or is
/// not visible there.
fn number_in_proc(process: &PidFd) -> Option<u32> {
    let number = process.as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    let number = field(&info, "Pid:")?.parse().ok();
    number.filter(|number| *number > 0)
}

/// Returns the function that translates numbers in /proc to numbers in this namespace.
pub(crate) fn translation() -> impl Fn(u32) -> Option<u32> {
    // A process's numbers are listed from the namespace of /proc inwards. This many lead to this
    // namespace.
    let depth = (!is_of_this_namespace()).then(|| numbers_of("self").len());
    move |number| match depth {
        None => Some(number),
        Some(depth) => {
            let numbers = numbers_of(&number.to_string());
            numbers.get(depth.checked_sub(1)?).copied()
        }
    }
}

/// Returns the numbers of a process in all namespaces from that of /proc inwards.
fn numbers_of(process: &str) -> Vec<u32> {
    // A process that has ended has no file, and no number.
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let numbers = field(&status, "NSpid:").unwrap_or_default();
    let numbers = numbers.split_ascii_whitespace().map(str::parse);
    numbers.collect::<Result<_, _>>().unwrap_or_default()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let value = text.lines().find_map(|it| it.strip_prefix(name));
    value.map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_by_every_way() {
        let own = std::process::id();
        let process = PidFd::open(own).expect("this process");
        let number = own_number().expect("/proc is mounted");
        assert_eq!(number_in_proc(&process), Some(number));
        assert_eq!(translation()(number), Some(own));
        assert_eq!(numbers_of("self").last(), Some(&own));
        let folder = folder_of(own).expect("it is there");
        assert_eq!(folder, PathBuf::from(format!("/proc/{number}")));
    }
}
