//! Elections that an operator orders (KIP-183, KIP-460).

use std::collections::BTreeSet;

use chronik_raft::metadata::{Command, MetadataImage, PartitionImage, SetPartitionLeader};
use chronik_types::{ErrorCode, NodeId, PartitionIndex, TopicId};
use thiserror::Error;

/// What kind of leader is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ElectionType {
    /// The first replica, if it is in sync.
    Preferred,
    /// Any replica in service for a partition that has no leader, in sync if there is one.
    Unclean,
}

impl ElectionType {
    /// The type by Kafka's number.
    pub(crate) fn from_kafka(number: i8) -> Option<Self> {
        match number {
            0 => Some(Self::Preferred),
            1 => Some(Self::Unclean),
            _ => None,
        }
    }
}

/// Why a partition gets no new leader.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum ElectionError {
    /// There is no such topic.
    #[error("No such topic as {topic}")]
    UnknownTopic {
        /// Its name.
        topic: String,
    },
    /// There is no such partition.
    #[error("No such partition as {topic}-{partition}")]
    UnknownPartition {
        /// The topic's name.
        topic: String,
        /// The partition's number.
        partition: PartitionIndex,
    },
    /// It has the leader that is wanted.
    #[error("Leader election not needed for topic partition.")]
    NotNeeded,
    /// The preferred replica is not in service, or not in sync.
    #[error("The preferred leader was not available.")]
    PreferredLeaderNotAvailable,
    /// No replica is in service.
    #[error("Eligible topic partition leaders are not available.")]
    EligibleLeadersNotAvailable,
}

impl ElectionError {
    /// What clients are told.
    pub(crate) fn error_code(&self) -> ErrorCode {
        match self {
            Self::UnknownTopic { .. } | Self::UnknownPartition { .. } => ErrorCode::UnknownTopicOrPartition,
            Self::NotNeeded => ErrorCode::ElectionNotNeeded,
            Self::PreferredLeaderNotAvailable => ErrorCode::PreferredLeaderNotAvailable,
            Self::EligibleLeadersNotAvailable => ErrorCode::EligibleLeadersNotAvailable,
        }
    }
}

/// The elections of one request, planned on one image.
pub(crate) struct OrderedElections<'a> {
    image: &'a MetadataImage,
    election: ElectionType,
    active: BTreeSet<NodeId>,
    /// A partition that is named twice is elected once, and both are told so.
    planned: BTreeSet<(TopicId, PartitionIndex)>,
    commands: Vec<Command>,
}

impl<'a> OrderedElections<'a> {
    /// No elections yet.
    pub(crate) fn new(image: &'a MetadataImage, election: ElectionType) -> Self {
        let active = image.active_brokers().map(|broker| broker.id).collect();
        Self { image, election, active, planned: BTreeSet::new(), commands: Vec::new() }
    }

    /// Plans the election of one partition.
    pub(crate) fn elect(&mut self, topic: &str, index: PartitionIndex) -> Result<(), ElectionError> {
        let found = self.image.topic(topic);
        let found = found.ok_or_else(|| ElectionError::UnknownTopic { topic: topic.to_owned() })?;
        let state = found
            .partition(index)
            .ok_or_else(|| ElectionError::UnknownPartition { topic: topic.to_owned(), partition: index })?;
        let (leader, is_unclean) = self.leader_of(state)?;
        if self.planned.insert((found.id, index)) {
            let mut command = SetPartitionLeader::new(found.id, index, Some(leader));
            command.partition_epoch = Some(state.partition_epoch.get());
            command.unclean = is_unclean;
            self.commands.push(command.into());
        }
        Ok(())
    }

    /// What is to be proposed.
    pub(crate) fn into_commands(self) -> Vec<Command> {
        self.commands
    }

    /// Who is to lead, and whether it is not in sync.
    fn leader_of(&self, state: &PartitionImage) -> Result<(NodeId, bool), ElectionError> {
        let in_sync = |node: &NodeId| self.active.contains(node) && state.isr.contains(node);
        let eligible = |node: &NodeId| self.active.contains(node) && state.elr.contains(node);
        let clean = || {
            let mut replicas = state.replicas.iter().copied();
            replicas.clone().find(in_sync).or_else(|| replicas.find(eligible))
        };
        match self.election {
            ElectionType::Preferred => {
                let preferred = state.replicas.first().copied();
                if state.leader.is_some() && state.leader == preferred {
                    return Err(ElectionError::NotNeeded);
                }
                // Without a leader any is better than none.
                let elected =
                    preferred.filter(in_sync).or_else(|| if state.leader.is_none() { clean() } else { None });
                elected.map(|leader| (leader, false)).ok_or(ElectionError::PreferredLeaderNotAvailable)
            }
            ElectionType::Unclean => {
                if state.leader.is_some() {
                    return Err(ElectionError::NotNeeded);
                }
                let any = || state.replicas.iter().copied().find(|node| self.active.contains(node));
                clean()
                    .map(|leader| (leader, false))
                    .or_else(|| any().map(|leader| (leader, true)))
                    .ok_or(ElectionError::EligibleLeadersNotAvailable)
            }
        }
    }
}
