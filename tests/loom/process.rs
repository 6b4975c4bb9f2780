//! Stands for what the worker's replies name of `src/process`.

pub(crate) mod task_error {
    use serde::Serialize;

    #[derive(Debug, Clone, Serialize)]
    pub(crate) struct TaskError;

    impl TaskError {
        pub(crate) fn truncated(self) -> Self {
            self
        }
    }
}

pub(crate) mod start {
    pub(crate) struct ExitRecord;

    impl ExitRecord {
        pub(crate) const WAKEUP: u8 = 0;
        pub(crate) const READY: u8 = 1;
    }
}
