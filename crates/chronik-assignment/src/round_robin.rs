//! Round robin: replica *r* of partition *p* is node *(p + r) mod n* in id order.
//!
//! Where every broker names its rack, and there is more than one, the order deals the racks out in turn (first node
//! of each rack, second node of each, …) and a partition takes the next nodes in it from racks that it has no
//! replica in, as long as there are such racks. With racks of one size this is the plain rule on another order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chronik_types::NodeId;

use crate::{AssignmentError, Candidate};

/// Places `count` partitions, numbered from `first`, with `replication_factor` replicas each on the live brokers.
/// The first node of each list is the preferred leader. Fenced brokers are left out by whoever calls.
///
/// A topic that grows is placed by the numbers of its new partitions, so what is there stays where it is, and the
/// whole is what would have been placed at once.
pub fn assign(
    live: &[Candidate],
    first: i32,
    count: i32,
    replication_factor: i32,
) -> Result<Vec<Vec<NodeId>>, AssignmentError> {
    let end = first.checked_add(count).filter(|_| 0 <= first && 0 <= count);
    let end = end.ok_or(AssignmentError::InvalidPartitionCount { first, count })?;
    let racks: BTreeMap<NodeId, Option<&str>> =
        live.iter().map(|candidate| (candidate.node, candidate.rack.as_deref())).collect();
    let wanted = usize::try_from(replication_factor).ok().filter(|wanted| 0 < *wanted);
    let wanted = wanted.ok_or(AssignmentError::ReplicationFactorTooSmall { asked: replication_factor })?;
    if racks.len() < wanted {
        return Err(AssignmentError::ReplicationFactorTooLarge {
            asked: replication_factor,
            live_count: racks.len(),
        });
    }
    let order = deal(&racks);
    let rack_count = order.iter().map(|place| place.rack).collect::<BTreeSet<_>>().len();
    let all = (first..end).map(|partition| {
        let start =
            usize::try_from(partition).unwrap_or_default().checked_rem(order.len()).unwrap_or_default();
        let from_start: Vec<Place> = order.iter().cycle().skip(start).take(order.len()).copied().collect();
        choose(&from_start, wanted, rack_count)
    });
    Ok(all.collect())
}

/// The replication factor that an auto-created topic gets: what is configured, and no more than there are live
/// brokers, but never less than one.
pub fn clamp_replication_factor(configured: i32, live_count: usize) -> i32 {
    configured.min(i32::try_from(live_count).unwrap_or(i32::MAX)).max(1)
}

/// A node and the number of its rack; nodes without racks are each in one of their own.
#[derive(Clone, Copy)]
struct Place {
    node: NodeId,
    rack: usize,
}

/// The order in which partitions go round.
fn deal(racks: &BTreeMap<NodeId, Option<&str>>) -> Vec<Place> {
    let mut by_rack: BTreeMap<&str, VecDeque<NodeId>> = BTreeMap::new();
    for (node, rack) in racks {
        if let Some(rack) = rack {
            by_rack.entry(rack).or_default().push_back(*node);
        }
    }
    let all_named = racks.values().all(Option::is_some);
    if !all_named || by_rack.len() < 2 {
        return racks.keys().enumerate().map(|(rack, node)| Place { node: *node, rack }).collect();
    }
    let mut order = Vec::with_capacity(racks.len());
    while order.len() < racks.len() {
        for (rack, nodes) in by_rack.values_mut().enumerate() {
            order.extend(nodes.pop_front().map(|node| Place { node, rack }));
        }
    }
    order
}

/// The first `wanted` nodes, those from new racks before the others once the first is chosen.
fn choose(from_start: &[Place], wanted: usize, rack_count: usize) -> Vec<NodeId> {
    let mut chosen: Vec<NodeId> = Vec::with_capacity(wanted);
    let mut used_racks = BTreeSet::new();
    for place in from_start {
        if chosen.len() < wanted && used_racks.len() < rack_count && used_racks.insert(place.rack) {
            chosen.push(place.node);
        }
    }
    for place in from_start {
        if chosen.len() < wanted && !chosen.contains(&place.node) {
            chosen.push(place.node);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(ids: &[i32]) -> Vec<Candidate> {
        ids.iter().map(|id| Candidate::without_rack(NodeId(*id))).collect()
    }

    fn ids(placed: &[Vec<NodeId>]) -> Vec<Vec<i32>> {
        placed.iter().map(|nodes| nodes.iter().map(|node| node.get()).collect()).collect()
    }

    #[test]
    fn nine_partitions_on_three_nodes_are_placed_as_promised() {
        let placed = assign(&candidates(&[1, 2, 3]), 0, 9, 3).unwrap();
        let round = [vec![1, 2, 3], vec![2, 3, 1], vec![3, 1, 2]];
        assert_eq!(ids(&placed), [round.clone(), round.clone(), round].concat());
        let placed = assign(&candidates(&[1, 2, 3]), 0, 3, 1).unwrap();
        assert_eq!(ids(&placed), [[1], [2], [3]]);
        // Ids need not be consecutive, nor told in order, nor once.
        let placed = assign(&candidates(&[2_000_000_000, 0, 7, 0]), 2, 2, 2).unwrap();
        assert_eq!(ids(&placed), [[2_000_000_000, 0], [0, 7]]);
    }

    #[test]
    fn what_cannot_be_placed_is_said() {
        let three = candidates(&[1, 2, 3]);
        let error = assign(&three, 0, 1, 4).unwrap_err();
        assert_eq!(error, AssignmentError::ReplicationFactorTooLarge { asked: 4, live_count: 3 });
        assert!(error.to_string().contains("4 is larger than the number of live brokers, 3"));
        assert!(matches!(assign(&three, 0, 1, 0), Err(AssignmentError::ReplicationFactorTooSmall { .. })));
        assert!(matches!(assign(&[], 0, 1, 1), Err(AssignmentError::ReplicationFactorTooLarge { .. })));
        for (first, count) in [(-1, 1), (0, -1), (i32::MAX, 1)] {
            let error = assign(&three, first, count, 1).unwrap_err();
            assert_eq!(error, AssignmentError::InvalidPartitionCount { first, count });
        }
        assert_eq!(assign(&three, 5, 0, 1).unwrap(), Vec::<Vec<NodeId>>::new());
    }

    #[test]
    fn auto_creation_takes_what_the_cluster_has() {
        for (configured, live_count, expected) in [(3, 1, 1), (3, 3, 3), (1, 3, 1), (3, 0, 1), (0, 2, 1)] {
            assert_eq!(clamp_replication_factor(configured, live_count), expected);
        }
    }

    #[test]
    fn racks_are_dealt_in_turn() {
        let in_rack = |(id, rack): (i32, &str)| Candidate { node: NodeId(id), rack: Some(rack.to_owned()) };
        let even: Vec<_> = [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c"), (6, "c")].map(in_rack).into();
        let placed = assign(&even, 0, 6, 3).unwrap();
        assert_eq!(ids(&placed)[..3], [[1, 3, 5], [3, 5, 2], [5, 2, 4]]);
        // The lone node of rack b is in every partition, and still leads its share only.
        let uneven: Vec<_> = [(1, "a"), (2, "a"), (3, "a"), (4, "b")].map(in_rack).into();
        let placed = assign(&uneven, 0, 4, 2).unwrap();
        assert_eq!(ids(&placed), [[1, 4], [4, 2], [2, 4], [3, 4]]);
        // One node that does not say where it stands, and the plain rule holds for all.
        let mut partly = even;
        partly[0].rack = None;
        assert_eq!(ids(&assign(&partly, 0, 1, 3).unwrap()), [[1, 2, 3]]);
    }
}
