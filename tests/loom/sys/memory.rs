//! Stands for what queues name of `src/sys/memory.rs`.

use crate::shm::{BLOCKS_LEN, Object};
use std::{io, ops::Range};

/// Makes the blocks.
pub(crate) fn set_len(object: &Object, _bytes: usize) -> io::Result<()> {
    let start = object.view().len();
    punch_hole(object, start..start + BLOCKS_LEN)
}

pub(crate) fn longest_file() -> io::Result<usize> {
    Ok(usize::MAX)
}

pub(crate) fn len(object: &Object) -> io::Result<usize> {
    Ok(object.view().len() + BLOCKS_LEN)
}

/// Makes the part zeros, as the system does with whole pages.
pub(crate) fn punch_hole(object: &Object, part: Range<usize>) -> io::Result<()> {
    let part = object.view().map_part(part)?;
    part.clear(0..part.len());
    Ok(())
}
