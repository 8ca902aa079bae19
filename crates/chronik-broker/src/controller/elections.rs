//! Who leads when brokers come and go.
//!
//! A leader is taken from the ISR, or from the ELR (KIP-966), so that nothing that was committed is lost. A broker that leaves service leaves the ISR, unless it is the last one there: then the partition waits
//! for it without a leader, because it alone is known to have everything.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_raft::metadata::{Command, MetadataImage, PartitionImage, SetPartitionLeader, UpdateIsr};
use chronik_types::{NodeId, PartitionEpoch, PartitionIndex, TopicId};

/// The most partitions that one proposal changes. What is left is seen to by the next.
const PARTITIONS_PER_PROPOSAL_MAX: usize = 20_000;

/// What the configs of a topic say about its leaders.
#[derive(Clone, Copy, Debug)]
pub(super) struct TopicRules {
    /// `unclean.leader.election.enable`.
    pub(super) is_unclean_allowed: bool,
    /// `min.insync.replicas`.
    pub(super) min_insync: usize,
}

/// Brokers that are about to leave, whatever the image says.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Out of service from now on.
    pub(super) fenced: BTreeSet<NodeId>,
    /// About to stop: each goes on with what nobody else can lead.
    pub(super) stopping: BTreeSet<NodeId>,
}

/// Who can be elected, and who goes on leading.
struct Candidates {
    active: BTreeSet<NodeId>,
    stopping: BTreeSet<NodeId>,
}

impl Candidates {
    fn of(image: &MetadataImage, leaving: &Leaving) -> Self {
        let (mut active, mut stopping) = (BTreeSet::new(), BTreeSet::new());
        for broker in image.live_brokers().filter(|broker| !leaving.fenced.contains(&broker.id)) {
            let is_active = broker.is_active() && !leaving.stopping.contains(&broker.id);
            if is_active { &mut active } else { &mut stopping }.insert(broker.id);
        }
        Self { active, stopping }
    }
}

/// The commands that give partitions leaders that are in service and stay there, and take out of ISRs those that do not.
/// A leader comes from the ISR, or else from the ELR; topics whose rules allow it may be led by another replica when none of
/// those is in service.
pub(super) fn elections(
    image: &MetadataImage,
    leaving: &Leaving,
    rules_of: &dyn Fn(&Arc<str>) -> TopicRules,
) -> Vec<Command> {
    let candidates = Candidates::of(image, leaving);
    let mut commands = Vec::new();
    let mut changed_count = 0;
    for topic in image.topics() {
        let rules = rules_of(&topic.name);
        for (index, state) in topic.partitions() {
            let before = commands.len();
            elect(&candidates, rules, (topic.id, index), state, &mut commands);
            if commands.len() > before {
                changed_count += 1;
                if changed_count == PARTITIONS_PER_PROPOSAL_MAX {
                    return commands;
                }
            }
        }
    }
    commands
}

fn elect(
    candidates: &Candidates,
    rules: TopicRules,
    (topic_id, index): (TopicId, PartitionIndex),
    state: &PartitionImage,
    commands: &mut Vec<Command>,
) {
    if state.isr.is_empty() {
        // It was assigned and not initialized yet; that is not for an election to do.
        return;
    }
    let live = &candidates.active;
    let mut epoch = state.partition_epoch;
    let in_service: Vec<NodeId> = state.isr.iter().copied().filter(|node| live.contains(node)).collect();
    let leads = state.leader.is_some_and(|leader| live.contains(&leader));
    if !leads {
        // In the order of the replicas, so that the preferred leader comes first.
        let clean = state.replicas.iter().copied().find(|node| in_service.contains(node));
        let of_elr = |node: &NodeId| state.elr.contains(node) && live.contains(node);
        let clean = clean.or_else(|| state.replicas.iter().copied().find(of_elr));
        let unclean =
            || state.replicas.iter().copied().find(|node| rules.is_unclean_allowed && live.contains(node));
        // One that is about to stop serves until the end what nobody else has in sync.
        let staying = || state.leader.filter(|leader| candidates.stopping.contains(leader));
        let candidate = clean.or_else(staying).or_else(unclean);
        if candidate != state.leader {
            let mut command = SetPartitionLeader::new(topic_id, index, candidate);
            // Whoever is elected so is all of the ISR then, and records that only others had are lost.
            command.unclean = clean.is_none() && candidate.is_some();
            command.partition_epoch = Some(epoch.get());
            commands.push(command.into());
            epoch = PartitionEpoch(epoch.get().saturating_add(1));
        }
    }
    if !in_service.is_empty() && in_service.len() < state.isr.len() {
        // Whoever was put into the ISR or taken out of it meanwhile must not be forgotten, so that the proposal meets
        // the state that it was planned on or is planned again; and nobody in it may have been fenced meanwhile.
        let elr = state.elr_after(&in_service, rules.min_insync);
        let command = UpdateIsr::new(topic_id, index, &in_service, Some(epoch)).with_elr(&elr);
        commands.push(command.with_broker_epochs(in_service.iter().map(|_| None)).into());
    }
}

/// The commands that give partitions back to their preferred leaders, where those are in sync and in service, and
/// `may_return`.
pub(super) fn preferred_elections(
    image: &MetadataImage,
    may_return: &dyn Fn(NodeId) -> bool,
) -> Vec<Command> {
    let live: BTreeSet<NodeId> =
        image.active_brokers().map(|broker| broker.id).filter(|node| may_return(*node)).collect();
    let mut commands = Vec::new();
    for topic in image.topics() {
        for (index, state) in topic.partitions() {
            let Some(preferred) = state.replicas.first().copied() else { continue };
            let may_lead = live.contains(&preferred) && state.isr.contains(&preferred);
            if state.leader.is_some_and(|leader| leader != preferred) && may_lead {
                let mut command = SetPartitionLeader::new(topic.id, index, Some(preferred));
                command.partition_epoch = Some(state.partition_epoch.get());
                commands.push(command.into());
                if commands.len() == PARTITIONS_PER_PROPOSAL_MAX {
                    return commands;
                }
            }
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use chronik_raft::metadata::{
        AssignPartition, BeginControlledShutdown, CommandBatch, CreateTopic, Endpoint, FenceBroker,
        RegisterBroker, UnfenceBroker,
    };
    use chronik_raft::{InMemoryMetadata, MetadataLog as _};

    use super::*;

    const TOPIC: TopicId = TopicId(7);
    const CLEAN: TopicRules = TopicRules { is_unclean_allowed: false, min_insync: 1 };
    const UNCLEAN: TopicRules = TopicRules { is_unclean_allowed: true, min_insync: 1 };
    const TWO: TopicRules = TopicRules { is_unclean_allowed: false, min_insync: 2 };

    struct World(InMemoryMetadata);

    impl World {
        /// Three brokers, and a topic of three partitions as the round robin places them.
        fn new() -> Self {
            let world = Self(InMemoryMetadata::new(NodeId(1)));
            for id in 1..=3 {
                let endpoint = Endpoint {
                    listener: "PLAINTEXT".to_owned(),
                    host: "h".to_owned(),
                    port: 1,
                    security_protocol: 0,
                };
                world.apply(vec![
                    RegisterBroker::new(NodeId(id), 1, vec![endpoint]).into(),
                    UnfenceBroker::new(NodeId(id), None).into(),
                ]);
            }
            let mut commands: Vec<Command> = vec![CreateTopic::new("t".to_owned(), TOPIC, 3, 3).into()];
            for (index, nodes) in [[1, 2, 3], [2, 3, 1], [3, 1, 2]].into_iter().enumerate() {
                let index = PartitionIndex(i32::try_from(index).unwrap());
                let nodes = nodes.map(NodeId);
                commands.push(AssignPartition::new(TOPIC, index, &nodes).into());
                commands.push(SetPartitionLeader::new(TOPIC, index, Some(nodes[0])).into());
                commands.push(UpdateIsr::new(TOPIC, index, &nodes, None).into());
            }
            world.apply(commands);
            world
        }

        fn apply(&self, commands: Vec<Command>) {
            if !commands.is_empty() {
                self.0.propose(
                    CommandBatch::new(commands),
                    Box::new(|outcome| assert!(outcome.is_ok(), "{outcome:?}")),
                );
            }
        }

        fn image(&self) -> Arc<MetadataImage> {
            self.0.image()
        }

        fn fence(&self, id: i32) {
            let mut commands = vec![FenceBroker::new(NodeId(id), None).into()];
            commands.extend(elections(
                &self.image(),
                &Leaving { fenced: BTreeSet::from([NodeId(id)]), ..Leaving::default() },
                &|_| CLEAN,
            ));
            self.apply(commands);
        }

        fn unfence(&self, id: i32) {
            self.apply(vec![UnfenceBroker::new(NodeId(id), None).into()]);
            self.apply(elections(&self.image(), &Leaving::default(), &|_| CLEAN));
        }

        /// Leader and ISR of each partition.
        fn state(&self) -> Vec<(Option<i32>, Vec<i32>)> {
            let image = self.image();
            let topic = image.topic_by_id(TOPIC).unwrap();
            topic
                .partitions()
                .map(|(_, state)| {
                    (state.leader.map(NodeId::get), state.isr.iter().map(|node| node.get()).collect())
                })
                .collect()
        }
    }

    #[test]
    fn a_dead_leader_is_replaced_from_the_isr_and_leaves_it() {
        let world = World::new();
        world.fence(1);
        assert_eq!(world.state(), [(Some(2), vec![2, 3]), (Some(2), vec![2, 3]), (Some(3), vec![3, 2])]);
        assert!(
            elections(&world.image(), &Leaving::default(), &|_| CLEAN).is_empty(),
            "there is nothing left to do"
        );
    }

    #[test]
    fn kip_966_below_the_minimum_those_who_leave_stay_eligible() {
        let world = World::new();
        let fence = |id: i32| {
            let leaving = Leaving { fenced: BTreeSet::from([NodeId(id)]), ..Leaving::default() };
            let mut commands = vec![FenceBroker::new(NodeId(id), None).into()];
            commands.extend(elections(&world.image(), &leaving, &|_| TWO));
            world.apply(commands);
        };
        let elr = || -> Vec<i32> {
            let image = world.image();
            let state = image.topic_by_id(TOPIC).unwrap().partition(PartitionIndex(0)).unwrap();
            state.elr.iter().map(|node| node.get()).collect()
        };
        fence(1);
        assert_eq!((world.state()[0].clone(), elr()), ((Some(2), vec![2, 3]), vec![]), "two are enough");
        fence(2);
        assert_eq!((world.state()[0].clone(), elr()), ((Some(3), vec![3]), vec![2]));
        fence(3);
        assert_eq!((world.state()[0].clone(), elr()), ((None, vec![3]), vec![2]));
        world.apply(vec![UnfenceBroker::new(NodeId(1), None).into()]);
        assert!(
            elections(&world.image(), &Leaving::default(), &|_| TWO).is_empty(),
            "broker 1 lacks records"
        );
        world.apply(vec![UnfenceBroker::new(NodeId(2), None).into()]);
        world.apply(elections(&world.image(), &Leaving::default(), &|_| TWO));
        assert_eq!((world.state()[0].clone(), elr()), ((Some(2), vec![2]), vec![3]));
    }

    #[test]
    fn the_last_in_sync_is_waited_for() {
        let world = World::new();
        world.fence(1);
        world.fence(2);
        world.fence(3);
        // Whoever was last is all that is known to have everything.
        assert_eq!(world.state(), [(None, vec![3]), (None, vec![3]), (None, vec![3])]);
        world.unfence(1);
        assert_eq!(world.state(), [(None, vec![3]), (None, vec![3]), (None, vec![3])]);
        world.unfence(3);
        assert_eq!(world.state(), [(Some(3), vec![3]), (Some(3), vec![3]), (Some(3), vec![3])]);
    }

    #[test]
    fn a_topic_that_prefers_to_be_served_is_led_by_whoever_is_there() {
        let world = World::new();
        world.fence(1);
        world.fence(2);
        world.fence(3);
        world.apply(vec![UnfenceBroker::new(NodeId(1), None).into()]);
        world.apply(elections(&world.image(), &Leaving::default(), &|_| UNCLEAN));
        assert_eq!(world.state(), [(Some(1), vec![1]), (Some(1), vec![1]), (Some(1), vec![1])]);
    }

    #[test]
    fn kip_841_a_broker_that_is_about_to_stop_hands_over_what_others_have_in_sync() {
        let world = World::new();
        let stopping = Leaving { stopping: BTreeSet::from([NodeId(1)]), ..Leaving::default() };
        let epoch = world.image().broker(NodeId(1)).unwrap().epoch;
        let mut commands = vec![BeginControlledShutdown::new(NodeId(1), epoch).into()];
        commands.extend(elections(&world.image(), &stopping, &|_| UNCLEAN));
        world.apply(commands);
        assert_eq!(world.state(), [(Some(2), vec![2, 3]), (Some(2), vec![2, 3]), (Some(3), vec![3, 2])]);
        assert!(elections(&world.image(), &Leaving::default(), &|_| UNCLEAN).is_empty());
        assert!(preferred_elections(&world.image(), &|_| true).is_empty(), "it is not given anything back");
    }

    #[test]
    fn a_broker_that_is_about_to_stop_goes_on_with_what_nobody_else_has_in_sync() {
        let world = World::new();
        world.fence(2);
        world.fence(3);
        let epoch = world.image().broker(NodeId(1)).unwrap().epoch;
        world.apply(vec![BeginControlledShutdown::new(NodeId(1), epoch).into()]);
        assert!(elections(&world.image(), &Leaving::default(), &|_| UNCLEAN).is_empty());
        world.fence(1);
        assert_eq!(world.state(), [(None, vec![1]), (None, vec![1]), (None, vec![1])]);
    }

    #[test]
    fn preferred_leaders_come_back_once_they_are_in_sync() {
        let world = World::new();
        world.fence(1);
        world.unfence(1);
        assert!(preferred_elections(&world.image(), &|_| true).is_empty(), "broker 1 is not in sync yet");
        world.apply(vec![UpdateIsr::new(TOPIC, PartitionIndex(0), &[1, 2, 3].map(NodeId), None).into()]);
        let commands = preferred_elections(&world.image(), &|_| true);
        assert_eq!(commands.len(), 1);
        world.apply(commands);
        assert_eq!(world.state()[0].0, Some(1));
        assert!(preferred_elections(&world.image(), &|_| true).is_empty());
    }
}
