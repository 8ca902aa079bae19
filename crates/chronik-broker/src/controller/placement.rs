//! Where partitions go.

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
    if count > PARTITIONS_PER_REQUEST_MAX {
        return Err(CreationError::new(
            ErrorCode::PolicyViolation,
            format!("{count} partitions are more than one request may add ({PARTITIONS_PER_REQUEST_MAX})"),
        ));
    }
    let live: Vec<NodeId> = image.live_brokers().map(|broker| broker.id).collect();
    if replication_factor > live.len() {
        return Err(CreationError::new(
            ErrorCode::InvalidReplicationFactor,
            format!(
                "Unable to replicate the partition {replication_factor} time(s): The target replication factor of \
                 {replication_factor} cannot be reached because only {} broker(s) are registered.",
                live.len()
            ),
        ));
    }
    let ring = live.iter().copied().cycle();
    let start = |partition: i32| usize::try_from(partition).unwrap_or(0) % live.len().max(1);
    Ok((first..first.saturating_add(count))
        .map(|partition| ring.clone().skip(start(partition)).take(replication_factor).collect())
        .collect())
}

/// Checks replicas that a client chose: as many for each partition, each broker known and named once.
pub(crate) fn check_manual(image: &MetadataImage, lists: &[Vec<i32>]) -> Result<Vec<Vec<NodeId>>, CreationError> {
    let invalid = |message: String| CreationError::new(ErrorCode::InvalidReplicaAssignment, message);
    if i32::try_from(lists.len()).map_or(true, |count| count > PARTITIONS_PER_REQUEST_MAX) {
        return Err(CreationError::new(
            ErrorCode::PolicyViolation,
            format!("more partitions than one request may add ({PARTITIONS_PER_REQUEST_MAX})"),
        ));
    }
    let factor = lists.first().map_or(0, Vec::len);
    let mut placed = Vec::with_capacity(lists.len());
    for list in lists {
        if list.is_empty() {
            return Err(invalid("The manual partition assignment includes an empty replica list.".to_owned()));
        }
        if list.len() != factor {
            return Err(invalid(format!(
                "The manual partition assignment includes a partition with {} replica(s), but this is not \
                 consistent with previous partitions, which have {factor} replica(s).",
                list.len()
            )));
        }
        let mut nodes = Vec::with_capacity(list.len());
        for id in list {
            let node = NodeId(*id);
            if image.broker(node).is_none() {
                return Err(invalid(format!(
                    "The manual partition assignment includes broker {id}, but no such broker is registered."
                )));
            }
            if nodes.contains(&node) {
                return Err(invalid(format!("The manual partition assignment includes the broker {id} more than once.")));
            }
            nodes.push(node);
        }
        placed.push(nodes);
    }
    Ok(placed)
}
