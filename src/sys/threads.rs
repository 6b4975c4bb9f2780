//! The threads of this process.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// How long a thread may take to leave the kernel's list: it needs a time slice on a busy machine.
const LEAVING: Duration = Duration::from_secs(2);

/// The pause between two reads of the list.
const PAUSE: Duration = Duration::from_micros(20);

/// `PF_EXITING` of the kernel's `linux/sched.h`.
const EXITING: u32 = 4;

/// Counts the threads of this process, including ended threads that the kernel still lists.
pub(crate) fn listed() -> io::Result<u64> {
    // The link count of a directory in /proc is the number of its subdirectories plus two.
    Ok(fs::metadata("/proc/self/task")?.nlink().saturating_sub(2))
}

/// Counts the threads of this process. If all others are ending, blocks for at most 2 s until they
/// have ended.
///
/// The kernel wakes a thread's joiner before it removes the thread from its list: 1. A thread ends,
/// and is joined. 2. The caller counts threads. 3. The thread leaves the list.
pub(crate) fn count() -> io::Result<u64> {
    let deadline = Instant::now() + LEAVING;
    loop {
        let count = listed()?;
        if count == 1 || !others_are_ending()? || Instant::now() >= deadline {
            return Ok(count);
        }
        thread::sleep(PAUSE);
    }
}

/// Whether all threads except the calling one have ended or run no more code of the program.
fn others_are_ending() -> io::Result<bool> {
    // Threads are compared by their ids in /proc, which may differ from those in this namespace.
    let own = fs::read_link("/proc/thread-self")?;
    let (own, main) = (own.file_name(), own.iter().next());
    for entry in fs::read_dir("/proc/self/task")?.flatten() {
        let id = entry.file_name();
        // The main thread stays on the list until the whole process ends.
        let stays = main == Some(&id);
        if own != Some(&id) && (stays || !is_ending(&entry.path().join("stat"))) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a thread is ending, or has left the list.
fn is_ending(stat: &Path) -> bool {
    let Ok(stat) = fs::read(stat) else {
        return true;
    };
    flags_in_stat(&stat).is_some_and(|flags| flags & EXITING != 0)
}

/// Returns the ninth field of `/proc/*/stat`. The second is a name in parentheses that may contain
/// any characters.
fn flags_in_stat(stat: &[u8]) -> Option<u32> {
    let after_name = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(&stat[after_name + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(6)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_are_found_behind_any_name() {
        let stat = b"7 (a ) name) R 1 2 3 4 -1 4194308 0 0";
        assert_eq!(flags_in_stat(stat), Some(4_194_308));
        assert_eq!(flags_in_stat(b"7 (name) R 1"), None);
        assert_eq!(flags_in_stat(b""), None);
    }

    #[test]
    fn a_thread_that_runs_is_not_ending() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = thread::spawn(move || stopped.recv());
        assert!(!others_are_ending().expect("a list"));
        drop(stop);
        assert!(thread.join().is_ok_and(|it| it.is_err()));
    }
}
