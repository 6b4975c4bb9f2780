//! A serde serializer that counts levels and passes everything on to another serializer.

use super::attribute;
use super::depth::{TooDeep, max_depth};
use serde::ser::{
    Error, Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant,
    SerializeTuple, SerializeTupleStruct, SerializeTupleVariant, Serializer,
};
use std::fmt;

/// A value that is `depth` levels deep in another value.
pub(super) struct DepthLimited<'a, T: ?Sized> {
    pub(super) value: &'a T,
    pub(super) depth: usize,
}

impl<T: Serialize + ?Sized> Serialize for DepthLimited<'_, T> {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(Encoder {
            inner: serializer,
            depth: self.depth,
        })
    }
}

/// Passes everything on to `inner`, and fails at the limit of depth.
struct Encoder<S> {
    inner: S,
    depth: usize,
}

impl<S: Serializer> Encoder<S> {
    /// Returns the depth of the next level.
    #[inline]
    fn deeper(&self) -> Result<usize, S::Error> {
        if self.depth >= max_depth() {
            return Err(S::Error::custom(TooDeep));
        }
        Ok(self.depth + 1)
    }
}

macro_rules! scalars {
    ($($serialize:ident $type:ty;)*) => {$(
        #[inline]
        fn $serialize(self, value: $type) -> Result<S::Ok, S::Error> {
            self.inner.$serialize(value)
        }
    )*};
}

macro_rules! compounds {
    ($($serialize:ident $compound:ident ($($argument:ident: $type:ty),*);)*) => {$(
        #[inline]
        fn $serialize(self, $($argument: $type),*) -> Result<ItemEncoder<S::$compound>, S::Error> {
            let depth = self.deeper()?;
            let inner = self.inner.$serialize($($argument),*)?;
            Ok(ItemEncoder { inner, depth })
        }
    )*};
}

macro_rules! structs {
    ($($serialize:ident $compound:ident ($($argument:ident: $type:ty),*);)*) => {$(
        #[inline]
        fn $serialize(
            self,
            name: &'static str,
            $($argument: $type,)*
            len: usize,
        ) -> Result<FieldEncoder<S::$compound>, S::Error> {
            let depth = self.deeper()?;
            let inner = self.inner.$serialize(name, $($argument,)* len)?;
            Ok(FieldEncoder { items: ItemEncoder { inner, depth }, name })
        }
    )*};
}

impl<S: Serializer> Serializer for Encoder<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = ItemEncoder<S::SerializeSeq>;
    type SerializeTuple = ItemEncoder<S::SerializeTuple>;
    type SerializeTupleStruct = ItemEncoder<S::SerializeTupleStruct>;
    type SerializeTupleVariant = ItemEncoder<S::SerializeTupleVariant>;
    type SerializeMap = ItemEncoder<S::SerializeMap>;
    type SerializeStruct = FieldEncoder<S::SerializeStruct>;
    type SerializeStructVariant = FieldEncoder<S::SerializeStructVariant>;

    scalars! {
        serialize_bool bool;
        serialize_i8 i8;
        serialize_i16 i16;
        serialize_i32 i32;
        serialize_i64 i64;
        serialize_i128 i128;
        serialize_u8 u8;
        serialize_u16 u16;
        serialize_u32 u32;
        serialize_u64 u64;
        serialize_u128 u128;
        serialize_f32 f32;
        serialize_f64 f64;
        serialize_char char;
        serialize_str &str;
        serialize_bytes &[u8];
        serialize_unit_struct &'static str;
    }

    compounds! {
        serialize_seq SerializeSeq (len: Option<usize>);
        serialize_tuple SerializeTuple (len: usize);
        serialize_tuple_struct SerializeTupleStruct (name: &'static str, len: usize);
        serialize_tuple_variant SerializeTupleVariant
            (name: &'static str, index: u32, variant: &'static str, len: usize);
    }

    structs! {
        serialize_struct SerializeStruct ();
        serialize_struct_variant SerializeStructVariant (index: u32, variant: &'static str);
    }

    fn serialize_map(self, len: Option<usize>) -> Result<ItemEncoder<S::SerializeMap>, S::Error> {
        let depth = self.deeper()?;
        // serde's derive encodes a struct with a `flatten` field as a map of unknown length.
        let len = len.ok_or_else(|| S::Error::custom(attribute::UNKNOWN_LENGTH))?;
        let inner = self.inner.serialize_map(Some(len))?;
        Ok(ItemEncoder { inner, depth })
    }

    #[inline]
    fn serialize_unit(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit()
    }

    #[inline]
    fn serialize_none(self) -> Result<S::Ok, S::Error> {
        self.inner.serialize_none()
    }

    #[inline]
    fn serialize_unit_variant(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<S::Ok, S::Error> {
        self.inner.serialize_unit_variant(name, index, variant)
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        let depth = self.deeper()?;
        self.inner.serialize_some(&DepthLimited { value, depth })
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let depth = self.deeper()?;
        let value = DepthLimited { value, depth };
        self.inner.serialize_newtype_struct(name, &value)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        let depth = self.deeper()?;
        let value = DepthLimited { value, depth };
        self.inner
            .serialize_newtype_variant(name, index, variant, &value)
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.inner.collect_str(value)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// Encodes the items of a collection, or the fields of a struct.
struct ItemEncoder<C> {
    inner: C,
    depth: usize,
}

/// Encodes the fields of a struct or variant with this name.
struct FieldEncoder<C> {
    items: ItemEncoder<C>,
    name: &'static str,
}

macro_rules! items {
    ($($compound:ident $serialize:ident;)*) => {$(
        impl<C: $compound> $compound for ItemEncoder<C> {
            type Ok = C::Ok;
            type Error = C::Error;

            #[inline]
            fn $serialize<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
                let depth = self.depth;
                self.inner.$serialize(&DepthLimited { value, depth })
            }

            #[inline]
            fn end(self) -> Result<C::Ok, C::Error> {
                self.inner.end()
            }
        }
    )*};
}

items! {
    SerializeSeq serialize_element;
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

macro_rules! fields {
    ($($compound:ident)*) => {$(
        impl<C: $compound> $compound for FieldEncoder<C> {
            type Ok = C::Ok;
            type Error = C::Error;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), C::Error> {
                let ItemEncoder { inner, depth } = &mut self.items;
                let depth = *depth;
                inner.serialize_field(key, &DepthLimited { value, depth })
            }

            fn skip_field(&mut self, key: &'static str) -> Result<(), C::Error> {
                Err(C::Error::custom(attribute::skipped(self.name, key)))
            }

            #[inline]
            fn end(self) -> Result<C::Ok, C::Error> {
                self.items.inner.end()
            }
        }
    )*};
}

fields! {
    SerializeStruct
    SerializeStructVariant
}

impl<C: SerializeMap> SerializeMap for ItemEncoder<C> {
    type Ok = C::Ok;
    type Error = C::Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        let depth = self.depth;
        self.inner.serialize_key(&DepthLimited { value, depth })
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), C::Error> {
        let depth = self.depth;
        self.inner.serialize_value(&DepthLimited { value, depth })
    }

    #[inline]
    fn end(self) -> Result<C::Ok, C::Error> {
        self.inner.end()
    }
}
