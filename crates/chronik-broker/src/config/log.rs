//! A topic's settings as its logs obey them.

use std::sync::Arc;

use chronik_log::{CleanupPolicy, LogConfig};
use chronik_protocol::records::{Compression, TimestampType};

use super::{BrokerValues, TopicCompression, TopicOverrides, TopicSettings};

/// The log's part of a topic's effective settings.
pub fn log_config(overrides: &TopicOverrides, broker: &BrokerValues) -> Arc<LogConfig> {
    Arc::new(TopicSettings::resolve(overrides, broker).log_config())
}

/// `None` for "no limit", which Kafka writes as the largest number or as −1.
fn limit(value: i64) -> Option<u64> {
    if value == i64::MAX { None } else { u64::try_from(value).ok() }
}

/// For settings that the table keeps from being negative.
fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

impl TopicSettings {
    fn compression_codec(&self) -> Option<Compression> {
        match self.compression_type {
            TopicCompression::Producer => None,
            TopicCompression::Codec(codec) => Some(codec),
        }
    }

    /// The level of the codec in which the broker compresses, where that codec has levels.
    fn compression_level(&self) -> Option<i32> {
        match self.compression_codec()? {
            Compression::None | Compression::Snappy => None,
            Compression::Gzip => Some(self.compression_gzip_level),
            Compression::Lz4 => Some(self.compression_lz4_level),
            Compression::Zstd => Some(self.compression_zstd_level),
        }
    }

    fn log_config(&self) -> LogConfig {
        LogConfig {
            segment_bytes: unsigned(self.segment_bytes.into()),
            segment_ms: self.rolled_after_ms(),
            segment_jitter_ms: unsigned(self.segment_jitter_ms),
            segment_index_bytes: unsigned(self.segment_index_bytes.into()),
            index_interval_bytes: unsigned(self.index_interval_bytes.into()),
            retention_ms: limit(self.retention_ms),
            retention_bytes: limit(self.retention_bytes),
            cleanup_policy: CleanupPolicy {
                delete: self.cleanup_policy.delete,
                compact: self.cleanup_policy.compact,
            },
            compression_type: self.compression_codec(),
            compression_level: self.compression_level(),
            min_cleanable_dirty_ratio: self.min_cleanable_dirty_ratio,
            min_compaction_lag_ms: unsigned(self.min_compaction_lag_ms),
            max_compaction_lag_ms: limit(self.max_compaction_lag_ms),
            delete_retention_ms: unsigned(self.delete_retention_ms),
            max_message_bytes: usize::try_from(self.max_message_bytes).unwrap_or(0),
            message_timestamp_type: if self.log_append_time {
                TimestampType::LogAppendTime
            } else {
                TimestampType::CreateTime
            },
            message_timestamp_before_max_ms: limit(self.message_timestamp_before_max_ms),
            message_timestamp_after_max_ms: limit(self.message_timestamp_after_max_ms),
            flush_messages: limit(self.flush_messages),
            flush_ms: limit(self.flush_ms),
            file_delete_delay_ms: unsigned(self.file_delete_delay_ms),
        }
    }

    /// A segment that is still appended to is not cleaned, so a compacted topic's are closed in time for that.
    fn rolled_after_ms(&self) -> u64 {
        if self.cleanup_policy.compact && self.max_compaction_lag_ms > 0 {
            unsigned(self.segment_ms.min(self.max_compaction_lag_ms))
        } else {
            unsigned(self.segment_ms)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_defaults_are_the_logs_defaults() {
        assert_eq!(*log_config(&TopicOverrides::new(), &BrokerValues::new()), LogConfig::default());
    }

    #[test]
    fn the_level_is_that_of_the_codec() {
        let config = |settings: &[(&str, &str)]| {
            let set = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let config = log_config(&set.collect(), &BrokerValues::default());
            (config.compression_type, config.compression_level)
        };
        let levels = [
            ("compression.gzip.level", "4"),
            ("compression.lz4.level", "5"),
            ("compression.zstd.level", "6"),
        ];
        for (name, codec, level) in [
            ("producer", None, None),
            ("uncompressed", Some(Compression::None), None),
            ("gzip", Some(Compression::Gzip), Some(4)),
            ("snappy", Some(Compression::Snappy), None),
            ("lz4", Some(Compression::Lz4), Some(5)),
            ("zstd", Some(Compression::Zstd), Some(6)),
        ] {
            let settings = [&levels[..], &[("compression.type", name)]].concat();
            assert_eq!(config(&settings), (codec, level), "{name}");
        }
        assert_eq!(config(&[("compression.type", "gzip")]), (Some(Compression::Gzip), Some(-1)));
    }

    #[test]
    fn the_longest_lag_closes_segments_of_compacted_topics_only() {
        let mut overrides = TopicOverrides::from([("max.compaction.lag.ms".to_owned(), "700".to_owned())]);
        let segment_ms =
            |overrides: &TopicOverrides| log_config(overrides, &BrokerValues::default()).segment_ms;
        assert_eq!(segment_ms(&overrides), LogConfig::default().segment_ms);
        overrides.insert("cleanup.policy".to_owned(), "compact".to_owned());
        assert_eq!(segment_ms(&overrides), 700);
        overrides.insert("segment.ms".to_owned(), "600".to_owned());
        assert_eq!(segment_ms(&overrides), 600);
    }

    #[test]
    fn minus_one_is_no_limit() {
        let overrides = TopicOverrides::from([("retention.ms".to_owned(), "-1".to_owned())]);
        assert_eq!(log_config(&overrides, &BrokerValues::new()).retention_ms, None);
    }
}
