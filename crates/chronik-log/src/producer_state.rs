//! What a log remembers of its idempotent producers.

use chronik_types::{Offset, ProducerEpoch, ProducerId, TimestampMs};

/// One producer as DescribeProducers shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerSummary {
    /// The producer.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: ProducerEpoch,
    /// The last sequence number appended, −1 where there is none.
    pub last_sequence: i32,
    /// The timestamp of its last batch.
    pub last_timestamp: TimestampMs,
    /// The epoch of the coordinator that wrote its last marker, −1 where there is none.
    pub coordinator_epoch: i32,
    /// Where its open transaction starts, if it has one.
    pub current_txn_start_offset: Option<Offset>,
}
