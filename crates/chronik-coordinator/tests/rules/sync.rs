//! `SyncGroup` and the sync phase.

use chronik_protocol::messages::SyncGroupRequest;
use chronik_types::ErrorCode;

use crate::common::{Harness, Join, error};

fn sync_error(harness: &mut Harness, generation: i32, member: &str) -> ErrorCode {
    let id = harness.send_sync("g", generation, member, &[]);
    error(harness.synced(id).error_code)
}

#[test]
fn a_sync_must_come_from_a_member_of_the_generation() {
    let mut harness = Harness::new();
    assert_eq!(sync_error(&mut harness, 1, "who"), ErrorCode::UnknownMemberId);
    let members = harness.stable_group("g", 2);
    assert_eq!(sync_error(&mut harness, 1, "who"), ErrorCode::UnknownMemberId);
    assert_eq!(sync_error(&mut harness, 0, &members[0]), ErrorCode::IllegalGeneration);
    assert_eq!(sync_error(&mut harness, 2, &members[0]), ErrorCode::IllegalGeneration);
    let id = harness.send_sync("", 1, &members[0], &[]);
    assert_eq!(harness.synced(id).error_code, ErrorCode::InvalidGroupId.code());
    // In a stable group it gets its part again.
    let id = harness.send_sync("g", 1, &members[1], &[]);
    assert_eq!(harness.synced(id).assignment, format!("part of {}", members[1]).into_bytes());

    harness.send_new(&Join::default());
    assert_eq!(sync_error(&mut harness, 1, &members[0]), ErrorCode::RebalanceInProgress);
}

#[test]
fn from_version_5_on_a_sync_must_name_the_groups_protocol() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 1);
    let mut check = |protocol_type: Option<&str>, protocol_name: Option<&str>, expected: ErrorCode| {
        let context = harness.context_v(5);
        let request = SyncGroupRequest {
            group_id: "g".to_owned(),
            generation_id: 1,
            member_id: members[0].clone(),
            protocol_type: protocol_type.map(str::to_owned),
            protocol_name: protocol_name.map(str::to_owned),
            ..Default::default()
        };
        let effects = harness.coordinator.sync_group(harness.now, &context, &request);
        harness.carry_out(effects);
        assert_eq!(harness.synced(context.request_id).error_code, expected.code());
    };
    check(Some("consumer"), Some("range"), ErrorCode::None);
    check(None, Some("range"), ErrorCode::InconsistentGroupProtocol);
    check(Some("consumer"), None, ErrorCode::InconsistentGroupProtocol);
    check(Some("connect"), Some("range"), ErrorCode::InconsistentGroupProtocol);
    check(Some("consumer"), Some("sticky"), ErrorCode::InconsistentGroupProtocol);
}

#[test]
fn followers_wait_for_the_leader_and_its_record() {
    let mut harness = Harness::new();
    let (first, leader) = harness.send_new(&Join::default());
    let (_, follower) = harness.send_new(&Join::default());
    harness.advance(9_000);
    assert_eq!(harness.joined(first).leader, leader);
    let follower_sync = harness.send_sync("g", 1, &follower, &[]);
    assert!(harness.answer(follower_sync).is_none());
    harness.commits_at_once = false;
    let leader_sync = harness.send_sync("g", 1, &leader, &[(&follower, "all"), ("stranger", "x")]);
    assert!(harness.answer(follower_sync).is_none(), "GROUP-1");
    assert!(harness.answer(leader_sync).is_none(), "GROUP-1");
    assert_eq!(harness.state("g"), "CompletingRebalance");
    harness.commit_all();
    assert_eq!(&harness.synced(follower_sync).assignment[..], b"all");
    let response = harness.synced(leader_sync);
    assert!(response.assignment.is_empty(), "whoever the leader leaves out owns nothing");
    assert_eq!(response.protocol_name.as_deref(), Some("range"));
    assert_eq!(harness.state("g"), "Stable");
}

#[test]
fn an_assignment_that_cannot_be_written_means_another_rebalance() {
    for (append_error, answer) in [
        (ErrorCode::NotEnoughReplicas, ErrorCode::CoordinatorNotAvailable),
        (ErrorCode::NotLeaderOrFollower, ErrorCode::NotCoordinator),
        (ErrorCode::MessageTooLarge, ErrorCode::UnknownServerError),
    ] {
        let mut harness = Harness::new();
        let (_, leader) = harness.send_new(&Join::default());
        let (_, follower) = harness.send_new(&Join::default());
        harness.advance(9_000);
        let follower_sync = harness.send_sync("g", 1, &follower, &[]);
        harness.append_error = Some(append_error);
        let leader_sync = harness.send_sync("g", 1, &leader, &[(&follower, "all")]);
        for sync in [follower_sync, leader_sync] {
            let response = harness.synced(sync);
            assert_eq!(response.error_code, answer.code());
            assert!(response.assignment.is_empty());
        }
        assert_eq!(harness.state("g"), "PreparingRebalance");
    }
}

#[test]
fn an_assignment_that_is_not_committed_in_time_is_given_up() {
    let mut harness = Harness::new();
    let (_, leader) = harness.send_new(&Join::default());
    harness.advance(3_000);
    harness.commits_at_once = false;
    let sync = harness.send_sync("g", 1, &leader, &[(&leader, "all")]);
    harness.advance(4_999);
    assert!(harness.answer(sync).is_none());
    harness.advance(1);
    assert_eq!(harness.synced(sync).error_code, ErrorCode::CoordinatorNotAvailable.code());
    assert_eq!(harness.state("g"), "PreparingRebalance");
    // When it is committed after all, the group has moved on.
    harness.commit_all();
    assert_eq!(harness.state("g"), "PreparingRebalance");
    harness.commits_at_once = true;
    let join = harness.send_join(&Join { member_id: &leader, ..Join::default() });
    assert_eq!(harness.joined(join).generation_id, 2);
}

#[test]
fn whoever_does_not_sync_in_time_is_put_out() {
    let mut harness = Harness::new();
    let join = Join { rebalance_timeout_ms: 8_000, ..Join::default() };
    let (_, leader) = harness.send_new(&join);
    let (_, silent) = harness.send_new(&join);
    harness.advance(6_000);
    let sync = harness.send_sync("g", 1, &leader, &[(&leader, "all")]);
    assert_eq!(harness.synced(sync).error_code, 0);
    harness.advance(7_999);
    assert_eq!(harness.heartbeat("g", 1, &leader), ErrorCode::None);
    assert_eq!(harness.heartbeat("g", 1, &silent), ErrorCode::None);
    harness.advance(1);
    assert_eq!(harness.heartbeat("g", 1, &silent), ErrorCode::UnknownMemberId);
    assert_eq!(harness.heartbeat("g", 1, &leader), ErrorCode::RebalanceInProgress);
}

#[test]
fn a_leader_that_does_not_sync_is_replaced() {
    let mut harness = Harness::new();
    let join = Join { rebalance_timeout_ms: 8_000, session_timeout_ms: 60_000, ..Join::default() };
    let (_, leader) = harness.send_new(&join);
    let (_, follower) = harness.send_new(&join);
    harness.advance(8_000);
    let sync = harness.send_sync("g", 1, &follower, &[]);
    harness.advance(8_000);
    assert_eq!(harness.synced(sync).error_code, ErrorCode::RebalanceInProgress.code());
    let join = harness.send_join(&Join { member_id: &follower, ..join });
    let response = harness.joined(join);
    assert_eq!((response.generation_id, response.leader.as_str()), (2, follower.as_str()));
    assert_eq!(harness.heartbeat("g", 1, &leader), ErrorCode::UnknownMemberId);
}

#[test]
fn a_rebalance_during_the_sync_phase_sends_everyone_back() {
    let mut harness = Harness::new();
    let (_, leader) = harness.send_new(&Join::default());
    let (_, follower) = harness.send_new(&Join::default());
    harness.advance(9_000);
    let sync = harness.send_sync("g", 1, &follower, &[]);
    let (new, _) = harness.send_new(&Join::default());
    assert_eq!(harness.synced(sync).error_code, ErrorCode::RebalanceInProgress.code());
    for member_id in [&leader, &follower] {
        harness.send_join(&Join { member_id, ..Join::default() });
    }
    assert_eq!(harness.joined(new).generation_id, 2);
}

#[test]
fn a_sync_that_is_repeated_replaces_the_first() {
    let mut harness = Harness::new();
    let (_, leader) = harness.send_new(&Join::default());
    harness.advance(3_000);
    harness.commits_at_once = false;
    let first = harness.send_sync("g", 1, &leader, &[(&leader, "all")]);
    let second = harness.send_sync("g", 1, &leader, &[(&leader, "all")]);
    assert_eq!(harness.synced(first).error_code, ErrorCode::RebalanceInProgress.code());
    assert_eq!(harness.appended.len(), 1, "one assignment a generation");
    harness.commit_all();
    assert_eq!(&harness.synced(second).assignment[..], b"all");
}
