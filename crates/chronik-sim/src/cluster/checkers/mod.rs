//! What must hold, whatever happens: one file for each kind of knowledge.

mod groups;
mod images;
mod looks;
mod replicas;
mod values;
mod watermarks;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use chronik_raft::metadata::{MetadataImage, PartitionImage};
use chronik_types::{LeaderEpoch, NodeId, PartitionIndex, TopicId};

use super::effects::{Life, node_id};

/// The rule that a finding breaks, by its names on the reliability page and among the invariants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// C1, REPL-5: what was acknowledged is there in the end.
    Acknowledged,
    /// C2: an offset has one value.
    OneValue,
    /// C3: the order of a producer's records, each once.
    Order,
    /// C6: a reader skips nothing and loses nothing that it has read.
    Skips,
    /// C7, REPL-1: within a leader epoch the high watermark and the log's beginning never go back.
    Watermarks,
    /// REPL-2: the high watermark is not beyond what every replica in sync has.
    InSync,
    /// C8, REPL-4: a leader epoch has one leader.
    OneLeader,
    /// META-1, META-2, META-3: nodes see the same partitions, and they make sense.
    Images,
    /// C9, REPL-3: replicas are the same, byte for byte.
    SameBytes,
    /// LOG-1, LOG-2: offsets and epochs grow, and every batch is whole.
    Logs,
    /// LOG-3: a log directory of which a sync has failed is offline.
    FailedSync,
    /// C10, GROUP-1, GROUP-2: what a group has committed stays committed.
    Commits,
    /// C10, GROUP-1, GROUP-2: a generation's partitions have one owner each, and offsets go on from owner to owner.
    Groups,
    /// C11: everything works again soon after it was mended.
    Convergence,
    /// C12: nothing panics, and no node ends by itself.
    Panic,
    /// Clients hear errors that tell them to give up.
    Errors,
    /// The simulation itself is wrong.
    Defect,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::Acknowledged,
        Self::OneValue,
        Self::Order,
        Self::Skips,
        Self::Watermarks,
        Self::InSync,
        Self::OneLeader,
        Self::Images,
        Self::SameBytes,
        Self::Logs,
        Self::FailedSync,
        Self::Commits,
        Self::Groups,
        Self::Convergence,
        Self::Panic,
        Self::Errors,
        Self::Defect,
    ];

    fn ids(self) -> &'static str {
        match self {
            Self::Acknowledged => "C1 REPL-5",
            Self::OneValue => "C2",
            Self::Order => "C3",
            Self::Skips => "C6",
            Self::Watermarks => "C7 REPL-1",
            Self::InSync => "REPL-2",
            Self::OneLeader => "C8 REPL-4",
            Self::Images => "META",
            Self::SameBytes => "C9 REPL-3",
            Self::Logs => "LOG-1 LOG-2",
            Self::FailedSync => "LOG-3",
            Self::Commits => "C10 GROUP",
            Self::Groups => "C10 GROUP members",
            Self::Convergence => "C11",
            Self::Panic => "C12",
            Self::Errors => "ERRORS",
            Self::Defect => "SIMULATION",
        }
    }
}

/// What broke a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// What happened.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule.ids(), self.text)
    }
}

/// A partition of a topic that is told from others of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PartitionKey {
    pub(super) topic: TopicId,
    pub(super) partition: i32,
}

impl fmt::Display for PartitionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// What a record says: who wrote it, as the how-manieth, and for which topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Value {
    pub(super) producer: u32,
    pub(super) number: u64,
    pub(super) topic: TopicId,
}

/// The bytes of a value before what fills it up.
const VALUE_BYTES: usize = 28;

impl Value {
    /// As bytes, of a length of its own.
    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(VALUE_BYTES + 300);
        bytes.extend_from_slice(&self.producer.to_be_bytes());
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(&self.topic.to_bytes());
        let fill = usize::try_from(self.number.wrapping_mul(0x9e37_79b9) % 300).unwrap_or(0);
        bytes.resize(VALUE_BYTES + fill, u8::try_from(self.number % 251).unwrap_or(0));
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (producer, rest) = bytes.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let topic = rest.first_chunk()?;
        Some(Self {
            producer: u32::from_be_bytes(*producer),
            number: u64::from_be_bytes(*number),
            topic: TopicId::from_bytes(*topic),
        })
    }
}

/// All that is known, and what was found.
#[derive(Default)]
pub(super) struct Checkers {
    finding: Option<Finding>,
    /// The only rule whose breaches count, if not all do.
    pub(super) only: Option<Rule>,
    /// Values by partition and offset, as far as anybody has read them or was told of them.
    known: BTreeMap<PartitionKey, BTreeMap<i64, Value>>,
    /// Those among them that were acknowledged.
    acknowledged: BTreeMap<PartitionKey, BTreeMap<i64, Value>>,
    /// Values that were acknowledged without an offset.
    acknowledged_somewhere: BTreeSet<(PartitionKey, Value)>,
    producer_ids: BTreeSet<(i64, i16)>,
    /// Up to where records were to be deleted. Requests name a topic, and may meet the next one of its name.
    deleted_before: BTreeMap<(String, i32), i64>,
    watermarks: BTreeMap<(u64, PartitionKey, LeaderEpoch), (i64, i64)>,
    leaders: BTreeMap<(TopicId, PartitionIndex, LeaderEpoch), NodeId>,
    partitions: BTreeMap<(TopicId, PartitionIndex, i32), Arc<PartitionImage>>,
    created: BTreeMap<TopicId, String>,
    /// The topics that anybody has seen or made.
    names: BTreeMap<TopicId, String>,
    /// How often the deletion of a topic was asked for, by its name.
    deletions_asked: BTreeMap<String, usize>,
    /// What members of groups were told.
    groups: BTreeMap<String, groups::GroupHistory>,
    /// The nodes that have applied each deletion.
    deleted: BTreeMap<TopicId, BTreeSet<NodeId>>,
    /// How many bits have flipped on the way from disks, each of which may damage what one reader sees,
    pub(super) flip_count: u64,
    /// and how often that was taken for the reason.
    damaged_count: u64,
    /// Up to this time readers may see what has rotted.
    rotten_until_ms: u64,
    /// The producers that send each record until it is acknowledged, and each once.
    pub(super) strict_producer_count: u32,
}

impl Checkers {
    /// Whether nothing was found yet.
    pub(super) fn is_content(&self) -> bool {
        self.finding.is_none()
    }

    /// What was found first.
    pub(super) fn finding(&self) -> Option<&Finding> {
        self.finding.as_ref()
    }

    /// Something is wrong. Only what is found first counts: the rest may follow from it.
    pub(super) fn report(&mut self, rule: Rule, text: String) {
        if self.finding.is_none() && self.only.is_none_or(|only| only == rule) {
            self.finding = Some(Finding { rule, text });
        }
    }

    /// The simulation does what it should not.
    pub(super) fn defect(&mut self, text: &str) {
        self.report(Rule::Defect, text.to_owned());
    }

    /// A producer was given an id.
    pub(super) fn producer_id(&mut self, id: i64, epoch: i16) {
        if !self.producer_ids.insert((id, epoch)) {
            self.report(Rule::Order, format!("producer id {id} was given to two producers"));
        }
    }

    /// A topic was made, under an id that no other has had.
    pub(super) fn topic_created(&mut self, name: &str, id: TopicId) {
        self.names.insert(id, name.to_owned());
        if let Some(earlier) = self.created.insert(id, name.to_owned()) {
            self.report(Rule::Images, format!("{name} was made with the id {id} of {earlier}"));
        }
    }

    /// An admin asks for the deletion of a topic.
    pub(super) fn asks_deletion(&mut self, name: &str) {
        *self.deletions_asked.entry(name.to_owned()).or_default() += 1;
    }

    /// A node has applied that topics are deleted, for good.
    pub(super) fn deleted(&mut self, life: Life, topics: &[TopicId]) {
        for topic in topics {
            self.deleted.entry(*topic).or_default().insert(node_id(life.node));
        }
    }

    pub(super) fn is_deleted(&self, topic: TopicId) -> bool {
        self.deleted.contains_key(&topic)
    }

    /// Whether a node has applied the deletion of a topic, in this life or an earlier one.
    fn has_deleted(&self, node: NodeId, topic: TopicId) -> bool {
        self.deleted.get(&topic).is_some_and(|nodes| nodes.contains(&node))
    }

    /// A node has another image, in which these partitions have changed.
    pub(super) fn image(
        &mut self,
        life: Life,
        image: &MetadataImage,
        changed: &[(TopicId, PartitionIndex, Arc<PartitionImage>)],
    ) {
        for (topic, index, state) in changed {
            if let Some(topic) = image.topic_by_id(*topic) {
                self.names.entry(topic.id).or_insert_with(|| topic.name.to_string());
            }
            self.partition_image(life, image, (*topic, *index), state);
        }
    }
}
