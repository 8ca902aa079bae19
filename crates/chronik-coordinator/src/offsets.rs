//! The committed offsets of a shard, with what is on its way to be committed.
//!
//! Each partition of a group has a slot with two sides. Readers see the committed side only. Writers stage a
//! new value (or a tombstone) under the id of the write that carries it; the commit of that write moves the value
//! over, its failure drops it. Whoever must know what the log will say once everything in flight has landed, such
//! as `DeleteGroups`, which has to leave nothing behind, looks at both.
//!
//! Offsets of open transactions (KIP-447) will be a third side of the same slot.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use chronik_types::{TimestampMs, TopicId};

use crate::WriteId;

/// An offset that a group has committed for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommittedOffset {
    pub(crate) offset: i64,
    /// −1 where the client gave none.
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: Box<str>,
    pub(crate) commit_timestamp: TimestampMs,
    /// Set by `OffsetCommit` up to version 4 only; else the broker's retention decides.
    pub(crate) expire_timestamp: Option<TimestampMs>,
    /// Zero where the client named the topic only.
    pub(crate) topic_id: TopicId,
}

/// The name of a slot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OffsetKey {
    pub(crate) group: Arc<str>,
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    committed: Option<CommittedOffset>,
    /// In the order of the write ids. Bounded by the shard's bound on writes in flight.
    staged: VecDeque<(WriteId, Option<CommittedOffset>)>,
}

impl Slot {
    fn is_vacant(&self) -> bool {
        self.committed.is_none() && self.staged.is_empty()
    }
}

type Partitions = BTreeMap<i32, Slot>;

/// Every slot of a shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offsets {
    groups: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Partitions>>,
}

impl Offsets {
    fn slot(&self, group: &str, topic: &str, partition: i32) -> Option<&Slot> {
        self.groups.get(group)?.get(topic)?.get(&partition)
    }

    fn slot_mut(&mut self, key: &OffsetKey) -> &mut Slot {
        // A lookup first: nearly always the slot exists, and `entry` would clone both names.
        let exists = self.groups.get(&key.group).is_some_and(|topics| topics.contains_key(&key.topic));
        if !exists {
            self.groups.entry(Arc::clone(&key.group)).or_default().entry(Arc::clone(&key.topic)).or_default();
        }
        let topics = self.groups.get_mut(&key.group).expect("the group was put there above");
        topics.get_mut(&key.topic).expect("the topic was put there above").entry(key.partition).or_default()
    }

    fn drop_if_vacant(&mut self, key: &OffsetKey) {
        let Some(topics) = self.groups.get_mut(&key.group) else { return };
        let Some(partitions) = topics.get_mut(&key.topic) else { return };
        if partitions.get(&key.partition).is_some_and(Slot::is_vacant) {
            partitions.remove(&key.partition);
        }
        if partitions.is_empty() {
            topics.remove(&key.topic);
        }
        if topics.is_empty() {
            self.groups.remove(&key.group);
        }
    }

    /// What readers see.
    pub(crate) fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<&CommittedOffset> {
        self.slot(group, topic, partition)?.committed.as_ref()
    }

    /// Whether a value of the partition is still on its way.
    pub(crate) fn is_unstable(&self, group: &str, topic: &str, partition: i32) -> bool {
        self.slot(group, topic, partition).is_some_and(|slot| !slot.staged.is_empty())
    }

    /// Whether the partition has an offset or will have one.
    pub(crate) fn is_known(&self, group: &str, topic: &str, partition: i32) -> bool {
        self.slot(group, topic, partition).is_some()
    }

    /// Whether the group has any slot at all.
    pub(crate) fn has_any(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// The groups that have a slot.
    pub(crate) fn group_ids(&self) -> Vec<Arc<str>> {
        self.groups.keys().cloned().collect()
    }

    /// The slots of a group by topic and partition: the committed offset, and whether another is on its way.
    pub(crate) fn of_group(
        &self,
        group: &str,
    ) -> impl Iterator<Item = (&Arc<str>, i32, Option<&CommittedOffset>, bool)> {
        self.groups.get(group).into_iter().flatten().flat_map(|(topic, partitions)| {
            partitions.iter().map(move |(partition, slot)| {
                (topic, *partition, slot.committed.as_ref(), !slot.staged.is_empty())
            })
        })
    }

    /// Every slot of the shard.
    pub(crate) fn keys(&self) -> impl Iterator<Item = OffsetKey> {
        self.groups.iter().flat_map(|(group, topics)| {
            topics.iter().flat_map(move |(topic, partitions)| {
                partitions.keys().map(move |partition| OffsetKey {
                    group: Arc::clone(group),
                    topic: Arc::clone(topic),
                    partition: *partition,
                })
            })
        })
    }

    /// Notes what `write` will make of a slot.
    pub(crate) fn stage(&mut self, key: &OffsetKey, write: WriteId, value: Option<CommittedOffset>) {
        self.slot_mut(key).staged.push_back((write, value));
    }

    /// `write` is committed. A value of the same write that was staged later wins, as it does in the log.
    pub(crate) fn commit(&mut self, key: &OffsetKey, write: WriteId) {
        let slot = self.slot_mut(key);
        // Writes are committed in their order, so that this one's values are the first.
        while slot.staged.front().is_some_and(|(id, _)| *id == write)
            && let Some((_, value)) = slot.staged.pop_front()
        {
            slot.committed = value;
        }
        self.drop_if_vacant(key);
    }

    /// `write` is not in the log.
    pub(crate) fn revert(&mut self, key: &OffsetKey, write: WriteId) {
        self.slot_mut(key).staged.retain(|(id, _)| *id != write);
        self.drop_if_vacant(key);
    }

    /// What a committed record says, read back from the log.
    pub(crate) fn replay(&mut self, key: &OffsetKey, value: Option<CommittedOffset>) {
        self.slot_mut(key).committed = value;
        self.drop_if_vacant(key);
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.groups.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(partition: i32) -> OffsetKey {
        OffsetKey { group: "g".into(), topic: "t".into(), partition }
    }

    fn at(offset: i64) -> CommittedOffset {
        CommittedOffset {
            offset,
            leader_epoch: -1,
            metadata: "".into(),
            commit_timestamp: TimestampMs(0),
            expire_timestamp: None,
            topic_id: TopicId::ZERO,
        }
    }

    fn seen(offsets: &Offsets, partition: i32) -> Option<i64> {
        offsets.committed("g", "t", partition).map(|committed| committed.offset)
    }

    #[test]
    fn a_staged_offset_is_seen_once_its_write_is_committed() {
        let mut offsets = Offsets::default();
        offsets.stage(&key(0), WriteId(1), Some(at(10)));
        offsets.stage(&key(0), WriteId(2), Some(at(20)));
        assert_eq!(seen(&offsets, 0), None);
        assert!(offsets.is_unstable("g", "t", 0));
        offsets.commit(&key(0), WriteId(1));
        assert_eq!(seen(&offsets, 0), Some(10));
        assert!(offsets.is_unstable("g", "t", 0));
        offsets.commit(&key(0), WriteId(2));
        assert_eq!(seen(&offsets, 0), Some(20));
        assert!(!offsets.is_unstable("g", "t", 0));
    }

    #[test]
    fn a_failed_write_leaves_no_trace() {
        let mut offsets = Offsets::default();
        offsets.stage(&key(0), WriteId(1), Some(at(10)));
        offsets.revert(&key(0), WriteId(1));
        assert!(!offsets.has_any("g"));
        offsets.replay(&key(0), Some(at(5)));
        offsets.stage(&key(0), WriteId(2), None);
        assert_eq!(seen(&offsets, 0), Some(5));
        offsets.revert(&key(0), WriteId(2));
        assert_eq!(seen(&offsets, 0), Some(5));
        offsets.stage(&key(0), WriteId(3), None);
        offsets.commit(&key(0), WriteId(3));
        assert!(!offsets.has_any("g"));
    }

    #[test]
    fn of_two_values_in_one_write_the_later_wins() {
        let mut offsets = Offsets::default();
        offsets.stage(&key(0), WriteId(1), Some(at(10)));
        offsets.stage(&key(0), WriteId(1), Some(at(11)));
        offsets.commit(&key(0), WriteId(1));
        assert_eq!(seen(&offsets, 0), Some(11));
        assert_eq!(offsets.keys().collect::<Vec<_>>(), [key(0)]);
    }
}
