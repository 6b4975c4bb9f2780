//! A child puts a list of mixed items into a queue, and the parent takes it.

use procpool::{Process, Queue, Result};
use serde::{Deserialize, Serialize};

/// The items of a mixed list.
#[derive(Debug, Serialize, Deserialize)]
enum Item {
    Number(i64),
    Nothing,
    Text(String),
}

fn put_a_list(queue: Queue<Vec<Item>>) {
    let list = vec![
        Item::Number(42),
        Item::Nothing,
        Item::Text("hello".to_owned()),
    ];
    queue.put(&list).expect("it is open");
}

fn main() -> Result<()> {
    let queue = Queue::unbounded()?;
    let child = Process::start(put_a_list, queue.clone())?;
    println!("{:?}", queue.get()?);
    child.result()
}
