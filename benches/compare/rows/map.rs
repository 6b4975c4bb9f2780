//! `map` of small items with default settings, against bincode alone doing the same encoding and
//! decoding.

use std::hint::black_box;

use bincode::config::{Config, standard};

use crate::Result;
use crate::plan::Plan;
use crate::report::{Bar, Report, Row, Unit};
use crate::samples::timed;
use crate::work::{pool, tiny};

pub(crate) const NAMES: [&str; 2] = [
    "map: 1M u64, default settings",
    "map: 1M u64, varint bincode",
];

/// Items whose encoding is in the buffer at a time: it stays in the first-level cache.
const CHUNK: usize = 2048;
/// Bytes of the longest encoding of a `u64`, which is bincode's variable-length one.
const LONGEST: usize = 9;

pub(crate) fn run(plan: &Plan, report: &mut Report<'_>) -> Result<()> {
    let count = plan.size(1_000_000, 5000);
    let items: Vec<u64> = (0..count).collect();
    let results: Vec<u64> = items.iter().copied().map(tiny).collect();
    let pool = pool()?;
    let mut map = || {
        let (seconds, mapped) = timed(|| Ok(pool.map(tiny, 0..count)?))?;
        if mapped != results {
            return Err("a wrong result".into());
        }
        Ok(count as f64 / seconds)
    };
    let mut fixed = codec(&items, &results, standard().with_fixed_int_encoding());
    let mut varint = codec(&items, &results, standard());
    let [ours, fixed, varint] = plan.interleave(15, [&mut map, &mut fixed, &mut varint])?;
    let peers = [
        ("bincode alone", &fixed, Bar::RatioAtLeast(0.3)),
        ("bincode alone", &varint, Bar::None),
    ];
    for (name, (who, theirs, bar)) in NAMES.into_iter().zip(peers) {
        let theirs = Some((who, theirs));
        report.row(&Row {
            name,
            unit: Unit::PerSecond,
            ours: &ours,
            theirs,
            bar,
        });
    }
    Ok(())
}

/// Items a second, each as an argument and as a result.
fn codec(arguments: &[u64], results: &[u64], config: impl Config) -> impl FnMut() -> Result<f64> {
    let mut decoded = arguments.to_vec();
    move || {
        let (seconds, ()) = timed(|| {
            one_way(arguments, &mut decoded, config)?;
            one_way(results, &mut decoded, config)
        })?;
        Ok(arguments.len() as f64 / seconds)
    }
}

/// Each value into a reused buffer and back out of it, to memory that is warm. The black boxes
/// stand for the code between: without them the loops become block copies, and bincode is gone.
fn one_way(values: &[u64], decoded: &mut [u64], config: impl Config) -> Result<()> {
    let mut buffer = [0; CHUNK * LONGEST];
    for (values, decoded) in values.chunks(CHUNK).zip(decoded.chunks_mut(CHUNK)) {
        let mut end = 0;
        for value in values {
            let value = black_box(*value);
            end += bincode::serde::encode_into_slice(value, &mut buffer[end..], config)?;
        }
        let mut rest = &black_box(&buffer)[..end];
        for value in decoded {
            let (read, length) = bincode::serde::decode_from_slice(rest, config)?;
            *value = black_box(read);
            rest = &rest[length..];
        }
    }
    Ok(())
}
