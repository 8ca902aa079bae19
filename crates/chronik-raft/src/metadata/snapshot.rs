//! An image as bytes: what a node keeps in place of the log that led to it, and sends to one that is far behind.
//!
//! Layout, integers big-endian: magic (8 bytes), version (4), body length (8), CRC-32C of the body (4), body. The
//! body is a Protocol Buffers message, so fields may be added; what an older node would get wrong by ignoring it
//! comes with a higher version instead, which the older node refuses.

use std::sync::Arc;

use chronik_types::{
    BrokerEpoch, ErrorCode, LeaderEpoch, LogIndex, NodeId, PartitionEpoch, ProducerId, Term, TopicId,
};
use prost::Message;
use rpds::{RedBlackTreeMapSync, VectorSync};
use thiserror::Error;

use super::apply::CommandOutput;
use super::command::{Endpoint, FORMAT_VERSION_MAX, join, split};
use super::image::{BrokerImage, ConfigMap, ConfigResource, MetadataImage, PartitionImage, TopicImage};
use super::requests::{Refusal, RememberedRequest, Session};

/// The newest version of snapshots that this build reads and writes.
pub const SNAPSHOT_VERSION_MAX: u32 = 1;

const MAGIC: [u8; 8] = *b"CHRONIKM";
const HEADER_BYTES: usize = 24;

/// Why bytes are no snapshot of an image.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The bytes begin otherwise, or end too soon.
    #[error("not a metadata snapshot: {reason}")]
    NotASnapshot {
        /// What is wrong.
        reason: &'static str,
    },
    /// A newer node wrote it.
    #[error(
        "the metadata snapshot has {what} {found}, and this build knows up to {known}: upgrade this node"
    )]
    UnknownVersion {
        /// `version` for the snapshot's own, `format version` for that of the log behind it.
        what: &'static str,
        /// Its version.
        found: u32,
        /// The newest version that this build knows.
        known: u32,
    },
    /// The body is not what was written.
    #[error("the metadata snapshot is damaged: its CRC is {found:#010x} and should be {expected:#010x}")]
    Damaged {
        /// The CRC of the body.
        found: u32,
        /// The CRC in the header.
        expected: u32,
    },
    /// The body cannot be decoded.
    #[error("the metadata snapshot cannot be decoded")]
    Undecodable(#[from] prost::DecodeError),
    /// The body says what no image can be.
    #[error("the metadata snapshot contradicts itself: {reason}")]
    Inconsistent {
        /// What is wrong.
        reason: String,
    },
}

#[derive(Clone, PartialEq, Message)]
struct ImageMessage {
    #[prost(uint64, tag = "1")]
    applied_index: u64,
    #[prost(uint64, tag = "2")]
    applied_term: u64,
    #[prost(uint32, tag = "3")]
    format_version: u32,
    #[prost(string, optional, tag = "4")]
    cluster_id: Option<String>,
    #[prost(int64, tag = "5")]
    next_producer_id: i64,
    #[prost(message, repeated, tag = "6")]
    brokers: Vec<BrokerMessage>,
    #[prost(message, repeated, tag = "7")]
    topics: Vec<TopicMessage>,
    #[prost(message, repeated, tag = "8")]
    configs: Vec<ConfigMessage>,
    #[prost(message, repeated, tag = "9")]
    sessions: Vec<SessionMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct BrokerMessage {
    #[prost(int32, tag = "1")]
    id: i32,
    #[prost(int64, tag = "2")]
    epoch: i64,
    #[prost(fixed64, tag = "3")]
    incarnation_high: u64,
    #[prost(fixed64, tag = "4")]
    incarnation_low: u64,
    #[prost(message, repeated, tag = "5")]
    endpoints: Vec<Endpoint>,
    #[prost(string, optional, tag = "6")]
    rack: Option<String>,
    #[prost(bool, tag = "7")]
    fenced: bool,
    #[prost(bool, tag = "8")]
    in_controlled_shutdown: bool,
}

#[derive(Clone, PartialEq, Message)]
struct TopicMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(fixed64, tag = "2")]
    id_high: u64,
    #[prost(fixed64, tag = "3")]
    id_low: u64,
    #[prost(int32, tag = "4")]
    requested_partition_count: i32,
    #[prost(int32, tag = "5")]
    requested_replication_factor: i32,
    #[prost(message, repeated, tag = "6")]
    partitions: Vec<PartitionMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct PartitionMessage {
    #[prost(int32, repeated, tag = "1")]
    replicas: Vec<i32>,
    #[prost(int32, repeated, tag = "2")]
    isr: Vec<i32>,
    #[prost(int32, optional, tag = "3")]
    leader: Option<i32>,
    #[prost(sint32, tag = "4")]
    leader_epoch: i32,
    #[prost(int32, tag = "5")]
    partition_epoch: i32,
    #[prost(int32, repeated, tag = "6")]
    elr: Vec<i32>,
    #[prost(bool, tag = "7")]
    is_recovering: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ConfigMessage {
    #[prost(int32, tag = "1")]
    resource_type: i32,
    #[prost(string, tag = "2")]
    resource_name: String,
    #[prost(btree_map = "string, string", tag = "3")]
    configs: ConfigMap,
}

/// The requests of one process of one node.
#[derive(Clone, PartialEq, Message)]
struct SessionMessage {
    #[prost(int32, tag = "1")]
    node_id: i32,
    #[prost(fixed64, tag = "2")]
    incarnation: u64,
    #[prost(uint64, tag = "3")]
    answered_below: u64,
    #[prost(message, repeated, tag = "4")]
    outcomes: Vec<OutcomeMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct OutcomeMessage {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(uint64, tag = "2")]
    index: u64,
    #[prost(uint32, tag = "3")]
    command_count: u32,
    #[prost(message, repeated, tag = "4")]
    outputs: Vec<OutputMessage>,
    #[prost(message, optional, tag = "5")]
    refusal: Option<RefusalMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct RefusalMessage {
    #[prost(uint32, tag = "1")]
    command_position: u32,
    #[prost(int32, tag = "2")]
    error_code: i32,
    #[prost(string, tag = "3")]
    reason: String,
}

#[derive(Clone, PartialEq, Message)]
struct OutputMessage {
    #[prost(uint32, tag = "1")]
    position: u32,
    #[prost(int64, optional, tag = "2")]
    broker_epoch: Option<i64>,
    #[prost(int64, optional, tag = "3")]
    first_producer_id: Option<i64>,
    #[prost(int32, tag = "4")]
    producer_id_count: i32,
}

impl MetadataImage {
    /// The image as bytes. Equal images give equal bytes.
    pub fn encode_snapshot(&self) -> Vec<u8> {
        let body = self.to_message().encode_to_vec();
        let mut encoded = Vec::with_capacity(HEADER_BYTES.saturating_add(body.len()));
        encoded.extend_from_slice(&MAGIC);
        encoded.extend_from_slice(&SNAPSHOT_VERSION_MAX.to_be_bytes());
        encoded.extend_from_slice(&(body.len() as u64).to_be_bytes());
        encoded.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
        encoded.extend_from_slice(&body);
        encoded
    }

    /// The image that these bytes stand for.
    pub fn decode_snapshot(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let not_a_snapshot = |reason| SnapshotError::NotASnapshot { reason };
        let (header, body) = bytes
            .split_at_checked(HEADER_BYTES)
            .ok_or_else(|| not_a_snapshot("it is shorter than a header"))?;
        let rest = header.strip_prefix(&MAGIC).ok_or_else(|| not_a_snapshot("its magic is another"))?;
        let (version, rest) = rest.split_first_chunk().ok_or_else(|| not_a_snapshot("no version"))?;
        let (len_bytes, rest) = rest.split_first_chunk().ok_or_else(|| not_a_snapshot("no length"))?;
        let (crc, _) = rest.split_first_chunk().ok_or_else(|| not_a_snapshot("no CRC"))?;
        let found = u32::from_be_bytes(*version);
        if SNAPSHOT_VERSION_MAX < found {
            let known = SNAPSHOT_VERSION_MAX;
            return Err(SnapshotError::UnknownVersion { what: "version", found, known });
        }
        if u64::from_be_bytes(*len_bytes) != body.len() as u64 {
            return Err(not_a_snapshot("its length is not the one in its header"));
        }
        let (found, expected) = (crc32c::crc32c(body), u32::from_be_bytes(*crc));
        if found != expected {
            return Err(SnapshotError::Damaged { found, expected });
        }
        Self::from_message(ImageMessage::decode(body)?)
    }

    fn to_message(&self) -> ImageMessage {
        ImageMessage {
            applied_index: self.applied_index.get(),
            applied_term: self.applied_term.get(),
            format_version: self.format_version,
            cluster_id: self.cluster_id.as_deref().map(str::to_owned),
            next_producer_id: self.next_producer_id.get(),
            brokers: self.brokers.values().map(|broker| broker_message(broker)).collect(),
            topics: self.topics_by_name.values().map(|topic| topic_message(topic)).collect(),
            configs: self
                .configs
                .iter()
                .map(|(resource, configs)| {
                    let (resource_type, resource_name) = resource.to_kafka();
                    let configs = ConfigMap::clone(configs);
                    ConfigMessage { resource_type: i32::from(resource_type), resource_name, configs }
                })
                .collect(),
            sessions: self
                .requests
                .sessions()
                .map(|(node, session)| session_message(node, session))
                .collect(),
        }
    }

    fn from_message(message: ImageMessage) -> Result<Self, SnapshotError> {
        if FORMAT_VERSION_MAX < message.format_version {
            let (found, known) = (message.format_version, FORMAT_VERSION_MAX);
            return Err(SnapshotError::UnknownVersion { what: "format version", found, known });
        }
        let mut image = Self {
            applied_index: LogIndex(message.applied_index),
            applied_term: Term(message.applied_term),
            format_version: message.format_version,
            cluster_id: message.cluster_id.map(Into::into),
            next_producer_id: ProducerId(message.next_producer_id),
            ..Self::default()
        };
        for broker in message.brokers {
            let broker = Arc::new(broker_from(broker));
            image.brokers.insert_mut(broker.id, broker);
        }
        for topic in message.topics {
            let topic = Arc::new(topic_from(topic)?);
            if image.topics_by_name.contains_key(&topic.name) || image.topics_by_id.contains_key(&topic.id) {
                return Err(inconsistent(format!("topic '{}' is in it twice", topic.name)));
            }
            image.topics_by_name.insert_mut(Arc::clone(&topic.name), Arc::clone(&topic));
            image.topics_by_id.insert_mut(topic.id, topic);
        }
        for config in message.configs {
            let resource = i8::try_from(config.resource_type)
                .ok()
                .and_then(|resource_type| ConfigResource::from_kafka(resource_type, &config.resource_name));
            let resource = resource.ok_or_else(|| {
                inconsistent(format!("there are no configs of type {}", config.resource_type))
            })?;
            image.configs.insert_mut(resource, Arc::new(config.configs));
        }
        for session in message.sessions {
            let (node_id, session) = session_from(session)?;
            if !image.requests.restore(node_id, session) {
                return Err(inconsistent(format!("too many requests of node {node_id} are remembered")));
            }
        }
        Ok(image)
    }
}

fn broker_message(broker: &BrokerImage) -> BrokerMessage {
    let (incarnation_high, incarnation_low) = split(broker.incarnation);
    BrokerMessage {
        id: broker.id.get(),
        epoch: broker.epoch.get(),
        incarnation_high,
        incarnation_low,
        endpoints: broker.endpoints.clone(),
        rack: broker.rack.clone(),
        fenced: broker.fenced,
        in_controlled_shutdown: broker.in_controlled_shutdown,
    }
}

fn broker_from(message: BrokerMessage) -> BrokerImage {
    BrokerImage {
        id: NodeId(message.id),
        epoch: BrokerEpoch(message.epoch),
        incarnation: join(message.incarnation_high, message.incarnation_low),
        endpoints: message.endpoints,
        rack: message.rack,
        fenced: message.fenced,
        in_controlled_shutdown: message.in_controlled_shutdown,
    }
}

fn topic_message(topic: &TopicImage) -> TopicMessage {
    let (id_high, id_low) = split(topic.id.0);
    let numbers = |nodes: &[NodeId]| nodes.iter().map(|node| node.get()).collect();
    TopicMessage {
        name: topic.name.to_string(),
        id_high,
        id_low,
        requested_partition_count: topic.requested_partition_count,
        requested_replication_factor: topic.requested_replication_factor,
        partitions: topic
            .partitions
            .iter()
            .map(|partition| PartitionMessage {
                replicas: numbers(&partition.replicas),
                isr: numbers(&partition.isr),
                elr: numbers(&partition.elr),
                leader: partition.leader.map(NodeId::get),
                is_recovering: partition.is_recovering,
                leader_epoch: partition.leader_epoch.get(),
                partition_epoch: partition.partition_epoch.get(),
            })
            .collect(),
    }
}

fn topic_from(message: TopicMessage) -> Result<TopicImage, SnapshotError> {
    let mut partitions = VectorSync::new_sync();
    for partition in message.partitions {
        let replicas: Arc<[NodeId]> = partition.replicas.iter().copied().map(NodeId).collect();
        let isr = if partition.isr == partition.replicas {
            Arc::clone(&replicas)
        } else {
            partition.isr.iter().copied().map(NodeId).collect()
        };
        let partition = PartitionImage {
            replicas,
            isr,
            elr: partition.elr.iter().copied().map(NodeId).collect(),
            leader: partition.leader.map(NodeId),
            is_recovering: partition.is_recovering,
            leader_epoch: LeaderEpoch(partition.leader_epoch),
            partition_epoch: PartitionEpoch(partition.partition_epoch),
        };
        if partition.replicas.is_empty() || !partition.is_consistent() {
            return Err(inconsistent(format!("a partition of topic '{}' is {partition:?}", message.name)));
        }
        partitions.push_back_mut(Arc::new(partition));
    }
    Ok(TopicImage {
        name: message.name.into(),
        id: TopicId(join(message.id_high, message.id_low)),
        requested_partition_count: message.requested_partition_count,
        requested_replication_factor: message.requested_replication_factor,
        partitions,
    })
}

fn session_message(node_id: i32, session: &Session) -> SessionMessage {
    SessionMessage {
        node_id,
        incarnation: session.incarnation,
        answered_below: session.answered_below,
        outcomes: session
            .outcomes
            .iter()
            .map(|(sequence, known)| outcome_message(*sequence, known))
            .collect(),
    }
}

fn outcome_message(sequence: u64, known: &RememberedRequest) -> OutcomeMessage {
    let outputs = known.outputs.iter().map(|(position, output)| {
        let mut message = OutputMessage { position: small(*position), ..OutputMessage::default() };
        match output {
            CommandOutput::Done => {}
            CommandOutput::BrokerRegistered { epoch } => message.broker_epoch = Some(epoch.get()),
            CommandOutput::ProducerIdsAllocated { first, count } => {
                message.first_producer_id = Some(first.get());
                message.producer_id_count = *count;
            }
        }
        message
    });
    OutcomeMessage {
        sequence,
        index: known.index.get(),
        command_count: small(known.command_count),
        outputs: outputs.collect(),
        refusal: known.refusal.as_ref().map(|refusal| RefusalMessage {
            command_position: small(refusal.command_position),
            error_code: i32::from(refusal.error_code.code()),
            reason: refusal.reason.clone(),
        }),
    }
}

fn session_from(message: SessionMessage) -> Result<(i32, Session), SnapshotError> {
    let mut outcomes = RedBlackTreeMapSync::new_sync();
    for outcome in message.outcomes {
        let sequence = outcome.sequence;
        outcomes.insert_mut(sequence, Arc::new(outcome_from(outcome)?));
    }
    let SessionMessage { node_id, incarnation, answered_below, .. } = message;
    Ok((node_id, Session { incarnation, answered_below, outcomes }))
}

fn outcome_from(message: OutcomeMessage) -> Result<RememberedRequest, SnapshotError> {
    let command_count = message.command_count as usize;
    if super::command::COMMANDS_PER_BATCH_MAX < command_count {
        return Err(inconsistent(format!("a request of {command_count} commands is remembered")));
    }
    let outputs = message.outputs.into_iter().map(|output| {
        let told = match (output.broker_epoch, output.first_producer_id) {
            (Some(epoch), _) => CommandOutput::BrokerRegistered { epoch: BrokerEpoch(epoch) },
            (None, Some(first)) => CommandOutput::ProducerIdsAllocated {
                first: ProducerId(first),
                count: output.producer_id_count,
            },
            (None, None) => CommandOutput::Done,
        };
        (output.position as usize, told)
    });
    let refusal = message.refusal.map(|refusal| Refusal {
        command_position: refusal.command_position as usize,
        // A code that only a newer build knows is an error all the same.
        error_code: i16::try_from(refusal.error_code)
            .ok()
            .and_then(ErrorCode::from_code)
            .unwrap_or(ErrorCode::UnknownServerError),
        reason: refusal.reason,
    });
    Ok(RememberedRequest {
        index: LogIndex(message.index),
        command_count,
        outputs: outputs.collect(),
        refusal,
    })
}

/// Batches hold at most `COMMANDS_PER_BATCH_MAX` commands, so this loses nothing.
fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn inconsistent(reason: String) -> SnapshotError {
    SnapshotError::Inconsistent { reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::apply::tests::busy_image;

    #[test]
    fn snapshots_give_back_the_image() {
        for image in [MetadataImage::default(), busy_image()] {
            let encoded = image.encode_snapshot();
            let decoded = MetadataImage::decode_snapshot(&encoded).unwrap();
            assert_eq!(decoded, image);
            assert_eq!(decoded.encode_snapshot(), encoded);
        }
    }

    #[test]
    fn any_damage_is_found() {
        let encoded = busy_image().encode_snapshot();
        for position in 0..encoded.len() {
            let mut damaged = encoded.clone();
            damaged[position] ^= 0x10;
            assert!(MetadataImage::decode_snapshot(&damaged).is_err(), "byte {position}");
            assert!(MetadataImage::decode_snapshot(&encoded[..position]).is_err(), "{position} bytes");
        }
        let mut longer = encoded;
        longer.push(0);
        assert!(MetadataImage::decode_snapshot(&longer).is_err());
    }

    #[test]
    fn newer_snapshots_are_refused_by_name() {
        let mut encoded = MetadataImage::default().encode_snapshot();
        encoded[11] = 9;
        let error = MetadataImage::decode_snapshot(&encoded).unwrap_err();
        assert!(error.to_string().contains("version 9") && error.to_string().contains("upgrade"), "{error}");
        let image = MetadataImage { format_version: 7, ..MetadataImage::default() };
        let error = MetadataImage::decode_snapshot(&image.encode_snapshot()).unwrap_err();
        assert!(error.to_string().contains("format version 7"), "{error}");
    }
}
