//! Decodes values from the bytes that bincode has written.
//!
//! bincode's own decoder allocates as many bytes as a length claims, up to a limit that is part of
//! its type. It has no limit for items without bytes. This decoder is limited by the bytes that
//! exist, so a false length costs nothing.

use super::attribute::{self, ContentProbe};
use super::codec::ByteSource;
use super::depth::{TooDeep, max_depth};
use serde::{
    Deserializer,
    de::{
        DeserializeSeed, EnumAccess, Error as _, Expected, IntoDeserializer, MapAccess, SeqAccess,
        VariantAccess, Visitor,
    },
};
use std::{fmt, str};

/// The number of items without bytes that the collections of one value may have; decoding them
/// takes some milliseconds.
const MAX_EMPTY_ITEMS: usize = 1 << 22;

/// Decodes a value from a source. Integers have a fixed size and are little-endian; lengths have 64
/// bits.
pub(super) struct Decoder<'a, I> {
    input: &'a mut I,
    /// The number of items that collections may still have: one for each byte, and
    /// [`MAX_EMPTY_ITEMS`].
    items: usize,
    /// The number of levels that were entered and not left.
    depth: usize,
    /// The name of the type of the whole value.
    type_name: &'static str,
}

/// The reason why a value cannot be decoded.
#[derive(Debug)]
pub(super) struct DecodeError(Box<str>);

type Result<T> = std::result::Result<T, DecodeError>;

impl<'a, I: ByteSource> Decoder<'a, I> {
    #[inline]
    pub(super) fn new(input: &'a mut I, type_name: &'static str) -> Self {
        Self {
            items: input.remaining().saturating_add(MAX_EMPTY_ITEMS),
            depth: 0,
            type_name,
            input,
        }
    }

    /// Enters one more level; [`leave`](Self::leave) ends it.
    #[inline]
    fn enter(&mut self) -> Result<()> {
        if self.depth >= max_depth() {
            return Err(too_deep());
        }
        self.depth += 1;
        Ok(())
    }

    #[inline]
    fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Enters a level of `count` items or fields.
    #[inline]
    fn enter_items(&mut self, count: usize) -> Result<SeqItems<'_, 'a, I>> {
        self.enter()?;
        Ok(SeqItems {
            remaining: count,
            decoder: self,
        })
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        if self.input.take(&mut bytes) {
            Ok(bytes)
        } else {
            Err(too_short())
        }
    }

    #[inline]
    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    #[inline]
    fn length(&mut self) -> Result<usize> {
        let length = u64::from_le_bytes(self.array()?);
        usize::try_from(length).map_err(|_| too_short())
    }

    /// Reads the length of a collection.
    #[inline]
    fn items(&mut self) -> Result<usize> {
        let length = self.length()?;
        self.items = self.items.checked_sub(length).ok_or_else(too_short)?;
        Ok(length)
    }

    fn bytes(&mut self) -> Result<Vec<u8>> {
        let length = self.length()?;
        if length > self.input.remaining() {
            return Err(too_short());
        }
        let mut bytes = vec![0; length];
        if self.input.take(&mut bytes) {
            Ok(bytes)
        } else {
            Err(too_short())
        }
    }

    fn string(&mut self) -> Result<String> {
        String::from_utf8(self.bytes()?).map_err(DecodeError::custom)
    }

    fn char(&mut self) -> Result<char> {
        let mut bytes = [self.byte()?, 0, 0, 0];
        let length = match bytes[0].leading_ones() {
            0 => 1,
            ones @ 2..=4 => ones as usize,
            _ => return Err(DecodeError::custom("a character is not valid UTF-8")),
        };
        if !self.input.take(&mut bytes[1..length]) {
            return Err(too_short());
        }
        let text = str::from_utf8(&bytes[..length]).map_err(DecodeError::custom)?;
        let first = text.chars().next();
        first.ok_or_else(|| DecodeError::custom("a character is not valid UTF-8"))
    }

    #[inline]
    fn bool(&mut self) -> Result<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError::custom(format_args!(
                "{other} is neither 0 nor 1"
            ))),
        }
    }
}

#[cold]
fn too_short() -> DecodeError {
    DecodeError::custom(
        "there are fewer bytes than the value claims: does serde read a field that it does not \
         write (`skip_serializing`)?",
    )
}

#[cold]
fn too_deep() -> DecodeError {
    DecodeError::custom(TooDeep)
}

#[cold]
fn not_self_describing<T>(
    probe: &ContentProbe,
    expected: &dyn Expected,
    type_name: &str,
) -> Result<T> {
    Err(DecodeError::custom(attribute::not_self_describing(
        probe, expected, type_name,
    )))
}

macro_rules! numbers {
    ($($deserialize:ident $visit:ident $type:ty;)*) => {$(
        #[inline]
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            visitor.$visit(<$type>::from_le_bytes(self.array()?))
        }
    )*};
}

impl<'de, I: ByteSource> Deserializer<'de> for &mut Decoder<'_, I> {
    type Error = DecodeError;

    numbers! {
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
        deserialize_i128 visit_i128 i128;
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_u128 visit_u128 u128;
        deserialize_f32 visit_f32 f32;
        deserialize_f64 visit_f64 f64;
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_bool(self.bool()?)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_char(self.char()?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_string(self.string()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_string(self.string()?)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_byte_buf(self.bytes()?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_byte_buf(self.bytes()?)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if !self.bool()? {
            return visitor.visit_none();
        }
        self.enter()?;
        let value = visitor.visit_some(&mut *self);
        self.leave();
        value
    }

    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_unit()
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        self.enter()?;
        let value = visitor.visit_newtype_struct(&mut *self);
        self.leave();
        value
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let count = self.items()?;
        let value = visitor.visit_seq(self.enter_items(count)?);
        self.leave();
        value
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value> {
        let value = visitor.visit_seq(self.enter_items(length)?);
        self.leave();
        value
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_tuple(length, visitor)
    }

    #[inline]
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let count = self.items()?;
        let value = visitor.visit_map(self.enter_items(count)?);
        self.leave();
        value
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    #[inline]
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.enter()?;
        let value = visitor.visit_enum(&mut *self);
        self.leave();
        value
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        not_self_describing(&ContentProbe::Value, &visitor, self.type_name)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        not_self_describing(&ContentProbe::Name, &visitor, self.type_name)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        not_self_describing(&ContentProbe::Value, &visitor, self.type_name)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The items of a collection, or the fields of a tuple.
struct SeqItems<'a, 'b, I> {
    remaining: usize,
    decoder: &'a mut Decoder<'b, I>,
}

impl<'de, I: ByteSource> SeqAccess<'de> for SeqItems<'_, '_, I> {
    type Error = DecodeError;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some(remaining) = self.remaining.checked_sub(1) else {
            return Ok(None);
        };
        self.remaining = remaining;
        seed.deserialize(&mut *self.decoder).map(Some)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.remaining)
    }
}

impl<'de, I: ByteSource> MapAccess<'de> for SeqItems<'_, '_, I> {
    type Error = DecodeError;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        self.next_element_seed(seed)
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        seed.deserialize(&mut *self.decoder)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.remaining)
    }
}

impl<'de, I: ByteSource> EnumAccess<'de> for &mut Decoder<'_, I> {
    type Error = DecodeError;
    type Variant = Self;

    #[inline]
    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self)> {
        let number = u32::from_le_bytes(self.array()?);
        let variant = IntoDeserializer::<DecodeError>::into_deserializer(number);
        Ok((seed.deserialize(variant)?, self))
    }
}

impl<'de, I: ByteSource> VariantAccess<'de> for &mut Decoder<'_, I> {
    type Error = DecodeError;

    #[inline]
    fn unit_variant(self) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        seed.deserialize(self)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value> {
        // The enum has entered the level already.
        visitor.visit_seq(SeqItems {
            remaining: length,
            decoder: self,
        })
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.tuple_variant(fields.len(), visitor)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DecodeError {}

impl serde::de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string().into())
    }
}
