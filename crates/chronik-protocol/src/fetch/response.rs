//! The Fetch response, versions 4 to 18, written around record data that it never touches.

use bytes::{Bytes, BytesMut};
use chronik_types::{ErrorCode, LeaderEpoch, NodeId, Offset, PartitionIndex, ProducerId};

use crate::frame::FrameError;
use crate::messages::{self, Message};
use crate::topic_ref::{LeaderIdAndEpoch, NodeEndpoint, TopicRef, begin_frame, finish_frame};
use crate::wire::{EncodeError, Writer};

/// Record data that has a length and lies elsewhere: shared bytes, a region of a file.
pub trait Payload {
    /// Its length.
    fn len_bytes(&self) -> usize;
}

impl Payload for Bytes {
    fn len_bytes(&self) -> usize {
        self.len()
    }
}

/// One stretch of a response frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment<P> {
    /// Bytes of the response itself.
    Bytes(Bytes),
    /// Record data.
    Payload(P),
}

/// A Fetch response.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchResponse<P> {
    /// How long the client should wait before it sends more, in milliseconds.
    pub throttle_time_ms: i32,
    /// What went wrong with the request as a whole; left out before version 7.
    pub error_code: ErrorCode,
    /// The fetch session, 0 for none; left out before version 7.
    pub session_id: i32,
    /// The topics; in a session, only those with something new.
    pub topics: Vec<FetchTopicResponse<P>>,
    /// Where the leaders are that partitions name; left out before version 16.
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// The answer for one topic.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchTopicResponse<P> {
    /// The topic, as the request named it.
    pub topic: TopicRef,
    /// The answers for its partitions.
    pub partitions: Vec<FetchPartitionResponse<P>>,
}

/// The answer for one partition.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchPartitionResponse<P> {
    /// The partition.
    pub index: PartitionIndex,
    /// What went wrong, or [`ErrorCode::None`].
    pub error_code: ErrorCode,
    /// The high watermark, −1 with an error.
    pub high_watermark: Offset,
    /// The last stable offset, −1 with an error.
    pub last_stable_offset: Offset,
    /// The log's first offset, −1 with an error; left out before version 5.
    pub log_start_offset: Offset,
    /// Where the follower's log and this one part (KIP-595); left out before version 12.
    pub diverging_epoch: Option<EpochEndOffset>,
    /// The leader to go to instead (KIP-951); left out before version 12.
    pub current_leader: Option<LeaderIdAndEpoch>,
    /// The snapshot to fetch first; left out before version 12.
    pub snapshot_id: Option<SnapshotId>,
    /// Aborted transactions in the data. `None`, sent as null, for readers of uncommitted data; a reader of committed
    /// data gets a list, empty or not.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// The replica that a consumer should fetch from instead, −1 for none; left out before version 11.
    pub preferred_read_replica: NodeId,
    /// The record data, in order. None at all is sent as length 0; there is no null.
    pub records: Vec<P>,
}

/// Where an epoch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// The largest epoch that both logs may have.
    pub epoch: LeaderEpoch,
    /// Where it ends in this log.
    pub end_offset: Offset,
}

/// A snapshot of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotId {
    /// Where it ends.
    pub end_offset: Offset,
    /// The epoch there.
    pub epoch: LeaderEpoch,
}

/// A transaction whose records are to be passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// The producer.
    pub producer_id: ProducerId,
    /// The transaction's first offset in this partition.
    pub first_offset: Offset,
}

impl<P> Default for FetchResponse<P> {
    fn default() -> Self {
        Self {
            throttle_time_ms: 0,
            error_code: ErrorCode::None,
            session_id: 0,
            topics: Vec::new(),
            node_endpoints: Vec::new(),
        }
    }
}

impl<P> FetchPartitionResponse<P> {
    /// An answer that says what went wrong, and nothing else.
    pub const fn error(index: PartitionIndex, error_code: ErrorCode) -> Self {
        Self {
            index,
            error_code,
            high_watermark: Offset(-1),
            last_stable_offset: Offset(-1),
            log_start_offset: Offset(-1),
            diverging_epoch: None,
            current_leader: None,
            snapshot_id: None,
            aborted_transactions: None,
            preferred_read_replica: NodeId(-1),
            records: Vec::new(),
        }
    }
}

/// What a partition takes in a response without its records: enough for most to be written without growing.
const PARTITION_BYTES: usize = 64;

/// The bytes of a response as they are written, and the record data that goes between them.
struct Builder<P> {
    writer: Writer,
    /// Each piece of record data, and how much of the writer's bytes goes before it.
    payloads: Vec<(usize, P)>,
    payload_bytes: usize,
}

impl<P: Payload> FetchResponse<P> {
    /// The whole frame, its length included, as segments to be sent one after the other.
    pub fn into_segments(self, correlation_id: i32, version: i16) -> Result<Vec<Segment<P>>, FrameError> {
        let name = <messages::FetchResponse as Message>::NAME;
        self.build(correlation_id, version).map_err(|source| FrameError::Encode { name, version, source })
    }

    fn build(self, correlation_id: i32, version: i16) -> Result<Vec<Segment<P>>, EncodeError> {
        if !messages::FetchResponse::has_version(version) {
            let message = <messages::FetchResponse as Message>::NAME;
            return Err(EncodeError::Version { message, version });
        }
        let flexible = messages::FetchResponse::is_flexible(version);
        let partition_count: usize = self.topics.iter().map(|topic| topic.partitions.len()).sum();
        let capacity_bytes = partition_count
            .saturating_add(self.topics.len())
            .saturating_add(1)
            .saturating_mul(PARTITION_BYTES);
        let mut builder = Builder {
            writer: begin_frame(capacity_bytes, correlation_id, flexible),
            payloads: Vec::with_capacity(partition_count),
            payload_bytes: 0,
        };
        builder.response(self, version, flexible)?;
        finish_frame(&mut builder.writer, builder.payload_bytes)?;
        Ok(builder.into_segments())
    }
}

impl<P: Payload> Builder<P> {
    fn response(
        &mut self,
        response: FetchResponse<P>,
        version: i16,
        flexible: bool,
    ) -> Result<(), EncodeError> {
        self.writer.i32(response.throttle_time_ms);
        if version >= 7 {
            self.writer.i16(response.error_code.code());
            self.writer.i32(response.session_id);
        }
        self.writer.array_count(response.topics.len(), flexible, "FetchResponse.responses")?;
        for topic in response.topics {
            topic.topic.write(&mut self.writer, flexible, version, "FetchableTopicResponse.topic")?;
            let field = "FetchableTopicResponse.partitions";
            self.writer.array_count(topic.partitions.len(), flexible, field)?;
            for partition in topic.partitions {
                self.partition(partition, version, flexible)?;
            }
            if flexible {
                self.writer.no_tags();
            }
        }
        if flexible {
            NodeEndpoint::write_all(&response.node_endpoints, &mut self.writer, version >= 16)?;
        }
        Ok(())
    }

    fn partition(
        &mut self,
        partition: FetchPartitionResponse<P>,
        version: i16,
        flexible: bool,
    ) -> Result<(), EncodeError> {
        let writer = &mut self.writer;
        writer.i32(partition.index.get());
        writer.i16(partition.error_code.code());
        writer.i64(partition.high_watermark.get());
        writer.i64(partition.last_stable_offset.get());
        if version >= 5 {
            writer.i64(partition.log_start_offset.get());
        }
        let aborted = partition.aborted_transactions.as_deref();
        let field = "PartitionData.aborted_transactions";
        writer.array_opt(aborted, flexible, true, field, |writer, transaction| {
            writer.i64(transaction.producer_id.get());
            writer.i64(transaction.first_offset.get());
            if flexible {
                writer.no_tags();
            }
            Ok(())
        })?;
        if version >= 11 {
            writer.i32(partition.preferred_read_replica.get());
        }
        let records_bytes = partition.records.iter().map(P::len_bytes).fold(0, usize::saturating_add);
        writer.array_count(records_bytes, flexible, "PartitionData.records")?;
        let before = writer.len();
        self.payload_bytes = self.payload_bytes.saturating_add(records_bytes);
        let records = partition.records.into_iter().filter(|payload| payload.len_bytes() > 0);
        self.payloads.extend(records.map(|payload| (before, payload)));
        if flexible {
            write_tags(
                &mut self.writer,
                partition.diverging_epoch,
                partition.current_leader,
                partition.snapshot_id,
            )?;
        }
        Ok(())
    }

    fn into_segments(self) -> Vec<Segment<P>> {
        let mut segments = Vec::with_capacity(self.payloads.len().saturating_mul(2).saturating_add(1));
        let mut rest: BytesMut = self.writer.into_bytes_mut();
        let mut passed = 0_usize;
        for (before, payload) in self.payloads {
            let bytes = rest.split_to(before.saturating_sub(passed).min(rest.len()));
            passed = before;
            if !bytes.is_empty() {
                segments.push(Segment::Bytes(bytes.freeze()));
            }
            segments.push(Segment::Payload(payload));
        }
        if !rest.is_empty() {
            segments.push(Segment::Bytes(rest.freeze()));
        }
        segments
    }
}

fn write_tags(
    writer: &mut Writer,
    diverging_epoch: Option<EpochEndOffset>,
    current_leader: Option<LeaderIdAndEpoch>,
    snapshot_id: Option<SnapshotId>,
) -> Result<(), EncodeError> {
    let mut tags = writer.begin_tags();
    if let Some(EpochEndOffset { epoch, end_offset }) = diverging_epoch {
        writer.tag(&mut tags, 0, |writer| {
            writer.i32(epoch.get());
            writer.i64(end_offset.get());
            writer.no_tags();
            Ok(())
        })?;
    }
    if let Some(leader) = current_leader.filter(|&leader| leader != LeaderIdAndEpoch::UNKNOWN) {
        writer.tag(&mut tags, 1, |writer| {
            leader.write(writer);
            Ok(())
        })?;
    }
    if let Some(SnapshotId { end_offset, epoch }) = snapshot_id {
        writer.tag(&mut tags, 2, |writer| {
            writer.i64(end_offset.get());
            writer.i32(epoch.get());
            writer.no_tags();
            Ok(())
        })?;
    }
    writer.end_tags(&tags);
    Ok(())
}
