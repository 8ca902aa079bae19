//! The answer to a fetch: header bytes and record data, none of it copied.

use std::sync::Arc;

use bytes::Bytes;
use chronik_log::{FileRegion, ReadData};
use chronik_protocol::fetch::{
    EpochEndOffset, FetchPartitionResponse, FetchResponse, FetchTopicResponse, Payload, Segment, TopicRef,
};
use chronik_types::{ErrorCode, Offset, PartitionIndex};

use crate::api::leader_hints::LeaderHints;
use crate::broker::Broker;
use crate::context::RequestContext;
use crate::fetch_session::{FetchContext, SessionKey};
use crate::reply::{Response, ResponsePart};

use super::read::{Outcome, Reading};
use super::{FetchPlan, TOPIC_IDS_FROM, known_follower};

/// Record data on its way into a response.
enum RecordData {
    Memory(Bytes),
    File(FileRegion),
}

impl Payload for RecordData {
    fn len_bytes(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File(region) => usize::try_from(region.len_bytes).unwrap_or(usize::MAX),
        }
    }
}

impl From<RecordData> for ResponsePart {
    fn from(data: RecordData) -> Self {
        match data {
            RecordData::Memory(bytes) => Self::Bytes(bytes),
            RecordData::File(region) => {
                Self::File { file: region.file, position: region.position, len_bytes: region.len_bytes }
            }
        }
    }
}

/// Refuses the fetch as a whole.
pub(super) fn error(context: RequestContext, error: ErrorCode) {
    send(context, FetchResponse { error_code: error, ..Default::default() });
}

/// Answers with what was read; in a session, only with what is new.
pub(super) fn fetched(broker: &Broker, context: RequestContext, plan: &FetchPlan, reading: Reading) {
    let by_id = context.version() >= TOPIC_IDS_FROM;
    let shared_session = match &plan.session {
        FetchContext::Sessionless => None,
        FetchContext::Full => {
            let partitions = plan.targets.iter().map(|target| (target.key.clone(), target.fetch));
            let follower = plan.limits.replica.and_then(|replica| known_follower(broker, replica));
            broker.fetch_sessions.create(context.now.monotonic, follower, by_id, partitions)
        }
        FetchContext::Incremental(session) => Some(Arc::clone(session)),
    };
    let mut session = shared_session.as_ref().map(|session| session.lock());
    let session_id = session.as_ref().map_or(0, |session| session.id());
    let says_everything = !matches!(plan.session, FetchContext::Incremental(_));
    let mut topics: Vec<FetchTopicResponse<RecordData>> = Vec::new();
    let mut last: Option<&SessionKey> = None;
    let image = broker.metadata.image();
    let mut hints = LeaderHints::default();
    for (target, outcome) in plan.targets.iter().zip(reading.outcomes) {
        if let Ok(partition) = &target.partition {
            partition.traffic.fetched(outcome.error.is_none(), outcome.len_bytes);
        }
        let is_news = session.as_mut().is_none_or(|session| session.tell(&target.key, &outcome.told()));
        if !says_everything && !is_news {
            continue;
        }
        let same_topic =
            last.is_some_and(|last| last.topic_id == target.key.topic_id && last.topic == target.key.topic);
        last = Some(&target.key);
        let error = outcome.error;
        let mut answer = partition_answer(target.key.partition, outcome, plan.limits.read_committed);
        if !error.is_none() {
            let topic =
                if by_id { image.topic_by_id(target.key.topic_id) } else { image.topic(&target.key.topic) };
            let place = (topic.map(AsRef::as_ref), PartitionIndex(target.key.partition));
            answer.current_leader = hints.hint(broker, &context.connection, &image, place, error);
        }
        match topics.last_mut() {
            Some(topic) if same_topic => topic.partitions.push(answer),
            Some(_) | None => {
                let topic = if by_id {
                    TopicRef::Id(target.key.topic_id)
                } else {
                    TopicRef::Name(target.key.topic.to_string())
                };
                topics.push(FetchTopicResponse { topic, partitions: vec![answer] });
            }
        }
    }
    drop(session);
    let node_endpoints = hints.endpoints();
    send(context, FetchResponse { session_id, topics, node_endpoints, ..Default::default() });
}

fn partition_answer(
    index: i32,
    outcome: Outcome,
    read_committed: bool,
) -> FetchPartitionResponse<RecordData> {
    let mut answer = FetchPartitionResponse::error(PartitionIndex(index), outcome.error);
    answer.high_watermark = Offset(outcome.high_watermark);
    answer.last_stable_offset = Offset(outcome.last_stable_offset);
    answer.log_start_offset = Offset(outcome.log_start_offset);
    answer.diverging_epoch = outcome
        .diverging_epoch
        .map(|end| EpochEndOffset { epoch: end.leader_epoch, end_offset: end.end_offset });
    // A reader of committed data is told which transactions to pass over; the log holds none.
    answer.aborted_transactions = (read_committed && outcome.error.is_none()).then(Vec::new);
    answer.records = match outcome.data {
        ReadData::Empty => Vec::new(),
        ReadData::Memory(batches) => batches.into_iter().map(RecordData::Memory).collect(),
        ReadData::File(region) => vec![RecordData::File(region)],
    };
    answer
}

fn send(context: RequestContext, response: FetchResponse<RecordData>) {
    match response.into_segments(context.header.correlation_id, context.version()) {
        Ok(segments) => {
            let parts = segments
                .into_iter()
                .map(|segment| match segment {
                    Segment::Bytes(bytes) => ResponsePart::Bytes(bytes),
                    Segment::Payload(data) => ResponsePart::from(data),
                })
                .collect();
            context.send(Response { parts });
        }
        Err(error) => context.close(&error),
    }
}
