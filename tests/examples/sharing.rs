//! The programs about locks and shared memory.

use super::{example, lines_of, start};

fn printed_by(name: &str, argument: Option<&str>) -> Vec<String> {
    lines_of(start(example(name).args(argument)).finish())
}

#[test]
fn lock_print_never_mixes_two_processes_lines() {
    let printed = printed_by("lock_print", None);
    let mut numbers = Vec::new();
    for pair in printed.chunks(2) {
        let number = pair[0]
            .strip_prefix("hello from process ")
            .expect("a first line");
        assert_eq!(pair[1], format!("goodbye from process {number}"));
        numbers.push(number.parse::<u32>().expect("a number"));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..10).collect::<Vec<_>>());
}

#[test]
fn lock_static_is_held_by_one_fork_after_the_other() {
    let printed = printed_by("lock_static", Some("0.1"));
    assert_eq!(printed, ["acquired", "released", "acquired", "released"]);
}

#[test]
fn value_array_shows_what_the_child_changed() {
    let expected = ["3.1415927", "[0, -1, -2, -3, -4, -5, -6, -7, -8, -9]"];
    assert_eq!(printed_by("value_array", None), expected);
}

#[test]
fn value_counter_loses_nothing_under_one_lock() {
    let printed = printed_by("value_counter", None);
    assert_eq!(
        (printed.len(), printed[1].as_str()),
        (2, "with one lock: 40000 of 40000")
    );
    assert!(printed[0].starts_with("without one lock: "));
}

#[test]
fn barrier_phases_follow_each_other() {
    let printed = printed_by("barrier_phases", None);
    let mut expected = Vec::new();
    for phase in 1..=3 {
        expected.extend(["a", "b", "c"].map(|it| format!("{it} works in phase {phase}")));
        expected.push(format!("phase {phase} is over"));
    }
    let mut in_order = printed.clone();
    in_order.chunks_mut(4).for_each(|it| it[..3].sort());
    assert_eq!(in_order, expected, "{printed:#?}");
}

#[test]
fn condition_handoff_alternates() {
    let turns = (0..6).map(|it| format!("turn {it}: {}", ["ping", "pong"][it % 2]));
    assert_eq!(
        printed_by("condition_handoff", None),
        turns.collect::<Vec<_>>()
    );
}
