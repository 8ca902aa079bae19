//! Groups through the broker: from the request to the log and back, and again after a restart.

use bytes::Bytes;
use chronik_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use chronik_protocol::messages::leave_group_request::MemberIdentity;
use chronik_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use chronik_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use chronik_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use chronik_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use chronik_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse,
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse,
};
use chronik_types::{ErrorCode, PartitionIndex};

use super::{Fixture, Pending, code, connection, response};
use crate::clock::Clock;
use crate::groups::OFFSETS_TOPIC;

/// Longer than `group.initial.rebalance.delay.ms`.
pub(super) const DELAY_MS: u64 = 3_001;

pub(super) fn find(fixture: &Fixture) -> FindCoordinatorResponse {
    fixture.call(3, &FindCoordinatorRequest { key: "g".to_owned(), ..Default::default() })
}

/// A broker with a topic to consume and the topic of the groups.
pub(super) fn coordinating() -> Fixture {
    let fixture = Fixture::new();
    fixture.create_topic("t", 2, &[]);
    assert_eq!(code(find(&fixture).error_code), ErrorCode::None);
    fixture
}

pub(super) fn join(member_id: &str, instance: Option<&str>) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: "g".to_owned(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        member_id: member_id.to_owned(),
        group_instance_id: instance.map(str::to_owned),
        protocol_type: "consumer".to_owned(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".to_owned(),
            // A subscription to `t`: version, one topic, no user data.
            metadata: Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff"),
        }],
        ..Default::default()
    }
}

/// Enters the group by the member-id handshake; the answer is still to come.
pub(super) fn enter(fixture: &Fixture) -> (String, Pending) {
    let handshake: JoinGroupResponse = fixture.call(9, &join("", None));
    assert_eq!(code(handshake.error_code), ErrorCode::MemberIdRequired);
    let pending = fixture.send(9, &join(&handshake.member_id, None));
    (handshake.member_id, pending)
}

pub(super) fn sync(
    fixture: &Fixture,
    joined: &JoinGroupResponse,
    assigned: &[(&str, &'static str)],
) -> Pending {
    let assignment = |(member, text): &(&str, &'static str)| SyncGroupRequestAssignment {
        member_id: (*member).to_owned(),
        assignment: Bytes::from_static(text.as_bytes()),
    };
    let request = SyncGroupRequest {
        group_id: "g".to_owned(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        protocol_type: Some("consumer".to_owned()),
        protocol_name: Some("range".to_owned()),
        assignments: assigned.iter().map(assignment).collect(),
        ..Default::default()
    };
    fixture.send(5, &request)
}

pub(super) fn heartbeat(fixture: &Fixture, joined: &JoinGroupResponse) -> ErrorCode {
    let request = HeartbeatRequest {
        group_id: "g".to_owned(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        ..Default::default()
    };
    let answer: HeartbeatResponse = fixture.call(4, &request);
    code(answer.error_code)
}

pub(super) fn commit(
    fixture: &Fixture,
    group: &str,
    member: Option<&JoinGroupResponse>,
    offset: i64,
) -> ErrorCode {
    commit_noted(fixture, group, member, offset, "note")
}

pub(super) fn commit_noted(
    fixture: &Fixture,
    group: &str,
    member: Option<&JoinGroupResponse>,
    offset: i64,
    note: &str,
) -> ErrorCode {
    let answer: OffsetCommitResponse = fixture.call(8, &commit_request("t", group, member, offset, note));
    code(answer.topics[0].partitions[0].error_code)
}

/// A commit for partition 1 of a topic.
pub(super) fn commit_request(
    topic: &str,
    group: &str,
    member: Option<&JoinGroupResponse>,
    offset: i64,
    note: &str,
) -> OffsetCommitRequest {
    OffsetCommitRequest {
        group_id: group.to_owned(),
        generation_id_or_member_epoch: member.map_or(-1, |joined| joined.generation_id),
        member_id: member.map(|joined| joined.member_id.clone()).unwrap_or_default(),
        topics: vec![OffsetCommitRequestTopic {
            name: topic.to_owned(),
            partitions: vec![OffsetCommitRequestPartition {
                partition_index: 1,
                committed_offset: offset,
                committed_metadata: Some(note.to_owned()),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// The committed offset of partition 1 for each group, or −1.
pub(super) fn committed(fixture: &Fixture, groups: &[&str]) -> Vec<i64> {
    let group = |id: &&str| OffsetFetchRequestGroup {
        group_id: (*id).to_owned(),
        topics: None,
        ..Default::default()
    };
    let request = OffsetFetchRequest { groups: groups.iter().map(group).collect(), ..Default::default() };
    let answer: OffsetFetchResponse = fixture.call(8, &request);
    assert!(answer.groups.iter().all(|group| group.error_code == 0), "{answer:?}");
    answer
        .groups
        .iter()
        .map(|group| group.topics.first().map_or(-1, |topic| topic.partitions[0].committed_offset))
        .collect()
}

/// The committed offset of partition 1, or why there is none to tell.
pub(super) fn committed_or_error(fixture: &Fixture, group: &str) -> Result<i64, ErrorCode> {
    let group = OffsetFetchRequestGroup { group_id: group.to_owned(), topics: None, ..Default::default() };
    let request = OffsetFetchRequest { groups: vec![group], ..Default::default() };
    let answer: OffsetFetchResponse = fixture.call(8, &request);
    let group = &answer.groups[0];
    if group.error_code == 0 {
        Ok(group.topics.first().map_or(-1, |topic| topic.partitions[0].committed_offset))
    } else {
        Err(code(group.error_code))
    }
}

pub(super) fn states(fixture: &Fixture) -> Vec<(String, String)> {
    let answer: ListGroupsResponse = fixture.call(5, &ListGroupsRequest::default());
    assert_eq!(code(answer.error_code), ErrorCode::None);
    let mut groups: Vec<_> =
        answer.groups.into_iter().map(|group| (group.group_id, group.group_state)).collect();
    groups.sort();
    groups
}

pub(super) fn one_member(fixture: &Fixture) -> JoinGroupResponse {
    let (id, pending) = enter(fixture);
    fixture.pass(DELAY_MS);
    let joined: JoinGroupResponse = response(&pending, 9);
    assert_eq!(code(joined.error_code), ErrorCode::None);
    let synced: SyncGroupResponse = response(&sync(fixture, &joined, &[(&id, "all")]), 5);
    assert_eq!(synced.assignment, "all");
    joined
}

/// The same broker after an orderly end, its groups loaded.
fn restarted(fixture: Fixture) -> Fixture {
    let fixture = fixture.restart();
    fixture.broker.load_groups(fixture.clock.now());
    // One turn of the loader for every sixteen logs that it opens.
    for _ in 0..10 {
        fixture.pass(1);
    }
    fixture
}

#[test]
fn the_topic_of_the_groups_is_made_when_a_coordinator_is_looked_for() {
    let fixture = Fixture::new();
    let found = find(&fixture);
    assert_eq!((code(found.error_code), found.node_id, found.port), (ErrorCode::None, 1, 9092));
    let image = fixture.image();
    let topic = image.topic(OFFSETS_TOPIC).unwrap();
    assert_eq!(topic.partitions().count(), 50);
    let config = fixture.partition(OFFSETS_TOPIC, 0).log().config();
    assert_eq!(config.cleanup_policy, chronik_log::CleanupPolicy::COMPACT, "nothing of it grows old");
    assert_eq!(config.segment_bytes, 104_857_600);
    let keys = vec!["a".to_owned(), "b".to_owned()];
    let batch: FindCoordinatorResponse =
        fixture.call(6, &FindCoordinatorRequest { coordinator_keys: keys, ..Default::default() });
    assert!(batch.coordinators.iter().all(|found| found.node_id == 1 && found.error_code == 0));
    assert_eq!(batch.coordinators.len(), 2);
    let transaction = FindCoordinatorRequest { key: "x".to_owned(), key_type: 1, ..Default::default() };
    let refused: FindCoordinatorResponse = fixture.call(3, &transaction);
    assert_eq!(code(refused.error_code), ErrorCode::TransactionalIdAuthorizationFailed);
}

#[test]
fn without_the_topic_every_group_is_elsewhere() {
    let fixture = Fixture::new();
    let joined: JoinGroupResponse = fixture.call(9, &join("", None));
    assert_eq!(code(joined.error_code), ErrorCode::NotCoordinator);
    assert!(states(&fixture).is_empty());
}

#[test]
fn two_members_share_a_group() {
    let fixture = coordinating();
    let ((a, pending_a), (b, pending_b)) = (enter(&fixture), enter(&fixture));
    assert!(pending_a.lock().is_none(), "the group waits for more members");
    fixture.pass(DELAY_MS);
    fixture.pass(DELAY_MS);
    let joined: Vec<JoinGroupResponse> = vec![response(&pending_a, 9), response(&pending_b, 9)];
    assert!(joined.iter().all(|joined| joined.error_code == 0 && joined.generation_id == 1), "{joined:?}");
    let (leaders, followers): (Vec<_>, Vec<_>) =
        joined.into_iter().partition(|joined| joined.leader == joined.member_id);
    let ([leader], [follower]) = (&leaders[..], &followers[..]) else { panic!("one leads") };
    assert_eq!((leader.members.len(), follower.members.len()), (2, 0));
    let waiting = sync(&fixture, follower, &[]);
    assert!(waiting.lock().is_none(), "the leader has not assigned yet");
    let assigned = [(a.as_str(), "for a"), (b.as_str(), "for b")];
    let led: SyncGroupResponse = response(&sync(&fixture, leader, &assigned), 5);
    let given: SyncGroupResponse = response(&waiting, 5);
    let share = |member: &str| if member == a { "for a" } else { "for b" };
    assert_eq!(led.assignment, share(&leader.member_id));
    assert_eq!(given.assignment, share(&follower.member_id));
    assert_eq!(heartbeat(&fixture, leader), ErrorCode::None);
    assert_eq!(commit(&fixture, "g", Some(leader), 5), ErrorCode::None);
    assert_eq!(committed(&fixture, &["g", "other"]), [5, -1]);

    let request = DescribeGroupsRequest {
        groups: vec!["g".to_owned(), "missing".to_owned()],
        include_authorized_operations: true,
    };
    let described: DescribeGroupsResponse = fixture.call(6, &request);
    assert_eq!((described.groups[0].group_state.as_str(), described.groups[0].members.len()), ("Stable", 2));
    assert_eq!(described.groups[0].members[0].client_host, "/127.0.0.1");
    assert_eq!(described.groups[0].authorized_operations, 3_400);
    assert_eq!(code(described.groups[1].error_code), ErrorCode::GroupIdNotFound);

    let leave = LeaveGroupRequest {
        group_id: "g".to_owned(),
        members: vec![MemberIdentity { member_id: follower.member_id.clone(), ..Default::default() }],
        ..Default::default()
    };
    let left: LeaveGroupResponse = fixture.call(5, &leave);
    assert_eq!((left.error_code, left.members[0].error_code), (0, 0));
    assert_eq!(heartbeat(&fixture, leader), ErrorCode::RebalanceInProgress);
    // Nobody is heard of any more: the sessions end by the timer alone.
    fixture.pass(10_001);
    fixture.pass(10_001);
    assert_eq!(states(&fixture), [("g".to_owned(), "Empty".to_owned())]);
}

#[test]
fn a_restart_replays_groups_and_offsets() {
    let fixture = coordinating();
    let joined = one_member(&fixture);
    assert_eq!(commit(&fixture, "g", Some(&joined), 7), ErrorCode::None);
    assert_eq!(commit(&fixture, "simple", None, 3), ErrorCode::None);
    let fixture = restarted(fixture);
    assert_eq!(committed(&fixture, &["g", "simple"]), [7, 3]);
    assert_eq!(heartbeat(&fixture, &joined), ErrorCode::None, "the member is known");
    let expected = [("g", "Stable"), ("simple", "Empty")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(states(&fixture), expected);
    fixture.pass(10_001);
    assert_eq!(heartbeat(&fixture, &joined), ErrorCode::UnknownMemberId, "its session ran out");
}

#[test]
fn groups_and_offsets_are_deleted() {
    let fixture = coordinating();
    for group in ["g", "h", "i"] {
        assert_eq!(commit(&fixture, group, None, 9), ErrorCode::None);
    }
    let request = OffsetDeleteRequest {
        group_id: "i".to_owned(),
        topics: vec![OffsetDeleteRequestTopic {
            name: "t".to_owned(),
            partitions: vec![OffsetDeleteRequestPartition { partition_index: 1 }],
        }],
    };
    let deleted: OffsetDeleteResponse = fixture.call(0, &request);
    assert_eq!((deleted.error_code, deleted.topics[0].partitions[0].error_code), (0, 0));
    assert_eq!(committed(&fixture, &["i"]), [-1]);
    let request =
        DeleteGroupsRequest { groups_names: vec!["g".to_owned(), "h".to_owned(), "missing".to_owned()] };
    let deleted: DeleteGroupsResponse = fixture.call(2, &request);
    let results = deleted.results.iter().map(|result| (result.group_id.as_str(), result.error_code));
    let expected = [("g", ErrorCode::None), ("h", ErrorCode::None), ("missing", ErrorCode::GroupIdNotFound)];
    assert_eq!(super::by_name(results), expected.into());
    let fixture = restarted(fixture);
    assert_eq!(committed(&fixture, &["g", "h", "i"]), [-1, -1, -1]);
}

#[test]
fn offsets_go_with_their_topic() {
    let fixture = coordinating();
    assert_eq!(commit(&fixture, "g", None, 9), ErrorCode::None);
    let request = chronik_protocol::messages::DeleteTopicsRequest {
        topic_names: vec!["t".to_owned()],
        timeout_ms: 1_000,
        ..Default::default()
    };
    let _: chronik_protocol::messages::DeleteTopicsResponse = fixture.call(5, &request);
    assert_eq!(committed(&fixture, &["g"]), [-1]);
}

#[test]
fn a_static_member_takes_its_place_again() {
    let fixture = coordinating();
    let pending = fixture.send(9, &join("", Some("one")));
    fixture.pass(DELAY_MS);
    let joined: JoinGroupResponse = response(&pending, 9);
    let id = joined.member_id.clone();
    let _: SyncGroupResponse = response(&sync(&fixture, &joined, &[(&id, "all")]), 5);
    let again: JoinGroupResponse = fixture.call(9, &join("", Some("one")));
    assert_eq!((code(again.error_code), again.generation_id), (ErrorCode::None, joined.generation_id));
    assert_ne!(again.member_id, id);
    let request = HeartbeatRequest {
        group_id: "g".to_owned(),
        generation_id: joined.generation_id,
        member_id: id,
        group_instance_id: Some("one".to_owned()),
    };
    let fenced: HeartbeatResponse = fixture.call(4, &request);
    assert_eq!(code(fenced.error_code), ErrorCode::FencedInstanceId);
}

#[test]
fn what_waits_goes_with_its_client_and_with_the_broker() {
    let fixture = coordinating();
    let (_, gone) = enter(&fixture);
    fixture.broker.connection_closed(&fixture.connection);
    fixture.pass(DELAY_MS);
    assert!(gone.lock().is_none(), "nobody is there to be answered");
    let fixture = Fixture { connection: connection(2), ..fixture };
    let (_, waiting) = enter(&fixture);
    assert!(waiting.lock().is_none());
    fixture.broker.stop_waiting(fixture.clock.now());
    let answer: JoinGroupResponse = response(&waiting, 9);
    assert_eq!(code(answer.error_code), ErrorCode::NotCoordinator);
}

#[test]
fn a_commit_is_in_the_log_in_one_batch_before_it_is_answered() {
    let fixture = coordinating();
    let index = chronik_coordinator::partition_for("g", 50).unwrap();
    let end = || fixture.partition(OFFSETS_TOPIC, index).high_watermark().get();
    assert_eq!(end(), 0);
    assert_eq!(commit(&fixture, "g", None, 9), ErrorCode::None);
    assert_eq!(end(), 1);
    assert!(fixture.image().topic(OFFSETS_TOPIC).unwrap().partition(PartitionIndex(index)).is_some());
}
