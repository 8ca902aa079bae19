//! Every setting, once: name, type, range, default and meaning.
//!
//! Flags, environment variables, the file, `--help`, `docs/configuration.md` and the fields of [`Config`] are all
//! made from this one table. Settings that Kafka has keep Kafka's names, meanings and, where nothing speaks
//! against it, Kafka's defaults.

use std::path::PathBuf;

use chronik_broker::config::TOPIC_CONFIGS;
use chronik_types::NodeId;

use super::advertise::Advertise;
use super::external::ExternalListeners;
use super::load::Values;
use super::peers::Peers;
use super::value::{
    CleanupPolicies, CompressionType, Host, LogFilter, LogFormat, TimestampType, Value, ValueType,
};

/// What there is to know of one setting.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Its name, as in the file.
    pub name: &'static str,
    /// Kafka's name for it, where that is another; it can be used in the same places.
    pub alias: Option<&'static str>,
    /// The heading under which it is explained.
    pub section: &'static str,
    /// The default as text; empty where there is none.
    pub default: &'static str,
    /// What stands for an empty default in the documentation.
    pub default_shown: Option<&'static str>,
    /// The smallest and the largest number, where a number it is.
    pub range: (i64, i64),
    /// What it does.
    pub doc: &'static str,
    /// What kind of value it takes.
    pub value_type: ValueType,
}

macro_rules! options {
    ($($section:literal {
        $(
            $(#[doc = $doc:literal])+
            $name:literal $field:ident: $type:ty = $default:literal
            $(in $min:literal..=$max:expr)?
            $(, alias $alias:literal)? $(, shown $shown:literal)?;
        )+
    })+) => {
        /// Every setting, in the order in which they are documented.
        pub const OPTIONS: &[OptionSpec] = &[$($(
            OptionSpec {
                name: $name,
                alias: options!(@optional $($alias)?),
                section: $section,
                default: $default,
                default_shown: options!(@optional $($shown)?),
                range: options!(@range $type $(, $min, $max)?),
                doc: concat!($($doc),+),
                value_type: <$type as Value>::TYPE,
            },
        )+)+];

        /// The settings in force.
        #[derive(Clone, Debug)]
        pub struct Config {
            $($(
                $(#[doc = $doc])+
                pub $field: $type,
            )+)+
            /// Where each value came from, and what it is as text.
            pub values: Values,
        }

        impl Config {
            pub(super) fn from_values(values: Values) -> Result<Self, super::ConfigError> {
                Ok(Self {
                    $($($field: values.parse($name)?,)+)+
                    values,
                })
            }
        }
    };
    (@optional) => { None };
    (@optional $text:literal) => { Some($text) };
    (@range $type:ty) => { <$type as Value>::RANGE };
    (@range $type:ty, $min:literal, $max:expr) => { ($min, $max) };
}

/// The largest of Kafka's 32-bit integers.
const INT: i64 = i32::MAX as i64;
/// The largest of Kafka's 64-bit integers.
const LONG: i64 = i64::MAX;

options! {
    "Node" {
        /// The number of this node, which no other node of the cluster has.
        "node.id" node_id: NodeId = "1" in 0..=INT, alias "broker.id";
        /// Where this node stands, such as a data centre; the replicas of a partition are spread over racks.
        "rack" rack: Option<String> = "", alias "broker.rack";
        /// The directory that holds everything that this node keeps. It is created where there is none. In a cluster the
        /// default ends in the node's id, as in `./chronik-data-1`, so that several nodes can be started from one place.
        "data.dir" data_dir: PathBuf = "./chronik-data", alias "log.dir";
    }
    "Cluster" {
        /// Whether this node is part of a cluster. It then needs `cluster.peers` and `node.id` too.
        "cluster.enabled" cluster_enabled: bool = "false";
        /// The cluster's first nodes as `host:kafka_port:raft_port`, separated by commas, the same on all of them. Their
        /// ids count from 1 in the order of the list; `3@host:9092:9093` names an id. Hosts are names or addresses that
        /// the other nodes, and clients where `advertise` is unset, can reach.
        "cluster.peers" cluster_peers: Option<Peers> = "";
        /// The port on which the nodes of a cluster agree on metadata.
        "raft.port" raft_port: u16 = "9093" in 1..=65_535, shown "the port that `cluster.peers` gives this node";
    }
    "Network" {
        /// The address or host name to listen on. `::` stands for all addresses, IPv4 and IPv6.
        "bind" bind: Host = "::";
        /// The port for Kafka clients. 0 has the system choose one, which the start-up message then shows. In a cluster
        /// the default is the port that `cluster.peers` gives this node.
        "kafka.port" kafka_port: u16 = "9092" in 0..=65_535;
        /// The address that clients are told to connect to, as `host` or `host:port`. Unset, each client of a single node
        /// is told the address that it has dialled, which is right unless something between rewrites addresses, as a
        /// published container port does; in a cluster all are told the host and port that `cluster.peers` gives.
        "advertise" advertise: Option<Advertise> = "", shown "the address that the client dialled";
        /// Further listeners, each as `NAME:port=host:port`: the port to listen on, and what clients who come by it
        /// are told of this node. Such a client is told of every node what that node advertises for the same name.
        /// It serves clients outside of the network that the nodes share, as with published container ports.
        "external.listeners" external_listeners: Option<ExternalListeners> = "";
        /// The port for operators: `/health/live`, `/health/ready` and `/metrics` over HTTP. Unset, there is none; 0 has
        /// the system choose one, which the log then shows.
        "http.port" http_port: Option<u16> = "" in 0..=65_535, shown "none";
        /// The address or host name that the HTTP port listens on. It knows no passwords; where strangers reach `bind`,
        /// set this to an address that they do not.
        "http.bind" http_bind: Option<Host> = "", shown "`bind`";
        /// The threads that serve connections.
        "num.network.threads" num_network_threads: Option<usize> = "" in 1..=1024, shown "the number of cores";
        /// The longest request that is accepted, in bytes; a longer one closes its connection.
        "socket.request.max.bytes" socket_request_max_bytes: usize = "104857600" in 1024..=INT;
        /// The memory for requests that are being received or worked on and for answers that wait to be sent, over all
        /// connections, in bytes. When it is spent, sockets are not read until some is free again. -1 sets no limit.
        "queued.max.request.bytes" queued_max_request_bytes: i64 = "268435456" in -1..=LONG;
        /// How many clients may be connected; more wait until one leaves. The limit on open files lowers it.
        "max.connections" max_connections: usize = "2147483647" in 1..=INT;
        /// How many clients may be connected from one address; more are refused.
        "max.connections.per.ip" max_connections_per_ip: u32 = "2147483647" in 0..=INT;
        /// A connection on which nothing happens for this long is closed, in milliseconds.
        "connections.max.idle.ms" connections_max_idle_ms: u64 = "600000" in 1..=LONG;
        /// How many clients may stand in line to be accepted; the operating system may lower it.
        "socket.listen.backlog.size" socket_listen_backlog_size: u32 = "1024" in 1..=INT;
        /// The send buffer of each connection in bytes. -1 leaves it to the operating system, which adapts it.
        "socket.send.buffer.bytes" socket_send_buffer_bytes: i64 = "-1" in -1..=INT;
        /// The receive buffer of each connection in bytes. -1 leaves it to the operating system, which adapts it.
        "socket.receive.buffer.bytes" socket_receive_buffer_bytes: i64 = "-1" in -1..=INT;
        /// The largest answer to one fetch, in bytes; a single batch that is larger is still sent.
        "fetch.max.bytes" fetch_max_bytes: i32 = "57671680" in 1024..=INT;
        /// How many incremental fetch sessions are kept (KIP-227).
        "max.incremental.fetch.session.cache.slots" max_incremental_fetch_session_cache_slots: usize = "1000" in 0..=INT;
        /// How many partitions one answer to `DescribeTopicPartitions` holds at most (KIP-966).
        "max.request.partition.size.limit" max_request_partition_size_limit: i32 = "2000" in 1..=INT;
    }
    "Topics" {
        /// The partitions of a topic that is created without saying how many.
        "num.partitions" num_partitions: i32 = "3" in 1..=INT;
        /// The replicas of each partition of a topic that is created without saying how many; never more than there
        /// are nodes.
        "replication.factor" replication_factor: i16 = "3" in 1..=32_767, alias "default.replication.factor";
        /// How many replicas must have a record before a producer with `acks=all` is told so.
        "min.insync.replicas" min_insync_replicas: i32 = "1" in 1..=INT;
        /// How long a replica may be behind its leader before it leaves the ISR, in milliseconds.
        "replica.lag.time.max.ms" replica_lag_time_max_ms: u64 = "30000" in 1..=LONG;
        /// How long a leader may hold the fetch of a follower while there is nothing new, in milliseconds.
        "replica.fetch.wait.max.ms" replica_fetch_wait_max_ms: i32 = "500" in 1..=INT;
        /// What a follower takes of one partition at a time, in bytes; a single batch that is larger is still taken.
        "replica.fetch.max.bytes" replica_fetch_max_bytes: i32 = "1048576" in 1..=INT;
        /// What a follower takes at a time, in bytes; a single batch that is larger is still taken.
        "replica.fetch.response.max.bytes" replica_fetch_response_max_bytes: i32 = "10485760" in 1..=INT;
        /// Whether a topic that a client asks for and that does not exist is created.
        "auto.create.topics.enable" auto_create_topics_enable: bool = "true";
        /// Whether clients may delete topics.
        "delete.topic.enable" delete_topic_enable: bool = "true";
        /// The largest record batch that a producer may send, in bytes, as it is stored.
        "message.max.bytes" message_max_bytes: i32 = "1048588" in 0..=INT;
        /// How batches are stored: as the producer compressed them (`producer`), without compression (`uncompressed`), or
        /// with one codec.
        "compression.type" compression_type: CompressionType = "producer";
        /// The level of gzip where `compression.type` has the broker compress, 1 to 9. -1 leaves it to gzip.
        "compression.gzip.level" compression_gzip_level: i32 = "-1" in -1..=9;
        /// The level of lz4 where `compression.type` has the broker compress.
        "compression.lz4.level" compression_lz4_level: i32 = "9" in 1..=17;
        /// The level of zstd where `compression.type` has the broker compress.
        "compression.zstd.level" compression_zstd_level: i32 = "3" in -131_072..=22;
        /// Whether a replica that was not in sync may lead when no other is left, at the price of losing records.
        "unclean.leader.election.enable" unclean_leader_election_enable: bool = "false";
        /// Whether record timestamps are the producer's (`CreateTime`) or the broker's (`LogAppendTime`).
        "log.message.timestamp.type" log_message_timestamp_type: TimestampType = "CreateTime";
        /// How far before the broker's clock a record's timestamp may lie, in milliseconds.
        "log.message.timestamp.before.max.ms" log_message_timestamp_before_max_ms: i64 = "9223372036854775807" in 0..=LONG;
        /// How far after the broker's clock a record's timestamp may lie, in milliseconds.
        "log.message.timestamp.after.max.ms" log_message_timestamp_after_max_ms: i64 = "3600000" in 0..=LONG;
        /// How long a producer that sends nothing is remembered, for telling its duplicates, in milliseconds.
        "producer.id.expiration.ms" producer_id_expiration_ms: i32 = "86400000" in 1..=INT;
    }
    "Groups" {
        /// How long a group that was empty waits for more members after the first, in milliseconds.
        "group.initial.rebalance.delay.ms" group_initial_rebalance_delay_ms: u64 = "3000" in 0..=INT;
        /// The shortest session timeout that a member may ask for, in milliseconds.
        "group.min.session.timeout.ms" group_min_session_timeout_ms: i32 = "6000" in 1..=INT;
        /// The longest session timeout that a member may ask for, in milliseconds.
        "group.max.session.timeout.ms" group_max_session_timeout_ms: i32 = "1800000" in 1..=INT;
        /// The most members of one group.
        "group.max.size" group_max_size: usize = "2147483647" in 1..=INT;
        /// The longest metadata that may be committed with an offset.
        "offset.metadata.max.bytes" offset_metadata_max_bytes: usize = "4096" in 0..=INT;
        /// How long a request of a group waits for what it writes to be replicated, in milliseconds.
        "offsets.commit.timeout.ms" offsets_commit_timeout_ms: u64 = "5000" in 1..=INT;
        /// How long the offsets of a group are kept once it has no members, in minutes.
        "offsets.retention.minutes" offsets_retention_minutes: i32 = "10080" in 1..=INT;
        /// How often to look for offsets that are kept no longer, in milliseconds.
        "offsets.retention.check.interval.ms" offsets_retention_check_interval_ms: u64 = "600000" in 1..=LONG;
        /// The partitions of `__consumer_offsets`. It is created when the first group is looked for, and the number
        /// must not change afterwards.
        "offsets.topic.num.partitions" offsets_topic_num_partitions: i32 = "50" in 1..=INT;
        /// The replicas of each partition of `__consumer_offsets`; never more than there are nodes.
        "offsets.topic.replication.factor" offsets_topic_replication_factor: i16 = "3" in 1..=32_767;
        /// The size of the segments of `__consumer_offsets`, in bytes.
        "offsets.topic.segment.bytes" offsets_topic_segment_bytes: i32 = "104857600" in 1_048_576..=INT;
    }
    "Storage" {
        /// What becomes of old data: `delete` removes it, `compact` keeps the newest record of each key, and
        /// `compact,delete` does both.
        "log.cleanup.policy" log_cleanup_policy: CleanupPolicies = "delete";
        /// How long records are kept, in milliseconds; -1 keeps them for ever. Comes before the same in minutes.
        "log.retention.ms" log_retention_ms: Option<i64> = "" in -1..=LONG, shown "log.retention.minutes";
        /// How long records are kept, in minutes; -1 keeps them for ever. Comes before the same in hours.
        "log.retention.minutes" log_retention_minutes: Option<i32> = "" in -1..=INT, shown "log.retention.hours";
        /// How long records are kept, in hours; -1 keeps them for ever.
        "log.retention.hours" log_retention_hours: i32 = "168" in -1..=INT;
        /// How much of a partition is kept, in bytes; -1 sets no limit.
        "log.retention.bytes" log_retention_bytes: i64 = "-1" in -1..=LONG;
        /// How often to look for data that is kept no longer, in milliseconds.
        "log.retention.check.interval.ms" log_retention_check_interval_ms: u64 = "300000" in 1..=LONG;
        /// A segment file of this many bytes is followed by a new one.
        "log.segment.bytes" log_segment_bytes: i32 = "1073741824" in 1_048_576..=INT;
        /// A segment with records is followed by a new one after this time, in milliseconds. Comes before the same in
        /// hours.
        "log.roll.ms" log_roll_ms: Option<i64> = "" in 1..=LONG, shown "log.roll.hours";
        /// A segment with records is followed by a new one after this time, in hours.
        "log.roll.hours" log_roll_hours: i32 = "168" in 1..=INT;
        /// By how much at most the time of rolling is varied, in milliseconds. Comes before the same in hours.
        "log.roll.jitter.ms" log_roll_jitter_ms: Option<i64> = "" in 0..=LONG, shown "log.roll.jitter.hours";
        /// By how much at most the time of rolling is varied, in hours.
        "log.roll.jitter.hours" log_roll_jitter_hours: i32 = "0" in 0..=INT;
        /// How many bytes of log lie between two entries of an index.
        "log.index.interval.bytes" log_index_interval_bytes: i32 = "4096" in 0..=INT;
        /// The largest index file, in bytes.
        "log.index.size.max.bytes" log_index_size_max_bytes: i32 = "10485760" in 4..=INT;
        /// How long the file of a removed segment stays, in milliseconds.
        "log.segment.delete.delay.ms" log_segment_delete_delay_ms: i64 = "60000" in 0..=LONG;
        /// After how many records a partition is synced to disk.
        "log.flush.interval.messages" log_flush_interval_messages: i64 = "9223372036854775807" in 1..=LONG;
        /// After how long a partition is synced to disk, in milliseconds. Unset, the operating system decides.
        "log.flush.interval.ms" log_flush_interval_ms: Option<i64> = "" in 0..=LONG, shown "never";
        /// Whether compacted topics are cleaned.
        "log.cleaner.enable" log_cleaner_enable: bool = "true";
        /// The threads that clean compacted topics.
        "log.cleaner.threads" log_cleaner_threads: usize = "1" in 0..=1024;
        /// How long the cleaner rests when there is nothing to clean, in milliseconds.
        "log.cleaner.backoff.ms" log_cleaner_backoff_ms: u64 = "15000" in 0..=LONG;
        /// The memory for the keys of what is being cleaned, over all threads, in bytes.
        "log.cleaner.dedupe.buffer.size" log_cleaner_dedupe_buffer_size: u64 = "134217728" in 0..=LONG;
        /// The memory for reading and writing what is being cleaned, over all threads, in bytes.
        "log.cleaner.io.buffer.size" log_cleaner_io_buffer_size: usize = "524288" in 0..=INT;
        /// How full the memory for keys may become.
        "log.cleaner.io.buffer.load.factor" log_cleaner_io_buffer_load_factor: f64 = "0.9" in 0..=1;
        /// How much the cleaner may read and write, in bytes per second.
        "log.cleaner.io.max.bytes.per.second" log_cleaner_io_max_bytes_per_second: f64 = "1.7976931348623157e308" in 0..=LONG;
        /// The share of a compacted partition that must be uncleaned before it is cleaned.
        "log.cleaner.min.cleanable.ratio" log_cleaner_min_cleanable_ratio: f64 = "0.5" in 0..=1;
        /// How long a record of a compacted topic stays uncleaned at least, in milliseconds.
        "log.cleaner.min.compaction.lag.ms" log_cleaner_min_compaction_lag_ms: i64 = "0" in 0..=LONG;
        /// How long a record of a compacted topic stays uncleaned at most, in milliseconds.
        "log.cleaner.max.compaction.lag.ms" log_cleaner_max_compaction_lag_ms: i64 = "9223372036854775807" in 1..=LONG;
        /// How long delete markers of compacted topics are kept, in milliseconds.
        "log.cleaner.delete.retention.ms" log_cleaner_delete_retention_ms: i64 = "86400000" in 0..=LONG;
        /// The threads that check partitions at start.
        "num.recovery.threads.per.data.dir" num_recovery_threads_per_data_dir: usize = "2" in 1..=1024;
    }
    "Diagnostics" {
        /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`, `off`) or a list such as
        /// `info,chronik_log=debug`.
        "log" log: LogFilter = "info";
        /// How log lines look: `text`, in Kafka's layout, or `json`, one object a line.
        "log.format" log_format: LogFormat = "text";
    }
}

/// What can be changed at run time beside the defaults of topic configs.
const DYNAMIC: &[&str] = &[
    "log.cleaner.backoff.ms",
    "log.cleaner.dedupe.buffer.size",
    "log.cleaner.io.buffer.load.factor",
    "log.cleaner.io.buffer.size",
    "log.cleaner.io.max.bytes.per.second",
    "max.connections",
    "max.connections.per.ip",
];

impl OptionSpec {
    /// The environment variable that sets it.
    pub fn env_name(&self) -> String {
        env_name(self.name)
    }

    /// The command-line flag that sets it, without its dashes.
    pub fn flag_name(&self) -> String {
        flag_name(self.name)
    }

    /// What a value should look like.
    pub fn form(&self) -> String {
        self.value_type.form(self.range)
    }

    /// The text of `doc` on one line.
    pub fn doc_line(&self) -> String {
        self.doc.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Whether it can be changed at run time.
    pub fn is_dynamic(&self) -> bool {
        DYNAMIC.contains(&self.name) || TOPIC_CONFIGS.iter().any(|def| def.broker_synonym == Some(self.name))
    }

    /// The default as the documentation shows it.
    pub fn default_text(&self) -> &'static str {
        match self.default_shown {
            Some(shown) => shown,
            None if self.default.is_empty() => "none",
            None => self.default,
        }
    }
}

pub(super) fn env_name(name: &str) -> String {
    format!("CHRONIK_{}", name.to_ascii_uppercase().replace('.', "_"))
}

pub(super) fn flag_name(name: &str) -> String {
    name.replace('.', "-")
}

/// The setting of this name or alias.
pub fn option(name: &str) -> Option<&'static OptionSpec> {
    OPTIONS.iter().find(|spec| spec.name == name || spec.alias == Some(name))
}
