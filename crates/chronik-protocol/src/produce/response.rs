//! The Produce response, versions 3 to 13, written into one buffer.

use bytes::Bytes;
use chronik_types::{ErrorCode, Offset, PartitionIndex, TimestampMs};

use crate::frame::FrameError;
use crate::messages::{self, Message};
use crate::topic_ref::{LeaderIdAndEpoch, NodeEndpoint, TopicRef, begin_frame, finish_frame};
use crate::wire::{EncodeError, Writer};

/// A Produce response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProduceResponse {
    /// The topics, as the request named them.
    pub topics: Vec<ProduceTopicResponse>,
    /// How long the client should wait before it sends more, in milliseconds.
    pub throttle_time_ms: i32,
    /// Where the leaders are that partitions name; left out before version 10.
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// The answer for one topic.
#[derive(Clone, Debug, PartialEq)]
pub struct ProduceTopicResponse {
    /// The topic, as the request named it.
    pub topic: TopicRef,
    /// The answers for its partitions.
    pub partitions: Vec<ProducePartitionResponse>,
}

/// The answer for one partition.
#[derive(Clone, Debug, PartialEq)]
pub struct ProducePartitionResponse {
    /// The partition.
    pub index: PartitionIndex,
    /// What went wrong, or [`ErrorCode::None`].
    pub error_code: ErrorCode,
    /// The offset that the first record got; −1 with an error.
    pub base_offset: Offset,
    /// The broker's time under `LogAppendTime`, otherwise −1.
    pub log_append_time: TimestampMs,
    /// The log's first offset; −1 with an error. Left out before version 5.
    pub log_start_offset: Offset,
    /// The records at fault, where single records are (KIP-467); left out before version 8.
    pub record_errors: Vec<RecordError>,
    /// The error in words; left out before version 8.
    pub error_message: Option<String>,
    /// The leader to go to instead, with `NOT_LEADER_OR_FOLLOWER`; left out before version 10.
    pub current_leader: Option<LeaderIdAndEpoch>,
}

/// One record that was refused, and the batch with it.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordError {
    /// The record, counted from the first of its batch.
    pub batch_index: i32,
    /// Why.
    pub message: Option<String>,
}

impl ProducePartitionResponse {
    /// An answer that says what went wrong, and nothing else.
    pub const fn error(index: PartitionIndex, error_code: ErrorCode) -> Self {
        Self {
            index,
            error_code,
            base_offset: Offset(-1),
            log_append_time: TimestampMs::NONE,
            log_start_offset: Offset(-1),
            record_errors: Vec::new(),
            error_message: None,
            current_leader: None,
        }
    }
}

/// What a partition takes in a response without words: enough for most responses to be written without growing.
const PARTITION_BYTES: usize = 48;

impl ProduceResponse {
    /// The whole frame, its length included.
    pub fn encode_frame(&self, correlation_id: i32, version: i16) -> Result<Bytes, FrameError> {
        let name = <messages::ProduceResponse as Message>::NAME;
        let encode = || {
            if !messages::ProduceResponse::has_version(version) {
                return Err(EncodeError::Version { message: name, version });
            }
            let partition_count: usize = self.topics.iter().map(|topic| topic.partitions.len()).sum();
            let capacity_bytes = partition_count
                .saturating_add(self.topics.len())
                .saturating_add(1)
                .saturating_mul(PARTITION_BYTES);
            let flexible = messages::ProduceResponse::is_flexible(version);
            let mut writer = begin_frame(capacity_bytes, correlation_id, flexible);
            self.write(&mut writer, version, flexible)?;
            finish_frame(&mut writer, 0)?;
            Ok(writer.into_bytes())
        };
        encode().map_err(|source| FrameError::Encode { name, version, source })
    }

    fn write(&self, writer: &mut Writer, version: i16, flexible: bool) -> Result<(), EncodeError> {
        writer.array(&self.topics, flexible, "ProduceResponse.responses", |writer, topic| {
            topic.topic.write(writer, flexible, version, "TopicProduceResponse.topic")?;
            let field = "TopicProduceResponse.partition_responses";
            writer.array(&topic.partitions, flexible, field, |writer, partition| {
                partition.write(writer, version, flexible)
            })?;
            if flexible {
                writer.no_tags();
            }
            Ok(())
        })?;
        writer.i32(self.throttle_time_ms);
        if flexible {
            NodeEndpoint::write_all(&self.node_endpoints, writer, version >= 10)?;
        }
        Ok(())
    }
}

impl ProducePartitionResponse {
    fn write(&self, writer: &mut Writer, version: i16, flexible: bool) -> Result<(), EncodeError> {
        writer.i32(self.index.get());
        writer.i16(self.error_code.code());
        writer.i64(self.base_offset.get());
        writer.i64(self.log_append_time.get());
        if version >= 5 {
            writer.i64(self.log_start_offset.get());
        }
        if version >= 8 {
            let field = "PartitionProduceResponse.record_errors";
            writer.array(&self.record_errors, flexible, field, |writer, error| {
                writer.i32(error.batch_index);
                let field = "BatchIndexAndErrorMessage.batch_index_error_message";
                writer.string_opt(error.message.as_deref(), flexible, true, field)?;
                if flexible {
                    writer.no_tags();
                }
                Ok(())
            })?;
            let field = "PartitionProduceResponse.error_message";
            writer.string_opt(self.error_message.as_deref(), flexible, true, field)?;
        }
        if flexible {
            match self.current_leader.filter(|&leader| leader != LeaderIdAndEpoch::UNKNOWN) {
                Some(leader) if version >= 10 => {
                    let mut tags = writer.begin_tags();
                    writer.tag(&mut tags, 0, |writer| {
                        leader.write(writer);
                        Ok(())
                    })?;
                    writer.end_tags(&tags);
                }
                Some(_) | None => writer.no_tags(),
            }
        }
        Ok(())
    }
}
