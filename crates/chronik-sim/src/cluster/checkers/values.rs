//! C1 to C3: what was acknowledged, what was read, and what is there in the end.

use std::collections::BTreeMap;

use chronik_raft::metadata::MetadataImage;
use chronik_types::TopicId;

use super::{Checkers, PartitionKey, Rule, Value};

/// For how long a reader may be on the way with what it has read: clients wait no longer.
const READ_MS_MAX: u64 = 1_500;

impl Checkers {
    /// Records were acknowledged, the first of them at this offset; −1 where the broker has said only that they are
    /// there.
    pub(in crate::cluster) fn acknowledged(&mut self, key: PartitionKey, offset: i64, values: &[Value]) {
        if offset < 0 {
            self.acknowledged_somewhere.extend(values.iter().map(|value| (key, *value)));
            return;
        }
        for (offset, value) in (offset..).zip(values) {
            self.know(key, offset, *value, "acknowledged");
            self.acknowledged.entry(key).or_default().insert(offset, *value);
        }
    }

    /// A record was read.
    pub(in crate::cluster) fn read(&mut self, key: PartitionKey, offset: i64, value: Value) {
        if value.topic != key.topic {
            let text = format!("{key} offset {offset} holds {value:?}, which was written to another topic");
            self.report(Rule::OneValue, text);
        }
        self.know(key, offset, value, "read");
    }

    fn know(&mut self, key: PartitionKey, offset: i64, value: Value, how: &str) {
        let known = *self.known.entry(key).or_default().entry(offset).or_insert(value);
        if known != value {
            let text = format!("{key} offset {offset} was {known:?}, and {value:?} is {how} there");
            self.report(Rule::OneValue, text);
        }
    }

    /// Records have rotted on a disk, until this time.
    pub(in crate::cluster) fn rotten_until(&mut self, until_ms: u64) {
        self.rotten_until_ms = self.rotten_until_ms.max(until_ms + READ_MS_MAX);
    }

    /// Whether what is wrong with what was read can be a bit that has flipped on its way from a disk. Each is one reader's.
    pub(in crate::cluster) fn takes_for_flip(&mut self) -> bool {
        let may_be = self.damaged_count < self.flip_count;
        self.damaged_count += u64::from(may_be);
        may_be
    }

    /// Whether a disk can be the reason that a checksum is wrong.
    pub(in crate::cluster) fn takes_for_damage(&mut self, now_ms: u64) -> bool {
        now_ms < self.rotten_until_ms || self.takes_for_flip()
    }

    /// A batch was read whose checksum is wrong.
    pub(in crate::cluster) fn damaged_read(
        &mut self,
        now_ms: u64,
        key: PartitionKey,
        position: i64,
        text: &str,
    ) {
        if !self.takes_for_damage(now_ms) {
            self.report(Rule::Logs, format!("{key} at {position}: {text}"));
        }
    }

    /// The end of what is known of a partition.
    pub(in crate::cluster) fn known_end(&self, key: PartitionKey) -> Option<i64> {
        self.known.get(&key)?.last_key_value().map(|(offset, _)| offset + 1)
    }

    /// An admin deletes what is before this offset.
    pub(in crate::cluster) fn deletes_before(&mut self, topic: &str, partition: i32, offset: i64) {
        let before = self.deleted_before.entry((topic.to_owned(), partition)).or_default();
        *before = offset.max(*before);
    }

    fn deleted_before(&self, key: PartitionKey) -> i64 {
        let name = self.names.get(&key.topic);
        let before = name.and_then(|name| self.deleted_before.get(&(name.clone(), key.partition)));
        before.copied().unwrap_or(0)
    }

    /// Whether a value is known to have been deleted. A log that began anew behind it knows nothing of it, and refuses it out
    /// of order when its producer, which was never answered, sends it again; so does Kafka.
    pub(in crate::cluster) fn is_deleted_value(&self, key: PartitionKey, value: Value) -> bool {
        let known = self.known.get(&key).into_iter().flatten();
        let deleted_before = self.deleted_before(key);
        known.take_while(|(offset, _)| **offset < deleted_before).any(|(_, known)| *known == value)
    }

    /// Whether a partition may begin here.
    pub(in crate::cluster) fn may_begin_at(&self, key: PartitionKey, offset: i64) -> bool {
        offset <= self.deleted_before(key)
    }

    /// Which topics there are in the end: all that were ever there, but for those whose deletion somebody has asked for. A
    /// request names its topic, and takes no more than one of that name with it.
    pub(super) fn final_topics(&mut self, image: &MetadataImage) {
        let mut gone: BTreeMap<&String, Vec<TopicId>> = BTreeMap::new();
        for (id, name) in self.names.iter().filter(|(id, _)| image.topic_by_id(**id).is_none()) {
            gone.entry(name).or_default().push(*id);
        }
        let asked = |name: &String| self.deletions_asked.get(name).copied().unwrap_or(0);
        let lost = gone.into_iter().find(|(name, ids)| asked(name) < ids.len());
        let text = lost.map(|(name, ids)| {
            format!("{} deletions of {name} were asked for, and {ids:?} are gone", asked(name))
        });
        if let Some(text) = text {
            self.report(Rule::Acknowledged, text);
        }
    }

    /// What a partition holds in the end.
    pub(super) fn final_values(
        &mut self,
        key: PartitionKey,
        log_start_offset: i64,
        found: &BTreeMap<i64, Value>,
    ) {
        if !self.may_begin_at(key, log_start_offset) {
            let text = format!("{key} begins at {log_start_offset} and nobody has deleted that much");
            self.report(Rule::Acknowledged, text);
        }
        let acknowledged = self.acknowledged.remove(&key).unwrap_or_default();
        for (offset, value) in acknowledged.range(log_start_offset..) {
            match found.get(offset) {
                Some(other) if other == value => {}
                other => {
                    let text =
                        format!("{key} offset {offset}: {value:?} was acknowledged, and {other:?} is there");
                    self.report(Rule::Acknowledged, text);
                    break;
                }
            }
        }
        let mut last: BTreeMap<u32, (u64, i64)> = BTreeMap::new();
        let mut offsets: BTreeMap<Value, i64> = BTreeMap::new();
        for (offset, value) in found {
            self.read(key, *offset, *value);
            // Who is content with the leader's word sends each record once, in whatever order they arrive.
            if self.strict_producer_count <= value.producer {
                if let Some(at) = offsets.insert(*value, *offset) {
                    let text = format!("{key}: {value:?} lies at offset {at} and again at {offset}");
                    self.report(Rule::Order, text);
                    break;
                }
                continue;
            }
            let earlier = last.insert(value.producer, (value.number, *offset));
            if let Some((number, at)) = earlier.filter(|(number, _)| value.number <= *number) {
                let text = format!(
                    "{key}: record {} of producer {} at offset {offset} comes after its record {number} at {at}",
                    value.number, value.producer
                );
                self.report(Rule::Order, text);
                break;
            }
        }
        let somewhere = self.acknowledged_somewhere.iter().filter(|(of, _)| *of == key);
        let missing = somewhere.map(|(_, value)| *value).find(|value| {
            let is_there = found.values().any(|found| found == value);
            !is_there && !self.may_be_gone(key, log_start_offset, *value, found)
        });
        if let Some(value) = missing {
            self.report(Rule::Acknowledged, format!("{key}: {value:?} was acknowledged, and is nowhere"));
        }
    }

    /// Whether a value that was acknowledged without its offset may have been deleted: it was read among what was, or nobody
    /// has read it and all that is left of its producer came later.
    fn may_be_gone(
        &self,
        key: PartitionKey,
        log_start_offset: i64,
        value: Value,
        found: &BTreeMap<i64, Value>,
    ) -> bool {
        let is_before = |other: &Value| other.producer == value.producer && other.number < value.number;
        let is_known = self.known.get(&key).into_iter().flatten().any(|(_, known)| *known == value);
        let is_later = 0 < log_start_offset && !is_known && !found.values().any(is_before);
        is_later || self.is_deleted_value(key, value)
    }
}
