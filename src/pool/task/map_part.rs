//! The outcome of consecutive items of a map.

use crate::error::{Error, ErrorKind, Result};
use crate::pool::{protocol::region::ReplyHeader, task::encoded::Encoded};
use crate::shm::Cursor;
use crate::wire::{Wire, codec};

/// The outcome of consecutive items.
#[derive(Debug)]
pub(crate) struct MapPart {
    pub(crate) index: u64,
    pub(crate) count: u32,
    pub(crate) outcome: Result<EncodedResults>,
}

/// The encoded results of consecutive items.
#[derive(Debug)]
pub(crate) enum EncodedResults {
    /// A single result.
    One(Encoded),
    /// Several results, as records in the format that the worker wrote.
    Records(Box<[u8]>),
}

impl MapPart {
    pub(crate) fn has_handles(&self) -> bool {
        matches!(&self.outcome, Ok(EncodedResults::One(value)) if value.has_fds())
    }

    /// Decodes the results one after the other and passes each to `take`, or an error in its place.
    pub(crate) fn decode<R: Wire + 'static>(&self, mut take: impl FnMut(Result<R>)) {
        match &self.outcome {
            Err(error) => (0..self.count).for_each(|_| take(Err(error.clone()))),
            Ok(EncodedResults::One(value)) => take(value.decode().map_err(decode_error)),
            Ok(EncodedResults::Records(bytes)) => {
                let mut rest = &bytes[..];
                while let Some(value) = next_record(&mut rest) {
                    take(codec::decode(&mut Cursor::new(value)).map_err(decode_error));
                }
            }
        }
    }
}

/// Splits off the first record and returns its bytes.
#[inline]
pub(crate) fn next_record<'a>(records: &mut &'a [u8]) -> Option<&'a [u8]> {
    let head = ReplyHeader::parse(records)?;
    let (value, rest) = records[ReplyHeader::SIZE..].split_at_checked(head.len)?;
    *records = rest;
    Some(value)
}

/// Returns the error for a result that cannot be decoded.
pub(crate) fn decode_error(reason: codec::CodecErrorText) -> Error {
    let message = format!("failed to decode the task's result: {reason}");
    Error::new(ErrorKind::Codec, message)
}
