//! Produce (key 0, versions 3–13): batches into the log.
//!
//! The records stay where the socket put them: the log checks the batch header, stamps offset and leader epoch in
//! place and writes the bytes. Topics are named up to version 12 and identified in 13 (KIP-516).
//!
//! A topic that does not exist is answered with `UNKNOWN_TOPIC_OR_PARTITION`, as on Kafka; where topics are created
//! automatically its creation begins at the same time, so that the client's next try finds it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chronik_log::{AppendError, AppendOrigin, Appended, LogError};
use chronik_protocol::produce::{
    LeaderHint, PartitionProduceResult, ProduceRequest, ProduceResults, RecordError, TopicKey,
};
use chronik_protocol::records::{BatchAttributes, BatchHeader, Compression};
use chronik_types::{ErrorCode, Now, TimestampMs};
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::partition::Partition;
