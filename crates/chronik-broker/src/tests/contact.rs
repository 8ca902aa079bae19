//! A broker that the cluster may have replaced without its knowing.

use std::sync::mpsc;

use bytes::BytesMut;
use chronik_log::{AppendError, AppendOrigin, Appended};
use chronik_protocol::messages::describe_topic_partitions_request::TopicRequest;
use chronik_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use chronik_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use chronik_protocol::messages::metadata_request::MetadataRequestTopic;
use chronik_protocol::messages::{
    DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, FetchRequest, FetchResponse,
    JoinGroupResponse, ListOffsetsRequest, ListOffsetsResponse, MetadataRequest, MetadataResponse,
    OffsetCommitResponse, ProduceResponse,
};
use chronik_protocol::records::BatchOptions;
use chronik_raft::metadata::SetPartitionLeader;
use chronik_replication::FollowerFetch;
use chronik_types::{ErrorCode, MonotonicMs, NodeId, Offset, PartitionIndex, TimestampMs};

use super::groups::{commit_request, committed_or_error, find, join};
use super::leadership::{TOPIC, apply, batch, fetched, produce, three_brokers};
use super::{Fixture, NODE, Pending, code, response};
use crate::clock::Clock as _;
use crate::groups::OFFSETS_TOPIC;
use crate::partition::Confirmation;

/// How long the broker has contact for at first.
const CONTACT_MS: u64 = 500;

/// A broker of three that leads `shared-0`, with one committed record. Its last word of the cluster is an old one.
fn leading() -> Fixture {
    let fixture = three_brokers();
    let pending = produce(&fixture, 9);
    fetched(&fixture, 2, 1, 0);
    fetched(&fixture, 3, 1, 0);
    assert_eq!(produced(&pending, 9).0, ErrorCode::None);
    *fixture.metadata.contact_until.lock() = MonotonicMs(CONTACT_MS);
    fixture.broker.start_replica_checks(fixture.clock.now());
    fixture.pass(CONTACT_MS);
    fixture
}

fn regain(fixture: &Fixture) {
    *fixture.metadata.contact_until.lock() = fixture.clock.now().monotonic.plus_ms(60_000);
    fixture.pass(1_000);
}

/// The error code, and the leader that is named in its stead.
fn produced(pending: &Pending, version: i16) -> (ErrorCode, i32) {
    let answer: ProduceResponse = response(pending, version);
    let partition = &answer.responses[0].partition_responses[0];
    (code(partition.error_code), partition.current_leader.leader_id)
}

fn fetch(fixture: &Fixture, replica: i32, offset: i64, max_wait_ms: i32) -> Pending {
    let partition = FetchPartition {
        partition: 0,
        current_leader_epoch: if replica < 0 { -1 } else { 0 },
        fetch_offset: offset,
        last_fetched_epoch: -1,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    };
    let topic = FetchTopic { topic: "shared".to_owned(), topic_id: TOPIC, partitions: vec![partition] };
    let request = FetchRequest {
        replica_id: replica,
        max_wait_ms,
        min_bytes: 1,
        max_bytes: 1 << 20,
        session_epoch: -1,
        topics: vec![topic],
        ..Default::default()
    };
    fixture.send(12, &request)
}

/// The error code, and whether there are records.
fn fetched_records(pending: &Pending) -> (ErrorCode, bool) {
    let answer: FetchResponse = response(pending, 12);
    let partition = &answer.responses[0].partitions[0];
    let has_records = partition.records.as_ref().is_some_and(|records| !records.is_empty());
    (code(partition.error_code), has_records)
}

/// The followers have everything.
fn followers_come(fixture: &Fixture, topic: &str, index: i32) {
    let partition = fixture.partition(topic, index);
    for node in [2, 3].map(NodeId) {
        let fetch = FollowerFetch {
            node,
            broker_epoch: fixture.image().broker(node).map(|broker| broker.epoch),
            fetch_offset: partition.log().log_end_offset(),
            log_start_offset: partition.log().log_start_offset(),
        };
        partition.replica_fetched(fixture.clock.now(), partition.leader_epoch(), fetch);
    }
}

fn led_by(fixture: &Fixture, topic: &str) -> (i32, ErrorCode) {
    let topic = MetadataRequestTopic { name: Some(topic.to_owned()), ..Default::default() };
    let answer: MetadataResponse =
        fixture.call(9, &MetadataRequest { topics: Some(vec![topic]), ..Default::default() });
    let partition = &answer.topics[0].partitions[0];
    (partition.leader_id, code(partition.error_code))
}

/// The same by the API that Kafka's `Admin` asks.
fn described_leader(fixture: &Fixture, topic: &str) -> i32 {
    let request = DescribeTopicPartitionsRequest {
        topics: vec![TopicRequest { name: topic.to_owned() }],
        response_partition_limit: 10,
        ..Default::default()
    };
    let answer: DescribeTopicPartitionsResponse = fixture.call(0, &request);
    answer.topics[0].partitions[0].leader_id
}

const ELSEWHERE: (ErrorCode, i32) = (ErrorCode::NotLeaderOrFollower, -1);

#[test]
fn producers_that_wait_are_sent_away_and_others_not_let_in() {
    let fixture = leading();
    let pending = produce(&fixture, 10);
    assert!(pending.lock().is_none(), "it waits for the followers");
    fixture.pass(1);
    assert_eq!(produced(&pending, 10), ELSEWHERE, "before its own time is up");
    for acks_version in [3, 10] {
        assert_eq!(produced(&produce(&fixture, acks_version), acks_version).0, ELSEWHERE.0);
    }
    regain(&fixture);
    let pending = produce(&fixture, 10);
    fetched(&fixture, 2, 3, 0);
    fetched(&fixture, 3, 3, 0);
    assert_eq!(produced(&pending, 10).0, ErrorCode::None);
}

#[test]
fn whoever_begins_to_wait_in_the_last_moment_is_sent_away_too() {
    let fixture = leading();
    fixture.pass(1);
    *fixture.metadata.contact_until.lock() = fixture.clock.now().monotonic;
    let pending = produce(&fixture, 10);
    assert!(pending.lock().is_none());
    fixture.pass(250);
    assert_eq!(produced(&pending, 10), ELSEWHERE);
}

#[test]
fn consumers_read_what_is_committed_and_look_elsewhere_for_more() {
    let fixture = leading();
    let waiting = fetch(&fixture, -1, 1, 10_000);
    let follower = fetch(&fixture, 2, 1, 10_000);
    assert!(waiting.lock().is_none() && follower.lock().is_none(), "both wait for records");
    fixture.pass(1);
    assert_eq!(fetched_records(&waiting), (ErrorCode::NotLeaderOrFollower, false));
    assert!(follower.lock().is_none(), "the epochs decide about followers");
    assert_eq!(fetched_records(&fetch(&fixture, -1, 0, 10_000)), (ErrorCode::None, true));
    assert_eq!(fetched_records(&fetch(&fixture, -1, 1, 10_000)).0, ErrorCode::NotLeaderOrFollower);
    let beyond = fetched_records(&fetch(&fixture, -1, 9, 0)).0;
    assert_eq!(beyond, ErrorCode::NotLeaderOrFollower, "the leader may have that offset");
    let partition = ListOffsetsPartition { timestamp: -1, ..Default::default() };
    let topic = ListOffsetsTopic { name: "shared".to_owned(), partitions: vec![partition] };
    let request = ListOffsetsRequest { replica_id: -1, topics: vec![topic], ..Default::default() };
    let answer: ListOffsetsResponse = fixture.call(7, &request);
    assert_eq!(code(answer.topics[0].partitions[0].error_code), ErrorCode::NotLeaderOrFollower);
    regain(&fixture);
    assert!(fetch(&fixture, -1, 1, 10_000).lock().is_none(), "it waits here again");
}

#[test]
fn clients_are_not_told_that_it_leads() {
    let fixture = leading();
    assert_eq!(led_by(&fixture, "shared"), (1, ErrorCode::None));
    fixture.pass(1);
    assert_eq!(led_by(&fixture, "shared"), (-1, ErrorCode::LeaderNotAvailable));
    assert_eq!(described_leader(&fixture, "shared"), -1, "kafka-topics.sh lists it as unavailable");
    regain(&fixture);
    assert_eq!(led_by(&fixture, "shared"), (1, ErrorCode::None));
    assert_eq!(described_leader(&fixture, "shared"), 1);
}

#[test]
fn what_nobody_else_has_is_served_on() {
    let fixture = leading();
    fixture.create_topic("own", 1, &[]);
    let topic_id = fixture.image().topic("own").unwrap().id;
    assert_eq!(
        fixture.image().topic_by_id(topic_id).unwrap().partition(PartitionIndex(0)).unwrap().replicas.len(),
        1
    );
    let leader = led_by(&fixture, "own");
    fixture.pass(1);
    assert_eq!(led_by(&fixture, "own"), leader);
    if leader.0 == NODE.get() {
        assert_eq!(fixture.partition("own", 0).check_leader(), Ok(()));
    }
}

#[test]
fn groups_are_sent_away_and_read_again_when_the_lead_has_stayed() {
    let fixture = leading();
    assert_eq!(code(find(&fixture).error_code), ErrorCode::None);
    let home = PartitionIndex(chronik_coordinator::partition_for("g", 50).unwrap());
    lead_groups(&fixture, home, NODE.get());
    assert_eq!(find(&fixture).node_id, NODE.get());
    let joining = fixture.send(9, &join("", None));
    assert!(joining.lock().is_none(), "what it writes waits for the followers");
    fixture.pass(1);
    let refused: JoinGroupResponse = response(&joining, 9);
    assert_eq!(code(refused.error_code), ErrorCode::NotCoordinator);
    assert_eq!(code(find(&fixture).error_code), ErrorCode::CoordinatorNotAvailable);
    regain(&fixture);
    assert_eq!(find(&fixture).node_id, NODE.get());
    let loading: JoinGroupResponse = fixture.call(9, &join("", None));
    assert_eq!(code(loading.error_code), ErrorCode::CoordinatorLoadInProgress, "its log is read again");
    followers_come(&fixture, OFFSETS_TOPIC, home.get());
    for _ in 0..20 {
        fixture.pass(100);
    }
    // What was being written when the lead seemed lost is committed by now: the group is there.
    let known: JoinGroupResponse = fixture.call(9, &join("", None));
    assert_eq!(code(known.error_code), ErrorCode::MemberIdRequired, "and groups form");
}

/// Gives the groups of a partition another leader.
fn lead_groups(fixture: &Fixture, home: PartitionIndex, node: i32) {
    let topic = fixture.image().topic(OFFSETS_TOPIC).unwrap().id;
    apply(fixture, vec![SetPartitionLeader::new(topic, home, Some(NodeId(node))).into()]);
}

/// A broker that is in contact and coordinates `g`, and the group's partition, which others hold as well.
fn coordinating_shared() -> (Fixture, PartitionIndex) {
    let fixture = leading();
    regain(&fixture);
    fixture.create_topic("t", 2, &[]);
    assert_eq!(code(find(&fixture).error_code), ErrorCode::None);
    let home = PartitionIndex(chronik_coordinator::partition_for("g", 50).unwrap());
    lead_groups(&fixture, home, NODE.get());
    followers_come(&fixture, OFFSETS_TOPIC, home.get());
    (fixture, home)
}

fn commit(fixture: &Fixture, offset: i64) -> Pending {
    fixture.send(8, &commit_request("t", "g", None, offset, ""))
}

/// What the one who commits is told.
fn told(pending: &Pending) -> ErrorCode {
    let answer: OffsetCommitResponse = response(pending, 8);
    code(answer.topics[0].partitions[0].error_code)
}

/// Replication point 14.
#[test]
fn a_commit_is_answered_when_the_followers_have_it() {
    let (fixture, home) = coordinating_shared();
    let pending = commit(&fixture, 5);
    assert!(pending.lock().is_none(), "the followers do not have it");
    followers_come(&fixture, OFFSETS_TOPIC, home.get());
    assert_eq!(told(&pending), ErrorCode::None);
    let pending = commit(&fixture, 6);
    assert!(pending.lock().is_none());
    lead_groups(&fixture, home, 2);
    assert_eq!(told(&pending), ErrorCode::NotCoordinator, "the next one may have it or not");
}

/// Replication point 14.
#[test]
fn a_commit_that_nobody_can_tell_of_is_read_from_the_log_when_contact_comes_and_goes_between_two_looks() {
    let (fixture, home) = coordinating_shared();
    let pending = commit(&fixture, 5);
    followers_come(&fixture, OFFSETS_TOPIC, home.get());
    assert_eq!(told(&pending), ErrorCode::None);
    *fixture.metadata.contact_until.lock() = fixture.clock.now().monotonic;
    fixture.pass(1_000);
    // It comes back for less than the time between two looks, in which the groups are read.
    *fixture.metadata.contact_until.lock() = fixture.clock.now().monotonic.plus_ms(100);
    assert_eq!(told(&commit(&fixture, 6)), ErrorCode::CoordinatorLoadInProgress);
    for _ in 0..20 {
        fixture.pass(1);
    }
    let pending = commit(&fixture, 6);
    assert!(pending.lock().is_none(), "the followers do not have it");
    fixture.pass(300);
    assert_eq!(told(&pending), ErrorCode::NotCoordinator);
    regain(&fixture);
    followers_come(&fixture, OFFSETS_TOPIC, home.get());
    for _ in 0..20 {
        fixture.pass(100);
    }
    assert_eq!(committed_or_error(&fixture, "g"), Ok(6), "it was in the log, and is committed by now");
}

#[test]
fn a_commit_that_has_failed_is_not_taken_for_done_with_a_later_one() {
    let (fixture, _) = coordinating_shared();
    let (first, second) = (commit(&fixture, 5), commit(&fixture, 6));
    let now = fixture.clock.now();
    let shard = fixture.broker.group_shard(now, "g");
    // Two threads write to the log, and the one whose write succeeds comes first with its word.
    shard.decide(
        now,
        1,
        Ok(Appended {
            first_offset: Offset(1),
            last_offset: Offset(1),
            log_append_time: TimestampMs::NONE,
            log_start_offset: Offset(0),
            is_duplicate: false,
            sync_up_to: None,
        }),
    );
    assert!(first.lock().is_none() && second.lock().is_none());
    shard.decide(now, 0, Err(AppendError::OffsetsExhausted));
    assert_eq!(told(&first), ErrorCode::UnknownServerError);
    assert_eq!(told(&second), ErrorCode::None);
    assert_eq!(committed_or_error(&fixture, "g"), Ok(6));
}

/// Replication point 9.
#[test]
fn a_commit_in_the_log_of_which_nobody_can_tell_more_is_read_from_there() {
    let (fixture, home) = coordinating_shared();
    let pending = commit(&fixture, 6);
    let now = fixture.clock.now();
    let undecided = AppendError::Undecided { last_offset: Offset(0) };
    fixture.broker.group_shard(now, "g").decide(now, 0, Err(undecided));
    assert_eq!(told(&pending), ErrorCode::NotCoordinator);
    assert_eq!(committed_or_error(&fixture, "g"), Err(ErrorCode::CoordinatorLoadInProgress));
    followers_come(&fixture, OFFSETS_TOPIC, home.get());
    for _ in 0..20 {
        fixture.pass(1);
    }
    assert_eq!(committed_or_error(&fixture, "g"), Ok(6));
}

/// Replication point 14.
#[test]
fn groups_are_not_read_while_a_commit_is_on_its_way_to_the_log() {
    let (fixture, home) = coordinating_shared();
    let first = commit(&fixture, 5);
    followers_come(&fixture, OFFSETS_TOPIC, home.get());
    assert_eq!(told(&first), ErrorCode::None);
    // Somebody else writes to the partition, and the disk takes its time.
    let partition = fixture.partition(OFFSETS_TOPIC, home.get());
    let (writing, has_begun) = mpsc::channel();
    let (release, is_released) = mpsc::channel::<()>();
    fixture.disk.within_next_write(move || {
        writing.send(()).unwrap();
        is_released.recv().unwrap_err();
    });
    let now = fixture.clock.now();
    let writer = std::thread::spawn(move || {
        let batch = BytesMut::from(&*batch(BatchOptions::default()));
        let done = Box::new(|_, appended: Result<Appended, AppendError>| assert!(appended.is_ok()));
        partition.append_with(now, batch, AppendOrigin::Coordinator, Confirmation::Appended, done);
    });
    has_begun.recv().unwrap();
    let pending = commit(&fixture, 6);
    assert!(pending.lock().is_none(), "it is queued");
    *fixture.metadata.contact_until.lock() = fixture.clock.now().monotonic;
    fixture.pass(1_000);
    assert_eq!(told(&pending), ErrorCode::NotCoordinator);
    regain(&fixture);
    let look = || committed_or_error(&fixture, "g");
    for _ in 0..20 {
        assert_eq!(look(), Err(ErrorCode::CoordinatorLoadInProgress));
        fixture.pass(100);
    }
    drop(release);
    writer.join().unwrap();
    followers_come(&fixture, OFFSETS_TOPIC, home.get());
    for _ in 0..20 {
        fixture.pass(100);
    }
    assert_eq!(look(), Ok(6));
}
