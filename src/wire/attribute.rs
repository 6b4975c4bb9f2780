//! The errors of serde attributes that need an encoding which describes itself; ours does not.

use serde::de::Expected;

/// Of a struct that is written as a map, whose length is unknown.
pub(super) const FLATTEN: &str = "a struct with a field that has serde's attribute `flatten`, or a \
     map of unknown length, cannot be encoded";

/// Of a field that is left out. The decoder would take the next one in its place.
pub(super) fn skipped(name: &str, field: &str) -> String {
    format!(
        "`{name}` leaves out its field `{field}`, by serde's attribute `skip_serializing_if`, and \
         could not be decoded"
    )
}

/// What the type of a value makes of the data.
pub(super) enum Asks {
    /// It looks at the value before it knows the type.
    Value,
    /// It looks for the name of a field or variant.
    Name,
}

/// Of a value that is decoded by what the data say of it: what its visitor expects, and the type
/// of the whole.
pub(super) fn undescribed(asks: &Asks, expected: &dyn Expected, whole: &str) -> String {
    let expected = expected.to_string();
    let attribute = match asks {
        Asks::Name => "has serde's attributes `tag` and `content`",
        Asks::Value if expected.starts_with("internally tagged") => "has serde's attribute `tag`",
        Asks::Value => {
            "has serde's attribute `untagged` or `flatten`, or is of a type like `serde_json::Value`"
        }
    };
    format!(
        "{expected} in a `{whole}` cannot be decoded: the encoding does not describe itself, and \
         it {attribute}"
    )
}
