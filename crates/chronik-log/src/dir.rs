//! What the logs of one log directory share: its disk, whether it still works, and what is to be noted there.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use chronik_disk::{Disk, DiskFile, OpenMode};
use chronik_types::{TopicId, TopicPartition};
use parking_lot::Mutex;

use crate::LogError;
use crate::config::ManagerOptions;
use crate::error::{is_disk_full, is_out_of_files};
use crate::file_cache::FileCache;
use crate::journal::{Journal, Note, NoteKind};
use crate::names;
use crate::removal::RemovalQueue;
use crate::stats::LogCounters;
use crate::tail_ring::MemoryBudget;

/// Called when something is to be seen to at once.
pub(crate) type Waker = Box<dyn Fn() + Send + Sync>;

/// What all log directories of a broker share.
pub(crate) struct Shared {
    pub(crate) options: ManagerOptions,
    pub(crate) files: FileCache,
    pub(crate) tail_memory: Arc<MemoryBudget>,
    pub(crate) counters: LogCounters,
    pub(crate) waker: OnceLock<Waker>,
    pub(crate) offline_listener: OnceLock<Waker>,
    pub(crate) loss_listener: OnceLock<Waker>,
    /// Records are gone that were in some log when the last process ended.
    has_lost_records: AtomicBool,
    /// Numbers the logs, so that a file of a deleted log is never taken for one of its successor.
    next_file_number: AtomicU64,
}

impl Shared {
    pub(crate) fn new(options: ManagerOptions) -> Self {
        Self {
            files: FileCache::new(options.open_files_max),
            tail_memory: Arc::new(MemoryBudget::new(options.tail_memory_bytes_max)),
            options,
            counters: LogCounters::default(),
            waker: OnceLock::new(),
            offline_listener: OnceLock::new(),
            loss_listener: OnceLock::new(),
            has_lost_records: AtomicBool::new(false),
            next_file_number: AtomicU64::new(0),
        }
    }

    pub(crate) fn next_file_number(&self) -> u64 {
        self.next_file_number.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes that records are gone which were in a log when the last process ended. Called before a recovery changes
    /// anything that shows it.
    pub(crate) fn note_loss(&self) {
        if !self.has_lost_records.swap(true, Ordering::AcqRel)
            && let Some(tell) = self.loss_listener.get()
        {
            tell();
        }
    }

    pub(crate) fn has_lost_records(&self) -> bool {
        self.has_lost_records.load(Ordering::Acquire)
    }

    /// Tells whoever listens that a directory is offline.
    pub(crate) fn tell_offline(&self) {
        if let Some(tell) = self.offline_listener.get() {
            tell();
        }
    }

    pub(crate) fn wake_maintenance(&self) {
        if let Some(wake) = self.waker.get() {
            wake();
        }
    }
}

/// One log directory.
pub(crate) struct LogDir {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) path: PathBuf,
    pub(crate) shared: Arc<Shared>,
    offline: OnceLock<Arc<str>>,
    journal: Mutex<Journal>,
    /// The generation of `journal`, readable without its lock. A log that noted itself under an older generation
    /// notes itself again before it writes.
    generation: AtomicU64,
    /// Whether directories of partitions may have got other names that a power loss would take back.
    has_unsynced_renames: AtomicBool,
    /// Bytes appended since the last checkpoint.
    uncheckpointed_bytes: AtomicU64,
    /// Whether a log's start moved, so that segments can go.
    start_moved: AtomicBool,
    /// Whether anything changed since the last checkpoint.
    changed: AtomicBool,
    /// Whether the journal was told, since the last synced checkpoint, what must outlast a power loss. Then the next one
    /// is synced too: with it goes the journal, and an older checkpoint without the journal speaks of what is no more.
    has_synced_notes: AtomicBool,
    /// Whether the file that says how far logs were cleaned is behind.
    cleaner_offsets_changed: AtomicBool,
    /// Held while that file is written.
    pub(crate) cleaner_offsets: Mutex<()>,
    /// Notes that a full disk has not taken. Each is written as soon as there is room for it. Locked after a log's writer,
    /// and before the journal.
    owed_notes: Mutex<BTreeSet<(TopicPartition, NoteKind)>>,
    pub(crate) removals: RemovalQueue,
}

impl LogDir {
    pub(crate) fn new(disk: Arc<dyn Disk>, path: PathBuf, shared: Arc<Shared>) -> Self {
        let journal = Mutex::new(Journal::new(path.clone(), 0));
        Self {
            disk,
            path,
            shared,
            offline: OnceLock::new(),
            journal,
            generation: AtomicU64::new(0),
            // The last process may have left some.
            has_unsynced_renames: AtomicBool::new(true),
            uncheckpointed_bytes: AtomicU64::new(0),
            start_moved: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            // The last process may have left some.
            has_synced_notes: AtomicBool::new(true),
            cleaner_offsets_changed: AtomicBool::new(false),
            owed_notes: Mutex::default(),
            cleaner_offsets: Mutex::new(()),
            removals: RemovalQueue::default(),
        }
    }

    /// The directory of a partition.
    pub(crate) fn partition_path(&self, partition: &TopicPartition) -> PathBuf {
        self.path.join(partition.to_string())
    }

    /// The path of a partition's file.
    pub(crate) fn file_path(&self, partition: &TopicPartition, offset: i64, extension: &str) -> PathBuf {
        self.partition_path(partition).join(names::file(offset, extension))
    }

    /// Fails once the directory is offline.
    pub(crate) fn check_online(&self) -> Result<(), LogError> {
        match self.offline.get() {
            None => Ok(()),
            Some(reason) => Err(LogError::Offline { dir: self.path.clone(), reason: Arc::clone(reason) }),
        }
    }

    /// Why the directory is offline, if it is.
    pub(crate) fn offline_reason(&self) -> Option<Arc<str>> {
        self.offline.get().cloned()
    }

    /// Takes the directory offline, for good (LOG-3).
    pub(crate) fn take_offline(&self, error: &LogError) {
        let reason: Arc<str> = error.to_string().into();
        if self.offline.set(reason).is_ok() {
            tracing::error!(dir = %self.path.display(), %error, "log directory goes offline; its partitions take no requests until the disk is repaired and the broker restarted");
            self.shared.tell_offline();
        }
    }

    /// Removes the word of a failed sync, once all that it may be about was written anew.
    pub(crate) fn forget_failed_sync(&self) {
        let mark = self.path.join(names::SYNC_FAILED);
        if let Err(error) = self.disk.remove_file_if_there(&mark) {
            tracing::warn!(path = %mark.display(), %error, "the word of a failed sync stays; the next start writes what is not synced once more");
        }
    }

    /// What a failed write means: a full disk and too many open files are only reported, as both pass; anything else
    /// takes the directory offline.
    pub(crate) fn write_failed(&self, attempt: &'static str, path: &Path, source: io::Error) -> LogError {
        let passes = is_disk_full(&source) || is_out_of_files(&source);
        let error = LogError::io(attempt, path, source);
        if !passes {
            self.take_offline(&error);
        }
        error
    }

    /// What a failed step of a cut means: the directory is offline, as the log is neither what it was nor what it was
    /// to become.
    pub(crate) fn cut_failed(&self, attempt: &'static str, path: &Path, source: io::Error) -> LogError {
        let error = LogError::io(attempt, path, source);
        self.take_offline(&error);
        error
    }

    /// What a failed sync means: the directory is offline, even where the disk was only full, as nobody knows what
    /// of the data is lost (LOG-3).
    ///
    /// The kernel takes what it could not write for written from then on: the next process reads it all, and its syncs
    /// succeed without a byte reaching the disk. So a file tells the next process, for as long as the machine runs.
    pub(crate) fn sync_failed(&self, path: &Path, source: io::Error) -> LogError {
        let mark = self.path.join(names::SYNC_FAILED);
        if let Err(error) = self.disk.open(&mark, OpenMode::Create) {
            tracing::error!(path = %mark.display(), %error, "cannot leave word that a sync has failed; restart the machine before the broker");
        }
        let error = LogError::io("sync", path, source);
        self.take_offline(&error);
        error
    }

    pub(crate) fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path, mode)
    }

    /// The journal's generation; a log that noted itself under it need not do so again.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Notes in the journal what is about to happen to a topic's partition, and gives the journal's generation.
    pub(crate) fn note(
        &self,
        partition: &TopicPartition,
        topic_id: TopicId,
        kind: NoteKind,
        offset: i64,
    ) -> Result<u64, LogError> {
        if kind.is_synced() {
            self.mark_synced_notes();
        }
        self.mark_changed();
        let (path, generation, file) = {
            let mut journal = self.journal.lock();
            let path = journal.path();
            let noted = journal.note(&*self.disk, partition, topic_id, kind, offset);
            let file = noted.map_err(|source| self.write_failed("write the journal", &path, source))?;
            (path, journal.generation(), file)
        };
        // Others may go on with theirs meanwhile.
        if kind.is_synced() {
            self.sync_journal(&path, &*file)?;
        }
        Ok(generation)
    }

    /// Notes again what older journals say of a partition, before they go. [`LogDir::sync_journal_now`] is to follow.
    pub(crate) fn note_again(&self, partition: &TopicPartition, notes: &[Note]) -> Result<(), LogError> {
        let mut journal = self.journal.lock();
        let path = journal.path();
        for note in notes {
            let written = journal.note(&*self.disk, partition, note.topic_id, note.kind, note.offset);
            written.map_err(|source| self.write_failed("write the journal", &path, source))?;
        }
        Ok(())
    }

    /// Notes what makes room on the disk, from which a full disk must not keep anyone. What it has no room for is owed.
    pub(crate) fn note_or_owe(
        &self,
        partition: &TopicPartition,
        topic_id: TopicId,
        kind: NoteKind,
        offset: i64,
    ) -> Result<(), LogError> {
        let is_owed = match self.note(partition, topic_id, kind, offset) {
            Ok(_) => false,
            Err(LogError::DiskFull { .. }) => true,
            Err(error) => return Err(error),
        };
        let mut owed = self.owed_notes.lock();
        if kind == NoteKind::Delete {
            // What its log owed is of no account, and must not come to lie behind the notes of another of its name.
            owed.retain(|(of, _)| of != partition);
        }
        if is_owed {
            owed.insert((partition.clone(), kind));
        }
        Ok(())
    }

    /// Writes the note of a deletion that is owed, before there is another log of the partition's name.
    pub(crate) fn pay_deletion(&self, partition: &TopicPartition) -> Result<(), LogError> {
        self.pay(partition, TopicId::ZERO, NoteKind::Delete, 0)
    }

    /// Writes the note of a log's start if it is owed. The caller holds the log's writer, and the log is not closed.
    pub(crate) fn pay_start(
        &self,
        partition: &TopicPartition,
        topic_id: TopicId,
        start: i64,
    ) -> Result<(), LogError> {
        self.pay(partition, topic_id, NoteKind::LogStart, start)
    }

    /// In one step: a second note of a deletion would delete the log that has come after the first.
    fn pay(
        &self,
        partition: &TopicPartition,
        topic_id: TopicId,
        kind: NoteKind,
        offset: i64,
    ) -> Result<(), LogError> {
        let key = (partition.clone(), kind);
        let mut owed = self.owed_notes.lock();
        if owed.contains(&key) {
            self.note(partition, topic_id, kind, offset)?;
            if kind == NoteKind::Delete {
                // Whoever has made names durable since the deletion did so without its note.
                self.has_unsynced_renames.store(true, Ordering::Release);
            }
            owed.remove(&key);
        }
        Ok(())
    }

    /// Writes what is owed, as far as there is room. `pay_start` has a log pay its own.
    pub(crate) fn pay_notes(&self, pay_start: impl Fn(&TopicPartition) -> Result<(), LogError>) {
        let owed: Vec<(TopicPartition, NoteKind)> = self.owed_notes.lock().iter().cloned().collect();
        for (partition, kind) in owed {
            let paid =
                if kind == NoteKind::Delete { self.pay_deletion(&partition) } else { pay_start(&partition) };
            if let Err(error) = paid {
                tracing::debug!(%partition, %error, "the journal has no room yet");
                return;
            }
        }
    }

    /// Makes all that the journal says durable, and the next checkpoint too.
    pub(crate) fn sync_notes(&self) -> Result<(), LogError> {
        self.mark_synced_notes();
        self.sync_journal_now()
    }

    /// Makes all that the journal says durable.
    pub(crate) fn sync_journal_now(&self) -> Result<(), LogError> {
        let (path, file) = self.newest_journal();
        file.map_or(Ok(()), |file| self.sync_journal(&path, &*file))
    }

    fn newest_journal(&self) -> (PathBuf, Option<Arc<dyn DiskFile>>) {
        let journal = self.journal.lock();
        (journal.path(), journal.file())
    }

    /// With the names in the directory.
    fn sync_journal(&self, path: &Path, file: &dyn DiskFile) -> Result<(), LogError> {
        let synced = file.sync_data().and_then(|()| self.disk.sync_dir(&self.path));
        synced.map_err(|source| self.sync_failed(path, source))
    }

    /// Starts a new journal, for the checkpoint of `generation` that is about to be made. What is owed to the next log of
    /// a deleted one's name is made durable before: that checkpoint may fail, and only the newest journal is synced later.
    pub(crate) fn start_journal(&self, generation: u64) -> Result<(), LogError> {
        let mut journal = self.journal.lock();
        if self.has_unsynced_renames.load(Ordering::Acquire)
            && let Some(file) = journal.file()
        {
            self.sync_journal(&journal.path(), &*file)?;
        }
        *journal = Journal::new(self.path.clone(), generation);
        self.generation.store(generation, Ordering::Release);
        Ok(())
    }

    /// Notes that a partition's directory got another name. The next checkpoint, which knows the log no more, is synced for
    /// the sake of the next log of the name.
    pub(crate) fn mark_renamed(&self) {
        self.has_unsynced_renames.store(true, Ordering::Release);
        self.mark_synced_notes();
    }

    /// Makes the new names durable, and that what they were called is deleted, before something else takes their place:
    /// what Kafka's checkpoints say of a deleted log has no topic id, and holds until a note or a checkpoint ends it.
    pub(crate) fn sync_renames(&self) -> Result<(), LogError> {
        if !self.has_unsynced_renames.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let (path, file) = self.newest_journal();
        let synced = match file {
            Some(file) => self.sync_journal(&path, &*file),
            None => self.disk.sync_dir(&self.path).map_err(|source| self.sync_failed(&self.path, source)),
        };
        if synced.is_err() {
            self.has_unsynced_renames.store(true, Ordering::Release);
        }
        synced
    }

    pub(crate) fn count_appended(&self, bytes: u64) {
        let before = self.uncheckpointed_bytes.fetch_add(bytes, Ordering::Relaxed);
        let limit = self.shared.options.checkpoint_bytes_max;
        if before < limit && limit <= before.saturating_add(bytes) {
            self.shared.wake_maintenance();
        }
    }

    /// Whether so much was appended since the last checkpoint that the next one is due.
    pub(crate) fn checkpoint_is_due(&self) -> bool {
        self.uncheckpointed_bytes.load(Ordering::Relaxed) >= self.shared.options.checkpoint_bytes_max
    }

    pub(crate) fn mark_start_moved(&self) {
        self.start_moved.store(true, Ordering::Release);
        self.shared.wake_maintenance();
    }

    pub(crate) fn take_start_moved(&self) -> bool {
        self.start_moved.swap(false, Ordering::AcqRel)
    }

    /// Asks that the next checkpoint be synced, for the sake of what the journal says that must outlast a power loss.
    pub(crate) fn mark_synced_notes(&self) {
        self.has_synced_notes.store(true, Ordering::Release);
        self.mark_changed();
    }

    pub(crate) fn take_synced_notes(&self) -> bool {
        self.has_synced_notes.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn mark_cleaner_offsets_changed(&self) {
        self.cleaner_offsets_changed.store(true, Ordering::Release);
        self.mark_changed();
    }

    pub(crate) fn take_cleaner_offsets_changed(&self) -> bool {
        self.cleaner_offsets_changed.swap(false, Ordering::AcqRel)
    }

    /// Notes that something changed which the next checkpoint must hold.
    pub(crate) fn mark_changed(&self) {
        self.changed.store(true, Ordering::Release);
    }

    /// Whether anything changed since this was asked last; the bytes are counted anew.
    pub(crate) fn take_changed(&self) -> bool {
        self.uncheckpointed_bytes.store(0, Ordering::Relaxed);
        self.changed.swap(false, Ordering::AcqRel)
    }
}
