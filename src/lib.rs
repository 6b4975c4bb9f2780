//! draft
#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("procpool runs on 64-bit Linux only: its workers stand on pidfd, memfd and futex");

mod error;
mod pool;
mod process;
mod shm;
mod sys;
mod wire;

pub use error::{Error, ErrorKind, RemotePanic, Result, WorkerExit};
pub use pool::{
    AsCompleted, Imap, ImapStream, ImapUnordered, ProcessPoolBuilder, ProcessPoolExecutor,
    ReturnWhen, TaskFuture, TaskOptions, Waited, Worker, as_completed, current_worker, wait,
};
pub use process::{cpu_count, init};
pub use wire::Wire;
