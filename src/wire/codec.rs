//! The encoding of values: bincode's, through two small traits. Only this file and
//! [`decoder`](super::decoder) know it.
//!
//! Integers have a fixed size: encoding and decoding that is faster, and saves more time than the
//! larger size costs. A `Vec<u8>` is copied at once and not element by element. bincode's serde
//! front end cannot distinguish it from any other sequence, so the type is checked here.

use super::Wire;
use super::attribute;
use super::decoder::Decoder;
use super::encoder::DepthLimited;
use crate::sys::bytes::{as_bytes, from_bytes, is_bytes, slice_as_bytes};
use bincode::{
    config::{Configuration, Fixint, LittleEndian},
    enc::write::Writer,
    error::EncodeError,
};
use serde::Serialize;
use std::any::type_name;

const CONFIG: Configuration<LittleEndian, Fixint> =
    bincode::config::standard().with_fixed_int_encoding();

/// A destination of encoded bytes.
pub(crate) trait ByteSink {
    /// Appends `bytes`. Returns false if memory is exhausted.
    fn put(&mut self, bytes: &[u8]) -> bool;
}

/// A source of encoded bytes.
pub(crate) trait ByteSource {
    /// Copies the next `into.len()` bytes. Returns false and takes nothing if fewer are left.
    fn take(&mut self, into: &mut [u8]) -> bool;

    /// Takes all remaining bytes. Returns `None` if memory is exhausted.
    fn take_all(&mut self) -> Option<Vec<u8>>;

    /// Returns the number of remaining bytes.
    fn remaining(&self) -> usize;
}

impl ByteSink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) -> bool {
        self.extend_from_slice(bytes);
        true
    }
}

/// Takes from the front, which is slow for large vectors.
#[cfg(any(test, fuzzing))]
impl ByteSource for Vec<u8> {
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

    fn remaining(&self) -> usize {
        self.len()
    }
}

/// The reason why a value could not be encoded or decoded: the message of its serde implementation
/// or of bincode.
pub(crate) type CodecErrorText = String;

/// Appends the encoded value. If it fails, the bytes it has appended are unusable.
#[inline]
pub(crate) fn encode<T: Serialize>(
    value: &T,
    output: &mut impl ByteSink,
) -> Result<(), CodecErrorText> {
    if let Some(bytes) = as_bytes(value) {
        return output.put(bytes).then_some(()).ok_or_else(out_of_memory);
    }
    let limited = DepthLimited { value, depth: 0 };
    bincode::serde::encode_into_writer(limited, SinkWriter(output), CONFIG)
        .map_err(|error| with_type_name::<T>(unwrap_message(error.to_string())))
}

/// Appends items so that they can be decoded as a `Vec<T>`. For a slice, [`encode_slice`] is
/// faster.
pub(crate) fn encode_items<'a, T: Serialize + 'a>(
    items: impl IntoIterator<Item = &'a T>,
    output: &mut impl ByteSink,
) -> Result<(), CodecErrorText> {
    let mut items = items.into_iter();
    if is_bytes::<Vec<T>>() {
        // Each is one byte, and there is nothing else in the vector's encoding.
        return items.try_for_each(|item| encode(item, output));
    }
    encode(&items.collect::<Vec<&T>>(), output)
}

/// Like [`encode_items`], but bytes are copied at once.
pub(crate) fn encode_slice<T: Serialize>(
    items: &[T],
    output: &mut impl ByteSink,
) -> Result<(), CodecErrorText> {
    if let Some(bytes) = slice_as_bytes(items) {
        return output.put(bytes).then_some(()).ok_or_else(out_of_memory);
    }
    encode(&items, output)
}

/// Decodes a value. Fails unless it uses all bytes of `input`.
#[inline]
pub(crate) fn decode<T: Wire>(input: &mut impl ByteSource) -> Result<T, CodecErrorText> {
    if is_bytes::<T>() {
        return input.take_all().map(from_bytes).ok_or_else(out_of_memory);
    }
    let value = T::deserialize(&mut Decoder::new(input, type_name::<T>()))
        .map_err(|error| error.to_string())?;
    match input.remaining() {
        0 => Ok(value),
        unused => Err(attribute::left_over(unused, type_name::<T>())),
    }
}

/// Adds the type of the whole value to an error of the encoder, which does not know it.
fn with_type_name<T>(reason: CodecErrorText) -> CodecErrorText {
    if reason == attribute::UNKNOWN_LENGTH {
        attribute::flattened(type_name::<T>())
    } else {
        reason
    }
}

fn out_of_memory() -> CodecErrorText {
    "out of memory".to_owned()
}

/// Extracts the message of a serde implementation, which bincode wraps in `OtherString("…")`.
fn unwrap_message(message: String) -> String {
    let inner = message
        .strip_prefix("OtherString(\"")
        .and_then(|text| text.strip_suffix("\")"));
    inner.map(str::to_owned).unwrap_or(message)
}

struct SinkWriter<'a, O>(&'a mut O);

impl<O: ByteSink> Writer for SinkWriter<'_, O> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        if self.0.put(bytes) {
            Ok(())
        } else {
            Err(EncodeError::Other("out of memory"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};
    use std::{
        collections::{BTreeMap, BTreeSet},
        fmt::Debug,
    };

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Unit,
        New(Option<Box<Shape>>),
        Tuple(i8, u128),
        Struct { text: String, bits: [bool; 3] },
    }

    fn comes_back<T: Wire + Debug + PartialEq>(value: T) {
        let mut bytes = Vec::new();
        encode(&value, &mut bytes).expect("a value that can be encoded");
        for length in 0..bytes.len() {
            let part = &bytes[..length];
            assert!(decode::<T>(&mut part.to_vec()).is_err(), "{value:?}");
        }
        assert_eq!(decode(&mut bytes), Ok(value));
    }

    #[test]
    fn values_of_every_kind_come_back() {
        comes_back((i8::MIN, i16::MIN, i32::MIN, i64::MIN, i128::MIN, isize::MIN));
        comes_back((u8::MAX, u16::MAX, u32::MAX, u64::MAX, u128::MAX, usize::MAX));
        comes_back((1.5_f32, -0.1_f64, true, ['a', 'ß', '€', '🦀'], ((), 'z')));
        comes_back(BTreeMap::from([(1, Some("one".to_owned())), (2, None)]));
        comes_back((BTreeSet::from([3, 1, 2]), vec![vec![1_u16; 3]; 2]));
        let new = Shape::New(Some(Box::new(Shape::Tuple(-1, 1))));
        let (text, bits) = ("text".to_owned(), [true, false, true]);
        comes_back(vec![
            Shape::Unit,
            new,
            Shape::New(None),
            Shape::Struct { text, bits },
        ]);
        comes_back(serde_bytes::ByteBuf::from(vec![7; 9]));
        assert_eq!(
            decode(&mut [5, 0, 0, 0, 0, 0, 0, 0].to_vec()),
            Ok(vec![(); 5])
        );
    }

    #[test]
    fn items_come_back_as_a_vector() {
        let mut bytes = [Vec::new(), Vec::new()];
        encode_items(&[7_u8, 8, 9], &mut bytes[0]).expect("bytes");
        encode_slice(&[7_u8, 8, 9], &mut bytes[1]).expect("bytes");
        assert_eq!(
            bytes.map(|mut encoded| decode(&mut encoded)),
            [(); 2].map(|()| Ok(vec![7_u8, 8, 9]))
        );
        let mut bytes = [Vec::new(), Vec::new()];
        encode_items(&["a", "b"], &mut bytes[0]).expect("text");
        encode_slice(&["a", "b"], &mut bytes[1]).expect("text");
        let text = ["a", "b"].map(str::to_owned).to_vec();
        assert_eq!(
            bytes.map(|mut encoded| decode(&mut encoded)),
            [Ok(text.clone()), Ok(text)]
        );
    }

    #[test]
    fn what_was_never_written_is_refused() {
        assert!(decode::<bool>(&mut vec![2]).is_err());
        assert!(decode::<Option<u8>>(&mut vec![2, 0]).is_err());
        assert!(decode::<Shape>(&mut vec![9, 0, 0, 0]).is_err());
        for char in [&[0x80][..], &[0xC3, 0x28], &[0xFF], &[0xED, 0xA0, 0x80]] {
            assert!(decode::<char>(&mut char.to_vec()).is_err());
        }
        assert!(decode::<String>(&mut vec![1, 0, 0, 0, 0, 0, 0, 0, 0xFF]).is_err());
    }
}
