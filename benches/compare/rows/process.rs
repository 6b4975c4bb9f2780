//! A process: from its start to the first byte that it sends, against the same by the bare system
//! calls.
//!
//! The fork server is warm, as it is for every process of a program but the first. The bare zygote
//! is a helper with one thread that forks when it is asked through a pipe; the child writes one
//! byte to another.

use std::hint::black_box;

use procpool::{Process, Sender, StartMethod, one_way, wait_ready};

use crate::Result;
use crate::child::{Helper, ZYGOTE};
use crate::plan::Plan;
use crate::report::{Bar, Report, Row, Unit};
use crate::rows::start::first_byte;
use crate::samples::timed;

pub(crate) const FORKED: [&str; 1] = ["process: fork server, to first byte"];
pub(crate) const TOUCHED: [&str; 1] = ["process: the same, 1 GiB touched"];
pub(crate) const EXECUTED: [&str; 1] = ["process: spawn, to first byte"];

/// Of what the bare system calls take.
const BAR: Bar = Bar::RatioAtMost(1.3);

const ROUNDS: usize = 200;

pub(crate) fn forked(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    against_zygote(plan, report, FORKED[0])
}

pub(crate) fn touched(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let touched = vec![1_u8; plan.size(1024, 16) << 20];
    let outcome = against_zygote(plan, report, TOUCHED[0]);
    black_box(&touched);
    outcome
}

fn against_zygote(plan: &Plan, report: &mut Report<'_>, name: &str) -> Result<()> {
    let mut zygote = Helper::start(ZYGOTE, 0)?;
    let mut ours = || start(StartMethod::ForkServer);
    let mut theirs = || Ok(timed(|| zygote.ping())?.0);
    let [ours, theirs] = plan.interleave(ROUNDS, [&mut ours, &mut theirs])?;
    report.row(&Row {
        name,
        unit: Unit::Seconds,
        ours: &ours,
        theirs: Some(("bare zygote", &theirs)),
        bar: BAR,
    });
    Ok(())
}

pub(crate) fn executed(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let mut ours = || start(StartMethod::Spawn);
    let [ours, theirs] = plan.interleave(ROUNDS, [&mut ours, &mut first_byte])?;
    report.row(&Row {
        name: EXECUTED[0],
        unit: Unit::Seconds,
        ours: &ours,
        theirs: Some(("re-execution", &theirs)),
        bar: BAR,
    });
    Ok(())
}

/// Seconds; the pipe is there before, as the others' are, and the end is not timed, but waited for.
fn start(method: StartMethod) -> Result<f64> {
    let (receiver, sender) = one_way()?;
    let (seconds, process) = timed(|| {
        let builder = Process::builder(send_byte, sender);
        let process = builder.start_method(method).start()?;
        // Waits like the reader of a bare pipe.
        wait_ready(&[&receiver], None)?;
        Ok(process)
    })?;
    receiver.recv()?;
    process.join()?;
    Ok(seconds)
}

fn send_byte(sender: Sender<u8>) {
    sender.send(&1).expect("its parent waits for it");
}
