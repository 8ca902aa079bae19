//! What the leader of the metadata log sees to: who is in service, and that what exists is assigned.

use chronik_raft::LivenessChange;
use chronik_raft::metadata::{CommandBatch, CreateTopic, DeleteTopic};
use chronik_types::Term;

use super::*;
use crate::config::ClusterNode;

/// Longer than a leader waits for nodes that are listed.
const LONG_MS: u64 = 3_000;

fn cluster() -> Fixture {
    let node = |id: i32| ClusterNode { id: NodeId(id), host: "h".to_owned(), raft_port: 1 };
    let config = BrokerConfig { cluster_nodes: [1, 2, 3].map(node).to_vec(), ..Default::default() };
    Fixture::with_config(config)
}

fn replicas(fixture: &Fixture, topic: &str) -> Vec<Vec<i32>> {
    let image = fixture.image();
    let found = image.topic(topic);
    let lists = found.into_iter().flat_map(|topic| topic.partitions());
    lists
        .map(|(_, partition)| {
            assert_eq!(partition.leader, partition.replicas.first().copied());
            assert_eq!(partition.isr, partition.replicas);
            partition.replicas.iter().map(|node| node.get()).collect()
        })
        .collect()
}

fn propose(fixture: &Fixture, batch: CommandBatch) {
    fixture.metadata.propose(batch, Box::new(|outcome| assert!(outcome.is_ok(), "{outcome:?}")));
}

#[test]
fn what_has_no_partitions_is_assigned_once_all_listed_nodes_are_there() {
    let fixture = cluster();
    propose(
        &fixture,
        CommandBatch::new(vec![CreateTopic::new("early", chronik_types::TopicId(9), 4, 9).into()]),
    );
    let again = fixture.broker.run_controller(fixture.clock.now());
    assert!(again.is_some(), "it looks again while nodes are missing");
    assert!(!fixture.broker.is_initialized());
    assert_eq!(replicas(&fixture, "__meta"), Vec::<Vec<i32>>::new());
    fixture.add_broker(2, false);
    fixture.add_broker(3, false);
    fixture.broker.run_controller(fixture.clock.now());
    assert!(fixture.broker.is_initialized());
    assert_eq!(replicas(&fixture, "__meta"), [[1, 2, 3]]);
    assert_eq!(replicas(&fixture, "early"), [[1, 2, 3], [2, 3, 1], [3, 1, 2], [1, 2, 3]]);
    let image = fixture.image();
    fixture.pass(10 * LONG_MS);
    assert_eq!(fixture.broker.run_controller(fixture.clock.now()), None, "there is nothing left to do");
    assert_eq!(fixture.image(), image, "and nothing is assigned twice");
}

#[test]
fn nodes_that_do_not_come_are_not_waited_for_long() {
    let fixture = cluster();
    fixture.add_broker(3, false);
    fixture.add_broker(2, true);
    fixture.broker.run_controller(fixture.clock.now());
    fixture.pass(LONG_MS - 1);
    fixture.broker.run_controller(fixture.clock.now());
    assert!(!fixture.broker.is_initialized());
    fixture.pass(1);
    fixture.broker.run_controller(fixture.clock.now());
    assert_eq!(replicas(&fixture, "__meta"), [[1, 3]]);
}

#[test]
fn the_first_topic_comes_again_when_it_is_deleted() {
    let fixture = cluster();
    for id in [2, 3] {
        fixture.add_broker(id, false);
    }
    fixture.broker.run_controller(fixture.clock.now());
    let first = fixture.image().topic("__meta").unwrap().id;
    propose(&fixture, CommandBatch::new(vec![DeleteTopic::new(first).into()]));
    fixture.broker.run_controller(fixture.clock.now());
    assert_eq!(replicas(&fixture, "__meta"), [[1, 2, 3]]);
    assert_ne!(fixture.image().topic("__meta").unwrap().id, first);
}

#[test]
fn brokers_are_fenced_and_unfenced_as_they_are_heard_of() {
    let fixture = cluster();
    fixture.add_broker(2, false);
    fixture.add_broker(3, true);
    let node = NodeId;
    let live = || fixture.image().live_brokers().map(|broker| broker.id.get()).collect::<Vec<_>>();
    assert_eq!(live(), [1, 2]);
    let heard = [LivenessChange::Gone { node: node(2) }, LivenessChange::Returned { node: node(3) }];
    let before = fixture.image().applied_index();
    fixture.broker.liveness_changed(Term(1), &heard);
    assert_eq!(live(), [1, 3]);
    assert_eq!(fixture.image().applied_index().get(), before.get() + 1, "it is one proposal");
    fixture.broker.liveness_changed(Term(1), &heard);
    assert_eq!(fixture.image().applied_index().get(), before.get() + 1, "what is so already is not proposed");
    fixture.broker.liveness_changed(Term(7), &[LivenessChange::Silent { node: node(3) }]);
    assert_eq!(live(), [1, 3], "what was heard in another term counts no more");
}

#[test]
fn a_single_node_has_no_such_duties() {
    let fixture = Fixture::new();
    assert!(fixture.broker.is_initialized());
    assert_eq!(fixture.broker.run_controller(fixture.clock.now()), None);
    assert!(fixture.image().topic("__meta").is_none());
}
