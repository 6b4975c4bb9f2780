//! Several arguments: by position they are a tuple, by name the fields of a struct.

use procpool::Process;
use serde::{Deserialize, Serialize};

fn worker((number, task): (u32, String)) {
    println!("worker {number} does {task}");
}

#[derive(Serialize, Deserialize)]
struct Say {
    name: String,
    task: String,
}

fn say(Say { name, task }: Say) {
    println!("{name} says {task}");
}

fn main() -> procpool::Result<()> {
    Process::start(worker, (1, "cleaning".to_owned()))?.result()?;
    let arguments = Say {
        task: "hello".to_owned(),
        name: "bob".to_owned(),
    };
    Process::start(say, arguments)?.result()
}
