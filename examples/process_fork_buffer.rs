//! `Fork` copies the buffer of a file with its unwritten bytes; parent and child share the file.

use procpool::{Process, StartMethod};
use std::io::{self, BufWriter, Seek, Write};
use std::{error::Error, fs::File, sync::Mutex};

static FILE: Mutex<Option<BufWriter<File>>> = Mutex::new(None);

fn write((name, flushes): (String, bool)) -> Result<(), String> {
    let mut file = FILE.lock().map_err(|it| it.to_string())?;
    let Some(file) = file.as_mut() else {
        return Err("there is no file".to_owned());
    };
    writeln!(file, "{name}").map_err(|it| it.to_string())?;
    let flushed = if flushes { file.flush() } else { Ok(()) };
    flushed.map_err(|it| it.to_string())
}

fn file_after(parent_flushes: bool, child_flushes: bool) -> Result<String, Box<dyn Error>> {
    let mut file = tempfile::tempfile()?;
    *FILE.lock()? = Some(BufWriter::new(file.try_clone()?));
    write(("zhangkai".to_owned(), parent_flushes))?;
    for (name, flushes) in [("likai", child_flushes), ("sunkai", false)] {
        let child = Process::builder(write, (name.to_owned(), flushes));
        child.start_method(StartMethod::Fork).start()?.result()??;
    }
    // The parent drops its buffer, which flushes it. A child ends without dropping its statics.
    *FILE.lock()? = None;
    file.rewind()?;
    Ok(io::read_to_string(file)?.trim_end().replace('\n', " "))
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("without a flush: {}", file_after(false, false)?);
    println!("child 1 flushes: {}", file_after(false, true)?);
    println!("parent and child 1 flush: {}", file_after(true, true)?);
    Ok(())
}
