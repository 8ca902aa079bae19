//! Which nodes hold which partition.
//!
//! Total functions of their arguments: nothing here proposes, looks at a clock or draws a number. The same live
//! brokers and the same request give the same placement, on any node and at any time.

mod manual;
mod round_robin;

pub use manual::validate_manual;
pub use round_robin::{assign, clamp_replication_factor};

use chronik_types::{ErrorCode, NodeId};
use thiserror::Error;

/// A broker that partitions can be placed on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// Its node id.
    pub node: NodeId,
    /// The rack that it stands in, where it says so.
    pub rack: Option<String>,
}

impl Candidate {
    /// A broker that does not say where it stands.
    pub fn without_rack(node: NodeId) -> Self {
        Self { node, rack: None }
    }
}

/// Why partitions cannot be placed as asked; the text is what the client is shown.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AssignmentError {
    /// A replication factor below one.
    #[error("the replication factor must be at least 1, not {asked}")]
    ReplicationFactorTooSmall {
        /// The replication factor asked for.
        asked: i32,
    },
    /// There are fewer live brokers than replicas.
    #[error("the replication factor {asked} is larger than the number of live brokers, {live_count}")]
    ReplicationFactorTooLarge {
        /// The replication factor asked for.
        asked: i32,
        /// The number of live brokers.
        live_count: usize,
    },
    /// A number of partitions that no topic can have.
    #[error("partitions {first} to {first} + {count} - 1 cannot exist")]
    InvalidPartitionCount {
        /// The first partition asked for.
        first: i32,
        /// The number of partitions asked for.
        count: i32,
    },
    /// A partition's list of replicas is empty.
    #[error("partition {partition} has no replicas")]
    NoReplicas {
        /// The partition.
        partition: i32,
    },
    /// A node is twice in a partition's list.
    #[error("partition {partition} has node {node} more than once among its replicas")]
    DuplicateReplica {
        /// The partition.
        partition: i32,
        /// The node.
        node: NodeId,
    },
    /// A node in a partition's list is no broker of the cluster.
    #[error("partition {partition} is assigned to node {node}, which is no broker of this cluster")]
    UnknownBroker {
        /// The partition.
        partition: i32,
        /// The node.
        node: NodeId,
    },
    /// None of the nodes in a partition's list is in service.
    #[error("none of the replicas of partition {partition} is on a live broker")]
    NoLiveReplica {
        /// The partition.
        partition: i32,
    },
    /// The lists differ in length.
    #[error("partition {partition} has {found} replicas, and others have {expected}")]
    UnevenReplicas {
        /// The partition.
        partition: i32,
        /// Its number of replicas.
        found: usize,
        /// The number of replicas of the partitions before it.
        expected: usize,
    },
    /// A partition is missing, or there twice.
    #[error("the assigned partitions must be {first} and up without a gap, and {partition} is out of place")]
    NotConsecutive {
        /// Where the numbers must start.
        first: i32,
        /// The first number out of place.
        partition: i32,
    },
}

impl AssignmentError {
    /// What a Kafka client is told.
    pub const fn error_code(&self) -> ErrorCode {
        match self {
            Self::ReplicationFactorTooSmall { .. } | Self::ReplicationFactorTooLarge { .. } => {
                ErrorCode::InvalidReplicationFactor
            }
            Self::InvalidPartitionCount { .. } => ErrorCode::InvalidPartitions,
            Self::NoReplicas { .. }
            | Self::DuplicateReplica { .. }
            | Self::UnknownBroker { .. }
            | Self::NoLiveReplica { .. }
            | Self::UnevenReplicas { .. }
            | Self::NotConsecutive { .. } => ErrorCode::InvalidReplicaAssignment,
        }
    }
}
