//! The metadata of a cluster at one index of the log: immutable, shared, cheap to clone.
//!
//! The maps are persistent: the next image shares with this one all that did not change. Everything is kept in
//! order, so that equal images look the same wherever they are listed or encoded.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chronik_types::{
    BrokerEpoch, LeaderEpoch, LogIndex, NodeId, PartitionEpoch, PartitionIndex, ProducerId, Term, TopicId,
    TopicPartition,
};
use rpds::{RedBlackTreeMapSync, VectorSync};

use super::command::Endpoint;
use super::requests::Requests;

/// Configs of one resource that differ from the defaults, by name.
pub type ConfigMap = BTreeMap<String, String>;

/// The metadata of a cluster at one index of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct MetadataImage {
    pub(super) applied_index: LogIndex,
    pub(super) applied_term: Term,
    pub(super) format_version: u32,
    pub(super) cluster_id: Option<Arc<str>>,
    pub(super) next_producer_id: ProducerId,
    /// The same topics as in `topics_by_id`.
    pub(super) topics_by_name: RedBlackTreeMapSync<Arc<str>, Arc<TopicImage>>,
    pub(super) topics_by_id: RedBlackTreeMapSync<TopicId, Arc<TopicImage>>,
    pub(super) brokers: RedBlackTreeMapSync<NodeId, Arc<BrokerImage>>,
    /// No resource is in it without a config.
    pub(super) configs: RedBlackTreeMapSync<ConfigResource, Arc<ConfigMap>>,
    /// What requests gave that may arrive again.
    pub(super) requests: Requests,
}

impl Default for MetadataImage {
    /// The image before the first entry.
    fn default() -> Self {
        Self {
            applied_index: LogIndex(0),
            applied_term: Term(0),
            format_version: 1,
            cluster_id: None,
            next_producer_id: ProducerId(0),
            topics_by_name: RedBlackTreeMapSync::new_sync(),
            topics_by_id: RedBlackTreeMapSync::new_sync(),
            brokers: RedBlackTreeMapSync::new_sync(),
            configs: RedBlackTreeMapSync::new_sync(),
            requests: Requests::default(),
        }
    }
}

impl MetadataImage {
    /// The last log entry that this image holds.
    pub fn applied_index(&self) -> LogIndex {
        self.applied_index
    }

    /// The term of that entry.
    pub fn applied_term(&self) -> Term {
        self.applied_term
    }

    /// The format that batches may be written in.
    pub fn format_version(&self) -> u32 {
        self.format_version
    }

    /// The cluster's name, once it has one.
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// The first producer id of the next block.
    pub fn next_producer_id(&self) -> ProducerId {
        self.next_producer_id
    }

    /// The topic of this name.
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.topics_by_name.get(name)
    }

    /// The topic of this id.
    pub fn topic_by_id(&self, topic_id: TopicId) -> Option<&Arc<TopicImage>> {
        self.topics_by_id.get(&topic_id)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicImage>> {
        self.topics_by_name.values()
    }

    /// The number of topics.
    pub fn topic_count(&self) -> usize {
        self.topics_by_name.size()
    }

    /// The number of partitions of all topics.
    pub fn partition_count(&self) -> usize {
        self.topics().map(|topic| topic.partition_count()).sum()
    }

    /// One partition, by topic name.
    pub fn partition(&self, topic_partition: &TopicPartition) -> Option<&Arc<PartitionImage>> {
        self.topic(&topic_partition.topic)?.partition(topic_partition.partition)
    }

    /// The broker of this id.
    pub fn broker(&self, node_id: NodeId) -> Option<&Arc<BrokerImage>> {
        self.brokers.get(&node_id)
    }

    /// All brokers, ascending.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<BrokerImage>> {
        self.brokers.values()
    }

    /// The brokers in service, ascending.
    pub fn live_brokers(&self) -> impl Iterator<Item = &Arc<BrokerImage>> {
        self.brokers.values().filter(|broker| !broker.fenced)
    }

    /// The brokers that may enter ISRs and be elected, ascending: those in service that are not about to stop.
    pub fn active_brokers(&self) -> impl Iterator<Item = &Arc<BrokerImage>> {
        self.brokers.values().filter(|broker| broker.is_active())
    }

    /// The configs of a resource that differ from the defaults, or `None` where there are none.
    pub fn configs(&self, resource: &ConfigResource) -> Option<&Arc<ConfigMap>> {
        self.configs.get(resource)
    }

    /// One config of a resource, where it differs from the default.
    pub fn config(&self, resource: &ConfigResource, key: &str) -> Option<&str> {
        self.configs.get(resource)?.get(key).map(String::as_str)
    }

    /// All resources with configs, in order.
    pub fn config_resources(&self) -> impl Iterator<Item = (&ConfigResource, &Arc<ConfigMap>)> {
        self.configs.iter()
    }
}

/// One topic.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicImage {
    /// Its name.
    pub name: Arc<str>,
    /// Its id.
    pub id: TopicId,
    /// How many partitions its creation asked for.
    pub requested_partition_count: i32,
    /// How many replicas of each its creation asked for.
    pub requested_replication_factor: i32,
    pub(super) partitions: VectorSync<Arc<PartitionImage>>,
}

impl TopicImage {
    /// The partition of this number.
    pub fn partition(&self, partition: PartitionIndex) -> Option<&Arc<PartitionImage>> {
        self.partitions.get(usize::try_from(partition.get()).ok()?)
    }

    /// All partitions, in order.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionIndex, &Arc<PartitionImage>)> {
        (0..).map(PartitionIndex).zip(self.partitions.iter())
    }

    /// The number of partitions.
    pub fn partition_count(&self) -> usize {
        self.partitions.len()
    }

    /// The number that the next partition of this topic gets.
    pub fn next_partition(&self) -> PartitionIndex {
        PartitionIndex(i32::try_from(self.partitions.len()).unwrap_or(i32::MAX))
    }
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionImage {
    /// The nodes that hold it, the preferred leader first. Never empty.
    pub replicas: Arc<[NodeId]>,
    /// META-3: those of them that are in sync. Empty only until the partition gets its first leader.
    pub isr: Arc<[NodeId]>,
    /// Replicas that have left the ISR when it had fewer than `min.insync.replicas` left, or had fewer afterwards (KIP-966).
    /// The high watermark stands still while there are any, so that each holds everything below it, and may lead as
    /// well as those in sync.
    pub elr: Arc<[NodeId]>,
    /// The leader, one of the ISR.
    pub leader: Option<NodeId>,
    /// The last leader may have lacked records that were committed, and no leader has said since that it has made do with
    /// what there is (KIP-704). The ISR has one member until one does.
    pub is_recovering: bool,
    /// Counts the leaders; −1 before the first.
    pub leader_epoch: LeaderEpoch,
    /// META-2: counts the changes of this partition.
    pub partition_epoch: PartitionEpoch,
}

impl PartitionImage {
    /// Whether META-3 holds.
    pub(super) fn is_consistent(&self) -> bool {
        self.isr.iter().all(|node| self.replicas.contains(node))
            && self.leader.is_none_or(|leader| self.isr.contains(&leader))
            && self.elr.iter().all(|node| self.replicas.contains(node) && !self.isr.contains(node))
            && (!self.is_recovering || self.isr.len() <= 1)
    }

    /// The ELR once the ISR is `isr`: nobody while that has at least `min_insync` members (or all replicas), else those
    /// who were in the ISR or the ELR and are in neither now.
    pub fn elr_after(&self, isr: &[NodeId], min_insync: usize) -> Vec<NodeId> {
        if min_insync.min(self.replicas.len()) <= isr.len() {
            return Vec::new();
        }
        let holds = |node: &NodeId| self.isr.contains(node) || self.elr.contains(node);
        self.replicas.iter().copied().filter(|node| holds(node) && !isr.contains(node)).collect()
    }
}

/// One registered broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerImage {
    /// Its node id.
    pub id: NodeId,
    /// Its registration's epoch: the log index of the entry that registered it.
    pub epoch: BrokerEpoch,
    /// Drawn at random when its process started.
    pub incarnation: u128,
    /// Where it listens.
    pub endpoints: Vec<Endpoint>,
    /// The rack that it stands in.
    pub rack: Option<String>,
    /// Whether it is out of service.
    pub fenced: bool,
    /// Whether it is about to stop (KIP-841).
    pub in_controlled_shutdown: bool,
}

impl BrokerImage {
    /// Whether it may enter ISRs, be elected and get replicas: it is in service and stays there, as far as is known.
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.in_controlled_shutdown
    }
}

/// What configs belong to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigResource {
    /// A topic, by name.
    Topic(Arc<str>),
    /// One broker.
    Broker(NodeId),
    /// All brokers.
    BrokerDefault,
    /// A client metrics subscription, by name (KIP-714).
    ClientMetrics(Arc<str>),
    /// A group, by id (KIP-848).
    Group(Arc<str>),
}

impl ConfigResource {
    const TOPIC: i8 = 2;
    const BROKER: i8 = 4;
    const CLIENT_METRICS: i8 = 16;
    const GROUP: i8 = 32;

    /// Kafka's number of the type, and the name.
    pub fn to_kafka(&self) -> (i8, String) {
        match self {
            Self::Topic(name) => (Self::TOPIC, name.to_string()),
            Self::Broker(node_id) => (Self::BROKER, node_id.to_string()),
            Self::BrokerDefault => (Self::BROKER, String::new()),
            Self::ClientMetrics(name) => (Self::CLIENT_METRICS, name.to_string()),
            Self::Group(name) => (Self::GROUP, name.to_string()),
        }
    }

    /// The resource of this type and name, or `None` where Chronik keeps no configs of such a thing.
    pub fn from_kafka(resource_type: i8, name: &str) -> Option<Self> {
        match resource_type {
            Self::TOPIC => Some(Self::Topic(name.into())),
            Self::BROKER if name.is_empty() => Some(Self::BrokerDefault),
            Self::BROKER => {
                let node_id = name.parse().ok().filter(|id| 0 <= *id)?;
                Some(Self::Broker(NodeId(node_id)))
            }
            Self::CLIENT_METRICS => Some(Self::ClientMetrics(name.into())),
            Self::GROUP => Some(Self::Group(name.into())),
            _ => None,
        }
    }
}

impl fmt::Display for ConfigResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic '{name}'"),
            Self::Broker(node_id) => write!(f, "broker {node_id}"),
            Self::BrokerDefault => f.write_str("all brokers"),
            Self::ClientMetrics(name) => write!(f, "client metrics '{name}'"),
            Self::Group(name) => write!(f, "group '{name}'"),
        }
    }
}
