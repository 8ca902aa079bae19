//! All logs of this broker.

use std::path::PathBuf;
use std::sync::Arc;

use chronik_disk::Disk;
use chronik_types::{MonotonicMs, Now, TopicId, TopicPartition};

use crate::{FlushQueue, Log, LogConfig, LogError, ManagerOptions};

/// Says what a topic's settings are, at start and when a log is created.
pub type ConfigSource = dyn Fn(&str) -> Arc<LogConfig> + Send + Sync;

/// Log directories that are being opened: locked and listed, their partitions waiting to be recovered.
///
/// [`recover_next`](Self::recover_next) may be called from several threads until it says that nothing is left.
pub struct StartingLogManager {}

impl StartingLogManager {
    /// Recovers one more partition. False when there is none left to begin with.
    pub fn recover_next(&self, _now: Now) -> bool {
        unimplemented!()
    }

    /// Recovers what is left and gives the manager.
    pub fn finish(self, _now: Now) -> Arc<LogManager> {
        unimplemented!()
    }
}

/// All logs of this broker.
///
/// Every method may be called from any thread. [`maintain`](Self::maintain) is for one thread at a time, the one
/// that the server keeps for it.
pub struct LogManager {}

/// One log directory as DescribeLogDirs shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDirDescription {
    /// The directory.
    pub path: PathBuf,
    /// Why it is offline, if it is.
    pub offline_reason: Option<Arc<str>>,
    /// Bytes that can still be written to its file system, −1 where unknown.
    pub usable_bytes: i64,
    /// The size of its file system, −1 where unknown.
    pub total_bytes: i64,
    /// Its partitions with the bytes that each holds, sorted.
    pub partitions: Vec<(TopicPartition, u64)>,
}

impl LogManager {
    /// Locks the directories (made where they are missing), reads their checkpoints and lists their partitions.
    /// `config_for` says each topic's settings.
    pub fn open(
        _disk: Arc<dyn Disk>,
        _log_dirs: Vec<PathBuf>,
        _options: ManagerOptions,
        _config_for: Arc<ConfigSource>,
        _now: Now,
    ) -> Result<StartingLogManager, LogError> {
        unimplemented!()
    }

    /// The partition's log, if there is one.
    pub fn get(&self, _partition: &TopicPartition) -> Option<Arc<Log>> {
        unimplemented!()
    }

    /// The partition's log, made where there is none. Fails with `InconsistentTopicId` where the directory belongs
    /// to another topic of that name: retire it first.
    pub fn get_or_create(
        &self,
        _now: Now,
        _partition: &TopicPartition,
        _topic_id: TopicId,
        _config: Arc<LogConfig>,
    ) -> Result<Arc<Log>, LogError> {
        unimplemented!()
    }

    /// Closes the partition's log and renames its directory; maintenance removes it later. False where there is
    /// none.
    pub fn delete(&self, _now: Now, _partition: &TopicPartition) -> Result<bool, LogError> {
        unimplemented!()
    }

    /// Closes a log that the metadata does not know and renames its directory to `…-stray`, where it stays until an
    /// operator looks at it. False where there is none.
    pub fn retire_stray(&self, _now: Now, _partition: &TopicPartition) -> Result<bool, LogError> {
        unimplemented!()
    }

    /// All logs, sorted by partition.
    pub fn logs(&self) -> Vec<Arc<Log>> {
        unimplemented!()
    }

    /// The directories with what they hold.
    pub fn describe_dirs(&self) -> Vec<LogDirDescription> {
        unimplemented!()
    }

    /// The queue that the server's syncing thread drives.
    pub fn flush_queue(&self) -> &Arc<FlushQueue> {
        unimplemented!()
    }

    /// Sets what is called when maintenance is wanted before its time, such as when many bytes were appended since
    /// the last checkpoint. It must be quick: appends call it.
    pub fn set_maintenance_waker(&self, _wake: Box<dyn Fn() + Send + Sync>) {
        unimplemented!()
    }

    /// Does what is due: checkpoints, retention, rolling by time, `flush.ms`, removal of deleted files, expiry of
    /// producers and of idle memory. Gives when it wants to be called again.
    pub fn maintain(&self, _now: Now) -> MonotonicMs {
        unimplemented!()
    }

    /// Syncs all logs, writes the last checkpoint and the mark of a clean shutdown, and gives the directories back.
    pub fn shutdown(&self, _now: Now) -> Result<(), LogError> {
        unimplemented!()
    }
}
