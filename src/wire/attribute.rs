//! The errors of serde attributes that need an encoding which describes itself; ours does not.

use serde::de::Expected;

/// Of a map whose length is unknown, as serde's derive writes a struct with a flattened field.
pub(super) const UNKNOWN_LENGTH: &str = "a map of unknown length cannot be encoded";

/// Of such a map in a value of type `whole`.
pub(super) fn flattened(whole: &str) -> String {
    format!(
        "a field in a `{whole}` has serde's attribute `flatten`, or a map in it does not know its \
         length: neither can be encoded"
    )
}

/// Of a value of type `whole` that was read and has left some of its bytes.
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

/// Of a field that is left out. The decoder would take the next one in its place.
pub(super) fn skipped(name: &str, field: &str) -> String {
    format!(
        "`{name}` leaves out its field `{field}`, by serde's attribute `skip_serializing_if`, and \
         could not be decoded"
    )
}

/// What the type of a value makes of the data.
pub(super) enum ContentProbe {
    /// It looks at the value before it knows the type.
    Value,
    /// It looks for the name of a field or variant.
    Name,
}

/// Of a value that is decoded by what the data say of it: what its visitor expects, and the type
/// of the whole.
pub(super) fn undescribed(asks: &ContentProbe, expected: &dyn Expected, whole: &str) -> String {
    let expected = expected.to_string();
    let attribute = match asks {
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
