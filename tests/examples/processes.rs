//! The programs about processes.

use super::{example, lines_of, start, wait_for};
use std::{collections::BTreeSet, fs, process};

/// The id of the program, and what it prints.
fn run(name: &str) -> (String, Vec<String>) {
    let program = start(&mut example(name));
    let id = program.child.id().to_string();
    (id, lines_of(program.finish()))
}

fn printed_by(name: &str) -> Vec<String> {
    run(name).1
}

/// What stands between two texts in a line that begins with the one and ends with the other.
fn between<'a>(line: &'a str, start: &str, end: &str) -> &'a str {
    let rest = line.strip_prefix(start).and_then(|it| it.strip_suffix(end));
    rest.unwrap_or_else(|| panic!("{line:?} is not {start:?}, something, {end:?}"))
}

fn position(lines: &[String], line: &str) -> usize {
    let found = lines.iter().position(|it| it == line);
    found.unwrap_or_else(|| panic!("no {line:?} in {lines:#?}"))
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn process_start_runs_its_function_outside_the_parent() {
    let (parent, printed) = run("process_start");
    let child = between(&printed[2], "Run child process test (", ")...");
    assert_ne!(child, parent);
    let expected = [
        &format!("Parent process {parent}."),
        "Process will start.",
        &format!("Run child process test ({child})..."),
        "Process end.",
    ];
    assert_eq!(printed, expected);
}

#[test]
fn process_info_gives_the_program_as_the_childs_parent() {
    let (program, printed) = run("process_info");
    let child = between(&printed[7], "process id: ", "");
    assert_ne!(child, program);
    let expected = [
        "main line",
        "module name: process_info",
        &format!("parent process: {}", process::id()),
        &format!("process id: {program}"),
        "function greet",
        "module name: process_info",
        &format!("parent process: {program}"),
        &format!("process id: {child}"),
        "hello bob",
    ];
    assert_eq!(printed, expected);
}

#[test]
fn process_fork_tells_parent_and_child_of_each_other() {
    let (parent, printed) = run("process_fork");
    // Both print at the same time.
    let printed = sorted(printed);
    let start = format!("I ({parent}) just created a child process (");
    let child = between(&printed[0], &start, ").");
    let answer = format!("I am child process ({child}) and my parent is ({parent}).");
    assert_eq!(printed[1..], [answer]);
}

#[test]
fn process_two_passes_a_list_to_the_second() {
    let mut printed = printed_by("process_two");
    assert_eq!(printed.pop().as_deref(), Some("main process"));
    // Both print at the same time.
    assert_eq!(sorted(printed), ["Process-1", r#"Process-2 ["zhangkai"]"#]);
}

#[test]
fn process_join_between_two_starts_orders_them() {
    let printed = printed_by("process_join");
    let expected = [
        "one after the other:",
        "a starts",
        "a ends",
        "b starts",
        "b ends",
        "two at once:",
    ];
    assert_eq!(printed[..6], expected);
}

#[test]
fn process_join_after_the_starts_waits_for_all() {
    let printed = printed_by("process_join");
    let [two, list, end] =
        ["two at once:", "a list:", "all have ended"].map(|it| position(&printed, it));
    let expected = ["c ends", "c starts", "d ends", "d starts"];
    assert_eq!(sorted(printed[two + 1..list].to_vec()), expected);
    let expected = [
        "e ends", "e starts", "f ends", "f starts", "g ends", "g starts",
    ];
    assert_eq!(sorted(printed[list + 1..end].to_vec()), expected);
    assert_eq!(end, printed.len() - 1, "{printed:#?}");
}

#[test]
fn process_join_after_the_starts_lets_them_run_at_the_same_time() {
    let printed = printed_by("process_join");
    let [started, ended] = ["d starts", "c ends"].map(|it| position(&printed, it));
    assert!(started < ended, "{printed:#?}");
}

#[test]
fn process_names_are_numbers_unless_given() {
    let (program, printed) = run("process_names");
    let [numbered, named] = ["Process-1", "crawler"].map(|name| {
        let told = format!("started {name} as ");
        let line = printed.iter().find(|it| it.starts_with(&told));
        between(line.map_or("", |it| it), &told, "").to_owned()
    });
    assert_eq!(
        BTreeSet::from([&program, &numbered, &named]).len(),
        3,
        "{printed:#?}"
    );
    let own = [
        format!("MainProcess has id {program}"),
        format!("Process-1 has id {numbered}"),
        format!("crawler has id {named}"),
    ];
    assert_eq!(printed[..3], own);
}

#[test]
fn process_daemon_is_waited_for_only_without_the_flag() {
    let printed = printed_by("process_daemon");
    assert_eq!(printed[1..], ["main ends", "worker ends"]);
}

#[test]
fn process_daemon_ends_with_its_program() {
    let printed = printed_by("process_daemon");
    let daemon = between(&printed[0], "started daemon as ", "");
    let directory = format!("/proc/{daemon}");
    wait_for("the daemon's end", || {
        fs::metadata(&directory).is_err().then_some(())
    });
}

#[test]
fn process_class_runs_with_its_data() {
    let printed = printed_by("process_class");
    assert_eq!(printed, [r#"running this process ("xxx",)"#]);
}

#[test]
fn process_arguments_go_by_position_or_name() {
    let printed = printed_by("process_arguments");
    assert_eq!(printed, ["worker 1 does cleaning", "bob says hello"]);
}

#[test]
fn process_per_core_starts_one_for_each() {
    let printed = printed_by("process_per_core");
    let cores = procpool::cpu_count();
    assert_eq!(printed[0], format!("{cores} cores"));
    let workers = printed[1..]
        .iter()
        .map(|it| between(it, "worker ", ""))
        .filter_map(|it| it.split_once(" runs in process "));
    let (numbers, ids): (BTreeSet<_>, BTreeSet<_>) = workers.unzip();
    let expected: BTreeSet<String> = (0..cores).map(|it| it.to_string()).collect();
    assert!(numbers.iter().eq(expected.iter()), "{printed:#?}");
    assert_eq!(ids.len(), cores, "{printed:#?}");
    assert_eq!(printed.len(), 1 + cores);
}

#[test]
fn process_isolation_keeps_a_list_for_each_process() {
    let printed = printed_by("process_isolation");
    assert_eq!(printed[..2], ["child [666]", "parent []"]);
    // Ten print at the same time.
    let ten: Vec<String> = (0..10).map(|it| format!("child [{it}]")).collect();
    assert_eq!(sorted(printed[2..12].to_vec()), ten);
    assert_eq!(printed[12..], ["parent []"]);
}

#[test]
fn process_global_is_the_parents_only_under_fork() {
    let (program, printed) = run("process_global");
    let expected = [("ForkServer", false), ("Spawn", false), ("Fork", true)];
    for ((method, is_shared), lines) in expected.into_iter().zip(printed.chunks(2)) {
        let start = format!("{method}: parent {program} has ");
        let parents = between(&lines[0], &start, "");
        let child = between(&lines[1], &format!("{method}: child "), "");
        let (child, childs) = child.split_once(" has ").expect("an id and a number");
        assert_ne!(child, program);
        assert_eq!(childs == parents, is_shared, "{printed:#?}");
    }
    assert_eq!(printed.len(), 6);
}

#[test]
fn process_fork_memory_is_seen_by_the_child_and_changed_only_there() {
    let expected = [
        r#"child ["zhangkai"]"#,
        r#"child ["zhangkai", "sunkai"]"#,
        r#"parent ["zhangkai"]"#,
    ];
    assert_eq!(printed_by("process_fork_memory"), expected);
}

#[test]
fn process_fork_buffer_is_written_by_each_that_flushes_its_copy() {
    let expected = [
        "without a flush: zhangkai",
        "child 1 flushes: zhangkai likai zhangkai",
        "parent and child 1 flush: zhangkai likai",
    ];
    assert_eq!(printed_by("process_fork_buffer"), expected);
}

#[test]
fn process_copies_are_all_that_a_child_has_without_fork() {
    let printed = printed_by("process_copies");
    for (method, lines) in ["ForkServer", "Spawn"].into_iter().zip(printed.chunks(5)) {
        let expected = [
            method,
            "child, not passed: None",
            r#"child, passed: ["zhangkai"]"#,
            r#"child, changed: ["zhangkai", "sunkai"]"#,
            r#"parent: ["zhangkai"]"#,
        ];
        assert_eq!(lines, expected);
    }
    assert_eq!(printed.len(), 10);
}

#[test]
fn process_mutex_arrives_as_a_copy() {
    let printed = printed_by("process_mutex");
    let ids = printed
        .iter()
        .map(|it| between(it, "process ", " counts 1"));
    assert_eq!(ids.collect::<BTreeSet<_>>().len(), 3);
}

#[test]
fn process_descriptor_passes_an_open_file() {
    assert_eq!(
        printed_by("process_descriptor"),
        ["the parent was here", "the child was here"]
    );
}

#[test]
fn process_fork_threads_are_refused_with_the_way_out() {
    let expected = [
        "this process has 2 threads, and a fork copies only one of them: use \
         StartMethod::ForkServer or StartMethod::Spawn, or fork before the first thread is started",
        "a process started by ForkServer",
    ];
    assert_eq!(printed_by("process_fork_threads"), expected);
}

#[test]
fn process_pipe_prints_a_list_and_a_conversation() {
    let expected = [
        "[Number(42), Nothing, Text(\"hello\")]",
        "worker received: message from parent",
        "parent received response: message from worker",
    ];
    assert_eq!(
        sorted(printed_by("process_pipe")),
        sorted(expected.map(str::to_owned).to_vec())
    );
}
