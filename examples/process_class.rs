//! A process class: a struct with its data and a `run` method.

use procpool::Process;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct MyProcess {
    args: (String,),
}

impl MyProcess {
    fn run(self) {
        println!("running this process {:?}", self.args);
    }
}

fn main() -> procpool::Result<()> {
    let args = ("xxx".to_owned(),);
    Process::start(MyProcess::run, MyProcess { args })?.result()
}
