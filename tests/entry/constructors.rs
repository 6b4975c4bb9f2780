//! Functions that the loader runs before `main`, as crates like `ctor` and `inventory` make them:
//! before ours and after it.

#![expect(unsafe_code, reason = "the loader's table of constructors")]

use common::processes::{Process, Program, kill_fork_server, say};
use common::{DEADLINE, failure, in_time, pool_of};
use nix::sys::resource::{Resource, setrlimit};
use procpool::{ErrorKind, ProcessPoolExecutor, StartMethod, Value};
use std::{
    env,
    fs::{self, File},
    io::Write,
    mem,
    os::fd::AsRawFd,
    path::Path,
    process,
    sync::{Mutex, OnceLock},
    thread,
};
use tempfile::NamedTempFile;

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("compare constructors", compare_constructors),
    ("build after a constructor that acts", build_behind_an_actor),
    ("build with copies that build", build_with_copies_that_build),
    (
        "build with copies that lose their socket",
        build_with_copies_that_lose_their_socket,
    ),
    ("print in a constructor", print_in_a_constructor),
    ("hold a file from a constructor", hold_a_file),
];

type Constructor = extern "C" fn();

// In every order of the linkers: GNU's puts those with a number before all others, and so before
// ours; lld puts those beyond 65535 after all others.
#[used]
#[unsafe(link_section = ".init_array.00200")]
static FIRST: Constructor = first;
#[used]
#[unsafe(link_section = ".init_array")]
static MIDDLE: Constructor = middle;
#[used]
#[unsafe(link_section = ".init_array.70000")]
static LAST: Constructor = last;

extern "C" fn first() {
    note("first");
    match act_of_this_process().as_str() {
        "open" => {
            HELD.get_or_init(|| [(); 20].map(|()| File::open("/dev/null").ok()));
        }
        "build first" => build_and_log(),
        "close" if log("close") < MOST => close_descriptors(),
        "limit" if log("limit") < MOST => limit_descriptors(),
        _ => {}
    }
}

/// Files that a constructor has opened, and will never close.
static HELD: OnceLock<[Option<File>; 20]> = OnceLock::new();

extern "C" fn middle() {
    note("middle");
    act();
}

extern "C" fn last() {
    note("last");
    if act_of_this_process() == "build last" {
        build_and_log();
    }
}

/// Number of copies that act at most. Each may be started by the one before.
const MOST: usize = 3;

/// Notes what a constructor has done, and returns how many have before.
fn log(what: &str) -> usize {
    let path = env::var_os(ACT).expect("the path of a file");
    let path = Path::new(&path).with_extension("log");
    let before = fs::read_to_string(&path).unwrap_or_default();
    fs::write(&path, format!("{before}{what}\n")).expect("a file");
    before.lines().count()
}

fn logged() -> Vec<String> {
    let path = env::var_os(ACT).expect("the path of a file");
    let path = Path::new(&path).with_extension("log");
    let text = fs::read_to_string(&path).unwrap_or_default();
    // There may be none.
    let _ = fs::remove_file(path);
    text.lines().map(str::to_owned).collect()
}

fn build_and_log() {
    let outcome = if log("begun") < MOST {
        ProcessPoolExecutor::builder().workers(1).build().map(drop)
    } else {
        Ok(())
    };
    let text = outcome.map_or_else(
        |it| format!("{:?}: {it}", it.kind()),
        |()| "built".to_owned(),
    );
    log(&text);
}

/// Closes every descriptor under its number. A copy of each stays open, so that no peer sees the
/// end of a socket.
fn close_descriptors() {
    copy_descriptors();
    for number in 3..100 {
        // SAFETY: nothing in this process uses it yet.
        unsafe { libc::close(number) };
    }
}

/// Leaves this process no room for another descriptor. A copy of each that it has stays open.
fn limit_descriptors() {
    copy_descriptors();
    setrlimit(Resource::RLIMIT_NOFILE, 3, 3).expect("a lower limit");
}

fn copy_descriptors() {
    for number in 3..100 {
        // SAFETY: plain numbers.
        unsafe { libc::fcntl(number, libc::F_DUPFD, 100) };
    }
}

/// The constructors that have run in this process, and whether each found the invitation to become
/// the fork server.
static NOTED: Mutex<Vec<(String, bool)>> = Mutex::new(Vec::new());

fn note(name: &str) {
    let invited = env::var_os("PROCPOOL_FORK_SERVER").is_some();
    let mut noted = NOTED.lock().expect("no holder panics");
    noted.push((name.to_owned(), invited));
}

fn noted((): ()) -> Vec<(String, bool)> {
    NOTED.lock().expect("no holder panics").clone()
}

fn names(noted: Vec<(String, bool)>) -> Vec<String> {
    noted.into_iter().map(|it| it.0).collect()
}

fn compare_constructors() {
    let pool = pool_of(1);
    let in_worker = pool.apply(noted, ()).expect("a pool that works");
    let own = noted(());
    assert_eq!(names(in_worker.clone()), names(own));
    assert_eq!(in_worker.len(), 3);
    // The invitation is withdrawn by our constructor, so that this says which ran before it and
    // which after.
    assert!(in_worker[0].1, "none ran before ours: {in_worker:?}");
    say(in_worker.iter().filter(|it| !it.1).count());
}

#[test]
fn constructors_before_and_after_ours_run_once_in_workers() {
    in_time(|| {
        let mut program = Program::start("compare constructors");
        let after = program.hear_numbers()[0];
        program.succeed();
        // It depends on the linker whether there can be one from here.
        eprintln!("{after} constructors ran after ours");
    });
}

/// Names a file that says what the constructors of copies do from then on.
const ACT: &str = "PROCPOOL_TEST_CONSTRUCTOR";

fn act_of_this_process() -> String {
    let file = env::var_os(ACT).map(fs::read_to_string);
    file.and_then(Result::ok).unwrap_or_default()
}

/// Does what the program asks for that this process is a copy of.
fn act() {
    match act_of_this_process().as_str() {
        "thread" => drop(thread::spawn(|| thread::sleep(DEADLINE))),
        "joined thread" => drop(thread::spawn(|| ()).join()),
        "exit" => process::exit(3),
        "leak a guard" => {
            let value = Value::new(1u64).expect("a value");
            // Its reference would be in every worker.
            mem::forget(Box::leak(Box::new(value)).lock());
        }
        "panic" => panic!("in a constructor"),
        "print" => {
            print!("=> half a line");
            // It stays in the buffer.
        }
        _ => {}
    }
}

/// Runs a program whose constructors do nothing until [`have_constructors`]; what it says.
fn succeed(name: &str) -> Vec<String> {
    let file = NamedTempFile::new().expect("a temporary file");
    let mut command = Program::command(name);
    command.env(ACT, file.path());
    Program::start_by(command).succeed()
}

fn have_constructors(act: &str) {
    let file = env::var_os(ACT).expect("the path of a file");
    fs::write(file, act).expect("a file");
}

fn build_behind_an_actor() {
    let acts = [
        ("exit", ""),
        ("panic", ""),
        ("thread", "thread"),
        ("leak a guard", "1 ValueGuard"),
    ];
    for (act, reason) in acts {
        have_constructors(act);
        let error = failure(ProcessPoolExecutor::builder().workers(2).build());
        assert_eq!(error.kind(), ErrorKind::StartFailed, "{error}");
        assert!(error.to_string().contains(reason), "{act}: {error}");
        let children = Process::children_of(process::id());
        assert!(children.is_empty(), "{act}: {children:?}");
    }
    have_constructors("joined thread");
    assert_eq!(
        pool_of(2)
            .apply(|x: u64| x + 1, 2)
            .expect("a pool that works"),
        3
    );
}

#[test]
fn a_constructor_after_which_the_process_cannot_be_copied_makes_the_start_fail() {
    in_time(|| drop(succeed("build after a constructor that acts")));
}

fn build_with_copies_that_build() {
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        for act in ["build first", "build last"] {
            have_constructors(act);
            let build = || {
                ProcessPoolExecutor::builder()
                    .workers(1)
                    .start_method(method)
            };
            let pool = build().build().expect("a pool");
            assert_eq!(pool.apply(|x: u64| x + 1, 2).expect("a pool that works"), 3);
            let logged = logged();
            let refused = logged.iter().filter(|it| it.starts_with("StartFailed: "));
            assert!(
                refused.clone().all(|it| it.contains("constructor")),
                "{logged:?}"
            );
            assert_eq!(2 * refused.count(), logged.len(), "{logged:?}");
            // Workers may build pools.
            let nested = |()| {
                let pool = ProcessPoolExecutor::builder().workers(1).build();
                pool.and_then(|it| it.apply(|x: u64| x + 1, 2)).ok()
            };
            have_constructors("nothing");
            assert_eq!(pool.apply(nested, ()).expect("a pool that works"), Some(3));
            drop(pool);
            // The next one is started with other constructors.
            kill_fork_server();
        }
    }
}

#[test]
fn a_pool_that_a_constructor_builds_in_a_copy_is_refused_and_starts_no_process() {
    in_time(|| drop(succeed("build with copies that build")));
}

fn build_with_copies_that_lose_their_socket() {
    say("main");
    for act in ["close", "limit"] {
        have_constructors(act);
        let error = failure(ProcessPoolExecutor::builder().workers(1).build());
        assert_eq!(error.kind(), ErrorKind::StartFailed, "{error}");
        assert_eq!(logged(), [act]);
        let children = Process::children_of(process::id());
        assert!(children.is_empty(), "{act}: {children:?}");
    }
}

#[test]
fn a_copy_that_loses_its_socket_ends_and_does_not_run_main() {
    in_time(|| {
        let said = succeed("build with copies that lose their socket");
        assert_eq!(said, ["main"]);
    });
}

/// What is open under the numbers of the files that a constructor of this process has opened.
fn found_at_held((): ()) -> Vec<String> {
    let held = HELD.get().expect("its constructor ran").iter().flatten();
    let path = |it: &File| format!("/proc/self/fd/{}", it.as_raw_fd());
    let targets = held.filter_map(|it| fs::read_link(path(it)).ok());
    targets.map(|it| it.display().to_string()).collect()
}

fn hold_a_file() {
    have_constructors("open");
    let found = pool_of(1).apply(found_at_held, ());
    // They were closed, and what the worker has opened since is not for them to find.
    assert_eq!(found.expect("a pool that works"), [""; 0]);
}

#[test]
fn a_file_that_a_constructor_holds_does_not_become_a_descriptor_of_the_worker() {
    in_time(|| drop(succeed("hold a file from a constructor")));
}

fn print_in_a_constructor() {
    have_constructors("print");
    let pool = pool_of(3);
    pool.map(|x: u64| x, 0..100).expect("a pool that works");
    pool.join().expect("a pool that ends");
    std::io::stdout().write_all(b"\n").expect("the test hears");
    say("done");
}

#[test]
fn what_a_constructor_prints_appears_once_and_not_in_every_worker() {
    in_time(|| {
        let said = succeed("print in a constructor");
        assert_eq!(said, ["half a line", "done"]);
    });
}
