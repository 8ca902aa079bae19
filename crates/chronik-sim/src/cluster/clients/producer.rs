//! Producers. One that is idempotent sends each batch until it is acknowledged, in the order of its partition and with
//! a few under way at a time, as Kafka's own client does; the other sends each batch once, and asks for the leader's
//! word only.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use chronik_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use chronik_protocol::messages::{
    InitProducerIdRequest, InitProducerIdResponse, ProduceRequest, ProduceResponse,
};
use chronik_protocol::records::{BatchBuilder, BatchOptions};
use chronik_types::{ErrorCode, ProducerEpoch, ProducerId, TimestampMs, TopicId};

use super::Context;
use super::routing::Routing;
use crate::cluster::checkers::{PartitionKey, Rule, Value};
use crate::cluster::network::Answer;
use crate::cluster::plan::Plan;
use crate::cluster::sabotage::Sabotage;

/// Names topics by id, so that a record never gets into a topic of the same name that came later.
const VERSION: i16 = 13;
const INIT_VERSION: i16 = 4;
/// Tokens of what is no batch.
const ROUTING: u64 = 0;
const INIT: u64 = 1;
const FIRST_BATCH: u64 = 2;
/// The wall clock when the world begins.
const START_MS: i64 = 1_700_000_000_000;

struct Batch {
    values: Vec<Value>,
    base_sequence: i32,
    /// The request that it is in.
    sent: Option<u64>,
}

/// What is on its way to one partition.
#[derive(Default)]
struct Lane {
    batches: VecDeque<Batch>,
    next_sequence: i32,
    /// Whether the broker knows the producer: it takes any first sequence of one that it does not know, as Kafka does.
    is_known: bool,
    /// Its first batch was refused the last time because others may come before it, or as nobody leads.
    is_told_to_wait: bool,
}

pub(in crate::cluster) struct Producer {
    number: u32,
    is_idempotent: bool,
    /// Whether each record is sent until all replicas in sync have it.
    is_strict: bool,
    in_flight_max: usize,
    pause_ms: u64,
    partition_count: i32,
    names: Vec<String>,
    id: Option<(i64, i16)>,
    is_asking_id: bool,
    routing: Routing,
    lanes: BTreeMap<(TopicId, i32), Lane>,
    /// The lane of each request under way.
    sent: BTreeMap<u64, (TopicId, i32)>,
    next_token: u64,
    next_value: u64,
    next_at_ms: u64,
    retry_at_ms: u64,
    wakes_at_ms: u64,
    is_finishing: bool,
}

impl Producer {
    pub(super) fn new(number: usize, plan: &Plan, is_idempotent: bool, sabotage: Option<Sabotage>) -> Self {
        let names: Vec<String> = (0..plan.topic_count).map(|topic| format!("t{topic}")).collect();
        Self {
            number: u32::try_from(number).unwrap_or(0),
            is_idempotent: is_idempotent && sabotage != Some(Sabotage::ForgetProducers),
            is_strict: is_idempotent,
            // A snapshot of the producers' state knows the last batch of each, as on Kafka. Where one is written every few
            // batches, a broker that starts again may not know those before it.
            in_flight_max: if is_idempotent && plan.segment_bytes >= 1 << 20 { 3 } else { 1 },
            pause_ms: plan.produce_pause_ms,
            partition_count: plan.partition_count,
            routing: Routing::new(names.clone()),
            names,
            id: None,
            is_asking_id: false,
            lanes: BTreeMap::new(),
            sent: BTreeMap::new(),
            next_token: FIRST_BATCH,
            next_value: 0,
            next_at_ms: 0,
            retry_at_ms: 0,
            wakes_at_ms: 0,
            is_finishing: false,
        }
    }

    pub(super) fn finish(&mut self) {
        self.is_finishing = true;
    }

    /// Whether nothing waits to be acknowledged.
    pub(in crate::cluster) fn is_idle(&self) -> bool {
        self.lanes.values().all(|lane| lane.batches.is_empty())
    }

    /// The same, but for what a leader wants earlier batches for.
    pub(in crate::cluster) fn is_idle_or_told_to_wait(&self) -> bool {
        self.lanes.values().all(|lane| lane.batches.is_empty() || lane.is_told_to_wait)
    }

    pub(super) fn wake(&mut self, context: &mut Context<'_>) {
        if context.now_ms < self.wakes_at_ms {
            return;
        }
        self.routing.refresh(context, ROUTING);
        if self.is_idempotent && self.id.is_none() && !self.is_asking_id {
            self.is_asking_id = true;
            let node = context.any_node();
            let request = InitProducerIdRequest {
                transactional_id: None,
                transaction_timeout_ms: 60_000,
                ..InitProducerIdRequest::default()
            };
            context.call(node, INIT_VERSION, &request, INIT);
        }
        let may_begin = !self.is_finishing && (self.id.is_some() || !self.is_idempotent);
        if may_begin && self.next_at_ms <= context.now_ms {
            self.begin_batch(context);
            self.next_at_ms = context.now_ms + 1 + context.rng.below(self.pause_ms * 2);
        }
        self.pump(context);
        self.plan_wake(context);
    }

    fn plan_wake(&mut self, context: &mut Context<'_>) {
        if self.is_finishing && self.is_idle() {
            return;
        }
        let next_ms =
            if self.is_finishing { context.now_ms + 20 } else { self.next_at_ms.min(context.now_ms + 20) };
        self.wakes_at_ms = next_ms.max(context.now_ms + 1);
        context.wake_in(self.wakes_at_ms - context.now_ms);
    }

    fn begin_batch(&mut self, context: &mut Context<'_>) {
        let name = &self.names[context.rng.index(self.names.len())];
        let Some(topic) = self.routing.topics.get(name) else { return };
        // Nothing else tells a producer that has nothing under way of the next topic of this name.
        if context.checkers.is_deleted(topic.id) {
            self.routing.distrust();
            return;
        }
        let partition =
            i32::try_from(context.rng.below(self.partition_count.unsigned_abs().into())).unwrap_or(0);
        let lane = self.lanes.entry((topic.id, partition)).or_default();
        // What nobody takes does not pile up without end.
        if lane.batches.len() >= 10 {
            return;
        }
        let count = 1 + context.rng.below(4);
        let values = (0..count)
            .map(|_| {
                self.next_value += 1;
                Value { producer: self.number, number: self.next_value, topic: topic.id }
            })
            .collect();
        let base_sequence = lane.next_sequence;
        lane.next_sequence += i32::try_from(count).unwrap_or(0);
        lane.batches.push_back(Batch { values, base_sequence, sent: None });
    }

    /// Sends what may be sent: in order, and never a batch whose predecessor has to be sent again.
    fn pump(&mut self, context: &mut Context<'_>) {
        if context.now_ms < self.retry_at_ms {
            return;
        }
        let keys: Vec<(TopicId, i32)> = self.lanes.keys().copied().collect();
        for key in keys {
            let (topic_id, partition) = key;
            let leader = self.routing.by_id(topic_id).and_then(|topic| topic.leader(partition).node);
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            // A node that has heard of nothing for long may know the topic no more, or not yet; only one that was deleted
            // takes with it what was not acknowledged.
            if context.checkers.is_deleted(topic_id) {
                if lane.batches.iter().all(|batch| batch.sent.is_none()) {
                    self.lanes.remove(&key);
                }
                continue;
            }
            let Some(leader) = leader else {
                self.routing.distrust();
                continue;
            };
            let first_waiting = lane.batches.iter().position(|batch| batch.sent.is_none());
            let Some(first) = first_waiting else { continue };
            if lane.batches.iter().skip(first).any(|batch| batch.sent.is_some()) {
                continue;
            }
            let in_flight_max = if lane.is_known { self.in_flight_max } else { 1 };
            for position in first..lane.batches.len().min(in_flight_max) {
                let Some(batch) = lane.batches.get_mut(position) else { break };
                let token = self.next_token;
                self.next_token += 1;
                batch.sent = Some(token);
                self.sent.insert(token, key);
                let producer = self.id.filter(|_| self.is_idempotent);
                let Some(records) = encode(context, batch, producer) else { return };
                let is_misled = context.sabotage == Some(Sabotage::WriteToAnotherTopic);
                let mut others =
                    self.routing.topics.values().map(|topic| topic.id).filter(|id| *id != topic_id);
                let topic_id =
                    others.next().filter(|_| is_misled && context.rng.chance(20)).unwrap_or(topic_id);
                let request = ProduceRequest {
                    acks: if self.is_strict { -1 } else { 1 },
                    timeout_ms: 1_000,
                    topic_data: vec![TopicProduceData {
                        topic_id,
                        partition_data: vec![PartitionProduceData {
                            index: partition,
                            records: Some(records),
                        }],
                        ..TopicProduceData::default()
                    }],
                    ..ProduceRequest::default()
                };
                context.call(leader, VERSION, &request, token);
            }
        }
    }

    pub(super) fn answered(&mut self, context: &mut Context<'_>, token: u64, answer: Option<&Answer>) {
        match token {
            ROUTING => self.routing.answered(context, answer),
            INIT => {
                self.is_asking_id = false;
                if let Some(response) = context.read::<InitProducerIdResponse>(answer, INIT_VERSION)
                    && response.error_code == 0
                {
                    let is_old = context.sabotage == Some(Sabotage::GiveIdsAgain);
                    let id = if is_old { 0 } else { response.producer_id };
                    context.checkers.producer_id(id, response.producer_epoch);
                    self.id = Some((id, response.producer_epoch));
                }
            }
            token => {
                let Some(key) = self.sent.remove(&token) else { return };
                let response = context.read::<ProduceResponse>(answer, VERSION);
                self.take_outcome(context, token, key, response);
            }
        }
        if context.now_ms >= self.retry_at_ms {
            self.routing.refresh(context, ROUTING);
            self.pump(context);
        }
    }

    fn take_outcome(
        &mut self,
        context: &mut Context<'_>,
        token: u64,
        key: (TopicId, i32),
        response: Option<ProduceResponse>,
    ) {
        let is_strict = self.is_strict;
        let part =
            response.as_ref().and_then(|response| response.responses.first()?.partition_responses.first());
        let outcome = part.map(|part| {
            let told = (part.error_code, part.base_offset);
            let told = context.sabotage.map_or(told, |sabotage| sabotage.told_outcome(told, context.rng));
            (ErrorCode::from_code(told.0), told.1)
        });
        let Some(lane) = self.lanes.get_mut(&key) else { return };
        let Some(position) = lane.batches.iter().position(|batch| batch.sent == Some(token)) else { return };
        let error = match outcome {
            Some((Some(error), _)) => error,
            Some((None, _)) => ErrorCode::UnknownServerError,
            None => ErrorCode::NetworkException,
        };
        if position == 0 {
            lane.is_told_to_wait = error == ErrorCode::LeaderNotAvailable;
        }
        let first = lane.batches[position].values.first();
        let partition = PartitionKey { topic: key.0, partition: key.1 };
        let was_deleted = first.is_some_and(|value| context.checkers.is_deleted_value(partition, *value));
        match error {
            ErrorCode::None | ErrorCode::DuplicateSequenceNumber => {
                lane.is_known = true;
                let Some(batch) = lane.batches.remove(position) else { return };
                let offset = outcome.map_or(-1, |(_, offset)| offset);
                // A batch that has been there is acknowledged, and where it is the broker does not say.
                if is_strict {
                    let key = PartitionKey { topic: key.0, partition: key.1 };
                    context.counts.acknowledged += batch.values.len() as u64;
                    context.trace.note(format_args!(
                        "{} acknowledged {key} offset {offset}: {} values from {}",
                        context.now_ms,
                        batch.values.len(),
                        batch.values.first().map_or(0, |value| value.number)
                    ));
                    context.checkers.acknowledged(key, offset, &batch.values);
                }
                return;
            }
            // It has been there, and is not needed any more.
            ErrorCode::OutOfOrderSequenceNumber | ErrorCode::UnknownProducerId
                if position == 0 && was_deleted =>
            {
                lane.batches.remove(position);
                return;
            }
            ErrorCode::OutOfOrderSequenceNumber | ErrorCode::UnknownProducerId if position == 0 => {
                let text = format!(
                    "producer {} is refused with {error} in partition {} of {}, where everything before was \
                     acknowledged (sequence {})",
                    self.number, key.1, key.0, lane.batches[position].base_sequence
                );
                context.checkers.report(Rule::Order, text);
            }
            // These pass; the first two where what comes before is sent again.
            ErrorCode::OutOfOrderSequenceNumber
            | ErrorCode::UnknownProducerId
            | ErrorCode::NetworkException
            | ErrorCode::NotLeaderOrFollower
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::NotEnoughReplicasAfterAppend
            | ErrorCode::RequestTimedOut
            | ErrorCode::KafkaStorageError => {}
            // A client tells its application of others.
            _ => {
                let text = format!("producer {} is refused with {error}", self.number);
                context.checkers.report(Rule::Errors, text);
            }
        }
        if is_strict || context.sabotage == Some(Sabotage::SendTwice) {
            lane.batches[position].sent = None;
        } else {
            lane.batches.remove(position);
        }
        context.trace.note(format_args!("{} producer {}: {error} in {}", context.now_ms, self.number, key.1));
        self.routing.distrust();
        self.retry_at_ms = context.now_ms + 10 + context.rng.below(60);
    }
}

fn encode(context: &mut Context<'_>, batch: &Batch, producer: Option<(i64, i16)>) -> Option<Bytes> {
    let (producer_id, producer_epoch, base_sequence) =
        producer.map_or((-1, -1, -1), |(id, epoch)| (id, epoch, batch.base_sequence));
    let mut builder = BatchBuilder::new(BatchOptions {
        producer_id: ProducerId(producer_id),
        producer_epoch: ProducerEpoch(producer_epoch),
        base_sequence,
        ..BatchOptions::default()
    });
    let time = START_MS.saturating_add_unsigned(context.now_ms);
    for value in &batch.values {
        if let Err(error) = builder.append(TimestampMs(time), None, Some(&value.encode()), &[]) {
            context.checkers.defect(&format!("a record cannot be written: {error}"));
            return None;
        }
    }
    match builder.finish() {
        Ok(bytes) => Some(bytes.freeze()),
        Err(error) => {
            context.checkers.defect(&format!("a batch cannot be written: {error}"));
            None
        }
    }
}
