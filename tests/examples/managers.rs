//! The programs about managers.

use super::{example, lines_of, start};

fn printed_by(name: &str) -> Vec<String> {
    lines_of(start(&mut example(name)).finish())
}

#[test]
fn manager_dict_and_list_are_changed_by_a_child() {
    let expected = [
        "{0.25: None, 1: '1', '2': 2}",
        "[9, 8, 7, 6, 5, 4, 3, 2, 1, 0]",
    ];
    assert_eq!(printed_by("manager_dict_and_list"), expected);
}

#[test]
fn manager_ten_processes_fill_one_dict() {
    let expected = ["10 keys, the last is (9, 81)"];
    assert_eq!(printed_by("manager_ten_processes"), expected);
}

#[test]
fn manager_static_is_reached_by_forked_processes() {
    let expected = ["0 keys before", "10 keys after, by the ten processes: true"];
    assert_eq!(printed_by("manager_static"), expected);
}

#[test]
fn manager_types_are_each_used_across_processes() {
    let expected = [
        "queue: an item",
        "value: 3.1415927",
        "namespace: Some(\"zhangkai\")",
        "array: [0, 1, 2, 3, 4, 5, 6, 7, 8, -9]",
        "semaphores: 1 1",
        "locks: true",
    ];
    assert_eq!(printed_by("manager_types"), expected);
}

#[test]
fn manager_bank_loses_no_money() {
    assert_eq!(
        printed_by("manager_bank"),
        ["too large a transfer is refused: true", "400 in all"]
    );
}

#[test]
fn manager_tcp_joins_two_programs() {
    let expected = [
        "the other program succeeded: true",
        "[\"hello from another program\"]",
    ];
    assert_eq!(printed_by("manager_tcp"), expected);
}
