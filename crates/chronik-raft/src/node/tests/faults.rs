//! Disks that fail or are full, directories of others, and nodes that are newer.

use super::*;
use crate::metadata::SetClusterId;
use prost::Message as _;

#[test]
fn a_leader_without_room_refuses_and_others_go_on() {
    let mut cluster = Cluster::led();
    cluster.create(0, 0);
    cluster.disks[0].set_capacity_bytes(Some(cluster.disks[0].used_bytes() + 20));
    let stuck = cluster.ask(0, topic(1));
    cluster.settle();
    let refused = cluster.ask(0, topic(2)).lock().take();
    assert!(matches!(refused, Some(Err(ProposeError::DiskFull))), "{refused:?}");
    assert!(cluster.has(0, 0), "reads go on");
    // It neither leads nor votes while it cannot write: the others need each other, and have each other.
    cluster.pass_ms(1_500);
    assert_eq!(cluster.leaders().last(), Some(&1));
    let elsewhere = cluster.ask(2, topic(3));
    cluster.pass_ms(500);
    elsewhere.lock().take().expect("it is answered").unwrap();
    assert!(!cluster.has(0, 3));
    cluster.disks[0].set_capacity_bytes(None);
    cluster.pass_ms(1_500);
    assert_eq!(cluster.leaders(), [1]);
    assert!((0..3).all(|at| cluster.has(at, 3)));
    stuck.lock().take().expect("it is answered").unwrap();
    assert!((0..3).all(|at| cluster.has(at, 1) && !cluster.has(at, 2)));
}

#[test]
fn a_node_without_room_waits_for_its_next_tick() {
    let mut cluster = Cluster::led();
    cluster.disks[1].set_capacity_bytes(Some(cluster.disks[1].used_bytes()));
    let stuck = cluster.ask(1, topic(1));
    // Long enough for the proposal to be due again, which it cannot be while nothing can be written.
    cluster.pass_ms(1_500);
    assert!(cluster.node(1).is_stalled());
    assert_eq!(cluster.node(1).next_deadline(), None);
    cluster.disks[1].set_capacity_bytes(None);
    cluster.pass_ms(1_500);
    stuck.lock().take().expect("it is answered").unwrap();
}

#[test]
fn a_follower_without_room_gives_no_vote() {
    let mut cluster = Cluster::led();
    cluster.disks[1].set_capacity_bytes(Some(cluster.disks[1].used_bytes()));
    cluster.stop(0);
    cluster.carried.clear();
    cluster.pass_ms(4_000);
    assert_eq!(cluster.leaders(), [] as [usize; 0], "nobody has a vote but its own");
    let votes =
        cluster.carried.iter().filter(|(from, _, kind)| *from == 1 && *kind == MessageKind::VoteResponse);
    assert_eq!(votes.count(), 0);
    cluster.disks[1].set_capacity_bytes(None);
    cluster.pass_ms(3_000);
    assert_eq!(cluster.leaders().len(), 1);
}

#[test]
fn a_directory_of_other_voters_is_refused() {
    let mut cluster = Cluster::led();
    cluster.stop(1);
    cluster.config = |config| config.voters.push(NodeId(7));
    let error = cluster.start(1).unwrap_err();
    let RaftError::Store(error @ StoreError::OtherVoters { .. }) = error else { panic!("{error}") };
    let text = error.to_string();
    assert!(
        text.contains("made for a cluster of nodes [NodeId(0)") || text.contains("of nodes [0, 1, 2]"),
        "{text}"
    );
    cluster.config = |config| config.voters.reverse();
    cluster.start(1).expect("the order does not matter");
}

#[test]
fn a_directory_remembers_its_cluster_and_refuses_another() {
    let mut cluster = Cluster::with_config(|config| {
        config.snapshot_entries_max = 2;
        config.retained_entries_max = 0;
    })
    .elect_first();
    assert_eq!(cluster.node(1).cluster_id(), None);
    cluster.ask(2, CommandBatch::new(vec![SetClusterId::new("one").into()]));
    cluster.settle();
    for at in 0..3 {
        cluster.stop(at);
        cluster.start(at).unwrap();
        assert_eq!(
            cluster.node(at).cluster_id().map(AsRef::as_ref),
            Some("one"),
            "before it hears of anybody"
        );
    }
    // Node 2 gets the disk of another cluster's node 2.
    let mut other = Cluster::led();
    other.ask(0, CommandBatch::new(vec![SetClusterId::new("two").into()]));
    other.settle();
    other.stop(2);
    cluster.stop(2);
    cluster.disks[2] = other.disks[2].clone();
    cluster.pass_ms(1_000);
    for number in 0..6 {
        cluster.create(0, number);
    }
    cluster.start(2).unwrap();
    cluster.pass_ms(3_000);
    match &cluster.stopped[2] {
        Some(RaftError::OtherCluster { own, found, .. }) => {
            assert_eq!((&own[..], &found[..]), ("two", "one"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn nodes_that_are_too_old_stop_by_name() {
    let mut cluster = Cluster::led();
    // A newer leader writes what this build does not know.
    let mut batch = topic(1);
    batch.format_version = crate::metadata::FORMAT_VERSION_MAX + 1;
    cluster.node_mut(0).raw.propose(Vec::new(), batch.encode_to_vec()).unwrap();
    cluster.settle();
    for at in 0..3 {
        let Some(RaftError::Apply(error)) = &cluster.stopped[at] else { panic!("{:?}", cluster.stopped[at]) };
        let text = error.to_string();
        assert!(text.contains("format version 2") && text.contains("upgrade this node"), "{text}");
    }
}

#[test]
fn a_snapshot_of_a_newer_node_is_refused_by_name_and_nothing_is_lost() {
    let mut cluster = Cluster::led();
    cluster.create(0, 1);
    let mut image = cluster.node(0).image().encode_snapshot();
    image[11] = 9;
    let mut message = Message { to: 3, from: 1, term: 1, ..Message::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    let snapshot = message.mut_snapshot();
    snapshot.data = image.into();
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (100, 1);
    metadata.set_conf_state(cluster.node(0).conf_state.clone());
    let now = cluster.now;
    cluster.node_mut(2).step(now, node(0), Frame::raft(message).encode()).unwrap();
    cluster.turn(2);
    let Some(RaftError::Snapshot(error)) = &cluster.stopped[2] else { panic!("{:?}", cluster.stopped[2]) };
    assert!(error.to_string().contains("version 9") && error.to_string().contains("upgrade"), "{error}");
    cluster.start(2).unwrap();
    cluster.pass_ms(1_000);
    assert!(cluster.has(2, 1));
}
