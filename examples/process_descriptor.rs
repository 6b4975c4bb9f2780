//! An open file as an argument: a `Descriptor` passes it together with its position. A `File` does
//! not compile.

use procpool::{Descriptor, Process, Result};
use std::fs::File;
use std::io::{self, Read, Seek, Write};

fn write_on(log: Descriptor) -> Option<()> {
    let mut log = File::from(log.into_fd().ok()?);
    writeln!(log, "the child was here").ok()
}

fn whole(mut file: File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn main() -> Result<()> {
    let mut file = tempfile::tempfile().expect("a temporary file");
    writeln!(file, "the parent was here").expect("room on the disk");
    let log = Descriptor::from(file);
    let process = Process::start(write_on, log.clone())?;
    assert_eq!(process.result()?, Some(()));
    print!("{}", whole(log.into_fd()?.into()).expect("what both wrote"));
    Ok(())
}
