//! A pipe between two processes: a list that a child sends, then a conversation.

use procpool::{Connection, Process, Result, pipe};
use serde::{Deserialize, Serialize};

/// The items of a mixed list.
#[derive(Debug, Serialize, Deserialize)]
enum Item {
    Number(i64),
    Nothing,
    Text(String),
}

fn send_a_list(connection: Connection<Vec<Item>, ()>) {
    let list = vec![
        Item::Number(42),
        Item::Nothing,
        Item::Text("hello".to_owned()),
    ];
    // Fails only if the parent is gone, which needs no list.
    let _ = connection.send(&list);
}

fn answer(connection: Connection<String, String>) {
    if let Ok(message) = connection.recv() {
        println!("worker received: {message}");
        let _ = connection.send(&"message from worker".to_owned());
    }
}

fn main() -> Result<()> {
    let (parent, child) = pipe()?;
    let _process = Process::start(send_a_list, child)?;
    println!("{:?}", parent.recv()?);

    let (parent, child) = pipe()?;
    let process = Process::start(answer, child)?;
    parent.send(&"message from parent".to_owned())?;
    println!("parent received response: {}", parent.recv()?);
    process.result()
}
