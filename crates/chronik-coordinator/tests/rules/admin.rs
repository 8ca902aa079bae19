//! `DescribeGroups`, `ListGroups` and `DeleteGroups`.

use chronik_types::ErrorCode;

use crate::common::{Commit, Harness, Join, SUBSCRIBED_TO_T0};

fn listed(harness: &Harness, states: &[&str], types: &[&str]) -> Vec<String> {
    let states: Vec<String> = states.iter().map(|&name| name.to_owned()).collect();
    let types: Vec<String> = types.iter().map(|&name| name.to_owned()).collect();
    let groups = harness.coordinator.list_groups(&states, &types).expect("the coordinator serves");
    groups
        .iter()
        .map(|group| format!("{} {} {}", group.group_id, group.group_state, group.protocol_type))
        .collect()
}

#[test]
fn groups_are_listed_by_state_and_type() {
    let mut harness = Harness::new();
    harness.stable_group("a", 1);
    harness.commit(&Commit { group: "b", ..Commit::default() });
    let all = ["a Stable consumer", "b Empty "];
    assert_eq!(listed(&harness, &[], &[]), all);
    assert_eq!(listed(&harness, &["stable"], &[]), all[..1]);
    assert_eq!(listed(&harness, &["Empty ", "Dead"], &[]), all[1..]);
    assert_eq!(listed(&harness, &["nonsense"], &[]), [""; 0]);
    assert_eq!(listed(&harness, &[], &["Classic"]), all);
    assert_eq!(listed(&harness, &[], &["consumer", "share"]), [""; 0]);
    drop(harness.coordinator.unload());
    assert_eq!(harness.coordinator.list_groups(&[], &[]), Err(ErrorCode::NotCoordinator));
}

#[test]
fn a_group_is_described_with_its_members() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 2);
    let group = harness.coordinator.describe_group(6, "g");
    assert_eq!((group.group_state.as_str(), group.error_code), ("Stable", 0));
    assert_eq!((group.protocol_type.as_str(), group.protocol_data.as_str()), ("consumer", "range"));
    assert_eq!(group.members.len(), 2);
    let leader = group.members.iter().find(|member| member.member_id == members[0]).unwrap();
    assert_eq!((leader.client_id.as_str(), leader.client_host.as_str()), ("client", "/127.0.0.1"));
    assert_eq!(leader.member_metadata, SUBSCRIBED_TO_T0);
    assert_eq!(leader.member_assignment, format!("part of {}", members[0]).into_bytes());

    harness.send_new(&Join::default());
    let group = harness.coordinator.describe_group(6, "g");
    assert_eq!((group.group_state.as_str(), group.protocol_data.as_str()), ("PreparingRebalance", ""));
    assert!(group.members.iter().all(|member| member.member_metadata.is_empty()));
}

#[test]
fn a_group_that_does_not_exist_is_dead_or_not_found() {
    let harness = Harness::new();
    let group = harness.coordinator.describe_group(5, "g");
    assert_eq!((group.group_state.as_str(), group.error_code), ("Dead", 0));
    let group = harness.coordinator.describe_group(6, "g");
    assert_eq!(group.error_code, ErrorCode::GroupIdNotFound.code());
    assert_eq!(group.error_message.as_deref(), Some("Group g not found."));
    let loading = crate::common::replayed(&[], &harness.config, 0);
    assert_eq!(loading.describe_group(6, "g").error_code, ErrorCode::CoordinatorLoadInProgress.code());
}

#[test]
fn only_groups_without_members_can_be_deleted() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 1);
    harness.commit(&Commit { generation: 1, member_id: &members[0], offset: 5, ..Commit::default() });
    harness.commit(&Commit { group: "simple", offset: 6, ..Commit::default() });
    let delete = harness.delete_groups(&["g", "missing", "simple"]);
    assert_eq!(
        harness.deleted(delete),
        [ErrorCode::NonEmptyGroup, ErrorCode::GroupIdNotFound, ErrorCode::None]
    );
    assert_eq!(harness.state("simple"), "Dead");
    assert_eq!((harness.fetched("g", "t0", 0), harness.fetched("simple", "t0", 0)), (5, -1));
    harness.send_leave("g", &[(&members[0], None)]);
    let delete = harness.delete_groups(&["g", "g"]);
    assert_eq!(harness.deleted(delete), [ErrorCode::None], "a name that is given twice counts once");
    harness.fail_over();
    assert_eq!(listed(&harness, &[], &[]), [""; 0]);
    assert_eq!(harness.fetched("g", "t0", 0), -1);
}

#[test]
fn a_deletion_shows_once_it_is_in_the_log() {
    let mut harness = Harness::new();
    harness.commit(&Commit { offset: 5, ..Commit::default() });
    harness.commits_at_once = false;
    let delete = harness.delete_groups(&["g"]);
    assert!(harness.answer(delete).is_none(), "GROUP-1");
    assert_eq!(harness.state("g"), "Empty");
    harness.fail_all(ErrorCode::NotEnoughReplicas);
    assert_eq!(harness.deleted(delete), [ErrorCode::CoordinatorNotAvailable]);
    assert_eq!((harness.state("g").as_str(), harness.fetched("g", "t0", 0)), ("Empty", 5));
    let delete = harness.delete_groups(&["g"]);
    harness.commit_all();
    assert_eq!(harness.deleted(delete), [ErrorCode::None]);
    assert_eq!((harness.state("g").as_str(), harness.fetched("g", "t0", 0)), ("Dead", -1));
}

#[test]
fn a_deletion_takes_what_is_on_its_way_with_it() {
    let mut harness = Harness::new();
    harness.commit(&Commit { offset: 5, ..Commit::default() });
    harness.commits_at_once = false;
    let commit = harness.send_commit(&Commit { partition: 7, offset: 6, ..Commit::default() });
    let delete = harness.delete_groups(&["g"]);
    harness.commit_all();
    assert_eq!(harness.commit_error(commit), Some(ErrorCode::None));
    assert_eq!(harness.deleted(delete), [ErrorCode::None]);
    assert_eq!(harness.fetched("g", "t0", 7), -1);
    harness.fail_over();
    assert_eq!(harness.state("g"), "Dead");
}

#[test]
fn a_group_that_is_used_again_while_it_is_deleted_lives_on() {
    let mut harness = Harness::new();
    harness.commit(&Commit { offset: 5, ..Commit::default() });
    harness.commits_at_once = false;
    harness.delete_groups(&["g"]);
    let join = harness.send_join(&Join::default());
    harness.commit_all();
    harness.commits_at_once = true;
    let id = harness.joined(join).member_id;
    assert_eq!(harness.fetched("g", "t0", 0), -1, "what it had committed before is gone");
    let join = harness.send_join(&Join { member_id: &id, ..Join::default() });
    harness.advance(3_000);
    assert_eq!(harness.joined(join).error_code, 0);
    harness.settle("g", harness.joined(join).generation_id, &[id]);
    harness.fail_over();
    assert_eq!(harness.state("g"), "Stable");

    // The same with a commit instead of a member.
    harness.commit(&Commit { group: "h", offset: 5, ..Commit::default() });
    harness.commits_at_once = false;
    harness.delete_groups(&["h"]);
    harness.send_commit(&Commit { group: "h", partition: 1, offset: 6, ..Commit::default() });
    harness.commit_all();
    assert_eq!((harness.fetched("h", "t0", 0), harness.fetched("h", "t0", 1)), (-1, 6));
    assert_eq!(harness.state("h"), "Empty");
    harness.fail_over();
    assert_eq!((harness.state("h").as_str(), harness.fetched("h", "t0", 1)), ("Empty", 6));
}

#[test]
fn metrics_are_told_of_members_and_offsets() {
    let mut harness = Harness::new();
    harness.stable_group("a", 2);
    harness.commit(&Commit { group: "b", ..Commit::default() });
    let told = harness.coordinator.group_stats();
    let groups: Vec<_> = told
        .iter()
        .map(|group| (&*group.group_id, group.state, group.member_count, group.offsets.len()))
        .collect();
    assert_eq!(groups, [("a", "Stable", 2, 0), ("b", "Empty", 0, 1)]);
    drop(harness.coordinator.unload());
    assert!(harness.coordinator.group_stats().is_empty());
}
