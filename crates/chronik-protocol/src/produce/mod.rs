//! Produce, the hot path: record data is split out of the request's frame and never copied.
//!
//! The generated messages of the same name say the same; tests hold the two against each other.

mod cursor;
mod request;
mod response;

pub use request::{ProducePartition, ProduceRequest, ProduceTopic};
pub use response::{ProducePartitionResponse, ProduceResponse, ProduceTopicResponse, RecordError};

pub use crate::topic_ref::{LeaderIdAndEpoch, NodeEndpoint, TopicRef};
