//! JSON as tokens and key sets may have it: one object, in UTF-8, no member twice at any depth. RFC 7519 §4 lets a reader
//! take the last of two; then a token means one thing here and another behind, so that neither is taken.

use crate::error::TokenFault;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Reads an object.
///
/// # Errors
/// That it is none.
pub(super) fn object(bytes: &[u8]) -> Result<Map<String, Value>, TokenFault> {
    let text = std::str::from_utf8(bytes).map_err(|_| TokenFault::NotUtf8)?;
    let mut reader = serde_json::Deserializer::from_str(text);
    // The only thing that is wrong with data, rather than with how it is written, is what `Strict` says.
    let fault = |e: serde_json::Error| {
        if e.is_data() {
            TokenFault::DuplicateMember
        } else {
            TokenFault::Json
        }
    };
    let value = Strict.deserialize(&mut reader).map_err(fault)?;
    reader.end().map_err(|_| TokenFault::Json)?;
    match value {
        Value::Object(members) => Ok(members),
        _ => Err(TokenFault::Json),
    }
}

/// Reads any value, and fails at a member that stands twice.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number)) // JSON has no other numbers
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = from.next_element_seed(Strict)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(name) = from.next_key::<String>()? {
            let value = from.next_value_seed(Strict)?;
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("twice"));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_object_and_nothing_twice() {
        let read = |text: &str| object(text.as_bytes()).map(Value::Object).map(|value| value.to_string());
        assert_eq!(
            read(r#" {"a":[1,-2,1.5,true,null,{"b":"\u00e9"}]} "#).unwrap(),
            r#"{"a":[1,-2,1.5,true,null,{"b":"é"}]}"#
        );
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(4000), "]".repeat(4000));
        let cases = [
            (r#"{"a":1,"a":1}"#, TokenFault::DuplicateMember),
            (r#"{"a":1,"\u0061":2}"#, TokenFault::DuplicateMember),
            (r#"{"b":[{"a":{"c":1,"c":2}}]}"#, TokenFault::DuplicateMember),
            ("[]", TokenFault::Json),
            ("\"a\"", TokenFault::Json),
            ("", TokenFault::Json),
            ("{}{}", TokenFault::Json),
            ("{} x", TokenFault::Json),
            ("{\"a\":1,}", TokenFault::Json),
            ("{'a':1}", TokenFault::Json),
            ("{\"a\":01}", TokenFault::Json),
            ("{\"a\":1e999}", TokenFault::Json),
            ("{\"a\":NaN}", TokenFault::Json),
            (r#"{"a":"\ud800"}"#, TokenFault::Json),
            ("\u{feff}{}", TokenFault::Json),
            ("{\"a\":\"\n\"}", TokenFault::Json),
            (&deep, TokenFault::Json),
        ];
        for (text, fault) in cases {
            assert_eq!(object(text.as_bytes()), Err(fault), "{text:.40}");
        }
        assert_eq!(object(b"{\"a\":\"\xff\"}"), Err(TokenFault::NotUtf8));
    }
}
