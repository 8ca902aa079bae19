//! `DeleteRecords` (key 21, versions 0–2): everything before an offset goes (KIP-107).
//!
//! Offset −1 stands for the high watermark. The answer is the low watermark: the first offset that is still there
//! of any live replica: the request waits for followers, as long as its client wants.

use std::sync::Arc;

use chronik_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use chronik_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};
use chronik_types::{ErrorCode, Now, Offset};

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::controller::is_internal_topic;

use super::outcomes::Outcomes;

/// Stands for the high watermark.
const HIGH_WATERMARK: i64 = -1;
/// The low watermark that goes with an error.
const NO_LOW_WATERMARK: i64 = -1;

type Outcome = Result<Offset, ErrorCode>;

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, request: DeleteRecordsRequest) {
    let now = context.now;
    let wanted: Vec<(String, i32, i64)> = request
        .topics
        .iter()
        .flat_map(|topic| {
            let partitions = topic.partitions.iter();
            partitions.map(|partition| (topic.name.clone(), partition.partition_index, partition.offset))
        })
        .collect();
    let topics = request.topics;
    let outcomes = Outcomes::new(
        broker,
        context,
        wanted.len(),
        Box::new(move |context, outcomes: Vec<Option<Outcome>>| {
            let mut outcomes = outcomes.into_iter();
            let results = topics.into_iter().map(|topic| DeleteRecordsTopicResult {
                partitions: topic
                    .partitions
                    .iter()
                    .zip(&mut outcomes)
                    .map(|(partition, outcome)| {
                        let outcome = outcome.unwrap_or(Err(ErrorCode::RequestTimedOut));
                        DeleteRecordsPartitionResult {
                            partition_index: partition.partition_index,
                            low_watermark: outcome.map_or(NO_LOW_WATERMARK, Offset::get),
                            error_code: outcome.err().unwrap_or(ErrorCode::None).code(),
                        }
                    })
                    .collect(),
                name: topic.name,
            });
            context.reply(&DeleteRecordsResponse { topics: results.collect(), ..Default::default() });
        }),
    );
    for (position, (topic, index, before)) in wanted.into_iter().enumerate() {
        let told = Arc::clone(&outcomes);
        if let Err(code) =
            delete(broker, now, &topic, index, before, move |outcome| told.set(position, outcome))
        {
            outcomes.set(position, Err(code));
        }
    }
    outcomes.wait(request.timeout_ms);
}

/// Moves the start of one partition's log; `done` hears the low watermark once all live replicas have followed.
fn delete(
    broker: &Arc<Broker>,
    now: Now,
    topic: &str,
    index: i32,
    before: i64,
    done: impl FnOnce(Outcome) + Send + 'static,
) -> Result<(), ErrorCode> {
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
    partition.trim(now, before, Box::new(done)).map_err(|error| {
        tracing::warn!(topic, partition = index, before = before.get(), "cannot delete records: {error}");
        error.error_code()
    })
}
