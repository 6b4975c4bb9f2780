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

/// Starts this program's executable with its initial arguments and environment, one more variable,
/// and one inherited descriptor with its own number.
///
/// The copy starts with the signals blocked that ask a process to end; they stay pending until it
/// has set its handlers. All other signals are unblocked. The copy ignores the signals that this
/// process ignores.
///
/// The program is `/proc/self/exe`: the running file, even if another file has its name by now.
/// posix_spawn does not copy the parent's page tables, so the start costs the same from a large
/// parent.
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

/// Executes this program's file in this process, like [`spawn_self`] in a new one. Returns only on
/// failure.
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

/// Kills and reaps a process that `spawn_self` has started with this variable, after its start has
/// failed.
///
/// If the host program reaps all of its children, the id may belong to another process by now. So
/// only a process that was started with the variable is killed. A process that hides its
/// environment is not.
pub(crate) fn exit_if_abandoned(pid: u32, name: &str, value: &OsStr) {
    // Opened before the check: /proc then shows the process of this pidfd, unless that has ended
    // and cannot be hit.
    let Ok(pidfd) = PidFd::open(pid) else { return };
    if was_started_with(pid, name, value) {
        // A process that cannot be killed exits by itself: the other end of its socket is closed.
        let _ = pidfd.send(signal::KILL);
    }
    pidfd.wait_and_reap();
}

fn was_started_with(pid: u32, name: &str, value: &OsStr) -> bool {
    let variable = [name.as_bytes(), b"=", value.as_bytes()].concat();
    // A process that has ended has no readable files.
    let environment =
        procfs::folder_of(pid).and_then(|folder| std::fs::read(folder.join("environ")));
    let environment = environment.unwrap_or_default();
    environment
        .split(|byte| *byte == 0)
        .any(|entry| entry == variable)
}

/// Returns `None` for text with a zero byte, which no argument and no variable has.
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
            while environment().is_ok_and(|text| text.is_empty()) && std::time::Instant::now() < end
            {
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
