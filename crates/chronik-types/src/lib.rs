//! Ids, offsets, epochs and error codes: the words that every other crate uses.
//!
//! Values only. Nothing here parses bytes, reads a clock or touches a disk.
//! Each quantity that Kafka sends as a bare integer has a type of its own, so
//! that a leader epoch cannot be passed where a partition epoch is meant.

mod error_code;
mod ids;
mod time;
mod topic;

pub use error_code::ErrorCode;
pub use ids::{
    BrokerEpoch, LeaderEpoch, LogIndex, NodeId, Offset, PartitionEpoch, PartitionIndex, ProducerEpoch,
    ProducerId, Term,
};
pub use time::{MonotonicMs, Now, TimestampMs};
pub use topic::{TOPIC_NAME_BYTES_MAX, TopicId, TopicNameError, TopicPartition, validate_topic_name};
