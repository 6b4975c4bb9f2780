//! Starting this program again, in a new process or in this one.

use super::{environment, fd, pidfd::PidFd, procfs, signal};
use nix::{
    spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn},
    unistd::execve,
};
use std::{
    convert::Infallible,
    ffi::{CString, OsStr, OsString},
    io,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
};

/// Starts this program's executable again with the arguments and the environment of its start, one
/// more variable, and one descriptor under its own number.
///
/// No signal is blocked in the copy except those that ask a process to end, which wait until it has
/// set its handlers. What this process ignores, the copy ignores, too.
///
/// The program is `/proc/self/exe`: the file that runs, even if another has taken its name since.
/// posix_spawn does not copy the parent's page tables, so that the start costs the same from a
/// large parent.
pub(crate) fn spawn_self(name: &str, value: &OsStr, passed: BorrowedFd<'_>) -> io::Result<u32> {
    let mut actions = PosixSpawnFileActions::init()?;
    actions.add_dup2(passed.as_raw_fd(), passed.as_raw_fd())?;
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_sigmask(&signal::ending())?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;
    let arguments: Vec<CString> = std::env::args_os().filter_map(c_string).collect();
    let environment = environment::initial_with(name, value);
    let pid = posix_spawn(
        "/proc/self/exe",
        &actions,
        &attributes,
        &arguments,
        &environment,
    )?;
    Ok(pid.as_raw().cast_unsigned())
}

/// Executes this program's file again in this process, as [`spawn_self`] does in a new one. Returns
/// only if that fails.
pub(crate) fn execute_self(
    name: &str,
    value: &OsStr,
    passed: BorrowedFd<'_>,
) -> io::Result<Infallible> {
    fd::keep_over_exec(passed)?;
    let arguments: Vec<CString> = std::env::args_os().filter_map(c_string).collect();
    Ok(execve(
        c"/proc/self/exe",
        &arguments,
        &environment::initial_with(name, value),
    )?)
}

/// Ends a process that `spawn_self` has started with this variable and that came to nothing, and
/// takes its status.
///
/// Its number may be another's by now, where the host program reaps all of its children: none is
/// killed that was started without the variable. One that hides its environment is left alone, too.
pub(crate) fn exit_if_abandoned(pid: u32, name: &str, value: &OsStr) {
    // Opened first: what /proc shows then is the process of this pidfd, unless that one has ended
    // and nothing can hit it.
    let Ok(pidfd) = PidFd::open(pid) else { return };
    if was_started_with(pid, name, value) {
        // One that cannot be killed ends by itself: it finds that nobody holds the other end of its
        // socket.
        let _ = pidfd.send(signal::KILL);
    }
    pidfd.wait_and_reap();
}

fn was_started_with(pid: u32, name: &str, value: &OsStr) -> bool {
    let variable = [name.as_bytes(), b"=", value.as_bytes()].concat();
    // Nothing can be read of a process that has ended.
    let environment = procfs::folder_of(pid).and_then(|it| std::fs::read(it.join("environ")));
    let environment = environment.unwrap_or_default();
    environment.split(|it| *it == 0).any(|it| it == variable)
}

/// None for text with a zero byte, which no argument and no variable has.
fn c_string(text: OsString) -> Option<CString> {
    CString::new(text.into_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{process::Command, time::Duration};

    #[test]
    fn only_a_process_with_the_variable_is_abandoned() {
        let sleep = |value| {
            let mut command = Command::new("sleep");
            let child = command.arg("1000").env("PROCPOOL_TEST", value).spawn();
            child.expect("a program")
        };
        let [mut one, mut other] = ["1", "2"].map(sleep);
        for child in [&one, &other] {
            // `spawn` returns before the kernel shows the new program's environment.
            let environment = || std::fs::read(format!("/proc/{}/environ", child.id()));
            let end = std::time::Instant::now() + Duration::from_secs(10);
            while environment().is_ok_and(|it| it.is_empty()) && std::time::Instant::now() < end {
                std::thread::yield_now();
            }
        }
        for child in [&one, &other] {
            exit_if_abandoned(child.id(), "PROCPOOL_TEST", OsStr::new("1"));
        }
        assert!(one.try_wait().is_err(), "it was not reaped");
        assert!(matches!(other.try_wait(), Ok(None)), "it was killed");
        other.kill().expect("it runs");
        other.wait().expect("a child of this process");
    }
}
