//! Fetch, the hot path: record data goes from the log to the socket without passing through the response.
//!
//! The generated messages of the same name say the same; tests hold the two against each other.

mod request;
mod response;

pub use request::{FetchPartition, FetchRequest, FetchTopic, ForgottenTopic};
pub use response::{
    AbortedTransaction, EpochEndOffset, FetchPartitionResponse, FetchResponse, FetchTopicResponse, Payload,
    Segment, SnapshotId,
};

pub use crate::topic_ref::{LeaderIdAndEpoch, NodeEndpoint, TopicRef};
