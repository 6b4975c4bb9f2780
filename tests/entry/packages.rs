//! Packages of their own that use this crate: built to abort on a panic, as a shared object in a
//! program that knows nothing of the crate, and in every kind of target that Cargo has.
//!
//! They are built once into a directory that is kept, so that the crate's dependencies are compiled
//! for them but once.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A build of everything on a busy machine takes a few minutes at worst.
const BUILD_LIMIT: Duration = Duration::from_secs(280);

/// A program that does little takes longer than this only if it hangs.
const RUN_LIMIT: Duration = Duration::from_secs(60);

const MANIFEST: &str = r#"
[workspace]
members = ["aborting", "covered", "plugin", "stranger", "everywhere"]
resolver = "3"

[profile.dev]
debug = 0
"#;

/// The packages: name, what its manifest says besides, its files.
type Package = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const PACKAGES: &[Package] = &[
    (
        "aborting",
        "[dependencies]\nprocpool.path = \"PROCPOOL\"\nserde = \"1\"",
        &[("src/main.rs", include_str!("../packages/aborting.rs"))],
    ),
    (
        "covered",
        "[dependencies]\nprocpool.path = \"PROCPOOL\"",
        &[("src/main.rs", include_str!("../packages/covered.rs"))],
    ),
    (
        "plugin",
        "[lib]\ncrate-type = [\"cdylib\"]\n[dependencies]\nprocpool.path = \"PROCPOOL\"",
        &[("src/lib.rs", include_str!("../packages/plugin.rs"))],
    ),
    (
        "stranger",
        "",
        &[("src/main.rs", include_str!("../packages/stranger.rs"))],
    ),
    (
        "everywhere",
        "[dependencies]\nprocpool.path = \"PROCPOOL\"\n\
         [[bench]]\nname = \"bench\"\nharness = false",
        &[
            ("src/lib.rs", include_str!("../packages/everywhere.rs")),
            ("src/main.rs", MAIN),
            ("tests/integration.rs", INTEGRATION),
            ("examples/example.rs", MAIN),
            ("benches/bench.rs", MAIN),
        ],
    ),
];

const MAIN: &str = "fn main() { everywhere::use_a_pool(); println!(\"used\"); }";
const INTEGRATION: &str = "#[test] fn used_in_an_integration_test() { everywhere::use_a_pool(); }";

/// A workspace with all packages, written once by this process. It is kept, so that cargo builds a
/// package again only if the crate has changed.
static WORKSPACE: LazyLock<Workspace> = LazyLock::new(Workspace::write);

struct Workspace(PathBuf);

impl Workspace {
    fn write() -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("workspace");
        let write = |path: &str, text: &str| {
            let path = directory.join(path);
            fs::create_dir_all(path.parent().expect("inside the directory")).expect("a directory");
            // Cargo takes a file for changed that is written again.
            if fs::read_to_string(&path).ok().as_deref() != Some(text) {
                fs::write(path, text).expect("a file");
            }
        };
        write("Cargo.toml", MANIFEST);
        let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
        // The versions that are here, as nothing may be downloaded; a packaged crate has no such
        // file.
        let _ = fs::copy(crate_root.join("Cargo.lock"), directory.join("Cargo.lock"));
        for (name, manifest, files) in PACKAGES {
            let head = format!("[package]\nname = \"{name}\"\nedition = \"2024\"\n");
            let manifest = manifest.replace("PROCPOOL", env!("CARGO_MANIFEST_DIR"));
            write(&format!("{name}/Cargo.toml"), &(head + &manifest));
            for (path, text) in *files {
                write(&format!("{name}/{path}"), text);
            }
        }
        Self(directory)
    }

    /// Runs Cargo; its output, which must be that of a success.
    fn cargo(&self, arguments: &[&str], panic: &str) -> String {
        let mut command = self.command(arguments, target());
        command.env("CARGO_PROFILE_DEV_PANIC", panic);
        succeed_in(command, arguments)
    }

    /// What runs Cargo.
    fn command(&self, arguments: &[&str], target: PathBuf) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
        command
            .current_dir(&self.0)
            .args(arguments)
            .args(["--offline", "--quiet", "--target-dir"])
            .arg(target)
            .env_remove("CARGO_TARGET_DIR");
        command
    }

    /// Builds a package so that each process of its program leaves a profile; the program.
    fn build_covered(&self, package: &str) -> PathBuf {
        let target = target().join("covered");
        let profiles = TempDir::new().expect("a folder");
        let arguments = ["build", "--package", package];
        let mut command = self.command(&arguments, target.clone());
        command
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env("RUSTFLAGS", "-C instrument-coverage")
            .env("LLVM_PROFILE_FILE", profiles.path().join("%p.profraw"));
        succeed_in(command, &arguments);
        target.join("debug").join(package)
    }

    /// Builds a package, and returns the directory of its programs.
    fn build(&self, package: &str, panic: &str) -> PathBuf {
        self.cargo(&["build", "--package", package], panic);
        target().join("debug")
    }
}

/// Runs Cargo; its output, which must be that of a success.
fn succeed_in(command: Command, arguments: &[&str]) -> String {
    let output = run(command, BUILD_LIMIT);
    let text = text_of(&output);
    assert!(output.status.success(), "cargo {arguments:?}: {text}");
    text
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages")
}

/// Runs a program to its end, at the latest to its deadline.
fn run(mut command: Command, limit: Duration) -> Output {
    let output = || tempfile::NamedTempFile::new().expect("a temporary file");
    // Files, not pipes: a process that is left would hold those open.
    let (standard, errors) = (output(), output());
    let reopened = |it: &tempfile::NamedTempFile| Stdio::from(it.reopen().expect("a file"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(reopened(&standard))
        .stderr(reopened(&errors))
        .spawn()
        .expect("a program");
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().expect("our child") {
            break status;
        }
        if Instant::now() > deadline {
            // It fails only for a process that has ended.
            let _ = child.kill();
        }
        thread::sleep(Duration::from_millis(5));
    };
    Output {
        status,
        stdout: fs::read(&standard).expect("a file"),
        stderr: fs::read(&errors).expect("a file"),
    }
}

fn text_of(output: &Output) -> String {
    let texts = [&output.stdout, &output.stderr].map(|it| String::from_utf8_lossy(it).into_owned());
    texts.join("")
}

/// Runs one of the packages' programs; what it printed, if it came to a good end.
fn succeed(program: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    let output = run(command, RUN_LIMIT);
    let text = text_of(&output);
    assert!(
        output.status.success(),
        "{arguments:?}: {} {text}",
        output.status
    );
    text
}

/// The program that aborts on a panic.
static ABORTING: LazyLock<PathBuf> = LazyLock::new(|| {
    let built = WORKSPACE.build("aborting", "abort");
    built.join("aborting")
});

/// A program that knows nothing of the crate, and a shared object that does.
static STRANGER: LazyLock<(PathBuf, PathBuf)> = LazyLock::new(|| {
    WORKSPACE.build("plugin", "unwind");
    let built = WORKSPACE.build("stranger", "unwind");
    (built.join("stranger"), built.join("libplugin.so"))
});

/// Runs what the program that aborts on a panic does under this name.
fn abort_in(what: &str) -> String {
    succeed(&ABORTING, &[what])
}

#[test]
fn a_panic_that_aborts_arrives_and_its_worker_is_replaced() {
    abort_in("task");
}

#[test]
fn panics_that_abort_are_those_of_their_items() {
    abort_in("map");
}

#[test]
fn a_panic_that_aborts_while_the_argument_is_decoded_is_the_tasks_own() {
    abort_in("decode");
}

#[test]
fn a_panic_that_aborts_while_a_context_is_decoded_fails_its_map_alone() {
    abort_in("context");
}

#[test]
fn a_panic_that_aborts_in_an_initializer_breaks_the_pool_with_its_message() {
    abort_in("initializer");
}

#[test]
fn a_panic_that_aborts_on_another_thread_is_a_death_and_is_printed() {
    assert!(abort_in("thread").contains("on a side thread"));
}

#[test]
fn an_overflow_that_std_reports_and_aborts_at_is_named_in_the_error() {
    assert!(abort_in("overflow").contains("has overflowed its stack"));
}

#[test]
fn every_one_of_many_panics_that_abort_arrives() {
    let printed = abort_in("row");
    assert_eq!(printed, "", "a task's panic is not printed");
}

/// Calls functions of the shared object in the program that knows nothing of the crate.
fn call_in_a_stranger(functions: &[&str]) {
    let (stranger, plugin) = &*STRANGER;
    let plugin = plugin.display().to_string();
    let arguments = [&[plugin.as_str()], functions].concat();
    succeed(stranger, &arguments);
}

#[test]
fn a_pool_in_a_program_that_knows_nothing_of_it_fails_to_start_and_says_what_to_do() {
    call_in_a_stranger(&["fail_to_build_a_pool", "fail_to_build_a_pool"]);
}

#[test]
fn a_pool_in_a_program_that_calls_init_works() {
    call_in_a_stranger(&["init", "use_a_pool", "use_a_pool"]);
}

#[test]
fn a_pool_works_in_every_kind_of_target() {
    let everywhere = ["--package", "everywhere"];
    let tested = WORKSPACE.cargo(&[&["test"], &everywhere[..]].concat(), "unwind");
    assert_eq!(
        tested.matches("test result: ok. 1 passed").count(),
        3,
        "{tested}"
    );
    let targets = [
        &["run"][..],
        &["run", "--example", "example"],
        &["bench", "--profile", "dev"],
    ];
    for target in targets {
        let printed = WORKSPACE.cargo(&[target, &everywhere[..]].concat(), "unwind");
        assert!(printed.contains("used"), "{target:?}: {printed}");
    }
}

#[test]
fn every_process_of_a_program_that_measures_coverage_leaves_a_profile() {
    let program = WORKSPACE.build_covered("covered");
    let folder = TempDir::new().expect("a folder");
    let mut command = Command::new(program);
    command.env("LLVM_PROFILE_FILE", folder.path().join("%p.profraw"));
    let output = run(command, RUN_LIMIT);
    let text = text_of(&output);
    assert!(output.status.success(), "{} {text}", output.status);
    let deadline = Instant::now() + RUN_LIMIT;
    for pid in text.lines() {
        let profile = folder.path().join(format!("{pid}.profraw"));
        // A fork server ends with the program, at the latest soon after it.
        while !fs::metadata(&profile).is_ok_and(|it| it.len() > 0) {
            assert!(Instant::now() < deadline, "{pid} has left none: {text}");
            thread::sleep(Duration::from_millis(5));
        }
    }
    assert_eq!(text.lines().count(), 12);
}
