//! Lists of descriptors that have come, and whose messages have not.

use crate::sys::socket::{self, FdPart, FrameTag, PartKind};
use crate::wire::handle::Attached;
use std::{collections::VecDeque, io, os::fd::AsFd};

/// Lists that wait. A process puts one before each message, so it takes more processes than this at
/// once to lose one; of those who were killed between the two, lists stay until so many others have
/// come.
const MAX_LISTS: usize = 1024;

/// What was found in the socket beside a pipe on the way to other lists.
#[derive(Debug, Default)]
pub(super) struct FdLists(VecDeque<FdList>);

#[derive(Debug)]
struct FdList {
    tag: FrameTag,
    attached: Vec<Attached>,
    is_complete: bool,
}

impl FdLists {
    /// Takes the list of a message that has come; an empty one when it is not there, or has more
    /// than `max` descriptors.
    ///
    /// It never waits: who sends a message has sent its list before, and what is not there another
    /// process has taken.
    pub(super) fn claim(
        &mut self,
        fd_socket: impl AsFd,
        tag: FrameTag,
        max: usize,
    ) -> io::Result<Vec<Attached>> {
        loop {
            let found = self.0.iter().position(|it| it.tag == tag && it.is_complete);
            if let Some(list) = found.and_then(|it| self.0.remove(it)) {
                return Ok(if list.attached.len() > max {
                    Vec::new()
                } else {
                    list.attached
                });
            }
            match socket::try_receive_part(&fd_socket) {
                Ok(part) => self.add(part),
                Err(error) if is_no_more(&error) => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
        }
    }

    fn add(&mut self, part: FdPart) {
        let index = self.0.iter().position(|it| it.tag == part.tag);
        if part.batch == PartKind::GivenUp {
            index.and_then(|it| self.0.remove(it));
            return;
        }
        let index = index.unwrap_or_else(|| self.begin(part.tag));
        let list = &mut self.0[index];
        let attached = Attached::received(part.fds, &part.labels);
        list.attached.extend(attached);
        list.is_complete = part.batch == PartKind::Last;
    }

    fn begin(&mut self, tag: FrameTag) -> usize {
        if self.0.len() == MAX_LISTS {
            self.0.pop_front();
        }
        self.0.push_back(FdList {
            tag,
            attached: Vec::new(),
            is_complete: false,
        });
        self.0.len() - 1
    }
}

fn is_no_more(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::UnexpectedEof
    )
}
