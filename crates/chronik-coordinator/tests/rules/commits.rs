//! How new groups come into the log, and what happens when they do not.

use chronik_types::ErrorCode;

use crate::common::{Harness, Join};

#[test]
fn a_new_group_shows_once_it_is_in_the_log() {
    let mut harness = Harness::new();
    harness.commits_at_once = false;
    let join = harness.send_join(&Join::default());
    assert!(harness.answer(join).is_none(), "GROUP-1");
    assert_eq!(harness.state("g"), "Dead");
    assert_eq!(harness.coordinator.list_groups(&[], &[]).unwrap(), []);
    harness.commit_all();
    assert_eq!(harness.joined(join).error_code, ErrorCode::MemberIdRequired.code());
    assert_eq!(harness.state("g"), "Empty");
    harness.fail_over();
    assert_eq!(harness.state("g"), "Empty");
}

#[test]
fn a_group_whose_first_record_fails_is_not_there() {
    let mut harness = Harness::new();
    harness.append_error = Some(ErrorCode::NotEnoughReplicas);
    let join = harness.send_join(&Join::default());
    assert_eq!(harness.joined(join).error_code, ErrorCode::CoordinatorNotAvailable.code());
    assert_eq!(harness.state("g"), "Dead");

    // The same for a member that was taken in at once.
    harness.append_error = Some(ErrorCode::NotLeaderOrFollower);
    let join = harness.send_join(&Join { instance: Some("one"), ..Join::default() });
    assert_eq!(harness.joined(join).error_code, ErrorCode::NotCoordinator.code());
    assert_eq!(harness.state("g"), "Dead");
    harness.advance(100_000);
    assert_eq!(harness.state("g"), "Dead");
    // And the name is free.
    harness.stable_group("g", 2);
}

#[test]
fn members_that_came_meanwhile_stay_when_the_first_record_fails() {
    let mut harness = Harness::new();
    harness.commits_at_once = false;
    let first = harness.send_join(&Join { instance: Some("one"), ..Join::default() });
    let second = harness.send_join(&Join { instance: Some("two"), ..Join::default() });
    harness.fail_all(ErrorCode::NotEnoughReplicas);
    assert_eq!(harness.joined(first).error_code, ErrorCode::CoordinatorNotAvailable.code());
    harness.commits_at_once = true;
    harness.advance(9_000);
    let response = harness.joined(second);
    assert_eq!((response.generation_id, response.members.len()), (1, 1));
    harness.settle("g", 1, &[response.member_id]);
    harness.fail_over();
    assert_eq!(harness.state("g"), "Stable");
}

#[test]
fn an_answer_never_overtakes_the_groups_first_record() {
    let mut harness = Harness::new();
    harness.config.group_initial_rebalance_delay_ms = 0;
    harness.fail_over();
    harness.commits_at_once = false;
    let join = harness.send_join(&Join { instance: Some("one"), ..Join::default() });
    harness.advance(0);
    assert!(harness.answer(join).is_none(), "GROUP-1");
    harness.commit_all();
    assert_eq!(harness.joined(join).generation_id, 1);
}

#[test]
fn a_first_record_that_fails_late_takes_its_generation_with_it() {
    for others in [0, 1] {
        let mut harness = Harness::new();
        harness.config.group_initial_rebalance_delay_ms = 0;
        harness.fail_over();
        harness.commits_at_once = false;
        let first = harness.send_join(&Join { instance: Some("one"), ..Join::default() });
        let second =
            (others == 1).then(|| harness.send_join(&Join { instance: Some("two"), ..Join::default() }));
        harness.advance(0);
        harness.fail_all(ErrorCode::NotEnoughReplicas);
        harness.commits_at_once = true;
        harness.commit_all();
        assert_eq!(harness.joined(first).error_code, ErrorCode::CoordinatorNotAvailable.code());
        let Some(second) = second else {
            assert_eq!(harness.state("g"), "Empty");
            continue;
        };
        // The other one's answer waited for the same record; it has a place all the same and is called back.
        assert_eq!(harness.joined(second).error_code, ErrorCode::CoordinatorNotAvailable.code());
        assert_eq!(harness.state("g"), "PreparingRebalance");
        let back = harness.send_join(&Join { instance: Some("two"), ..Join::default() });
        harness.advance(60_000);
        let response = harness.joined(back);
        assert_eq!((response.error_code, response.members.len()), (0, 1));
    }
}

#[test]
fn everyone_who_waits_for_a_commit_hears_that_the_coordinator_has_moved() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 1);
    harness.commits_at_once = false;
    let leave = harness.send_leave("g", &[(&members[0], None)]);
    let commit = harness.send_commit(&crate::common::Commit { group: "h", ..Default::default() });
    let effects = harness.coordinator.unload();
    harness.carry_out(effects);
    assert_eq!(harness.left(leave).error_code, ErrorCode::NotCoordinator.code());
    assert_eq!(harness.commit_error(commit), Some(ErrorCode::NotCoordinator));
    assert_eq!(harness.coordinator.next_deadline(), None);
}

#[test]
fn a_log_that_commits_nothing_is_not_written_to_without_end() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 1);
    harness.commits_at_once = false;
    let commit = crate::common::Commit { group: "h", ..Default::default() };
    for _ in 0..20_000 {
        harness.send_commit(&commit);
    }
    let refused = harness.send_commit(&commit);
    assert_eq!(harness.commit_error(refused), Some(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(
        harness.heartbeat("g", 1, &members[0]),
        ErrorCode::None,
        "who writes nothing is not disturbed"
    );
    harness.commit_all();
    let granted = harness.send_commit(&commit);
    harness.commit_all();
    assert_eq!(harness.commit_error(granted), Some(ErrorCode::None));
}

#[test]
fn nobody_begins_to_wait_for_a_write_that_has_taken_too_long() {
    let mut harness = Harness::new();
    harness.commits_at_once = false;
    // Version 3 has no handshake: the join makes the group.
    harness.api_version = 3;
    let first = harness.send_join(&Join::default());
    harness
        .advance(harness.config.offsets_commit_timeout_ms + harness.config.group_initial_rebalance_delay_ms);
    assert_eq!(harness.joined(first).error_code, ErrorCode::CoordinatorNotAvailable.code());
    let second = harness.send_join(&Join::default());
    harness.advance(harness.config.group_initial_rebalance_delay_ms * 2);
    let refused = harness.answer(second).is_some();
    assert!(refused, "it waits for the group's first record, and nothing will ever end that wait");
}
