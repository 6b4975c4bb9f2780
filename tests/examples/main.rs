//! Runs every example as a program and checks what it prints.

mod chaos;
mod managers;
mod processes;
mod queues;
mod sharing;

use std::collections::BTreeSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use tempfile::TempDir;

/// No example takes longer than a few seconds, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Bytes; hashing them takes minutes at least, and a hole of them no space on disk.
const ENDLESS: u64 = 1 << 40;

/// Readable by its mode, but reading fails, for root as well.
const UNREADABLE: &str = "/proc/self/mem";

// The programs.

#[test]
fn pool_apply_async_runs_five_tasks_on_four_processes() {
    let printed = lines_of(start(example("pool_apply_async").arg("1")).finish());
    let pids: BTreeSet<&str> = printed.iter().filter_map(|line| worker_in(line)).collect();
    assert_eq!(pids.len(), 4, "{printed:#?}");
    for task in 0..5 {
        let run = format!("Run task {task} (");
        assert_eq!(starting_with(&printed, &run), 1, "{printed:#?}");
        let runs = format!("Task {task} runs ");
        assert_eq!(starting_with(&printed, &runs), 1, "{printed:#?}");
    }
}

#[test]
fn pool_apply_async_runs_tasks_at_the_same_time() {
    let printed = lines_of(start(example("pool_apply_async").arg("1")).finish());
    let before_the_first_end = printed.iter().take_while(|line| !line.starts_with("Task "));
    let started = before_the_first_end.filter_map(|line| worker_in(line));
    assert!(started.count() > 1, "{printed:#?}");
}

#[test]
fn pool_apply_async_runs_its_tasks_outside_the_parent() {
    let program = start(example("pool_apply_async").arg("0.1"));
    let parent = program.child.id().to_string();
    let printed = lines_of(program.finish());
    assert_eq!(printed[0], format!("Parent process {parent}."));
    assert!(printed.iter().all(|line| worker_in(line) != Some(&parent)));
}

#[test]
fn pool_apply_async_waits_for_its_tasks() {
    let printed = lines_of(start(example("pool_apply_async").arg("0.1")).finish());
    let waiting = "Waiting for all subprocesses done...";
    assert_eq!(starting_with(&printed, waiting), 1, "{printed:#?}");
    let last = printed.last().map(String::as_str);
    assert_eq!(last, Some("All subprocesses done."), "{printed:#?}");
}

#[test]
fn pool_map_prints_the_squares_in_order() {
    let printed = lines_of(start(&mut example("pool_map")).finish());
    assert_eq!(printed, ["[1, 4, 9]"]);
}

#[test]
fn process_pool_executor_prints_ten_results() {
    let printed = lines_of(start(&mut example("process_pool_executor")).finish());
    let expected: Vec<String> = (0..10)
        .map(|x| format!("{x} cubed is {}", x * x * x))
        .collect();
    assert_eq!(printed, expected);
}

// The batch job.

#[test]
fn checksum_prints_what_sha256sum_prints() {
    let tree = Tree::with_odd_names();
    let ours = start(&mut checksum(&[tree.path()])).finish();
    let theirs = start(sha256sum().arg("--").args(tree.sorted_files())).finish();
    assert_eq!(shown(&ours.stdout), shown(&theirs.stdout));
    assert_eq!(ours.stdout, theirs.stdout);
    assert_eq!(ours.code, Some(0), "{}", ours.stderr);
}

#[test]
fn checksum_is_accepted_by_sha256sum() {
    let tree = Tree::with_odd_names();
    let ours = start(&mut checksum(&[tree.path()])).finish();
    let mut list = tempfile::NamedTempFile::new().expect("a temporary file");
    list.write_all(&ours.stdout).expect("a full list");
    let check = start(sha256sum().args(["--check", "--strict"]).arg(list.path())).finish();
    let verified = shown(&check.stdout).matches(": OK\n").count();
    assert_eq!(verified, tree.files.len(), "{}", check.stderr);
    assert_eq!(check.code, Some(0), "{}", check.stderr);
}

#[test]
fn checksum_sums_up_files_bytes_and_workers() {
    let tree = Tree::new(&[(b"a", b"12345"), (b"b", b"678")]);
    let ours = start(&mut checksum(&[tree.path()])).finish();
    let parts: Vec<&str> = ours.stderr.trim_end().split(", ").collect();
    assert_eq!(parts[..2], ["checksum: 2 files", "8 bytes"]);
    let units: Vec<_> = parts[2..].iter().map(|it| it.split_once(' ')).collect();
    let units: Vec<_> = units.into_iter().flatten().map(|it| it.1).collect();
    assert_eq!(units, ["s", "MB/s", "workers"], "{}", ours.stderr);
}

#[test]
fn checksum_draws_no_progress_bar_where_standard_error_is_no_terminal() {
    let tree = Tree::with_odd_names();
    let ours = start(&mut checksum(&[tree.path()])).finish();
    assert_eq!(ours.stderr.lines().count(), 1, "{}", ours.stderr);
    assert!(!ours.stderr.contains(['\r', '\x1b']), "{:?}", ours.stderr);
}

#[test]
fn checksum_takes_a_file_as_itself() {
    let tree = Tree::new(&[(b"a", b"a"), (b"b", b"b")]);
    let ours = start(&mut checksum(&[&tree.path().join("b")])).finish();
    let printed = shown(&ours.stdout);
    assert_eq!(printed.lines().count(), 1, "{printed}");
    assert!(printed.ends_with("/b\n"), "{printed}");
}

#[test]
fn checksum_of_an_empty_directory_is_empty() {
    let tree = Tree::new(&[]);
    let ours = start(&mut checksum(&[tree.path()])).finish();
    assert_eq!(shown(&ours.stdout), "");
    assert_eq!(ours.code, Some(0), "{}", ours.stderr);
}

#[test]
fn checksum_reports_unreadable_files_and_finishes_the_rest() {
    let tree = Tree::with_odd_names();
    let arguments = [
        Path::new(UNREADABLE),
        Path::new("/nonexistent"),
        tree.path(),
    ];
    let ours = start(&mut checksum(&arguments)).finish();
    assert!(ours.error_of(UNREADABLE).contains("Input/output error"));
    assert!(ours.error_of("/nonexistent").contains("No such file"));
    assert!(ours.stderr.trim_end().ends_with(", 2 unreadable"));
    assert_eq!(
        ours.stdout,
        start(&mut checksum(&[tree.path()])).finish().stdout
    );
    assert_eq!(ours.code, Some(1), "{}", ours.stderr);
}

#[test]
fn checksum_reports_an_unreadable_directory_and_finishes_the_rest() {
    let tree = Tree::new(&[(b"a", b"a"), (b"z", b"z")]);
    let too_deep = tree.nest_deeper_than_a_path_may_be();
    let ours = start(&mut checksum(&[tree.path()])).finish();
    assert!(ours.error_of(&too_deep).contains("File name too long"));
    assert!(ours.stderr.trim_end().ends_with(", 1 unreadable"));
    assert_eq!(shown(&ours.stdout).lines().count(), 2);
    assert_eq!(ours.code, Some(1), "{}", ours.stderr);
}

#[test]
fn checksum_reports_a_special_file_given_by_name() {
    let ours = start(&mut checksum(&[Path::new("/dev/zero")])).finish();
    assert!(ours.error_of("/dev/zero").contains("not a regular file"));
    assert_eq!(ours.code, Some(1), "{}", ours.stderr);
}

#[test]
fn checksum_reports_a_file_that_a_worker_died_on_and_finishes_the_rest() {
    let tree = Tree::new(&[(b"a", b"a"), (b"endless", b""), (b"z", b"z")]);
    let endless = tree.make_endless("endless");
    let program = start(&mut checksum(&[tree.path()]));
    let worker = wait_for("a worker to read the file", || process_reading(&endless));
    kill(worker, Signal::SIGKILL).expect("a living worker");
    let ours = program.finish();
    ours.error_of("endless");
    assert!(ours.stderr.trim_end().ends_with(", 1 unreadable"));
    let printed = shown(&ours.stdout);
    let names: Vec<_> = printed
        .lines()
        .map(|line| line.rsplit('/').next())
        .collect();
    assert_eq!(names, [Some("a"), Some("z")]);
    assert_eq!(ours.code, Some(1), "{}", ours.stderr);
}

#[test]
fn checksum_ends_quietly_when_its_output_is_closed() {
    let tree = Tree::with_odd_names();
    let ours = start_unread(&mut checksum(&[tree.path()])).finish();
    assert_eq!(ours.stderr, "");
    assert_eq!(ours.code, Some(0));
}

#[test]
fn checksum_does_not_finish_a_large_file_when_its_output_is_closed() {
    let tree = Tree::new(&[(b"a", b"a"), (b"endless", b"")]);
    tree.make_endless("endless");
    let ours = start_unread(&mut checksum(&[tree.path()])).finish();
    assert_eq!(ours.stderr, "");
}

#[test]
fn checksum_without_arguments_says_how_it_is_used() {
    let ours = start(&mut checksum(&[])).finish();
    assert!(ours.stderr.starts_with("usage: "), "{}", ours.stderr);
    assert_eq!(ours.code, Some(2));
}

fn checksum(arguments: &[&Path]) -> Command {
    let mut command = example("checksum");
    command.args(arguments);
    command
}

/// In the language that the tests read.
fn sha256sum() -> Command {
    let mut command = Command::new("sha256sum");
    command.env("LC_ALL", "C");
    command
}

/// The number in `Run task 3 (1234)...`.
fn worker_in(line: &str) -> Option<&str> {
    let (_, rest) = line.strip_prefix("Run task ")?.split_once('(')?;
    rest.strip_suffix(")...")
}

fn starting_with(lines: &[String], start: &str) -> usize {
    lines.iter().filter(|line| line.starts_with(start)).count()
}

/// The process that has `path` open. The example itself opens none of its files.
fn process_reading(path: &Path) -> Option<Pid> {
    let processes = fs::read_dir("/proc").expect("/proc");
    processes.flatten().find_map(|process| {
        let pid = process.file_name().to_str()?.parse().ok()?;
        let mut opened = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        let reads = opened.any(|fd| fs::read_link(fd.path()).is_ok_and(|it| it == path));
        reads.then(|| Pid::from_raw(pid))
    })
}

/// A directory of files, gone when it is dropped.
struct Tree {
    root: TempDir,
    files: Vec<PathBuf>,
}

impl Tree {
    fn new(files: &[(&[u8], &[u8])]) -> Tree {
        let mut tree = Tree {
            root: tempfile::tempdir().expect("a temporary directory"),
            files: Vec::new(),
        };
        for (name, content) in files {
            tree.add(name, content);
        }
        tree
    }

    /// Every name that `sha256sum` escapes or that a program may trip over, and what is no file.
    fn with_odd_names() -> Tree {
        let large: Vec<u8> = (0..=1 << 20).map(|n: u32| (n % 251) as u8).collect();
        let tree = Tree::new(&[
            (b"plain", b"plain"),
            (b"empty", b""),
            (b"large", &large),
            (b" with spaces ", b"spaces"),
            (b"new\nline", b"newline"),
            (b"back\\slash", b"backslash"),
            (b"carriage\rreturn", b"carriage return"),
            (b"tab\tand\x1bescape", b"control characters"),
            (b"not-utf8-\xff\xfe", b"bytes"),
            (b"-option", b"option"),
            (b"*star", b"star"),
            // In byte order `sub.file` stands between these two, in a walk's order after them.
            (b"sub-directory/inner", b"inner"),
            (b"sub/inner\n\\", b"inner"),
            (b"sub.file", b"outside"),
        ]);
        symlink(tree.path().join("large"), tree.path().join("link")).expect("a link");
        symlink(tree.path(), tree.path().join("loop")).expect("a link");
        symlink("nowhere", tree.path().join("dangling")).expect("a link");
        mkfifo(&tree.path().join("fifo"), Mode::S_IRUSR).expect("a named pipe");
        tree
    }

    fn add(&mut self, name: &[u8], content: &[u8]) {
        let path = self.path().join(OsStr::from_bytes(name));
        let directory = path.parent().expect("a path below the root");
        fs::create_dir_all(directory).expect("a directory");
        fs::write(&path, content).expect("a file");
        self.files.push(path);
    }

    fn make_endless(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        let file = File::options().write(true).open(&path);
        file.and_then(|file| file.set_len(ENDLESS))
            .expect("a sparse file");
        path
    }

    /// Returns the name of the directories down there; the outermost of them that cannot be read
    /// has no other.
    fn nest_deeper_than_a_path_may_be(&self) -> String {
        let name = "d".repeat(200);
        let half: PathBuf = [&name; 12].iter().collect();
        let (first, second) = (self.path().join("m"), self.path().join("n"));
        fs::create_dir_all(first.join(&half)).expect("directories");
        fs::create_dir_all(second.join(&half)).expect("directories");
        fs::rename(second, first.join(&half).join("n")).expect("directories in a directory");
        name
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    fn sorted_files(&self) -> Vec<OsString> {
        let mut files: Vec<OsString> = self.files.iter().map(OsString::from).collect();
        files.sort_by_key(|file| file.clone().into_vec());
        files
    }
}

/// A program that runs; killed when it is dropped before its end.
struct Program {
    child: Child,
    stdout: File,
    stderr: File,
}

/// What a program left behind.
struct Finished {
    code: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

fn start(command: &mut Command) -> Program {
    let stdout = tempfile::tempfile().expect("a temporary file");
    let shared = stdout.try_clone().expect("a descriptor");
    start_with(command.stdout(shared), stdout)
}

/// Standard output is a pipe without a reader.
fn start_unread(command: &mut Command) -> Program {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    let nothing = tempfile::tempfile().expect("a temporary file");
    start_with(command.stdout(writer), nothing)
}

fn start_with(command: &mut Command, stdout: File) -> Program {
    let stderr = tempfile::tempfile().expect("a temporary file");
    let shared = stderr.try_clone().expect("a descriptor");
    let child = command.stdin(Stdio::null()).stderr(shared).spawn();
    let child = child.expect("a program that starts");
    Program {
        child,
        stdout,
        stderr,
    }
}

impl Program {
    fn finish(mut self) -> Finished {
        let status = wait_for("the program's end", || {
            self.child.try_wait().expect("a child")
        });
        Finished {
            code: status.code(),
            stdout: content(&mut self.stdout),
            stderr: shown(&content(&mut self.stderr)),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only where the program has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// The one line on standard error that names `path`.
    fn error_of(&self, path: &str) -> &str {
        let mut lines = self.stderr.lines().filter(|line| line.contains(path));
        let line = lines.next().unwrap_or_else(|| panic!("{}", self.stderr));
        assert_eq!(lines.next(), None, "{}", self.stderr);
        line
    }
}

fn lines_of(finished: Finished) -> Vec<String> {
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.stderr, "");
    shown(&finished.stdout).lines().map(String::from).collect()
}

fn content(file: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().expect("a regular file");
    file.read_to_end(&mut bytes).expect("a readable file");
    bytes
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asks until there is an answer, for as long as the deadline allows.
fn wait_for<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(started.elapsed() < DEADLINE, "waited too long for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Returns an example's program. `cargo test` builds the examples; for `cargo test --test examples`
/// this function builds them.
fn example(name: &str) -> Command {
    let test = env::current_exe().expect("the path of this test");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/test");
    let program = profile.join("examples").join(name);
    if !program.exists() {
        build_example(name, profile);
    }
    Command::new(program)
}

fn build_example(name: &str, profile_directory: &Path) {
    let target = profile_directory.parent().expect("target/<profile>");
    let profile = match profile_directory.file_name().and_then(OsStr::to_str) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("{} names no profile", profile_directory.display()),
    };
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", name, "--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(status.is_ok_and(|it| it.success()), "{name} does not build");
}
