//! Produce (key 0, versions 3–13): batches into the log.
//!
//! The records stay where the socket put them: the log checks the batch header, stamps offset and leader epoch in
//! place and writes the bytes. Topics are named up to version 12 and identified in 13 (KIP-516).
//!
//! A topic that does not exist is answered with `UNKNOWN_TOPIC_OR_PARTITION`, as on Kafka; where topics are created
//! automatically its creation begins at the same time, so that the client's next try finds it.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chronik_log::{AppendError, AppendOrigin, Appended};
use chronik_protocol::produce::{
    NodeEndpoint, ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopicResponse,
    RecordError, TopicRef,
};
use chronik_protocol::records::{BatchHeader, Compression};
use chronik_raft::metadata::MetadataImage;
use chronik_types::{ErrorCode, NodeId, Now, PartitionIndex, validate_topic_name};
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::controller::is_internal_topic;
use crate::partition::Partition;
use crate::reply::Response;

use super::leader_hints::LeaderHints;

/// The first version that may carry zstd (KIP-110).
const ZSTD_FROM: i16 = 7;
/// The client id under which Kafka's own tools may write to internal topics.
const ADMIN_CLIENT_ID: &str = "__admin_client";

/// A request whose batches are on their way into the logs. The last one to arrive answers.
struct Progress {
    state: Mutex<ProgressState>,
}

struct ProgressState {
    /// Partitions without an outcome yet, and one more until all have been handed out.
    remaining: usize,
    topics: Vec<ProduceTopicResponse>,
    node_endpoints: Vec<NodeEndpoint>,
    context: Option<RequestContext>,
    acks: i16,
}

/// One batch that passed the checks made here, and where its outcome goes.
struct Accepted {
    topic_at: usize,
    partition_at: usize,
    partition: Arc<Partition>,
    records: BytesMut,
}

pub(super) fn handle(broker: &Arc<Broker>, context: RequestContext, body: Bytes) {
    // Nobody else holds the frame by now, so this costs nothing; a copy is the fallback of the type, not of the path.
    let body = body.try_into_mut().unwrap_or_else(|shared| BytesMut::from(shared.as_ref()));
    let version = context.version();
    let frame_bytes = body.len();
    let request = match ProduceRequest::parse(body, version) {
        Ok(request) => request,
        Err(error) => {
            context.close(&error);
            return;
        }
    };
    let image = broker.metadata.image();
    let acks = request.acks;
    let is_transactional_request = request.transactional_id.is_some();
    let mut accepted = Vec::new();
    let mut missing = BTreeSet::new();
    let mut hints = LeaderHints::default();
    let mut topics = Vec::with_capacity(request.topics.len());
    for (topic_at, topic) in request.topics.into_iter().enumerate() {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for (partition_at, wanted) in topic.partitions.into_iter().enumerate() {
            let request = Wanted {
                topic: &topic.topic,
                index: wanted.index,
                acks,
                is_transactional_request,
                frame_bytes,
            };
            match check(broker, &context, &image, &request, wanted.records) {
                Ok((partition, records)) => {
                    accepted.push(Accepted { topic_at, partition_at, partition, records });
                    partitions.push(ProducePartitionResponse::error(wanted.index, ErrorCode::None));
                }
                Err((code, message)) => {
                    if let (ErrorCode::UnknownTopicOrPartition, TopicRef::Name(name)) = (code, &topic.topic)
                        && image.topic(name).is_none()
                        && validate_topic_name(name).is_ok()
                        && !is_internal_topic(name)
                    {
                        missing.insert(name.clone());
                    }
                    let mut refused = ProducePartitionResponse::error(wanted.index, code);
                    refused.error_message = message;
                    let named = match &topic.topic {
                        TopicRef::Name(name) => image.topic(name),
                        TopicRef::Id(id) => image.topic_by_id(*id),
                    };
                    let place = (named.map(AsRef::as_ref), wanted.index);
                    refused.current_leader = hints.hint(broker, &context.connection, &image, place, code);
                    partitions.push(refused);
                }
            }
        }
        topics.push(ProduceTopicResponse { topic: topic.topic, partitions });
    }
    if !missing.is_empty() && broker.config.auto_create_topics_enable {
        broker.auto_create_topics(missing, Box::new(|_| ()));
    }
    let now = context.now;
    let progress = Arc::new(Progress {
        state: Mutex::new(ProgressState {
            remaining: accepted.len() + 1,
            topics,
            node_endpoints: hints.endpoints(),
            context: Some(context),
            acks,
        }),
    });
    for Accepted { topic_at, partition_at, partition, records } in accepted {
        let progress = Arc::clone(&progress);
        let done = move |_: Now, result: Result<Appended, AppendError>| {
            progress.settle(|topics| {
                if let Some(slot) =
                    topics.get_mut(topic_at).and_then(|topic| topic.partitions.get_mut(partition_at))
                {
                    fill(slot, result);
                }
            });
        };
        partition.append(now, records, AppendOrigin::Client, Box::new(done));
    }
    progress.settle(|_| ());
}

/// One partition of a request, as far as the checks need it.
struct Wanted<'a> {
    topic: &'a TopicRef,
    index: PartitionIndex,
    acks: i16,
    is_transactional_request: bool,
    frame_bytes: usize,
}

type Refusal = (ErrorCode, Option<String>);

/// Finds the partition and checks what the log cannot know: acks, leadership, replicas, the request's version.
fn check(
    broker: &Broker,
    context: &RequestContext,
    image: &MetadataImage,
    wanted: &Wanted<'_>,
    records: Option<BytesMut>,
) -> Result<(Arc<Partition>, BytesMut), Refusal> {
    let topic = match wanted.topic {
        TopicRef::Name(name) => image.topic(name).ok_or((ErrorCode::UnknownTopicOrPartition, None))?,
        TopicRef::Id(id) => image.topic_by_id(*id).ok_or((ErrorCode::UnknownTopicId, None))?,
    };
    let is_admin = context.header.client_id.as_deref() == Some(ADMIN_CLIENT_ID);
    if is_internal_topic(&topic.name) && !is_admin {
        return Err((
            ErrorCode::InvalidTopicException,
            Some(format!("Cannot append to internal topic {}", topic.name)),
        ));
    }
    let Some(records) = records else {
        return Err((
            ErrorCode::InvalidRecord,
            Some("the request has no records for this partition".to_owned()),
        ));
    };
    // What cannot be parsed is left to the log, which says what is wrong with it.
    if let Ok(header) = BatchHeader::parse(&records) {
        if header.attributes.compression() == Some(Compression::Zstd) && context.version() < ZSTD_FROM {
            let message = "Produce requests with version below 7 cannot carry zstd".to_owned();
            return Err((ErrorCode::UnsupportedCompressionType, Some(message)));
        }
        if header.attributes.is_transactional() || wanted.is_transactional_request {
            let message = "this cluster has no transactions yet".to_owned();
            return Err((ErrorCode::InvalidTxnState, Some(message)));
        }
    }
    if !(-1..=1).contains(&wanted.acks) {
        return Err((ErrorCode::InvalidRequiredAcks, None));
    }
    let partition = broker.partition_of(topic, wanted.index).map_err(|code| (code, None))?;
    partition.check_leader().map_err(|code| (code, None))?;
    if wanted.acks == -1 {
        let state = topic.partition(wanted.index).ok_or((ErrorCode::UnknownTopicOrPartition, None))?;
        // A topic with fewer replicas than its minimum asks for all of them.
        let min = broker.min_insync_replicas(image, &topic.name).min(state.replicas.len());
        check_in_sync(min, state.isr.len(), broker.node_id())?;
    }
    Ok((partition, own(records, wanted.frame_bytes)))
}

/// Batches live on in the tail ring, each holding the memory of the whole request. One that is a small part of its
/// request is copied out, so that it does not hold more than twice what it is counted for.
fn own(records: BytesMut, frame_bytes: usize) -> BytesMut {
    if records.len() < frame_bytes / 2 { BytesMut::from(records.as_ref()) } else { records }
}

fn check_in_sync(min: usize, in_sync: usize, node: NodeId) -> Result<(), Refusal> {
    if in_sync >= min {
        return Ok(());
    }
    let message =
        format!("{in_sync} replicas are in sync on leader {node} and min.insync.replicas asks for {min}");
    Err((ErrorCode::NotEnoughReplicas, Some(message)))
}

fn fill(slot: &mut ProducePartitionResponse, result: Result<Appended, AppendError>) {
    match result {
        Ok(appended) => {
            slot.base_offset = appended.first_offset;
            slot.log_append_time = appended.log_append_time;
            slot.log_start_offset = appended.log_start_offset;
        }
        Err(error) => {
            slot.error_code = error.error_code();
            slot.error_message = Some(error.to_string());
            if matches!(slot.error_code, ErrorCode::InvalidRecord | ErrorCode::InvalidTimestamp) {
                slot.record_errors.push(RecordError { batch_index: 0, message: Some(error.to_string()) });
            }
        }
    }
}

impl Progress {
    /// Notes one outcome; the last one answers.
    fn settle(&self, note: impl FnOnce(&mut Vec<ProduceTopicResponse>)) {
        let (context, topics, node_endpoints, acks) = {
            let mut state = self.state.lock();
            note(&mut state.topics);
            state.remaining -= 1;
            if state.remaining > 0 {
                return;
            }
            let Some(context) = state.context.take() else { return };
            (
                context,
                std::mem::take(&mut state.topics),
                std::mem::take(&mut state.node_endpoints),
                state.acks,
            )
        };
        answer(context, topics, node_endpoints, acks);
    }
}

fn answer(
    context: RequestContext,
    topics: Vec<ProduceTopicResponse>,
    node_endpoints: Vec<NodeEndpoint>,
    acks: i16,
) {
    if acks == 0 {
        // Nobody reads an answer. A failure is shown by closing the connection, which makes the client refresh
        // what it knows.
        let failed = topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .find(|partition| !partition.error_code.is_none());
        match failed {
            None => context.nothing(),
            Some(partition) => {
                let reason = format!("a produce with acks=0 failed: {}", partition.error_code);
                context.close_because(reason);
            }
        }
        return;
    }
    let response = ProduceResponse { topics, throttle_time_ms: 0, node_endpoints };
    match response.encode_frame(context.header.correlation_id, context.version()) {
        Ok(frame) => context.send(Response::from(frame)),
        Err(error) => context.close(&error),
    }
}
