//! Queues between processes.

mod queue;
