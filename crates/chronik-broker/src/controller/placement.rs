//! Where partitions go: the rules are those of `chronik-assignment`, the words for the client are here.

use std::collections::BTreeSet;

use chronik_assignment::{AssignmentError, Candidate, assign, validate_manual};
use chronik_raft::metadata::MetadataImage;
use chronik_types::{ErrorCode, NodeId};

use super::topic_creation::{CreationError, PARTITIONS_PER_REQUEST_MAX};

/// Replicas for `count` partitions from number `first` on, round robin over the brokers in service.
pub(crate) fn place(
    image: &MetadataImage,
    first: i32,
    count: i32,
    replication_factor: usize,
) -> Result<Vec<Vec<NodeId>>, CreationError> {
    check_count(count)?;
    let live: Vec<Candidate> =
        image.live_brokers().map(|broker| Candidate { node: broker.id, rack: broker.rack.clone() }).collect();
    let factor = i32::try_from(replication_factor).unwrap_or(i32::MAX);
    assign(&live, first, count, factor).map_err(|error| refused(&error))
}

/// Checks replicas that a client chose for partitions from number 0 on, or from `first` on for a topic that has
/// partitions with `replication_factor` replicas already.
pub(crate) fn check_manual(
    image: &MetadataImage,
    first: i32,
    replication_factor: Option<usize>,
    lists: &[(i32, Vec<i32>)],
) -> Result<Vec<Vec<NodeId>>, CreationError> {
    check_count(i32::try_from(lists.len()).unwrap_or(i32::MAX))?;
    let known: BTreeSet<NodeId> = image.brokers().map(|broker| broker.id).collect();
    let live: BTreeSet<NodeId> = image.live_brokers().map(|broker| broker.id).collect();
    let lists: Vec<(i32, Vec<NodeId>)> =
        lists.iter().map(|(index, nodes)| (*index, nodes.iter().copied().map(NodeId).collect())).collect();
    validate_manual(&known, &live, first, replication_factor, &lists).map_err(|error| refused(&error))
}

fn check_count(count: i32) -> Result<(), CreationError> {
    if count <= PARTITIONS_PER_REQUEST_MAX {
        return Ok(());
    }
    Err(CreationError::new(
        ErrorCode::PolicyViolation,
        format!("{count} partitions are more than one request may add ({PARTITIONS_PER_REQUEST_MAX})"),
    ))
}

fn refused(error: &AssignmentError) -> CreationError {
    let code = match error {
        AssignmentError::ReplicationFactorTooSmall { .. }
        | AssignmentError::ReplicationFactorTooLarge { .. } => ErrorCode::InvalidReplicationFactor,
        AssignmentError::InvalidPartitionCount { .. } => ErrorCode::InvalidPartitions,
        AssignmentError::NoReplicas { .. }
        | AssignmentError::DuplicateReplica { .. }
        | AssignmentError::UnknownBroker { .. }
        | AssignmentError::NoLiveReplica { .. }
        | AssignmentError::UnevenReplicas { .. }
        | AssignmentError::NotConsecutive { .. } => ErrorCode::InvalidReplicaAssignment,
    };
    CreationError::new(code, error.to_string())
}
