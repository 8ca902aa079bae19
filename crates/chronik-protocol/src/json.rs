//! Messages to and from the JSON form that Kafka's own tools print and read, for tests.
//!
//! Names are Kafka's in camel case, bytes are base64, ids read as Kafka prints them. A tagged field appears only
//! when it differs from its default. Record data is base64 too; Kafka prints its size alone.

use bytes::Bytes;
use chronik_types::TopicId;
use serde_json::{Map, Value};

use crate::messages::Message;
use crate::wire::EncodeError;

/// Why a message cannot become JSON, or JSON a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The version cannot carry a value.
    #[error("the message cannot be expressed in this version")]
    Encode(#[from] EncodeError),
    /// The version needs a field that is not there.
    #[error("{structure} needs the field `{field}` in version {version}")]
    Missing {
        /// The structure.
        structure: &'static str,
        /// The field.
        field: &'static str,
        /// The version.
        version: i16,
    },
    /// A value of the wrong type or outside its range.
    #[error("the JSON value {value} is not {expected}")]
    Type {
        /// The value.
        value: String,
        /// What should be there.
        expected: &'static str,
    },
    /// A version that the message does not have.
    #[error("{message} has no version {version}")]
    Version {
        /// The message.
        message: &'static str,
        /// The version asked for.
        version: i16,
    },
}

/// The JSON form of `message` in that version.
pub fn to_json<M: Message + JsonValue>(message: &M, version: i16) -> Result<Value, JsonError> {
    if M::has_version(version) {
        message.to_json(version)
    } else {
        Err(JsonError::Version { message: M::NAME, version })
    }
}

/// The message that `node` is the JSON form of in that version.
pub fn from_json<M: Message + JsonValue>(node: &Value, version: i16) -> Result<M, JsonError> {
    if M::has_version(version) {
        M::from_json(node, version)
    } else {
        Err(JsonError::Version { message: M::NAME, version })
    }
}

/// A value that has a JSON form: every message, and every part of one.
pub trait JsonValue: Sized {
    /// The JSON form in that version.
    fn to_json(&self, version: i16) -> Result<Value, JsonError>;
    /// The value that `node` is the JSON form of in that version.
    fn from_json(node: &Value, version: i16) -> Result<Self, JsonError>;
}

fn wrong_type(node: &Value, expected: &'static str) -> JsonError {
    JsonError::Type { value: node.to_string(), expected }
}

macro_rules! integers {
    ($($integer:ty),*) => {
        $(impl JsonValue for $integer {
            fn to_json(&self, _version: i16) -> Result<Value, JsonError> {
                Ok(Value::from(*self))
            }

            fn from_json(node: &Value, _version: i16) -> Result<Self, JsonError> {
                node.as_i64()
                    .and_then(|value| Self::try_from(value).ok())
                    .ok_or_else(|| wrong_type(node, concat!("a number of type ", stringify!($integer))))
            }
        })*
    };
}

integers!(i8, i16, i32, i64, u16, u32);

impl JsonValue for f64 {
    fn to_json(&self, _version: i16) -> Result<Value, JsonError> {
        Ok(Value::from(*self))
    }

    fn from_json(node: &Value, _version: i16) -> Result<Self, JsonError> {
        node.as_f64().ok_or_else(|| wrong_type(node, "a number"))
    }
}

impl JsonValue for bool {
    fn to_json(&self, _version: i16) -> Result<Value, JsonError> {
        Ok(Value::from(*self))
    }

    fn from_json(node: &Value, _version: i16) -> Result<Self, JsonError> {
        node.as_bool().ok_or_else(|| wrong_type(node, "a boolean"))
    }
}

impl JsonValue for String {
    fn to_json(&self, _version: i16) -> Result<Value, JsonError> {
        Ok(Value::from(self.as_str()))
    }

    fn from_json(node: &Value, _version: i16) -> Result<Self, JsonError> {
        node.as_str().map(Self::from).ok_or_else(|| wrong_type(node, "a string"))
    }
}

impl JsonValue for TopicId {
    fn to_json(&self, _version: i16) -> Result<Value, JsonError> {
        Ok(Value::from(self.to_string()))
    }

    fn from_json(node: &Value, _version: i16) -> Result<Self, JsonError> {
        node.as_str().and_then(Self::parse).ok_or_else(|| wrong_type(node, "a UUID as Kafka prints it"))
    }
}

impl JsonValue for Bytes {
    fn to_json(&self, _version: i16) -> Result<Value, JsonError> {
        Ok(Value::from(base64_encode(self)))
    }

    fn from_json(node: &Value, _version: i16) -> Result<Self, JsonError> {
        node.as_str().and_then(base64_decode).map(Self::from).ok_or_else(|| wrong_type(node, "base64"))
    }
}

impl<T: JsonValue> JsonValue for Vec<T> {
    fn to_json(&self, version: i16) -> Result<Value, JsonError> {
        self.iter().map(|element| element.to_json(version)).collect::<Result<_, _>>().map(Value::Array)
    }

    fn from_json(node: &Value, version: i16) -> Result<Self, JsonError> {
        let elements = node.as_array().ok_or_else(|| wrong_type(node, "an array"))?;
        elements.iter().map(|element| T::from_json(element, version)).collect()
    }
}

impl<T: JsonValue> JsonValue for Option<T> {
    fn to_json(&self, version: i16) -> Result<Value, JsonError> {
        self.as_ref().map_or(Ok(Value::Null), |value| value.to_json(version))
    }

    fn from_json(node: &Value, version: i16) -> Result<Self, JsonError> {
        if node.is_null() { Ok(None) } else { T::from_json(node, version).map(Some) }
    }
}

/// The JSON form of a field that some versions allow to be null.
pub(crate) fn nullable<T: JsonValue>(
    value: Option<&T>,
    is_nullable: bool,
    field: &'static str,
    version: i16,
) -> Result<Value, JsonError> {
    match value {
        Some(value) => value.to_json(version),
        None if is_nullable => Ok(Value::Null),
        None => Err(EncodeError::Null { field }.into()),
    }
}

/// `node` as an object.
pub(crate) fn object(node: &Value) -> Result<&Map<String, Value>, JsonError> {
    node.as_object().ok_or_else(|| wrong_type(node, "an object"))
}

/// One field of an object; `None` where the version can go without it.
pub(crate) fn field<T: JsonValue>(
    node: &Map<String, Value>,
    structure: &'static str,
    field: &'static str,
    is_mandatory: bool,
    version: i16,
) -> Result<Option<T>, JsonError> {
    match node.get(field) {
        Some(value) => T::from_json(value, version).map(Some),
        None if is_mandatory => Err(JsonError::Missing { structure, field, version }),
        None => Ok(None),
    }
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64_encode(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for (index, shift) in [18_u32, 12, 6, 0].into_iter().enumerate() {
            // Three bytes give four characters, two give three, one gives two; `=` fills the rest.
            let digit = usize::try_from((bits >> shift) & 0x3f).unwrap_or_default();
            let is_padding = index > chunk.len();
            text.push(if is_padding { '=' } else { BASE64.get(digit).copied().map_or('=', char::from) });
        }
    }
    text
}

fn base64_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.trim_end_matches('=').as_bytes();
    for chunk in digits.chunks(4) {
        let mut bits = 0_u32;
        for index in 0..4 {
            let digit = match chunk.get(index) {
                Some(c) => BASE64.iter().position(|candidate| candidate == c)?,
                None => 0,
            };
            bits = (bits << 6) | u32::try_from(digit).ok()?;
        }
        let [_, decoded @ ..] = bits.to_be_bytes();
        bytes.extend(decoded.iter().take(chunk.len().checked_sub(1)?));
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_usual_one() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ] {
            assert_eq!(base64_encode(bytes.as_bytes()), text);
            assert_eq!(base64_decode(text).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!(base64_encode(&[0xfb, 0xff, 0xff]), "+///");
        assert_eq!(base64_decode("Zg="), None);
        assert_eq!(base64_decode("Zg-="), None);
    }
}
