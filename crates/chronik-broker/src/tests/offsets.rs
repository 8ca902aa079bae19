//! `ListOffsets` and `OffsetForLeaderEpoch`.

use chronik_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use chronik_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use chronik_protocol::messages::{
    ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
};
use chronik_protocol::records::BatchOptions;
use chronik_raft::metadata::{CommandBatch, SetPartitionLeader};
use chronik_types::{ErrorCode, PartitionIndex, ProducerEpoch, ProducerId};

use super::{Fixture, code};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

fn ask(topic: &str, partitions: &[(i32, i64)]) -> ListOffsetsRequest {
    let partitions = partitions
        .iter()
        .map(|(index, timestamp)| ListOffsetsPartition {
            partition_index: *index,
            timestamp: *timestamp,
            ..Default::default()
        })
        .collect();
    let topics = vec![ListOffsetsTopic { name: topic.to_owned(), partitions }];
    ListOffsetsRequest { replica_id: -1, topics, ..Default::default() }
}

/// Error, timestamp, offset and leader epoch.
type Found = (ErrorCode, i64, i64, i32);

fn find(fixture: &Fixture, version: i16, request: &ListOffsetsRequest) -> Vec<Found> {
    let response: ListOffsetsResponse = fixture.call(version, request);
    let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
    partitions
        .map(|found| (code(found.error_code), found.timestamp, found.offset, found.leader_epoch))
        .collect()
}

fn one(fixture: &Fixture, version: i16, timestamp: i64) -> Found {
    find(fixture, version, &ask("a", &[(0, timestamp)]))[0]
}

/// A topic with three batches of one record each, after a leader epoch without any.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.create_topic("a", 2, &[]);
    fixture.partition("a", 0);
    elect(&fixture, "a");
    for timestamp in [1_000_100, 1_000_300, 1_000_200] {
        fixture.append("a", 0, &[timestamp], BatchOptions::default());
    }
    fixture
}

/// Elects the leader of partition 0 again, which begins a leader epoch.
fn elect(fixture: &Fixture, topic: &str) {
    let topic_id = fixture.image().topic(topic).unwrap().id;
    let mut command = SetPartitionLeader::new(topic_id, PartitionIndex(0), Some(super::NODE));
    command.always_new_epoch = true;
    fixture.broker.metadata.propose(
        CommandBatch::new(vec![command.into()]),
        Box::new(|outcome| assert!(outcome.is_ok(), "{outcome:?}")),
    );
}

#[test]
fn places_in_the_log_are_found_in_every_version_that_knows_them() {
    let fixture = fixture();
    for version in 1..=11 {
        let epoch = if version >= 4 { 1 } else { -1 };
        let unknown = (ErrorCode::UnsupportedVersion, -1, -1, -1);
        let known_from = |from, found| if version >= from { found } else { unknown };
        assert_eq!(one(&fixture, version, LATEST), (ErrorCode::None, -1, 3, epoch));
        let (error, timestamp, offset, _) = one(&fixture, version, EARLIEST);
        assert_eq!((error, timestamp, offset), (ErrorCode::None, -1, 0));
        assert_eq!(
            one(&fixture, version, MAX_TIMESTAMP),
            known_from(7, (ErrorCode::None, 1_000_300, 1, epoch))
        );
        let (error, _, offset, _) = one(&fixture, version, EARLIEST_LOCAL);
        assert_eq!((error, offset), if version >= 8 { (ErrorCode::None, 0) } else { (unknown.0, -1) });
        let nothing = (ErrorCode::None, -1, -1, -1);
        assert_eq!(one(&fixture, version, LATEST_TIERED), known_from(9, nothing));
        assert_eq!(one(&fixture, version, EARLIEST_PENDING_UPLOAD), known_from(11, nothing));
        assert_eq!(one(&fixture, version, -7), unknown);
    }
}

#[test]
fn records_are_found_by_time() {
    let fixture = fixture();
    assert_eq!(one(&fixture, 11, 0), (ErrorCode::None, 1_000_100, 0, 1));
    assert_eq!(one(&fixture, 11, 1_000_100), (ErrorCode::None, 1_000_100, 0, 1));
    assert_eq!(one(&fixture, 11, 1_000_101), (ErrorCode::None, 1_000_300, 1, 1));
    assert_eq!(one(&fixture, 11, 1_000_301), (ErrorCode::None, -1, -1, -1));
    fixture.partition("a", 0).log().delete_records(chronik_types::Offset(2)).unwrap();
    assert_eq!(one(&fixture, 11, EARLIEST).2, 2);
    assert_eq!(one(&fixture, 11, 0).2, 2);
}

#[test]
fn an_empty_partition_has_places_and_no_records() {
    let fixture = fixture();
    let places = [LATEST, EARLIEST, MAX_TIMESTAMP, 0];
    let found: Vec<_> = places.map(|place| find(&fixture, 11, &ask("a", &[(1, place)]))[0]).to_vec();
    assert_eq!(found[0], (ErrorCode::None, -1, 0, 0));
    assert_eq!(found[1], (ErrorCode::None, -1, 0, 0));
    assert_eq!(found[2], (ErrorCode::None, -1, -1, -1));
    assert_eq!(found[3], (ErrorCode::None, -1, -1, -1));
}

#[test]
fn what_is_undecided_is_not_told_to_those_who_read_committed() {
    let fixture = fixture();
    let options = BatchOptions {
        producer_id: ProducerId(1),
        producer_epoch: ProducerEpoch(0),
        base_sequence: 0,
        is_transactional: true,
        ..Default::default()
    };
    fixture.append("a", 0, &[1_000_900], options);
    let committed = |place| {
        let request = ListOffsetsRequest { isolation_level: 1, ..ask("a", &[(0, place)]) };
        find(&fixture, 11, &request)[0].2
    };
    assert_eq!((one(&fixture, 11, LATEST).2, committed(LATEST)), (4, 3));
    assert_eq!((one(&fixture, 11, 1_000_400).2, committed(1_000_400)), (3, -1));
    assert_eq!((one(&fixture, 11, MAX_TIMESTAMP).2, committed(MAX_TIMESTAMP)), (3, -1));
    assert_eq!(committed(0), 0);
    // A replica hears of everything, whatever it says of isolation.
    let request = ListOffsetsRequest { replica_id: 2, isolation_level: 1, ..ask("a", &[(0, LATEST)]) };
    assert_eq!(find(&fixture, 11, &request)[0].2, 4);
}

#[test]
fn a_partition_named_twice_is_refused_once() {
    let fixture = fixture();
    let mut request = ask("a", &[(0, LATEST), (1, LATEST), (0, EARLIEST)]);
    let found = find(&fixture, 11, &request);
    assert_eq!(found, [(ErrorCode::InvalidRequest, -1, -1, -1), (ErrorCode::None, -1, 0, 0)]);
    // Naming the topic twice does not hide it.
    request.topics.extend(ask("a", &[(1, LATEST)]).topics);
    let found = find(&fixture, 11, &request);
    assert_eq!(found, [(ErrorCode::InvalidRequest, -1, -1, -1); 2]);
}

#[test]
fn a_partition_that_is_not_served_says_why() {
    let fixture = fixture();
    fixture.add_broker(2, false);
    fixture.create_topic("far", 2, &[]);
    let image = fixture.image();
    let far = image.topic("far").unwrap();
    let elsewhere =
        far.partitions().find(|(_, found)| !found.replicas.contains(&super::NODE)).unwrap().0.get();
    let error = |topic: &str, index, known_epoch| {
        let mut request = ask(topic, &[(index, LATEST)]);
        request.topics[0].partitions[0].current_leader_epoch = known_epoch;
        find(&fixture, 11, &request)[0].0
    };
    assert_eq!(error("missing", 0, -1), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(error("a", 2, -1), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(error("a", i32::MIN, -1), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(error("far", elsewhere, -1), ErrorCode::NotLeaderOrFollower);
    assert_eq!(error("a", 0, 0), ErrorCode::FencedLeaderEpoch);
    assert_eq!(error("a", 0, 2), ErrorCode::UnknownLeaderEpoch);
    assert_eq!(error("a", 0, 1), ErrorCode::None);
}

#[test]
fn leader_epochs_end_where_the_next_one_begins() {
    let fixture = fixture();
    elect(&fixture, "a");
    fixture.append("a", 0, &[1_000_400], BatchOptions::default());
    let ask = |topic: &str, index, known_epoch, leader_epoch| {
        let partition =
            OffsetForLeaderPartition { partition: index, current_leader_epoch: known_epoch, leader_epoch };
        let topics = vec![OffsetForLeaderTopic { topic: topic.to_owned(), partitions: vec![partition] }];
        let request = OffsetForLeaderEpochRequest { replica_id: -1, topics };
        let answers = [2, 3, 4].map(|version| -> OffsetForLeaderEpochResponse {
            let response: OffsetForLeaderEpochResponse = fixture.call(version, &request);
            assert_eq!(
                (response.topics[0].topic.as_str(), response.topics[0].partitions[0].partition),
                (topic, index)
            );
            response
        });
        assert!(answers.iter().all(|answer| answer.topics == answers[0].topics));
        let found = &answers[0].topics[0].partitions[0];
        (code(found.error_code), found.leader_epoch, found.end_offset)
    };
    assert_eq!(ask("a", 0, -1, 2), (ErrorCode::None, 2, 4), "the epoch in force ends at the log's end");
    assert_eq!(ask("a", 0, 2, 1), (ErrorCode::None, 1, 3));
    assert_eq!(ask("a", 0, -1, 7), (ErrorCode::None, -1, -1), "an epoch to come");
    assert_eq!(ask("a", 0, -1, -1), (ErrorCode::None, -1, -1));
    assert_eq!(ask("a", 0, 1, 1), (ErrorCode::FencedLeaderEpoch, -1, -1));
    assert_eq!(ask("a", 0, 3, 1), (ErrorCode::UnknownLeaderEpoch, -1, -1));
    assert_eq!(ask("a", 5, -1, 0), (ErrorCode::UnknownTopicOrPartition, -1, -1));
    assert_eq!(ask("missing", 0, -1, 0), (ErrorCode::UnknownTopicOrPartition, -1, -1));
}
