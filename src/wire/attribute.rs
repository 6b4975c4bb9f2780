//! The errors of serde attributes that need a self-describing encoding. This crate's encoding is
//! not.

use serde::de::Expected;

/// The error of a map of unknown length. serde's derive encodes a struct with a flattened field as
/// such a map.
pub(super) const UNKNOWN_LENGTH: &str = "a map of unknown length cannot be encoded";

/// Returns the error of such a map in a value of type `whole`.
pub(super) fn flattened(whole: &str) -> String {
    format!(
        "a field in a `{whole}` has serde's attribute `flatten`, or a map in it does not know its \
         length: neither can be encoded"
    )
}

/// Returns the error of a value of type `whole` that was decoded without using all its bytes.
pub(super) fn left_over(bytes: usize, whole: &str) -> String {
    let (bytes_of, are) = if bytes == 1 {
        ("byte of", "is")
    } else {
        ("bytes of", "are")
    };
    format!(
        "{bytes} {bytes_of} a `{whole}` {are} left over: does serde write a field that it does not \
         read (`skip_deserializing`)?"
    )
}

/// Returns the error of a field that is omitted. The decoder would take the next field in its
/// place.
pub(super) fn skipped(name: &str, field: &str) -> String {
    format!(
        "`{name}` leaves out its field `{field}`, by serde's attribute `skip_serializing_if`, and \
         could not be decoded"
    )
}

/// How a type inspects the data before it is decoded.
pub(super) enum ContentProbe {
    /// The type inspects a value to choose its own shape.
    Value,
    /// The type reads the name of a field or variant.
    Name,
}

/// Returns the error of a type that inspects the data: `expected` is the description of its
/// visitor, `whole` the type of the whole value.
pub(super) fn not_self_describing(
    probe: &ContentProbe,
    expected: &dyn Expected,
    whole: &str,
) -> String {
    let expected = expected.to_string();
    let attribute = match probe {
        ContentProbe::Name => "has serde's attributes `tag` and `content`",
        ContentProbe::Value if expected.starts_with("internally tagged") => {
            "has serde's attribute `tag`"
        }
        ContentProbe::Value => {
            "has serde's attribute `untagged` or `flatten`, or is of a type like `serde_json::Value`"
        }
    };
    format!(
        "{expected} in a `{whole}` cannot be decoded: the encoding does not describe itself, and \
         it {attribute}"
    )
}
