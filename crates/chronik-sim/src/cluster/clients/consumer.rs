//! A consumer that reads every partition of its topics from the beginning, each at a position that it keeps itself
//! (`assign`), and holds what it reads against what was acknowledged and read before. One reads along; another comes when
//! all is over, and is to find the same.

use std::collections::BTreeMap;

use bytes::Bytes;
use chronik_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use chronik_protocol::messages::fetch_response::PartitionData;
use chronik_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use chronik_protocol::messages::{FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse};
use chronik_protocol::records::{BatchIter, RecordIter};
use chronik_types::{ErrorCode, LeaderEpoch, PartitionIndex};

use super::Context;
use super::routing::Routing;
use crate::cluster::checkers::{PartitionKey, Rule, Value};
use crate::cluster::network::Answer;
use crate::cluster::plan::Plan;
use crate::cluster::sabotage::Sabotage;

const VERSION: i16 = 16;
const LIST_VERSION: i16 = 7;
const ROUTING: u64 = 0;
const FIRST_FETCH: u64 = 2;
/// Ask for the first offset that there is.
const EARLIEST: i64 = -2;
/// The most bytes that a batch's records inflate to.
const INFLATED_BYTES_MAX: usize = 1 << 20;

/// What is asked of one node.
enum Asked {
    Fetch(Vec<(PartitionKey, i64)>),
    Earliest(PartitionKey),
}

pub(in crate::cluster) struct Consumer {
    /// It reads nothing until everything is mended.
    is_late: bool,
    is_waiting: bool,
    wait_ms: i32,
    routing: Routing,
    /// The next offset of each partition.
    pub(in crate::cluster) positions: BTreeMap<PartitionKey, i64>,
    /// Partitions that are read from a node now.
    under_way: BTreeMap<u64, (usize, Asked)>,
    /// Not asked for before.
    not_before_ms: BTreeMap<PartitionKey, u64>,
    /// Those whose position lies before the log's beginning.
    lost: BTreeMap<PartitionKey, i64>,
    next_token: u64,
}

impl Consumer {
    pub(super) fn new(plan: &Plan, is_late: bool) -> Self {
        let names = (0..plan.topic_count).map(|topic| format!("t{topic}")).collect();
        Self {
            is_late,
            is_waiting: is_late,
            wait_ms: plan.replica_wait_ms,
            routing: Routing::new(names),
            positions: BTreeMap::new(),
            under_way: BTreeMap::new(),
            not_before_ms: BTreeMap::new(),
            lost: BTreeMap::new(),
            next_token: FIRST_FETCH,
        }
    }

    /// From now on a late one reads too.
    pub(super) fn finish(&mut self) {
        self.is_waiting = false;
    }

    pub(super) fn wake(&mut self, context: &mut Context<'_>) {
        if self.is_waiting {
            context.wake_in(40);
            return;
        }
        self.routing.refresh(context, ROUTING);
        self.pump(context);
        context.wake_in(40);
    }

    /// Asks every leader for what nobody is asked for yet.
    fn pump(&mut self, context: &mut Context<'_>) {
        let mut by_leader: BTreeMap<usize, Vec<(PartitionKey, i64)>> = BTreeMap::new();
        for topic in self.routing.topics.values() {
            for (index, leader) in topic.leaders.iter().map(|leader| leader.node).enumerate() {
                let key = PartitionKey { topic: topic.id, partition: i32::try_from(index).unwrap_or(0) };
                let is_early = self.not_before_ms.get(&key).is_some_and(|at_ms| context.now_ms < *at_ms);
                let is_asked = self.under_way.values().any(|(_, asked)| match asked {
                    Asked::Fetch(parts) => parts.iter().any(|(other, _)| *other == key),
                    Asked::Earliest(other) => *other == key,
                });
                if let (Some(leader), false, false) = (leader, is_early, is_asked) {
                    let position = *self.positions.entry(key).or_insert(0);
                    by_leader.entry(leader).or_default().push((key, position));
                }
            }
        }
        for (leader, parts) in by_leader {
            let is_busy = self.under_way.values().any(|(node, _)| *node == leader);
            if is_busy {
                continue;
            }
            let token = self.next_token;
            self.next_token += 1;
            if let Some((key, _)) = parts.iter().find(|(key, _)| self.lost.contains_key(key)) {
                self.ask_earliest(context, leader, *key, token);
            } else {
                context.call(leader, VERSION, &self.request(&parts), token);
                self.under_way.insert(token, (leader, Asked::Fetch(parts)));
            }
        }
    }

    fn request(&self, parts: &[(PartitionKey, i64)]) -> FetchRequest {
        let mut topics: Vec<FetchTopic> = Vec::new();
        for (key, position) in parts {
            let partition = FetchPartition {
                partition: key.partition,
                current_leader_epoch: self.leader_epoch(*key),
                fetch_offset: *position,
                partition_max_bytes: 8 << 10,
                ..FetchPartition::default()
            };
            match topics.last_mut().filter(|topic| topic.topic_id == key.topic) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(FetchTopic {
                    topic_id: key.topic,
                    partitions: vec![partition],
                    ..FetchTopic::default()
                }),
            }
        }
        FetchRequest {
            max_wait_ms: self.wait_ms,
            min_bytes: 1,
            max_bytes: 32 << 10,
            topics,
            ..FetchRequest::default()
        }
    }

    /// The epoch of the leader that a partition is read from. A node that has not heard of it yet says so, where it would
    /// take the position for one beyond its log's end (KIP-320).
    fn leader_epoch(&self, key: PartitionKey) -> i32 {
        let topic = self.routing.by_id(key.topic);
        topic.map_or(LeaderEpoch::NONE, |topic| topic.leader(key.partition).epoch).get()
    }

    fn ask_earliest(&mut self, context: &mut Context<'_>, leader: usize, key: PartitionKey, token: u64) {
        let name = self.routing.topics.iter().find(|(_, topic)| topic.id == key.topic);
        let Some((name, _)) = name else { return };
        let request = ListOffsetsRequest {
            replica_id: -1,
            topics: vec![ListOffsetsTopic {
                name: name.clone(),
                partitions: vec![ListOffsetsPartition {
                    partition_index: key.partition,
                    current_leader_epoch: self.leader_epoch(key),
                    timestamp: EARLIEST,
                }],
            }],
            ..ListOffsetsRequest::default()
        };
        context.call(leader, LIST_VERSION, &request, token);
        self.under_way.insert(token, (leader, Asked::Earliest(key)));
    }

    pub(super) fn answered(&mut self, context: &mut Context<'_>, token: u64, answer: Option<&Answer>) {
        if token == ROUTING {
            self.routing.answered(context, answer);
        } else if let Some((_, asked)) = self.under_way.remove(&token) {
            match asked {
                Asked::Fetch(parts) => self.take_fetched(context, &parts, answer),
                Asked::Earliest(key) => self.take_earliest(context, key, answer),
            }
        }
        self.routing.refresh(context, ROUTING);
        self.pump(context);
    }

    fn back_off(&mut self, context: &mut Context<'_>, key: PartitionKey) {
        self.routing.distrust();
        let pause_ms = 10 + context.rng.below(50);
        self.not_before_ms.insert(key, context.now_ms + pause_ms);
    }

    fn take_fetched(
        &mut self,
        context: &mut Context<'_>,
        parts: &[(PartitionKey, i64)],
        answer: Option<&Answer>,
    ) {
        let response = context.read::<FetchResponse>(answer, VERSION);
        let (Some(response), Some(answer)) = (response, answer) else {
            for (key, _) in parts {
                self.back_off(context, *key);
            }
            return;
        };
        if response.error_code != 0 {
            let text = format!("a fetch is refused with {}", response.error_code);
            context.checkers.report(Rule::Errors, text);
            for (key, _) in parts {
                self.back_off(context, *key);
            }
            return;
        }
        for topic in response.responses {
            for mut data in topic.partitions {
                if context.sabotage == Some(Sabotage::AnswerUnasked) && context.rng.chance(2) {
                    data.partition_index += 1_000;
                }
                let key = PartitionKey { topic: topic.topic_id, partition: data.partition_index };
                let Some((_, position)) = parts.iter().find(|(other, _)| *other == key) else {
                    let text = format!("{key} was not asked for, and is answered");
                    context.checkers.report(Rule::Errors, text);
                    continue;
                };
                self.take_partition(context, key, *position, data, answer);
            }
        }
    }

    fn take_partition(
        &mut self,
        context: &mut Context<'_>,
        key: PartitionKey,
        position: i64,
        mut data: PartitionData,
        answer: &Answer,
    ) {
        data.error_code = context.told_error(data.error_code);
        match ErrorCode::from_code(data.error_code) {
            Some(ErrorCode::None) => {}
            Some(ErrorCode::OffsetOutOfRange) => {
                context.trace.note(format_args!("{} {key}: {position} is out of range", context.now_ms));
                self.lost.insert(key, position);
                self.back_off(context, key);
                return;
            }
            // The broker has noticed.
            Some(ErrorCode::CorruptMessage) if context.checkers.takes_for_damage(context.now_ms) => {
                self.back_off(context, key);
                return;
            }
            // These pass.
            Some(
                ErrorCode::NotLeaderOrFollower
                | ErrorCode::LeaderNotAvailable
                | ErrorCode::FencedLeaderEpoch
                | ErrorCode::UnknownLeaderEpoch
                | ErrorCode::UnknownTopicOrPartition
                | ErrorCode::UnknownTopicId
                | ErrorCode::OffsetNotAvailable
                | ErrorCode::KafkaStorageError,
            ) => {
                self.back_off(context, key);
                return;
            }
            // A client tells its application of others.
            _ => {
                let text = format!("a fetch of {key} at {position} is refused with {}", data.error_code);
                context.checkers.report(Rule::Errors, text);
                self.back_off(context, key);
                return;
            }
        }
        if context.sabotage == Some(Sabotage::TellOldWatermarks) && context.rng.chance(20) {
            data.high_watermark = data.high_watermark.saturating_sub(2).max(0);
        }
        if context.sabotage == Some(Sabotage::TellOldBeginnings) && context.rng.chance(20) {
            data.log_start_offset = data.log_start_offset.saturating_sub(2).max(0);
        }
        let epoch = answer
            .image
            .topic_by_id(key.topic)
            .and_then(|topic| topic.partition(PartitionIndex(key.partition)))
            .filter(|state| state.leader == Some(super::super::effects::node_id(answer.node)))
            .map(|state| state.leader_epoch);
        if let Some(epoch) = epoch {
            let reader = u64::from(self.is_late);
            context.checkers.watermark(reader, key, epoch, data.high_watermark, data.log_start_offset);
        }
        let mut records = data.records.unwrap_or_default();
        if context.sabotage == Some(Sabotage::DamageReads) && context.rng.chance(20) {
            records = damaged(&records);
        }
        match read(&records, position) {
            Ok(Some(values)) => {
                let mut values = values;
                if context.sabotage == Some(Sabotage::SkipRecords) && values.len() > 2 {
                    values.remove(0);
                }
                if context.sabotage == Some(Sabotage::HideLastRecords) {
                    values.retain(|(offset, _)| offset + 1 < data.high_watermark);
                }
                if context.sabotage == Some(Sabotage::GiveOthersLate) && self.is_late && values.len() > 1 {
                    values[0].1 = values[1].1;
                }
                self.take_values(context, key, position, &values, data.high_watermark);
            }
            Ok(None) => {}
            // Its bytes were changed on the way from the disk; what is read next is whole again.
            Err(text) => {
                context.trace.note(format_args!("{} {key} at {position}: {text}", context.now_ms));
                context.checkers.damaged_read(context.now_ms, key, position, &text);
                self.back_off(context, key);
            }
        }
    }

    fn take_values(
        &mut self,
        context: &mut Context<'_>,
        key: PartitionKey,
        position: i64,
        values: &[(i64, Value)],
        high_watermark: i64,
    ) {
        let mut expected = position;
        for (offset, value) in values {
            // A bit of a base offset, which no checksum covers, was read wrongly.
            if *offset != expected && context.checkers.takes_for_flip() {
                let text = format!("after {expected} was to come, offset {offset} came");
                context.trace.note(format_args!("{} {key}: {text}", context.now_ms));
                self.back_off(context, key);
                return;
            }
            if *offset != expected {
                let text = format!("{key}: after {expected} was to come, offset {offset} came");
                context.checkers.report(Rule::Skips, text);
                self.back_off(context, key);
                return;
            }
            if high_watermark <= *offset {
                let text =
                    format!("{key}: offset {offset} was read, and the high watermark is {high_watermark}");
                context.checkers.report(Rule::Watermarks, text);
                self.back_off(context, key);
                return;
            }
            context.checkers.read(key, *offset, *value);
            context.counts.read += 1;
            expected += 1;
        }
        if !values.is_empty() {
            context.trace.note(format_args!("{} read {key} from {position} to {expected}", context.now_ms));
        }
        self.positions.insert(key, expected);
    }

    fn take_earliest(&mut self, context: &mut Context<'_>, key: PartitionKey, answer: Option<&Answer>) {
        let response = context.read::<ListOffsetsResponse>(answer, LIST_VERSION);
        let part = response.as_ref().and_then(|response| response.topics.first()?.partitions.first());
        let Some(part) = part.filter(|part| part.error_code == 0) else {
            self.back_off(context, key);
            return;
        };
        // It was asked for by name, which may be the next topic's by now.
        if context.checkers.is_deleted(key.topic) {
            self.back_off(context, key);
            return;
        }
        let Some(position) = self.lost.remove(&key) else { return };
        if part.offset <= position {
            // A log's start is on the disk with the next checkpoint only, as on Kafka: a loss of power may bring back what was
            // deleted.
            if !context.checkers.may_begin_at(key, position + 1) {
                let text = format!(
                    "{key}: {position} is out of range although the log begins at {}: what was read is gone",
                    part.offset
                );
                context.checkers.report(Rule::Skips, text);
            }
            return;
        }
        if !context.checkers.may_begin_at(key, part.offset) {
            let text = format!("{key} begins at {} and nobody has deleted that much", part.offset);
            context.checkers.report(Rule::Skips, text);
        }
        self.positions.insert(key, part.offset);
    }

    /// The partitions that are not read up to these ends.
    pub(in crate::cluster) fn behind<'a>(
        &self,
        ends: impl Iterator<Item = (PartitionKey, i64)> + 'a,
    ) -> Option<(PartitionKey, i64, i64)> {
        ends.map(|(key, end)| (key, end, self.positions.get(&key).copied().unwrap_or(0)))
            .find(|(_, end, position)| position < end)
    }
}

/// The records at and above `position`; `None` where there are none.
fn read(records: &Bytes, position: i64) -> Result<Option<Vec<(i64, Value)>>, String> {
    let mut values = Vec::new();
    for batch in BatchIter::new(records) {
        let batch = batch.map_err(|error| error.to_string())?;
        batch.header.check_crc(batch.bytes).map_err(|error| error.to_string())?;
        let mut records =
            RecordIter::new(batch.bytes, INFLATED_BYTES_MAX).map_err(|error| error.to_string())?;
        while let Some(record) = records.next_record().map_err(|error| error.to_string())? {
            if position <= record.offset.get() {
                let value = record.value.and_then(Value::decode);
                values.push((record.offset.get(), value.ok_or("a value that nobody has written")?));
            }
        }
    }
    Ok((!values.is_empty()).then_some(values))
}

/// The same bytes but for the last.
fn damaged(records: &Bytes) -> Bytes {
    let mut bytes = records.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 0x55;
    }
    bytes.into()
}
