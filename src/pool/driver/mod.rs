//! Which thread pumps the pool's events: a caller that waits, or the background thread.

pub(crate) mod background;
pub(crate) mod callbacks;
pub(crate) mod leader;
pub(crate) mod takeover;
