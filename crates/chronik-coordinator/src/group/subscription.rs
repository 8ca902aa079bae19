//! Which topics a consumer says that it is subscribed to.
//!
//! The coordinator is blind to what members tell each other, with this one exception: `OffsetDelete` and offset
//! expiry must spare the topics that a group is consuming. All versions of the consumer protocol begin alike.

use std::collections::BTreeSet;

/// The protocol type of consumers.
pub(crate) const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// Adds the topics of one member's subscription to `topics`; `None` where its bytes make no sense.
pub(crate) fn read_topics(subscription: &[u8], topics: &mut BTreeSet<String>) -> Option<()> {
    let (version, rest) = read_i16(subscription)?;
    if version < 0 {
        return None;
    }
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let count = usize::try_from(i32::from_be_bytes(*count)).ok()?;
    // A topic takes at least its two bytes of length, so a hostile count ends the loop by running dry.
    for _ in 0..count {
        let (length, tail) = read_i16(rest)?;
        let (name, tail) = tail.split_at_checked(usize::try_from(length).ok()?)?;
        topics.insert(String::from_utf8(name.to_vec()).ok()?);
        rest = tail;
    }
    Some(())
}

fn read_i16(bytes: &[u8]) -> Option<(i16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<2>()?;
    Some((i16::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(bytes: &[u8]) -> Option<Vec<String>> {
        let mut topics = BTreeSet::new();
        read_topics(bytes, &mut topics)?;
        Some(topics.into_iter().collect())
    }

    #[test]
    fn topics_are_read_and_what_follows_is_not() {
        let two = b"\0\x03\0\0\0\x02\0\x01b\0\x01a\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(topics(two), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(topics(b"\0\0\0\0\0\0"), Some(vec![]));
    }

    #[test]
    fn nonsense_is_nothing_at_any_length() {
        let two = b"\0\0\0\0\0\x02\0\x01b\0\x01a";
        for length in 0..two.len() {
            assert_eq!(topics(&two[..length]), None, "{length}");
        }
        assert_eq!(topics(b"\xff\xff\0\0\0\0"), None);
        assert_eq!(topics(b"\0\0\x7f\xff\xff\xff\0\0"), None);
        assert_eq!(topics(b"\0\0\0\0\0\x01\xff\xff"), None);
        assert_eq!(topics(b"\0\0\0\0\0\x01\0\x01\xff"), None);
    }
}
