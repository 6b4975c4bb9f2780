//! The limit of nesting in a value, and the error of a value that exceeds it.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Levels. In a debug build, a level takes about 600 bytes of stack and four times the size of its
/// struct. So types of up to 1 KiB use at most half of a stack of 2 MiB.
const DEFAULT: usize = 256;

/// Levels; more than any message of this crate has.
const MIN_DEPTH: usize = 16;

static MAX: AtomicUsize = AtomicUsize::new(DEFAULT);

/// Sets how many levels deep a value may be nested to be sent or received: 256 by default, at least
/// 16.
///
/// Each option, sequence, tuple, map, struct and enum around the innermost value is a level, so an
/// `Option<Box<Node>>` counts as two. Encoding and decoding recurse at each level: without a limit,
/// a value could overflow the stack of its thread and kill the process. The default is safe for
/// types of up to 1 KiB a level; set a lower limit for a larger recursive type.
///
/// A deeper value fails with [`ErrorKind::Codec`](crate::ErrorKind::Codec) where it is encoded, or
/// where it is decoded if the limit is lower there. The limit applies to arguments, contexts,
/// results, messages, items of queues, and objects of managers.
///
/// It applies to this process and to the processes that it starts from now on, so set it before the
/// first pool. Rust threads have 2 MiB of stack by default. For a much higher limit, give more to
/// the threads that send and receive ([`Builder::stack_size`](std::thread::Builder::stack_size)),
/// and to the workers with `ulimit -s`.
///
/// # Examples
///
/// ```
/// procpool::set_max_depth(1000);
/// assert_eq!(procpool::max_depth(), 1000);
/// ```
pub fn set_max_depth(levels: usize) {
    MAX.store(levels.max(MIN_DEPTH), Ordering::Relaxed);
}

/// Returns how many levels deep a value may be nested to be sent or received; see
/// [`set_max_depth`].
#[inline]
pub fn max_depth() -> usize {
    MAX.load(Ordering::Relaxed)
}

/// The error of a value that is nested too deeply.
pub(super) struct TooDeep;

impl fmt::Display for TooDeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max = max_depth();
        write!(
            f,
            "the value is nested more than {max} levels deep (see `set_max_depth`)"
        )
    }
}
