//! What the log says of partitions as they are assigned, in the words that people look for.
//!
//! Every node tells where each new partition is led from as it applies the assignment; the controller tells more.
//! What an earlier process of this node had in its log is not told again: an assignment stands in the log once, however
//! often it is replayed.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use chronik_raft::metadata::{Delta, MetadataImage, PartitionChange};
use chronik_types::{LogIndex, NodeId, Term};

use crate::broker::Broker;

/// A change with more new partitions than this tells the first of them one by one and the others by their number: a
/// thread that writes tens of thousands of lines does nothing else meanwhile.
const PARTITIONS_TOLD_MAX: usize = 256;

/// Tells assignments as they are applied.
#[derive(Debug, Default)]
pub(crate) struct AssignmentLines {
    /// The first change holds all that there was at start.
    has_started: AtomicBool,
    /// Where the log ended at start. Entries up to there were applied by an earlier process, or will have been told
    /// by it if the process died in the moment between.
    replayed_to: OnceLock<(LogIndex, Term)>,
}

impl AssignmentLines {
    /// Says where the log ended at start. Only the first call counts.
    pub(crate) fn set_replayed_to(&self, index: LogIndex, term: Term) {
        if self.replayed_to.set((index, term)).is_err() {
            tracing::debug!("where the log ended at start is known already");
        }
    }

    /// Whether the last entry of this image was in this node's log when the process started.
    pub(crate) fn is_replayed(&self, image: &MetadataImage) -> bool {
        let is_earlier = |(index, term): &(LogIndex, Term)| {
            image.applied_index() <= *index && image.applied_term() <= *term
        };
        self.replayed_to.get().is_some_and(is_earlier)
    }

    /// Tells what a change of the image assigns.
    pub(crate) fn tell(&self, broker: &Broker, image: &MetadataImage, delta: &Delta) {
        if !self.has_started.swap(true, Ordering::Relaxed) || !broker.is_in_cluster() {
            return;
        }
        if self.is_replayed(image) {
            return;
        }
        let is_new = |change: &&PartitionChange| change.old.is_none();
        let new: Vec<&PartitionChange> = delta.partitions_changed.iter().filter(is_new).collect();
        if new.is_empty() {
            return;
        }
        let is_controller = broker.metadata.is_leader();
        let mut told_count = 0;
        for partitions in new.chunk_by(|one, other| one.topic_id == other.topic_id) {
            let told_max = PARTITIONS_TOLD_MAX.saturating_sub(told_count).min(partitions.len());
            told_count += told_max;
            tell_topic(partitions, told_max, is_controller);
        }
    }
}

fn tell_topic(partitions: &[&PartitionChange], told_max: usize, is_controller: bool) {
    let Some(first) = partitions.first() else { return };
    let (topic, count) = (&*first.topic, partitions.len());
    let (told, others) = partitions.split_at(told_max);
    if is_controller {
        let factor = first.new.replicas.len();
        tracing::info!("Assigning topic '{topic}': {count} partitions, RF={factor}");
    }
    for change in told {
        if let Some(leader) = change.new.leader {
            tracing::info!("Assigned partition {topic}/{} to node {leader} (leader)", change.partition);
        }
    }
    if !others.is_empty() {
        tracing::info!("Assigned {} more partitions of topic '{topic}'", others.len());
    }
    if !is_controller {
        return;
    }
    tracing::info!("Successfully assigned {count} partitions for topic '{topic}'");
    for change in told {
        let state = &change.new;
        tracing::info!(
            "✓ Initialized Raft partition metadata for {topic}-{}: replicas={}, leader={}, ISR={}",
            change.partition,
            list(&state.replicas),
            state.leader.map_or(-1, NodeId::get),
            list(&state.isr),
        );
    }
    tracing::info!("✓ Completed Raft partition metadata initialization for topic '{topic}' (leader node)");
}

/// Nodes as `[1, 2, 3]`.
pub(super) fn list(nodes: &[NodeId]) -> String {
    let ids: Vec<String> = nodes.iter().map(ToString::to_string).collect();
    format!("[{}]", ids.join(", "))
}
