//! C10, GROUP-1 and GROUP-2 of groups with members: in a generation each partition has one owner, a generation that
//! somebody was told of does not come back as another, and offsets that were acknowledged are there for the next owner.

use std::collections::{BTreeMap, BTreeSet};

use super::{Checkers, Rule};

/// A committed offset, and the generation of the member that has committed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Commit {
    generation: i32,
    offset: i64,
}

/// What is known of a partition's committed offset.
#[derive(Default)]
struct Committed {
    /// The last one that was acknowledged.
    last: Option<Commit>,
    /// Those whose fate is not known: they were late, and may take effect for as long as their generation lasts.
    unknown: BTreeSet<Commit>,
}

/// What members of a group were told.
#[derive(Default)]
pub(super) struct GroupHistory {
    /// The newest generation of which a member was told what it owns.
    generation: i32,
    /// The owner of each partition in each generation.
    owners: BTreeMap<(i32, i32), String>,
    committed: BTreeMap<i32, Committed>,
}

impl Checkers {
    /// The newest generation of a group of which a member was told what it owns; 0 before the first.
    pub(in crate::cluster) fn newest_generation(&self, group: &str) -> i32 {
        self.groups.get(group).map_or(0, |history| history.generation)
    }

    /// The partitions that somebody owns in the newest generation.
    pub(in crate::cluster) fn owned_count(&self, group: &str) -> usize {
        let Some(history) = self.groups.get(group) else { return 0 };
        history.owners.keys().filter(|(generation, _)| *generation == history.generation).count()
    }

    /// A member was told what it owns in a generation. `newest_before` is the newest generation when it asked.
    pub(in crate::cluster) fn assigned(
        &mut self,
        group: &str,
        member: &str,
        generation: i32,
        newest_before: i32,
        partitions: &[u8],
    ) {
        let history = self.groups.entry(group.to_owned()).or_default();
        let mut findings = Vec::new();
        if generation < newest_before {
            findings.push(format!(
                "group {group}: {member} is told what it owns in generation {generation}, after others were in \
                 {newest_before}"
            ));
        }
        history.generation = history.generation.max(generation);
        for partition in partitions {
            let key = (generation, i32::from(*partition));
            let owner = history.owners.entry(key).or_insert_with(|| member.to_owned());
            if owner != member {
                findings.push(format!(
                    "group {group}: partition {partition} belongs to {owner} and {member} in generation {generation}"
                ));
            }
        }
        for finding in findings {
            self.report(Rule::Groups, finding);
        }
    }

    /// A member is about to commit.
    pub(in crate::cluster) fn commits(&mut self, group: &str, generation: i32, partition: i32, offset: i64) {
        let history = self.groups.entry(group.to_owned()).or_default();
        let committed = history.committed.entry(partition).or_default();
        committed.unknown.insert(Commit { generation, offset });
    }

    /// A commit was acknowledged. `newest_before` is the newest generation when the member asked.
    pub(in crate::cluster) fn group_committed(
        &mut self,
        group: &str,
        generation: i32,
        newest_before: i32,
        partition: i32,
        offset: i64,
    ) {
        let history = self.groups.entry(group.to_owned()).or_default();
        let committed = history.committed.entry(partition).or_default();
        let commit = Commit { generation, offset };
        committed.unknown.remove(&commit);
        if committed.last.is_none_or(|last| last.generation <= generation) {
            committed.last = Some(commit);
        }
        if generation < newest_before {
            let text = format!(
                "group {group}: a member of generation {generation} commits {offset} of partition {partition}, after \
                 others were in {newest_before}"
            );
            self.report(Rule::Groups, text);
        }
    }

    /// The owner of a partition in a generation was told which offset is committed; −1 for none.
    pub(in crate::cluster) fn group_fetched(
        &mut self,
        group: &str,
        generation: i32,
        partition: i32,
        offset: i64,
    ) {
        let history = self.groups.entry(group.to_owned()).or_default();
        // Somebody else may have committed meanwhile, who knows better.
        if history.generation != generation {
            return;
        }
        let committed = history.committed.entry(partition).or_default();
        let is_last = offset == committed.last.map_or(-1, |last| last.offset);
        if !is_last && !committed.unknown.iter().any(|unknown| unknown.offset == offset) {
            let text = format!(
                "group {group}: partition {partition} has committed {:?} or one of {:?}, and its owner in generation \
                 {generation} is told {offset}",
                committed.last, committed.unknown
            );
            self.report(Rule::Groups, text);
            return;
        }
        // What members of earlier generations have sent is there by now, or is refused.
        committed.unknown.retain(|unknown| unknown.generation >= generation);
        if offset >= 0 {
            committed.last = Some(Commit { generation, offset });
        }
    }
}
