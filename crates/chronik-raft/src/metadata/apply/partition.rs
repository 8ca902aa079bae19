//! Partitions: assignment, leader, in-sync replicas.
//!
//! | command | leader | ISR | leader epoch | partition epoch |
//! |---|---|---|---|---|
//! | `AssignPartition` | none | empty | −1 | 0 |
//! | `SetPartitionLeader` in the ISR | as told | same | +1 | +1 |
//! | `SetPartitionLeader`, ISR empty or `unclean` | as told | the leader alone | +1 | +1 |
//! | `SetPartitionLeader` in the ELR | as told | the leader alone, the others in the ELR | +1 | +1 |
//! | `SetPartitionLeader` to none | none | same | +1 | +1 |
//! | `UpdateIsr` | same | as told | same | +1 |
//!
//! An election outside the ISR and the ELR begins a recovery (KIP-704), and so does the return of a last known leader that
//! may have lost records; an `UpdateIsr` of the leader ends it.
//!
//! A command that would leave everything as it is changes no epoch either.

use std::collections::BTreeSet;
use std::sync::Arc;

use chronik_types::{LeaderEpoch, NodeId, PartitionEpoch, PartitionIndex, TopicId};

use super::{CommandOutput, Draft};
use crate::metadata::command::{AssignPartition, SetPartitionLeader, UpdateIsr};
use crate::metadata::error::CommandError;
use crate::metadata::image::PartitionImage;

impl Draft<'_> {
    pub(super) fn assign_partition(
        &mut self,
        command: &AssignPartition,
    ) -> Result<CommandOutput, CommandError> {
        let replicas: Arc<[NodeId]> = command.replicas.iter().copied().map(NodeId).collect();
        let distinct = no_node_twice(&replicas);
        if replicas.is_empty() || !distinct || replicas.iter().any(|node| node.get() < 0) {
            return Err(CommandError::InvalidReplicas { replicas: command.replicas.clone() });
        }
        for node in replicas.iter() {
            if self.next.brokers.get(node).is_none() {
                return Err(CommandError::UnknownBroker { node: *node });
            }
        }
        let partition = PartitionIndex(command.partition);
        let topic = self.topic_mut(command.topic_id())?;
        let next = topic.next_partition();
        if partition < next {
            return Err(CommandError::PartitionAssigned { topic: topic.name.to_string(), partition });
        }
        if next < partition {
            return Err(CommandError::PartitionGap { topic: topic.name.to_string(), partition, next });
        }
        topic.partitions.push_back_mut(Arc::new(PartitionImage {
            replicas,
            isr: Arc::new([]),
            elr: Arc::new([]),
            leader: None,
            is_recovering: false,
            leader_epoch: LeaderEpoch::NONE,
            partition_epoch: PartitionEpoch(0),
        }));
        self.touched.partitions.insert((command.topic_id(), partition));
        Ok(CommandOutput::Done)
    }

    pub(super) fn set_partition_leader(
        &mut self,
        command: &SetPartitionLeader,
    ) -> Result<CommandOutput, CommandError> {
        let (topic_id, index) = (command.topic_id(), PartitionIndex(command.partition));
        self.change_partition(topic_id, index, command.partition_epoch, |topic, partition| {
            let leader = command.leader.map(NodeId);
            if leader == partition.leader && !command.always_new_epoch {
                return Ok(false);
            }
            if let Some(leader) = leader
                && !partition.isr.contains(&leader)
            {
                if !partition.replicas.contains(&leader) {
                    return Err(CommandError::NotReplica {
                        topic: topic.to_owned(),
                        partition: index,
                        node: leader,
                    });
                }
                let is_eligible = partition.elr.contains(&leader);
                if !partition.isr.is_empty() && !command.unclean && !is_eligible {
                    return Err(CommandError::LeaderNotInSync {
                        topic: topic.to_owned(),
                        partition: index,
                        leader,
                        isr: partition.isr.to_vec(),
                    });
                }
                let holds = |node: &NodeId| partition.isr.contains(node) || partition.elr.contains(node);
                partition.is_recovering |= !partition.isr.is_empty() && !is_eligible;
                partition.elr = if is_eligible {
                    partition.replicas.iter().copied().filter(|node| *node != leader && holds(node)).collect()
                } else {
                    Arc::new([])
                };
                partition.isr = Arc::new([leader]);
            }
            partition.leader = leader;
            let leader_epoch = partition.leader_epoch.get().checked_add(1);
            partition.leader_epoch =
                LeaderEpoch(leader_epoch.ok_or_else(|| CommandError::EpochExhausted {
                    topic: topic.to_owned(),
                    partition: index,
                })?);
            Ok(true)
        })
    }

    pub(super) fn update_isr(&mut self, command: &UpdateIsr) -> Result<CommandOutput, CommandError> {
        let (topic_id, index) = (command.topic_id(), PartitionIndex(command.partition));
        let ineligible = command.eligibility().find_map(|(node, epoch)| {
            let broker = self.next.brokers.get(&node).filter(|broker| broker.is_active());
            let is_eligible = broker.is_some_and(|broker| epoch.is_none_or(|epoch| epoch == broker.epoch));
            (!is_eligible).then_some(node)
        });
        self.change_partition(topic_id, index, command.partition_epoch, |topic, partition| {
            if let Some(node) = ineligible {
                let topic = topic.to_owned();
                return Err(CommandError::IneligibleReplica { topic, partition: index, node });
            }
            let current = partition.leader_epoch.get();
            if let Some(proposed) = command.leader_epoch
                && proposed != current
            {
                let topic = topic.to_owned();
                return Err(CommandError::StaleLeaderEpoch { topic, partition: index, proposed, current });
            }
            let isr: Vec<NodeId> = command.isr.iter().copied().map(NodeId).collect();
            if let Some(node) = isr.iter().find(|node| !partition.replicas.contains(node)) {
                let topic = topic.to_owned();
                return Err(CommandError::NotReplica { topic, partition: index, node: *node });
            }
            if isr.is_empty() || !no_node_twice(&isr) {
                let topic = topic.to_owned();
                return Err(CommandError::InvalidIsr { topic, partition: index, isr: command.isr.clone() });
            }
            if let Some(leader) = partition.leader.filter(|leader| !isr.contains(leader)) {
                let topic = topic.to_owned();
                return Err(CommandError::LeaderNotInSync { topic, partition: index, leader, isr });
            }
            let elr: Vec<NodeId> = command.elr.iter().copied().map(NodeId).collect();
            if let Some(node) = elr.iter().find(|node| !partition.replicas.contains(node)) {
                let topic = topic.to_owned();
                return Err(CommandError::NotReplica { topic, partition: index, node: *node });
            }
            if !no_node_twice(&elr) || elr.iter().any(|node| isr.contains(node)) {
                let topic = topic.to_owned();
                return Err(CommandError::InvalidIsr { topic, partition: index, isr: command.isr.clone() });
            }
            let is_recovering = partition.is_recovering && !command.has_recovered;
            if is_recovering && isr.len() > 1 {
                let topic = topic.to_owned();
                return Err(CommandError::InvalidIsr { topic, partition: index, isr: command.isr.clone() });
            }
            if *partition.isr == *isr && *partition.elr == *elr && partition.is_recovering == is_recovering {
                return Ok(false);
            }
            partition.is_recovering = is_recovering;
            partition.elr = elr.into();
            // Usually all replicas are in sync, and one list in memory serves for both.
            partition.isr =
                if *partition.replicas == *isr { Arc::clone(&partition.replicas) } else { isr.into() };
            Ok(true)
        })
    }

    /// Takes a broker that may have lost records out of every ISR and ELR, and from every lead (KIP-966). Where it is the
    /// last that is known to have had everything, it stays: it is the last known leader, and there is nobody better.
    pub(super) fn lose_records_of(&mut self, node: NodeId) -> Result<(), CommandError> {
        let is_concerned =
            |state: &Arc<PartitionImage>| state.isr.contains(&node) || state.elr.contains(&node);
        let concerned: Vec<(TopicId, Vec<PartitionIndex>)> = self
            .base
            .topics()
            .map(|topic| {
                let partitions = topic.partitions().filter(|(_, state)| is_concerned(state));
                (topic.id, partitions.map(|(index, _)| index).collect::<Vec<_>>())
            })
            .filter(|(_, partitions)| !partitions.is_empty())
            .collect();
        for (topic_id, partitions) in concerned {
            for index in partitions {
                self.change_partition(topic_id, index, None, |topic, partition| {
                    lose_replica(partition, node).ok_or_else(|| CommandError::EpochExhausted {
                        topic: topic.to_owned(),
                        partition: index,
                    })
                })?;
            }
        }
        Ok(())
    }

    /// Runs `change` on a partition at the partition epoch meant, and counts it where it changed something.
    fn change_partition(
        &mut self,
        topic_id: TopicId,
        index: PartitionIndex,
        expected_epoch: Option<i32>,
        change: impl FnOnce(&str, &mut PartitionImage) -> Result<bool, CommandError>,
    ) -> Result<CommandOutput, CommandError> {
        let topic = self.topic_mut(topic_id)?;
        let name = Arc::clone(&topic.name);
        let slot = usize::try_from(index.get()).ok().and_then(|place| topic.partitions.get_mut(place));
        let slot =
            slot.ok_or_else(|| CommandError::UnknownPartition { topic: name.to_string(), partition: index })?;
        let current = slot.partition_epoch.get();
        if let Some(proposed) = expected_epoch
            && proposed != current
        {
            let topic = name.to_string();
            return Err(CommandError::StalePartitionEpoch { topic, partition: index, proposed, current });
        }
        let partition = Arc::make_mut(slot);
        if change(&name, partition)? {
            // META-2.
            partition.partition_epoch =
                PartitionEpoch(current.checked_add(1).ok_or_else(|| CommandError::EpochExhausted {
                    topic: name.to_string(),
                    partition: index,
                })?);
            self.touched.partitions.insert((topic_id, index));
        }
        Ok(CommandOutput::Done)
    }
}

/// Whether that changes anything; `None` where the partition has run out of leader epochs.
fn lose_replica(partition: &mut PartitionImage, node: NodeId) -> Option<bool> {
    let others = |nodes: &[NodeId]| -> Arc<[NodeId]> {
        nodes.iter().copied().filter(|other| *other != node).collect()
    };
    let mut changed = partition.elr.contains(&node);
    partition.elr = others(&partition.elr);
    if partition.isr.contains(&node) {
        let in_sync = others(&partition.isr);
        if !in_sync.is_empty() {
            partition.isr = in_sync;
            changed = true;
        } else if !partition.elr.is_empty() {
            // They hold what it held, and one of them leads as soon as it is in service.
            partition.isr = std::mem::replace(&mut partition.elr, Arc::new([]));
            partition.is_recovering = false;
            changed = true;
        } else {
            changed |= !partition.is_recovering;
            partition.is_recovering = true;
        }
    }
    if partition.leader == Some(node) {
        // Also where it stays: what it writes from now on is another epoch's.
        partition.leader = None;
        partition.leader_epoch = LeaderEpoch(partition.leader_epoch.get().checked_add(1)?);
        changed = true;
    }
    Some(changed)
}

/// Lists of replicas are short, and a set is cheap enough for those that are not.
fn no_node_twice(nodes: &[NodeId]) -> bool {
    nodes.iter().collect::<BTreeSet<_>>().len() == nodes.len()
}
