//! Topic configs: Kafka's names, types, bounds and defaults, and what Chronik does with each.
//!
//! One table says everything: CreateTopics validates by it, DescribeConfigs prints it, and a topic's effective
//! settings are read through it. A value that Chronik could not honour is refused by name, never stored.

use std::collections::BTreeMap;

/// A topic's own settings, by name; what is absent comes from the broker.
pub type TopicOverrides = BTreeMap<String, String>;

/// The kind of a config, as DescribeConfigs numbers them (KIP-569).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
#[expect(missing_docs, reason = "the names are Kafka's own")]
pub enum ConfigType {
    Unknown = 0,
    Boolean = 1,
    String = 2,
    Int = 3,
    Short = 4,
    Long = 5,
    Double = 6,
    List = 7,
    Class = 8,
    Password = 9,
}

/// Which values a config may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Allowed {
    /// `true` or `false`.
    Boolean,
    /// `false` only: `true` is known to Kafka and not possible here.
    FalseOnly,
    /// A 32-bit integer in a closed range.
    Int(i32, i32),
    /// A 64-bit integer in a closed range.
    Long(i64, i64),
    /// A number in a closed range.
    Double(f64, f64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A comma-separated list of these words, at least one.
    ListOf(&'static [&'static str]),
    /// An empty list.
    EmptyList,
}

/// One topic config.
#[derive(Clone, Copy, Debug)]
pub struct TopicConfigDef {
    /// Kafka's name.
    pub name: &'static str,
    /// The broker config that gives the value to topics that set none.
    pub broker_synonym: Option<&'static str>,
    /// The value where neither topic nor broker sets one.
    pub default: &'static str,
    /// Which values are possible here.
    pub allowed: Allowed,
    /// What it does, in a sentence or two.
    pub documentation: &'static str,
}

macro_rules! def {
    ($name:literal, $synonym:expr, $default:literal, $allowed:expr, $documentation:literal) => {
        TopicConfigDef {
            name: $name,
            broker_synonym: $synonym,
            default: $default,
            allowed: $allowed,
            documentation: $documentation,
        }
    };
}

/// Every topic config, by name.
pub const TOPIC_CONFIGS: &[TopicConfigDef] = &[
    def!(
        "cleanup.policy",
        Some("log.cleanup.policy"),
        "delete",
        Allowed::ListOf(&["delete"]),
        "How old data goes: \"delete\" drops whole segments by age and size."
    ),
    def!(
        "compression.gzip.level",
        Some("compression.gzip.level"),
        "-1",
        Allowed::Int(-1, 9),
        "The gzip level that the broker uses when compression.type makes it recompress; -1 is gzip's own default."
    ),
    def!(
        "compression.lz4.level",
        Some("compression.lz4.level"),
        "9",
        Allowed::Int(1, 17),
        "The lz4 level that the broker uses when compression.type makes it recompress."
    ),
    def!(
        "compression.type",
        Some("compression.type"),
        "producer",
        Allowed::OneOf(&["producer"]),
        "The codec in which batches are stored: \"producer\" keeps what the producer chose."
    ),
    def!(
        "compression.zstd.level",
        Some("compression.zstd.level"),
        "3",
        Allowed::Int(-131_072, 22),
        "The zstd level that the broker uses when compression.type makes it recompress."
    ),
    def!(
        "delete.retention.ms",
        Some("log.cleaner.delete.retention.ms"),
        "86400000",
        Allowed::Long(0, i64::MAX),
        "How long a compacted topic keeps a delete marker, in milliseconds."
    ),
    def!(
        "file.delete.delay.ms",
        Some("log.segment.delete.delay.ms"),
        "60000",
        Allowed::Long(0, i64::MAX),
        "How long the files of a dropped segment stay on disk under another name, in milliseconds."
    ),
    def!(
        "flush.messages",
        Some("log.flush.interval.messages"),
        "9223372036854775807",
        Allowed::Long(1, i64::MAX),
        "After this many records the log is synced to disk before they are acknowledged; 1 syncs every batch."
    ),
    def!(
        "flush.ms",
        Some("log.flush.interval.ms"),
        "9223372036854775807",
        Allowed::Long(0, i64::MAX),
        "The longest time that a record stays unsynced, in milliseconds."
    ),
    def!(
        "follower.replication.throttled.replicas",
        None,
        "",
        Allowed::EmptyList,
        "Replicas whose fetching is throttled; Chronik shares bandwidth by itself and takes no list."
    ),
    def!(
        "index.interval.bytes",
        Some("log.index.interval.bytes"),
        "4096",
        Allowed::Int(0, i32::MAX),
        "How many bytes of log lie between two entries of its offset index."
    ),
    def!(
        "leader.replication.throttled.replicas",
        None,
        "",
        Allowed::EmptyList,
        "Replicas whose serving is throttled; Chronik shares bandwidth by itself and takes no list."
    ),
    def!(
        "local.retention.bytes",
        Some("log.local.retention.bytes"),
        "-2",
        Allowed::Long(-2, -2),
        "Bytes kept locally under tiered storage, which Chronik does not have; -2 follows retention.bytes."
    ),
    def!(
        "local.retention.ms",
        Some("log.local.retention.ms"),
        "-2",
        Allowed::Long(-2, -2),
        "Time kept locally under tiered storage, which Chronik does not have; -2 follows retention.ms."
    ),
    def!(
        "max.compaction.lag.ms",
        Some("log.cleaner.max.compaction.lag.ms"),
        "9223372036854775807",
        Allowed::Long(1, i64::MAX),
        "The longest time that a record of a compacted topic stays out of compaction, in milliseconds."
    ),
    def!(
        "max.message.bytes",
        Some("message.max.bytes"),
        "1048588",
        Allowed::Int(0, i32::MAX),
        "The largest batch, as stored, that is accepted, in bytes."
    ),
    def!(
        "message.timestamp.after.max.ms",
        Some("log.message.timestamp.after.max.ms"),
        "3600000",
        Allowed::Long(0, i64::MAX),
        "How far a producer's timestamp may lie after the broker's clock, in milliseconds."
    ),
    def!(
        "message.timestamp.before.max.ms",
        Some("log.message.timestamp.before.max.ms"),
        "9223372036854775807",
        Allowed::Long(0, i64::MAX),
        "How far a producer's timestamp may lie before the broker's clock, in milliseconds."
    ),
    def!(
        "message.timestamp.type",
        Some("log.message.timestamp.type"),
        "CreateTime",
        Allowed::OneOf(&["CreateTime", "LogAppendTime"]),
        "Whose clock stamps the records: the producer's (CreateTime) or the broker's (LogAppendTime)."
    ),
    def!(
        "min.cleanable.dirty.ratio",
        Some("log.cleaner.min.cleanable.ratio"),
        "0.5",
        Allowed::Double(0.0, 1.0),
        "The share of a compacted log that must be uncompacted before it is compacted again."
    ),
    def!(
        "min.compaction.lag.ms",
        Some("log.cleaner.min.compaction.lag.ms"),
        "0",
        Allowed::Long(0, i64::MAX),
        "The shortest time that a record of a compacted topic stays out of compaction, in milliseconds."
    ),
    def!(
        "min.insync.replicas",
        Some("min.insync.replicas"),
        "1",
        Allowed::Int(1, i32::MAX),
        "How many replicas must be in sync for a produce with acks=all to be accepted."
    ),
    def!(
        "preallocate",
        Some("log.preallocate"),
        "false",
        Allowed::FalseOnly,
        "Whether segment files are created at full size; Chronik never does."
    ),
    def!(
        "remote.log.copy.disable",
        None,
        "false",
        Allowed::FalseOnly,
        "Whether copying to tiered storage, which Chronik does not have, is switched off."
    ),
    def!(
        "remote.log.delete.on.disable",
        None,
        "false",
        Allowed::FalseOnly,
        "Whether tiered data goes when tiered storage, which Chronik does not have, is switched off."
    ),
    def!(
        "remote.storage.enable",
        None,
        "false",
        Allowed::FalseOnly,
        "Whether the topic uses tiered storage, which Chronik does not have."
    ),
    def!(
        "retention.bytes",
        Some("log.retention.bytes"),
        "-1",
        Allowed::Long(i64::MIN, i64::MAX),
        "How large a partition may grow before its oldest segments are dropped, in bytes; negative is no limit."
    ),
    def!(
        "retention.ms",
        Some("log.retention.ms"),
        "604800000",
        Allowed::Long(-1, i64::MAX),
        "How old records may grow before their segments are dropped, in milliseconds; -1 is no limit."
    ),
    def!(
        "segment.bytes",
        Some("log.segment.bytes"),
        "1073741824",
        Allowed::Int(1_048_576, i32::MAX),
        "How large a segment grows before the next one is begun, in bytes."
    ),
    def!(
        "segment.index.bytes",
        Some("log.index.size.max.bytes"),
        "10485760",
        Allowed::Int(4, i32::MAX),
        "How large a segment's offset index grows before the next segment is begun, in bytes."
    ),
    def!(
        "segment.jitter.ms",
        Some("log.roll.jitter.ms"),
        "0",
        Allowed::Long(0, i64::MAX),
        "How much earlier than segment.ms a segment may be closed, at random, in milliseconds."
    ),
    def!(
        "segment.ms",
        Some("log.roll.ms"),
        "604800000",
        Allowed::Long(1, i64::MAX),
        "How old a segment grows before the next one is begun, in milliseconds."
    ),
    def!(
        "unclean.leader.election.enable",
        Some("unclean.leader.election.enable"),
        "false",
        Allowed::Boolean,
        "Whether a replica that was not in sync may lead when no other is left, at the price of losing records."
    ),
];

impl TopicConfigDef {
    /// The config of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        TOPIC_CONFIGS.binary_search_by(|def| def.name.cmp(name)).ok().and_then(|at| TOPIC_CONFIGS.get(at))
    }

    /// Its kind, for DescribeConfigs.
    pub const fn config_type(&self) -> ConfigType {
        match self.allowed {
            Allowed::Boolean | Allowed::FalseOnly => ConfigType::Boolean,
            Allowed::Int(..) => ConfigType::Int,
            Allowed::Long(..) => ConfigType::Long,
            Allowed::Double(..) => ConfigType::Double,
            Allowed::OneOf(_) => ConfigType::String,
            Allowed::ListOf(_) | Allowed::EmptyList => ConfigType::List,
        }
    }

    /// Says why `value` is impossible, in words for the client.
    pub fn validate(&self, value: &str) -> Result<(), String> {
        let name = self.name;
        let refuse =
            |should: String| Err(format!("Invalid value {value} for configuration {name}: {should}"));
        match self.allowed {
            Allowed::Boolean => match value.trim().to_ascii_lowercase().as_str() {
                "true" | "false" => Ok(()),
                _ => refuse("must be either true or false".to_owned()),
            },
            Allowed::FalseOnly => match value.trim().to_ascii_lowercase().as_str() {
                "false" => Ok(()),
                "true" => refuse("this cluster cannot do it; only false is possible".to_owned()),
                _ => refuse("must be either true or false".to_owned()),
            },
            Allowed::Int(min, max) => match value.trim().parse::<i32>() {
                Ok(number) if (min..=max).contains(&number) => Ok(()),
                Ok(_) => refuse(format!("must be from {min} to {max}")),
                Err(_) => refuse("not a number of configuration type INT".to_owned()),
            },
            Allowed::Long(min, max) => match value.trim().parse::<i64>() {
                Ok(number) if (min..=max).contains(&number) => Ok(()),
                Ok(_) => refuse(format!("must be from {min} to {max}")),
                Err(_) => refuse("not a number of configuration type LONG".to_owned()),
            },
            Allowed::Double(min, max) => match value.trim().parse::<f64>() {
                Ok(number) if (min..=max).contains(&number) => Ok(()),
                Ok(_) => refuse(format!("must be from {min} to {max}")),
                Err(_) => refuse("not a number of configuration type DOUBLE".to_owned()),
            },
            Allowed::OneOf(words) => {
                if words.contains(&value.trim()) {
                    Ok(())
                } else {
                    refuse(format!("must be one of: {}", words.join(", ")))
                }
            }
            Allowed::ListOf(words) => {
                let items: Vec<&str> =
                    value.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
                if !items.is_empty() && items.iter().all(|item| words.contains(item)) {
                    Ok(())
                } else {
                    refuse(format!("must be a list of: {}", words.join(", ")))
                }
            }
            Allowed::EmptyList => {
                if value.trim().is_empty() {
                    Ok(())
                } else {
                    refuse("this cluster cannot do it; only an empty list is possible".to_owned())
                }
            }
        }
    }
}

/// Where an effective value comes from, as DescribeConfigs numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum ConfigSource {
    /// Set on the topic.
    DynamicTopic = 1,
    /// Set on this broker at run time.
    DynamicBroker = 2,
    /// Set for all brokers at run time.
    DynamicDefaultBroker = 3,
    /// Given when the broker started.
    StaticBroker = 4,
    /// Built in.
    Default = 5,
}

/// The values that the broker gives to topics, by the broker's name of the config.
pub type BrokerValues = BTreeMap<String, String>;

/// The effective value of `def` for a topic, and where it comes from.
pub fn effective<'a>(
    def: &TopicConfigDef,
    overrides: &'a TopicOverrides,
    broker: &'a BrokerValues,
) -> (&'a str, ConfigSource)
where
    'static: 'a,
{
    if let Some(value) = overrides.get(def.name) {
        return (value, ConfigSource::DynamicTopic);
    }
    if let Some(value) = def.broker_synonym.and_then(|synonym| broker.get(synonym)) {
        return (value, ConfigSource::StaticBroker);
    }
    (def.default, ConfigSource::Default)
}

/// Reads the effective value of a config that the table bounds; falls back to the default where a value that
/// was stored by another version no longer parses.
fn number<T: std::str::FromStr>(name: &str, overrides: &TopicOverrides, broker: &BrokerValues) -> T {
    let def = TopicConfigDef::find(name).expect("the name is one of the table");
    let (value, _) = effective(def, overrides, broker);
    value
        .trim()
        .parse()
        .or_else(|_| def.default.parse())
        .unwrap_or_else(|_| panic!("the default of {name} does not parse"))
}

/// A topic's settings as numbers, for those who act on them.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each field is the Kafka config of that name")]
pub struct TopicSettings {
    pub file_delete_delay_ms: i64,
    pub flush_messages: i64,
    pub flush_ms: i64,
    pub index_interval_bytes: i32,
    pub max_message_bytes: i32,
    pub message_timestamp_after_max_ms: i64,
    pub message_timestamp_before_max_ms: i64,
    pub log_append_time: bool,
    pub retention_bytes: i64,
    pub retention_ms: i64,
    pub segment_bytes: i32,
    pub segment_index_bytes: i32,
    pub segment_jitter_ms: i64,
    pub segment_ms: i64,
}

impl TopicSettings {
    /// The effective settings of a topic with these overrides on a broker with these values.
    pub fn resolve(overrides: &TopicOverrides, broker: &BrokerValues) -> Self {
        let timestamp_type: String = number("message.timestamp.type", overrides, broker);
        Self {
            file_delete_delay_ms: number("file.delete.delay.ms", overrides, broker),
            flush_messages: number("flush.messages", overrides, broker),
            flush_ms: number("flush.ms", overrides, broker),
            index_interval_bytes: number("index.interval.bytes", overrides, broker),
            max_message_bytes: number("max.message.bytes", overrides, broker),
            message_timestamp_after_max_ms: number("message.timestamp.after.max.ms", overrides, broker),
            message_timestamp_before_max_ms: number("message.timestamp.before.max.ms", overrides, broker),
            log_append_time: timestamp_type == "LogAppendTime",
            retention_bytes: number("retention.bytes", overrides, broker),
            retention_ms: number("retention.ms", overrides, broker),
            segment_bytes: number("segment.bytes", overrides, broker),
            segment_index_bytes: number("segment.index.bytes", overrides, broker),
            segment_jitter_ms: number("segment.jitter.ms", overrides, broker),
            segment_ms: number("segment.ms", overrides, broker),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_possible() {
        assert!(TOPIC_CONFIGS.is_sorted_by(|a, b| a.name < b.name));
        for def in TOPIC_CONFIGS {
            assert_eq!(def.validate(def.default), Ok(()), "{}", def.name);
            assert!(TopicConfigDef::find(def.name).is_some());
        }
    }

    #[test]
    fn a_topics_own_value_comes_before_the_brokers() {
        let mut broker = BrokerValues::new();
        broker.insert("log.retention.ms".to_owned(), "5".to_owned());
        let mut topic = TopicOverrides::new();
        assert_eq!(TopicSettings::resolve(&topic, &broker).retention_ms, 5);
        topic.insert("retention.ms".to_owned(), "7".to_owned());
        assert_eq!(TopicSettings::resolve(&topic, &broker).retention_ms, 7);
        assert_eq!(TopicSettings::resolve(&topic, &broker).segment_bytes, 1_073_741_824);
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        for (name, value) in [
            ("retention.ms", "soon"),
            ("retention.ms", "-2"),
            ("segment.bytes", "1024"),
            ("cleanup.policy", "shred"),
            ("cleanup.policy", ""),
            ("message.timestamp.type", "Whenever"),
            ("remote.storage.enable", "true"),
            ("min.cleanable.dirty.ratio", "1.5"),
            ("unclean.leader.election.enable", "maybe"),
        ] {
            let error = TopicConfigDef::find(name).unwrap().validate(value).unwrap_err();
            assert!(error.contains(name) && error.contains(value), "{error}");
        }
    }
}
