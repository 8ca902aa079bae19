//! Topic configs: Kafka's names, types, bounds and defaults, and what Chronik does with each.
//!
//! One table says everything: CreateTopics validates by it, DescribeConfigs prints it, and a topic's effective
//! settings are read through it. A value that Chronik could not honour is refused by name, never stored.

use std::collections::BTreeMap;

use chronik_protocol::records::Compression;

use super::BrokerValues;

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
    /// A level of gzip: 1 to 9, or −1 for gzip's own choice.
    GzipLevel,
    /// A 64-bit integer in a closed range.
    Long(i64, i64),
    /// A number in a closed range.
    Double(f64, f64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A comma-separated list of these words, which may be empty.
    ListOf(&'static [&'static str]),
    /// A comma-separated list of replicas as `partition:broker`, or `*` for all (KIP-73).
    Replicas,
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
        Allowed::ListOf(&["compact", "delete"]),
        "How old data goes: \"delete\" drops whole segments by age and size, \"compact\" keeps the last record of each \
         key, both do both; an empty list keeps everything."
    ),
    def!(
        "compression.gzip.level",
        Some("compression.gzip.level"),
        "-1",
        Allowed::GzipLevel,
        "The gzip level that the broker uses when compression.type makes it recompress; -1 is gzip's own default."
    ),
    def!(
        "compression.lz4.level",
        Some("compression.lz4.level"),
        "9",
        Allowed::Int(1, 17),
        "The lz4 level for when compression.type makes the broker recompress; Chronik has one lz4 speed, and takes every \
         level for it."
    ),
    def!(
        "compression.type",
        Some("compression.type"),
        "producer",
        Allowed::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
        "The codec in which batches are stored: \"producer\" keeps what the producer chose, \"uncompressed\" stores \
         without compression."
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
        Allowed::Replicas,
        "Replicas whose fetching counts against follower.replication.throttled.rate, as partition:broker, or * for all."
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
        Allowed::Replicas,
        "Replicas whose serving counts against leader.replication.throttled.rate, as partition:broker, or * for all."
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
        self.allowed.config_type()
    }

    /// The value as it is stored and shown, or why it is impossible, in words for the client.
    pub fn normalize(&self, value: &str) -> Result<String, String> {
        self.allowed.normalize(self.name, value)
    }
}

impl Allowed {
    /// Whether items can be added to it and taken out.
    pub const fn is_list(self) -> bool {
        matches!(self, Self::ListOf(_) | Self::Replicas)
    }

    /// The kind of config that takes such values, for DescribeConfigs.
    pub const fn config_type(self) -> ConfigType {
        match self {
            Self::Boolean | Self::FalseOnly => ConfigType::Boolean,
            Self::Int(..) | Self::GzipLevel => ConfigType::Int,
            Self::Long(..) => ConfigType::Long,
            Self::Double(..) => ConfigType::Double,
            Self::OneOf(_) => ConfigType::String,
            Self::ListOf(_) | Self::Replicas => ConfigType::List,
        }
    }

    /// The value of the config `name` as it is stored and shown, or why it is impossible.
    pub fn normalize(self, name: &str, value: &str) -> Result<String, String> {
        let text = value.trim();
        let refuse =
            |why: &str| -> String { format!("Invalid value {value} for configuration {name}: {why}") };
        match self {
            Self::Boolean | Self::FalseOnly => match text.to_ascii_lowercase().as_str() {
                "true" if self == Self::FalseOnly => Err(refuse("Only false is possible on this cluster")),
                word @ ("true" | "false") => Ok(word.to_owned()),
                _ => Err(refuse("Expected value to be either true or false")),
            },
            Self::Int(min, max) => {
                let number: i32 = text.parse().map_err(|_| refuse("Not a number of type INT"))?;
                within(number, min, max).map_err(|why| refuse(&why))
            }
            Self::GzipLevel => {
                let number: i32 = text.parse().map_err(|_| refuse("Not a number of type INT"))?;
                if number == -1 || (1..=9).contains(&number) {
                    Ok(number.to_string())
                } else {
                    Err(refuse("Value must be between 1 and 9 or equal to -1"))
                }
            }
            Self::Long(min, max) => {
                let number: i64 = text.parse().map_err(|_| refuse("Not a number of type LONG"))?;
                within(number, min, max).map_err(|why| refuse(&why))
            }
            Self::Double(min, max) => {
                let number: f64 = text.parse().map_err(|_| refuse("Not a number of type DOUBLE"))?;
                if number.is_nan() {
                    return Err(refuse("Not a number of type DOUBLE"));
                }
                within(number, min, max).map_err(|why| refuse(&why))?;
                Ok(format!("{number:?}"))
            }
            Self::OneOf(words) => {
                if words.contains(&text) {
                    Ok(text.to_owned())
                } else {
                    Err(refuse(&format!("String must be one of: {}", words.join(", "))))
                }
            }
            Self::ListOf(words) => {
                let mut items: Vec<&str> = Vec::new();
                for item in text.split(',').map(str::trim).filter(|_| !text.is_empty()) {
                    if item.is_empty() {
                        return Err(format!("Configuration '{name}' values must not be empty."));
                    }
                    if !words.contains(&item) {
                        let why = format!("String must be one of: {}", words.join(", "));
                        return Err(format!("Invalid value {item} for configuration {name}: {why}"));
                    }
                    if !items.contains(&item) {
                        items.push(item);
                    }
                }
                Ok(items.join(","))
            }
            Self::Replicas => {
                let items: Vec<&str> = text.split(',').map(str::trim).filter(|_| !text.is_empty()).collect();
                let is_replica = |item: &&str| {
                    let number = |text: &str| text.parse::<i32>().is_ok_and(|number| 0 <= number);
                    item.split_once(':')
                        .is_some_and(|(partition, broker)| number(partition) && number(broker))
                };
                if items == ["*"] || items.iter().all(is_replica) {
                    Ok(items.join(","))
                } else {
                    Err(refuse("Expected * or a list of replicas as partition:broker,partition:broker"))
                }
            }
        }
    }
}

fn within<T: Copy + PartialOrd + std::fmt::Display>(number: T, min: T, max: T) -> Result<String, String> {
    if number < min {
        Err(format!("Value must be at least {min}"))
    } else if max < number {
        Err(format!("Value must be no more than {max}"))
    } else {
        Ok(number.to_string())
    }
}

/// Finds effective values of one topic that are possible one by one and not together.
pub fn check_together(overrides: &TopicOverrides, broker: &BrokerValues) -> Result<(), String> {
    let settings = TopicSettings::resolve(overrides, broker);
    let (min, max) = (settings.min_compaction_lag_ms, settings.max_compaction_lag_ms);
    if max < min {
        return Err(format!(
            "conflict topic config setting min.compaction.lag.ms ({min}) > max.compaction.lag.ms ({max})"
        ));
    }
    Ok(())
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
    /// The level of a logger.
    DynamicBrokerLogger = 6,
}

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
    if let Some(found) = def.broker_synonym.and_then(|synonym| broker.find(synonym)) {
        return found;
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
    pub cleanup_policy: TopicCleanup,
    pub compression_gzip_level: i32,
    pub compression_lz4_level: i32,
    pub compression_type: TopicCompression,
    pub compression_zstd_level: i32,
    pub delete_retention_ms: i64,
    pub file_delete_delay_ms: i64,
    pub flush_messages: i64,
    pub flush_ms: i64,
    pub index_interval_bytes: i32,
    pub max_compaction_lag_ms: i64,
    pub max_message_bytes: i32,
    pub message_timestamp_after_max_ms: i64,
    pub message_timestamp_before_max_ms: i64,
    /// `message.timestamp.type`.
    pub log_append_time: bool,
    pub min_cleanable_dirty_ratio: f64,
    pub min_compaction_lag_ms: i64,
    pub min_insync_replicas: i32,
    pub retention_bytes: i64,
    pub retention_ms: i64,
    pub segment_bytes: i32,
    pub segment_index_bytes: i32,
    pub segment_jitter_ms: i64,
    pub segment_ms: i64,
    pub unclean_leader_election_enable: bool,
}

/// `cleanup.policy`: what becomes of old records. Neither keeps everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicCleanup {
    /// Segments beyond the retention limits are deleted.
    pub delete: bool,
    /// The last record of each key is kept.
    pub compact: bool,
}

/// `compression.type`: how a topic's batches are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicCompression {
    /// As the producer compressed them.
    Producer,
    /// With this codec, [`Compression::None`] for none.
    Codec(Compression),
}

impl TopicSettings {
    /// The effective settings of a topic with these overrides on a broker with these values.
    pub fn resolve(overrides: &TopicOverrides, broker: &BrokerValues) -> Self {
        let text = |name: &str| -> String { number(name, overrides, broker) };
        let timestamp_type = text("message.timestamp.type");
        let cleanup = text("cleanup.policy");
        let has_policy = |policy: &str| cleanup.split(',').any(|item| item.trim() == policy);
        let compression_type = text("compression.type");
        Self {
            cleanup_policy: TopicCleanup { delete: has_policy("delete"), compact: has_policy("compact") },
            compression_gzip_level: number("compression.gzip.level", overrides, broker),
            compression_lz4_level: number("compression.lz4.level", overrides, broker),
            compression_type: match compression_type.as_str() {
                "uncompressed" => TopicCompression::Codec(Compression::None),
                name => {
                    Compression::from_name(name).map_or(TopicCompression::Producer, TopicCompression::Codec)
                }
            },
            compression_zstd_level: number("compression.zstd.level", overrides, broker),
            delete_retention_ms: number("delete.retention.ms", overrides, broker),
            file_delete_delay_ms: number("file.delete.delay.ms", overrides, broker),
            flush_messages: number("flush.messages", overrides, broker),
            flush_ms: number("flush.ms", overrides, broker),
            index_interval_bytes: number("index.interval.bytes", overrides, broker),
            max_compaction_lag_ms: number("max.compaction.lag.ms", overrides, broker),
            max_message_bytes: number("max.message.bytes", overrides, broker),
            message_timestamp_after_max_ms: number("message.timestamp.after.max.ms", overrides, broker),
            message_timestamp_before_max_ms: number("message.timestamp.before.max.ms", overrides, broker),
            log_append_time: timestamp_type == "LogAppendTime",
            min_cleanable_dirty_ratio: number("min.cleanable.dirty.ratio", overrides, broker),
            min_compaction_lag_ms: number("min.compaction.lag.ms", overrides, broker),
            min_insync_replicas: number("min.insync.replicas", overrides, broker),
            retention_bytes: number("retention.bytes", overrides, broker),
            retention_ms: number("retention.ms", overrides, broker),
            segment_bytes: number("segment.bytes", overrides, broker),
            segment_index_bytes: number("segment.index.bytes", overrides, broker),
            segment_jitter_ms: number("segment.jitter.ms", overrides, broker),
            segment_ms: number("segment.ms", overrides, broker),
            unclean_leader_election_enable: number("unclean.leader.election.enable", overrides, broker),
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
            assert_eq!(def.normalize(def.default).as_deref(), Ok(def.default), "{}", def.name);
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
    fn values_are_stored_as_kafka_shows_them() {
        for (name, value, stored) in [
            ("retention.ms", " +55 ", "55"),
            ("unclean.leader.election.enable", "TRUE", "true"),
            ("preallocate", " false", "false"),
            ("cleanup.policy", " compact , delete,compact", "compact,delete"),
            ("cleanup.policy", "", ""),
            ("compression.type", " gzip", "gzip"),
            ("compression.gzip.level", "-1", "-1"),
            ("min.cleanable.dirty.ratio", "1e-1", "0.1"),
            ("min.cleanable.dirty.ratio", "1", "1.0"),
            ("leader.replication.throttled.replicas", "0:1, 1:2", "0:1,1:2"),
            ("follower.replication.throttled.replicas", "*", "*"),
        ] {
            let normalized = TopicConfigDef::find(name).unwrap().normalize(value);
            assert_eq!(normalized.as_deref(), Ok(stored), "{name}");
        }
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        for (name, value, why) in [
            ("retention.ms", "soon", "Not a number of type LONG"),
            ("retention.ms", "", "Not a number of type LONG"),
            ("retention.ms", "-2", "Value must be at least -1"),
            ("segment.bytes", "1024", "Value must be at least 1048576"),
            ("segment.bytes", "99999999999", "Not a number of type INT"),
            ("cleanup.policy", "shred", "String must be one of: compact, delete"),
            ("cleanup.policy", "Compact", "String must be one of: compact, delete"),
            ("compression.type", "GZIP", "String must be one of: uncompressed, "),
            ("compression.gzip.level", "0", "Value must be between 1 and 9 or equal to -1"),
            ("compression.lz4.level", "18", "Value must be no more than 17"),
            ("message.timestamp.type", "Whenever", "String must be one of: CreateTime, LogAppendTime"),
            ("remote.storage.enable", "true", "Only false is possible"),
            ("preallocate", "true", "Only false is possible"),
            ("local.retention.ms", "5", "Value must be no more than -2"),
            ("min.cleanable.dirty.ratio", "1.5", "Value must be no more than 1"),
            ("min.cleanable.dirty.ratio", "NaN", "Not a number of type DOUBLE"),
            ("unclean.leader.election.enable", "maybe", "either true or false"),
            ("leader.replication.throttled.replicas", "none", "partition:broker"),
            ("leader.replication.throttled.replicas", "0:1,*", "partition:broker"),
        ] {
            let error = TopicConfigDef::find(name).unwrap().normalize(value).unwrap_err();
            assert!(error.contains(name) && error.contains(value) && error.contains(why), "{error}");
        }
        for value in ["compact,", ","] {
            let error = TopicConfigDef::find("cleanup.policy").unwrap().normalize(value).unwrap_err();
            assert!(error.contains("cleanup.policy"), "{error}");
        }
    }

    #[test]
    fn compaction_lags_must_fit_together() {
        let mut broker = BrokerValues::new();
        let mut topic = TopicOverrides::from([("min.compaction.lag.ms".to_owned(), "10".to_owned())]);
        assert_eq!(check_together(&topic, &broker), Ok(()));
        topic.insert("max.compaction.lag.ms".to_owned(), "9".to_owned());
        let error = check_together(&topic, &broker).unwrap_err();
        assert!(error.contains("min.compaction.lag.ms (10) > max.compaction.lag.ms (9)"), "{error}");
        // What the topic does not say, the broker does.
        topic.remove("max.compaction.lag.ms");
        broker.insert("log.cleaner.max.compaction.lag.ms".to_owned(), "5".to_owned());
        assert!(check_together(&topic, &broker).is_err());
    }

    #[test]
    fn words_become_settings() {
        let with = |name: &str, value: &str| {
            let topic = TopicOverrides::from([(name.to_owned(), value.to_owned())]);
            TopicSettings::resolve(&topic, &BrokerValues::new())
        };
        for (value, delete, compact) in [
            ("delete", true, false),
            ("compact", false, true),
            ("compact,delete", true, true),
            ("", false, false),
        ] {
            assert_eq!(with("cleanup.policy", value).cleanup_policy, TopicCleanup { delete, compact });
        }
        for (value, expected) in [
            ("producer", TopicCompression::Producer),
            ("uncompressed", TopicCompression::Codec(Compression::None)),
            ("gzip", TopicCompression::Codec(Compression::Gzip)),
            ("snappy", TopicCompression::Codec(Compression::Snappy)),
            ("lz4", TopicCompression::Codec(Compression::Lz4)),
            ("zstd", TopicCompression::Codec(Compression::Zstd)),
        ] {
            assert_eq!(with("compression.type", value).compression_type, expected);
        }
    }
}
