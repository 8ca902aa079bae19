//! All logs of this broker.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use chronik_disk::{Disk, DiskLock};
use chronik_types::{MonotonicMs, Now, TopicId, TopicPartition};
use parking_lot::{Mutex, RwLock};

use crate::dir::{LogDir, Shared};
use crate::journal::NoteKind;
use crate::log::{LogParts, replace_unsynced};
use crate::recovery::Known;
use crate::startup::{FailedLog, Recovered, StartingLogManager};
use crate::stats::LogStats;
use crate::{
    FlushQueue, Log, LogConfig, LogError, ManagerOptions, kafka_checkpoint, names, partition_metadata,
};

/// Says what a topic's settings are, at start and when a log is created.
pub type ConfigSource = dyn Fn(&str) -> Arc<LogConfig> + Send + Sync;

/// All logs of this broker.
///
/// Every method may be called from any thread. [`maintain`](Self::maintain) is for one thread at a time, the one
/// that the server keeps for it.
pub struct LogManager {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) dirs: Vec<ManagedDir>,
    logs: RwLock<BTreeMap<TopicPartition, Arc<Log>>>,
    failed: RwLock<BTreeMap<TopicPartition, FailedLog>>,
    /// Held while a log is made, deleted or retired, and while a recovery begins or ends, but never during one: whoever
    /// deletes a log is perhaps the thread of the metadata log.
    creating: Mutex<()>,
    flush_queue: Arc<FlushQueue>,
    renamed_count: AtomicU64,
    /// See [`LogManager::hold_deletions`].
    holds_deletions: AtomicBool,
    pub(crate) maintenance: Mutex<crate::maintenance::Due>,
}

/// A log directory with what only the manager needs of it.
pub(crate) struct ManagedDir {
    pub(crate) dir: Arc<LogDir>,
    /// Given back at shutdown.
    pub(crate) lock: Mutex<Option<Box<dyn DiskLock>>>,
    /// Journals that the next checkpoint makes superfluous.
    pub(crate) old_journals: Mutex<Vec<u64>>,
}

impl ManagedDir {
    pub(crate) fn new(dir: Arc<LogDir>, lock: Box<dyn DiskLock>, journals: Vec<u64>) -> Self {
        Self { dir, lock: Mutex::new(Some(lock)), old_journals: Mutex::new(journals) }
    }
}

/// One log directory as `DescribeLogDirs` shows it.
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
        disk: Arc<dyn Disk>,
        log_dirs: Vec<PathBuf>,
        options: ManagerOptions,
        config_for: Arc<ConfigSource>,
        now: Now,
    ) -> Result<StartingLogManager, LogError> {
        StartingLogManager::open(disk, log_dirs, options, config_for, now)
    }

    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        shared: Arc<Shared>,
        dirs: Vec<ManagedDir>,
        recovered: Recovered,
        now: Now,
    ) -> Self {
        let maintenance = Mutex::new(crate::maintenance::Due::first(&shared.options, now));
        Self {
            disk,
            shared,
            dirs,
            logs: RwLock::new(recovered.logs),
            failed: RwLock::new(recovered.failed),
            creating: Mutex::new(()),
            flush_queue: Arc::default(),
            renamed_count: AtomicU64::new(0),
            holds_deletions: AtomicBool::new(false),
            maintenance,
        }
    }

    /// Lets nothing go by age or size, and cleans nothing, until [`allow_deletions`](Self::allow_deletions): the settings by
    /// which it would go may be older than those in force.
    pub fn hold_deletions(&self) {
        self.holds_deletions.store(true, Ordering::Release);
    }

    /// The settings of all logs are those in force, and followed from now on.
    pub fn allow_deletions(&self) {
        self.holds_deletions.store(false, Ordering::Release);
        self.shared.wake_maintenance();
    }

    /// Whether nothing may go.
    pub fn holds_deletions(&self) -> bool {
        self.holds_deletions.load(Ordering::Acquire)
    }

    /// The partition's log, if there is one.
    pub fn get(&self, partition: &TopicPartition) -> Option<Arc<Log>> {
        self.logs.read().get(partition).cloned()
    }

    /// The partition's log, made where there is none. Fails with `InconsistentTopicId` where the directory belongs
    /// to another topic of that name: retire it first. A log that could not be recovered gives the reason until
    /// [`maintain`](Self::maintain) has recovered it.
    pub fn get_or_create(
        &self,
        partition: &TopicPartition,
        topic_id: TopicId,
        config: Arc<LogConfig>,
    ) -> Result<Arc<Log>, LogError> {
        let _creating = self.creating.lock();
        if let Some(log) = self.get(partition) {
            return Self::claim(log, topic_id, config);
        }
        if let Some(failed) = self.failed.read().get(partition) {
            return Err(failed.error.clone());
        }
        let is_online = |home: &&ManagedDir| home.dir.check_online().is_ok();
        for home in self.dirs.iter().filter(is_online) {
            home.dir.pay_deletion(partition)?;
        }
        let dir = self.choose_dir()?;
        let path = dir.partition_path(partition);
        // Or a power loss might bring the log of a deleted topic back under this name.
        for home in self.dirs.iter().filter(is_online) {
            home.dir.sync_renames()?;
        }
        dir.disk
            .create_dir_all(&path)
            .map_err(|source| dir.write_failed("make the directory", &path, source))?;
        let metadata = partition_metadata::format(topic_id);
        replace_unsynced(&dir, &path.join(names::PARTITION_METADATA), metadata.as_bytes())?;
        let parts = LogParts { id_unsynced: true, ..LogParts::default() };
        let log = Log::new(Arc::clone(&dir), partition.clone(), topic_id, config, parts);
        let log = Arc::new(log);
        self.logs.write().insert(partition.clone(), Arc::clone(&log));
        // A checkpoint that knows a log is believed to outlast a power loss with the log's id (`id_unsynced`).
        dir.mark_synced_notes();
        Ok(log)
    }

    /// A log that is there, if it is this topic's.
    fn claim(log: Arc<Log>, topic_id: TopicId, config: Arc<LogConfig>) -> Result<Arc<Log>, LogError> {
        let found = log.topic_id();
        if found == TopicId::ZERO {
            let path = log.path().join(names::PARTITION_METADATA);
            replace_unsynced(&log.dir, &path, partition_metadata::format(topic_id).as_bytes())?;
            log.adopt_topic_id(topic_id);
            log.writer.lock().id_unsynced = true;
            log.dir.mark_synced_notes();
        } else if found != topic_id {
            return Err(LogError::InconsistentTopicId { found, expected: topic_id });
        }
        log.update_config(config);
        Ok(log)
    }

    /// The directory that takes the next partition: of those that work, the one with the fewest.
    fn choose_dir(&self) -> Result<Arc<LogDir>, LogError> {
        if let [only] = self.dirs.as_slice() {
            only.dir.check_online()?;
            return Ok(Arc::clone(&only.dir));
        }
        let mut counts: BTreeMap<&PathBuf, usize> = BTreeMap::new();
        let logs = self.logs();
        for log in &logs {
            *counts.entry(&log.dir.path).or_default() += 1;
        }
        let online = self.dirs.iter().filter(|home| home.dir.check_online().is_ok());
        let least = online.min_by_key(|home| counts.get(&home.dir.path).copied().unwrap_or(0));
        match (least, self.dirs.first()) {
            (Some(home), _) => Ok(Arc::clone(&home.dir)),
            (None, Some(first)) => Err(first.dir.check_online().err().unwrap_or(LogError::Closed)),
            (None, None) => Err(LogError::Closed),
        }
    }

    /// Closes the partition's log and renames its directory; maintenance removes it later. False where there is
    /// none. A log that is being recovered is never served from now on, and goes when that has ended.
    pub fn delete(&self, now: Now, partition: &TopicPartition) -> Result<bool, LogError> {
        let _creating = self.creating.lock();
        if let Some(failed) = self.failed.write().get_mut(partition).filter(|log| log.is_being_recovered()) {
            failed.mark_deleted();
            return Ok(true);
        }
        self.delete_now(now, partition)
    }

    /// The caller holds `creating`.
    fn delete_now(&self, now: Now, partition: &TopicPartition) -> Result<bool, LogError> {
        let delay_ms = self.get(partition).map_or(0, |log| log.config().file_delete_delay_ms);
        let Some((dir, path)) = self.rename_away(now, partition, names::DELETE_DIR)? else {
            return Ok(false);
        };
        dir.removals.push_dir(now.monotonic.plus_ms(delay_ms), path);
        Ok(true)
    }

    /// Closes a log that the metadata does not know and renames its directory to `…-stray`, where it stays until an
    /// operator looks at it. False where there is none.
    pub fn retire_stray(&self, now: Now, partition: &TopicPartition) -> Result<bool, LogError> {
        let _creating = self.creating.lock();
        if let Some(failed) = self.failed.read().get(partition).filter(|log| log.is_being_recovered()) {
            return Err(failed.error.clone());
        }
        let Some((_, path)) = self.rename_away(now, partition, names::STRAY_DIR)? else { return Ok(false) };
        tracing::warn!(%partition, path = %path.display(), "no topic claims this partition; its directory was renamed and is kept");
        Ok(true)
    }

    /// The caller holds `creating`, and nobody recovers the log.
    fn rename_away(
        &self,
        now: Now,
        partition: &TopicPartition,
        suffix: &str,
    ) -> Result<Option<(Arc<LogDir>, PathBuf)>, LogError> {
        let dir = match self.get(partition) {
            Some(log) => {
                let dir = Arc::clone(&log.dir);
                log.close();
                dir
            }
            None => match self.dir_of_failed(partition) {
                Some(dir) => dir,
                None => return Ok(None),
            },
        };
        // And again when it is renamed: a checkpoint that is made in between has the note behind it or before it.
        dir.mark_renamed();
        dir.note_or_owe(partition, TopicId::ZERO, NoteKind::Delete, 0)?;
        let count = self.renamed_count.fetch_add(1, Ordering::Relaxed);
        let unique = (u128::from(now.wall.get().unsigned_abs()) << 64) | u128::from(count);
        let from = dir.partition_path(partition);
        let to = dir.path.join(names::renamed_dir(partition, unique, suffix));
        dir.mark_renamed();
        dir.disk.rename(&from, &to).map_err(|source| dir.write_failed("rename", &from, source))?;
        self.logs.write().remove(partition);
        self.failed.write().remove(partition);
        // A topic of the same name that comes later was never cleaned.
        dir.mark_cleaner_offsets_changed();
        Ok(Some((dir, to)))
    }

    /// The log directory that holds a partition which could not be recovered, if there is one.
    fn dir_of_failed(&self, partition: &TopicPartition) -> Option<Arc<LogDir>> {
        if !self.failed.read().contains_key(partition) {
            return None;
        }
        let holds = |dir: &LogDir| dir.disk.exists(&dir.partition_path(partition)).unwrap_or(false);
        self.dirs.iter().map(|home| &home.dir).find(|dir| holds(dir)).map(Arc::clone)
    }

    /// All logs, sorted by partition.
    pub fn logs(&self) -> Vec<Arc<Log>> {
        self.logs.read().values().cloned().collect()
    }

    /// Partitions whose logs could not be recovered, with the reason.
    pub fn failed(&self) -> Vec<(TopicPartition, LogError)> {
        self.failed.read().iter().map(|(partition, log)| (partition.clone(), log.error.clone())).collect()
    }

    /// Whether the partition's log could not be recovered.
    pub fn is_failed(&self, partition: &TopicPartition) -> bool {
        self.failed.read().contains_key(partition)
    }

    /// Whether there are partitions that nothing but a full disk keeps from being recovered, so that nobody can say yet
    /// whether they have lost anything. [`LogManager::maintain`] recovers them once there is room.
    pub fn waits_for_room(&self) -> bool {
        self.failed.read().values().any(FailedLog::waits_for_room)
    }

    /// Why a directory's checkpoint has to stay as it is, if it has.
    pub(crate) fn why_checkpoint_stays(&self, dir: &Arc<LogDir>) -> Option<LogError> {
        let failed = self.failed.read();
        let waiting =
            failed.values().find(|failed| failed.needs_checkpoint() && Arc::ptr_eq(failed.dir(), dir));
        waiting.map(|failed| failed.error.clone())
    }

    /// What is known of the logs in a directory that could not be recovered, for its checkpoint. What the journals say of
    /// them is in the new one afterwards, and nothing else in between: a deletion is noted before or behind all of it.
    pub(crate) fn carry_failed(&self, dir: &Arc<LogDir>) -> Result<Vec<Known>, LogError> {
        let mut carried = Vec::new();
        {
            let _creating = self.creating.lock();
            let failed = self.failed.read();
            for (partition, failed) in failed.iter().filter(|(_, failed)| Arc::ptr_eq(failed.dir(), dir)) {
                dir.note_again(partition, &failed.known().notes)?;
                carried.push(failed.known().clone());
            }
        }
        // Some of them may have been durable. Nobody waits for that.
        if carried.iter().any(|known| known.notes.iter().any(|note| note.kind != NoteKind::Append)) {
            dir.sync_journal_now()?;
        }
        Ok(carried)
    }

    /// Recovers what a full disk has kept from it, if there is room now.
    pub(crate) fn recover_waiting(&self, now: Now) {
        if self.failed.read().is_empty() {
            return;
        }
        // The system is asked under no lock: whoever fetches looks for the failed logs too.
        let with_room: Vec<&Arc<LogDir>> =
            self.dirs.iter().map(|home| &home.dir).filter(|dir| crate::startup::has_room(dir)).collect();
        let due = |(partition, failed): (&TopicPartition, &mut FailedLog)| {
            let has_room = with_room.iter().any(|dir| Arc::ptr_eq(dir, failed.dir()));
            failed.is_due(now, has_room).then(|| partition.clone())
        };
        let due: Vec<TopicPartition> = self.failed.write().iter_mut().filter_map(due).collect();
        for partition in due {
            self.recover_again(now, &partition);
        }
    }

    /// Recovers a log, or does away with one that was deleted while it was recovered.
    fn recover_again(&self, now: Now, partition: &TopicPartition) {
        let attempt = {
            let _creating = self.creating.lock();
            let mut failed = self.failed.write();
            let Some(failed) = failed.get_mut(partition) else { return };
            failed.begin_attempt()
        };
        // Nobody waits for this; it may take minutes.
        let recovered = attempt.map(|attempt| attempt.recover(partition));
        let _creating = self.creating.lock();
        if self.failed.read().get(partition).is_some_and(FailedLog::is_deleted) {
            if let Some(Ok(log)) = recovered {
                log.close();
            }
            match self.delete_now(now, partition) {
                Ok(_) => drop(self.failed.write().remove(partition)),
                Err(error) => tracing::warn!(%partition, %error, "cannot delete a log; it is tried again"),
            }
            return;
        }
        match recovered {
            Some(Ok(log)) => {
                tracing::info!(%partition, "the partition is recovered");
                let log = Arc::new(log);
                self.logs.write().insert(partition.clone(), Arc::clone(&log));
                self.failed.write().remove(partition);
                // What was carried over of it may have been durable, and goes with the next checkpoint's journal.
                log.dir.mark_synced_notes();
            }
            Some(Err(error)) => {
                tracing::debug!(%partition, %error, "the partition cannot be recovered yet");
                if !matches!(error, LogError::DiskFull { .. }) {
                    self.shared.note_loss();
                }
                if let Some(failed) = self.failed.write().get_mut(partition) {
                    failed.end_attempt(error);
                }
            }
            None => {}
        }
    }

    /// Whether the start, or the recovery of what had waited for room, has found what [`StartingLogManager::set_loss_listener`] tells.
    pub fn has_lost_records(&self) -> bool {
        self.shared.has_lost_records()
    }

    /// Sets who is told, from the thread that finds out and perhaps with a log's locks held, when a directory has gone
    /// offline; at once where one has already. What was not synced there is lost perhaps, and nobody will ever know. Only
    /// the first one counts.
    pub fn set_offline_listener(&self, listener: Box<dyn Fn() + Send + Sync>) {
        let is_first = self.shared.offline_listener.set(listener).is_ok();
        debug_assert!(is_first, "a process listens once");
        if !self.offline_dirs().is_empty() {
            self.shared.tell_offline();
        }
    }

    /// The directories with what they hold.
    pub fn describe_dirs(&self) -> Vec<LogDirDescription> {
        let logs = self.logs();
        let describe = |home: &ManagedDir| {
            let dir = &home.dir;
            let space = self.disk.space(&dir.path).ok();
            let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
            LogDirDescription {
                path: dir.path.clone(),
                offline_reason: dir.offline_reason(),
                usable_bytes: space.map_or(-1, |space| bytes(space.usable_bytes)),
                total_bytes: space.map_or(-1, |space| bytes(space.total_bytes)),
                partitions: logs
                    .iter()
                    .filter(|log| Arc::ptr_eq(&log.dir, dir))
                    .map(|log| (log.topic_partition().clone(), log.size_bytes()))
                    .collect(),
            }
        };
        self.dirs.iter().map(describe).collect()
    }

    /// The directories that can no longer be written to, with the reason.
    pub fn offline_dirs(&self) -> Vec<(PathBuf, Arc<str>)> {
        let offline = |home: &ManagedDir| Some((home.dir.path.clone(), home.dir.offline_reason()?));
        self.dirs.iter().filter_map(offline).collect()
    }

    /// The queue that the server's syncing thread drives.
    pub fn flush_queue(&self) -> &Arc<FlushQueue> {
        &self.flush_queue
    }

    /// What the logs have done so far, for the metrics.
    pub fn stats(&self) -> LogStats {
        self.shared.counters.snapshot()
    }

    /// Bytes of recent batches in memory.
    pub fn tail_memory_bytes(&self) -> u64 {
        self.shared.tail_memory.used_bytes()
    }

    /// Sets what is called when maintenance is wanted before its time, such as when many bytes were appended since
    /// the last checkpoint. It must be quick: appends call it. Only the first one counts.
    pub fn set_maintenance_waker(&self, wake: Box<dyn Fn() + Send + Sync>) {
        // A second waker would mean a second maintenance thread, which there is not.
        drop(self.shared.waker.set(wake));
    }

    /// Does what is due: checkpoints, retention, `flush.ms`, removal of deleted files, expiry of producers and of idle
    /// memory. Gives when it wants to be called again.
    pub fn maintain(&self, now: Now) -> MonotonicMs {
        crate::maintenance::run(self, now)
    }

    /// Writes the file that says how far the logs of a directory were cleaned, if that has changed.
    pub(crate) fn write_cleaner_offsets(&self, dir: &Arc<LogDir>) -> Result<(), LogError> {
        let _writing = dir.cleaner_offsets.lock();
        if !dir.take_cleaner_offsets_changed() {
            return Ok(());
        }
        let logs = self.logs();
        let of_failed = |(partition, failed): (&TopicPartition, &FailedLog)| {
            let is_here = Arc::ptr_eq(failed.dir(), dir);
            Some((partition.clone(), failed.known().cleaned_up_to.filter(|_| is_here)?))
        };
        let failed: Vec<(TopicPartition, i64)> = self.failed.read().iter().filter_map(of_failed).collect();
        let offsets: BTreeMap<TopicPartition, i64> = logs
            .iter()
            .filter(|log| Arc::ptr_eq(&log.dir, dir))
            .filter_map(|log| Some((log.topic_partition().clone(), log.cleaned_up_to()?.get())))
            .chain(failed)
            .collect();
        let path = dir.path.join(names::CLEANER_CHECKPOINT);
        dir.disk.replace_file(&path, kafka_checkpoint::format(&offsets).as_bytes()).map_err(|source| {
            dir.mark_cleaner_offsets_changed();
            LogError::io("write", &path, source)
        })
    }

    /// Syncs all logs, writes the last checkpoint and the mark of a clean shutdown, and gives the directories back. The
    /// first failure is told; what can be written is written nevertheless.
    pub fn shutdown(&self, now: Now) -> Result<(), LogError> {
        crate::maintenance::shut_down(self, now)
    }
}
