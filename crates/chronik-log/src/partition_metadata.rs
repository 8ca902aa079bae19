//! Kafka's `partition.metadata`: the topic id of a partition's directory (KIP-516).

use chronik_types::TopicId;

/// The file's contents.
pub(crate) fn format(topic_id: TopicId) -> String {
    format!("version: 0\ntopic_id: {topic_id}\n")
}

/// Reads the file; `None` for anything that is not a topic id of version 0.
pub(crate) fn parse(contents: &[u8]) -> Option<TopicId> {
    let mut lines = std::str::from_utf8(contents).ok()?.lines();
    if lines.next()?.trim_end() != "version: 0" {
        return None;
    }
    let topic_id = TopicId::parse(lines.next()?.trim_end().strip_prefix("topic_id: ")?)?;
    (topic_id != TopicId::ZERO).then_some(topic_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_goes_there_and_back() {
        let id = TopicId(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210);
        assert_eq!(parse(format(id).as_bytes()), Some(id));
        for bad in
            ["", "version: 1\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ\n", "version: 0\n", "version: 0\ntopic_id: x"]
        {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(parse(format(TopicId::ZERO).as_bytes()), None);
    }
}
