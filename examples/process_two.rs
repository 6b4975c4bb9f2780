//! Two processes, one of them with a list as its argument.

use procpool::{Process, current_process};

fn first(_: ()) {
    println!("{}", current_process().name());
}

fn second(names: Vec<String>) {
    println!("{} {names:?}", current_process().name());
}

fn main() -> procpool::Result<()> {
    let processes = [
        Process::start(first, ())?,
        Process::start(second, vec!["zhangkai".to_owned()])?,
    ];
    for process in processes {
        process.join()?;
    }
    println!("main process");
    Ok(())
}
