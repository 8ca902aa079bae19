//! Kafka's own checkpoint files: one offset for each partition, as text.
//!
//! Chronik reads them in a directory that Kafka wrote, and leaves them behind at a clean shutdown for tools and for the
//! way back. In between its own checkpoint takes their place.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chronik_types::TopicPartition;

/// The file's contents: version 0, the number of entries, `topic partition offset` on each line.
pub(crate) fn format(offsets: &BTreeMap<TopicPartition, i64>) -> String {
    let mut text = format!("0\n{}\n", offsets.len());
    for (partition, offset) in offsets {
        writeln!(text, "{} {} {offset}", partition.topic, partition.partition)
            .expect("a String takes everything");
    }
    text
}

/// Reads such a file; `None` when it is damaged. Every line has its end: without that a number may have lost digits.
pub(crate) fn parse(contents: &[u8]) -> Option<BTreeMap<TopicPartition, i64>> {
    let mut lines = std::str::from_utf8(contents).ok()?.strip_suffix('\n')?.lines();
    if lines.next()? != "0" {
        return None;
    }
    let count: usize = lines.next()?.parse().ok()?;
    let mut offsets = BTreeMap::new();
    for line in lines {
        let mut words = line.split_whitespace();
        let (topic, partition, offset) = (words.next()?, words.next()?, words.next()?);
        offsets.insert(TopicPartition::new(topic, partition.parse().ok()?), offset.parse().ok()?);
    }
    (offsets.len() == count).then_some(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_goes_there_and_back() {
        let offsets =
            BTreeMap::from([(TopicPartition::new("a", 0), 7), (TopicPartition::new("b.c-d", 12), 0)]);
        assert_eq!(format(&offsets), "0\n2\na 0 7\nb.c-d 12 0\n");
        assert_eq!(parse(format(&offsets).as_bytes()), Some(offsets));
        for bad in ["", "1\n0\n", "0\n1\n", "0\n1\na 0\n", "0\n1\na x 0\n", "0\n1\na 0 12"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
