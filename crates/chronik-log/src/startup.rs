//! Opening the log directories: lock, checkpoint, journal, listing; then recovery, partition by partition.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chronik_disk::{Disk, DiskLock};
use chronik_types::{MonotonicMs, Now, TopicPartition};
use parking_lot::Mutex;

use crate::checkpoint::{self, Checkpoint, PartitionCheckpoint};
use crate::dir::{LogDir, Shared};
use crate::journal::{self, Note, NoteKind};
use crate::manager::{ConfigSource, LogManager, ManagedDir};
use crate::recovery::{Known, LastWriter, recover};
use crate::{Log, LogConfig, LogError, ManagerOptions, kafka_checkpoint, names};

/// Log directories that are being opened: locked and listed, their partitions waiting to be recovered.
///
/// [`recover_next`](Self::recover_next) may be called from several threads until it says that nothing is left.
pub struct StartingLogManager {
    disk: Arc<dyn Disk>,
    shared: Arc<Shared>,
    config_for: Arc<ConfigSource>,
    dirs: Vec<ManagedDir>,
    tasks: Vec<Mutex<Option<Task>>>,
    next_task: AtomicUsize,
    recovered: Mutex<Recovered>,
}

/// One partition to recover.
struct Task {
    dir: Arc<LogDir>,
    partition: TopicPartition,
    known: Known,
}

#[derive(Default)]
pub(crate) struct Recovered {
    pub(crate) logs: BTreeMap<TopicPartition, Arc<Log>>,
    /// Partitions that could not be recovered, so that no empty log takes their place.
    pub(crate) failed: BTreeMap<TopicPartition, FailedLog>,
}

/// The free space from which on a log is recovered that a full disk has kept from it: its indexes and small files.
const ROOM_TO_RECOVER_BYTES: u64 = 64 << 20;

/// Whether there is that much.
pub(crate) fn has_room(dir: &LogDir) -> bool {
    dir.disk.space(&dir.path).map_or(true, |space| ROOM_TO_RECOVER_BYTES <= space.usable_bytes)
}

/// How long a recovery is not tried again after it has found the disk full, in milliseconds: an attempt reads all of the
/// log, which may take minutes, and nobody frees space by the second.
const RETRY_PAUSE_MS: u64 = 30_000;

/// Where the next attempt stands to recover a log that could not be recovered.
#[derive(Clone, Copy)]
enum Attempt {
    /// It begins as soon as there is room.
    WithRoom,
    /// It begins a pause after the last one has ended, which is when somebody looks next.
    AfterPause,
    /// It begins as soon as there is room from then on.
    NotBefore(MonotonicMs),
    /// It is under way: nobody else touches the directory.
    UnderWay,
    /// The log was deleted while one was under way. None follows, and the directory goes with its end.
    Deleted,
}

/// A log that could not be recovered.
#[derive(Clone)]
pub(crate) struct FailedLog {
    /// Why, the last time.
    pub(crate) error: LogError,
    dir: Arc<LogDir>,
    /// What is known of it, for the next attempt or the next process. Nobody else writes to its directory, so that it holds
    /// whatever becomes of other logs meanwhile.
    known: Known,
    waits: bool,
    config: Arc<LogConfig>,
    now: Now,
    attempt: Attempt,
}

impl FailedLog {
    /// Whether there is something to be gained from another attempt, as the disk was full and is not any more; or
    /// whether the directory is still to go. It is asked in every pass.
    pub(crate) fn is_due(&mut self, now: Now, has_room: bool) -> bool {
        let is_time = match self.attempt {
            Attempt::WithRoom => true,
            Attempt::NotBefore(at) => at <= now.monotonic,
            Attempt::AfterPause => {
                self.attempt = Attempt::NotBefore(now.monotonic.plus_ms(RETRY_PAUSE_MS));
                false
            }
            Attempt::UnderWay => false,
            Attempt::Deleted => return true,
        };
        is_time && matches!(self.error, LogError::DiskFull { .. }) && has_room
    }

    /// Whether nothing but room is missing, so that nobody can say yet whether it has lost anything. While there is one,
    /// its directory's checkpoint stays as it is, and tells the next process what it told this one.
    pub(crate) fn waits_for_room(&self) -> bool {
        self.waits && matches!(self.error, LogError::DiskFull { .. })
    }

    /// Whether the directory's checkpoint, or its lack, tells the next process what no other would: while the log waits for room,
    /// and where Kafka wrote it, whose own checkpoints are not believed beside one of ours.
    pub(crate) fn needs_checkpoint(&self) -> bool {
        self.waits_for_room() || self.known.last_writer != LastWriter::Chronik
    }

    pub(crate) fn dir(&self) -> &Arc<LogDir> {
        &self.dir
    }

    pub(crate) fn known(&self) -> &Known {
        &self.known
    }

    /// Whether its directory belongs to an attempt.
    pub(crate) fn is_being_recovered(&self) -> bool {
        matches!(self.attempt, Attempt::UnderWay | Attempt::Deleted)
    }

    /// Notes that it was deleted while an attempt is under way.
    pub(crate) fn mark_deleted(&mut self) {
        self.attempt = Attempt::Deleted;
    }

    pub(crate) fn is_deleted(&self) -> bool {
        matches!(self.attempt, Attempt::Deleted)
    }

    /// An attempt begins, unless the log is deleted: what is given needs no lock for it.
    pub(crate) fn begin_attempt(&mut self) -> Option<Self> {
        if self.is_deleted() {
            return None;
        }
        self.attempt = Attempt::UnderWay;
        Some(self.clone())
    }

    /// An attempt has failed.
    pub(crate) fn end_attempt(&mut self, error: LogError) {
        self.attempt = Attempt::AfterPause;
        self.error = error;
    }

    /// Recovers the log with what is known of it, under the topic's configuration when the process started.
    pub(crate) fn recover(self, partition: &TopicPartition) -> Result<Log, LogError> {
        recover(&self.dir, partition, self.known, self.config, self.now)
    }
}

impl StartingLogManager {
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        log_dirs: Vec<PathBuf>,
        options: ManagerOptions,
        config_for: Arc<ConfigSource>,
        now: Now,
    ) -> Result<Self, LogError> {
        let shared = Arc::new(Shared::new(options));
        let mut starting = Self {
            disk,
            shared,
            config_for,
            dirs: Vec::new(),
            tasks: Vec::new(),
            next_task: AtomicUsize::new(0),
            recovered: Mutex::default(),
        };
        for path in log_dirs {
            starting.open_dir(&path, now)?;
        }
        Ok(starting)
    }

    /// Sets who is told, once and from the thread that finds out, that records are gone which were in the logs when the
    /// last process ended, and which no power loss has taken: files that are missing, shorter than they were, damaged
    /// or not to be read. It is told before the recovery changes what shows it, so that a process that ends meanwhile has
    /// told it too. Whoever else has copies must not count on these. Only the first listener counts.
    pub fn set_loss_listener(&self, listener: Box<dyn Fn() + Send + Sync>) {
        let is_first = self.shared.loss_listener.set(listener).is_ok();
        debug_assert!(is_first, "a process listens once");
        if self.shared.has_lost_records()
            && let Some(tell) = self.shared.loss_listener.get()
        {
            tell();
        }
    }

    /// How many partitions there are to recover in all.
    pub fn partition_count(&self) -> usize {
        self.tasks.len()
    }

    /// Recovers one more partition. False when there is none left to begin with.
    pub fn recover_next(&self, now: Now) -> bool {
        let at = self.next_task.fetch_add(1, Ordering::Relaxed);
        let Some(task) = self.tasks.get(at).and_then(|task| task.lock().take()) else { return false };
        let Task { dir, partition, known } = task;
        let config = (self.config_for)(&partition.topic);
        let had_room = has_room(&dir);
        let kept = known.clone();
        match recover(&dir, &partition, known, Arc::clone(&config), now) {
            Ok(log) => {
                self.recovered.lock().logs.insert(partition, Arc::new(log));
            }
            Err(error) => {
                tracing::error!(%partition, dir = %dir.path.display(), %error, "cannot recover the partition; its files stay as they are");
                let waits = !had_room && matches!(error, LogError::DiskFull { .. });
                if !waits {
                    self.shared.note_loss();
                }
                // Where there was room this was an attempt like any other.
                let attempt = if waits { Attempt::WithRoom } else { Attempt::AfterPause };
                let failed = FailedLog { error, dir, known: kept, waits, config, now, attempt };
                self.recovered.lock().failed.insert(partition, failed);
            }
        }
        true
    }

    /// Recovers what is left and gives the manager.
    pub fn finish(self, now: Now) -> Arc<LogManager> {
        while self.recover_next(now) {}
        let recovered = self.recovered.into_inner();
        for home in &self.dirs {
            // What could not be recovered is not written anew either, and the next process has to know.
            if !recovered.failed.values().any(|failed| Arc::ptr_eq(&failed.dir, &home.dir)) {
                home.dir.forget_failed_sync();
            }
        }
        Arc::new(LogManager::new(self.disk, self.shared, self.dirs, recovered, now))
    }

    fn open_dir(&mut self, path: &Path, now: Now) -> Result<(), LogError> {
        let disk = Arc::clone(&self.disk);
        let failed = |attempt, path: &Path| {
            let path = path.to_owned();
            move |source| LogError::io(attempt, &path, source)
        };
        make_dir(&*disk, path).map_err(failed("make the log directory", path))?;
        let lock = lock_dir(&*disk, path)?;
        let entries = disk.read_dir(path).map_err(failed("list", path))?;
        let loaded = checkpoint::load(&*disk, path);
        for damaged in &loaded.damaged {
            tracing::warn!(path = %damaged.display(), "the checkpoint is damaged; what it knew is read from the logs");
        }
        // Nobody knows then how long the logs were.
        if loaded.checkpoint.is_none() && !loaded.damaged.is_empty() {
            self.shared.note_loss();
        }
        let read_kafka = |name| {
            disk.read_file(&path.join(name))
                .ok()
                .as_deref()
                .and_then(kafka_checkpoint::parse)
                .unwrap_or_default()
        };
        let mut kafka_log_start = read_kafka(names::LOG_START_CHECKPOINT);
        let mut kafka_high_watermark = read_kafka(names::HIGH_WATERMARK_CHECKPOINT);
        let cleaned_up_to = read_kafka(names::CLEANER_CHECKPOINT);
        // Chronik leaves such files behind too when it ends, and they say what its checkpoint says. Where they say more,
        // Kafka has come and gone since, and that checkpoint is of a time before.
        let was_kafka_here = loaded.checkpoint.as_ref().is_some_and(|checkpoint| {
            checkpoint.clean && knows_more(&kafka_log_start, &kafka_high_watermark, checkpoint)
        });
        let is_first_here = loaded.checkpoint.is_none() && loaded.damaged.is_empty();
        let is_kafkas = was_kafka_here || is_first_here && !kafka_high_watermark.is_empty();
        if !is_kafkas {
            kafka_log_start.clear();
            kafka_high_watermark.clear();
        }
        let clean_file = path.join(names::CLEAN_SHUTDOWN);
        let has_clean_file = entries.iter().any(|entry| entry.name == names::CLEAN_SHUTDOWN);
        if has_clean_file {
            disk.remove_file(&clean_file).map_err(failed("remove", &clean_file))?;
            // From now on the checkpoint is not the last word any more, whatever a power loss brings back.
            disk.sync_dir(path).map_err(failed("sync", path))?;
        }
        let last_writer = match (is_kafkas, has_clean_file) {
            (true, true) => LastWriter::KafkaWhole,
            (true, false) => LastWriter::Kafka,
            (false, _) => LastWriter::Chronik,
        };
        let mut generation = loaded.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.generation);
        let checkpoint = loaded.checkpoint.filter(|_| !was_kafka_here).unwrap_or_default();
        let boot_id = &self.shared.options.boot_id;
        let rebooted = boot_id.is_empty() || checkpoint.boot_id != *boot_id;
        // A restart of the machine leaves what is on the disk, but is not always told from the first start of all.
        let has_failed_sync = entries.iter().any(|entry| entry.name == names::SYNC_FAILED);
        if has_failed_sync {
            tracing::warn!(dir = %path.display(), "the last process could not sync what it had written; all that may not be on the disk is read and written again");
        }
        let dir = Arc::new(LogDir::new(Arc::clone(&disk), path.to_owned(), Arc::clone(&self.shared)));
        let mut known: BTreeMap<String, PartitionCheckpoint> =
            checkpoint.partitions.into_iter().map(|entry| (entry.partition.to_string(), entry)).collect();
        let mut notes: BTreeMap<String, Vec<Note>> = BTreeMap::new();
        let mut journals = Vec::new();
        let known_generation = generation;
        for entry in &entries {
            let Some(found) = journal::parse_name(&entry.name) else { continue };
            journals.push(found);
            generation = generation.max(found);
        }
        journals.sort_unstable();
        for &found in journals.iter().filter(|&&found| known_generation <= found) {
            read_journal(&*disk, path, found, &mut notes);
        }
        // Notes are only ever added to a journal of this process's own, never behind the torn end of another.
        dir.start_journal(generation + 1)?;
        for entry in entries.iter().filter(|entry| entry.is_dir) {
            if entry.name.ends_with(names::DELETE_DIR) {
                dir.removals.push_dir(now.monotonic, path.join(&entry.name));
            }
            let Some(partition) = names::parse_partition_dir(&entry.name) else { continue };
            let known = Known {
                checkpoint: known.remove(&entry.name),
                notes: notes.remove(&entry.name).unwrap_or_default(),
                rebooted,
                has_failed_sync,
                clean: checkpoint.clean && has_clean_file,
                last_writer,
                kafka_log_start: kafka_log_start.get(&partition).copied(),
                kafka_high_watermark: kafka_high_watermark.get(&partition).copied(),
                cleaned_up_to: cleaned_up_to.get(&partition).copied(),
            };
            self.add_task(Task { dir: Arc::clone(&dir), partition, known });
        }
        for (name, lost) in known {
            let deleted =
                notes.get(&name).is_some_and(|notes| notes.iter().any(|note| note.kind == NoteKind::Delete));
            if !deleted && lost.log_end_offset > lost.log_start_offset {
                self.shared.note_loss();
                tracing::warn!(dir = %path.display(), partition = %name, "the directory of a partition is gone, with its records");
            }
        }
        self.dirs.push(ManagedDir::new(dir, lock, journals));
        Ok(())
    }

    fn add_task(&mut self, task: Task) {
        let twice = self.tasks.iter().find_map(|other| {
            let other = other.lock();
            let other = other.as_ref()?;
            (other.dir.path != task.dir.path && other.partition == task.partition)
                .then(|| other.dir.path.clone())
        });
        if let Some(first) = twice {
            tracing::error!(partition = %task.partition, first = %first.display(), second = %task.dir.path.display(), "two log directories hold the same partition; the second is left alone");
            return;
        }
        self.tasks.push(Mutex::new(Some(task)));
    }
}

/// Whether Kafka's files say more of any partition than a checkpoint does.
fn knows_more(
    log_starts: &BTreeMap<TopicPartition, i64>,
    high_watermarks: &BTreeMap<TopicPartition, i64>,
    checkpoint: &Checkpoint,
) -> bool {
    let known: BTreeMap<&TopicPartition, &PartitionCheckpoint> =
        checkpoint.partitions.iter().map(|entry| (&entry.partition, entry)).collect();
    let is_beyond = |offsets: &BTreeMap<TopicPartition, i64>, offset: fn(&PartitionCheckpoint) -> i64| {
        offsets
            .iter()
            .any(|(partition, found)| known.get(partition).is_none_or(|entry| offset(entry) < *found))
    };
    is_beyond(log_starts, |entry| entry.log_start_offset)
        || is_beyond(high_watermarks, |entry| entry.high_watermark)
}

/// Makes a log directory where there is none, and makes its name durable: everything else hangs on it.
fn make_dir(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    for ancestor in path.ancestors().take_while(|ancestor| !ancestor.as_os_str().is_empty()) {
        if disk.exists(ancestor)? {
            break;
        }
        missing.push(ancestor);
    }
    disk.create_dir_all(path)?;
    for parent in missing.into_iter().filter_map(Path::parent) {
        disk.sync_dir(parent)?;
    }
    Ok(())
}

fn lock_dir(disk: &dyn Disk, path: &Path) -> Result<Box<dyn DiskLock>, LogError> {
    let file = path.join(names::LOCK);
    disk.lock(&file).map_err(|error| {
        if error.kind() == io::ErrorKind::WouldBlock {
            LogError::Locked(path.to_owned())
        } else {
            LogError::io("lock", &file, error)
        }
    })
}

fn read_journal(disk: &dyn Disk, dir: &Path, generation: u64, notes: &mut BTreeMap<String, Vec<Note>>) {
    let path = journal::path(dir, generation);
    let (found, whole) = match disk.read_file(&path) {
        Ok(contents) => journal::read(&contents),
        Err(_) => (Vec::new(), false),
    };
    if !whole {
        tracing::warn!(path = %path.display(), "the journal ends in a note that is damaged; the sizes of the logs tell what it was to tell");
    }
    for note in found {
        notes.entry(note.partition.clone()).or_default().push(note);
    }
}
