//! Static members (KIP-345).

use chronik_types::ErrorCode;

use crate::common::{Harness, Join};

const STATIC: Join<'static> = Join {
    group: "g",
    member_id: "",
    instance: Some("one"),
    protocol_type: "consumer",
    protocols: &[("range", crate::common::SUBSCRIBED_TO_T0)],
    session_timeout_ms: 10_000,
    rebalance_timeout_ms: 60_000,
};

/// A stable group of the instances `one`, which leads, and `two`; gives their member ids.
fn stable_pair(harness: &mut Harness) -> Vec<String> {
    let one = harness.send_join(&STATIC);
    let two = harness.send_join(&Join { instance: Some("two"), ..STATIC });
    assert!(harness.answer(one).is_none(), "a static member needs no handshake");
    harness.advance(9_000);
    let members = vec![harness.joined(one).member_id, harness.joined(two).member_id];
    assert!(members[0].starts_with("one-"));
    assert_eq!(harness.joined(one).leader, members[0]);
    harness.settle("g", 1, &members);
    members
}

#[test]
fn a_static_member_comes_back_to_its_place_without_a_rebalance() {
    let mut harness = Harness::new();
    let members = stable_pair(&mut harness);
    harness.commits_at_once = false;
    let back = harness.send_join(&Join { instance: Some("two"), ..STATIC });
    assert!(harness.answer(back).is_none(), "GROUP-1");
    harness.commit_all();
    let response = harness.joined(back);
    assert_eq!((response.error_code, response.generation_id), (0, 1));
    assert_ne!(response.member_id, members[1]);
    assert!(!response.skip_assignment);
    assert_eq!(harness.state("g"), "Stable");
    assert_eq!(
        harness.heartbeat_as("g", 1, &members[1], Some("two")),
        ErrorCode::FencedInstanceId,
        "the member that it was is fenced"
    );
    let sync = harness.send_sync("g", 1, &response.member_id, &[]);
    assert_eq!(harness.synced(sync).assignment, format!("part of {}", members[1]).into_bytes());
    harness.fail_over();
    assert_eq!(harness.heartbeat_as("g", 1, &response.member_id, Some("two")), ErrorCode::None);
}

#[test]
fn a_leader_that_comes_back_is_told_not_to_assign_anew() {
    let mut harness = Harness::new();
    let members = stable_pair(&mut harness);
    let back = harness.send_join(&STATIC);
    let response = harness.joined(back);
    assert_eq!(response.leader, response.member_id);
    assert!(response.skip_assignment);
    assert_eq!(response.members.len(), 2);

    // Below version 9 it must not take itself for the leader.
    harness.api_version = 8;
    let back = harness.send_join(&STATIC);
    let older = harness.joined(back);
    assert_eq!(older.leader, response.member_id);
    assert_ne!(older.leader, older.member_id);
    assert!(older.members.is_empty() && !older.skip_assignment);
    assert_ne!(older.member_id, members[0]);
    // It leads all the same: joining again with its id starts a rebalance.
    let again = harness.send_join(&Join { member_id: &older.member_id, ..STATIC });
    assert!(harness.answer(again).is_none());
    assert_eq!(harness.state("g"), "PreparingRebalance");
}

#[test]
fn a_replacement_that_cannot_be_written_is_undone() {
    let mut harness = Harness::new();
    let members = stable_pair(&mut harness);
    harness.append_error = Some(ErrorCode::NotLeaderOrFollower);
    let back = harness.send_join(&STATIC);
    assert_eq!(harness.joined(back).error_code, ErrorCode::NotCoordinator.code());
    assert_eq!(harness.heartbeat_as("g", 1, &members[0], Some("one")), ErrorCode::None);
    let sync = harness.send_sync("g", 1, &members[0], &[]);
    assert_eq!(harness.synced(sync).assignment, format!("part of {}", members[0]).into_bytes());
    // It leads again, too.
    let again = harness.send_join(&Join { member_id: &members[0], ..STATIC });
    assert!(harness.answer(again).is_none());
    assert_eq!(harness.state("g"), "PreparingRebalance");
}

#[test]
fn a_replacement_is_watched_however_long_its_record_takes() {
    let mut harness = Harness::new();
    let members = stable_pair(&mut harness);
    for is_committed_late in [true, false] {
        harness.commits_at_once = false;
        harness.config.offsets_commit_timeout_ms = 5_000;
        let back = harness.send_join(&Join { session_timeout_ms: 6_000, instance: Some("two"), ..STATIC });
        harness.advance(4_999);
        assert_eq!(harness.heartbeat_as("g", 1, &members[0], Some("one")), ErrorCode::None);
        if !is_committed_late {
            harness.advance(1);
            assert_eq!(harness.joined(back).error_code, ErrorCode::CoordinatorNotAvailable.code());
        }
        harness.commit_all();
        harness.commits_at_once = true;
        if is_committed_late {
            assert_eq!(harness.joined(back).error_code, 0);
        }
        assert_eq!(harness.state("g"), "Stable");
    }
    // It never sends a heartbeat, and its session ends.
    harness.advance(6_000);
    assert_eq!(harness.state("g"), "PreparingRebalance");
}

#[test]
fn a_replacement_that_changes_the_chosen_protocol_means_a_rebalance() {
    let mut harness = Harness::new();
    let both: &[(&str, &[u8])] = &[("range", b""), ("sticky", b"")];
    let one = harness.send_join(&Join { protocols: both, ..STATIC });
    harness.advance(3_000);
    let member = harness.joined(one).member_id;
    harness.settle("g", 1, &[member]);
    let back = harness.send_join(&Join { protocols: &[("sticky", b""), ("range", b"")], ..STATIC });
    let response = harness.joined(back);
    assert_eq!(response.generation_id, 2);
    assert_eq!(response.protocol_name.as_deref(), Some("sticky"));
}

#[test]
fn a_replacement_during_a_rebalance_takes_over_who_waits() {
    let mut harness = Harness::new();
    let members = stable_pair(&mut harness);
    let waiting = harness.send_join(&Join { member_id: &members[0], ..STATIC });
    assert_eq!(harness.state("g"), "PreparingRebalance");
    let back = harness.send_join(&STATIC);
    let fenced = harness.joined(waiting);
    assert_eq!(fenced.error_code, ErrorCode::FencedInstanceId.code());
    assert_eq!(fenced.member_id, members[0]);
    let two = harness.send_join(&Join { member_id: &members[1], instance: Some("two"), ..STATIC });
    let response = harness.joined(back);
    assert_eq!(response.generation_id, 2);
    assert_eq!(response.leader, response.member_id);
    assert_eq!(harness.joined(two).generation_id, 2);
}

#[test]
fn a_replacement_while_members_sync_means_a_rebalance() {
    let mut harness = Harness::new();
    harness.send_join(&STATIC);
    let two = harness.send_join(&Join { instance: Some("two"), ..STATIC });
    harness.advance(9_000);
    let two = harness.joined(two).member_id;
    let sync = harness.send_sync("g", 1, &two, &[]);
    let back = harness.send_join(&Join { instance: Some("two"), ..STATIC });
    assert_eq!(harness.synced(sync).error_code, ErrorCode::FencedInstanceId.code());
    assert!(harness.answer(back).is_none());
    assert_eq!(harness.state("g"), "PreparingRebalance");
}

#[test]
fn a_replacement_syncs_in_the_place_of_whom_it_replaces() {
    let mut harness = Harness::new();
    let join = Join { rebalance_timeout_ms: 8_000, session_timeout_ms: 60_000, ..STATIC };
    let one = harness.send_join(&join);
    harness.send_join(&Join { instance: Some("two"), ..join.clone() });
    harness.advance(6_000);
    let one = harness.joined(one).member_id;
    // Instance two is gone before it has synced, and another comes for it.
    let sync = harness.send_sync("g", 1, &one, &[(&one, "all")]);
    assert_eq!(harness.synced(sync).error_code, 0);
    let back = harness.send_join(&Join { instance: Some("two"), ..join });
    let two = harness.joined(back).member_id;
    let sync = harness.send_sync("g", 1, &two, &[]);
    assert_eq!(harness.synced(sync).error_code, 0);
    harness.advance(20_000);
    assert_eq!(harness.state("g"), "Stable", "nobody is late");
}

#[test]
fn whoever_uses_a_taken_instance_is_fenced() {
    let mut harness = Harness::new();
    let members = stable_pair(&mut harness);
    let wrong = harness.send_join(&Join { member_id: &members[0], instance: Some("two"), ..STATIC });
    assert_eq!(harness.joined(wrong).error_code, ErrorCode::FencedInstanceId.code());
    let unknown = harness.send_join(&Join { member_id: &members[0], instance: Some("three"), ..STATIC });
    assert_eq!(harness.joined(unknown).error_code, ErrorCode::UnknownMemberId.code());
    assert_eq!(harness.heartbeat_as("g", 1, "who", Some("two")), ErrorCode::FencedInstanceId);
    let leave = harness.send_leave("g", &[("who", Some("one")), ("", Some("three"))]);
    let errors: Vec<i16> = harness.left(leave).members.iter().map(|member| member.error_code).collect();
    assert_eq!(errors, [ErrorCode::FencedInstanceId.code(), ErrorCode::UnknownMemberId.code()]);
}

#[test]
fn a_static_member_is_put_out_by_its_instance_alone() {
    let mut harness = Harness::new();
    let members = stable_pair(&mut harness);
    let leave = harness.send_leave("g", &[("", Some("two"))]);
    let response = harness.left(leave);
    assert_eq!(response.members[0].error_code, 0);
    assert_eq!(response.members[0].group_instance_id.as_deref(), Some("two"));
    assert_eq!(harness.heartbeat_as("g", 1, &members[1], Some("two")), ErrorCode::UnknownMemberId);
}

#[test]
fn a_static_member_keeps_its_place_through_a_rebalance_that_it_misses() {
    let mut harness = Harness::new();
    let members = stable_pair(&mut harness);
    let join = Join { member_id: &members[0], session_timeout_ms: 120_000, ..STATIC };
    let two = Join { member_id: &members[1], instance: Some("two"), session_timeout_ms: 120_000, ..STATIC };
    // Both take long sessions over into generation 2.
    let first = harness.send_join(&join);
    harness.send_join(&two);
    assert_eq!(harness.joined(first).generation_id, 2);
    harness.settle("g", 2, &members);

    let first = harness.send_join(&join);
    harness.advance(60_000);
    let response = harness.joined(first);
    assert_eq!((response.generation_id, response.members.len()), (3, 2), "it is still assigned to");
    let sync = harness.send_sync("g", 3, &members[0], &[(&members[0], "a"), (&members[1], "b")]);
    assert_eq!(harness.synced(sync).error_code, 0);
    let sync = harness.send_sync("g", 3, &members[1], &[]);
    assert_eq!(&harness.synced(sync).assignment[..], b"b");
}

#[test]
fn a_group_of_static_members_that_are_all_away_waits_for_them() {
    let mut harness = Harness::new();
    let members = stable_pair(&mut harness);
    let join = Join { session_timeout_ms: 600_000, rebalance_timeout_ms: 20_000, ..STATIC };
    for (id, instance) in members.iter().zip(["one", "two"]) {
        harness.send_join(&Join { member_id: id, instance: Some(instance), ..join.clone() });
    }
    harness.settle("g", 2, &members);
    // A dynamic member comes and goes, and nobody joins again.
    let (request, passing) = harness.send_new(&Join { rebalance_timeout_ms: 20_000, ..Join::default() });
    harness.send_leave("g", &[(&passing, None)]);
    assert_eq!(harness.joined(request).error_code, ErrorCode::UnknownMemberId.code());
    harness.advance(100_000);
    assert_eq!(harness.state("g"), "PreparingRebalance");
    let back = harness.send_join(&Join { member_id: &members[1], instance: Some("two"), ..join.clone() });
    harness.advance(20_000);
    let response = harness.joined(back);
    assert_eq!(response.generation_id, 3);
    assert_eq!(response.leader, members[1]);
    assert_eq!(response.members.len(), 2);
}
