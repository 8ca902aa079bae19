//! What must hold. The committed log is read here by the messages alone, without the coordinator's own reader.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use chronik_coordinator::Record;
use chronik_protocol::messages::{
    GroupMetadataKey, GroupMetadataValue, JoinGroupResponse, Message, OffsetCommitKey, OffsetCommitValue,
};
use chronik_protocol::wire::Reader;

/// Why reading the log cannot fail.
const READABLE: &str = "the coordinator writes what Kafka's schemas can read";

/// What the committed log has ever said.
#[derive(Default)]
pub(super) struct CommittedLog {
    /// Group, partition, offset.
    offsets: BTreeSet<(String, i32, i64)>,
    /// Group and generation: the assignment of every member.
    assignments: BTreeMap<(String, i32), BTreeMap<String, Bytes>>,
    /// The highest generation of each group that has not ended.
    last_generations: BTreeMap<String, i32>,
    /// How often each group has ended.
    deletions: BTreeMap<String, u32>,
}

impl CommittedLog {
    pub(super) fn add(&mut self, record: &Record) {
        let mut key = Reader::new(&record.key);
        let key_type = key.i16().expect(READABLE);
        let mut value = record.value.as_ref().map(Reader::new);
        let version = value.as_mut().map(|value| value.i16().expect(READABLE));
        match (key_type, value.as_mut().zip(version)) {
            (1, Some((value, version))) => {
                let key = OffsetCommitKey::decode(&mut key, 0).expect(READABLE);
                let value = OffsetCommitValue::decode(value, version).expect(READABLE);
                self.offsets.insert((key.group, key.partition, value.offset));
            }
            (2, Some((value, version))) => {
                let key = GroupMetadataKey::decode(&mut key, 0).expect(READABLE);
                let value = GroupMetadataValue::decode(value, version).expect(READABLE);
                let members =
                    value.members.into_iter().map(|member| (member.member_id, member.assignment)).collect();
                let last = self.last_generations.entry(key.group.clone()).or_insert(-1);
                *last = value.generation.max(*last);
                self.assignments.insert((key.group, value.generation), members);
            }
            (2, None) => {
                let key = GroupMetadataKey::decode(&mut key, 0).expect(READABLE);
                self.last_generations.remove(&key.group);
                *self.deletions.entry(key.group).or_default() += 1;
            }
            (1, None) => {}
            (other, _) => panic!("the coordinator wrote a key of type {other}"),
        }
    }

    /// How often the group has ended; its generations count from 1 again each time.
    pub(super) fn deletions(&self, group: &str) -> u32 {
        self.deletions.get(group).copied().unwrap_or(0)
    }

    /// The highest generation in the log since the group last ended, −1 before the first.
    pub(super) fn last_generation(&self, group: &str) -> i32 {
        self.last_generations.get(group).copied().unwrap_or(-1)
    }

    /// A commit has been granted.
    pub(super) fn check_offset(&self, group: &str, partition: i32, offset: i64) -> Result<(), String> {
        if self.offsets.contains(&(group.to_owned(), partition, offset)) {
            return Ok(());
        }
        Err(format!("GROUP-1: {group}-{partition}: offset {offset} is granted and not in the log"))
    }

    /// An assignment has been given.
    pub(super) fn check_assignment(
        &self,
        group: &str,
        generation: i32,
        member: &str,
        assignment: &Bytes,
    ) -> Result<(), String> {
        let written = self.assignments.get(&(group.to_owned(), generation));
        if written.and_then(|members| members.get(member)) == Some(assignment) {
            return Ok(());
        }
        Err(format!(
            "GROUP-1: {group}: the assignment of {member} in generation {generation} is not in the log"
        ))
    }
}

/// Who has been given what.
#[derive(Default)]
pub(super) struct Owners {
    /// Group, how often it had ended, generation, partition: the owner's instance id, or its member id.
    owners: BTreeMap<(String, u32, i32, u8), String>,
}

impl Owners {
    pub(super) fn check(
        &mut self,
        group: &str,
        deletions: u32,
        generation: i32,
        owner: &str,
        assignment: &Bytes,
    ) -> Result<(), String> {
        for partition in assignment {
            let key = (group.to_owned(), deletions, generation, *partition);
            let first = self.owners.entry(key).or_insert_with(|| owner.to_owned());
            if first != owner {
                return Err(format!(
                    "OWNER: {group}: partition {partition} of generation {generation} belongs to {first} and {owner}"
                ));
            }
        }
        Ok(())
    }
}

/// Which coordinator, how often the group had ended, group, generation.
type Generation = (u64, u32, String, i32);

/// What the members of a generation have been told. A coordinator that takes over may begin a generation again
/// that the last one did not finish.
#[derive(Default)]
pub(super) struct Generations {
    told: BTreeMap<Generation, (String, Option<String>)>,
    /// Leaders that have been replaced under their instance id.
    replaced: BTreeSet<String>,
}

impl Generations {
    /// `member` has taken the place of another static member.
    pub(super) fn replaced(&mut self, group: &str) {
        self.replaced.insert(group.to_owned());
    }

    pub(super) fn check(
        &mut self,
        incarnation: u64,
        deletions: u32,
        group: &str,
        response: &JoinGroupResponse,
    ) -> Result<(), String> {
        // A static leader changes its name within a generation; only the protocol is compared then.
        let leader = if self.replaced.contains(group) { String::new() } else { response.leader.clone() };
        let told = (leader, response.protocol_name.clone());
        let key = (incarnation, deletions, group.to_owned(), response.generation_id);
        let first = self.told.entry(key).or_insert_with(|| told.clone());
        let differs = first.1 != told.1 || (!told.0.is_empty() && !first.0.is_empty() && first.0 != told.0);
        if differs {
            return Err(format!(
                "GENERATION: {group}: members of generation {} are told {first:?} and {told:?}",
                response.generation_id
            ));
        }
        Ok(())
    }
}

/// Which generations members have been told of. A generation that is in the log is never told again but as itself; one
/// that did not get there may be begun again by the next coordinator.
#[derive(Default)]
pub(super) struct Growth {
    /// Which coordinator, how often the group had ended, group: the highest generation.
    told: BTreeMap<(u64, u32, String), i32>,
}

impl Growth {
    pub(super) fn check(
        &mut self,
        incarnation: u64,
        deletions: u32,
        group: &str,
        generation: i32,
        last_in_log: i32,
    ) -> Result<(), String> {
        let last = self.told.entry((incarnation, deletions, group.to_owned())).or_insert(last_in_log);
        *last = last_in_log.max(*last);
        if generation < *last {
            return Err(format!("GROWTH: {group}: generation {generation} is told after {last}"));
        }
        *last = generation;
        Ok(())
    }
}

/// The committed offsets that anyone has seen.
#[derive(Default)]
pub(super) struct Seen {
    offsets: BTreeMap<(String, i32), i64>,
}

impl Seen {
    pub(super) fn check(&mut self, group: &str, partition: i32, offset: i64) -> Result<(), String> {
        let last = self.offsets.entry((group.to_owned(), partition)).or_insert(-1);
        if offset < *last {
            return Err(format!(
                "GROUP-2: {group}-{partition}: the offset goes back from {last} to {offset}"
            ));
        }
        *last = offset;
        Ok(())
    }

    /// The group's offsets have been deleted on purpose.
    pub(super) fn forget(&mut self, group: &str) {
        self.offsets.retain(|(of, _), _| of != group);
    }
}
