//! JSON from strangers, read in one way only.
//!
//! serde_json keeps the last of two members with the same name, where another reader keeps the
//! first; here that is an error, at every depth. Nesting is bounded by the caller. Size is not:
//! whoever calls has capped the bytes before.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Why a text was not read. None of them repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON (RFC 8259), not UTF-8, or more than one value.
    #[error("not valid JSON")]
    Syntax,
    /// An object has two members of the same name.
    #[error("a member of a JSON object is there twice")]
    Duplicate,
    /// More arrays and objects inside each other than allowed.
    #[error("JSON nested too deeply")]
    TooDeep,
}

/// Reads the whole of `bytes` as one JSON value with at most `max_depth` arrays and objects inside
/// each other; `[]` has depth 1. Depths beyond serde_json's own bound of 127 are refused in any case.
///
/// # Errors
/// When it is not exactly one JSON value, nested deeper, or has a member twice (RFC 8259 §4 leaves
/// open what that means; RFC 7515 §4 and RFC 7519 §4 let a reader refuse it).
pub fn strict_parse(bytes: &[u8], max_depth: usize) -> Result<Value, JsonError> {
    let reason = Cell::new(JsonError::Syntax);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { depth_left: max_depth, reason: &reason }.deserialize(&mut deserializer);
    match value.and_then(|value| deserializer.end().map(|()| value)) {
        Ok(value) => Ok(value),
        Err(_) => Err(reason.get()),
    }
}

/// Builds a value; leaves the reason behind when it refuses for one of its own.
#[derive(Clone, Copy)]
struct Strict<'r> {
    depth_left: usize,
    reason: &'r Cell<JsonError>,
}

impl Strict<'_> {
    fn refuse<E: serde::de::Error>(self, reason: JsonError) -> E {
        self.reason.set(reason);
        E::custom(reason)
    }

    /// What reads the members of an array or object that begins here.
    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Self { depth_left, ..self }),
            None => Err(self.refuse(JsonError::TooDeep)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if members.contains_key(&name) {
                return Err(self.refuse(JsonError::Duplicate));
            }
            members.insert(name, map.next_value_seed(inner)?);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Result<Value, JsonError> {
        strict_parse(text.as_bytes(), 16)
    }

    #[test]
    fn values_are_those_of_serde_json() {
        for text in [
            r#"{"a":[1,-2,3.5,true,false,null,"x\u0041\n"],"b":{"c":{}}}"#,
            " 18446744073709551615 ",
            "-9223372036854775808",
            "1e300",
            "[]",
        ] {
            assert_eq!(parse(text), Ok(serde_json::from_str(text).unwrap()), "{text}");
        }
    }

    #[test]
    fn a_member_that_is_there_twice_is_refused_at_every_depth() {
        for text in [r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":2}"#, r#"{"x":[{"y":{"a":1,"b":2,"a":3}}]}"#] {
            assert_eq!(parse(text), Err(JsonError::Duplicate), "{text}");
        }
        assert_eq!(parse(r#"[{"a":1},{"a":1}]"#), Ok(json!([{"a": 1}, {"a": 1}])));
    }

    #[test]
    fn depth_is_bounded_before_the_stack_is() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(&nested(16)).is_ok());
        assert_eq!(parse(&nested(17)), Err(JsonError::TooDeep));
        assert_eq!(parse(&"[".repeat(100_000)), Err(JsonError::TooDeep));
        assert_eq!(parse(&r#"{"a":"#.repeat(100_000)), Err(JsonError::TooDeep));
        assert!(strict_parse(nested(100_000).as_bytes(), usize::MAX).is_err(), "serde_json's own bound");
        assert_eq!(strict_parse(b"[]", 0), Err(JsonError::TooDeep));
        assert_eq!(strict_parse(b"1", 0), Ok(json!(1)));
    }

    #[test]
    fn only_one_whole_value_is_read() {
        for text in
            ["", "{} x", "{}{}", "{\"a\":1,}", "nan", "1e999", "'a'", "\u{feff}{}", "{a:1}", r#""\ud800""#, "01"]
        {
            assert_eq!(parse(text), Err(JsonError::Syntax), "{text}");
        }
        assert_eq!(strict_parse(b"\"\xff\"", 16), Err(JsonError::Syntax), "not UTF-8");
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_what_serde_json_reads(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(value) = strict_parse(&bytes, 16) {
                prop_assert_eq!(value, serde_json::from_slice::<Value>(&bytes).unwrap());
            }
        }
    }
}
