//! What goes wrong when raft 0.7 is embedded without care, point by point.

use raft::eraftpb::{ConfChangeSingle, ConfChangeType};

use super::*;
use chronik_disk::{Crash, Fault, FaultRule, Operation};

#[test]
fn point_1_a_follower_promises_nothing_before_its_sync() {
    let mut cluster = Cluster::led();
    cluster.carried.clear();
    cluster.disks[1].inject(FaultRule::once(Operation::Sync, "wal-", Fault::Io));
    cluster.create(0, 1);
    assert!(matches!(&cluster.stopped[1], Some(RaftError::Store(StoreError::Io { .. }))));
    let of_1 =
        |kind| cluster.carried.iter().filter(|(from, _, carried)| *from == 1 && *carried == kind).count();
    assert_eq!(of_1(MessageKind::AppendResponse), 0);
}

#[test]
fn point_2_one_sync_covers_many_entries_on_every_node() {
    let mut cluster = Cluster::led();
    let before: Vec<u64> = cluster.disks.iter().map(SimDisk::sync_count).collect();
    let answers: Vec<_> = (0..100).map(|number| cluster.ask(1, topic(number))).collect();
    cluster.settle();
    assert!(answers.iter().all(|answer| matches!(*answer.lock(), Some(Ok(_)))));
    for (disk, before) in cluster.disks.iter().zip(before) {
        assert!(disk.sync_count() - before <= 3, "{} syncs", disk.sync_count() - before);
    }
}

#[test]
fn point_3_what_was_applied_was_committed_even_after_a_restart() {
    // The commit index reaches the disk later than the image: a snapshot may be ahead of it.
    let mut cluster = Cluster::with_config(|config| config.snapshot_entries_max = 1).elect_first();
    for number in 0..5 {
        cluster.create(0, number);
        for at in 0..3 {
            cluster.stop(at);
            cluster.disks[at].crash(Crash::PowerLoss { seed: u64::from(number) });
            cluster.start(at).unwrap();
            let quorum = cluster.node(at).quorum();
            assert!(quorum.applied_index <= quorum.commit_index);
        }
        cluster.pass_ms(2_000);
    }
    assert!((0..3).all(|at| (0..5).all(|number| cluster.has(at, number))));
}

fn demote_and_promote() -> ConfChangeV2 {
    // Two changes at once need a joint configuration.
    let mut change = ConfChangeV2::default();
    let singles = [(2, ConfChangeType::RemoveNode), (3, ConfChangeType::AddLearnerNode)];
    let singles = singles.map(|(id, change_type)| {
        let mut single = ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
        single.set_change_type(change_type);
        single
    });
    change.set_changes(singles.to_vec().into());
    change
}

#[test]
fn point_4_a_joint_configuration_ends_by_itself() {
    let mut cluster = Cluster::led();
    cluster.node_mut(0).raw.propose_conf_change(Vec::new(), demote_and_promote()).unwrap();
    cluster.pass_ms(500);
    for at in [0, 2] {
        let state = &cluster.node(at).conf_state;
        assert!(state.voters_outgoing.is_empty(), "node {at} stays joint: {state:?}");
        assert_eq!((&state.voters[..], &state.learners[..]), (&[1][..], &[3][..]));
    }
    cluster.create(0, 1);
    assert!(cluster.has(2, 1), "a learner follows");
}

#[test]
fn point_4_a_joint_configuration_ends_under_a_later_leader() {
    let mut cluster = Cluster::led();
    cluster.node_mut(0).raw.propose_conf_change(Vec::new(), demote_and_promote()).unwrap();
    // The first leader writes the change and is gone before it is committed; the next one finds it in its log.
    cluster.turn(0);
    let sent = std::mem::take(&mut *cluster.wires.lock());
    for (from, to, message) in sent {
        cluster.carry(from, to, &message);
        cluster.turn(to);
    }
    cluster.stop(0);
    cluster.node_mut(1).campaign();
    cluster.pass_ms(1_000);
    assert_eq!(cluster.leaders(), [1]);
    // The new voters are node 0 alone, so the change needs it.
    cluster.start(0).unwrap();
    cluster.pass_ms(3_000);
    for at in 0..3 {
        let state = &cluster.node(at).conf_state;
        assert!(at == 1 || state.voters_outgoing.is_empty(), "node {at} stays joint: {state:?}");
    }
    assert_eq!(cluster.node(0).conf_state.voters, [1]);
}

#[test]
fn point_5_a_proposal_that_raft_drops_is_tried_again() {
    let mut cluster = Cluster::led();
    // While the leadership is handed over, raft takes no proposals; the receiver never hears of it.
    cluster.isolate(2);
    cluster.node_mut(0).transfer_leadership(node(2));
    let answers = [cluster.ask(0, topic(1)), cluster.ask(1, topic(2))];
    cluster.settle();
    assert!(answers.iter().all(|answer| answer.lock().is_none()));
    cluster.pass_ms(1_500);
    for answer in answers {
        answer.lock().take().expect("it is answered").unwrap();
    }
    assert_eq!(cluster.leaders(), [0], "the hand-over was given up");
}

#[test]
fn point_6_a_barrier_waits_for_the_first_commit_of_the_term() {
    let mut cluster = Cluster::led();
    cluster.stop(0);
    cluster.lost_kinds = vec![MessageKind::Append];
    cluster.pass_ms(1_500);
    assert_eq!(cluster.leaders(), [1]);
    // Raft drops these without a word.
    let barriers = [cluster.barrier(1), cluster.barrier(2)];
    cluster.pass_ms(200);
    assert!(barriers.iter().all(|barrier| barrier.lock().is_none()));
    cluster.heal();
    cluster.pass_ms(700);
    for barrier in barriers {
        barrier.lock().take().expect("it was asked again").unwrap();
    }
}

#[test]
fn point_7_a_leader_without_a_majority_steps_down() {
    let mut cluster = Cluster::led();
    cluster.isolate(0);
    cluster.pass_ms(1_200);
    assert_eq!(cluster.leaders(), [1], "the old leader does not wait to be told");
}

#[test]
fn point_7_a_node_that_was_away_disturbs_nobody() {
    let mut cluster = Cluster::led();
    cluster.isolate(2);
    cluster.pass_ms(5_000);
    assert_eq!(cluster.terms(), [1, 1, 1], "it asks whether it would win before it begins a term");
    cluster.heal();
    cluster.pass_ms(1_000);
    assert_eq!((cluster.leaders(), cluster.terms()), (vec![0], vec![1, 1, 1]));
}

/// A cluster in which node 2 is behind by more than the log holds.
fn far_behind() -> Cluster {
    let mut cluster = Cluster::with_config(|config| {
        config.snapshot_entries_max = 2;
        config.retained_entries_max = 0;
    })
    .elect_first();
    cluster.isolate(2);
    for number in 0..6 {
        cluster.create(1, number);
    }
    cluster
}

#[test]
fn point_8_a_snapshot_that_was_lost_is_sent_again() {
    let mut cluster = far_behind();
    cluster.heal();
    cluster.lost_kinds = vec![MessageKind::Snapshot];
    cluster.pass_ms(2_000);
    assert!(!cluster.has(2, 0));
    cluster.heal();
    cluster.pass_ms(1_000);
    assert!(!cluster.has(2, 0), "raft waits for word of the snapshot");
    cluster.node_mut(0).snapshot_finished(node(2), false);
    cluster.pass_ms(1_000);
    assert!((0..6).all(|number| cluster.has(2, number)));
}

#[test]
fn point_8_a_snapshot_that_never_left_is_sent_again() {
    let mut cluster = far_behind();
    cluster.heal();
    // The queue to node 2 takes nothing: what is dropped there is reported at once.
    cluster.full_queues.lock().insert((0, 2));
    cluster.pass_ms(2_000);
    cluster.heal();
    cluster.pass_ms(1_000);
    assert!((0..6).all(|number| cluster.has(2, number)));
}

#[test]
fn point_8_a_full_queue_slows_a_follower_and_does_not_stop_it() {
    let mut cluster = Cluster::led();
    cluster.full_queues.lock().insert((0, 2));
    for number in 0..200 {
        cluster.create(0, number);
    }
    assert!(!cluster.has(2, 0));
    cluster.heal();
    cluster.pass_ms(1_000);
    assert!((0..200).all(|number| cluster.has(2, number)));
}

#[test]
fn point_9_no_bytes_of_a_peer_recurse() {
    // Nested groups, which drive the decoder of Protocol Buffers that raft brings into unbounded recursion.
    let nested = vec![0x0b; 1 << 20];
    assert!(membership::decode(EntryType::EntryConfChangeV2, &nested).is_err());
    assert!(CommandBatch::decode_entry(LogIndex(1), &nested).is_err());
    assert!(Frame::decode(Bytes::from(nested.clone())).is_err());
    assert!(MetadataImage::decode_snapshot(&nested).is_err());
}

#[test]
fn point_12_the_order_of_elections_is_that_of_the_ids() {
    let mut cluster = Cluster::led();
    for _ in 0..3 {
        cluster.stop(0);
        cluster.pass_ms(2_000);
        assert_eq!(cluster.leaders(), [1], "node 1 waits less long than node 2");
        cluster.start(0).unwrap();
        cluster.pass_ms(500);
        cluster.stop(1);
        cluster.pass_ms(2_000);
        assert_eq!(cluster.leaders(), [0]);
        cluster.start(1).unwrap();
        cluster.pass_ms(500);
    }
}

#[test]
fn point_13_a_closed_connection_is_as_good_as_a_timeout() {
    let mut cluster = Cluster::led();
    cluster.create(0, 1);
    cluster.stop(0);
    for at in [1, 2] {
        cluster.node_mut(at).campaign();
    }
    cluster.settle();
    // Both asked at once, and the lease of a leader who was heard a moment ago binds neither.
    let mut waited_ms = 0;
    while cluster.leaders().is_empty() {
        cluster.pass_ms(50);
        waited_ms += 50;
    }
    assert!(waited_ms <= 1_000, "{waited_ms} ms");
    let leader = cluster.leaders()[0];
    cluster.create(leader, 2);
}

#[test]
fn point_13_a_leader_that_lives_stays() {
    let mut cluster = Cluster::led();
    for at in [1, 2, 0] {
        cluster.node_mut(at).campaign();
        cluster.pass_ms(1_000);
    }
    assert_eq!((cluster.leaders(), cluster.terms()), (vec![0], vec![1, 1, 1]));
}
