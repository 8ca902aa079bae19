//! `DeleteRecords` (key 21, versions 0–2): everything before an offset goes (KIP-107).
//!
//! Offset −1 stands for the high watermark. The answer is the low watermark: the first offset that is still there.
//! With one replica it is moved at once; nothing has to be waited for.

use std::sync::Arc;

use chronik_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use chronik_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use chronik_types::{ErrorCode, Offset};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::controller::is_internal_topic;

/// Stands for the high watermark.
const HIGH_WATERMARK: i64 = -1;
/// The low watermark that goes with an error.
const NO_LOW_WATERMARK: i64 = -1;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: DeleteRecordsRequest) {
    let topics = request
        .topics
        .into_iter()
        .map(|topic| {
            let partitions = topic
                .partitions
                .iter()
                .map(|partition| {
                    let index = partition.partition_index;
                    let deleted = delete(broker, &topic.name, index, partition.offset);
                    DeleteRecordsPartitionResult {
                        partition_index: index,
                        low_watermark: deleted.map_or(NO_LOW_WATERMARK, Offset::get),
                        error_code: deleted.err().unwrap_or(ErrorCode::None).code(),
                    }
                })
                .collect();
            DeleteRecordsTopicResult { name: topic.name, partitions }
        })
        .collect();
    context.reply(&DeleteRecordsResponse { topics, ..Default::default() });
}

/// Moves the start of one partition's log and gives its low watermark.
fn delete(broker: &Arc<Broker>, topic: &str, index: i32, before: i64) -> Result<Offset, ErrorCode> {
    let partition = match broker.partition_by_name(topic, index) {
        // What belongs to the broker is not the client's to delete; a topic that is not there is no such topic.
        Ok(_) | Err(ErrorCode::NotLeaderOrFollower) if is_internal_topic(topic) => {
            return Err(ErrorCode::InvalidTopicException);
        }
        other => other?,
    };
    partition.check_leader()?;
    let log = partition.log();
    // A topic that is only compacted keeps the last record of every key, whoever asks.
    if !log.config().cleanup_policy.delete {
        return Err(ErrorCode::PolicyViolation);
    }
    let high_watermark = partition.high_watermark();
    let before = if before == HIGH_WATERMARK { high_watermark } else { Offset(before) };
    if before < Offset::ZERO || high_watermark < before {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    log.delete_records(before).map_err(|error| {
        tracing::warn!(topic, partition = index, before = before.get(), "cannot delete records: {error}");
        error.error_code()
    })
}
