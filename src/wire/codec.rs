//! The encoding of a value: bincode, behind two small traits, here and nowhere else.
//!
//! Integers have a fixed size, which is faster to write and to read than it costs to move. A `Vec<u8>` is one copy, not an
//! element at a time: bincode's serde front end cannot tell it from any other sequence, so its type is asked for.

use super::Wire;
use crate::sys::bytes::{as_bytes, from_bytes, is_bytes};
use bincode::{
    config::{Config, Configuration, Fixint, LittleEndian},
    de::read::Reader,
    enc::write::Writer,
    error::{DecodeError, EncodeError},
};

const CONFIG: Configuration<LittleEndian, Fixint> =
    bincode::config::standard().with_fixed_int_encoding();

/// Bytes; what most values are smaller than.
const SMALL: usize = 64 << 10;
/// Bytes; what nearly all values are smaller than.
const MIDDLE: usize = 16 << 20;

/// Where encoded bytes go.
pub(crate) trait Output {
    /// Appends `bytes`; false when there is no memory for them.
    fn put(&mut self, bytes: &[u8]) -> bool;
}

/// Where encoded bytes come from.
pub(crate) trait Input {
    /// Copies the next `into.len()` bytes out; false, and nothing taken, when fewer are left.
    fn take(&mut self, into: &mut [u8]) -> bool;

    /// Takes all that is left; none when there is no memory for it.
    fn take_all(&mut self) -> Option<Vec<u8>>;

    /// Bytes that are left.
    fn left(&self) -> usize;
}

impl Output for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> bool {
        self.extend_from_slice(bytes);
        true
    }
}

/// From the front; for small ones.
#[cfg(test)]
impl Input for Vec<u8> {
    fn take(&mut self, into: &mut [u8]) -> bool {
        let is_there = into.len() <= self.len();
        if is_there {
            into.copy_from_slice(&self[..into.len()]);
            self.drain(..into.len());
        }
        is_there
    }

    fn take_all(&mut self) -> Option<Vec<u8>> {
        Some(std::mem::take(self))
    }

    fn left(&self) -> usize {
        self.len()
    }
}

/// Why a value could not be encoded or decoded, in the words of its serde implementation or bincode's.
pub(crate) type Reason = String;

/// Appends the encoded value. What was appended when it fails is of no use.
#[inline]
pub(crate) fn encode<T: Wire>(value: &T, output: &mut impl Output) -> Result<(), Reason> {
    if let Some(bytes) = as_bytes(value) {
        return output.put(bytes).then_some(()).ok_or_else(out_of_memory);
    }
    bincode::serde::encode_into_writer(value, OutputWriter(output), CONFIG)
        .map_err(|error| plain(error.to_string()))
}

/// Decodes a value that takes up all of `input`.
#[inline]
pub(crate) fn decode<T: Wire>(input: &mut impl Input) -> Result<T, Reason> {
    if is_bytes::<T>() {
        return input.take_all().map(from_bytes).ok_or_else(out_of_memory);
    }
    // A length that is a lie must be an error before memory is taken for it: bincode checks against a limit that is part
    // of its type, so there are three, each far above what an honest value of that size claims.
    let value = match input.left() {
        left if left <= SMALL => decode_by(CONFIG.with_limit::<{ 16 * SMALL }>(), input),
        left if left <= MIDDLE => decode_by(CONFIG.with_limit::<{ 16 * MIDDLE }>(), input),
        _ => decode_by(CONFIG.with_limit::<{ 1 << 40 }>(), input),
    }?;
    match input.left() {
        0 => Ok(value),
        left => Err(format!(
            "{left} bytes are left over: serde reads less than it wrote"
        )),
    }
}

fn decode_by<T: Wire, C: Config>(config: C, input: &mut impl Input) -> Result<T, Reason> {
    bincode::serde::decode_from_reader(InputReader(input), config)
        .map_err(|it| plain(it.to_string()))
}

fn out_of_memory() -> Reason {
    "out of memory".to_owned()
}

/// bincode wraps a serde implementation's own message in `OtherString("…")`.
fn plain(message: String) -> Reason {
    let inner = message
        .strip_prefix("OtherString(\"")
        .and_then(|it| it.strip_suffix("\")"));
    inner.map(str::to_owned).unwrap_or(message)
}

struct OutputWriter<'a, O>(&'a mut O);

impl<O: Output> Writer for OutputWriter<'_, O> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        if self.0.put(bytes) {
            Ok(())
        } else {
            Err(EncodeError::Other("out of memory"))
        }
    }
}

struct InputReader<'a, I>(&'a mut I);

impl<I: Input> Reader for InputReader<'_, I> {
    #[inline]
    fn read(&mut self, bytes: &mut [u8]) -> Result<(), DecodeError> {
        if self.0.take(bytes) {
            return Ok(());
        }
        Err(DecodeError::UnexpectedEnd {
            additional: bytes.len() - self.0.left(),
        })
    }
}
