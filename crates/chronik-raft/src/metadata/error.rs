//! Why a command is refused, and what a node cannot apply at all.

use chronik_types::{ErrorCode, LogIndex, NodeId, PartitionIndex, TopicId, TopicNameError};
use thiserror::Error;

/// Why a command, and with it its batch, changes nothing. Every node comes to the same verdict.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CommandError {
    /// The topic's name is not legal.
    #[error("{0}")]
    InvalidTopicName(TopicNameError),
    /// The topic's name is in use.
    #[error("topic '{name}' already exists")]
    TopicExists {
        /// The name.
        name: String,
    },
    /// The topic's id is in use.
    #[error("topic id {topic_id} already exists")]
    TopicIdExists {
        /// The id.
        topic_id: TopicId,
    },
    /// There is no topic of this id.
    #[error("there is no topic with id {topic_id}")]
    UnknownTopicId {
        /// The id.
        topic_id: TopicId,
    },
    /// There is no topic of this name.
    #[error("there is no topic '{name}'")]
    UnknownTopic {
        /// The name.
        name: String,
    },
    /// The topic has no such partition.
    #[error("topic '{topic}' has no partition {partition}")]
    UnknownPartition {
        /// The topic's name.
        topic: String,
        /// The partition's number.
        partition: PartitionIndex,
    },
    /// META-4: the partition is assigned.
    #[error("partition {partition} of topic '{topic}' is already assigned")]
    PartitionAssigned {
        /// The topic's name.
        topic: String,
        /// The partition's number.
        partition: PartitionIndex,
    },
    /// Partitions before this one are missing.
    #[error("partition {partition} of topic '{topic}' cannot be assigned before partition {next}")]
    PartitionGap {
        /// The topic's name.
        topic: String,
        /// The partition's number.
        partition: PartitionIndex,
        /// The partition that comes next.
        next: PartitionIndex,
    },
    /// The replicas are none, or one of them twice, or an id that no node can have.
    #[error("{replicas:?} is no list of replicas: it needs at least one node, each once, with ids from 0")]
    InvalidReplicas {
        /// The list.
        replicas: Vec<i32>,
    },
    /// A replica is no registered broker.
    #[error("node {node} is not registered")]
    UnknownBroker {
        /// The node.
        node: NodeId,
    },
    /// The broker has registered anew since.
    #[error("the epoch of broker {node} is {current}, not {proposed}")]
    StaleBrokerEpoch {
        /// The broker.
        node: NodeId,
        /// The epoch that the command is for.
        proposed: i64,
        /// The epoch that the broker has.
        current: i64,
    },
    /// The registration does not say where the broker listens, or not in a way that clients can use.
    #[error("broker {node} cannot be registered: {reason}")]
    InvalidRegistration {
        /// The broker.
        node: NodeId,
        /// What is wrong.
        reason: String,
    },
    /// The partition has changed since.
    #[error("the partition epoch of {topic}-{partition} is {current}, not {proposed}")]
    StalePartitionEpoch {
        /// The topic's name.
        topic: String,
        /// The partition's number.
        partition: PartitionIndex,
        /// The epoch that the command is for.
        proposed: i32,
        /// The epoch that the partition has.
        current: i32,
    },
    /// The partition has had another leader since.
    #[error("the leader epoch of {topic}-{partition} is {current}, not {proposed}")]
    StaleLeaderEpoch {
        /// The topic's name.
        topic: String,
        /// The partition's number.
        partition: PartitionIndex,
        /// The epoch that the command is for.
        proposed: i32,
        /// The epoch that the partition has.
        current: i32,
    },
    /// META-3: the leader is not in the ISR.
    #[error("node {leader} cannot lead {topic}-{partition}: its in-sync replicas are {isr:?}")]
    LeaderNotInSync {
        /// The topic's name.
        topic: String,
        /// The partition's number.
        partition: PartitionIndex,
        /// The leader.
        leader: NodeId,
        /// The in-sync replicas.
        isr: Vec<NodeId>,
    },
    /// META-3: a node is no replica of the partition.
    #[error("node {node} is no replica of {topic}-{partition}")]
    NotReplica {
        /// The topic's name.
        topic: String,
        /// The partition's number.
        partition: PartitionIndex,
        /// The node.
        node: NodeId,
    },
    /// The ISR is empty, or has a node twice.
    #[error("{isr:?} is no list of in-sync replicas of {topic}-{partition}")]
    InvalidIsr {
        /// The topic's name.
        topic: String,
        /// The partition's number.
        partition: PartitionIndex,
        /// The list.
        isr: Vec<i32>,
    },
    /// An epoch has no next value.
    #[error("{topic}-{partition} has had as many changes as an epoch can count")]
    EpochExhausted {
        /// The topic's name.
        topic: String,
        /// The partition's number.
        partition: PartitionIndex,
    },
    /// There are no configs of such a thing.
    #[error("there is no config resource of type {resource_type} named '{resource_name}'")]
    UnknownConfigResource {
        /// Kafka's number of the type.
        resource_type: i32,
        /// The name.
        resource_name: String,
    },
    /// The config's name is empty.
    #[error("a config needs a name")]
    EmptyConfigKey,
    /// The block is empty, or there are not so many ids left.
    #[error("a block of {count} producer ids cannot be allocated")]
    InvalidProducerIdBlock {
        /// The number asked for.
        count: i32,
    },
    /// The cluster has another id.
    #[error("the cluster id is '{current}' and cannot become '{proposed}'")]
    ClusterIdSet {
        /// The id that the cluster has.
        current: String,
        /// The id that the command would give it.
        proposed: String,
    },
    /// The cluster id is empty.
    #[error("a cluster id cannot be empty")]
    EmptyClusterId,
    /// The request was refused when it arrived first, and stays refused.
    #[error("{reason}")]
    RefusedBefore {
        /// What the client was to be told.
        error_code: ErrorCode,
        /// Why it was refused.
        reason: String,
    },
    /// The request arrived after its sender had stopped waiting for it.
    #[error("the request came after its sender had given it up")]
    RequestExpired,
    /// Formats only go up.
    #[error("the metadata format is {current} and cannot go back to {proposed}")]
    FormatDowngrade {
        /// The format in use.
        current: u32,
        /// The format that the command asks for.
        proposed: u32,
    },
}

impl CommandError {
    /// What a Kafka client is told.
    pub const fn error_code(&self) -> ErrorCode {
        match self {
            Self::InvalidTopicName(_) => ErrorCode::InvalidTopicException,
            Self::TopicExists { .. } => ErrorCode::TopicAlreadyExists,
            Self::TopicIdExists { .. } | Self::ClusterIdSet { .. } | Self::EmptyClusterId => {
                ErrorCode::UnknownServerError
            }
            Self::UnknownTopicId { .. } => ErrorCode::UnknownTopicId,
            Self::UnknownTopic { .. } | Self::UnknownPartition { .. } => ErrorCode::UnknownTopicOrPartition,
            Self::PartitionAssigned { .. } | Self::PartitionGap { .. } => ErrorCode::InvalidPartitions,
            Self::InvalidReplicas { .. } => ErrorCode::InvalidReplicaAssignment,
            Self::UnknownBroker { .. } => ErrorCode::BrokerIdNotRegistered,
            Self::StaleBrokerEpoch { .. } => ErrorCode::StaleBrokerEpoch,
            Self::InvalidRegistration { .. } => ErrorCode::InvalidRegistration,
            Self::StalePartitionEpoch { .. } => ErrorCode::InvalidUpdateVersion,
            Self::StaleLeaderEpoch { .. } => ErrorCode::FencedLeaderEpoch,
            Self::LeaderNotInSync { .. } => ErrorCode::EligibleLeadersNotAvailable,
            Self::NotReplica { .. } => ErrorCode::IneligibleReplica,
            Self::InvalidIsr { .. }
            | Self::EpochExhausted { .. }
            | Self::UnknownConfigResource { .. }
            | Self::InvalidProducerIdBlock { .. } => ErrorCode::InvalidRequest,
            Self::EmptyConfigKey => ErrorCode::InvalidConfig,
            Self::FormatDowngrade { .. } => ErrorCode::FeatureUpdateFailed,
            Self::RefusedBefore { error_code, .. } => *error_code,
            Self::RequestExpired => ErrorCode::RequestTimedOut,
        }
    }
}

/// Why this node cannot apply an entry that others may have applied. It must stop: going on would break META-1.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// A newer node wrote the batch.
    #[error(
        "metadata entry {index} has format version {found}, and this build knows versions up to {known}: upgrade this node"
    )]
    UnknownFormat {
        /// The entry.
        index: LogIndex,
        /// Its version.
        found: u32,
        /// The newest version that this build knows.
        known: u32,
    },
    /// A newer node wrote a command.
    #[error(
        "command {command_position} of metadata entry {index} is of a kind that this build does not know: upgrade this node"
    )]
    UnknownCommand {
        /// The entry.
        index: LogIndex,
        /// Which command of the batch, from 0.
        command_position: usize,
    },
    /// The entry is none of ours.
    #[error("metadata entry {index} cannot be decoded")]
    Undecodable {
        /// The entry.
        index: LogIndex,
        /// What the decoder says.
        #[source]
        source: prost::DecodeError,
    },
}
