//! Properties that hold for all values and all orders of calls, checked on random ones.
//!
//! The cases are the same in each run. `PROPTEST_CASES` sets how many there are of each property,
//! and adds new ones after those of a smaller number: `PROPTEST_CASES=100000 cargo test --release
//! -p procpool-tests-properties`.

mod codec;
mod queue;

use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Runs cases that are the same each time, `cases` of them by default.
fn runner(cases: u32) -> TestRunner {
    let mut config = Config::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    config.failure_persistence = None;
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}
