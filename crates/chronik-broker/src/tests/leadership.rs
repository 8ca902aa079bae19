//! Partitions with replicas elsewhere: who waits for them, who is deposed, and who is elected.

use bytes::Bytes;
use chronik_disk::{Fault, FaultRule, Operation};
use chronik_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use chronik_protocol::messages::elect_leaders_request::TopicPartitions;
use chronik_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use chronik_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use chronik_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, ElectLeadersRequest, ElectLeadersResponse, FetchRequest,
    FetchResponse, ProduceRequest, ProduceResponse,
};
use chronik_protocol::records::{BatchBuilder, BatchOptions};
use chronik_raft::MetadataLog as _;
use chronik_raft::metadata::{
    AssignPartition, BeginControlledShutdown, Command, CommandBatch, ConfigResource, CreateTopic,
    FenceBroker, RegisterBroker, SetConfig, SetPartitionLeader, UpdateIsr,
};
use chronik_replication::FollowerFetch;
use chronik_types::{BrokerEpoch, ErrorCode, NodeId, Offset, PartitionIndex, TimestampMs, TopicId};

use super::{Fixture, NODE, Pending, code, response};
use crate::config::{BrokerConfig, ClusterNode};
use crate::partition::{Applied, LeaderAnswer};

const TOPIC: TopicId = TopicId(7);
const INDEX: PartitionIndex = PartitionIndex(0);

fn apply(fixture: &Fixture, commands: Vec<Command>) {
    fixture
        .metadata
        .propose(CommandBatch::new(commands), Box::new(|outcome| assert!(outcome.is_ok(), "{outcome:?}")));
}

/// This broker leads `shared-0`, and brokers 2 and 3 follow it.
fn three_brokers() -> Fixture {
    let node = |id: i32| ClusterNode { id: NodeId(id), host: "h".to_owned(), raft_port: 1 };
    let config = BrokerConfig { cluster_nodes: [1, 2, 3].map(node).to_vec(), ..Default::default() };
    let fixture = Fixture::with_config(config);
    fixture.add_broker(2, false);
    fixture.add_broker(3, false);
    let replicas = [1, 2, 3].map(NodeId);
    let mut create = CreateTopic::new("shared", TOPIC, 1, 3);
    create.configs.insert("min.insync.replicas".to_owned(), "2".to_owned());
    apply(
        &fixture,
        vec![
            create.into(),
            AssignPartition::new(TOPIC, INDEX, &replicas).into(),
            SetPartitionLeader::new(TOPIC, INDEX, Some(NodeId(1))).into(),
            UpdateIsr::new(TOPIC, INDEX, &replicas, None).into(),
        ],
    );
    fixture
}

fn lead(fixture: &Fixture, leader: i32) {
    apply(fixture, vec![SetPartitionLeader::new(TOPIC, INDEX, Some(NodeId(leader))).into()]);
}

fn produce(fixture: &Fixture, version: i16) -> Pending {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.append(TimestampMs(1_000_000), None, Some(b"value"), &[]).unwrap();
    let records = Some(builder.finish().unwrap().freeze());
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
fn fetched(fixture: &Fixture, node: i32, fetch_offset: i64, log_start_offset: i64) {
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
    let now = fixture.broker.clock.now();
    partition.apply_answer(now, answer(ErrorCode::OffsetOutOfRange, 0, Bytes::new()));
    assert_eq!(partition.fetch_position().fetch_offset, Offset(2), "the leader's log begins there");
    let options = BatchOptions {
        base_offset: Offset(1),
        partition_leader_epoch: leader_epoch,
        ..BatchOptions::default()
    };
    let mut builder = BatchBuilder::new(options);
    for _ in 0..3 {
        builder.append(TimestampMs(1_000_000), None, Some(b"value"), &[]).unwrap();
    }
    let records = builder.finish().unwrap().freeze();
    let applied = partition.apply_answer(now, answer(ErrorCode::None, 2, records));
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
    fixture.broker.register(Box::new(|outcome| assert!(outcome.is_ok(), "{outcome:?}")));
    lead(&fixture, 1);
    let leader_epoch = partition.fetch_position().current_leader_epoch;
    assert_eq!(partition.log().latest_epoch(), Some(leader_epoch));
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

#[test]
fn kip_106_a_topic_that_comes_to_allow_it_is_led_by_whoever_is_in_service() {
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
    let resource = ConfigResource::Topic("shared".into());
    let name = "unclean.leader.election.enable";
    apply(&fixture, vec![SetConfig::new(&resource, name, Some("true".to_owned())).into()]);
    oversee();
    assert_eq!(leader(&fixture), Some(1));
}
