//! Topics and their partitions by name and by id.

use std::fmt;
use std::sync::Arc;

use crate::PartitionIndex;

/// The longest legal topic name: a log directory adds a dash and a number and must stay within 255 bytes.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// A topic's identity, which a topic created again under the same name does not inherit (KIP-516).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub u128);

impl TopicId {
    /// "No id", as Kafka writes it.
    pub const ZERO: Self = Self(0);

    /// The sixteen bytes in network order, as they stand on the wire.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The id that these sixteen wire bytes stand for.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// Reads what `Display` writes: 22 characters of URL-safe base64 without padding.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 22 {
            return None;
        }
        let mut value: u128 = 0;
        for (position, byte) in text.bytes().enumerate() {
            let digit = u128::from(ALPHABET.iter().position(|&c| c == byte)? as u64);
            if position == 21 {
                // The last character carries two bits only; the other four must be zero.
                if digit & 0xf != 0 {
                    return None;
                }
                value = (value << 2) | (digit >> 4);
            } else {
                value = (value << 6) | digit;
            }
        }
        Some(Self(value))
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for group in 0..22_u32 {
            // Groups of six bits from the top; the last is padded with four zero bits.
            let digit = if group == 21 { (self.0 & 0x3) << 4 } else { (self.0 >> (122 - group * 6)) & 0x3f };
            write!(f, "{}", char::from(ALPHABET[digit as usize]))?;
        }
        Ok(())
    }
}

/// One partition of one topic, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number within it.
    pub partition: PartitionIndex,
}

impl TopicPartition {
    /// The partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition: PartitionIndex(partition) }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Why a topic name is refused; the text is what the client is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicNameError {
    /// The name has no characters.
    Empty,
    /// The name is `.` or `..`.
    Dots,
    /// The name is longer than [`TOPIC_NAME_BYTES_MAX`].
    TooLong,
    /// The name has a character outside `[a-zA-Z0-9._-]`.
    IllegalCharacter,
}

impl fmt::Display for TopicNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a topic name cannot be empty"),
            Self::Dots => f.write_str("a topic name cannot be \".\" or \"..\""),
            Self::TooLong => {
                write!(f, "a topic name cannot be longer than {TOPIC_NAME_BYTES_MAX} characters")
            }
            Self::IllegalCharacter => {
                f.write_str("a topic name holds only ASCII letters and digits, '.', '_' and '-'")
            }
        }
    }
}

impl std::error::Error for TopicNameError {}

/// Checks a topic name by Kafka's rules.
pub fn validate_topic_name(name: &str) -> Result<(), TopicNameError> {
    if name.is_empty() {
        return Err(TopicNameError::Empty);
    }
    if name == "." || name == ".." {
        return Err(TopicNameError::Dots);
    }
    if name.len() > TOPIC_NAME_BYTES_MAX {
        return Err(TopicNameError::TooLong);
    }
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.bytes().all(legal) { Ok(()) } else { Err(TopicNameError::IllegalCharacter) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_ids_read_as_kafka_prints_them() {
        // Values printed by org.apache.kafka.common.Uuid 4.3.1.
        assert_eq!(TopicId(0).to_string(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(TopicId(1).to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(TopicId(u128::MAX).to_string(), "_____________________w");
        for id in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210] {
            assert_eq!(TopicId::parse(&TopicId(id).to_string()), Some(TopicId(id)));
        }
        assert_eq!(TopicId::parse("_____________________x"), None);
        assert_eq!(TopicId::parse("short"), None);
    }

    #[test]
    fn topic_names_follow_kafkas_rules() {
        for good in ["a", "orders.v1", "__consumer_offsets", "A-b_c.9", "...", &"x".repeat(249)] {
            assert_eq!(validate_topic_name(good), Ok(()), "{good}");
        }
        assert_eq!(validate_topic_name(""), Err(TopicNameError::Empty));
        assert_eq!(validate_topic_name(".."), Err(TopicNameError::Dots));
        assert_eq!(validate_topic_name(&"x".repeat(250)), Err(TopicNameError::TooLong));
        for bad in ["a b", "a/b", "é", "a\0", "a:b"] {
            assert_eq!(validate_topic_name(bad), Err(TopicNameError::IllegalCharacter), "{bad}");
        }
    }
}
