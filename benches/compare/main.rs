//! Ours, the peers and the bare limit side by side in one run: one line a row with medians,
//! quartiles, ratio and bar.
//!
//! ```text
//! cargo bench --bench compare                     # everything, a few minutes
//! cargo bench --bench compare -- 'round trip'     # rows whose name contains this
//! cargo bench --bench compare -- --smoke          # tiny sizes, never judges
//! ```
//! Contenders take turns (A B C, A B C, …), so that drift and other load fall on all of them. A row
//! prints the medians with their quartiles in brackets, then the ratio of the medians with the
//! quartiles of the per-round ratios. As with Criterion, a run without cargo's `--bench`
//! (`cargo test --benches`) is a smoke run.

mod bare;
mod bare_pipe;
mod bare_ring;
mod child;
mod heap;
mod machine;
mod plan;
mod report;
mod rows;
mod samples;
mod work;

use std::error::Error;
use std::process::ExitCode;

use plan::Plan;
use report::Report;

/// What every measurement returns: peers, system calls and ours fail in different types.
type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// One measurement that prints the named rows.
type Section = (
    &'static [&'static str],
    fn(&Plan, &mut Report) -> Result<()>,
);

const SECTIONS: &[Section] = &[
    (&rows::start::COLD, rows::start::cold),
    (&rows::start::TOUCHED, rows::start::touched),
    (&rows::start::WARM, rows::start::warm),
    (&rows::process::FORKED, rows::process::forked),
    (&rows::process::TOUCHED, rows::process::touched),
    (&rows::process::EXECUTED, rows::process::executed),
    (&rows::messages::ROUND_TRIP, rows::messages::round_trip),
    (&rows::messages::SMALL, rows::messages::small),
    (&rows::messages::LARGE, rows::messages::large),
    (&rows::round_trip::IDLE, rows::round_trip::idle),
    (&rows::round_trip::BUSY, rows::round_trip::busy),
    (&rows::neighbours::NONE, rows::neighbours::none),
    (&rows::neighbours::ONE, rows::neighbours::one),
    (&rows::neighbours::TWO, rows::neighbours::two),
    (&rows::neighbours::FOUR, rows::neighbours::four),
    (&rows::submit::NAMES, rows::submit::run),
    (&rows::map::NAMES, rows::map::run),
    (&rows::cpu::SHORT, rows::cpu::short),
    (&rows::cpu::LONG, rows::cpu::long),
    (&rows::uneven::NAMES, rows::uneven::run),
    (&rows::echo::PLAIN, rows::echo::plain),
    (&rows::echo::BYTES, rows::echo::bytes),
    (&rows::outstanding::NAMES, rows::outstanding::run),
    (&rows::idle::NAMES, rows::idle::run),
    (&rows::killed::NAMES, rows::killed::run),
    (&rows::killed::SENTINEL, rows::killed::sentinel),
    (&rows::supervision::REPLACED, rows::supervision::replaced),
    (&rows::supervision::TIMED_OUT, rows::supervision::timed_out),
    (&rows::supervision::CHUNKED, rows::supervision::chunked),
    (&rows::supervision::JOINED, rows::supervision::joined),
    (&rows::supervision::ORPHANED, rows::supervision::orphaned),
    (&rows::sync::NAMES, rows::sync::run),
    (&rows::sync::EVENT, rows::sync::event),
    (&rows::queue::NAMES, rows::queue::run),
    (&rows::manager::GET, rows::manager::get),
    (&rows::manager::SET, rows::manager::set),
    (&rows::manager::CLIENTS, rows::manager::clients),
];

fn main() -> ExitCode {
    child::run_if_asked();
    procspawn::init();
    let plan = Plan::from_arguments(std::env::args().skip(1));
    if plan.list {
        return ExitCode::SUCCESS;
    }
    let mut report = Report::new(&plan);
    let mut failed = 0;
    for (names, run) in SECTIONS {
        if !names.iter().any(|name| plan.wants(name)) {
            continue;
        }
        if let Err(error) = run(&plan, &mut report) {
            println!("{}: FAILED: {error}", names[0]);
            failed += 1;
        }
    }
    report.finish();
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
