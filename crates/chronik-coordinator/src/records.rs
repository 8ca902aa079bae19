//! The records of `__consumer_offsets`, in Kafka's own format, so that Kafka's tools read them and a log written
//! by Kafka is taken over as it is.
//!
//! A key is its type (two bytes) and a message of version 0; a value is its version (two bytes) and the message.
//! Written are the versions that Kafka 4.3.1 writes; read are all.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chronik_protocol::messages::group_metadata_value::MemberMetadata;
use chronik_protocol::messages::{
    GroupMetadataKey, GroupMetadataValue, Message, OffsetCommitKey, OffsetCommitValue,
};
use chronik_protocol::wire::{DecodeError, Reader, Writer};
use chronik_types::{TimestampMs, TopicId};

use crate::effects::Record;
use crate::group::{Group, Member, Protocol};
use crate::offsets::{CommittedOffset, OffsetKey};

/// An offset, under the key that Kafka used before 0.9; the value is the same.
const KEY_OFFSET_LEGACY: i16 = 0;
/// An offset.
const KEY_OFFSET: i16 = 1;
/// A group of the classic protocol.
const KEY_GROUP: i16 = 2;

/// The version of an offset whose expiry the client has set (`OffsetCommit` up to version 4).
const OFFSET_VALUE_WITH_EXPIRY: i16 = 1;
/// The version of every other offset.
const OFFSET_VALUE: i16 = 4;
/// The version of a group's metadata.
const GROUP_VALUE: i16 = 3;

/// Why a record of `__consumer_offsets` could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The key is broken.
    #[error("reading the key of a record of __consumer_offsets")]
    Key(#[source] DecodeError),
    /// The value is broken.
    #[error("reading the value of the {kind} record of group {group} in __consumer_offsets")]
    Value {
        /// Whose record it is.
        group: String,
        /// What it should be.
        kind: &'static str,
        /// What is wrong with it.
        #[source]
        source: DecodeError,
    },
}

/// What a record says.
#[derive(Debug)]
pub(crate) enum Replayed {
    Offset(OffsetKey, Option<CommittedOffset>),
    Group(Box<Group>),
    GroupTombstone(String),
    /// A type of record that belongs to another kind of group.
    Other(i16),
}

/// Reads a record.
pub(crate) fn read_record(key: &Bytes, value: Option<&Bytes>) -> Result<Replayed, ReplayError> {
    let mut reader = Reader::new(key);
    let key_type = reader.i16().map_err(ReplayError::Key)?;
    match key_type {
        KEY_OFFSET_LEGACY | KEY_OFFSET => {
            let key = OffsetCommitKey::decode(&mut reader, 0).map_err(ReplayError::Key)?;
            let value = value.map(|value| read_value::<OffsetCommitValue>(value, &key.group, "offset"));
            let key =
                OffsetKey { group: key.group.into(), topic: key.topic.into(), partition: key.partition };
            Ok(Replayed::Offset(key, value.transpose()?.map(committed_offset)))
        }
        KEY_GROUP => {
            let key = GroupMetadataKey::decode(&mut reader, 0).map_err(ReplayError::Key)?;
            let Some(value) = value else { return Ok(Replayed::GroupTombstone(key.group)) };
            let value = read_value::<GroupMetadataValue>(value, &key.group, "group metadata")?;
            Ok(Replayed::Group(Box::new(group(key.group, value))))
        }
        other => Ok(Replayed::Other(other)),
    }
}

fn read_value<M: Message>(value: &Bytes, group: &str, kind: &'static str) -> Result<M, ReplayError> {
    let mut reader = Reader::new(value);
    reader.i16().and_then(|version| M::decode(&mut reader, version)).map_err(|source| ReplayError::Value {
        group: group.to_owned(),
        kind,
        source,
    })
}

fn committed_offset(value: OffsetCommitValue) -> CommittedOffset {
    CommittedOffset {
        offset: value.offset,
        leader_epoch: value.leader_epoch,
        metadata: value.metadata.into(),
        commit_timestamp: TimestampMs(value.commit_timestamp),
        expire_timestamp: (value.expire_timestamp != -1).then_some(TimestampMs(value.expire_timestamp)),
        topic_id: value.topic_id,
    }
}

fn group(id: String, value: GroupMetadataValue) -> Group {
    let timestamp = value.current_state_timestamp;
    let mut group = Group::new(id.into(), (timestamp != -1).then_some(TimestampMs(timestamp)));
    group.protocol_type = Some(value.protocol_type).filter(|name| !name.is_empty());
    group.protocol_name = value.protocol;
    group.generation = value.generation;
    group.leader = value.leader.map(Arc::from);
    let protocol_name = group.protocol_name.clone().unwrap_or_default();
    let member = |member: MemberMetadata| Member {
        id: member.member_id.into(),
        instance_id: member.group_instance_id.map(Arc::from),
        client_id: member.client_id,
        client_host: member.client_host,
        rebalance_timeout_ms: match member.rebalance_timeout {
            -1 => member.session_timeout,
            timeout_ms => timeout_ms,
        },
        session_timeout_ms: member.session_timeout,
        protocols: vec![Protocol {
            name: protocol_name.clone(),
            // Copied: a member must not hold on to the chunk of log that it was read from.
            metadata: Bytes::copy_from_slice(&member.subscription),
        }],
        assignment: Bytes::copy_from_slice(&member.assignment),
        awaiting_join: None,
        awaiting_sync: None,
        is_new: false,
    };
    group.replayed(value.members.into_iter().map(member).collect())
}

/// The record of a committed offset.
pub(crate) fn offset_record(key: &OffsetKey, committed: &CommittedOffset) -> Record {
    let version = if committed.expire_timestamp.is_some() { OFFSET_VALUE_WITH_EXPIRY } else { OFFSET_VALUE };
    let value = OffsetCommitValue {
        offset: committed.offset,
        leader_epoch: committed.leader_epoch,
        metadata: committed.metadata.to_string(),
        commit_timestamp: committed.commit_timestamp.get(),
        expire_timestamp: committed.expire_timestamp.map_or(-1, TimestampMs::get),
        topic_id: if version < OFFSET_VALUE { TopicId::ZERO } else { committed.topic_id },
    };
    Record { key: offset_key(key), value: Some(encode(version, &value, version)) }
}

/// The tombstone of an offset.
pub(crate) fn offset_tombstone(key: &OffsetKey) -> Record {
    Record { key: offset_key(key), value: None }
}

/// The record of a group with `assignments` for its members.
pub(crate) fn group_metadata_record(group: &Group, assignments: &BTreeMap<Arc<str>, Bytes>) -> Record {
    let protocol_name = group.protocol_name.as_deref().unwrap_or_default();
    let member = |member: &Member| MemberMetadata {
        member_id: member.id.to_string(),
        group_instance_id: member.instance_id.as_deref().map(str::to_owned),
        client_id: member.client_id.clone(),
        client_host: member.client_host.clone(),
        rebalance_timeout: member.rebalance_timeout_ms,
        session_timeout: member.session_timeout_ms,
        subscription: member.metadata(protocol_name),
        assignment: assignments.get(&member.id).cloned().unwrap_or_default(),
    };
    let value = GroupMetadataValue {
        protocol_type: group.protocol_type.clone().unwrap_or_default(),
        generation: group.generation,
        protocol: group.protocol_name.clone(),
        leader: group.leader.as_deref().map(str::to_owned),
        current_state_timestamp: group.state_timestamp.unwrap_or(TimestampMs::NONE).get(),
        members: group.members().map(member).collect(),
    };
    Record { key: group_key(&group.id), value: Some(encode(GROUP_VALUE, &value, GROUP_VALUE)) }
}

/// The record that a new group begins with: nobody is in it yet.
pub(crate) fn new_group_record(group: &Group) -> Record {
    let value = GroupMetadataValue {
        generation: group.generation,
        protocol: None,
        leader: None,
        current_state_timestamp: group.state_timestamp.unwrap_or(TimestampMs::NONE).get(),
        ..GroupMetadataValue::default()
    };
    Record { key: group_key(&group.id), value: Some(encode(GROUP_VALUE, &value, GROUP_VALUE)) }
}

/// The tombstone of a group.
pub(crate) fn group_tombstone(group: &str) -> Record {
    Record { key: group_key(group), value: None }
}

fn offset_key(key: &OffsetKey) -> Bytes {
    let message = OffsetCommitKey {
        group: key.group.to_string(),
        topic: key.topic.to_string(),
        partition: key.partition,
    };
    encode(KEY_OFFSET, &message, 0)
}

fn group_key(group: &str) -> Bytes {
    encode(KEY_GROUP, &GroupMetadataKey { group: group.to_owned() }, 0)
}

fn encode<M: Message>(prefix: i16, message: &M, version: i16) -> Bytes {
    let mut writer = Writer::new();
    writer.i16(prefix);
    message
        .encode(&mut writer, version)
        .expect("every string came in a request, and so fits a string's length");
    writer.into_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// A record as Kafka 4.3.1 writes it; see `tests/golden/generate`.
    fn golden(name: &str) -> Record {
        let lines = include_str!("../tests/golden/records.txt").lines();
        let line = lines.map(|line| line.split(' ').collect::<Vec<_>>()).find(|parts| parts[0] == name);
        let parts = line.unwrap_or_else(|| panic!("no golden record {name}"));
        Record { key: unhex(parts[1]), value: (parts[2] != "-").then(|| unhex(parts[2])) }
    }

    fn unhex(text: &str) -> Bytes {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    fn read(record: &Record) -> Replayed {
        read_record(&record.key, record.value.as_ref()).unwrap()
    }

    fn read_offset(name: &str) -> (OffsetKey, Option<CommittedOffset>) {
        let replayed = read(&golden(name));
        let Replayed::Offset(key, committed) = replayed else { panic!("{name} is read as {replayed:?}") };
        (key, committed)
    }

    fn read_group(name: &str) -> Group {
        let replayed = read(&golden(name));
        let Replayed::Group(group) = replayed else { panic!("{name} is read as {replayed:?}") };
        *group
    }

    #[test]
    fn offsets_of_every_version_are_read() {
        for version in 0..=4 {
            let (key, committed) = read_offset(&format!("offset-v{version}"));
            assert_eq!((&*key.group, &*key.topic, key.partition), ("grüße", "orders", 7));
            let committed = committed.unwrap();
            assert_eq!((committed.offset, &*committed.metadata), (1_234_567_890_123, "meta ✓"));
            assert_eq!(committed.commit_timestamp, TimestampMs(1_700_000_000_123));
            assert_eq!(committed.leader_epoch, if version >= 3 { 5 } else { -1 });
            let expiry = (version == 1).then_some(TimestampMs(1_700_000_009_999));
            assert_eq!(committed.expire_timestamp, expiry);
        }
        let (_, with_id) = read_offset("offset-v4-topic-id");
        assert_eq!(with_id.unwrap().topic_id, TopicId((1 << 64) + 2));
        assert_eq!(read_offset("offset-legacy").1.unwrap().offset, 42);
        assert_eq!(read_offset("offset-tombstone").1, None);
    }

    #[test]
    fn offsets_are_written_as_kafka_writes_them() {
        for name in ["offset-v1", "offset-v4", "offset-v4-topic-id", "offset-v4-bare"] {
            let (key, committed) = read_offset(name);
            assert_eq!(offset_record(&key, &committed.unwrap()), golden(name), "{name}");
        }
        assert_eq!(offset_tombstone(&read_offset("offset-tombstone").0), golden("offset-tombstone"));
    }

    #[test]
    fn groups_of_every_version_are_read() {
        for version in 0..=4 {
            let group = read_group(&format!("group-v{version}"));
            assert_eq!((&*group.id, group.generation), ("grüße", 17));
            assert_eq!(group.protocol_type.as_deref(), Some("consumer"));
            assert_eq!(group.protocol_name.as_deref(), Some("range"));
            assert!(group.is_leader("m-1") && group.is(crate::group::State::Stable));
            let timestamp = (version >= 2).then_some(TimestampMs(1_700_000_000_123));
            assert_eq!(group.state_timestamp, timestamp);
            let member = group.member("m-2").unwrap();
            assert_eq!(member.instance_id.as_deref(), (version >= 3).then_some("instance-2"));
            let rebalance_timeout_ms = if version >= 1 { 300_000 } else { 45_000 };
            assert_eq!(member.rebalance_timeout_ms, rebalance_timeout_ms, "version {version}");
            assert_eq!((&member.assignment[..], member.session_timeout_ms), (&[9, 8, 7][..], 45_000));
            assert!(group.is_subscribed_to("orders") && !group.is_subscribed_to("other"));
        }
    }

    #[test]
    fn groups_are_written_as_kafka_writes_them() {
        let group = read_group("group-v3");
        assert_eq!(group_metadata_record(&group, &group.assignments()), golden("group-v3"));
        let group = read_group("group-v3-empty");
        assert_eq!(group_metadata_record(&group, &BTreeMap::new()), golden("group-v3-empty"));
        let group = Group::new("g".into(), Some(TimestampMs(1_700_000_000_456)));
        assert_eq!(new_group_record(&group), golden("group-v3-new"));
        assert_eq!(group_tombstone("g"), golden("group-tombstone"));
        assert!(matches!(read(&golden("group-tombstone")), Replayed::GroupTombstone(id) if id == "g"));
    }

    #[test]
    fn records_of_other_kinds_of_groups_are_passed_over() {
        let key = Bytes::from_static(b"\0\x03\0\x01g");
        assert!(matches!(read_record(&key, None).unwrap(), Replayed::Other(3)));
    }

    #[test]
    fn broken_records_are_errors() {
        for name in ["offset-v4", "offset-v1", "group-v3", "group-v4", "group-v0"] {
            let record = golden(name);
            let value = record.value.unwrap();
            for length in 0..record.key.len() {
                assert!(read_record(&record.key.slice(..length), None).is_err(), "{name}: key of {length}");
            }
            for length in 0..value.len() {
                let cut = value.slice(..length);
                assert!(read_record(&record.key, Some(&cut)).is_err(), "{name}: value of {length}");
            }
            // Any bit may be wrong; that must not do more harm than a wrong value.
            for at in 0..value.len() * 8 {
                let mut flipped = value.to_vec();
                flipped[at / 8] ^= 1 << (at % 8);
                drop(read_record(&record.key, Some(&flipped.into())));
            }
        }
        let unknown_version = Bytes::from_static(b"\0\x63");
        let error = read_record(&golden("group-v3").key, Some(&unknown_version)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "reading the value of the group metadata record of group grüße in __consumer_offsets"
        );
    }
}
