//! Who still knows that it belongs to the cluster, and for how long.

use super::*;

/// Three nodes with brokers in service.
fn in_service() -> Cluster {
    let mut cluster = Cluster::led();
    for at in 0..3 {
        cluster.register(at, 10 + at as u128, true);
    }
    cluster.pass_ms(2_000);
    cluster
}

fn has_contact(cluster: &Cluster, at: usize) -> bool {
    cluster.now <= cluster.node(at).contact_until()
}

/// Lets time pass until a node is told to be silent; when that is.
fn told_silent_at(cluster: &mut Cluster, silent: usize) -> MonotonicMs {
    for _ in 0..5_000 / TICK_MS {
        let now = cluster.now;
        for at in (0..3).filter(|at| *at != silent) {
            let told = cluster.node_mut(at).liveness_changes(now);
            if told.contains(&LivenessChange::Silent { node: node(silent) }) {
                return now;
            }
        }
        cluster.pass_ms(TICK_MS);
    }
    panic!("nobody tells that node {silent} is silent");
}

#[test]
fn whoever_is_heard_keeps_contact() {
    let mut cluster = in_service();
    let least_ms = CONTACT_TIMEOUT_MS - CONTACT_INTERVAL_MS - 2 * TICK_MS;
    for _ in 0..100 {
        cluster.pass_ms(TICK_MS);
        for at in 0..3 {
            let left_ms = cluster.node(at).contact_until().since_ms(cluster.now);
            assert!(least_ms <= left_ms, "node {at} has {left_ms} ms left");
        }
    }
}

/// Cuts connections, and gives how the cuts end for one node: when it has given up on itself, and when the others on it.
fn check_silence(at: usize, cut: impl FnOnce(&mut Cluster)) {
    let mut cluster = in_service();
    let begun = cluster.now;
    cut(&mut cluster);
    let told = told_silent_at(&mut cluster, at);
    let until = cluster.node(at).contact_until();
    assert!(until <= begun.plus_ms(CONTACT_TIMEOUT_MS), "node {at} counted on what it did not hear");
    assert!(until < told, "node {at} was replaced {} ms before it knew", until.since_ms(told));
    let took_ms = told.since_ms(begun);
    assert!(took_ms <= SESSION_TIMEOUT_MS + TICK_MS, "node {at} was told to be silent after {took_ms} ms");
    assert!((0..3).filter(|other| *other != at).all(|other| has_contact(&cluster, other)));
    cluster.heal();
    cluster.pass_ms(1_000);
    assert!((0..3).all(|at| has_contact(&cluster, at)), "contact returns");
}

#[test]
fn a_node_that_is_cut_off_knows_before_it_is_replaced() {
    for at in 0..3 {
        check_silence(at, |cluster| cluster.isolate(at));
    }
}

#[test]
fn a_node_that_is_not_heard_knows_before_it_is_replaced() {
    for at in [1, 2] {
        check_silence(at, |cluster| {
            for other in (0..3).filter(|other| *other != at) {
                cluster.cut.insert((at, other));
            }
        });
    }
}

#[test]
fn a_leader_that_falls_silent_is_told_before_others_would_be() {
    let mut cluster = in_service();
    let begun = cluster.now;
    cluster.isolate(0);
    let took_ms = told_silent_at(&mut cluster, 0).since_ms(begun);
    // An election, and the time that the one before has left.
    let most_ms = 700 + FORMER_LEADER_MS + 2 * TICK_MS;
    assert!((CONTACT_TIMEOUT_MS - TICK_MS..=most_ms).contains(&took_ms), "{took_ms} ms");
}

#[test]
fn an_answer_that_was_slept_through_counts_from_its_question() {
    for asleep in [0, 1] {
        let mut cluster = in_service();
        // Its question is out, and the answer lies in its sockets when the process falls asleep.
        cluster.now = cluster.now.plus_ms(CONTACT_INTERVAL_MS);
        cluster.turn(asleep);
        let asked = std::mem::take(&mut *cluster.wires.lock());
        for (from, to, message) in asked {
            cluster.carry(from, to, &message);
        }
        for at in (0..3).filter(|at| *at != asleep) {
            cluster.turn(at);
        }
        cluster.now = cluster.now.plus_ms(10_000);
        let answers = std::mem::take(&mut *cluster.wires.lock());
        for (from, to, message) in answers {
            cluster.carry(from, to, &message);
            cluster.turn(asleep);
            assert!(
                !has_contact(&cluster, asleep),
                "it has slept, and does not know for how long others waited"
            );
        }
        cluster.pass_ms(1_000);
        assert!(has_contact(&cluster, asleep), "contact returns");
    }
}

#[test]
fn a_node_that_decides_alone_needs_nobody() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    disk.create_dir_all(Path::new("/data")).unwrap();
    let config = RaftConfig::new(node(0), vec![node(0)], 1);
    let wire = Wire { from: 0, wires: Wires::default(), full_queues: Arc::default() };
    let alone = RaftNode::open(config, disk, Path::new(DIR), Box::new(wire), Box::new(Ignored)).unwrap();
    assert_eq!(alone.contact_until(), MonotonicMs(u64::MAX));
}
