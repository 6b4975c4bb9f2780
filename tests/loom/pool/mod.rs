//! What worker and pool do with the page that they share.

#[path = "../../../src/pool/histogram.rs"]
mod histogram;
#[path = "../../../src/pool/page.rs"]
mod page;
#[path = "../../../src/pool/stopwatch.rs"]
mod stopwatch;
mod worker;
#[path = "../../../src/pool/worker_page.rs"]
mod worker_page;
