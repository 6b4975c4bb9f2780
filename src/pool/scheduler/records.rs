//! The records of one drained ring, split one by one.

use crate::pool::{
    protocol::region::{ReplyHeader, ReplyKind},
    worker_handle::checked_region::ProtocolViolation,
};

/// Iterates over the records of a ring. Yields an error, forever, at bytes that are not a record.
pub(crate) struct Records<'a>(pub(crate) &'a [u8]);

/// One record of a worker.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(crate) header: ReplyHeader,
    /// The bytes after the header.
    pub(crate) value: &'a [u8],
    /// This record, and all records after it.
    from: &'a [u8],
}

impl<'a> Records<'a> {
    /// Takes the values of the items after `first`, which is a value, up to `max` items with
    /// `first`. Returns the number of items with `first`, and the bytes of their records.
    pub(crate) fn take_run(&mut self, first: Record<'a>, max: u32) -> (u32, &'a [u8]) {
        let mut count = 1;
        while count < max {
            let item = first.header.item.wrapping_add(count);
            match split_first(self.0) {
                Some((next, rest)) if next.is_value_of(item) => self.0 = rest,
                _ => break,
            }
            count += 1;
        }
        (count, &first.from[..first.from.len() - self.0.len()])
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, ProtocolViolation>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some((record, rest)) = split_first(self.0) else {
            return Some(Err(ProtocolViolation));
        };
        self.0 = rest;
        Some(Ok(record))
    }
}

impl Record<'_> {
    /// Returns the value if it has exactly `N` bytes.
    pub(crate) fn fixed_value<const N: usize>(&self) -> Result<[u8; N], ProtocolViolation> {
        self.value.try_into().map_err(|_| ProtocolViolation)
    }

    fn is_value_of(&self, item: u32) -> bool {
        self.header.kind == ReplyKind::Value && self.header.item == item
    }
}

/// Splits the first record off. Returns `None` if it is invalid or incomplete.
#[inline]
fn split_first(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let header = ReplyHeader::parse(bytes)?;
    let (value, rest) = bytes
        .get(ReplyHeader::SIZE..)?
        .split_at_checked(header.len)?;
    let record = Record {
        header,
        value,
        from: bytes,
    };
    Some((record, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appends a record of one byte.
    fn append(bytes: &mut Vec<u8>, item: u32, kind: ReplyKind) {
        let second = (kind as u64) << 28 | 1;
        bytes.extend((u64::from(item) | second << 32).to_le_bytes());
        bytes.push(item as u8);
    }

    #[test]
    fn a_run_ends_before_another_kind_or_item() {
        let mut bytes = Vec::new();
        for (item, kind) in [
            (u32::MAX, ReplyKind::Value),
            (0, ReplyKind::Value),
            (1, ReplyKind::Fault),
            (2, ReplyKind::Value),
            (4, ReplyKind::Value),
        ] {
            append(&mut bytes, item, kind);
        }
        let mut records = Records(&bytes);
        let mut runs = Vec::new();
        while let Some(Ok(first)) = records.next() {
            if first.header.kind == ReplyKind::Value {
                let (count, run) = records.take_run(first, 9);
                runs.push((first.header.item, count, run.len()));
            }
        }
        assert_eq!(runs, [(u32::MAX, 2, 18), (2, 1, 9), (4, 1, 9)]);
    }

    #[test]
    fn a_run_has_at_most_the_asked_items() {
        let mut bytes = Vec::new();
        (0..5).for_each(|item| append(&mut bytes, item, ReplyKind::Value));
        let mut records = Records(&bytes);
        let first = records.next().expect("a record").expect("a valid record");
        assert_eq!(records.take_run(first, 3), (3, &bytes[..27]));
        assert_eq!(records.count(), 2);
    }

    #[test]
    fn an_incomplete_record_is_a_violation() {
        let mut bytes = Vec::new();
        append(&mut bytes, 0, ReplyKind::Value);
        for end in 1..bytes.len() {
            assert!(
                matches!(Records(&bytes[..end]).next(), Some(Err(_))),
                "{end}"
            );
        }
        assert!(Records(&[]).next().is_none());
    }
}
