//! `OffsetCommit`, `OffsetFetch` and `OffsetDelete`.

use chronik_coordinator::{Response, offset_fetch_groups, offset_fetch_response};
use chronik_protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use chronik_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use chronik_protocol::messages::{OffsetDeleteRequest, OffsetFetchRequest};
use chronik_types::{ErrorCode, TopicId};

use crate::common::{Commit, Harness, Join, TestTopics, error};

#[test]
fn an_offset_is_fetched_as_it_was_committed() {
    let mut harness = Harness::new();
    assert_eq!(harness.fetched("g", "t0", 0), -1);
    assert_eq!(
        harness.commit(&Commit { offset: 42, metadata: "here", ..Commit::default() }),
        ErrorCode::None
    );
    let fetched = harness.fetch("g", "t0", 0);
    assert_eq!((fetched.committed_offset, fetched.committed_leader_epoch, fetched.error_code), (42, -1, 0));
    assert_eq!(fetched.metadata.as_deref(), Some("here"));
    assert_eq!(harness.fetched("g", "t0", 1), -1);
    assert_eq!(harness.fetched("other", "t0", 0), -1);
    harness.fail_over();
    assert_eq!(harness.fetched("g", "t0", 0), 42);
    assert_eq!(harness.state("g"), "Empty");
}

#[test]
fn a_commit_is_answered_and_seen_once_it_is_in_the_log() {
    let mut harness = Harness::new();
    harness.commit(&Commit { offset: 1, ..Commit::default() });
    harness.commits_at_once = false;
    let id = harness.send_commit(&Commit { offset: 2, ..Commit::default() });
    assert_eq!(harness.commit_error(id), None, "GROUP-1");
    let fetched = harness.fetch("g", "t0", 0);
    assert_eq!(fetched.error_code, ErrorCode::UnstableOffsetCommit.code(), "a stable offset is asked for");
    let request = fetch_of("g", "t0");
    let unstable = harness.coordinator.offset_fetch(8, &request, false, &TestTopics);
    assert_eq!(unstable.topics[0].partitions[0].committed_offset, 1, "or the last that is committed");
    harness.commit_all();
    assert_eq!(harness.commit_error(id), Some(ErrorCode::None));
    assert_eq!(harness.fetched("g", "t0", 0), 2);
}

#[test]
fn a_commit_that_cannot_be_written_leaves_the_offset_as_it_was() {
    let mut harness = Harness::new();
    harness.commit(&Commit { offset: 1, ..Commit::default() });
    harness.append_error = Some(ErrorCode::NotEnoughReplicas);
    let error = harness.commit(&Commit { offset: 2, ..Commit::default() });
    assert_eq!(error, ErrorCode::CoordinatorNotAvailable);
    assert_eq!(harness.fetched("g", "t0", 0), 1);
    harness.append_error = Some(ErrorCode::NotLeaderOrFollower);
    let error = harness.commit(&Commit { group: "new", offset: 2, ..Commit::default() });
    assert_eq!(error, ErrorCode::NotCoordinator);
    assert_eq!(harness.state("new"), "Dead", "no group begins with a commit that failed");
}

#[test]
fn a_commit_that_takes_too_long_is_refused_and_may_count_later() {
    let mut harness = Harness::new();
    harness.commits_at_once = false;
    let id = harness.send_commit(&Commit { offset: 7, ..Commit::default() });
    harness.advance(5_000);
    assert_eq!(harness.commit_error(id), Some(ErrorCode::CoordinatorNotAvailable));
    harness.commit_all();
    assert_eq!(harness.fetched("g", "t0", 0), 7);
}

#[test]
fn a_member_commits_in_its_generation() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 2);
    let good = Commit { generation: 1, member_id: &members[0], offset: 5, ..Commit::default() };
    assert_eq!(harness.commit(&good), ErrorCode::None);
    let check = |harness: &mut Harness, commit: Commit<'_>, expected: ErrorCode| {
        assert_eq!(harness.commit(&commit), expected);
    };
    check(&mut harness, Commit { generation: 0, ..good.clone() }, ErrorCode::IllegalGeneration);
    check(&mut harness, Commit { generation: 2, ..good.clone() }, ErrorCode::IllegalGeneration);
    check(&mut harness, Commit { member_id: "who", ..good.clone() }, ErrorCode::UnknownMemberId);
    check(&mut harness, Commit { instance: Some("one"), ..good.clone() }, ErrorCode::UnknownMemberId);
    let simple = Commit { generation: -1, member_id: "", ..good.clone() };
    check(&mut harness, simple, ErrorCode::UnknownMemberId);
    // During the join phase it may still commit what it did before.
    let (_, _) = harness.send_new(&Join::default());
    check(&mut harness, good.clone(), ErrorCode::None);
    for member_id in &members {
        harness.send_join(&Join { member_id, ..Join::default() });
    }
    assert_eq!(harness.state("g"), "CompletingRebalance");
    check(&mut harness, good.clone(), ErrorCode::IllegalGeneration);
    check(&mut harness, Commit { generation: 2, ..good }, ErrorCode::RebalanceInProgress);
}

#[test]
fn a_group_that_does_not_exist_has_no_generation() {
    let mut harness = Harness::new();
    let commit = Commit { generation: 3, member_id: "who", ..Commit::default() };
    assert_eq!(harness.commit(&Commit { api_version: 8, ..commit.clone() }), ErrorCode::IllegalGeneration);
    assert_eq!(harness.commit(&Commit { api_version: 9, ..commit }), ErrorCode::GroupIdNotFound);
}

#[test]
fn an_empty_group_takes_commits_without_a_generation() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 1);
    harness.send_leave("g", &[(&members[0], None)]);
    assert_eq!(harness.commit(&Commit { offset: 9, ..Commit::default() }), ErrorCode::None);
    let stale = Commit { generation: 1, member_id: &members[0], ..Commit::default() };
    assert_eq!(harness.commit(&stale), ErrorCode::UnknownMemberId);
    assert_eq!(harness.fetched("g", "t0", 0), 9);
}

#[test]
fn a_commit_keeps_a_session() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 1);
    for offset in 0..5 {
        harness.advance(9_000);
        let commit = Commit { generation: 1, member_id: &members[0], offset, ..Commit::default() };
        assert_eq!(harness.commit(&commit), ErrorCode::None);
    }
}

#[test]
fn partitions_and_metadata_are_checked_one_by_one() {
    let mut harness = Harness::new();
    let long = "x".repeat(4_097);
    for (commit, expected) in [
        (Commit { metadata: &long, ..Commit::default() }, ErrorCode::OffsetMetadataTooLarge),
        (Commit { metadata: &long[1..], ..Commit::default() }, ErrorCode::None),
        (Commit { partition: 100, ..Commit::default() }, ErrorCode::UnknownTopicOrPartition),
        (Commit { partition: -1, ..Commit::default() }, ErrorCode::UnknownTopicOrPartition),
        (Commit { topic: "missing", ..Commit::default() }, ErrorCode::UnknownTopicOrPartition),
    ] {
        assert_eq!(harness.commit(&commit), expected, "{} {}", commit.topic, commit.partition);
    }
    assert_eq!(harness.log.len(), 1);
}

#[test]
fn version_10_names_topics_by_id() {
    let mut harness = Harness::new();
    let commit = Commit { api_version: 10, topic: "", topic_id: TopicId(3), offset: 8, ..Commit::default() };
    assert_eq!(harness.commit(&commit), ErrorCode::None);
    assert_eq!(harness.fetched("g", "t2", 0), 8);
    let unknown = Commit { topic_id: TopicId(99), ..commit };
    assert_eq!(harness.commit(&unknown), ErrorCode::UnknownTopicId);

    let fetch = |harness: &Harness, topic_id: TopicId| {
        let request = OffsetFetchRequestGroup {
            group_id: "g".to_owned(),
            topics: Some(vec![OffsetFetchRequestTopics {
                topic_id,
                partition_indexes: vec![0],
                ..Default::default()
            }]),
            ..Default::default()
        };
        let group = harness.coordinator.offset_fetch(10, &request, true, &TestTopics);
        assert_eq!(group.topics[0].topic_id, topic_id);
        let partition = &group.topics[0].partitions[0];
        (partition.committed_offset, error(partition.error_code))
    };
    assert_eq!(fetch(&harness, TopicId(3)), (8, ErrorCode::None));
    assert_eq!(fetch(&harness, TopicId(99)), (-1, ErrorCode::UnknownTopicId));
    harness.fail_over();
    assert_eq!(fetch(&harness, TopicId(3)), (8, ErrorCode::None));

    let all = OffsetFetchRequestGroup { group_id: "g".to_owned(), topics: None, ..Default::default() };
    let all = harness.coordinator.offset_fetch(10, &all, true, &TestTopics);
    assert_eq!(all.topics.len(), 1);
    assert_eq!(all.topics[0].topic_id, TopicId(3));
}

fn fetch_of(group: &str, topic: &str) -> OffsetFetchRequestGroup {
    OffsetFetchRequestGroup {
        group_id: group.to_owned(),
        topics: Some(vec![OffsetFetchRequestTopics {
            name: topic.to_owned(),
            partition_indexes: vec![0],
            ..Default::default()
        }]),
        ..Default::default()
    }
}

#[test]
fn every_version_of_a_fetch_means_the_same() {
    let mut harness = Harness::new();
    harness.commit(&Commit { offset: 3, ..Commit::default() });
    harness.commit(&Commit { offset: 4, topic: "t1", partition: 5, ..Commit::default() });
    for api_version in 1..8 {
        let request = OffsetFetchRequest {
            group_id: "g".to_owned(),
            topics: Some(vec![OffsetFetchRequestTopic {
                name: "t0".to_owned(),
                partition_indexes: vec![0, 1],
            }]),
            ..Default::default()
        };
        let groups = offset_fetch_groups(&request, api_version);
        assert_eq!(groups.len(), 1);
        let answer = harness.coordinator.offset_fetch(api_version, &groups[0], false, &TestTopics);
        let response = offset_fetch_response(vec![answer], api_version);
        assert_eq!(response.error_code, 0);
        let offsets: Vec<i64> =
            response.topics[0].partitions.iter().map(|partition| partition.committed_offset).collect();
        assert_eq!(offsets, [3, -1], "version {api_version}");
    }
    let request = OffsetFetchRequest { group_id: "g".to_owned(), topics: None, ..Default::default() };
    let groups = offset_fetch_groups(&request, 2);
    let all = harness.coordinator.offset_fetch(2, &groups[0], false, &TestTopics);
    let names: Vec<&str> = all.topics.iter().map(|topic| topic.name.as_str()).collect();
    assert_eq!(names, ["t0", "t1"]);
    let batched =
        OffsetFetchRequest { groups: vec![fetch_of("g", "t0"), fetch_of("h", "t0")], ..Default::default() };
    assert_eq!(offset_fetch_groups(&batched, 8).len(), 2);
}

#[test]
fn a_coordinator_that_is_gone_refuses_fetches_in_the_way_of_the_version() {
    let mut harness = Harness::new();
    drop(harness.coordinator.unload());
    let request = fetch_of("g", "t0");
    let group = harness.coordinator.offset_fetch(8, &request, false, &TestTopics);
    assert_eq!(group.error_code, ErrorCode::NotCoordinator.code());
    let group = harness.coordinator.offset_fetch(1, &request, false, &TestTopics);
    assert_eq!(group.topics[0].partitions[0].error_code, ErrorCode::NotCoordinator.code());
    assert_eq!(harness.commit(&Commit::default()), ErrorCode::NotCoordinator);
}

fn delete_offsets(
    harness: &mut Harness,
    group: &str,
    topic: &str,
    partition: i32,
) -> (ErrorCode, Option<ErrorCode>) {
    let context = harness.context_v(0);
    let request = OffsetDeleteRequest {
        group_id: group.to_owned(),
        topics: vec![OffsetDeleteRequestTopic {
            name: topic.to_owned(),
            partitions: vec![OffsetDeleteRequestPartition { partition_index: partition }],
        }],
    };
    let effects = harness.coordinator.offset_delete(harness.now, &context, &request, &TestTopics);
    harness.carry_out(effects);
    match harness.answer(context.request_id) {
        Some(Response::OffsetDelete(response)) => (
            error(response.error_code),
            response.topics.first().map(|topic| error(topic.partitions[0].error_code)),
        ),
        other => panic!("no answer to the delete: {other:?}"),
    }
}

#[test]
fn offsets_of_topics_that_are_not_consumed_can_be_deleted() {
    let mut harness = Harness::new();
    assert_eq!(delete_offsets(&mut harness, "", "t0", 0), (ErrorCode::InvalidGroupId, None));
    assert_eq!(delete_offsets(&mut harness, "g", "t0", 0), (ErrorCode::GroupIdNotFound, None));
    let members = harness.stable_group("g", 1);
    for topic in ["t0", "t1"] {
        let commit = Commit { topic, generation: 1, member_id: &members[0], offset: 5, ..Commit::default() };
        assert_eq!(harness.commit(&commit), ErrorCode::None);
    }
    let none = ErrorCode::None;
    assert_eq!(delete_offsets(&mut harness, "g", "t0", 0), (none, Some(ErrorCode::GroupSubscribedToTopic)));
    assert_eq!(delete_offsets(&mut harness, "g", "t1", 0), (none, Some(none)));
    assert_eq!(delete_offsets(&mut harness, "g", "t1", 0), (none, Some(none)), "again does no harm");
    let unknown = ErrorCode::UnknownTopicOrPartition;
    assert_eq!(delete_offsets(&mut harness, "g", "missing", 0), (none, Some(unknown)));
    assert_eq!((harness.fetched("g", "t0", 0), harness.fetched("g", "t1", 0)), (5, -1));
    harness.send_leave("g", &[(&members[0], None)]);
    assert_eq!(delete_offsets(&mut harness, "g", "t0", 0), (none, Some(none)));
    assert_eq!(harness.fetched("g", "t0", 0), -1);
    harness.fail_over();
    assert_eq!(harness.fetched("g", "t0", 0), -1);
}

#[test]
fn of_members_that_are_no_consumers_nothing_is_known() {
    let mut harness = Harness::new();
    let join = Join { protocol_type: "connect", ..Join::default() };
    let (request, member) = harness.send_new(&join);
    harness.advance(3_000);
    assert_eq!(harness.joined(request).error_code, 0);
    harness.settle("g", 1, &[member]);
    assert_eq!(delete_offsets(&mut harness, "g", "t0", 0), (ErrorCode::NonEmptyGroup, None));
}
