//! What the leader of the metadata log sees to once it leads.
//!
//! | state | what happens | next |
//! |---|---|---|
//! | any | a new term has its first entry applied, and this node leads it | waiting |
//! | any | the same, and another node leads | done |
//! | waiting | all listed nodes are in service, or have had their time, or nothing is unassigned | proposing |
//! | proposing | all topics are assigned | done |
//! | proposing | a proposal fails | waiting, for a moment |
//! | done | the first topic is gone | waiting |
//!
//! Placement is decided here and proposed; the state machine refuses what another leader has assigned meanwhile, so
//! that nothing is assigned twice (META-4).

use std::sync::Arc;

use chronik_raft::metadata::{Command, CommandBatch, CreateTopic, MetadataImage, TopicImage};
use chronik_types::{MonotonicMs, NodeId, Now, Term};
use parking_lot::Mutex;

use crate::broker::Broker;

use super::META_TOPIC;
use super::log_lines::list;
use super::placement::place;
use super::topic_creation::assignment_commands;

/// How long a new leader waits for the listed nodes to be in service before it places topics on those that are, in
/// milliseconds. Nodes that are started together take a fraction of it.
const NODES_AWAITED_MS: u64 = 3_000;

/// How often it looks, in milliseconds.
const CHECK_MS: u64 = 50;

/// The state of the leader's duties.
#[derive(Debug, Default)]
pub(crate) struct Duties(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The newest term that has been seen to.
    term: Term,
    phase: Phase,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Done,
    Waiting {
        until: MonotonicMs,
    },
    Proposing {
        remaining_count: usize,
        has_failed: bool,
    },
}

impl Broker {
    /// Whether this node is one of several.
    pub(crate) fn is_in_cluster(&self) -> bool {
        !self.config.cluster_nodes.is_empty()
    }

    /// Whether the cluster has begun: its first topic is assigned. A single node has none and is ready at once.
    pub fn is_initialized(&self) -> bool {
        let image = self.metadata.image();
        !self.is_in_cluster() || image.topic(META_TOPIC).is_some_and(|topic| topic.partition_count() > 0)
    }

    /// Does what is due of the controller's duties, and says when to look again unless the metadata changes before.
    pub fn run_controller(self: &Arc<Self>, now: Now) -> Option<MonotonicMs> {
        if !self.is_in_cluster() {
            return None;
        }
        let minded = self.mind_registration(now, &self.metadata.image());
        let initialized = self.initialize(now);
        let overseen = self.oversee(now);
        [minded, initialized, overseen].into_iter().flatten().min()
    }

    fn initialize(self: &Arc<Self>, now: Now) -> Option<MonotonicMs> {
        let (quorum, image) = (self.metadata.quorum(), self.metadata.image());
        let soon = Some(now.monotonic.plus_ms(CHECK_MS));
        if quorum.term < image.applied_term()
            || quorum.leader.is_none() && quorum.term == image.applied_term()
        {
            // What is known of the quorum is told a moment after the entries.
            return soon;
        }
        if image.applied_term() < quorum.term {
            // The first entry of the term comes, and wakes this.
            return None;
        }
        let mut state = self.duties.0.lock();
        if state.term != quorum.term {
            state.term = quorum.term;
            if quorum.is_leader {
                tracing::info!(
                    "This node is Raft leader - initializing partition metadata for existing topics"
                );
                state.phase = Phase::Waiting { until: now.monotonic.plus_ms(NODES_AWAITED_MS) };
            } else {
                tracing::info!(
                    "✓ Skipping metadata initialization - this node is a Raft follower (will receive metadata via \
                     Raft replication)"
                );
                state.phase = Phase::Done;
            }
        }
        if !quorum.is_leader {
            return None;
        }
        let is_meta_missing = image.topic(META_TOPIC).is_none();
        if is_meta_missing && matches!(state.phase, Phase::Done) {
            // Somebody has deleted it, and nodes that start wait for it.
            state.phase = Phase::Waiting { until: now.monotonic };
        }
        let Phase::Waiting { until } = state.phase else { return None };
        let unassigned = unassigned(&image);
        let live: Vec<NodeId> = image.live_brokers().map(|broker| broker.id).collect();
        let are_missing = self.config.cluster_nodes.iter().any(|node| !live.contains(&node.id));
        let has_work = is_meta_missing || !unassigned.is_empty();
        if live.is_empty() || image.cluster_id().is_none() || has_work && are_missing && now.monotonic < until
        {
            return soon;
        }
        tracing::info!("Cluster mode enabled - performing initial partition assignment");
        tracing::info!("Starting partition assignment for existing topics");
        tracing::info!("Cluster nodes: {}", list(&live));
        tracing::info!("Found {} topics to assign", unassigned.len() + usize::from(is_meta_missing));
        let mut batches = Vec::new();
        if is_meta_missing {
            batches.extend(self.plan_meta(&image));
        }
        batches.extend(unassigned.iter().filter_map(|topic| plan_assignment(&image, topic)));
        if batches.is_empty() {
            tracing::info!("Partition assignment complete");
            state.phase = Phase::Done;
            return None;
        }
        state.phase = Phase::Proposing { remaining_count: batches.len(), has_failed: false };
        let term = state.term;
        drop(state);
        for batch in batches {
            let broker = Arc::clone(self);
            self.metadata.propose_as_leader(
                term,
                batch,
                Box::new(move |outcome| {
                    if let Err(error) = &outcome {
                        tracing::debug!("A topic was not assigned: {error}");
                    }
                    broker.assigned(term, outcome.is_err());
                }),
            );
        }
        soon
    }

    /// One topic of the initialization has been assigned, or not.
    fn assigned(&self, term: Term, failed: bool) {
        let mut state = self.duties.0.lock();
        if state.term != term {
            return;
        }
        let Phase::Proposing { remaining_count, has_failed } = &mut state.phase else { return };
        *remaining_count = remaining_count.saturating_sub(1);
        *has_failed |= failed;
        if 0 < *remaining_count {
            return;
        }
        if *has_failed {
            state.phase = Phase::Waiting { until: MonotonicMs(0) };
        } else {
            tracing::info!("Partition assignment complete");
            state.phase = Phase::Done;
        }
    }

    /// The first topic: one partition, on as many nodes as topics usually have replicas.
    fn plan_meta(&self, image: &MetadataImage) -> Option<CommandBatch> {
        let factor = self.default_replication_factor(image);
        let topic_id = self.random.uuid();
        let replicas = place(image, 0, 1, factor).ok()?;
        let factor = i32::try_from(factor).unwrap_or(i32::MAX);
        let mut commands: Vec<Command> = vec![CreateTopic::new(META_TOPIC, topic_id, 1, factor).into()];
        commands.extend(assignment_commands(topic_id, 0, &replicas));
        tell_proposed(META_TOPIC, &replicas);
        Some(CommandBatch::new(commands))
    }
}

/// Topics that exist and have no partitions yet.
fn unassigned(image: &MetadataImage) -> Vec<Arc<TopicImage>> {
    image.topics().filter(|topic| topic.partition_count() == 0).cloned().collect()
}

fn plan_assignment(image: &MetadataImage, topic: &TopicImage) -> Option<CommandBatch> {
    let live_count = i32::try_from(image.live_brokers().count()).unwrap_or(i32::MAX);
    let factor = topic.requested_replication_factor.clamp(1, live_count.max(1));
    let count = topic.requested_partition_count.max(1);
    let replicas = place(image, 0, count, usize::try_from(factor).unwrap_or(1)).ok()?;
    tell_proposed(&topic.name, &replicas);
    Some(CommandBatch::new(assignment_commands(topic.id, 0, &replicas)))
}

fn tell_proposed(topic: &str, replicas: &[Vec<NodeId>]) {
    for (index, nodes) in replicas.iter().enumerate() {
        let leader = nodes.first().map_or(-1, |node| node.get());
        let nodes = list(nodes);
        tracing::info!(
            "✓ Proposed Raft metadata for {topic}-{index}: replicas={nodes}, leader={leader}, ISR={nodes}"
        );
    }
}
