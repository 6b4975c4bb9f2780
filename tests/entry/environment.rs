//! What workers see of the program that they are copies of: its arguments, its environment, its
//! directory, its file.

#![expect(
    unsafe_code,
    reason = "an environment that the standard library does not make"
)]

use common::processes::{Program, copy_program, fork_server, listen, say};
use common::{failure, in_time, pool_of, square};
use procpool::{ErrorKind, ProcessPoolExecutor};
use std::{
    collections::BTreeMap,
    env,
    ffi::{CString, OsStr, OsString},
    fs,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        process::CommandExt,
    },
    path::PathBuf,
    process::Command,
};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("compare surroundings", compare_surroundings),
    (
        "read a variable that is there twice",
        read_a_double_variable,
    ),
    ("change what the loader needs", change_what_the_loader_needs),
    ("build below the loader", build_below_the_loader),
    ("use a pool later", use_a_pool_later),
];

type Surroundings = (
    Vec<OsString>,
    BTreeMap<OsString, OsString>,
    Option<PathBuf>,
    Option<PathBuf>,
);

fn surroundings((): ()) -> Surroundings {
    (
        env::args_os().collect(),
        env::vars_os().collect(),
        env::current_dir().ok(),
        env::current_exe().ok(),
    )
}

fn compare_surroundings() {
    let check = || {
        let seen = pool_of(1).apply(surroundings, ());
        assert_eq!(seen.expect("a pool that works"), surroundings(()));
    };
    check();
    let directory = tempfile::tempdir().expect("a temporary directory");
    env::set_current_dir(directory.path()).expect("a directory");
    let value = OsStr::from_bytes(b"not \xff text, and = a sign");
    for name in ["ADDED", "HOME", "NAME WITH SPACES"] {
        // SAFETY: the program's other threads are the test harness's and the pool's; neither
        // touches the environment now.
        unsafe { env::set_var(name, value) };
    }
    // SAFETY: as above.
    unsafe { env::remove_var("PATH") };
    check();
}

#[test]
fn workers_see_the_arguments_the_environment_the_directory_and_the_file_of_the_program() {
    in_time(|| drop(Program::start("compare surroundings").succeed()));
}

fn read_a_double_variable() {
    let read = |()| env::var("TWICE").ok();
    let own = read(());
    assert!(own.is_some());
    assert_eq!(pool_of(1).apply(read, ()).expect("a pool that works"), own);
}

// `getenv` finds the first.
#[test]
fn workers_see_the_same_one_of_two_variables_with_one_name() {
    in_time(|| {
        let mut command = Program::command("read a variable that is there twice");
        let path = command.get_program().to_owned().into_vec();
        let path = CString::new(path).expect("a path");
        let arguments = [path.clone()].into_iter().chain(
            command
                .get_args()
                .map(|it| CString::new(it.as_bytes()).expect("an argument")),
        );
        let arguments: Vec<CString> = arguments.collect();
        let changed: Vec<(OsString, OsString)> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        let environment: Vec<CString> = env::vars_os()
            .chain(changed)
            .chain([
                ("TWICE".into(), "first".into()),
                ("TWICE".into(), "second".into()),
            ])
            .map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                CString::new(name.into_vec()).expect("a variable")
            })
            .collect();
        let become_it = move || {
            let error = nix::unistd::execve(&path, &arguments, &environment);
            Err(error.expect_err("it does not return").into())
        };
        // SAFETY: it calls nothing but execve, and allocates nothing unless that fails.
        unsafe { command.pre_exec(become_it) };
        Program::start_by(command).succeed();
    });
}

/// The environment with which a process was started.
fn started_with(pid: u32) -> Vec<OsString> {
    let block = fs::read(format!("/proc/{pid}/environ")).expect("a process of this user");
    let variables = block.split(|it| *it == 0).filter(|it| !it.is_empty());
    let variables = variables.map(|it| OsStr::from_bytes(it).to_owned());
    let is_invitation = |it: &OsString| it.as_bytes().starts_with(b"PROCPOOL_FORK_SERVER=");
    variables.filter(|it| !is_invitation(it)).collect()
}

fn change_what_the_loader_needs() {
    // SAFETY: the program's other threads are the test harness's, which does not touch the
    // environment now.
    unsafe { env::remove_var("LD_LIBRARY_PATH") };
    // SAFETY: as above.
    unsafe { env::set_var("LD_PRELOAD", "/dev/null") };
    let pool = pool_of(1);
    let seen = pool.apply(surroundings, ()).expect("a pool that works");
    assert_eq!(seen, surroundings(()));
    assert_eq!(
        started_with(fork_server()),
        started_with(std::process::id())
    );
}

#[test]
fn the_fork_server_is_started_with_the_environment_of_the_programs_start() {
    in_time(|| {
        let mut command = Program::command("change what the loader needs");
        command.env("LD_LIBRARY_PATH", "/nowhere");
        Program::start_by(command).succeed();
    });
}

fn build_below_the_loader() {
    let error = failure(ProcessPoolExecutor::builder().workers(1).build());
    assert_eq!(error.kind(), ErrorKind::StartFailed, "{error}");
    assert!(error.to_string().contains("through the loader"), "{error}");
    say("main");
}

/// The loader of this program, which has mapped it.
fn loader() -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").expect("our mappings");
    let paths = maps.lines().filter_map(|it| it.split_whitespace().nth(5));
    let mut loaders = paths.filter(|it| it.contains("/ld-"));
    loaders.next().expect("a program with a loader").into()
}

// 1. The program's executable is the loader, to the kernel. 2. A copy of that is started with the
//    program's arguments. 3. It loads and runs the first of them.
#[test]
fn a_program_that_was_started_through_the_loader_does_not_execute_its_first_argument() {
    in_time(|| {
        let program = Program::command("build below the loader");
        let mut command = Command::new(loader());
        // To the test program, filters like the one that follows.
        let executed = ["/bin/echo", "=> executed"];
        command.arg(program.get_program()).args(executed);
        command.args(program.get_args());
        command.envs(program.get_envs().filter_map(|it| Some((it.0, it.1?))));
        assert_eq!(Program::start_by(command).succeed(), ["main"]);
    });
}

fn use_a_pool_later() {
    say("there");
    listen();
    let pool = pool_of(2);
    assert_eq!(
        pool.map(square, 0..100).expect("a pool that works").len(),
        100
    );
}

#[test]
fn a_program_whose_file_was_replaced_goes_on_with_the_old_one() {
    in_time(|| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let own = env::current_exe().expect("the path of this test");
        for replacement in [None, Some("not a program")] {
            let copy = directory.path().join("program");
            copy_program(&own, &copy);
            let mut program = Program::start_by(Program::command_of(&copy, "use a pool later"));
            assert_eq!(program.hear(), "there");
            fs::remove_file(&copy).expect("a file");
            if let Some(text) = replacement {
                fs::write(&copy, text).expect("a file");
            }
            program.tell();
            program.succeed();
        }
    });
}
