//! Lists of descriptors that have arrived before their messages.

use crate::sys::fd_list::{self, FdPart, FrameTag, PartKind};
use crate::wire::handle::Attached;
use std::{collections::VecDeque, io, os::fd::AsFd};

/// Maximum number of waiting lists. A process sends a list just before its message, so a list gets
/// lost only if more processes than this send at the same time. The list of a process killed
/// between the two stays until this many others have arrived.
const MAX_LISTS: usize = 1024;

/// Lists that were read from a pipe's socket while looking for another list.
#[derive(Debug, Default)]
pub(super) struct FdLists(VecDeque<FdList>);

#[derive(Debug)]
struct FdList {
    tag: FrameTag,
    attached: Vec<Attached>,
    is_complete: bool,
}

impl FdLists {
    /// Takes the list of a message. Returns an empty list if it is missing or has more than `max`
    /// descriptors.
    ///
    /// Never waits: a sender sends the list before its message, so another process has taken a list
    /// that is missing.
    pub(super) fn claim(
        &mut self,
        fd_socket: impl AsFd,
        tag: FrameTag,
        max: usize,
    ) -> io::Result<Vec<Attached>> {
        loop {
            let found = self
                .0
                .iter()
                .position(|list| list.tag == tag && list.is_complete);
            if let Some(list) = found.and_then(|it| self.0.remove(it)) {
                return Ok(if list.attached.len() > max {
                    Vec::new()
                } else {
                    list.attached
                });
            }
            // The next list in the socket may belong to another message: two processes that share
            // the sending end may send their lists in one order and their messages in the other.
            match fd_list::try_receive_part(&fd_socket) {
                Ok(part) => self.add(part),
                Err(error) if is_no_more(&error) => return Ok(Vec::new()),
                Err(error) => return Err(error),
            }
        }
    }

    fn add(&mut self, part: FdPart) {
        let index = self.0.iter().position(|list| list.tag == part.tag);
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
