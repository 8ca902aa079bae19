//! Who is told to be silent, gone, or back.

use super::*;

/// Lets time pass and gives what each leader tells of brokers, with the time since the start.
fn watch(cluster: &mut Cluster, ms: u64) -> Vec<(u64, LivenessChange)> {
    let begun = cluster.now;
    let mut told = Vec::new();
    for _ in 0..=ms / TICK_MS {
        let now = cluster.now;
        for node in cluster.nodes.iter_mut().flatten() {
            let changes = node.liveness_changes(now);
            assert!(changes.is_empty() || node.is_leader(), "only the leader tells");
            told.extend(changes.into_iter().map(|change| (now.since_ms(begun), change)));
        }
        cluster.pass_ms(TICK_MS);
    }
    told
}

fn in_service() -> Cluster {
    let mut cluster = Cluster::led();
    for at in 0..3 {
        cluster.register(at, 10 + at as u128, true);
    }
    assert_eq!(watch(&mut cluster, 5_000), [], "all is as the image says");
    cluster
}

#[test]
fn a_silent_broker_is_told_again_until_it_is_fenced() {
    let mut cluster = in_service();
    cluster.isolate(2);
    let told = watch(&mut cluster, 3_600);
    let silent = LivenessChange::Silent { node: node(2) };
    assert!(told.iter().all(|(_, change)| *change == silent), "{told:?}");
    let times: Vec<u64> = told.iter().map(|(at, _)| *at).collect();
    // It was last heard up to a heartbeat before it was cut off.
    assert!(
        (SESSION_TIMEOUT_MS - HEARTBEAT_MS..=SESSION_TIMEOUT_MS + TICK_MS).contains(&times[0]),
        "{times:?}"
    );
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == LIVENESS_CHECK_MS) && 3 <= times.len());
    let fence = crate::metadata::FenceBroker::new(node(2), None);
    cluster.ask(0, CommandBatch::new(vec![fence.into()]));
    cluster.settle();
    assert_eq!(watch(&mut cluster, 2_000), []);
    // Back, it is told once it knows what it missed.
    cluster.heal();
    let told = watch(&mut cluster, 1_000);
    assert_eq!(told[0].1, LivenessChange::Returned { node: node(2) });
    assert!(told[0].0 <= 600, "{told:?}");
    assert!(cluster.node(2).image().broker(node(2)).unwrap().fenced);
    let unfence = UnfenceBroker::new(node(2), None);
    cluster.ask(0, CommandBatch::new(vec![unfence.into()]));
    cluster.settle();
    assert_eq!(watch(&mut cluster, 3_000), []);
}

#[test]
fn a_broker_whose_process_has_ended_is_told_at_once() {
    let mut cluster = in_service();
    cluster.stop(1);
    for at in [0, 2] {
        cluster.node_mut(at).peer_gone(node(1));
    }
    assert_eq!(watch(&mut cluster, 0), [(0, LivenessChange::Gone { node: node(1) })]);
    // The next process is another broker until it has registered.
    cluster.start(1).unwrap();
    cluster.node_mut(1).set_broker_incarnation(99);
    let told = watch(&mut cluster, 1_000);
    assert!(
        told.iter().all(|(_, change)| *change == LivenessChange::Gone { node: node(1) }) && !told.is_empty()
    );
    cluster.register(1, 99, false);
    let told = watch(&mut cluster, 300);
    assert_eq!(told[0].1, LivenessChange::Returned { node: node(1) });
    assert!(told[0].0 <= FENCED_HEARTBEAT_MS, "{told:?}");
}

#[test]
fn a_broker_that_was_gone_and_is_heard_again_is_not_gone() {
    let mut cluster = in_service();
    cluster.node_mut(0).peer_gone(node(1));
    cluster.pass_ms(HEARTBEAT_MS);
    assert_eq!(watch(&mut cluster, 3_000), []);
}

#[test]
fn a_new_leader_gives_everyone_time_and_knows_who_is_gone() {
    let mut cluster = in_service();
    // Node 2 was told gone while it followed.
    cluster.node_mut(1).peer_gone(node(0));
    cluster.stop(0);
    cluster.node_mut(1).campaign();
    let told = watch(&mut cluster, 3_000);
    assert!(told.iter().all(|(_, change)| *change == LivenessChange::Gone { node: node(0) }), "{told:?}");
    assert!(told[0].0 <= 1_000, "{told:?}");
}

#[test]
fn a_leader_that_was_held_up_does_not_take_its_absence_for_theirs() {
    let mut cluster = in_service();
    cluster.now = cluster.now.plus_ms(30_000);
    assert_eq!(watch(&mut cluster, 3_000), []);
}

#[test]
fn a_broker_returns_when_it_has_caught_up() {
    let mut cluster = in_service();
    let fence = crate::metadata::FenceBroker::new(node(2), None);
    // What it says of itself is said below.
    cluster.cut.insert((2, 0));
    cluster.ask(0, CommandBatch::new(vec![fence.into()]));
    cluster.settle();
    // It is heard, and hears nothing.
    cluster.lost_kinds = vec![MessageKind::Append];
    let answer = cluster.ask(0, topic(1));
    cluster.settle();
    drop(answer);
    let mut heartbeat = |applied_index| {
        let epoch = cluster.node(0).image().broker(node(2)).unwrap().epoch.get();
        let commit = cluster.node(0).raw.raft.raft_log.committed;
        cluster.node_mut(0).take_heartbeat(3, (epoch, 12, applied_index));
        let now = cluster.now;
        (commit, cluster.node_mut(0).liveness_changes(now))
    };
    let (commit, told) = heartbeat(0);
    assert_eq!(told, []);
    assert_eq!(heartbeat(commit - 1).1, []);
    assert_eq!(heartbeat(commit).1, [LivenessChange::Returned { node: node(2) }]);
}
