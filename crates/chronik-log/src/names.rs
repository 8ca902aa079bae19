//! The names of files and directories, which are Kafka's.

use std::path::{Path, PathBuf};

use chronik_types::{TOPIC_NAME_BYTES_MAX, TopicPartition, validate_topic_name};

/// Record batches.
pub(crate) const LOG: &str = "log";
/// Offset index.
pub(crate) const INDEX: &str = "index";
/// Time index.
pub(crate) const TIME_INDEX: &str = "timeindex";
/// Aborted transactions.
pub(crate) const TXN_INDEX: &str = "txnindex";
/// Producer snapshot; its number is the offset that it was taken at.
pub(crate) const SNAPSHOT: &str = "snapshot";
/// Added to a file that is no longer part of the log and waits for its removal.
pub(crate) const DELETED: &str = ".deleted";
/// Added to a file of a segment that compaction is writing.
pub(crate) const CLEANED: &str = ".cleaned";
/// Added to a file of a compacted segment that is about to replace others.
pub(crate) const SWAP: &str = ".swap";
/// Added to a file that is written before it takes another's place.
pub(crate) const TMP: &str = ".tmp";
/// Where a partition's leader epochs start.
pub(crate) const LEADER_EPOCH_CHECKPOINT: &str = "leader-epoch-checkpoint";
/// A partition's topic id.
pub(crate) const PARTITION_METADATA: &str = "partition.metadata";
/// Where a log is missing records although it goes on behind them.
pub(crate) const HOLE: &str = "hole";
/// Ends the name of a directory that waits for its removal.
pub(crate) const DELETE_DIR: &str = "-delete";
/// Ends the name of a directory that no topic claims.
pub(crate) const STRAY_DIR: &str = "-stray";

/// In a log directory: the lock against a second process.
pub(crate) const LOCK: &str = ".lock";
/// In a log directory: left by a clean shutdown.
pub(crate) const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
/// In a log directory: left by a process that could not sync something in it.
pub(crate) const SYNC_FAILED: &str = ".chronik_sync_failed";
/// In a log directory: where each log was synced up to.
pub(crate) const RECOVERY_POINT_CHECKPOINT: &str = "recovery-point-offset-checkpoint";
/// In a log directory: each log's high watermark.
pub(crate) const HIGH_WATERMARK_CHECKPOINT: &str = "replication-offset-checkpoint";
/// In a log directory: each log's first offset.
pub(crate) const LOG_START_CHECKPOINT: &str = "log-start-offset-checkpoint";
/// In a log directory: the offset up to which each compacted log was cleaned.
pub(crate) const CLEANER_CHECKPOINT: &str = "cleaner-offset-checkpoint";

/// The name of a segment's file or of a snapshot.
pub(crate) fn file(offset: i64, extension: &str) -> String {
    format!("{offset:020}.{extension}")
}

/// A path with a suffix behind its extension.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The offset and the extension that a file's name stands for, or `None` for any other file.
pub(crate) fn parse_file(name: &str) -> Option<(i64, &str)> {
    let (digits, extension) = name.split_once('.')?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((digits.parse().ok()?, extension))
}

/// The partition that a directory's name stands for, or `None` for any other directory.
pub(crate) fn parse_partition_dir(name: &str) -> Option<TopicPartition> {
    let (topic, partition) = name.rsplit_once('-')?;
    if partition.len() > 1 && partition.starts_with('0') || !partition.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    validate_topic_name(topic).ok()?;
    Some(TopicPartition::new(topic, partition.parse().ok()?))
}

/// A partition's directory once it has lost its partition: `<topic>-<n>.<unique><suffix>`, cut to what a file
/// system takes, as Kafka names it. `unique` is 32 hexadecimal digits.
pub(crate) fn renamed_dir(partition: &TopicPartition, unique: u128, suffix: &str) -> String {
    let tail = format!(".{unique:032x}{suffix}");
    let mut name = partition.to_string();
    // A topic name and its number fit 255 bytes by themselves; with the tail they may not.
    name.truncate((TOPIC_NAME_BYTES_MAX + 6).saturating_sub(tail.len()));
    name + &tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_go_there_and_back() {
        assert_eq!(file(0, LOG), "00000000000000000000.log");
        assert_eq!(parse_file("00000000000000000042.timeindex"), Some((42, "timeindex")));
        assert_eq!(parse_file("00000000000000000042.log.deleted"), Some((42, "log.deleted")));
        for other in ["42.log", "0000000000000000000x.log", "99999999999999999999.log", "partition.metadata"]
        {
            assert_eq!(parse_file(other), None, "{other}");
        }
    }

    #[test]
    fn directory_names_go_there_and_back() {
        assert_eq!(parse_partition_dir("a-b-3"), Some(TopicPartition::new("a-b", 3)));
        for other in ["a", "a-", "a-x", "a-01", "-3", "a-0.00ff-delete", "a-99999999999", ".-1"] {
            assert_eq!(parse_partition_dir(other), None, "{other}");
        }
    }

    #[test]
    fn renamed_directories_fit_a_file_system() {
        let long = TopicPartition::new("x".repeat(249), 99_999);
        for suffix in [DELETE_DIR, STRAY_DIR] {
            let name = renamed_dir(&long, u128::MAX, suffix);
            assert!(name.len() <= 255 && name.ends_with(suffix), "{name}");
            assert_eq!(parse_partition_dir(&name), None);
        }
        assert_eq!(
            renamed_dir(&TopicPartition::new("t", 0), 0xab, DELETE_DIR),
            "t-0.000000000000000000000000000000ab-delete"
        );
    }
}
