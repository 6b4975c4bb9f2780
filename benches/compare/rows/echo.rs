//! A large payload there and back, against plain copies of it and against procspawn.

use std::hint::black_box;
use std::mem;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::plan::Plan;
use crate::report::{Bar, Report, Row, Unit};
use crate::samples::timed;
use crate::work::{pool, procspawn_pool};

pub(crate) const PLAIN: [&str; 2] = [
    "echo: 64 MiB Vec<u8>, memcpy",
    "echo: 64 MiB Vec<u8>, procspawn",
];
pub(crate) const BYTES: [&str; 2] = [
    "echo: 64 MiB serde_bytes, memcpy",
    "echo: 64 MiB serde_bytes, procspawn",
];

/// How a user with knowledge of serde sends bytes.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Blob {
    #[serde(with = "serde_bytes")]
    bytes: Vec<u8>,
}

pub(crate) fn plain(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    compare(plan, report, PLAIN, |bytes| bytes)
}

pub(crate) fn bytes(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    compare(plan, report, BYTES, |bytes| Blob { bytes })
}

/// Rates are those of the payload: it counts once, although it travels twice.
fn compare<T>(
    plan: &Plan,
    report: &mut Report<'_>,
    names: [&str; 2],
    wrap: fn(Vec<u8>) -> T,
) -> Result<()>
where
    T: Serialize + DeserializeOwned + Default + PartialEq + Send + 'static,
{
    let size = plan.size(64 << 20, 1 << 20);
    let (pool, procspawn) = (pool()?, procspawn_pool()?);
    let mut ours = echo(size, wrap, |value| Ok(pool.apply(same::<T>, value)?));
    let mut memcpy = copies(size);
    let mut theirs = echo(size, wrap, |value| {
        Ok(procspawn.spawn(value, same::<T>).join()?)
    });
    let [ours, memcpy, theirs] = plan.interleave(9, [&mut ours, &mut memcpy, &mut theirs])?;
    let peers = [
        ("2 memcpys each way", &memcpy, 0.25),
        ("procspawn", &theirs, 5.0),
    ];
    for (name, (who, theirs, least)) in names.into_iter().zip(peers) {
        let (theirs, bar) = (Some((who, theirs)), Bar::RatioAtLeast(least));
        report.row(&Row {
            name,
            unit: Unit::BytesPerSecond,
            ours: &ours,
            theirs,
            bar,
        });
    }
    Ok(())
}

fn same<T>(value: T) -> T {
    value
}

/// Sends what came back last time: no copy is made for the next round.
fn echo<T: Default + PartialEq>(
    size: usize,
    wrap: fn(Vec<u8>) -> T,
    mut send: impl FnMut(T) -> Result<T>,
) -> impl FnMut() -> Result<f64> {
    let mut value = wrap(vec![7; size]);
    move || {
        let sent = mem::take(&mut value);
        let (seconds, back) = timed(|| send(sent))?;
        if back != wrap(vec![7; size]) {
            return Err("something else came back".into());
        }
        value = back;
        Ok(size as f64 / seconds)
    }
}

/// Two copies each way between warm buffers: into shared memory and out of it, there and back.
fn copies(size: usize) -> impl FnMut() -> Result<f64> {
    let (mut here, mut there) = (vec![7_u8; size], vec![8_u8; size]);
    move || {
        let (seconds, ()) = timed(|| {
            for _ in 0..2 {
                there.copy_from_slice(black_box(&here));
                here.copy_from_slice(black_box(&there));
            }
            Ok(())
        })?;
        Ok(size as f64 / seconds)
    }
}
