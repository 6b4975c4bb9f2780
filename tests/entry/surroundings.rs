//! What workers see of the program that they are copies of: its arguments, its environment, its directory, its file.

#![expect(
    unsafe_code,
    reason = "an environment that the standard library does not make"
)]

use crate::{
    common::{failure, in_time, pool_of, square},
    processes::{Program, listen, say},
};
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
    process::abort,
};

pub(crate) const PROGRAMS: &[(&str, fn())] = &[
    ("compare surroundings", compare_surroundings),
    (
        "read a variable that is there twice",
        read_a_double_variable,
    ),
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
    let pool = pool_of(1);
    let check = || {
        let seen = pool.apply(surroundings, ()).expect("a pool that works");
        assert_eq!(seen, surroundings(()));
    };
    check();
    let directory = tempfile::tempdir().expect("a temporary directory");
    env::set_current_dir(directory.path()).expect("a directory");
    let value = OsStr::from_bytes(b"not \xff text, and = a sign");
    for name in ["ADDED", "HOME", "NAME WITH SPACES"] {
        // SAFETY: the program's other threads are the test harness's and the pool's; neither touches the environment now.
        unsafe { env::set_var(name, value) };
    }
    // SAFETY: as above.
    unsafe { env::remove_var("PATH") };
    failure(pool.apply(|()| -> () { abort() }, ()));
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
            fs::copy(&own, &copy).expect("a copy");
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
