//! Messages: a connection and bare pipes that wait in the same way.
//!
//! Both ends are threads of this process: what is compared is what a message costs, and that is the
//! same between processes.

use std::hint::black_box;
use std::thread;
use std::time::Duration;

use procpool::{Receiver, Sender, one_way, pipe};

use crate::Result;
use crate::bare_pipe::BarePipe;
use crate::plan::Plan;
use crate::report::{Bar, Report, Row, Unit};
use crate::samples::{Samples, median_call, timed};

pub(crate) const ROUND_TRIP: [&str; 1] = ["message: 32 bytes there and back"];
pub(crate) const SMALL: [&str; 1] = ["message: 32 bytes one way"];
pub(crate) const LARGE: [&str; 2] = ["message: 1 MiB of bytes", "message: 1 MiB `Vec<u8>`"];

/// 32 bytes.
type Small = [u64; 4];

const MEBIBYTE: usize = 1 << 20;

const ROUNDS: usize = 21;

/// As for the pool's round trip.
const BUDGET: Duration = Duration::from_millis(400);

pub(crate) fn round_trip(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let calls = plan.size(5000, 50);
    let (here, there) = pipe::<Small, Small>()?;
    let (question, answer) = (BarePipe::new()?, BarePipe::new()?);
    let [ours, theirs] = thread::scope(|scope| {
        scope.spawn(move || {
            while let Ok(value) = there.recv() {
                there.send(&value).expect("the other end");
            }
        });
        scope.spawn(|| {
            let mut buffer = [0; 32];
            while buffer[0] != 1 {
                question.read(&mut buffer).expect("the other end");
                answer.write(&buffer).expect("the other end");
            }
        });
        let mut buffer = [0; 32];
        let mut ours = || {
            median_call(calls, BUDGET, || {
                here.send(&[7; 4])?;
                here.recv()?;
                Ok(())
            })
        };
        let mut theirs = || {
            median_call(calls, BUDGET, || {
                question.write(&[7; 32])?;
                answer.read(&mut buffer)
            })
        };
        let samples = plan.interleave(ROUNDS, [&mut ours, &mut theirs]);
        question.write(&[1; 32])?;
        // The other threads end.
        here.close();
        samples
    })?;
    let bar = Bar::RatioAtMost(1.15);
    row(report, ROUND_TRIP[0], Unit::Seconds, [&ours, &theirs], bar);
    Ok(())
}

pub(crate) fn small(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let count = plan.size(20_000, 100);
    let (receiver, sender) = one_way::<Small>()?;
    let bare = BarePipe::new()?;
    let mut ours = || rate(count, || Ok(sender.send(&[7; 4])?), || Ok(receiver.recv()?));
    let mut theirs = || {
        let mut buffer = [0; 32];
        let read = || bare.read(&mut buffer);
        rate(count, || bare.write(&[7; 32]), read)
    };
    let [ours, theirs] = plan.interleave(ROUNDS, [&mut ours, &mut theirs])?;
    let bar = Bar::RatioAtLeast(0.8);
    row(report, SMALL[0], Unit::PerSecond, [&ours, &theirs], bar);
    Ok(())
}

pub(crate) fn large(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let count = plan.size(128, 4);
    let (receiver, sender): (Receiver<Vec<u8>>, Sender<_>) = one_way()?;
    let bare = BarePipe::with_room(MEBIBYTE)?;
    let sent = vec![7; MEBIBYTE];
    let (mut buffer, mut bare_buffer) = (vec![0; MEBIBYTE], vec![0; MEBIBYTE]);
    let bytes = |rate: f64| rate * MEBIBYTE as f64;
    let mut as_bytes = || {
        let read = || Ok(receiver.recv_bytes_into(&mut buffer)?);
        rate(count, || Ok(sender.send_bytes(&sent)?), read).map(bytes)
    };
    let mut as_values = || {
        let read = || Ok(receiver.recv()?);
        rate(count, || Ok(sender.send(&sent)?), read).map(bytes)
    };
    let mut theirs = || {
        let read = || bare.read(&mut bare_buffer);
        rate(count, || bare.write(&sent), read).map(bytes)
    };
    let contenders: [&mut dyn FnMut() -> Result<f64>; 3] =
        [&mut as_bytes, &mut as_values, &mut theirs];
    let [as_bytes, as_values, theirs] = plan.interleave(ROUNDS, contenders)?;
    for (name, ours) in LARGE.into_iter().zip([&as_bytes, &as_values]) {
        let bar = Bar::RatioAtLeast(0.8);
        row(report, name, Unit::BytesPerSecond, [ours, &theirs], bar);
    }
    Ok(())
}

/// Messages a second, from a thread of their own.
fn rate<T>(
    count: usize,
    mut send: impl FnMut() -> Result<()> + Send,
    mut receive: impl FnMut() -> Result<T>,
) -> Result<f64> {
    let (seconds, ()) = timed(|| {
        thread::scope(|scope| {
            scope.spawn(move || (0..count).for_each(|_| send().expect("the other end")));
            (0..count).try_for_each(|_| receive().map(|it| drop(black_box(it))))
        })
    })?;
    Ok(count as f64 / seconds)
}

fn row(report: &mut Report<'_>, name: &str, unit: Unit, [ours, theirs]: [&Samples; 2], bar: Bar) {
    report.row(&Row {
        name,
        unit,
        ours,
        theirs: Some(("bare pipe", theirs)),
        bar,
    });
}
