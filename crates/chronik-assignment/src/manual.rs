//! Placements that a client asks for, partition by partition.

use std::collections::BTreeSet;

use chronik_types::NodeId;

use crate::AssignmentError;

/// Checks the lists that a client gives for partitions numbered from `first`, in any order, and gives them back in
/// order. Every node must be one of `known`, and of each partition one must be `live`; all lists have one length,
/// which is `replication_factor` where the topic has partitions already.
pub fn validate_manual(
    known: &BTreeSet<NodeId>,
    live: &BTreeSet<NodeId>,
    first: i32,
    replication_factor: Option<usize>,
    lists: &[(i32, Vec<NodeId>)],
) -> Result<Vec<Vec<NodeId>>, AssignmentError> {
    let mut sorted: Vec<&(i32, Vec<NodeId>)> = lists.iter().collect();
    sorted.sort_by_key(|(partition, _)| *partition);
    let mut expected_count = replication_factor;
    let mut placed = Vec::with_capacity(sorted.len());
    for (number, (partition, replicas)) in (i64::from(first)..).zip(sorted) {
        let partition = *partition;
        if i64::from(partition) != number {
            return Err(AssignmentError::NotConsecutive { first, partition });
        }
        if replicas.is_empty() {
            return Err(AssignmentError::NoReplicas { partition });
        }
        let mut seen = BTreeSet::new();
        for node in replicas {
            if !seen.insert(*node) {
                return Err(AssignmentError::DuplicateReplica { partition, node: *node });
            }
            if !known.contains(node) {
                return Err(AssignmentError::UnknownBroker { partition, node: *node });
            }
        }
        if seen.is_disjoint(live) {
            return Err(AssignmentError::NoLiveReplica { partition });
        }
        let expected = *expected_count.get_or_insert(replicas.len());
        if replicas.len() != expected {
            return Err(AssignmentError::UnevenReplicas { partition, found: replicas.len(), expected });
        }
        placed.push(replicas.clone());
    }
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lists: &[(i32, &[i32])]) -> Result<Vec<Vec<NodeId>>, AssignmentError> {
        let known = (1..=4).map(NodeId).collect();
        let live = (1..=3).map(NodeId).collect();
        let lists: Vec<_> = lists
            .iter()
            .map(|(partition, replicas)| (*partition, replicas.iter().copied().map(NodeId).collect()))
            .collect();
        validate_manual(&known, &live, 0, None, &lists)
    }

    #[test]
    fn good_lists_come_back_in_order() {
        let placed = check(&[(1, &[3, 4]), (0, &[2, 1])]).unwrap();
        assert_eq!(placed, [[NodeId(2), NodeId(1)], [NodeId(3), NodeId(4)]]);
        assert_eq!(check(&[]).unwrap(), Vec::<Vec<NodeId>>::new());
        let more = validate_manual(
            &BTreeSet::from([NodeId(1)]),
            &BTreeSet::from([NodeId(1)]),
            7,
            Some(1),
            &[(7, vec![NodeId(1)])],
        );
        assert_eq!(more.unwrap().len(), 1);
    }

    #[test]
    fn each_fault_has_its_error() {
        use AssignmentError::*;
        assert_eq!(check(&[(0, &[])]), Err(NoReplicas { partition: 0 }));
        assert_eq!(check(&[(0, &[1, 1])]), Err(DuplicateReplica { partition: 0, node: NodeId(1) }));
        assert_eq!(check(&[(0, &[1, 9])]), Err(UnknownBroker { partition: 0, node: NodeId(9) }));
        assert_eq!(check(&[(0, &[4])]), Err(NoLiveReplica { partition: 0 }));
        assert_eq!(
            check(&[(0, &[1, 2]), (1, &[1])]),
            Err(UnevenReplicas { partition: 1, found: 1, expected: 2 })
        );
        assert_eq!(check(&[(1, &[1])]), Err(NotConsecutive { first: 0, partition: 1 }));
        assert_eq!(check(&[(0, &[1]), (0, &[2])]), Err(NotConsecutive { first: 0, partition: 0 }));
        assert_eq!(check(&[(-1, &[1])]), Err(NotConsecutive { first: 0, partition: -1 }));
        let nodes = BTreeSet::from([NodeId(1)]);
        let uneven = validate_manual(&nodes, &nodes, 3, Some(2), &[(3, vec![NodeId(1)])]);
        assert_eq!(uneven, Err(UnevenReplicas { partition: 3, found: 1, expected: 2 }));
    }
}
