//! Programs for tests that need a process of their own, and processes as they look from outside.
//!
//! A program is a copy of the test program that runs one function of a list. A test target with
//! programs calls [`run`] in an ignored test named [`TEST`], and starts programs with
//! [`Program::start`]. A program sends messages with [`say`], because the test harness prints, too.

use crate::{DEADLINE, in_time};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use procpool::StartMethod;
use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Display,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, TryRecvError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// The ignored test that runs programs.
const TEST: &str = "program";

/// Names the program to be run.
const NAME: &str = "PROCPOOL_TEST_PROGRAM";

/// Names the start method of a program for [`by_its_method`].
const METHOD: &str = "PROCPOOL_TEST_METHOD";

/// Stands before what a program says.
const MARK: &str = "=> ";

/// Runs a program's body by the method that it was started for: `Fork` in a process with one
/// thread.
pub fn by_its_method(body: fn(StartMethod)) {
    let name = env::var(METHOD).expect("a start method");
    let mut all = StartMethod::ALL.into_iter();
    let method = all.find(|it| format!("{it:?}") == name);
    let method = method.expect("a start method");
    if method == StartMethod::Fork {
        let process = procpool::Process::start(body, method).expect("a process");
        process.result().expect("it ends well");
    } else {
        body(method);
    }
}

/// Runs the program for which this copy of the test program was started, if any.
pub fn run(programs: &[(&'static str, fn())]) {
    let Ok(name) = env::var(NAME) else { return };
    let found = programs.iter().find(|it| it.0 == name);
    let (_, program) = *found.expect("a program of this name");
    in_time(program);
}

/// Sends a message to the test that has started this program.
pub fn say(what: impl Display) {
    let mut output = io::stdout().lock();
    // In one piece: workers print, too.
    let line = format!("{MARK}{what}\n");
    output
        .write_all(line.as_bytes())
        .expect("the test hears what is said");
    output.flush().expect("the test hears what is said");
}

/// Waits until the test lets this program go on. Returns false if the test is gone.
pub fn listen() -> bool {
    io::stdin()
        .read_line(&mut String::new())
        .is_ok_and(|it| it > 0)
}

/// A copy of the test program that runs something else.
#[derive(Debug)]
pub struct Program {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
}

/// The end of a program.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Messages that the test has not read yet.
    pub said: Vec<String>,
    /// All of its standard error.
    pub errors: String,
}

impl Program {
    /// Starts a program of the list.
    pub fn start(name: &str) -> Self {
        Self::start_by(Self::command(name))
    }

    /// Returns what starts a program, for tests that add to the command.
    pub fn command(name: &str) -> Command {
        Self::command_of(env::current_exe().expect("the path of this test"), name)
    }

    /// Returns what starts a program that calls [`by_its_method`].
    pub fn command_by(name: &str, method: StartMethod) -> Command {
        let mut command = Self::command(name);
        command.env(METHOD, format!("{method:?}"));
        command
    }

    /// Returns what starts a program of another test executable.
    pub fn command_of(executable: impl AsRef<std::ffi::OsStr>, name: &str) -> Command {
        let mut command = Command::new(executable);
        command
            .args([TEST, "--exact", "--ignored", "--nocapture"])
            .arg("--test-threads=1")
            .env(NAME, name);
        command
    }

    /// Starts a program by a command of [`Program::command`].
    pub fn start_by(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("a copy of this test");
        let output = child.stdout.take().expect("it was asked for");
        let mut errors = child.stderr.take().expect("it was asked for");
        let (say, lines) = mpsc::channel();
        // Neither thread is joined after the program's end: a process that outlives it may hold the
        // pipes open.
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if let Some((_, said)) = line.split_once(MARK) {
                    // The test has heard enough.
                    let _ = say.send(said.to_owned());
                }
            }
        });
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            // What could be read is all there is.
            let _ = errors.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self {
            input: child.stdin.take(),
            child,
            lines,
            errors: Some(errors),
        }
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its next message.
    pub fn hear(&mut self) -> String {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => line,
            Err(error) => {
                self.end();
                let errors = self.errors.take().map(JoinHandle::join);
                panic!("the program says nothing ({error}): {errors:?}");
            }
        }
    }

    /// Returns its next message, or `None` if it has not sent any.
    pub fn try_hear(&mut self) -> Option<String> {
        match self.lines.try_recv() {
            Ok(line) => Some(line),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(self.hear()),
        }
    }

    /// Waits for its next message, a list of numbers.
    pub fn hear_numbers(&mut self) -> Vec<u32> {
        let line = self.hear();
        let numbers = line.split_whitespace().map(str::parse);
        numbers
            .collect::<Result<_, _>>()
            .expect("the program says numbers")
    }

    /// Lets a program that listens go on.
    pub fn tell(&mut self) {
        let input = self.input.as_mut().expect("it is open until the end");
        input.write_all(b"\n").expect("the program listens");
    }

    /// Sends it SIGKILL.
    pub fn kill(&self) {
        kill(self.pid(), Signal::SIGKILL);
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Finished {
        self.input = None;
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("a child of this process") {
                let errors = self.errors.take().expect("taken here alone");
                return Finished {
                    status,
                    said: self.lines.iter().collect(),
                    errors: errors.join().expect("it does not panic"),
                };
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.end();
        panic!("the program does not end");
    }

    /// Waits for its end, which must be a success, and returns its messages.
    pub fn succeed(self) -> Vec<String> {
        let finished = self.finish();
        assert!(finished.status.success(), "{finished:#?}");
        finished.said
    }

    fn end(&mut self) {
        // It fails only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

/// Copies a program in another process. This process would have the copy open for writing, and so
/// would a process that another test forks at that moment: the copy could not be executed.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").args([from, to]).status();
    assert!(copied.is_ok_and(|it| it.success()));
}

/// Sends a signal to a process, which may have ended.
pub fn kill(pid: u32, signal: Signal) {
    // It fails only for a process that is gone.
    let _ = signal::kill(Pid::from_raw(pid.cast_signed()), signal);
}

/// Waits until something is so.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it is never so that {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A process, as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// The name of its main thread.
    pub name: String,
    /// `R`, `S`, `Z` and so on, as in `proc_pid_stat(5)`.
    pub state: char,
    /// The id of its parent.
    pub parent: u32,
    /// Clock ticks since boot; tells a process from a later one with its id.
    started: u64,
}

impl Process {
    /// Returns the process with this id, alive or not yet reaped.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat).into_owned();
        let (before, after) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = after.split_whitespace().collect();
        Some(Self {
            pid,
            name: before.split_once('(')?.1.to_owned(),
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    /// Returns all processes.
    pub fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").expect("/proc is mounted");
        let pids = entries
            .flatten()
            .filter_map(|it| it.file_name().to_str()?.parse().ok());
        pids.filter_map(Self::of).collect()
    }

    /// Returns the living and dead children of a process.
    pub fn children_of(parent: u32) -> Vec<Self> {
        let all = Self::all();
        all.into_iter().filter(|it| it.parent == parent).collect()
    }

    /// Returns the descendants of a process.
    pub fn descendants_of(ancestor: u32) -> Vec<Self> {
        let mut family = BTreeSet::from([ancestor]);
        let mut found: Vec<Self> = Vec::new();
        loop {
            let new: Vec<Self> = Self::all()
                .into_iter()
                .filter(|it| family.contains(&it.parent) && !family.contains(&it.pid))
                .collect();
            if new.is_empty() {
                return found;
            }
            family.extend(new.iter().map(|it| it.pid));
            found.extend(new);
        }
    }

    /// Whether it still runs: a zombie does not.
    pub fn runs(&self) -> bool {
        Self::of(self.pid)
            .is_some_and(|it| it.started == self.started && !matches!(it.state, 'Z' | 'X'))
    }
}

/// Returns whether a process runs: a zombie does not.
pub fn is_running(pid: u32) -> bool {
    Process::of(pid).is_some_and(|process| process.runs())
}

/// Waits until a process or a thread sleeps in the kernel, as it does once it waits for another.
pub fn wait_until_asleep(id: u32) {
    eventually("it sleeps", || {
        Process::of(id).is_some_and(|process| process.state == 'S')
    });
}

/// Returns the process with this id, which must be alive.
pub fn process(pid: u32) -> Process {
    Process::of(pid).expect("a living process")
}

/// Returns the id of this process's fork server, if it has one that runs.
pub fn find_fork_server() -> Option<u32> {
    fork_server_of(std::process::id())
}

/// Returns the id of a process's fork server, if it has one that runs.
pub fn fork_server_of(owner: u32) -> Option<u32> {
    let children = Process::children_of(owner);
    let server = children
        .into_iter()
        .find(|it| it.name == "procpool-server" && it.runs());
    server.map(|it| it.pid)
}

/// Returns the id of this process's fork server, which must run.
pub fn fork_server() -> u32 {
    find_fork_server().expect("a fork server runs")
}

/// Kills the fork server of this process, and waits until it and its workers are dead.
pub fn kill_fork_server() {
    let server = process(fork_server());
    let workers = Process::children_of(server.pid);
    kill(server.pid, Signal::SIGKILL);
    eventually("the server and its children are dead", || {
        !server.runs() && !workers.iter().any(Process::runs)
    });
}

/// Returns the targets of a process's descriptors, by their numbers.
pub fn descriptors_of(pid: u32) -> Vec<(i32, String)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("a living process");
    let mut found: Vec<(i32, String)> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            // The one that reads this directory is gone by now.
            let target = fs::read_link(entry.path()).ok()?;
            Some((number, target.display().to_string()))
        })
        .collect();
    found.sort();
    found
}

/// What a process holds and could leak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// How many descriptors of each kind.
    pub descriptors: BTreeMap<String, usize>,
    /// Mappings of shared memory.
    pub mappings: usize,
    /// The number of threads.
    pub threads: String,
    /// The number of children, dead ones included.
    pub children: usize,
}

impl Inventory {
    /// Counts what a process holds.
    pub fn of(pid: u32) -> Self {
        let mut descriptors = BTreeMap::new();
        for (_, target) in descriptors_of(pid) {
            // `pipe:[4711]` differs from time to time.
            let kind = target.split(":[").next().unwrap_or_default();
            *descriptors.entry(kind.to_owned()).or_insert(0) += 1;
        }
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("a living process");
        Self {
            descriptors,
            mappings: maps.lines().filter(|it| it.contains("memfd:")).count(),
            threads: status_of(pid, "Threads"),
            children: Process::children_of(pid).len(),
        }
    }
}

/// Returns a line of `/proc/<pid>/status`.
pub fn status_of(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a living process");
    let line = status.lines().find_map(|it| it.strip_prefix(field));
    line.expect("a field of status")
        .trim_start_matches(':')
        .trim()
        .to_owned()
}
