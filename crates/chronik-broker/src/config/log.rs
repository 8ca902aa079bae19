//! A topic's settings as its logs obey them.

use std::sync::Arc;

use chronik_log::{CleanupPolicy, LogConfig};
use chronik_protocol::records::TimestampType;

use super::{BrokerValues, TopicOverrides, TopicSettings};

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
    fn the_longest_lag_closes_segments_of_compacted_topics_only() {
        let mut overrides = TopicOverrides::from([("max.compaction.lag.ms".to_owned(), "700".to_owned())]);
        let segment_ms = |overrides: &TopicOverrides| log_config(overrides, &BrokerValues::new()).segment_ms;
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
