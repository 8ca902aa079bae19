//! META-1 to META-3 and C8: what nodes see of partitions.

use std::sync::Arc;

use chronik_raft::metadata::{MetadataImage, PartitionImage};
use chronik_types::{PartitionIndex, TopicId};

use super::super::effects::{Life, node_id};
use super::{Checkers, Rule};

impl Checkers {
    pub(super) fn partition_image(
        &mut self,
        life: Life,
        image: &MetadataImage,
        (topic, index): (TopicId, PartitionIndex),
        state: &Arc<PartitionImage>,
    ) {
        let node = node_id(life.node);
        let partition_epoch = state.partition_epoch.get();
        let name =
            || image.topic_by_id(topic).map_or_else(|| topic.to_string(), |topic| topic.name.to_string());
        let known =
            self.partitions.entry((topic, index, partition_epoch)).or_insert_with(|| Arc::clone(state));
        if **known != **state {
            let text = format!(
                "{}-{index} in partition epoch {partition_epoch} is {state:?} at node {node}, and was {known:?}",
                name()
            );
            self.report(Rule::Images, text);
        }
        let what = if !state.isr.iter().all(|member| state.replicas.contains(member)) {
            Some("somebody is in sync who is no replica")
        } else if state.leader.is_some_and(|leader| !state.isr.contains(&leader) && !state.isr.is_empty()) {
            Some("the leader is not in sync")
        } else {
            None
        };
        if let Some(what) = what {
            self.report(Rule::Images, format!("{}-{index} at node {node}: {what}: {state:?}", name()));
        }
        let Some(leader) = state.leader else { return };
        let known = *self.leaders.entry((topic, index, state.leader_epoch)).or_insert(leader);
        if known != leader {
            let text = format!(
                "{}-{index} in leader epoch {} is led by {known} and by {leader}",
                name(),
                state.leader_epoch
            );
            self.report(Rule::OneLeader, text);
        }
    }
}
