//! Partitions with replicas elsewhere: who waits for them, who is deposed, and who is elected.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use chronik_disk::{Fault, FaultRule, Operation};
use chronik_log::AppendOrigin;
use chronik_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use chronik_protocol::messages::elect_leaders_request::TopicPartitions;
use chronik_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use chronik_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use chronik_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use chronik_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, ElectLeadersRequest, ElectLeadersResponse, FetchRequest,
    FetchResponse, ListOffsetsRequest, ListOffsetsResponse, ProduceRequest, ProduceResponse,
};
use chronik_protocol::records::{BatchBuilder, BatchOptions};
use chronik_raft::metadata::{
    AssignPartition, BeginControlledShutdown, Command, CommandBatch, ConfigResource, CreateTopic,
    FenceBroker, RegisterBroker, SetConfig, SetPartitionLeader, UnfenceBroker, UpdateIsr,
};
use chronik_raft::{MetadataLog as _, ProposeError};
use chronik_replication::FollowerFetch;
use chronik_types::{
    BrokerEpoch, ErrorCode, LeaderEpoch, NodeId, Now, Offset, PartitionIndex, ProducerEpoch, ProducerId,
    TimestampMs, TopicId,
};

use super::{Fixture, NODE, Pending, code, response};
use crate::config::{BrokerConfig, ClusterNode};
use crate::partition::{Applied, LeaderAnswer, Watcher};

pub(super) const TOPIC: TopicId = TopicId(7);
const INDEX: PartitionIndex = PartitionIndex(0);

pub(super) fn apply(fixture: &Fixture, commands: Vec<Command>) {
    fixture
        .metadata
        .propose(CommandBatch::new(commands), Box::new(|outcome| assert!(outcome.is_ok(), "{outcome:?}")));
}

/// This broker leads `shared-0`, and brokers 2 and 3 follow it.
pub(crate) fn three_brokers() -> Fixture {
    let node = |id: i32| ClusterNode { id: NodeId(id), host: "h".to_owned(), raft_port: 1 };
    let config = BrokerConfig { cluster_nodes: [1, 2, 3].map(node).to_vec(), ..Default::default() };
    let fixture = Fixture::with_config(config);
    fixture.add_broker(2, false);
    fixture.add_broker(3, false);
    apply(&fixture, create_shared(TOPIC));
    fixture
}

/// What makes the topic `shared`, of one partition that all three hold.
pub(super) fn create_shared(topic_id: TopicId) -> Vec<Command> {
    let replicas = [1, 2, 3].map(NodeId);
    let mut create = CreateTopic::new("shared", topic_id, 1, 3);
    create.configs.insert("min.insync.replicas".to_owned(), "2".to_owned());
    vec![
        create.into(),
        AssignPartition::new(topic_id, INDEX, &replicas).into(),
        SetPartitionLeader::new(topic_id, INDEX, Some(NodeId(1))).into(),
        UpdateIsr::new(topic_id, INDEX, &replicas, None).into(),
    ]
}

pub(super) fn lead(fixture: &Fixture, leader: i32) {
    lead_topic(fixture, TOPIC, leader);
}

pub(super) fn lead_topic(fixture: &Fixture, topic_id: TopicId, leader: i32) {
    apply(fixture, vec![SetPartitionLeader::new(topic_id, INDEX, Some(NodeId(leader))).into()]);
}

/// What the one idempotent producer of these tests sends.
pub(super) fn numbered(sequence: i32) -> BatchOptions {
    BatchOptions {
        producer_id: ProducerId(9),
        producer_epoch: ProducerEpoch(0),
        base_sequence: sequence,
        ..BatchOptions::default()
    }
}

/// A batch of one record.
pub(super) fn batch(options: BatchOptions) -> Bytes {
    let mut builder = BatchBuilder::new(options);
    builder.append(TimestampMs(1_000_000), None, Some(b"value"), &[]).unwrap();
    builder.finish().unwrap().freeze()
}

pub(super) fn produce(fixture: &Fixture, version: i16) -> Pending {
    produce_batch(fixture, version, batch(BatchOptions::default()))
}

pub(super) fn produce_with(fixture: &Fixture, version: i16, options: BatchOptions) -> Pending {
    produce_batch(fixture, version, batch(options))
}

pub(super) fn produce_batch(fixture: &Fixture, version: i16, records: Bytes) -> Pending {
    let records = Some(records);
    let topic = TopicProduceData {
        name: "shared".to_owned(),
        partition_data: vec![PartitionProduceData { index: 0, records }],
        ..Default::default()
    };
    let request =
        ProduceRequest { acks: -1, timeout_ms: 1_000, topic_data: vec![topic], ..Default::default() };
    fixture.send(version, &request)
}

/// A follower fetches from an offset of a log that starts at another.
pub(super) fn fetched(fixture: &Fixture, node: i32, fetch_offset: i64, log_start_offset: i64) {
    let partition = fixture.partition("shared", 0);
    let broker_epoch: Option<BrokerEpoch> = fixture.image().broker(NodeId(node)).map(|broker| broker.epoch);
    let fetch = FollowerFetch {
        node: NodeId(node),
        broker_epoch,
        fetch_offset: Offset(fetch_offset),
        log_start_offset: Offset(log_start_offset),
    };
    partition.replica_fetched(fixture.broker.clock.now(), partition.leader_epoch(), fetch);
}

#[test]
fn kip_951_a_producer_that_waits_for_a_deposed_leader_is_told_the_next() {
    for version in [9, 10, 12] {
        let fixture = three_brokers();
        let pending = produce(&fixture, version);
        assert!(pending.lock().is_none(), "it waits for the followers");
        lead(&fixture, 2);
        let answer: ProduceResponse = response(&pending, version);
        let partition = &answer.responses[0].partition_responses[0];
        assert_eq!(code(partition.error_code), ErrorCode::NotLeaderOrFollower);
        let hosts: Vec<&str> = answer.node_endpoints.iter().map(|node| node.host.as_str()).collect();
        if version >= 10 {
            let told = (partition.current_leader.leader_id, partition.current_leader.leader_epoch);
            assert_eq!((told, hosts), ((2, 1), vec!["host-2"]));
        } else {
            assert_eq!(hosts, Vec::<&str>::new());
        }
    }
}

#[test]
fn kip_951_a_consumer_that_waits_at_a_deposed_leader_is_told_the_next() {
    for version in [12, 16] {
        let fixture = three_brokers();
        let partition = FetchPartition {
            partition: 0,
            current_leader_epoch: -1,
            partition_max_bytes: 1 << 20,
            ..Default::default()
        };
        let topic = FetchTopic { topic: "shared".to_owned(), topic_id: TOPIC, partitions: vec![partition] };
        let request = FetchRequest {
            max_wait_ms: 10_000,
            min_bytes: 1,
            max_bytes: 1 << 20,
            session_epoch: -1,
            topics: vec![topic],
            ..Default::default()
        };
        let pending = fixture.send(version, &request);
        assert!(pending.lock().is_none(), "it waits for records");
        lead(&fixture, 3);
        let answer: FetchResponse = response(&pending, version);
        let partition = &answer.responses[0].partitions[0];
        assert_eq!(code(partition.error_code), ErrorCode::NotLeaderOrFollower);
        assert_eq!(partition.current_leader.leader_id, 3);
        let hosts: Vec<&str> = answer.node_endpoints.iter().map(|node| node.host.as_str()).collect();
        assert_eq!(hosts, if version >= 16 { vec!["host-3"] } else { Vec::new() });
    }
}

/// Somebody who is told that records are committed just before their producers are, and changes the partition then.
struct Meanwhile(Arc<super::HeldMetadata>, Command);

impl Watcher for Meanwhile {
    fn arrived(&self, _bytes: u64) -> bool {
        true
    }

    fn wake(self: Arc<Self>, _now: Now) {
        self.0.propose(CommandBatch::new(vec![self.1.clone()]), Box::new(|outcome| assert!(outcome.is_ok())));
    }
}

/// Replication point 8.
#[test]
fn acks_all_is_told_when_too_few_are_in_sync_at_the_end() {
    let fixture = three_brokers();
    let pending = produce(&fixture, 9);
    let alone = UpdateIsr::new(TOPIC, INDEX, &[NodeId(1)], None).into();
    fixture.partition("shared", 0).watch(u64::MAX, Arc::new(Meanwhile(Arc::clone(&fixture.metadata), alone)));
    fetched(&fixture, 2, 1, 0);
    assert!(pending.lock().is_none(), "the whole ISR is waited for, not the minimum");
    fetched(&fixture, 3, 1, 0);
    let answer: ProduceResponse = response(&pending, 9);
    let partition = &answer.responses[0].partition_responses[0];
    assert_eq!(code(partition.error_code), ErrorCode::NotEnoughReplicasAfterAppend);
    assert_eq!(
        fixture.partition("shared", 0).high_watermark(),
        Offset(1),
        "and it is committed all the same"
    );
    let log_end = |fixture: &Fixture| fixture.partition("shared", 0).log().log_end_offset();
    let refused: ProduceResponse = response(&produce(&fixture, 9), 9);
    assert_eq!(code(refused.responses[0].partition_responses[0].error_code), ErrorCode::NotEnoughReplicas);
    assert_eq!(log_end(&fixture), Offset(1), "what is refused before it is written is not written");
}

/// Replication point 3.
#[test]
fn kip_207_a_new_leader_does_not_say_what_it_does_not_know() {
    let fixture = three_brokers();
    let pending = produce(&fixture, 9);
    lead(&fixture, 2);
    lead(&fixture, 1);
    assert!(pending.lock().is_some());
    let latest = |version: i16| {
        let partition =
            ListOffsetsPartition { timestamp: -1, current_leader_epoch: -1, ..Default::default() };
        let topic = ListOffsetsTopic { name: "shared".to_owned(), partitions: vec![partition] };
        let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
        let answer: ListOffsetsResponse = fixture.call(version, &request);
        let partition = &answer.topics[0].partitions[0];
        (code(partition.error_code), partition.offset)
    };
    for version in 1..=11 {
        let expected =
            if version < 5 { ErrorCode::LeaderNotAvailable } else { ErrorCode::OffsetNotAvailable };
        assert_eq!(latest(version), (expected, -1), "version {version}");
    }
    fetched(&fixture, 2, 1, 0);
    fetched(&fixture, 3, 1, 0);
    for version in 1..=11 {
        assert_eq!(latest(version), (ErrorCode::None, 1), "version {version}");
    }
}

/// Replication point 10.
#[test]
fn kip_704_a_leader_that_may_lack_records_says_that_it_goes_on_and_takes_others_in_then() {
    let fixture = three_brokers();
    apply(
        &fixture,
        vec![
            SetPartitionLeader::new(TOPIC, INDEX, Some(NodeId(2))).into(),
            UpdateIsr::new(TOPIC, INDEX, &[NodeId(2)], None).into(),
            SetPartitionLeader::new(TOPIC, INDEX, None).into(),
            FenceBroker::new(NodeId(2), None).into(),
        ],
    );
    fixture.metadata.hold();
    let now = fixture.broker.clock.now();
    let resource = ConfigResource::Topic("shared".into());
    let allow = SetConfig::new(&resource, "unclean.leader.election.enable", Some("true".to_owned()));
    fixture.metadata.inner.propose(CommandBatch::new(vec![allow.into()]), Box::new(|_| ()));
    fixture.partition("shared", 0);
    fixture.broker.run_controller(now);
    let state = || fixture.image().topic("shared").unwrap().partition(INDEX).unwrap().as_ref().clone();
    assert_eq!((state().leader, state().is_recovering), (Some(NodeId(1)), true));
    fetched(&fixture, 3, 0, 0);
    assert_eq!(*state().isr, [NodeId(1)], "nobody enters before");
    assert_eq!(fixture.metadata.release(), 1, "the leader has said so, and nothing else");
    assert!(!state().is_recovering);
    fetched(&fixture, 3, 0, 0);
    assert_eq!(*state().isr, [NodeId(1), NodeId(3)]);
}

#[test]
fn a_follower_that_knows_a_newer_epoch_is_told_so_before_anything_else() {
    let fixture = three_brokers();
    lead(&fixture, 2);
    let ask = |current_leader_epoch: i32| {
        let partition = FetchPartition {
            current_leader_epoch,
            last_fetched_epoch: -1,
            partition_max_bytes: 1 << 20,
            ..Default::default()
        };
        let topic = FetchTopic { topic: "shared".to_owned(), topic_id: TOPIC, partitions: vec![partition] };
        let request =
            FetchRequest { replica_id: 3, session_epoch: -1, topics: vec![topic], ..Default::default() };
        let answer: FetchResponse = fixture.call(12, &request);
        code(answer.responses[0].partitions[0].error_code)
    };
    let known = fixture.partition("shared", 0).leader_epoch().get();
    assert_eq!(ask(known), ErrorCode::NotLeaderOrFollower);
    // It is about to hear that it leads, and the follower comes again at once.
    assert_eq!(ask(known + 1), ErrorCode::UnknownLeaderEpoch);
}

#[test]
fn kip_98_a_duplicate_is_answered_with_its_first_offset_after_the_lead_has_moved() {
    let fixture = three_brokers();
    lead(&fixture, 2);
    let partition = fixture.partition("shared", 0);
    let leader_epoch = partition.leader_epoch();
    for sequence in 0..3 {
        let options = BatchOptions {
            base_offset: Offset(i64::from(sequence)),
            partition_leader_epoch: leader_epoch,
            ..numbered(sequence)
        };
        let answer = LeaderAnswer {
            leader_epoch,
            fetched_from: Offset(i64::from(sequence)),
            error: ErrorCode::None,
            high_watermark: Offset(i64::from(sequence)),
            log_start_offset: Offset(0),
            diverging: None,
            records: batch(options),
        };
        let applied = partition.apply_answer(fixture.broker.clock.now(), answer);
        assert!(matches!(applied, Applied::At(_)), "{applied:?}");
    }
    lead(&fixture, 1);
    // What it was not told is committed it sends again; the last of it is not committed yet by the leader's knowledge.
    let sent = |sequence: i32| produce_batch(&fixture, 9, batch(numbered(sequence)));
    let told = |pending: &Pending| {
        let answer: ProduceResponse = response(pending, 9);
        let partition = &answer.responses[0].partition_responses[0];
        (code(partition.error_code), partition.base_offset)
    };
    let duplicates: Vec<Pending> = (1..3).map(sent).collect();
    assert!(duplicates[1].lock().is_none(), "a duplicate waits for its commit as well");
    fetched(&fixture, 2, 3, 0);
    fetched(&fixture, 3, 3, 0);
    assert_eq!(
        duplicates.iter().map(told).collect::<Vec<_>>(),
        [1, 2].map(|offset| (ErrorCode::None, offset))
    );
    let next = sent(3);
    fetched(&fixture, 2, 4, 0);
    fetched(&fixture, 3, 4, 0);
    assert_eq!(told(&next), (ErrorCode::None, 3));
    assert_eq!(
        told(&sent(7)).0,
        ErrorCode::LeaderNotAvailable,
        "the fifth may still come from the leader before (ADR 14)"
    );
    fixture.pass(60_000);
    assert_eq!(told(&sent(7)).0, ErrorCode::OutOfOrderSequenceNumber);
}

#[test]
fn whoever_comes_between_the_news_and_its_being_taken_up_is_served() {
    let fixture = three_brokers();
    lead(&fixture, 2);
    let refused: ProduceResponse = response(&produce(&fixture, 9), 9);
    assert_eq!(code(refused.responses[0].partition_responses[0].error_code), ErrorCode::NotLeaderOrFollower);
    // The image is new, and the thread that brings it has not come to the partition yet.
    fixture.metadata.subscribe(Box::new(|_, _| ()));
    lead(&fixture, 1);
    let pending = produce(&fixture, 9);
    assert!(pending.lock().is_none(), "it waits for the followers");
    fetched(&fixture, 2, 1, 0);
    fetched(&fixture, 3, 1, 0);
    let answer: ProduceResponse = response(&pending, 9);
    assert_eq!(code(answer.responses[0].partition_responses[0].error_code), ErrorCode::None);
}

/// A client takes this answer for a success, so it has to wait like one (ADR 12).
#[test]
fn a_duplicate_that_is_no_longer_remembered_is_told_once_it_is_committed() {
    let fixture = three_brokers();
    let produced = |sequence| produce_with(&fixture, 9, numbered(sequence));
    let sent: Vec<Pending> = (0..7).map(produced).collect();
    let again = produced(0);
    assert!(
        sent.iter().chain([&again]).all(|pending| pending.lock().is_none()),
        "all wait for the followers"
    );
    for follower in [2, 3] {
        fetched(&fixture, follower, 1, 0);
    }
    assert!(sent[0].lock().is_some() && again.lock().is_none(), "it may be anywhere before the third");
    for follower in [2, 3] {
        fetched(&fixture, follower, 2, 0);
    }
    let answer: ProduceResponse = response(&again, 9);
    let partition = &answer.responses[0].partition_responses[0];
    assert_eq!((code(partition.error_code), partition.base_offset), (ErrorCode::DuplicateSequenceNumber, -1));
    assert!(produced(1).lock().is_some(), "that is committed by now");
    let ahead: ProduceResponse = response(&produced(8), 9);
    let partition = &ahead.responses[0].partition_responses[0];
    assert_eq!(code(partition.error_code), ErrorCode::OutOfOrderSequenceNumber);
}

#[test]
fn the_minimum_in_sync_is_looked_at_again_when_records_are_committed() {
    let fixture = three_brokers();
    let pending = produce(&fixture, 9);
    fetched(&fixture, 2, 1, 0);
    assert!(pending.lock().is_none(), "all in sync are waited for");
    // With the minimum at two the high watermark stands still; with one it moves and the topic asks for two again.
    apply(&fixture, vec![UpdateIsr::new(TOPIC, INDEX, &[NodeId(1)], None).into()]);
    assert!(pending.lock().is_none(), "replication point 1: it is frozen below the minimum");
    fixture.pass(1_000);
    let answer: ProduceResponse = response(&pending, 9);
    assert_eq!(code(answer.responses[0].partition_responses[0].error_code), ErrorCode::RequestTimedOut);
    let refused: ProduceResponse = response(&produce(&fixture, 9), 9);
    assert_eq!(code(refused.responses[0].partition_responses[0].error_code), ErrorCode::NotEnoughReplicas);
}

/// This broker follows `shared-0`, has asked from an offset and is answered with one record.
fn follow_one(fixture: &Fixture, asked_from: Offset) -> Applied {
    let partition = fixture.partition("shared", 0);
    let position = partition.fetch_position();
    let mut builder = BatchBuilder::new(BatchOptions {
        base_offset: asked_from,
        partition_leader_epoch: position.current_leader_epoch,
        ..BatchOptions::default()
    });
    builder.append(TimestampMs(1_000_000), None, Some(b"value"), &[]).unwrap();
    let answer = LeaderAnswer {
        leader_epoch: position.current_leader_epoch,
        fetched_from: asked_from,
        error: ErrorCode::None,
        high_watermark: Offset::ZERO,
        log_start_offset: Offset::ZERO,
        diverging: None,
        records: builder.finish().unwrap().freeze(),
    };
    partition.apply_answer(fixture.broker.clock.now(), answer)
}

#[test]
fn a_follower_says_that_it_has_records_when_they_are_on_its_disk_where_flush_messages_asks_for_that() {
    let fixture = three_brokers();
    let resource = ConfigResource::Topic("shared".into());
    apply(&fixture, vec![SetConfig::new(&resource, "flush.messages", Some("1".to_owned())).into()]);
    lead(&fixture, 2);
    let applied = follow_one(&fixture, Offset::ZERO);
    let Applied::At(position) = applied else { panic!("{applied:?}") };
    assert_eq!(position.fetch_offset, Offset(1), "its next fetch says so");
    let partition = fixture.partition("shared", 0);
    assert_eq!(partition.log().recovery_point(), Offset(1), "and a loss of power leaves it there");

    fixture.disk.inject(FaultRule::once(Operation::Sync, ".log", Fault::Io));
    for _ in 0..2 {
        let applied = follow_one(&fixture, Offset(1));
        let Applied::Wait { position, .. } = applied else { panic!("{applied:?}") };
        assert!(position.fetch_offset <= partition.log().recovery_point(), "LOG-3: {position:?}");
    }
}

#[test]
fn kafka_6975_a_follower_that_begins_within_a_batch_takes_the_whole_batch() {
    begins_within_a_batch(0);
}

#[test]
fn kafka_6975_a_follower_whose_records_the_leader_has_deleted_begins_anew_within_a_batch() {
    begins_within_a_batch(2);
}

/// A follower that holds so many records comes to a leader whose log begins with the second record of a batch.
fn begins_within_a_batch(record_count: usize) {
    let fixture = three_brokers();
    lead(&fixture, 2);
    let partition = fixture.partition("shared", 0);
    let leader_epoch = partition.fetch_position().current_leader_epoch;
    let answer = |error, fetched_from, records| LeaderAnswer {
        leader_epoch,
        fetched_from: Offset(fetched_from),
        error,
        high_watermark: Offset(4),
        log_start_offset: Offset(2),
        diverging: None,
        records,
    };
    let batch = |base_offset, record_count| {
        let options = BatchOptions {
            base_offset: Offset(base_offset),
            partition_leader_epoch: leader_epoch,
            ..BatchOptions::default()
        };
        let mut builder = BatchBuilder::new(options);
        for _ in 0..record_count {
            builder.append(TimestampMs(1_000_000), None, Some(b"value"), &[]).unwrap();
        }
        builder.finish().unwrap().freeze()
    };
    let now = fixture.broker.clock.now();
    if record_count == 0 {
        partition.apply_answer(now, answer(ErrorCode::OffsetOutOfRange, 0, Bytes::new()));
    } else {
        partition.log().append_as_follower(now, batch(0, record_count), LeaderEpoch(1)).unwrap();
    }
    assert_eq!(partition.fetch_position().fetch_offset, Offset(2), "the leader's log begins there");
    let applied = partition.apply_answer(now, answer(ErrorCode::None, 2, batch(1, 3)));
    let Applied::At(position) = applied else { panic!("{applied:?}") };
    assert_eq!((position.log_start_offset, position.fetch_offset), (Offset(2), Offset(4)));
}

#[test]
fn a_broker_does_not_go_on_in_an_epoch_of_its_earlier_process_before_it_is_registered() {
    let fixture = three_brokers();
    let endpoints = fixture.image().broker(NODE).unwrap().endpoints.clone();
    apply(&fixture, vec![RegisterBroker::new(NODE, 99, endpoints).into()]);
    let partition = fixture.partition("shared", 0);
    assert_eq!(partition.log().latest_epoch(), None, "its log may be another than when it was elected");
    let refused: ProduceResponse = response(&produce(&fixture, 9), 9);
    let error = refused.responses[0].partition_responses[0].error_code;
    assert_eq!(code(error), ErrorCode::NotLeaderOrFollower);
}

fn delete(fixture: &Fixture, before: i64) -> Pending {
    let partition = DeleteRecordsPartition { partition_index: 0, offset: before };
    let topic = DeleteRecordsTopic { name: "shared".to_owned(), partitions: vec![partition] };
    fixture.send(2, &DeleteRecordsRequest { topics: vec![topic], timeout_ms: 1_000 })
}

fn low_watermark(pending: &Pending) -> (i64, ErrorCode) {
    let answer: DeleteRecordsResponse = response(pending, 2);
    let partition = &answer.topics[0].partitions[0];
    (partition.low_watermark, code(partition.error_code))
}

/// Three brokers with two committed records.
fn two_records() -> Fixture {
    let fixture = three_brokers();
    for end in [1, 2] {
        let pending = produce(&fixture, 9);
        fetched(&fixture, 2, end, 0);
        fetched(&fixture, 3, end, 0);
        assert!(pending.lock().is_some());
    }
    fixture
}

#[test]
fn kip_107_deleted_records_are_gone_from_every_live_replica_when_that_is_answered() {
    let fixture = two_records();
    let pending = delete(&fixture, 2);
    assert!(pending.lock().is_none(), "the followers have them yet");
    fetched(&fixture, 2, 2, 2);
    fetched(&fixture, 3, 2, 1);
    assert!(pending.lock().is_none());
    fetched(&fixture, 3, 2, 2);
    assert_eq!(low_watermark(&pending), (2, ErrorCode::None));
    assert_eq!(
        low_watermark(&delete(&fixture, 1)),
        (2, ErrorCode::None),
        "there is nothing left to wait for"
    );
}

#[test]
fn kip_107_replicas_that_are_away_are_not_waited_for() {
    let fixture = two_records();
    let pending = delete(&fixture, 1);
    fetched(&fixture, 2, 2, 1);
    apply(&fixture, vec![FenceBroker::new(NodeId(3), None).into()]);
    assert_eq!(low_watermark(&pending), (1, ErrorCode::None));
}

#[test]
fn kip_107_what_is_not_deleted_in_time_is_told_and_a_deposed_leader_says_so() {
    let fixture = two_records();
    let late = delete(&fixture, 1);
    fixture.pass(1_000);
    assert_eq!(low_watermark(&late), (-1, ErrorCode::RequestTimedOut));
    let deposed = delete(&fixture, 2);
    lead(&fixture, 2);
    assert_eq!(low_watermark(&deposed), (-1, ErrorCode::NotLeaderOrFollower));
}

fn elect(
    fixture: &Fixture,
    version: i16,
    election_type: i8,
    named: Option<&[(&str, &[i32])]>,
) -> ElectLeadersResponse {
    let topic_partitions = named.map(|topics| {
        topics
            .iter()
            .map(|(topic, partitions)| TopicPartitions {
                topic: (*topic).to_owned(),
                partitions: partitions.to_vec(),
            })
            .collect()
    });
    let request = ElectLeadersRequest { election_type, topic_partitions, timeout_ms: 1_000 };
    fixture.call(version, &request)
}

fn codes(answer: &ElectLeadersResponse) -> Vec<(&str, i32, ErrorCode)> {
    let results = answer.replica_election_results.iter();
    results
        .flat_map(|topic| {
            let partitions = topic.partition_result.iter();
            partitions.map(|result| (topic.topic.as_str(), result.partition_id, code(result.error_code)))
        })
        .collect()
}

fn leader(fixture: &Fixture) -> Option<i32> {
    fixture.image().topic("shared").unwrap().partition(INDEX).unwrap().leader.map(NodeId::get)
}

#[test]
fn kip_460_preferred_leaders_are_elected_when_asked_for() {
    for version in 0..=2 {
        let fixture = three_brokers();
        let shared: &[(&str, &[i32])] = &[("shared", &[0, 9]), ("missing", &[0])];
        let unknown = ErrorCode::UnknownTopicOrPartition;
        let answer = elect(&fixture, version, 0, Some(shared));
        let expected =
            [("shared", 0, ErrorCode::ElectionNotNeeded), ("shared", 9, unknown), ("missing", 0, unknown)];
        assert_eq!(codes(&answer), expected);
        lead(&fixture, 3);
        let answer = elect(&fixture, version, 0, Some(shared));
        assert_eq!(codes(&answer)[0], ("shared", 0, ErrorCode::None));
        assert_eq!((answer.error_code, leader(&fixture)), (0, Some(1)));
        assert_eq!(
            codes(&elect(&fixture, version, 0, None)),
            [],
            "those that need nothing are not mentioned"
        );
        lead(&fixture, 2);
        assert_eq!(codes(&elect(&fixture, version, 0, None)), [("shared", 0, ErrorCode::None)]);
        assert_eq!(leader(&fixture), Some(1));
        lead(&fixture, 2);
        apply(&fixture, vec![UpdateIsr::new(TOPIC, INDEX, &[NodeId(2), NodeId(3)], None).into()]);
        let answer = elect(&fixture, version, 0, Some(&[("shared", &[0])]));
        assert_eq!(codes(&answer), [("shared", 0, ErrorCode::PreferredLeaderNotAvailable)]);
    }
}

#[test]
fn preferred_leaders_come_back_by_themselves_once_clients_can_have_found_them() {
    let fixture = three_brokers();
    let oversee = |ms: u64| {
        for _ in 0..ms / 100 {
            fixture.pass(100);
            fixture.broker.run_controller(fixture.broker.clock.now());
        }
    };
    oversee(20_000);
    // It was away, and is in service again.
    lead(&fixture, 2);
    apply(&fixture, vec![FenceBroker::new(NodeId(1), None).into()]);
    oversee(200);
    apply(&fixture, vec![UnfenceBroker::new(NodeId(1), None).into()]);
    apply(&fixture, vec![UpdateIsr::new(TOPIC, INDEX, &[1, 2, 3].map(NodeId), None).into()]);
    oversee(2_900);
    assert_eq!(leader(&fixture), Some(2), "it has just come");
    oversee(5_200);
    assert_eq!(leader(&fixture), Some(1));
}

#[test]
fn a_broker_that_is_about_to_stop_is_not_elected() {
    let fixture = three_brokers();
    lead(&fixture, 2);
    let epoch = fixture.image().broker(NodeId(1)).unwrap().epoch;
    apply(&fixture, vec![BeginControlledShutdown::new(NodeId(1), epoch).into()]);
    let answer = elect(&fixture, 2, 0, Some(&[("shared", &[0])]));
    assert_eq!(codes(&answer), [("shared", 0, ErrorCode::PreferredLeaderNotAvailable)]);
}

#[test]
fn kip_460_an_unclean_election_is_for_partitions_without_a_leader() {
    let fixture = three_brokers();
    let shared: &[(&str, &[i32])] = &[("shared", &[0])];
    assert_eq!(codes(&elect(&fixture, 2, 1, Some(shared))), [("shared", 0, ErrorCode::ElectionNotNeeded)]);
    apply(
        &fixture,
        vec![
            UpdateIsr::new(TOPIC, INDEX, &[NodeId(1)], None).into(),
            SetPartitionLeader::new(TOPIC, INDEX, None).into(),
            FenceBroker::new(NodeId(1), None).into(),
            FenceBroker::new(NodeId(2), None).into(),
        ],
    );
    assert_eq!(codes(&elect(&fixture, 2, 0, None)), [("shared", 0, ErrorCode::PreferredLeaderNotAvailable)]);
    assert_eq!(codes(&elect(&fixture, 2, 1, Some(shared))), [("shared", 0, ErrorCode::None)]);
    assert_eq!(leader(&fixture), Some(3));
    apply(
        &fixture,
        vec![SetPartitionLeader::new(TOPIC, INDEX, None).into(), FenceBroker::new(NodeId(3), None).into()],
    );
    let answer = elect(&fixture, 2, 1, Some(shared));
    assert_eq!(codes(&answer), [("shared", 0, ErrorCode::EligibleLeadersNotAvailable)]);
    let answer = elect(&fixture, 2, 7, Some(shared));
    assert_eq!(code(answer.error_code), ErrorCode::InvalidRequest);
    assert_eq!(codes(&answer), [("shared", 0, ErrorCode::InvalidRequest)]);
}

/// Replication point 10.
#[test]
fn kip_106_a_topic_that_comes_to_allow_it_is_led_by_whoever_is_in_service() {
    for is_of_topic in [true, false] {
        check_unclean_by_config(is_of_topic);
    }
}

/// Allows unclean elections, by the topic's own config or by that of all brokers.
fn check_unclean_by_config(is_of_topic: bool) {
    let fixture = three_brokers();
    apply(
        &fixture,
        vec![
            SetPartitionLeader::new(TOPIC, INDEX, Some(NodeId(2))).into(),
            UpdateIsr::new(TOPIC, INDEX, &[NodeId(2)], None).into(),
            FenceBroker::new(NodeId(2), None).into(),
        ],
    );
    let oversee = || {
        let now = fixture.broker.clock.now();
        fixture.broker.run_controller(now);
        fixture.broker.run_controller(now);
    };
    oversee();
    assert_eq!(leader(&fixture), None, "broker 2 alone has everything");
    let name = "unclean.leader.election.enable";
    let allow = |resource: &ConfigResource, value: Option<&str>| {
        apply(&fixture, vec![SetConfig::new(resource, name, value.map(str::to_owned)).into()]);
        oversee();
        leader(&fixture)
    };
    let topic = ConfigResource::Topic("shared".into());
    assert_eq!(allow(&topic, Some("false")), None);
    assert_eq!(
        allow(&ConfigResource::BrokerDefault, Some("true")),
        None,
        "the topic's own value comes first"
    );
    let elected = if is_of_topic { allow(&topic, Some("true")) } else { allow(&topic, None) };
    assert_eq!(elected, Some(1), "of the topic: {is_of_topic}");
}

/// Replication point 7: an election may be planned before its winner is fenced, and applied afterwards.
#[test]
fn kip_966_a_leader_that_was_fenced_before_it_was_elected_is_replaced() {
    let fixture = three_brokers();
    let oversee = || {
        let now = fixture.broker.clock.now();
        fixture.broker.run_controller(now);
        fixture.broker.run_controller(now);
    };
    let command = UpdateIsr::new(TOPIC, INDEX, &[NodeId(1)], None).with_elr(&[NodeId(3)]);
    apply(&fixture, vec![command.into(), FenceBroker::new(NodeId(3), None).into()]);
    oversee();
    assert_eq!(leader(&fixture), Some(1), "there is nothing to do");
    lead(&fixture, 3);
    oversee();
    assert_eq!(leader(&fixture), Some(1), "broker 3 is not there to lead");
}

/// What became of the first proposal is not known; its repetition is not taken, for reasons that say nothing of the first.
#[test]
fn kip_497_a_proposal_of_unknown_outcome_counts_until_the_outcome_is_known() {
    let high_watermark = |outcomes: Vec<ProposeError>| {
        let fixture = three_brokers();
        let two = || apply(&fixture, vec![UpdateIsr::new(TOPIC, INDEX, &[1, 2].map(NodeId), None).into()]);
        let partition = fixture.partition("shared", 0);
        two();
        for node in [2, 3] {
            fetched(&fixture, node, 0, 0);
        }
        // It has entered; back to two.
        two();
        fixture.metadata.hold();
        fetched(&fixture, 3, 0, 0);
        for outcome in outcomes {
            let (_, done) = fixture.metadata.held.lock().as_mut().unwrap().remove(0);
            done(Err(outcome));
            partition.check_replicas(fixture.broker.clock.now());
        }
        let value = BytesMut::from(&batch(BatchOptions::default())[..]);
        partition.append(fixture.broker.clock.now(), value, AppendOrigin::Client, Box::new(|_, _| ()));
        fixture.pass(60_000);
        fetched(&fixture, 2, 1, 0);
        partition.high_watermark().get()
    };
    let unknown = || ProposeError::TimedOut { timeout_ms: 5_000 };
    assert_eq!(high_watermark(vec![ProposeError::Busy]), 1, "it was never taken");
    assert_eq!(high_watermark(vec![unknown()]), 0);
    assert_eq!(high_watermark(vec![unknown(), ProposeError::Busy]), 0);
    assert_eq!(high_watermark(vec![unknown(), ProposeError::Busy, ProposeError::DiskFull]), 0);
}
