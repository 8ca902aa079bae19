//! What every placement has, whatever the cluster.

use std::collections::{BTreeMap, BTreeSet};

use chronik_assignment::{Candidate, assign};
use chronik_types::NodeId;
use proptest::prelude::*;

fn clusters() -> impl Strategy<Value = Vec<Candidate>> {
    prop::collection::btree_map(0..=i32::MAX, prop::option::weighted(0.9, "[abcd]"), 1..12)
        .prop_map(|nodes| nodes.into_iter().map(|(id, rack)| Candidate { node: NodeId(id), rack }).collect())
}

/// How often each node has something; zero counts too.
fn counts(live: &[Candidate], nodes: impl Iterator<Item = NodeId>) -> Vec<usize> {
    let mut counts: BTreeMap<NodeId, usize> = live.iter().map(|candidate| (candidate.node, 0)).collect();
    for node in nodes {
        *counts.get_mut(&node).expect("only live nodes are chosen") += 1;
    }
    counts.into_values().collect()
}

fn spread(counts: &[usize]) -> usize {
    counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
}

proptest! {
    #[test]
    fn placements_are_complete_distinct_and_balanced(
        live in clusters(),
        count in 0..100_i32,
        factor in 1..6_i32,
    ) {
        let placed = assign(&live, 0, count, factor);
        if live.len() < usize::try_from(factor).unwrap() {
            prop_assert!(placed.is_err());
            return Ok(());
        }
        let placed = placed.unwrap();
        prop_assert_eq!(placed.len(), usize::try_from(count).unwrap());
        let racks: BTreeMap<NodeId, Option<String>> =
            live.iter().map(|candidate| (candidate.node, candidate.rack.clone())).collect();
        let rack_names: BTreeSet<_> = racks.values().collect();
        let rack_aware = !rack_names.contains(&None) && 1 < rack_names.len();
        for replicas in &placed {
            prop_assert_eq!(replicas.len(), usize::try_from(factor).unwrap());
            let distinct: BTreeSet<_> = replicas.iter().collect();
            prop_assert_eq!(distinct.len(), replicas.len());
            if rack_aware {
                let used: BTreeSet<_> = replicas.iter().map(|node| &racks[node]).collect();
                prop_assert_eq!(used.len(), rack_names.len().min(replicas.len()));
            }
        }
        let leaders = counts(&live, placed.iter().map(|replicas| replicas[0]));
        prop_assert!(spread(&leaders) <= 1, "leaders {:?}", leaders);
        let rack_sizes: BTreeSet<usize> = rack_names
            .iter()
            .map(|name| racks.values().filter(|rack| rack == name).count())
            .collect();
        // Racks of different sizes cannot be both balanced and kept apart.
        if !rack_aware || rack_sizes.len() == 1 {
            let replicas = counts(&live, placed.iter().flatten().copied());
            prop_assert!(spread(&replicas) <= usize::try_from(factor).unwrap(), "replicas {:?}", replicas);
            if usize::try_from(count).unwrap().is_multiple_of(live.len()) {
                prop_assert_eq!(spread(&replicas), 0);
            }
        }
    }

    #[test]
    fn growing_and_reordering_change_nothing(
        live in clusters(),
        first in 0..50_i32,
        more in 0..50_i32,
    ) {
        let factor = i32::try_from(live.len().min(3)).unwrap();
        let whole = assign(&live, 0, first + more, factor).unwrap();
        let mut parts = assign(&live, 0, first, factor).unwrap();
        let mut reversed = live.clone();
        reversed.reverse();
        parts.extend(assign(&reversed, first, more, factor).unwrap());
        prop_assert_eq!(whole, parts);
    }

    #[test]
    fn the_plain_rule_is_the_formula(node_count in 1..20_usize, count in 0..60_i32) {
        let live: Vec<Candidate> =
            (0..node_count).map(|id| Candidate::without_rack(NodeId(i32::try_from(id).unwrap()))).collect();
        let factor = node_count.min(3);
        let placed = assign(&live, 0, count, i32::try_from(factor).unwrap()).unwrap();
        for (partition, replicas) in placed.iter().enumerate() {
            for (replica, node) in replicas.iter().enumerate() {
                let expected = (partition + replica) % node_count;
                prop_assert_eq!(node.get(), i32::try_from(expected).unwrap());
            }
        }
    }
}
