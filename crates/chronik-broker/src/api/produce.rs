//! Produce (key 0, versions 3–13): batches into the log.
//!
//! The records stay where the socket put them: the log checks the batch header, stamps offset and leader epoch in
//! place and writes the bytes. Topics are named up to version 12 and identified in 13 (KIP-516).
//!
//! A partition that a request names more than once is written once, with the records that came last, as on Kafka.
//!
//! A topic that does not exist is answered with `UNKNOWN_TOPIC_OR_PARTITION`, as on Kafka; where topics are created
//! automatically its creation begins at the same time, so that the client's next try finds it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chronik_log::{AppendError, AppendOrigin, Appended, RefusedRecords, UNKNOWN_OFFSET};
use chronik_protocol::produce::{
    NodeEndpoint, ProducePartitionResponse, ProduceRequest, ProduceResponse, ProduceTopic,
    ProduceTopicResponse, RecordError, TopicRef,
};
use chronik_protocol::records::{BatchHeader, parse_client_batch};
use chronik_raft::metadata::MetadataImage;
use chronik_types::{ErrorCode, NodeId, Now, Offset, PartitionIndex, validate_topic_name};
use parking_lot::Mutex;

use crate::broker::Broker;
use crate::context::RequestContext;
use crate::controller::is_internal_topic;
use crate::first_batches::Sequence;
use crate::partition::{Confirmation, Partition};
use crate::reply::Response;
use crate::timers::{Expire, TimerKey};

use super::leader_hints::LeaderHints;

/// The most faulty records of one batch that are described in words. Of the others the answer gives the index, and the
/// client says of them what holds for the batch.
const DESCRIBED_RECORDS_MAX: usize = 20;
/// The client id under which Kafka's own tools may write to internal topics.
const ADMIN_CLIENT_ID: &str = "__admin_client";

/// All replicas in sync.
const ACKS_ALL: i16 = -1;

/// A request whose batches are on their way into the logs. The last one to arrive answers.
struct Progress {
    broker: Arc<Broker>,
    state: Mutex<ProgressState>,
}

struct ProgressState {
    /// Partitions without an outcome yet, and one more until all have been handed out.
    remaining: usize,
    /// Where the outcomes that are still missing go.
    undecided: BTreeSet<(usize, usize)>,
    topics: Vec<ProduceTopicResponse>,
    context: Option<RequestContext>,
    /// Ends the wait for replicas.
    timer: Option<TimerKey>,
    acks: i16,
}

/// One batch that passed the checks made here, and where its outcome goes.
struct Accepted {
    topic_at: usize,
    partition_at: usize,
    partition: Arc<Partition>,
    records: BytesMut,
    /// Of an idempotent producer's batch.
    sequence: Option<Sequence>,
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
    let timeout_ms = u64::try_from(request.timeout_ms).unwrap_or(0);
    let acks = request.acks;
    let requested_topics = keep_last(request.topics);
    if request.transactional_id.is_none() && has_transactional_records(&requested_topics) {
        refuse_all(broker, context, requested_topics, acks, ErrorCode::TransactionalIdAuthorizationFailed);
        return;
    }
    let mut accepted = Vec::new();
    let mut missing = BTreeSet::new();
    let mut topics = Vec::with_capacity(requested_topics.len());
    for (topic_at, topic) in requested_topics.into_iter().enumerate() {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for (partition_at, wanted) in topic.partitions.into_iter().enumerate() {
            let request = Wanted { topic: &topic.topic, index: wanted.index, acks, frame_bytes };
            let sequence = wanted.records.as_ref().and_then(|records| sequence_of(records));
            match check(broker, &context, &image, &request, wanted.records).and_then(|checked| {
                in_order(broker, context.now, &request, sequence, &checked.0).map(|()| checked)
            }) {
                Ok((partition, records)) => {
                    accepted.push(Accepted { topic_at, partition_at, partition, records, sequence });
                    partitions.push(ProducePartitionResponse::error(wanted.index, ErrorCode::None));
                }
                Err((code, message)) => {
                    if code.is_retriable() {
                        let now = context.now.monotonic;
                        broker.first_batches.refused(now, &topic.topic, wanted.index, sequence);
                    }
                    if let (ErrorCode::UnknownTopicOrPartition, TopicRef::Name(name)) = (code, &topic.topic)
                        && image.topic(name).is_none()
                        && validate_topic_name(name).is_ok()
                        && !is_internal_topic(name)
                    {
                        missing.insert(name.clone());
                    }
                    let mut refused = ProducePartitionResponse::error(wanted.index, code);
                    refused.error_message = message;
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
        broker: Arc::clone(broker),
        state: Mutex::new(ProgressState {
            remaining: accepted.len() + 1,
            undecided: accepted.iter().map(|batch| (batch.topic_at, batch.partition_at)).collect(),
            topics,
            context: Some(context),
            timer: None,
            acks,
        }),
    });
    let confirmation = if acks == ACKS_ALL { Confirmation::Committed } else { Confirmation::Appended };
    for Accepted { topic_at, partition_at, partition, records, sequence } in accepted {
        let progress = Arc::clone(&progress);
        let appended_to = Arc::clone(&partition);
        let log = Arc::clone(partition.log());
        let done = move |now: Now, result: Result<Appended, AppendError>| {
            let may_come_again = result.as_ref().is_err_and(|error| error.error_code().is_retriable());
            if may_come_again {
                progress.note_refused(now, (topic_at, partition_at), sequence);
            }
            // The minimum is looked at again now: with fewer in sync the records may yet be committed, or not.
            let is_lonely = confirmation == Confirmation::Committed
                && result.is_ok()
                && appended_to.has_enough_in_sync() == Some(false);
            progress.settle(|state| {
                state.undecided.remove(&(topic_at, partition_at));
                if let Some(slot) = state.slot(topic_at, partition_at) {
                    fill(slot, log.log_start_offset(), result);
                    if is_lonely {
                        *slot = ProducePartitionResponse::error(
                            slot.index,
                            ErrorCode::NotEnoughReplicasAfterAppend,
                        );
                    }
                }
            });
        };
        partition.append_with(now, records, AppendOrigin::Client, confirmation, Box::new(done));
    }
    progress.settle(|_| ());
    if acks == ACKS_ALL {
        progress.wait_at_most(now, timeout_ms);
    }
}

/// One partition of a request, as far as the checks need it.
struct Wanted<'a> {
    topic: &'a TopicRef,
    index: PartitionIndex,
    acks: i16,
    frame_bytes: usize,
}

/// Makes each partition appear once, where it is first named, with the records that it is last given.
fn keep_last(topics: Vec<ProduceTopic>) -> Vec<ProduceTopic> {
    if topics.iter().map(|topic| topic.partitions.len()).sum::<usize>() < 2 {
        return topics;
    }
    let mut kept: Vec<ProduceTopic> = Vec::with_capacity(topics.len());
    let mut seen = BTreeMap::<TopicRef, (usize, BTreeMap<PartitionIndex, usize>)>::new();
    for ProduceTopic { topic, partitions } in topics {
        let (position, partitions_at) = seen.entry(topic).or_insert_with_key(|topic| {
            kept.push(ProduceTopic {
                topic: topic.clone(),
                partitions: Vec::with_capacity(partitions.len()),
            });
            (kept.len() - 1, BTreeMap::new())
        });
        let Some(topic) = kept.get_mut(*position) else { continue };
        for partition in partitions {
            let earlier = partitions_at.get(&partition.index).and_then(|&at| topic.partitions.get_mut(at));
            if let Some(earlier) = earlier {
                *earlier = partition;
            } else {
                partitions_at.insert(partition.index, topic.partitions.len());
                topic.partitions.push(partition);
            }
        }
    }
    kept
}

fn has_transactional_records(topics: &[ProduceTopic]) -> bool {
    let mut batches =
        topics.iter().flat_map(|topic| &topic.partitions).filter_map(|found| found.records.as_ref());
    batches.any(|records| {
        BatchHeader::parse(records)
            .is_ok_and(|header| header.producer_id.get() >= 0 && header.attributes.is_transactional())
    })
}

/// Refuses the request as a whole.
fn refuse_all(
    broker: &Broker,
    context: RequestContext,
    topics: Vec<ProduceTopic>,
    acks: i16,
    code: ErrorCode,
) {
    let refuse = |topic: ProduceTopic| {
        let partitions = topic.partitions.iter();
        ProduceTopicResponse {
            partitions: partitions.map(|found| ProducePartitionResponse::error(found.index, code)).collect(),
            topic: topic.topic,
        }
    };
    answer(broker, context, topics.into_iter().map(refuse).collect(), acks);
}

type Refusal = (ErrorCode, Option<String>);

/// Finds the partition and checks what the log cannot know: acks, leadership, replicas, the request's version. The
/// order is Kafka's, so that a request with several faults is refused for the same one.
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
    let state = topic.partition(wanted.index).ok_or((ErrorCode::UnknownTopicOrPartition, None))?;
    let Some(records) = records else {
        return Err((
            ErrorCode::InvalidRecord,
            Some("the request has no records for this partition".to_owned()),
        ));
    };
    let header = parse_client_batch(&records, context.version())
        .map_err(|error| (error.error_code(), Some(error.to_string())))?;
    if header.attributes.is_transactional() {
        let message = "this cluster has no transactions yet".to_owned();
        return Err((ErrorCode::InvalidTxnState, Some(message)));
    }
    if !(-1..=1).contains(&wanted.acks) {
        return Err((ErrorCode::InvalidRequiredAcks, None));
    }
    let is_admin = context.header.client_id.as_deref() == Some(ADMIN_CLIENT_ID);
    if is_internal_topic(&topic.name) && !is_admin {
        return Err((
            ErrorCode::InvalidTopicException,
            Some(format!("Cannot append to internal topic {}", topic.name)),
        ));
    }
    let partition = broker.partition_of(topic, wanted.index).map_err(|code| (code, None))?;
    partition.check_leader().map_err(|code| (code, None))?;
    if wanted.acks == ACKS_ALL {
        // A topic with fewer replicas than its minimum asks for all of them.
        let min = broker.min_insync_replicas(image, &topic.name).min(state.replicas.len());
        check_in_sync(min, state.isr.len(), broker.node_id())?;
    }
    Ok((partition, own(records, wanted.frame_bytes)))
}

/// Where an idempotent producer's batch stands among its others.
fn sequence_of(records: &[u8]) -> Option<Sequence> {
    let header = BatchHeader::parse(records).ok()?;
    (header.producer_id.get() >= 0).then_some(Sequence {
        producer: header.producer_id,
        epoch: header.producer_epoch,
        base: header.base_sequence,
    })
}

/// Has a producer's batches wait for its first one, where this broker has refused that.
fn in_order(
    broker: &Broker,
    now: Now,
    wanted: &Wanted<'_>,
    sequence: Option<Sequence>,
    partition: &Partition,
) -> Result<(), Refusal> {
    let Some(sequence) = sequence.filter(|_| broker.first_batches.has_any()) else {
        return Ok(());
    };
    let Sequence { producer, epoch, base } = sequence;
    let is_known = || partition.log().knows_producer(producer, epoch);
    if !broker.first_batches.is_early(now.monotonic, wanted.topic, wanted.index, sequence, is_known) {
        return Ok(());
    }
    let message = format!(
        "producer {producer} sent sequence {base}, and its first batch was refused; send it again after that"
    );
    Err((ErrorCode::LeaderNotAvailable, Some(message)))
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

fn fill(
    slot: &mut ProducePartitionResponse,
    log_start_offset: Offset,
    result: Result<Appended, AppendError>,
) {
    match result {
        // What the producer has sent is in the log and committed as it asked for, and where it is nobody remembers: clients
        // take this for a success without an offset.
        Ok(appended) if appended.first_offset == UNKNOWN_OFFSET => {
            slot.error_code = ErrorCode::DuplicateSequenceNumber;
            slot.log_start_offset = appended.log_start_offset;
        }
        Ok(appended) => {
            slot.base_offset = appended.first_offset;
            slot.log_append_time = appended.log_append_time;
            slot.log_start_offset = appended.log_start_offset;
        }
        Err(error) => {
            slot.error_code = error.error_code();
            slot.error_message = Some(error.to_string());
            if tells_log_start(slot.error_code) {
                slot.log_start_offset = log_start_offset;
            }
            if let AppendError::Records(refused) = &error {
                slot.record_errors = record_errors(refused);
            }
        }
    }
}

impl Progress {
    /// The log has refused a batch for what passes. Those of its producer that come meanwhile wait for it (ADR 14).
    fn note_refused(&self, now: Now, (topic_at, partition_at): (usize, usize), sequence: Option<Sequence>) {
        let state = self.state.lock();
        let Some(topic) = state.topics.get(topic_at) else { return };
        let Some(partition) = topic.partitions.get(partition_at) else { return };
        let (topic, index) = (topic.topic.clone(), partition.index);
        drop(state);
        self.broker.first_batches.refused(now.monotonic, &topic, index, sequence);
    }
}

impl ProgressState {
    fn slot(&mut self, topic_at: usize, partition_at: usize) -> Option<&mut ProducePartitionResponse> {
        self.topics.get_mut(topic_at)?.partitions.get_mut(partition_at)
    }
}

/// Whether Kafka gives the log's first offset along with this error.
fn tells_log_start(code: ErrorCode) -> bool {
    !matches!(
        code,
        ErrorCode::UnknownTopicOrPartition
            | ErrorCode::NotLeaderOrFollower
            | ErrorCode::MessageTooLarge
            | ErrorCode::RecordListTooLarge
            | ErrorCode::CorruptMessage
            | ErrorCode::KafkaStorageError
    )
}

fn record_errors(refused: &RefusedRecords) -> Vec<RecordError> {
    let errors = refused.faults.iter().enumerate().map(|(count, fault)| RecordError {
        batch_index: fault.index,
        message: (count < DESCRIBED_RECORDS_MAX).then(|| refused.describe(fault)),
    });
    errors.collect()
}

impl Progress {
    /// Notes one outcome; the last one answers.
    fn settle(&self, note: impl FnOnce(&mut ProgressState)) {
        let (context, topics, acks, timer) = {
            let mut state = self.state.lock();
            note(&mut state);
            state.remaining -= 1;
            if state.remaining > 0 {
                return;
            }
            // Where the time was up before, the answer has left already.
            let Some(context) = state.context.take() else { return };
            (context, std::mem::take(&mut state.topics), state.acks, state.timer.take())
        };
        if let Some(timer) = timer {
            self.broker.timers.disarm(timer);
        }
        answer(&self.broker, context, topics, acks);
    }

    /// Waits for replicas no longer than the client does.
    fn wait_at_most(self: &Arc<Self>, now: Now, timeout_ms: u64) {
        if self.state.lock().context.is_none() {
            return;
        }
        let deadline = now.monotonic.plus_ms(timeout_ms);
        let timer = self.broker.timers.arm(deadline, Arc::clone(self) as Arc<dyn Expire>);
        let is_over = {
            let mut state = self.state.lock();
            state.timer = Some(timer);
            state.context.is_none()
        };
        if is_over {
            self.broker.timers.disarm(timer);
        }
    }
}

impl Expire for Progress {
    /// The records are in the leader's log and may yet be committed; the client hears that nobody knows.
    fn expire(self: Arc<Self>, _now: Now) {
        let (context, topics, acks) = {
            let mut state = self.state.lock();
            let Some(context) = state.context.take() else { return };
            for (topic_at, partition_at) in std::mem::take(&mut state.undecided) {
                if let Some(slot) = state.slot(topic_at, partition_at) {
                    *slot = ProducePartitionResponse::error(slot.index, ErrorCode::RequestTimedOut);
                }
            }
            (context, std::mem::take(&mut state.topics), state.acks)
        };
        answer(&self.broker, context, topics, acks);
    }
}

/// Names the leaders that this broker is not (KIP-951). It looks only now, when the answer leaves: the image is the one
/// that deposed this broker, or a later one, also for those who have waited.
fn hint_leaders(
    broker: &Broker,
    context: &RequestContext,
    topics: &mut [ProduceTopicResponse],
) -> Vec<NodeEndpoint> {
    let mut hints = LeaderHints::default();
    if topics.iter().flat_map(|topic| &topic.partitions).all(|partition| partition.error_code.is_none()) {
        return hints.endpoints();
    }
    let image = broker.metadata.image();
    for topic in topics {
        let named = match &topic.topic {
            TopicRef::Name(name) => image.topic(name),
            TopicRef::Id(id) => image.topic_by_id(*id),
        };
        for partition in &mut topic.partitions {
            let place = (named.map(AsRef::as_ref), partition.index);
            let code = partition.error_code;
            partition.current_leader = hints.hint(broker, &context.connection, &image, place, code);
        }
    }
    hints.endpoints()
}

fn answer(broker: &Broker, context: RequestContext, mut topics: Vec<ProduceTopicResponse>, acks: i16) {
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
    let node_endpoints = hint_leaders(broker, &context, &mut topics);
    let response = ProduceResponse { topics, throttle_time_ms: 0, node_endpoints };
    match response.encode_frame(context.header.correlation_id, context.version()) {
        Ok(frame) => context.send(Response::from(frame)),
        Err(error) => context.close(&error),
    }
}
