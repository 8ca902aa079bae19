//! What metrics tell of groups: their members and how far they have read.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::coordinator::GroupCoordinator;

/// One group at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStats {
    /// Its id.
    pub group_id: Arc<str>,
    /// The name of its state, as `ListGroups` tells it.
    pub state: &'static str,
    /// Its members.
    pub member_count: usize,
    /// The offsets that it has committed, by topic and partition.
    pub offsets: Vec<(Arc<str>, i32, i64)>,
}

impl GroupCoordinator {
    /// The groups of this shard in the order of their ids, those that only commit offsets among them; none while the
    /// shard is not serving.
    pub fn group_stats(&self) -> Vec<GroupStats> {
        if self.check_serving().is_err() {
            return Vec::new();
        }
        let mut found: BTreeMap<Arc<str>, (&'static str, usize)> = self
            .groups
            .values()
            .filter(|group| group.is_visible())
            .map(|group| (Arc::clone(&group.id), (group.state().name(), group.member_count())))
            .collect();
        for group_id in self.offsets.group_ids() {
            found.entry(group_id).or_insert(("Empty", 0));
        }
        found
            .into_iter()
            .map(|(group_id, (state, member_count))| {
                let offsets = self
                    .offsets
                    .of_group(&group_id)
                    .filter_map(|(topic, partition, committed, _)| {
                        Some((Arc::clone(topic), partition, committed?.offset))
                    })
                    .collect();
                GroupStats { group_id, state, member_count, offsets }
            })
            .collect()
    }
}
