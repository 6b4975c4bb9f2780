//! A pipe whose reader asks for 50 µs before it goes to sleep, as a connection does while that
//! pays.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use procpool::wait_ready;

use crate::Result;

const ASKING: Duration = Duration::from_micros(50);

#[derive(Debug)]
pub(crate) struct BarePipe {
    reader: File,
    writer: File,
}

impl BarePipe {
    pub(crate) fn new() -> Result<Self> {
        let (reader, writer) = io::pipe()?;
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self {
            reader: OwnedFd::from(reader).into(),
            writer: OwnedFd::from(writer).into(),
        })
    }

    pub(crate) fn with_room(bytes: usize) -> Result<Self> {
        let pipe = Self::new()?;
        fcntl(&pipe.writer, FcntlArg::F_SETPIPE_SZ(bytes.try_into()?))?;
        Ok(pipe)
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> Result<()> {
        Ok((&self.writer).write_all(bytes)?)
    }

    pub(crate) fn read(&self, buffer: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            filled += self.read_some(&mut buffer[filled..])?;
        }
        Ok(())
    }

    fn read_some(&self, buffer: &mut [u8]) -> Result<usize> {
        let mut start = None;
        loop {
            match (&self.reader).read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                count => return Ok(count?),
            }
            if start.get_or_insert_with(Instant::now).elapsed() > ASKING {
                wait_ready(&[&self.reader.as_fd()], None)?;
            } else {
                thread::yield_now();
            }
        }
    }
}
