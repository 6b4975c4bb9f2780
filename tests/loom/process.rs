//! Stands for what the pool's replies name of `src/process`.

pub(crate) mod fault {
    use serde::Serialize;

    #[derive(Debug, Clone, Serialize)]
    pub(crate) struct Fault;

    impl Fault {
        pub(crate) fn shortened(self) -> Self {
            self
        }
    }
}

pub(crate) mod start {
    pub(crate) struct ExitRecord;

    impl ExitRecord {
        pub(crate) const BELL: u8 = 0;
        pub(crate) const READY: u8 = 1;
    }
}
