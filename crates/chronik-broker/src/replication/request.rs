//! Fetch requests of a follower, and what their answers say.

use bytes::Bytes;
use chronik_protocol::frame::{FrameError, decode_response, encode_request};
use chronik_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState};
use chronik_protocol::messages::fetch_response::PartitionData;
use chronik_protocol::messages::{FetchRequest, FetchResponse};
use chronik_replication::follower::EpochEnd;
use chronik_replication::{FetchPlan, FetchPosition};
use chronik_types::{BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, Offset, PartitionIndex, TopicId};

use super::Key;
use crate::partition::LeaderAnswer;

/// Names topics by id, says the broker's epoch, and carries where logs part ways.
const VERSION: i16 = 16;
/// What a follower calls itself.
const CLIENT_ID: &str = "chronik-replica-fetcher";

/// What bounds a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) max_wait_ms: i32,
    pub(super) max_bytes: i32,
    pub(super) partition_max_bytes: i32,
}

/// A request as a frame.
pub(super) fn encode(
    node: NodeId,
    broker_epoch: BrokerEpoch,
    bounds: Bounds,
    plan: &FetchPlan<Key>,
) -> Result<Bytes, FrameError> {
    let mut topics: Vec<FetchTopic> = Vec::new();
    for ((topic_id, partition), position) in &plan.fetch {
        let wanted = FetchPartition {
            partition: partition.get(),
            current_leader_epoch: position.current_leader_epoch.get(),
            fetch_offset: position.fetch_offset.get(),
            last_fetched_epoch: position.last_fetched_epoch.get(),
            log_start_offset: position.log_start_offset.get(),
            partition_max_bytes: bounds.partition_max_bytes,
            ..FetchPartition::default()
        };
        match topics.last_mut().filter(|topic| topic.topic_id == *topic_id) {
            Some(topic) => topic.partitions.push(wanted),
            None => topics.push(FetchTopic {
                topic_id: *topic_id,
                partitions: vec![wanted],
                ..FetchTopic::default()
            }),
        }
    }
    let mut forgotten: Vec<ForgottenTopic> = Vec::new();
    for (topic_id, partition) in &plan.forget {
        match forgotten.last_mut().filter(|topic| topic.topic_id == *topic_id) {
            Some(topic) => topic.partitions.push(partition.get()),
            None => forgotten.push(ForgottenTopic {
                topic_id: *topic_id,
                partitions: vec![partition.get()],
                ..ForgottenTopic::default()
            }),
        }
    }
    let request = FetchRequest {
        replica_state: ReplicaState { replica_id: node.get(), replica_epoch: broker_epoch.get() },
        max_wait_ms: bounds.max_wait_ms,
        min_bytes: 1,
        max_bytes: bounds.max_bytes,
        session_id: plan.session_id,
        session_epoch: plan.session_epoch,
        topics,
        forgotten_topics_data: forgotten,
        ..FetchRequest::default()
    };
    encode_request(0, Some(CLIENT_ID), &request, VERSION)
}

/// A leader's answer.
pub(super) struct Answered {
    pub(super) error: ErrorCode,
    pub(super) session_id: i32,
    pub(super) partitions: Vec<(Key, PartitionData)>,
}

/// Reads an answer.
pub(super) fn decode(frame: &Bytes) -> Result<Answered, FrameError> {
    let (_, response) = decode_response::<FetchResponse>(frame, VERSION)?;
    let partitions = response
        .responses
        .into_iter()
        .flat_map(|topic| {
            let topic_id: TopicId = topic.topic_id;
            topic
                .partitions
                .into_iter()
                .map(move |data| ((topic_id, PartitionIndex(data.partition_index)), data))
        })
        .collect();
    let error = ErrorCode::from_code(response.error_code).unwrap_or(ErrorCode::UnknownServerError);
    Ok(Answered { error, session_id: response.session_id, partitions })
}

/// What the answer means for a partition that was asked for at `asked`.
pub(super) fn answer_of(asked: FetchPosition, data: PartitionData) -> LeaderAnswer {
    let diverging = (data.diverging_epoch.end_offset >= 0).then_some(EpochEnd {
        leader_epoch: LeaderEpoch(data.diverging_epoch.epoch),
        end_offset: Offset(data.diverging_epoch.end_offset),
    });
    LeaderAnswer {
        leader_epoch: asked.current_leader_epoch,
        fetched_from: asked.fetch_offset,
        error: ErrorCode::from_code(data.error_code).unwrap_or(ErrorCode::UnknownServerError),
        high_watermark: Offset(data.high_watermark),
        log_start_offset: Offset(data.log_start_offset),
        diverging,
        records: data.records.unwrap_or_default(),
    }
}
