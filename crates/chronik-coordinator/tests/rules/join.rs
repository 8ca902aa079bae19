//! `JoinGroup` and the join phase.

use chronik_coordinator::GroupConfig;
use chronik_types::ErrorCode;

use crate::common::{Harness, Join, error};

fn join_error(harness: &mut Harness, join: &Join<'_>) -> ErrorCode {
    let id = harness.send_join(join);
    error(harness.joined(id).error_code)
}

#[test]
fn bad_requests_are_refused() {
    let mut harness = Harness::new();
    let check = |harness: &mut Harness, join: &Join<'_>, expected: ErrorCode| {
        assert_eq!(join_error(harness, join), expected);
        assert_eq!(harness.state("g"), "Dead", "a refused join leaves no group behind");
    };
    check(&mut harness, &Join { group: "", ..Join::default() }, ErrorCode::InvalidGroupId);
    let too_short = Join { session_timeout_ms: 5_999, ..Join::default() };
    check(&mut harness, &too_short, ErrorCode::InvalidSessionTimeout);
    let too_long = Join { session_timeout_ms: 1_800_001, ..Join::default() };
    check(&mut harness, &too_long, ErrorCode::InvalidSessionTimeout);
    let unknown = Join { member_id: "who", ..Join::default() };
    check(&mut harness, &unknown, ErrorCode::UnknownMemberId);
    let no_protocols = Join { protocols: &[], ..Join::default() };
    check(&mut harness, &no_protocols, ErrorCode::InconsistentGroupProtocol);
    let no_type = Join { protocol_type: "", ..Join::default() };
    check(&mut harness, &no_type, ErrorCode::InconsistentGroupProtocol);
}

#[test]
fn a_dynamic_member_is_sent_away_with_an_id_from_version_4_on() {
    let mut harness = Harness::new();
    harness.api_version = 4;
    let id = harness.send_join(&Join::default());
    let response = harness.joined(id);
    assert_eq!(response.error_code, ErrorCode::MemberIdRequired.code());
    assert!(response.member_id.starts_with("client-"));
    assert_eq!(response.protocol_name, Some(String::new()), "below version 7 there is no null");
    assert_eq!(harness.state("g"), "Empty");

    harness.api_version = 3;
    let id = harness.send_join(&Join { group: "old", ..Join::default() });
    assert!(harness.answer(id).is_none());
    harness.advance(3_000);
    assert_eq!(harness.joined(id).error_code, 0);
}

#[test]
fn an_id_that_is_never_used_is_forgotten() {
    let mut harness = Harness::new();
    let first = harness.send_join(&Join::default());
    let pending = harness.joined(first).member_id;
    harness.advance(10_000);
    assert_eq!(
        join_error(&mut harness, &Join { member_id: &pending, ..Join::default() }),
        ErrorCode::UnknownMemberId
    );
}

#[test]
fn an_id_that_was_handed_out_holds_the_join_phase() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 1);
    let first = harness.send_join(&Join::default());
    let pending = harness.joined(first).member_id;
    // The leader joins again; the group waits for the member that was told to come back.
    let again = harness.send_join(&Join { member_id: &members[0], ..Join::default() });
    assert!(harness.answer(again).is_none());
    let join = harness.send_join(&Join { member_id: &pending, ..Join::default() });
    assert_eq!(harness.joined(again).generation_id, 2);
    assert_eq!(harness.joined(join).generation_id, 2);
}

#[test]
fn members_that_start_together_end_up_in_one_generation() {
    let mut harness = Harness::new();
    let (first, first_id) = harness.send_new(&Join::default());
    harness.advance(2_999);
    assert!(harness.answer(first).is_none());
    let (second, second_id) = harness.send_new(&Join::default());
    harness.advance(1);
    assert!(harness.answer(first).is_none(), "a member that comes late in the delay starts it again");
    harness.advance(3_000);
    let (first, second) = (harness.joined(first), harness.joined(second));
    assert_eq!((first.generation_id, second.generation_id), (1, 1));
    assert_eq!((&first.leader, &second.leader), (&first_id, &first_id), "the first to join leads");
    let mut named: Vec<&str> = first.members.iter().map(|member| member.member_id.as_str()).collect();
    named.sort_unstable();
    let mut expected = [first_id.as_str(), second_id.as_str()];
    expected.sort_unstable();
    assert_eq!(named, expected);
    assert!(second.members.is_empty(), "only the leader learns who the members are");
    assert_eq!(first.protocol_type.as_deref(), Some("consumer"));
    assert_eq!(first.protocol_name.as_deref(), Some("range"));
    assert_eq!(harness.state("g"), "CompletingRebalance");
}

#[test]
fn the_initial_delay_ends_with_the_rebalance_timeout() {
    let mut harness = Harness::new();
    let join = Join { rebalance_timeout_ms: 7_000, ..Join::default() };
    let (first, _) = harness.send_new(&join);
    for _ in 0..3 {
        harness.advance(2_000);
        harness.send_new(&join);
        assert!(harness.answer(first).is_none());
    }
    harness.advance(1_000);
    assert_eq!(harness.joined(first).members.len(), 4);
}

#[test]
fn without_an_initial_delay_the_first_generation_begins_at_once() {
    let mut harness =
        Harness::with(GroupConfig { group_initial_rebalance_delay_ms: 0, ..Default::default() });
    let (join, _) = harness.send_new(&Join::default());
    harness.advance(0);
    assert_eq!(harness.joined(join).generation_id, 1);
}

#[test]
fn the_protocol_that_all_know_and_most_prefer_is_chosen() {
    let mut harness = Harness::new();
    let protocols: [&[(&str, &[u8])]; 3] = [
        &[("range", b""), ("sticky", b"1"), ("roundrobin", b"")],
        &[("sticky", b"2"), ("roundrobin", b"")],
        &[("roundrobin", b""), ("sticky", b"3"), ("other", b"")],
    ];
    let joins: Vec<_> =
        protocols.iter().map(|protocols| harness.send_new(&Join { protocols, ..Join::default() })).collect();
    harness.advance(12_000);
    let leader = harness.joined(joins[0].0);
    assert_eq!(leader.protocol_name.as_deref(), Some("sticky"));
    let mut metadata: Vec<&[u8]> = leader.members.iter().map(|member| &member.metadata[..]).collect();
    metadata.sort_unstable();
    assert_eq!(metadata, [b"1", b"2", b"3"]);

    let stranger = Join { protocols: &[("range", b"")], ..Join::default() };
    assert_eq!(join_error(&mut harness, &stranger), ErrorCode::InconsistentGroupProtocol);
    let other_type = Join { protocol_type: "connect", protocols: &[("sticky", b"")], ..Join::default() };
    assert_eq!(join_error(&mut harness, &other_type), ErrorCode::InconsistentGroupProtocol);
}

#[test]
fn a_new_member_makes_the_others_join_again() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 2);
    let (new, new_id) = harness.send_new(&Join::default());
    assert_eq!(harness.state("g"), "PreparingRebalance");
    assert_eq!(harness.heartbeat("g", 1, &members[0]), ErrorCode::RebalanceInProgress);
    let joins: Vec<_> =
        members.iter().map(|member_id| harness.send_join(&Join { member_id, ..Join::default() })).collect();
    for join in joins.iter().chain([&new]) {
        assert_eq!(harness.joined(*join).generation_id, 2);
    }
    assert_eq!(harness.joined(joins[0]).leader, members[0], "the leader stays");
    let all = [members[0].clone(), members[1].clone(), new_id];
    harness.settle("g", 2, &all);
}

#[test]
fn members_that_do_not_join_again_in_time_are_put_out() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 3);
    let join = Join { rebalance_timeout_ms: 60_000, ..Join::default() };
    let second = harness.send_join(&Join { member_id: &members[1], protocols: &[("range", b"new")], ..join });
    // The others only send heartbeats.
    for _ in 0..11 {
        harness.advance(5_000);
        for member in [&members[0], &members[2]] {
            assert_eq!(harness.heartbeat("g", 1, member), ErrorCode::RebalanceInProgress);
        }
        assert!(harness.answer(second).is_none());
    }
    harness.advance(5_000);
    let response = harness.joined(second);
    assert_eq!((response.generation_id, response.members.len()), (2, 1));
    assert_eq!(response.leader, members[1], "another leader takes over");
    assert_eq!(harness.heartbeat("g", 1, &members[0]), ErrorCode::UnknownMemberId);
}

#[test]
fn a_known_member_that_joins_again_unchanged_is_told_where_it_is() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 2);
    let follower = harness.send_join(&Join { member_id: &members[1], ..Join::default() });
    let response = harness.joined(follower);
    assert_eq!((response.generation_id, response.error_code), (1, 0));
    assert!(response.members.is_empty());
    assert_eq!(harness.state("g"), "Stable");

    // With other metadata it means a rebalance.
    let changed = Join { member_id: &members[1], protocols: &[("range", b"more")], ..Join::default() };
    let id = harness.send_join(&changed);
    assert!(harness.answer(id).is_none());
    assert_eq!(harness.state("g"), "PreparingRebalance");
}

#[test]
fn a_leader_that_joins_again_means_a_rebalance() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 2);
    let leader = harness.send_join(&Join { member_id: &members[0], ..Join::default() });
    assert!(harness.answer(leader).is_none());
    assert_eq!(harness.state("g"), "PreparingRebalance");
}

#[test]
fn a_join_that_is_repeated_while_members_sync_gets_the_same_answer() {
    let mut harness = Harness::new();
    let (join, id) = harness.send_new(&Join::default());
    harness.advance(3_000);
    let again = harness.send_join(&Join { member_id: &id, ..Join::default() });
    assert_eq!(harness.joined(again), harness.joined(join));
    assert_eq!(harness.state("g"), "CompletingRebalance");

    let changed = Join { member_id: &id, protocols: &[("range", b"more")], ..Join::default() };
    let changed = harness.send_join(&changed);
    assert_eq!(harness.joined(changed).generation_id, 2);
}

#[test]
fn of_two_joins_in_one_name_the_earlier_is_told_to_try_again() {
    let mut harness = Harness::new();
    let (first, id) = harness.send_new(&Join::default());
    let second = harness.send_join(&Join { member_id: &id, ..Join::default() });
    assert_eq!(harness.joined(first).error_code, ErrorCode::RebalanceInProgress.code());
    harness.advance(3_000);
    assert_eq!(harness.joined(second).generation_id, 1);
}

#[test]
fn a_full_group_takes_no_more_members() {
    let mut harness = Harness::with(GroupConfig { group_max_size: 2, ..GroupConfig::default() });
    let members = harness.stable_group("g", 2);
    assert_eq!(join_error(&mut harness, &Join::default()), ErrorCode::GroupMaxSizeReached);
    let member = harness.send_join(&Join { member_id: &members[1], ..Join::default() });
    assert_eq!(harness.joined(member).error_code, 0, "whoever is in stays in");
}

#[test]
fn a_group_that_is_loaded_too_large_keeps_as_many_as_it_may() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 3);
    harness.config.group_max_size = 2;
    harness.fail_over();
    assert_eq!(harness.state("g"), "PreparingRebalance");
    let joins: Vec<_> =
        members.iter().map(|id| harness.send_join(&Join { member_id: id, ..Join::default() })).collect();
    assert_eq!(harness.joined(joins[2]).error_code, ErrorCode::GroupMaxSizeReached.code());
    for join in &joins[..2] {
        assert_eq!(harness.joined(*join).generation_id, 2);
    }
}

#[test]
fn version_0_uses_the_session_timeout_for_rebalances() {
    let mut harness = Harness::new();
    harness.api_version = 0;
    let join = Join { rebalance_timeout_ms: -1, ..Join::default() };
    let first = harness.send_join(&join);
    harness.advance(3_000);
    let member = harness.joined(first).leader;
    let sync = harness.send_sync("g", 1, &member, &[(&member, "all")]);
    assert_eq!(harness.synced(sync).error_code, 0);
    let second = harness.send_join(&join);
    // The first member only sends heartbeats and is put out after its session timeout.
    harness.advance(5_000);
    assert_eq!(harness.heartbeat("g", 1, &member), ErrorCode::RebalanceInProgress);
    assert!(harness.answer(second).is_none());
    harness.advance(5_000);
    assert_eq!(harness.joined(second).generation_id, 2);
}

#[test]
fn a_loading_or_unloaded_coordinator_refuses() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 1);
    let (join, _) = harness.send_new(&Join::default());
    let effects = harness.coordinator.unload();
    harness.carry_out(effects);
    assert_eq!(harness.joined(join).error_code, ErrorCode::NotCoordinator.code());
    assert_eq!(join_error(&mut harness, &Join::default()), ErrorCode::NotCoordinator);
    assert_eq!(harness.heartbeat("g", 1, &members[0]), ErrorCode::NotCoordinator);

    harness.coordinator = crate::common::replayed(&harness.log, &harness.config, 9);
    assert_eq!(join_error(&mut harness, &Join::default()), ErrorCode::CoordinatorLoadInProgress);
    assert_eq!(harness.heartbeat("g", 1, &members[0]), ErrorCode::None, "no harm done while loading");
    let effects = harness.coordinator.loaded(harness.now);
    harness.carry_out(effects);
    assert_eq!(harness.heartbeat("g", 1, &members[0]), ErrorCode::None);
}
