//! Shards of groups come and go with the lead of their partitions, and are loaded in the background.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use chronik_disk::{Fault as DiskFault, FaultRule, Operation};
use chronik_log::{AppendOrigin, Cleaner, CleanerOptions};
use chronik_protocol::messages::{
    HeartbeatRequest, JoinGroupResponse, ListGroupsRequest, ListGroupsResponse,
};
use chronik_protocol::records::{BatchBuilder, BatchOptions};
use chronik_raft::MetadataLog as _;
use chronik_raft::metadata::{CommandBatch, MetadataImage, SetPartitionLeader, UpdateIsr};
use chronik_types::{ErrorCode, LogIndex, NodeId, PartitionIndex};

use super::groups::{
    DELAY_MS, commit, committed, committed_or_error, coordinating, enter, find, heartbeat, join, one_member,
    states,
};
use super::{Fixture, NODE, code, response};
use crate::clock::Clock;
use crate::config::{BrokerConfig, GroupConfig};
use crate::groups::OFFSETS_TOPIC;

/// The partition that the group `g` lives in.
fn home() -> PartitionIndex {
    PartitionIndex(chronik_coordinator::partition_for("g", 50).unwrap())
}

/// Gives the partition of `g` another leader, or none.
fn set_leader(fixture: &Fixture, leader: Option<NodeId>) {
    let topic_id = fixture.image().topic(OFFSETS_TOPIC).unwrap().id;
    let command = SetPartitionLeader::new(topic_id, home(), leader);
    let batch = CommandBatch::new(vec![command.into()]);
    fixture.metadata.propose(batch, Box::new(|outcome| assert!(outcome.is_ok(), "{outcome:?}")));
}

/// The same broker after an orderly end, with its groups still to be loaded.
fn loading(fixture: Fixture) -> Fixture {
    let fixture = fixture.restart();
    fixture.broker.load_groups(fixture.clock.now());
    fixture
}

/// Lets the loader have its turns: one for every sixteen logs that it opens.
fn load_all(fixture: &Fixture) {
    for _ in 0..10 {
        fixture.pass(1);
    }
}

/// Replication point 14.
#[test]
fn nobody_waits_for_a_load() {
    let fixture = coordinating();
    let joined = one_member(&fixture);
    assert_eq!(commit(&fixture, "g", Some(&joined), 7), ErrorCode::None);
    let fixture = loading(fixture);
    let busy = ErrorCode::CoordinatorLoadInProgress;
    assert_eq!(committed_or_error(&fixture, "g"), Err(busy));
    assert_eq!(commit(&fixture, "g", Some(&joined), 8), busy);
    let refused: JoinGroupResponse = fixture.call(9, &join("", None));
    assert_eq!(code(refused.error_code), busy);
    let listed: ListGroupsResponse = fixture.call(5, &ListGroupsRequest::default());
    assert_eq!(code(listed.error_code), busy, "a list that lacks groups says so");
    // A member cannot help it, and its session has not begun.
    assert_eq!(heartbeat(&fixture, &joined), ErrorCode::None);
    load_all(&fixture);
    assert_eq!(committed(&fixture, &["g"]), [7]);
    assert_eq!(heartbeat(&fixture, &joined), ErrorCode::None);
    assert_eq!(commit(&fixture, "g", Some(&joined), 8), ErrorCode::None);
}

#[test]
fn a_large_log_is_loaded_in_turns() {
    let fixture = coordinating();
    let note = "n".repeat(4_000);
    for offset in 0..600 {
        let noted = super::groups::commit_noted(&fixture, "g", None, offset, &note);
        assert_eq!(noted, ErrorCode::None);
    }
    let fixture = loading(fixture);
    let mut turns = 0;
    while committed_or_error(&fixture, "g").is_err() {
        fixture.pass(1);
        turns += 1;
        assert!(turns < 1_000, "it is never loaded");
    }
    assert!(turns >= 2, "2.4 MB were read in {turns} turns");
    assert_eq!(committed(&fixture, &["g"]), [599]);
}

/// Replication point 14.
#[test]
fn a_lost_lead_sends_everyone_away_and_a_later_one_finds_what_was_committed() {
    let fixture = coordinating();
    let joined = one_member(&fixture);
    assert_eq!(commit(&fixture, "g", Some(&joined), 7), ErrorCode::None);
    // A second member waits for the first to join again.
    let (_, waiting) = enter(&fixture);
    assert!(waiting.lock().is_none());
    set_leader(&fixture, None);
    let sent_away: JoinGroupResponse = response(&waiting, 9);
    assert_eq!(code(sent_away.error_code), ErrorCode::NotCoordinator);
    assert_eq!(heartbeat(&fixture, &joined), ErrorCode::NotCoordinator);
    assert_eq!(commit(&fixture, "g", Some(&joined), 8), ErrorCode::NotCoordinator);
    assert_eq!(committed_or_error(&fixture, "g"), Err(ErrorCode::NotCoordinator));
    assert_eq!(code(find(&fixture).error_code), ErrorCode::CoordinatorNotAvailable);
    assert!(states(&fixture).is_empty());

    set_leader(&fixture, Some(NODE));
    assert_eq!(code(find(&fixture).error_code), ErrorCode::None);
    assert_eq!(committed_or_error(&fixture, "g"), Err(ErrorCode::CoordinatorLoadInProgress));
    load_all(&fixture);
    assert_eq!(committed(&fixture, &["g"]), [7]);
    assert_eq!(heartbeat(&fixture, &joined), ErrorCode::None, "the assignment was in the log");
    assert_eq!(commit(&fixture, "g", Some(&joined), 9), ErrorCode::None);
    // Its session runs from the load on.
    fixture.pass(10_001);
    assert_eq!(heartbeat(&fixture, &joined), ErrorCode::UnknownMemberId);
}

#[test]
fn a_lead_that_is_lost_while_loading_ends_the_load() {
    let fixture = coordinating();
    assert_eq!(commit(&fixture, "g", None, 7), ErrorCode::None);
    set_leader(&fixture, None);
    set_leader(&fixture, Some(NODE));
    set_leader(&fixture, None);
    load_all(&fixture);
    assert_eq!(committed_or_error(&fixture, "g"), Err(ErrorCode::NotCoordinator));
    // Two leads in a row: the load of the first must not answer for the second.
    set_leader(&fixture, Some(NODE));
    set_leader(&fixture, None);
    set_leader(&fixture, Some(NODE));
    load_all(&fixture);
    assert_eq!(committed(&fixture, &["g"]), [7]);
}

#[test]
fn a_new_epoch_under_the_same_leader_is_a_new_shard() {
    let fixture = coordinating();
    let joined = one_member(&fixture);
    assert_eq!(commit(&fixture, "g", Some(&joined), 7), ErrorCode::None);
    let (_, waiting) = enter(&fixture);
    let topic_id = fixture.image().topic(OFFSETS_TOPIC).unwrap().id;
    let again = SetPartitionLeader {
        always_new_epoch: true,
        ..SetPartitionLeader::new(topic_id, home(), Some(NODE))
    };
    fixture
        .metadata
        .propose(CommandBatch::new(vec![again.into()]), Box::new(|outcome| assert!(outcome.is_ok())));
    let sent_away: JoinGroupResponse = response(&waiting, 9);
    assert_eq!(code(sent_away.error_code), ErrorCode::NotCoordinator);
    load_all(&fixture);
    assert_eq!(committed(&fixture, &["g"]), [7]);
}

/// Replication point 14: between two leads of this broker another may have led, whose records are still to come.
#[test]
fn a_shard_is_not_loaded_before_its_partition_has_begun_its_epoch() {
    let fixture = coordinating();
    let joined = one_member(&fixture);
    assert_eq!(commit(&fixture, "g", Some(&joined), 7), ErrorCode::None);
    let topic_id = fixture.image().topic(OFFSETS_TOPIC).unwrap().id;
    let mut ahead = MetadataImage::clone(&fixture.image());
    for leader in [None, Some(NODE)] {
        let batch = CommandBatch::new(vec![SetPartitionLeader::new(topic_id, home(), leader).into()]);
        let index = LogIndex(ahead.applied_index().get() + 1);
        ahead = ahead.apply(index, ahead.applied_term(), &batch).unwrap().image;
    }
    // Whoever asks for the partition has it take up what the image says, but for a disk that keeps it from that.
    fixture.partition(OFFSETS_TOPIC, home().get()).is_behind.store(true, Ordering::Release);
    *fixture.metadata.ahead.lock() = Some(Arc::new(ahead));
    let busy = Err(ErrorCode::CoordinatorLoadInProgress);
    assert_eq!(committed_or_error(&fixture, "g"), busy);
    for _ in 0..5 {
        fixture.pass(20);
        load_all(&fixture);
        assert_eq!(committed_or_error(&fixture, "g"), busy, "the partition is in an earlier epoch");
    }
    *fixture.metadata.ahead.lock() = None;
    set_leader(&fixture, None);
    set_leader(&fixture, Some(NODE));
    fixture.pass(20);
    load_all(&fixture);
    assert_eq!(committed(&fixture, &["g"]), [7]);
}

#[test]
fn another_broker_that_leads_is_found() {
    let fixture = Fixture::new();
    fixture.add_broker(2, false);
    fixture.create_topic("t", 2, &[]);
    assert_eq!(code(find(&fixture).error_code), ErrorCode::None);
    let topic_id = fixture.image().topic(OFFSETS_TOPIC).unwrap().id;
    let set_isr = |nodes: &[NodeId]| {
        let in_sync = UpdateIsr::new(topic_id, home(), nodes, None);
        fixture
            .metadata
            .propose(CommandBatch::new(vec![in_sync.into()]), Box::new(|outcome| assert!(outcome.is_ok())));
    };
    for leader in [NodeId(2), NODE, NodeId(2)] {
        set_isr(&[NODE, NodeId(2)]);
        set_leader(&fixture, Some(leader));
        // Broker 2 fetches nothing here: what waits for it would wait for ever.
        set_isr(&[leader]);
        load_all(&fixture);
        let found = find(&fixture);
        assert_eq!((code(found.error_code), found.node_id), (ErrorCode::None, leader.get()));
        let refused: JoinGroupResponse = fixture.call(9, &join("", None));
        let expected = if leader == NODE { ErrorCode::MemberIdRequired } else { ErrorCode::NotCoordinator };
        assert_eq!(code(refused.error_code), expected);
    }
}

#[test]
fn a_record_that_cannot_be_read_takes_no_other_with_it() {
    let fixture = coordinating();
    assert_eq!(commit(&fixture, "g", None, 7), ErrorCode::None);
    let mut builder = BatchBuilder::new(BatchOptions::default());
    let now = fixture.clock.now();
    for (key, value) in
        [(&b"\0\x01"[..], &b"\0"[..]), (b"", b""), (b"\0\x02\0\x05g", b"\0\x03"), (b"\x7f\x01", b"x")]
    {
        builder.append(now.wall, Some(key), Some(value), &[]).unwrap();
    }
    let partition = fixture.partition(OFFSETS_TOPIC, home().get());
    partition.append(
        now,
        builder.finish().unwrap(),
        AppendOrigin::Coordinator,
        Box::new(|_, appended| assert!(appended.is_ok())),
    );
    assert_eq!(commit(&fixture, "h7", None, 1), ErrorCode::None);
    let fixture = loading(fixture);
    load_all(&fixture);
    assert_eq!(committed(&fixture, &["g"]), [7]);
}

/// Nobody has looked at the bytes since they were written, and what is read wrongly once is right the next time.
#[test]
fn a_bit_that_flips_on_its_way_from_the_disk_changes_no_offset() {
    // The base offset, the length, the record count, the key and the value of the commit.
    for position_bytes in [5, 6, 9, 58, 62, 70, 90, 100] {
        for bit in [0, 3, 6] {
            let fixture = coordinating();
            for offset in 0..20 {
                assert_eq!(commit(&fixture, "g", None, offset), ErrorCode::None);
            }
            let fixture = loading(fixture);
            let flip = DiskFault::FlipBit { position_bytes, bit };
            fixture.disk.inject(FaultRule::once(Operation::Read, ".log", flip));
            load_all(&fixture);
            fixture.pass(100);
            load_all(&fixture);
            assert_eq!(committed(&fixture, &["g"]), [19], "byte {position_bytes}, bit {bit}");
        }
    }
}

#[test]
fn a_topic_that_goes_during_a_load_takes_its_offsets() {
    let fixture = coordinating();
    assert_eq!(commit(&fixture, "g", None, 7), ErrorCode::None);
    let fixture = loading(fixture);
    assert_eq!(committed_or_error(&fixture, "g"), Err(ErrorCode::CoordinatorLoadInProgress));
    let request = chronik_protocol::messages::DeleteTopicsRequest {
        topic_names: vec!["t".to_owned()],
        timeout_ms: 1_000,
        ..Default::default()
    };
    let _: chronik_protocol::messages::DeleteTopicsResponse = fixture.call(5, &request);
    load_all(&fixture);
    assert_eq!(committed(&fixture, &["g"]), [-1]);
}

#[test]
fn settings_change_while_groups_are_in_use() {
    let fixture = coordinating();
    let joined = one_member(&fixture);
    let narrower = GroupConfig {
        group_max_size: 1,
        group_min_session_timeout_ms: 9_000,
        group_initial_rebalance_delay_ms: 0,
        ..fixture.broker.group_config()
    };
    fixture.broker.set_group_config(fixture.clock.now(), &narrower);
    assert_eq!(fixture.broker.group_config(), narrower);
    let full: JoinGroupResponse = fixture.call(9, &join("", None));
    assert_eq!(code(full.error_code), ErrorCode::GroupMaxSizeReached);
    assert_eq!(heartbeat(&fixture, &joined), ErrorCode::None, "who is in stays in");
    let mut short = join("", None);
    short.session_timeout_ms = 8_999;
    short.group_id = "another".to_owned();
    let refused: JoinGroupResponse = fixture.call(9, &short);
    assert_eq!(code(refused.error_code), ErrorCode::InvalidSessionTimeout);
    // A shard that comes later has them too: the first member does not wait for others now.
    set_leader(&fixture, None);
    fixture.pass(DELAY_MS);
    set_leader(&fixture, Some(NODE));
    load_all(&fixture);
    let full: JoinGroupResponse = fixture.call(9, &join("", None));
    assert_eq!(code(full.error_code), ErrorCode::GroupMaxSizeReached);
}

#[test]
fn a_static_member_that_was_replaced_is_fenced_after_a_load_too() {
    let fixture = coordinating();
    let pending = fixture.send(9, &join("", Some("one")));
    fixture.pass(DELAY_MS);
    let joined: JoinGroupResponse = response(&pending, 9);
    let synced = super::groups::sync(&fixture, &joined, &[(&joined.member_id.clone(), "all")]);
    let synced: chronik_protocol::messages::SyncGroupResponse = response(&synced, 5);
    assert_eq!(synced.assignment, Bytes::from_static(b"all"));
    let again: JoinGroupResponse = fixture.call(9, &join("", Some("one")));
    let fixture = loading(fixture);
    load_all(&fixture);
    let beat = |member: &JoinGroupResponse| {
        let request = HeartbeatRequest {
            group_id: "g".to_owned(),
            generation_id: member.generation_id,
            member_id: member.member_id.clone(),
            group_instance_id: Some("one".to_owned()),
        };
        let answer: chronik_protocol::messages::HeartbeatResponse = fixture.call(4, &request);
        code(answer.error_code)
    };
    assert_eq!(beat(&joined), ErrorCode::FencedInstanceId);
    assert_eq!(beat(&again), ErrorCode::None);
}

#[test]
fn what_later_commits_replace_goes_when_the_topic_is_compacted() {
    // Segments as small as they may be, so that few commits fill several.
    let config = BrokerConfig { offsets_topic_segment_bytes: 1 << 20, ..BrokerConfig::default() };
    let fixture = Fixture::with_config(config);
    fixture.create_topic("t", 2, &[]);
    assert_eq!(code(find(&fixture).error_code), ErrorCode::None);
    load_all(&fixture);
    let note = "n".repeat(4_000);
    for offset in 0..800 {
        let noted = super::groups::commit_noted(&fixture, "g", None, offset, &note);
        assert_eq!(noted, ErrorCode::None);
    }
    let log = Arc::clone(fixture.partition(OFFSETS_TOPIC, home().get()).log());
    let before = log.size_bytes();
    assert!(3 << 20 < before, "{before} bytes");
    let mut worker = Cleaner::new(Arc::clone(&fixture.broker.logs), CleanerOptions::default()).worker();
    let mut step_count = 0;
    while step_count == 0 || worker.is_busy() {
        worker.step(fixture.clock.now());
        step_count += 1;
        assert!(step_count < 100_000, "a clean comes to its end");
    }
    assert!(log.size_bytes() < before / 2, "{} of {before} bytes are left", log.size_bytes());
    let fixture = loading(fixture);
    load_all(&fixture);
    assert_eq!(committed(&fixture, &["g"]), [799], "and what counts is still there");
}

/// Opening the log of a shard that a request asks for may take as long as whatever else opens logs.
#[test]
fn a_shard_whose_turn_comes_while_somebody_hurries_it_is_loaded() {
    let fixture = coordinating();
    assert_eq!(commit(&fixture, "g", None, 7), ErrorCode::None);
    // No other shard's turn comes after this one's.
    load_all(&fixture);
    set_leader(&fixture, None);
    set_leader(&fixture, Some(NODE));
    fixture.broker.hurry_around("g", || fixture.pass(1));
    load_all(&fixture);
    assert_eq!(committed(&fixture, &["g"]), [7]);
}
