//! Under `ForkServer` and `Spawn` a child gets a copy of its argument, and no other data of its
//! parent.

use procpool::{Process, StartMethod};
use std::sync::OnceLock;

static NAMES: OnceLock<Vec<String>> = OnceLock::new();

fn task(mut passed: Vec<String>) {
    println!("child, not passed: {:?}", NAMES.get());
    println!("child, passed: {passed:?}");
    passed.push("sunkai".to_owned());
    println!("child, changed: {passed:?}");
}

fn main() -> procpool::Result<()> {
    let names = NAMES.get_or_init(|| vec!["zhangkai".to_owned()]);
    for method in [StartMethod::ForkServer, StartMethod::Spawn] {
        println!("{method:?}");
        let child = Process::builder(task, names.clone());
        child.start_method(method).start()?.result()?;
        println!("parent: {names:?}");
    }
    Ok(())
}
