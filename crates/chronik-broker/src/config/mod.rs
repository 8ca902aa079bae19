//! What can be configured, and what it is set to.

mod broker;
mod change;
mod kafka_names;
mod log;
mod loggers;
mod topic;
mod values;

pub use broker::{BrokerConfigEntry, ValuesListener};
pub(crate) use broker::{BrokerConfigs, Described};
pub(crate) use change::{ConfigChange, PlannedConfigs, WantedConfigs};
pub use chronik_coordinator::GroupConfig;
pub use kafka_names::{is_kafka_broker_config, kafka_broker_configs};
pub use log::log_config;
pub use loggers::{LogLevel, Loggers, ROOT_LOGGER};
pub use topic::{
    Allowed, ConfigSource, ConfigType, TOPIC_CONFIGS, TopicCleanup, TopicCompression, TopicConfigDef,
    TopicOverrides, TopicSettings, check_together, effective,
};
pub use values::BrokerValues;

use chronik_types::NodeId;

/// Kafka's numbers of the kinds of resource that have configs.
pub(crate) mod resource_type {
    pub(crate) const TOPIC: i8 = 2;
    pub(crate) const BROKER: i8 = 4;
    pub(crate) const BROKER_LOGGER: i8 = 8;
    pub(crate) const CLIENT_METRICS: i8 = 16;
    pub(crate) const GROUP: i8 = 32;
    /// All of them.
    pub(crate) const ALL: [i8; 5] = [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP];
}

/// Where clients of one listener find this broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalEndpoint {
    /// The listener's name.
    pub listener: String,
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
}

/// A node that the cluster starts with, and where the metadata log reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNode {
    /// Its node id.
    pub id: NodeId,
    /// Its host, a name or an address.
    pub host: String,
    /// Its port for the metadata log.
    pub raft_port: u16,
}

/// What the broker needs to know of its configuration.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// This node's id.
    pub node_id: NodeId,
    /// The nodes that the cluster starts with, this one included, ascending; empty for a single node.
    pub cluster_nodes: Vec<ClusterNode>,
    /// The address that clients are told; without one, each is told the address that it dialled.
    pub advertised: Option<(String, u16)>,
    /// Where other brokers, and clients that found another broker first, reach this one when nothing is advertised.
    pub reached_at: (String, u16),
    /// What clients are told who come by listeners other than the first.
    pub external_endpoints: Vec<ExternalEndpoint>,
    /// This node's rack.
    pub rack: Option<String>,
    /// Partitions of a topic that is created without a number.
    pub num_partitions: i32,
    /// Replicas of a topic that is created without a number.
    pub default_replication_factor: i16,
    /// Whether a topic that a client names and that is not there is created.
    pub auto_create_topics_enable: bool,
    /// Whether topics may be deleted.
    pub delete_topic_enable: bool,
    /// The largest answer to one Fetch, in bytes.
    pub fetch_max_bytes: i32,
    /// How many incremental fetch sessions are kept.
    pub max_incremental_fetch_session_cache_slots: usize,
    /// How many partitions one DescribeTopicPartitions answers.
    pub max_request_partition_size_limit: i32,
    /// `replica.lag.time.max.ms`: how long a replica may be behind before it leaves the ISR.
    pub replica_lag_time_max_ms: u64,
    /// `replica.fetch.wait.max.ms`: how long a leader may hold a follower's fetch.
    pub replica_fetch_wait_max_ms: i32,
    /// `replica.fetch.max.bytes`: what a follower takes of one partition at a time, in bytes.
    pub replica_fetch_max_bytes: i32,
    /// `replica.fetch.response.max.bytes`: what a follower takes at a time, in bytes.
    pub replica_fetch_response_max_bytes: i32,
    /// Limits and delays of groups.
    pub groups: GroupConfig,
    /// Partitions of `__consumer_offsets` when it is created.
    pub offsets_topic_num_partitions: i32,
    /// Replicas of each of them, as far as there are brokers.
    pub offsets_topic_replication_factor: i16,
    /// The size of its segments in bytes.
    pub offsets_topic_segment_bytes: i32,
    /// Values that the broker gives to topics, by the broker's name of the config.
    pub topic_values: BrokerValues,
    /// Every broker config, for DescribeConfigs.
    pub entries: Vec<BrokerConfigEntry>,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            node_id: NodeId(1),
            cluster_nodes: Vec::new(),
            advertised: None,
            reached_at: ("localhost".to_owned(), 9092),
            external_endpoints: Vec::new(),
            rack: None,
            num_partitions: 3,
            default_replication_factor: 3,
            auto_create_topics_enable: true,
            delete_topic_enable: true,
            fetch_max_bytes: 57_671_680,
            max_incremental_fetch_session_cache_slots: 1_000,
            max_request_partition_size_limit: 2_000,
            replica_lag_time_max_ms: 30_000,
            replica_fetch_wait_max_ms: 500,
            replica_fetch_max_bytes: 1 << 20,
            replica_fetch_response_max_bytes: 10 << 20,
            groups: GroupConfig::default(),
            offsets_topic_num_partitions: 50,
            offsets_topic_replication_factor: 3,
            offsets_topic_segment_bytes: 104_857_600,
            topic_values: BrokerValues::new(),
            entries: Vec::new(),
        }
    }
}
