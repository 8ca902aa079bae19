//! One partition's log.
//!
//! A `Log` is shared behind an `Arc` and synchronizes itself. Everything that changes it (append, truncate, delete
//! records, roll) takes the writer's lock and runs one after the other. Reads, lookups and getters take only the
//! view's lock, for a few memory operations, and never wait for an append's write: they may run at any time, from
//! any number of threads.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chronik_types::{LeaderEpoch, Now, Offset, TopicId, TopicPartition};

use crate::{
    AppendError, AppendOrigin, Appended, LogConfig, LogError, OffsetQuery, PendingBatch, ProducerSummary,
    ReadRequest, ReadResult, ReplicaAppended, TimestampAndOffset,
};

/// One partition's log.
pub struct Log {}

/// The end of a leader epoch in a log (KIP-101).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// The largest epoch at or below the one asked for that the log holds.
    pub leader_epoch: LeaderEpoch,
    /// Where the next epoch starts, or the log's end.
    pub end_offset: Offset,
}

impl Log {
    /// The partition.
    pub fn topic_partition(&self) -> &TopicPartition {
        unimplemented!()
    }

    /// The topic's id.
    pub fn topic_id(&self) -> TopicId {
        unimplemented!()
    }

    /// The first offset that the log holds.
    pub fn log_start_offset(&self) -> Offset {
        unimplemented!()
    }

    /// The offset that the next record gets.
    pub fn log_end_offset(&self) -> Offset {
        unimplemented!()
    }

    /// The high watermark that was last set; recovered from the checkpoint, never above the log's end.
    pub fn high_watermark(&self) -> Offset {
        unimplemented!()
    }

    /// Remembers the high watermark. Retention and `delete_records` stop at it. Kept within the log's bounds.
    pub fn set_high_watermark(&self, _high_watermark: Offset) {
        unimplemented!()
    }

    /// Everything below this offset is durable.
    pub fn recovery_point(&self) -> Offset {
        unimplemented!()
    }

    /// The smallest first offset of the transactions that are open, if any.
    pub fn first_unstable_offset(&self) -> Option<Offset> {
        unimplemented!()
    }

    /// The settings in force.
    pub fn config(&self) -> Arc<LogConfig> {
        unimplemented!()
    }

    /// Replaces the settings.
    pub fn update_config(&self, _config: Arc<LogConfig>) {
        unimplemented!()
    }

    /// Appends one batch under `leader_epoch`.
    pub fn append(
        &self,
        _now: Now,
        _batch: BytesMut,
        _origin: AppendOrigin,
        _leader_epoch: LeaderEpoch,
    ) -> Result<Appended, AppendError> {
        unimplemented!()
    }

    /// Appends several batches with one vectored write. Each has its own result, in order: one that is refused
    /// does not fail the others.
    pub fn append_many(
        &self,
        _now: Now,
        _batches: Vec<PendingBatch>,
        _leader_epoch: LeaderEpoch,
    ) -> Vec<Result<Appended, AppendError>> {
        unimplemented!()
    }

    /// Appends what was fetched from the leader, verbatim: whole batches, offsets at or after the log's end. A
    /// last batch that is cut off is ignored.
    pub fn append_as_follower(&self, _now: Now, _records: Bytes) -> Result<ReplicaAppended, AppendError> {
        unimplemented!()
    }

    /// Reads batches from an offset on. Fails when the offset lies outside the log; an offset at or above the
    /// upper bound gives no data.
    pub fn read(&self, _request: ReadRequest) -> Result<ReadResult, LogError> {
        unimplemented!()
    }

    /// Finds an offset by time.
    pub fn offset_for(&self, _query: OffsetQuery) -> Result<Option<TimestampAndOffset>, LogError> {
        unimplemented!()
    }

    /// The newest leader epoch that the log holds.
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        unimplemented!()
    }

    /// Notes that `leader_epoch` begins at the log's end, before its leader appends anything.
    pub fn begin_epoch(&self, _leader_epoch: LeaderEpoch) -> Result<(), LogError> {
        unimplemented!()
    }

    /// Where `leader_epoch` ends, or `None` where the log does not know.
    pub fn end_offset_for_epoch(&self, _leader_epoch: LeaderEpoch) -> Option<EpochEndOffset> {
        unimplemented!()
    }

    /// Cuts the log so that it ends at or before `offset`. False where it ended there already.
    pub fn truncate_to(&self, _now: Now, _offset: Offset) -> Result<bool, LogError> {
        unimplemented!()
    }

    /// Throws everything away and starts at `offset`.
    pub fn truncate_fully_and_start_at(&self, _now: Now, _offset: Offset) -> Result<(), LogError> {
        unimplemented!()
    }

    /// Moves the log's start to `offset` (KIP-107), which must not be above the high watermark, and gives the new
    /// start. Whole segments before it go with the next maintenance.
    pub fn delete_records(&self, _now: Now, _offset: Offset) -> Result<Offset, LogError> {
        unimplemented!()
    }

    /// Bytes of record data.
    pub fn size_bytes(&self) -> u64 {
        unimplemented!()
    }

    /// Producers with state in this log (DescribeProducers).
    pub fn active_producers(&self) -> Vec<ProducerSummary> {
        unimplemented!()
    }
}
