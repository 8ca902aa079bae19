//! What the broker and the connection layer are told of the settings.

use chronik_broker::config::{
    Allowed, BrokerConfig, BrokerConfigEntry, BrokerValues, ClusterNode, ConfigType, ExternalEndpoint,
    GroupConfig, TOPIC_CONFIGS, is_kafka_broker_config,
};

use chronik_log::{CleanerOptions, ManagerOptions};

use super::external::ExternalListeners;
use super::load::Origin;
use super::options::{Config, OPTIONS, OptionSpec};
use super::peers::{Peer, Peers};
use super::value::ValueType;
use crate::net::{Limits, SocketOptions};

/// Milliseconds of a minute.
const MINUTE_MS: i64 = 60_000;
/// Milliseconds of an hour.
const HOUR_MS: i64 = 3_600_000;

impl Config {
    /// What the broker is told. `kafka_port` is the port that is really listened on.
    pub fn broker(&self, kafka_port: u16) -> BrokerConfig {
        BrokerConfig {
            node_id: self.node_id,
            external_endpoints: self
                .external_listeners
                .iter()
                .flat_map(ExternalListeners::as_slice)
                .map(|listener| ExternalEndpoint {
                    listener: listener.name.clone(),
                    host: listener.advertised_host.clone(),
                    port: listener.advertised_port,
                })
                .collect(),
            cluster_nodes: self.cluster_nodes(),
            advertised: self
                .advertise
                .as_ref()
                .map(|advertise| (advertise.host.clone(), advertise.port.unwrap_or(kafka_port))),
            reached_at: ("localhost".to_owned(), kafka_port),
            rack: self.rack.clone(),
            num_partitions: self.num_partitions,
            default_replication_factor: self.replication_factor,
            auto_create_topics_enable: self.auto_create_topics_enable,
            delete_topic_enable: self.delete_topic_enable,
            fetch_max_bytes: self.fetch_max_bytes,
            max_incremental_fetch_session_cache_slots: self.max_incremental_fetch_session_cache_slots,
            max_request_partition_size_limit: self.max_request_partition_size_limit,
            replica_lag_time_max_ms: self.replica_lag_time_max_ms,
            replica_fetch_wait_max_ms: self.replica_fetch_wait_max_ms,
            replica_fetch_max_bytes: self.replica_fetch_max_bytes,
            replica_fetch_response_max_bytes: self.replica_fetch_response_max_bytes,
            groups: self.groups(),
            offsets_topic_num_partitions: self.offsets_topic_num_partitions,
            offsets_topic_replication_factor: self.offsets_topic_replication_factor,
            offsets_topic_segment_bytes: self.offsets_topic_segment_bytes,
            topic_values: self.topic_values(),
            entries: OPTIONS.iter().map(|spec| self.entry(spec)).collect(),
        }
    }

    fn cluster_nodes(&self) -> Vec<ClusterNode> {
        let peers = self.cluster_peers.as_ref().map(Peers::as_slice).unwrap_or_default();
        let node =
            |peer: &Peer| ClusterNode { id: peer.id, host: peer.host.clone(), raft_port: peer.raft_port };
        peers.iter().map(node).collect()
    }

    /// What the coordinator of groups is told.
    fn groups(&self) -> GroupConfig {
        GroupConfig {
            group_min_session_timeout_ms: self.group_min_session_timeout_ms,
            group_max_session_timeout_ms: self.group_max_session_timeout_ms,
            group_initial_rebalance_delay_ms: self.group_initial_rebalance_delay_ms,
            group_max_size: self.group_max_size,
            offsets_commit_timeout_ms: self.offsets_commit_timeout_ms,
            offset_metadata_bytes_max: self.offset_metadata_max_bytes,
            offsets_retention_ms: longer_ms(self.offsets_retention_minutes, MINUTE_MS),
            offsets_retention_check_interval_ms: self.offsets_retention_check_interval_ms,
            ..GroupConfig::default()
        }
    }

    /// What bounds the connections of a process that may have `open_files_max` files open.
    pub fn limits(&self, open_files_max: Option<u64>) -> Limits {
        // A quarter of the descriptors stays free for log files.
        let by_files = open_files_max.map_or(u64::MAX, |max| (max - max / 4).max(1));
        let by_files = usize::try_from(by_files).unwrap_or(usize::MAX);
        Limits {
            connections_max: self.max_connections.min(by_files),
            connections_possible_max: by_files,
            connections_per_ip_max: self.max_connections_per_ip,
            frame_bytes_max: self.socket_request_max_bytes,
            // Unlimited is half of what a u64 holds, so that sums stay far from overflowing.
            bytes_in_flight_max: u64::try_from(self.queued_max_request_bytes).unwrap_or(u64::MAX / 2),
            idle_ms_max: self.connections_max_idle_ms,
            ..Limits::default()
        }
    }

    /// What the logs are told.
    pub fn manager_options(&self) -> ManagerOptions {
        ManagerOptions {
            retention_check_interval_ms: self.log_retention_check_interval_ms,
            producer_id_expiration_ms: u64::try_from(self.producer_id_expiration_ms).unwrap_or(u64::MAX),
            ..ManagerOptions::default()
        }
    }

    /// What the cleaner is told; keys are hashed with `hash_secret`.
    pub fn cleaner_options(&self, hash_secret: [u64; 2]) -> CleanerOptions {
        CleanerOptions {
            thread_count: self.log_cleaner_threads,
            dedupe_buffer_bytes: usize::try_from(self.log_cleaner_dedupe_buffer_size).unwrap_or(usize::MAX),
            dedupe_buffer_load_factor: self.log_cleaner_io_buffer_load_factor,
            io_buffer_bytes: self.log_cleaner_io_buffer_size,
            io_max_bytes_per_second: self.log_cleaner_io_max_bytes_per_second,
            backoff_ms: self.log_cleaner_backoff_ms,
            hash_secret,
        }
    }

    /// How sockets are set up.
    pub fn socket_options(&self) -> SocketOptions {
        SocketOptions {
            backlog: self.socket_listen_backlog_size,
            send_buffer_bytes: u32::try_from(self.socket_send_buffer_bytes).ok(),
            receive_buffer_bytes: u32::try_from(self.socket_receive_buffer_bytes).ok(),
            ..SocketOptions::default()
        }
    }

    /// How long records are kept, in milliseconds, from the finest of the three settings that is given.
    pub fn retention_ms(&self) -> i64 {
        self.log_retention_ms.unwrap_or_else(|| {
            match (self.log_retention_minutes, self.log_retention_hours) {
                (Some(minutes), _) => longer_ms(minutes, MINUTE_MS),
                (None, hours) => longer_ms(hours, HOUR_MS),
            }
        })
    }

    /// How long a segment is written to, in milliseconds, from the finer of the two settings.
    pub fn roll_ms(&self) -> i64 {
        self.log_roll_ms.unwrap_or_else(|| longer_ms(self.log_roll_hours, HOUR_MS))
    }

    /// By how much rolling is varied, in milliseconds, from the finer of the two settings.
    pub fn roll_jitter_ms(&self) -> i64 {
        self.log_roll_jitter_ms.unwrap_or_else(|| longer_ms(self.log_roll_jitter_hours, HOUR_MS))
    }

    /// What topics that set nothing get from this node, as far as anybody set it here.
    fn topic_values(&self) -> BrokerValues {
        let mut topic_values: BrokerValues = TOPIC_CONFIGS
            .iter()
            .filter_map(|def| {
                let synonym = def.broker_synonym.filter(|synonym| self.values.is_set(synonym))?;
                let text = self.values.text(super::option(synonym)?)?;
                Some((synonym.to_owned(), def.normalize(text).unwrap_or_else(|_| text.to_owned())))
            })
            .collect();
        let is_set = |names: &[&str]| names.iter().any(|name| self.values.is_set(name));
        if is_set(&["log.retention.minutes", "log.retention.hours"]) {
            topic_values.insert("log.retention.ms".to_owned(), self.retention_ms().to_string());
        }
        if is_set(&["log.roll.hours"]) {
            topic_values.insert("log.roll.ms".to_owned(), self.roll_ms().to_string());
        }
        if is_set(&["log.roll.jitter.hours"]) {
            topic_values.insert("log.roll.jitter.ms".to_owned(), self.roll_jitter_ms().to_string());
        }
        topic_values
    }

    fn entry(&self, spec: &OptionSpec) -> BrokerConfigEntry {
        BrokerConfigEntry {
            name: spec.alias.filter(|_| !is_kafka_broker_config(spec.name)).unwrap_or(spec.name).to_owned(),
            value: self.values.text(spec).map(str::to_owned),
            default: (!spec.default.is_empty()).then(|| spec.default.to_owned()),
            is_static: self.values.written(spec.name).origin != Origin::Default,
            is_sensitive: false,
            config_type: match spec.value_type {
                ValueType::Boolean => ConfigType::Boolean,
                ValueType::Integer if spec.range.1 > i64::from(i32::MAX) => ConfigType::Long,
                ValueType::Integer => ConfigType::Int,
                ValueType::Peers | ValueType::ListOf(_) | ValueType::ExternalListeners => ConfigType::List,
                ValueType::Number => ConfigType::Double,
                ValueType::Text
                | ValueType::Path
                | ValueType::Host
                | ValueType::Advertise
                | ValueType::LogFilter
                | ValueType::OneOf(_) => ConfigType::String,
            },
            // What those behind topic configs may be is known to the broker.
            dynamic: spec.is_dynamic().then(|| allowed(spec)).flatten(),
            documentation: spec.doc_line(),
        }
    }
}

/// Which values a number may be given at run time.
fn allowed(spec: &OptionSpec) -> Option<Allowed> {
    let (min, max) = spec.range;
    match spec.value_type {
        ValueType::Boolean => Some(Allowed::Boolean),
        ValueType::Integer => Some(match (i32::try_from(min), i32::try_from(max)) {
            (Ok(min), Ok(max)) => Allowed::Int(min, max),
            _ => Allowed::Long(min, max),
        }),
        ValueType::OneOf(words) => Some(Allowed::OneOf(words)),
        ValueType::ListOf(words) => Some(Allowed::ListOf(words)),
        #[expect(clippy::cast_precision_loss, reason = "bounds are small numbers or no bounds")]
        ValueType::Number => {
            Some(Allowed::Double(min as f64, if max == i64::MAX { f64::MAX } else { max as f64 }))
        }
        ValueType::Text
        | ValueType::Path
        | ValueType::Host
        | ValueType::Advertise
        | ValueType::Peers
        | ValueType::ExternalListeners
        | ValueType::LogFilter => None,
    }
}

/// A number of minutes or hours in milliseconds; −1 stays what it is.
fn longer_ms(count: i32, unit_ms: i64) -> i64 {
    if count < 0 { -1 } else { i64::from(count).saturating_mul(unit_ms) }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::config::{Command, load};

    fn config(flags: &[&str]) -> Config {
        let arguments = ["chronik-server"].iter().chain(flags).map(OsString::from);
        match load(arguments, [], |_| Ok(String::new())) {
            Ok(Command::Run(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn topics_get_what_was_set_and_nothing_else() {
        let values = |flags: &[&str]| {
            let values = config(flags).broker(9092).topic_values;
            let shown = values.layers().flat_map(|(_, layer)| layer);
            shown.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(values(&[]), "");
        assert_eq!(
            values(&["--log-retention-hours=1", "--message-max-bytes=5"]),
            "log.retention.ms=3600000 message.max.bytes=5"
        );
        assert_eq!(
            values(&["--log-retention-hours=1", "--log-retention-minutes=2"]),
            "log.retention.ms=120000"
        );
        assert_eq!(values(&["--log-retention-minutes=-1"]), "log.retention.ms=-1");
        assert_eq!(values(&["--log-retention-hours=1", "--log-retention-ms=7"]), "log.retention.ms=7");
        assert_eq!(
            values(&["--log-roll-hours=2", "--log-roll-jitter-hours=1"]),
            "log.roll.jitter.ms=3600000 log.roll.ms=7200000"
        );
    }

    #[test]
    fn defaults_are_those_of_the_topic_configs() {
        let config = config(&[]);
        for def in TOPIC_CONFIGS {
            let Some(spec) = def.broker_synonym.and_then(crate::config::option) else { continue };
            let ours = match spec.name {
                "log.retention.ms" => config.retention_ms().to_string(),
                "log.roll.ms" => config.roll_ms().to_string(),
                "log.roll.jitter.ms" => config.roll_jitter_ms().to_string(),
                "log.flush.interval.ms" => i64::MAX.to_string(),
                _ => spec.default.to_owned(),
            };
            assert_eq!(ours, def.default, "{}", def.name);
        }
    }

    #[test]
    fn what_can_change_at_run_time_is_told_with_its_bounds() {
        let told = config(&[]).broker(9092);
        for spec in OPTIONS.iter().filter(|spec| spec.is_dynamic()) {
            let entry = told.entries.iter().find(|entry| entry.name == spec.name);
            let allowed = entry.and_then(|entry| entry.dynamic);
            let default = if spec.default.is_empty() { "5" } else { spec.default };
            let normalized = allowed.map(|allowed| allowed.normalize(spec.name, default));
            assert!(matches!(normalized, Some(Ok(_))), "{}: {normalized:?}", spec.name);
        }
        let fixed = told.entries.iter().find(|entry| entry.name == "num.partitions");
        assert_eq!(fixed.and_then(|entry| entry.dynamic), None);
    }

    #[test]
    fn the_broker_is_told_in_kafkas_words() {
        let broker = config(&["--rack=r", "--advertise=h"]).broker(7);
        assert_eq!(broker.advertised, Some(("h".to_owned(), 7)));
        let entry = |name: &str| broker.entries.iter().find(|entry| entry.name == name).cloned();
        let rack = entry("broker.rack").expect("by Kafka's name");
        assert!(rack.is_static && rack.value.as_deref() == Some("r"));
        let retention = entry("log.retention.ms").expect("there");
        assert!(!retention.is_static && retention.value.is_none());
        assert_eq!(entry("num.partitions").expect("there").config_type, ConfigType::Int);
    }

    #[test]
    fn groups_are_told_what_is_set_and_kafkas_defaults() {
        assert_eq!(config(&[]).broker(1).groups, GroupConfig::default());
        let groups = config(&["--offsets-retention-minutes=2", "--group-max-size=3"]).broker(1).groups;
        assert_eq!((groups.offsets_retention_ms, groups.group_max_size), (120_000, 3));
    }

    #[test]
    fn limits_follow_the_settings_and_the_open_files() {
        let limits = config(&["--queued-max-request-bytes=-1"]).limits(Some(1000));
        assert_eq!(limits.connections_max, 750);
        assert!(limits.bytes_in_flight_max > u64::MAX / 4);
        assert_eq!(config(&["--max-connections=5"]).limits(None).connections_max, 5);
        assert_eq!(
            config(&["--socket-send-buffer-bytes=4096"]).socket_options().send_buffer_bytes,
            Some(4096)
        );
    }
}
