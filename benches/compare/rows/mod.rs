//! The rows of the table, one file a subject. Each measures its contenders in turns and reports one
//! or more rows.

pub(crate) mod cpu;
pub(crate) mod echo;
pub(crate) mod idle;
pub(crate) mod killed;
pub(crate) mod manager;
pub(crate) mod map;
pub(crate) mod messages;
pub(crate) mod neighbours;
pub(crate) mod outstanding;
pub(crate) mod process;
pub(crate) mod queue;
pub(crate) mod round_trip;
pub(crate) mod start;
pub(crate) mod submit;
pub(crate) mod supervision;
pub(crate) mod sync;
pub(crate) mod uneven;
