//! The programs about queues.

use super::{example, lines_of, start};

fn printed_by(name: &str) -> Vec<String> {
    lines_of(start(&mut example(name)).finish())
}

#[test]
fn queue_writer_reader_reads_all_that_was_written() {
    let printed = printed_by("queue_writer_reader");
    let read: Vec<_> = printed.iter().filter(|it| it.starts_with("Get")).collect();
    assert_eq!(
        read,
        [
            "Get A from queue.",
            "Get B from queue.",
            "Get C from queue."
        ]
    );
    let written = printed.iter().filter(|it| it.starts_with("Put"));
    assert_eq!(written.count(), 3);
    let last = "10 writers sent [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]";
    assert_eq!(printed.last().map(String::as_str), Some(last));
}

#[test]
fn queue_list_prints_the_childs_list() {
    let list = r#"[Number(42), Nothing, Text("hello")]"#;
    assert_eq!(printed_by("queue_list"), [list]);
}

#[test]
fn queue_producers_consumers_consume_everything_once() {
    let printed = printed_by("queue_producers_consumers");
    let mut consumed: Vec<&str> = printed
        .iter()
        .filter_map(|it| Some(it.split_once(" consumed ")?.1))
        .collect();
    let mut produced: Vec<&str> = printed
        .iter()
        .filter_map(|it| it.strip_prefix("produced "))
        .collect();
    consumed.sort_unstable();
    produced.sort_unstable();
    assert_eq!((consumed.len(), &consumed), (10, &produced));
    let last = printed.last().map(String::as_str);
    assert_eq!(last, Some("All processes completed"));
}
