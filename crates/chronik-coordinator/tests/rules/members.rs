//! Heartbeats, sessions and departures.

use chronik_protocol::messages::LeaveGroupRequest;
use chronik_types::ErrorCode;

use crate::common::{Harness, Join};

#[test]
fn a_heartbeat_must_come_from_a_member_of_the_generation() {
    let mut harness = Harness::new();
    assert_eq!(harness.heartbeat("", 1, "who"), ErrorCode::InvalidGroupId);
    assert_eq!(harness.heartbeat("g", 1, "who"), ErrorCode::UnknownMemberId);
    let members = harness.stable_group("g", 1);
    assert_eq!(harness.heartbeat("g", 1, "who"), ErrorCode::UnknownMemberId);
    assert_eq!(harness.heartbeat("g", 2, &members[0]), ErrorCode::IllegalGeneration);
    assert_eq!(harness.heartbeat("g", 1, &members[0]), ErrorCode::None);
}

#[test]
fn heartbeats_keep_a_session_and_silence_ends_it() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 2);
    for _ in 0..5 {
        harness.advance(9_999);
        for member in &members {
            assert_eq!(harness.heartbeat("g", 1, member), ErrorCode::None);
        }
    }
    harness.advance(5_000);
    assert_eq!(harness.heartbeat("g", 1, &members[0]), ErrorCode::None);
    harness.advance(5_000);
    assert_eq!(harness.heartbeat("g", 1, &members[1]), ErrorCode::UnknownMemberId);
    assert_eq!(harness.heartbeat("g", 1, &members[0]), ErrorCode::RebalanceInProgress);
    let join = harness.send_join(&Join { member_id: &members[0], ..Join::default() });
    assert_eq!(harness.joined(join).generation_id, 2);
}

#[test]
fn a_member_that_waits_for_the_coordinator_owes_no_heartbeat() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 2);
    let waiting = harness.send_join(&Join { member_id: &members[0], ..Join::default() });
    // The other one keeps the group waiting for most of its rebalance timeout.
    for _ in 0..11 {
        harness.advance(5_000);
        assert_eq!(harness.heartbeat("g", 1, &members[1]), ErrorCode::RebalanceInProgress);
    }
    assert!(harness.answer(waiting).is_none());
    harness.send_join(&Join { member_id: &members[1], ..Join::default() });
    assert_eq!(harness.joined(waiting).generation_id, 2);
}

#[test]
fn a_new_member_that_waits_too_long_is_taken_for_gone() {
    let mut harness = Harness::new();
    let join = Join { rebalance_timeout_ms: 1_000_000, ..Join::default() };
    let (request, old) = harness.send_new(&join);
    harness.advance(3_000);
    assert_eq!(harness.joined(request).error_code, 0);
    let sync = harness.send_sync("g", 1, &old, &[(&old, "all")]);
    assert_eq!(harness.synced(sync).error_code, 0);
    let (new, _) = harness.send_new(&join);
    for _ in 0..59 {
        harness.advance(5_000);
        assert_eq!(harness.heartbeat("g", 1, &old), ErrorCode::RebalanceInProgress);
    }
    assert!(harness.answer(new).is_none());
    harness.advance(5_000);
    assert_eq!(harness.joined(new).error_code, ErrorCode::UnknownMemberId.code());
}

#[test]
fn sessions_begin_anew_with_a_new_coordinator() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 2);
    harness.advance(9_000);
    harness.fail_over();
    harness.advance(9_999);
    assert_eq!(harness.heartbeat("g", 1, &members[0]), ErrorCode::None);
    harness.advance(1);
    assert_eq!(harness.heartbeat("g", 1, &members[1]), ErrorCode::UnknownMemberId);
}

#[test]
fn when_the_last_member_leaves_the_group_is_empty_and_the_log_says_so() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 2);
    let leave = harness.send_leave("g", &[(&members[0], None), ("who", None)]);
    let response = harness.left(leave);
    assert_eq!(response.error_code, 0);
    let errors: Vec<i16> = response.members.iter().map(|member| member.error_code).collect();
    assert_eq!(errors, [0, ErrorCode::UnknownMemberId.code()]);
    assert_eq!(harness.heartbeat("g", 1, &members[1]), ErrorCode::RebalanceInProgress);

    harness.commits_at_once = false;
    let leave = harness.send_leave("g", &[(&members[1], None)]);
    assert!(harness.answer(leave).is_none(), "GROUP-1");
    harness.commit_all();
    assert_eq!(harness.left(leave).members[0].error_code, 0);
    assert_eq!(harness.state("g"), "Empty");
    harness.fail_over();
    assert_eq!(harness.state("g"), "Empty");
}

#[test]
fn a_departure_from_a_group_of_one_is_answered_once_it_is_in_the_log() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 1);
    harness.commits_at_once = false;
    let leave = harness.send_leave("g", &[(&members[0], None)]);
    assert!(harness.answer(leave).is_none(), "GROUP-1");
    harness.commit_all();
    assert_eq!(harness.left(leave).members[0].error_code, 0);

    // One that cannot be written is refused, and what it says is written a little later.
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 1);
    harness.append_error = Some(ErrorCode::NotEnoughReplicas);
    let leave = harness.send_leave("g", &[(&members[0], None)]);
    assert_eq!(harness.left(leave).error_code, ErrorCode::CoordinatorNotAvailable.code());
    let before = harness.log.len();
    harness.advance(5_000);
    assert_eq!(harness.log.len(), before + 1);
    harness.fail_over();
    assert_eq!(harness.state("g"), "Empty");
}

#[test]
fn up_to_version_2_a_leave_names_one_member() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 1);
    let mut leave = |member: &str| {
        let context = harness.context_v(2);
        let request = LeaveGroupRequest {
            group_id: "g".to_owned(),
            member_id: member.to_owned(),
            ..LeaveGroupRequest::default()
        };
        let effects = harness.coordinator.leave_group(harness.now, &context, &request);
        harness.carry_out(effects);
        let response = harness.left(context.request_id);
        assert!(response.members.is_empty());
        response.error_code
    };
    assert_eq!(leave("who"), ErrorCode::UnknownMemberId.code());
    assert_eq!(leave(&members[0]), 0);
}

#[test]
fn a_leave_for_nobody_known_is_refused() {
    let mut harness = Harness::new();
    let leave = harness.send_leave("", &[("who", None)]);
    assert_eq!(harness.left(leave).error_code, ErrorCode::InvalidGroupId.code());
    let leave = harness.send_leave("g", &[("who", None)]);
    let response = harness.left(leave);
    assert_eq!(response.error_code, 0);
    assert_eq!(response.members[0].error_code, ErrorCode::UnknownMemberId.code());
}

#[test]
fn an_id_that_was_handed_out_can_be_given_back() {
    let mut harness = Harness::new();
    harness.stable_group("g", 1);
    let first = harness.send_join(&Join::default());
    let pending = harness.joined(first).member_id;
    let leave = harness.send_leave("g", &[(&pending, None)]);
    assert_eq!(harness.left(leave).members[0].error_code, 0);
    let join = harness.send_join(&Join { member_id: &pending, ..Join::default() });
    assert_eq!(harness.joined(join).error_code, ErrorCode::UnknownMemberId.code());
    assert_eq!(harness.state("g"), "Stable", "nobody else noticed");
}

#[test]
fn a_member_that_leaves_while_it_waits_hears_that_it_is_unknown() {
    let mut harness = Harness::new();
    let (join, id) = harness.send_new(&Join::default());
    harness.send_leave("g", &[(&id, None)]);
    assert_eq!(harness.joined(join).error_code, ErrorCode::UnknownMemberId.code());

    let (_, leader) = harness.send_new(&Join { group: "h", ..Join::default() });
    let (_, follower) = harness.send_new(&Join { group: "h", ..Join::default() });
    harness.advance(9_000);
    let sync = harness.send_sync("h", 1, &follower, &[]);
    harness.send_leave("h", &[(&follower, None)]);
    assert_eq!(harness.synced(sync).error_code, ErrorCode::UnknownMemberId.code());
    assert_eq!(harness.heartbeat("h", 1, &leader), ErrorCode::RebalanceInProgress);
}

#[test]
fn a_member_that_leaves_while_it_waits_is_not_waited_for() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 3);
    let leaving = harness.send_join(&Join {
        member_id: &members[1],
        protocols: &[("range", b"new")],
        ..Join::default()
    });
    harness.send_leave("g", &[(&members[1], None)]);
    assert_eq!(harness.joined(leaving).error_code, ErrorCode::UnknownMemberId.code());
    let first = harness.send_join(&Join { member_id: &members[0], ..Join::default() });
    assert!(harness.answer(first).is_none());
    let second = harness.send_join(&Join { member_id: &members[2], ..Join::default() });
    for join in [first, second] {
        assert_eq!(harness.joined(join).generation_id, 2, "with the last member the phase is over");
    }
}

#[test]
fn a_session_begins_with_the_answer_to_a_join() {
    let mut harness = Harness::new();
    let (join, id) = harness.send_new(&Join::default());
    harness.advance(3_000);
    assert_eq!(harness.joined(join).error_code, 0);
    harness.advance(9_999);
    assert_eq!(harness.state("g"), "CompletingRebalance");
    harness.advance(1);
    assert_eq!(harness.state("g"), "Empty");
    assert_eq!(harness.heartbeat("g", 1, &id), ErrorCode::UnknownMemberId);
}
