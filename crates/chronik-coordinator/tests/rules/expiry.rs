//! Offsets and groups that nobody needs any more (KIP-211).

use std::collections::BTreeSet;

use chronik_types::ErrorCode;

use crate::common::{Commit, Harness, Join};

const DAY_MS: u64 = 86_400_000;

/// Replication point 15.
#[test]
fn the_clock_starts_when_the_group_empties() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 1);
    harness.commit(&Commit { generation: 1, member_id: &members[0], offset: 5, ..Commit::default() });
    harness.send_leave("g", &[(&members[0], None)]);
    harness.advance(7 * DAY_MS - 1);
    assert_eq!(harness.fetched("g", "t0", 0), 5);
    harness.advance(600_000);
    assert_eq!(harness.fetched("g", "t0", 0), -1);
    assert_eq!(harness.state("g"), "Dead", "with nothing left it goes");
    harness.fail_over();
    assert_eq!((harness.state("g").as_str(), harness.fetched("g", "t0", 0)), ("Dead", -1));
}

/// Replication point 15.
#[test]
fn the_clock_survives_a_failover() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 1);
    harness.commit(&Commit { generation: 1, member_id: &members[0], offset: 5, ..Commit::default() });
    harness.send_leave("g", &[(&members[0], None)]);
    harness.advance(6 * DAY_MS);
    harness.fail_over();
    harness.advance(DAY_MS + 600_000);
    assert_eq!(harness.fetched("g", "t0", 0), -1);
}

#[test]
fn consumers_keep_the_offsets_of_what_they_subscribe_to() {
    let mut harness = Harness::new();
    let join = Join { session_timeout_ms: 1_800_000, ..Join::default() };
    let (request, member) = harness.send_new(&join);
    harness.advance(3_000);
    assert_eq!(harness.joined(request).error_code, 0);
    let members = [member];
    harness.settle("g", 1, &members);
    for topic in ["t0", "t1"] {
        let commit = Commit { topic, generation: 1, member_id: &members[0], offset: 5, ..Commit::default() };
        assert_eq!(harness.commit(&commit), ErrorCode::None);
    }
    for _ in 0..8 * 50 {
        harness.advance(DAY_MS / 50);
        assert_eq!(harness.heartbeat("g", 1, &members[0]), ErrorCode::None);
    }
    assert_eq!((harness.fetched("g", "t0", 0), harness.fetched("g", "t1", 0)), (5, -1));
}

#[test]
fn members_that_cannot_be_read_keep_every_offset() {
    for (protocol_type, metadata) in [("connect", &b"\0"[..]), ("consumer", &b"\0"[..])] {
        let mut harness = Harness::new();
        let protocols = [("range", metadata)];
        let join =
            Join { session_timeout_ms: 1_800_000, protocol_type, protocols: &protocols, ..Join::default() };
        let (request, member) = harness.send_new(&join);
        harness.advance(3_000);
        assert_eq!(harness.joined(request).error_code, 0);
        harness.settle("g", 1, std::slice::from_ref(&member));
        harness.commit(&Commit { generation: 1, member_id: &member, offset: 5, ..Commit::default() });
        for _ in 0..8 * 50 {
            harness.advance(DAY_MS / 50);
            harness.heartbeat("g", 1, &member);
        }
        assert_eq!(harness.fetched("g", "t0", 0), 5, "{protocol_type}");
    }
}

#[test]
fn a_group_that_never_had_members_counts_from_the_commit() {
    let mut harness = Harness::new();
    harness.commit(&Commit { offset: 5, ..Commit::default() });
    harness.advance(4 * DAY_MS);
    harness.commit(&Commit { partition: 1, offset: 6, ..Commit::default() });
    harness.advance(3 * DAY_MS + 600_000);
    assert_eq!((harness.fetched("g", "t0", 0), harness.fetched("g", "t0", 1)), (-1, 6));
    harness.advance(4 * DAY_MS + 600_000);
    assert_eq!(harness.state("g"), "Dead");
}

#[test]
fn an_offset_may_bring_its_own_time() {
    let mut harness = Harness::new();
    let commit = Commit { api_version: 4, retention_ms: 3_600_000, offset: 5, ..Commit::default() };
    harness.commit(&commit);
    harness.fail_over();
    harness.advance(3_600_000 - 1);
    assert_eq!(harness.fetched("g", "t0", 0), 5);
    harness.advance(600_000);
    assert_eq!(harness.fetched("g", "t0", 0), -1);
}

#[test]
fn an_offset_on_its_way_is_not_expired_from_under_it() {
    let mut harness = Harness::new();
    harness.commit(&Commit { offset: 5, ..Commit::default() });
    harness.advance(7 * DAY_MS - 1_000);
    harness.commits_at_once = false;
    harness.send_commit(&Commit { offset: 6, ..Commit::default() });
    harness.advance(600_000);
    harness.commit_all();
    harness.commits_at_once = true;
    assert_eq!(harness.fetched("g", "t0", 0), 6);
    harness.advance(DAY_MS);
    assert_eq!(harness.fetched("g", "t0", 0), 6);
}

#[test]
fn a_group_that_hands_out_an_id_is_not_over() {
    let mut harness = Harness::new();
    harness.advance(600_000 - 1_000);
    let join = harness.send_join(&Join::default());
    let id = harness.joined(join).member_id;
    harness.advance(2_000);
    let join = harness.send_join(&Join { member_id: &id, ..Join::default() });
    harness.advance(3_000);
    assert_eq!(harness.joined(join).generation_id, 1);
}

#[test]
fn offsets_of_deleted_topics_go_at_once() {
    let mut harness = Harness::new();
    let members = harness.stable_group("g", 1);
    for topic in ["t0", "t1"] {
        let commit = Commit { topic, generation: 1, member_id: &members[0], offset: 5, ..Commit::default() };
        assert_eq!(harness.commit(&commit), ErrorCode::None);
    }
    let effects =
        harness.coordinator.topics_deleted(harness.now, &BTreeSet::from(["t0".to_owned(), "t9".to_owned()]));
    harness.carry_out(effects);
    assert_eq!((harness.fetched("g", "t0", 0), harness.fetched("g", "t1", 0)), (-1, 5));
    harness.fail_over();
    assert_eq!((harness.fetched("g", "t0", 0), harness.fetched("g", "t1", 0)), (-1, 5));
}

#[test]
fn a_large_sweep_is_written_in_parts() {
    let mut harness = Harness::new();
    for partition in 0..100 {
        for topic in 0..45 {
            let topic = format!("t{topic}");
            let commit = Commit { topic: &topic, partition, ..Commit::default() };
            assert_eq!(harness.commit(&commit), ErrorCode::None);
        }
    }
    harness.commits_at_once = false;
    harness.advance(7 * DAY_MS + 600_000);
    let sizes: Vec<usize> = harness.appended.iter().map(|write| write.records.len()).collect();
    assert_eq!(sizes, [2_000, 2_000, 500, 1], "the group goes last");
    // A part that fails keeps its offsets, and the group that they need to expire with.
    let failed = harness.appended.remove(1).unwrap();
    let effects = harness.coordinator.failed(harness.now, failed.id, ErrorCode::NotEnoughReplicas);
    harness.carry_out(effects);
    harness.commit_all();
    assert_eq!(harness.state("g"), "Empty");
    harness.advance(600_000);
    harness.commit_all();
    assert_eq!(harness.state("g"), "Dead");
}
