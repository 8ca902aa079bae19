//! One partition's log.
//!
//! A [`Log`] is shared behind an `Arc` and synchronizes itself, with two locks. Everything that changes it (append,
//! truncate, delete records, roll) takes the writer's lock and runs one after the other. What readers need is in the
//! view, whose lock is held for a few memory operations only: reads, lookups and getters never wait for a write, and
//! may run at any time, from any number of threads. The order is writer before view; no thread takes a writer's lock
//! while it holds a view's. Two more locks come before these, `reshaping` first, then `syncing`.
//!
//! A log that was never written has a directory with `partition.metadata` in it, no other file, and no segment.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use chronik_disk::{DiskFile, OpenMode};
use chronik_types::{
    LeaderEpoch, MonotonicMs, Now, Offset, ProducerEpoch, ProducerId, TopicId, TopicPartition,
};
use parking_lot::{Mutex, RwLock};

use crate::dir::LogDir;
use crate::epoch_cache::EpochCache;
use crate::file_cache::{FileKey, FileKind};
use crate::journal::NoteKind;
use crate::producer_state::ProducerState;
use crate::segment::Segment;
use crate::tail_ring::TailRing;
use crate::{LogConfig, LogError, ProducerSummary, holes, names};

/// Stands for "no open transaction" where the first unstable offset is kept.
const STABLE: i64 = i64::MAX;
/// Stands for "never" where the offset is kept up to which the log was cleaned.
const NEVER_CLEANED: i64 = -1;

/// One partition's log.
#[expect(clippy::struct_field_names, reason = "log start and log end offset are Kafka's names")]
pub struct Log {
    pub(crate) partition: TopicPartition,
    topic_id: Mutex<TopicId>,
    pub(crate) dir: Arc<LogDir>,
    config: RwLock<Arc<LogConfig>>,
    pub(crate) log_start_offset: AtomicI64,
    pub(crate) log_end_offset: AtomicI64,
    pub(crate) high_watermark: AtomicI64,
    /// Everything below is durable.
    pub(crate) recovery_point: AtomicI64,
    first_unstable_offset: AtomicI64,
    pub(crate) size_bytes: AtomicU64,
    closed: AtomicBool,
    /// The offset up to which the log was cleaned, [`NEVER_CLEANED`] where it was not.
    cleaned_up_to: AtomicI64,
    /// See [`Log::hole`]; sorted. Locked after all others.
    holes: Mutex<Vec<i64>>,
    /// Held by whoever replaces or removes segments (cuts, retention, cleaning, the end of the log), and while the
    /// checkpoint notes which there are. Taken before all other locks.
    pub(crate) reshaping: Mutex<()>,
    /// Held while the log is synced, and while it is cut: what a sync has noted must not be cut meanwhile. Taken before
    /// the writer's lock.
    pub(crate) syncing: Mutex<()>,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) view: Mutex<View>,
}

/// What only those who change the log look at.
#[derive(Default)]
pub(crate) struct Writer {
    /// The file of the last segment, once it was appended to.
    pub(crate) active_file: Option<Arc<dyn DiskFile>>,
    pub(crate) producers: ProducerState,
    /// Offsets of the producer snapshots on disk.
    pub(crate) snapshots: BTreeSet<i64>,
    /// The journal generation under which this log noted itself.
    pub(crate) noted_generation: Option<u64>,
    /// Segments, by base offset, that hold bytes which are not synced. Empty for a log that is.
    pub(crate) unsynced: BTreeSet<i64>,
    /// Whether files were made or renamed since the directory was synced.
    pub(crate) dir_unsynced: bool,
    /// Whether the file of the leader epochs lacks what readers see of them. It is written before the next append.
    pub(crate) epochs_unwritten: bool,
    /// Whether `partition.metadata` was written and no sync has covered it.
    pub(crate) id_unsynced: bool,
    /// Records appended since the last sync was asked for.
    pub(crate) unsynced_record_count: u64,
    /// When the oldest append that is not synced was made.
    pub(crate) unsynced_since: Option<MonotonicMs>,
    pub(crate) last_append: MonotonicMs,
    /// See [`Log::note_election`].
    pub(crate) elected: Option<MonotonicMs>,
}

/// What readers see.
#[derive(Default)]
pub(crate) struct View {
    /// Tells the open files of this log from those of any other, and from those that it had before it threw away
    /// segments whose names it may use again.
    pub(crate) file_number: u64,
    /// How often the log was cut at its end.
    pub(crate) cut_count: u64,
    /// The base offset of the cleaned segment whose files still have the names under which they were put in place.
    pub(crate) swapping: Option<i64>,
    /// By base offset; the last one is appended to.
    pub(crate) segments: Vec<Segment>,
    pub(crate) ring: Option<Box<TailRing>>,
    pub(crate) epochs: EpochCache,
}

/// The end of a leader epoch in a log (KIP-101).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// The largest epoch at or below the one asked for that the log holds.
    pub leader_epoch: LeaderEpoch,
    /// Where the next epoch starts, or the log's end.
    pub end_offset: Offset,
}

/// What a log is put together from, by recovery or for a new partition.
#[derive(Default)]
pub(crate) struct LogParts {
    pub(crate) segments: Vec<Segment>,
    pub(crate) epochs: EpochCache,
    pub(crate) producers: ProducerState,
    pub(crate) snapshots: BTreeSet<i64>,
    pub(crate) log_start_offset: i64,
    pub(crate) log_end_offset: i64,
    pub(crate) high_watermark: i64,
    pub(crate) recovery_point: i64,
    /// `None` where the log was never cleaned.
    pub(crate) cleaned_up_to: Option<i64>,
    /// See [`Writer::id_unsynced`].
    pub(crate) id_unsynced: bool,
    /// See [`Log::hole`]; sorted.
    pub(crate) holes: Vec<i64>,
}

impl Log {
    pub(crate) fn new(
        dir: Arc<LogDir>,
        partition: TopicPartition,
        topic_id: TopicId,
        config: Arc<LogConfig>,
        parts: LogParts,
    ) -> Self {
        let file_number = dir.shared.next_file_number();
        let size_bytes = parts.segments.iter().map(|segment| segment.size_bytes).sum();
        // What lies above the recovery point was not synced by anyone yet.
        let unsynced = parts
            .segments
            .iter()
            .filter(|segment| parts.recovery_point < segment.next_offset)
            .map(|segment| segment.base_offset)
            .collect::<BTreeSet<_>>();
        let first_unstable_offset = parts.producers.first_unstable_offset().unwrap_or(STABLE);
        Self {
            partition,
            topic_id: Mutex::new(topic_id),
            dir,
            config: RwLock::new(config),
            log_start_offset: AtomicI64::new(parts.log_start_offset),
            log_end_offset: AtomicI64::new(parts.log_end_offset),
            high_watermark: AtomicI64::new(
                parts.high_watermark.clamp(parts.log_start_offset, parts.log_end_offset),
            ),
            recovery_point: AtomicI64::new(parts.recovery_point.min(parts.log_end_offset)),
            first_unstable_offset: AtomicI64::new(first_unstable_offset),
            size_bytes: AtomicU64::new(size_bytes),
            closed: AtomicBool::new(false),
            cleaned_up_to: AtomicI64::new(parts.cleaned_up_to.unwrap_or(NEVER_CLEANED)),
            holes: Mutex::new(parts.holes),
            reshaping: Mutex::new(()),
            syncing: Mutex::new(()),
            writer: Mutex::new(Writer {
                producers: parts.producers,
                snapshots: parts.snapshots,
                // What the last process made or renamed it may not have synced, and no checkpoint tells.
                dir_unsynced: true,
                id_unsynced: parts.id_unsynced,
                unsynced,
                ..Writer::default()
            }),
            view: Mutex::new(View {
                file_number,
                cut_count: 0,
                swapping: None,
                segments: parts.segments,
                ring: None,
                epochs: parts.epochs,
            }),
        }
    }

    /// The partition.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.partition
    }

    /// The topic's id.
    pub fn topic_id(&self) -> TopicId {
        *self.topic_id.lock()
    }

    /// Gives a topic id to a log whose own was lost.
    pub(crate) fn adopt_topic_id(&self, topic_id: TopicId) {
        *self.topic_id.lock() = topic_id;
    }

    /// The first offset that the log holds.
    pub fn log_start_offset(&self) -> Offset {
        Offset(self.log_start_offset.load(Ordering::Acquire))
    }

    /// The offset that the next record gets.
    pub fn log_end_offset(&self) -> Offset {
        Offset(self.log_end_offset.load(Ordering::Acquire))
    }

    /// The high watermark that was last set; recovered from the checkpoint, never above the log's end.
    pub fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::Acquire))
    }

    /// Remembers the high watermark, which may also be lower than before; callers take turns. Retention and `delete_records` stop at it. Kept within the log's bounds.
    pub fn set_high_watermark(&self, high_watermark: Offset) {
        let (start, end) = (self.log_start_offset().get(), self.log_end_offset().get());
        self.high_watermark.store(high_watermark.get().min(end).max(start), Ordering::Release);
    }

    /// Everything below this offset is durable.
    pub fn recovery_point(&self) -> Offset {
        Offset(self.recovery_point.load(Ordering::Acquire))
    }

    /// The smallest first offset of the transactions that are open, if any.
    pub fn first_unstable_offset(&self) -> Option<Offset> {
        let offset = self.first_unstable_offset.load(Ordering::Acquire);
        (offset != STABLE).then_some(Offset(offset))
    }

    pub(crate) fn publish_first_unstable_offset(&self, producers: &ProducerState) {
        let offset = producers.first_unstable_offset().unwrap_or(STABLE);
        self.first_unstable_offset.store(offset, Ordering::Release);
    }

    /// The settings in force.
    pub fn config(&self) -> Arc<LogConfig> {
        Arc::clone(&self.config.read())
    }

    /// Replaces the settings.
    pub fn update_config(&self, config: Arc<LogConfig>) {
        *self.config.write() = config;
    }

    /// The offset up to which compaction has cleaned the log; `None` where it never has.
    pub fn cleaned_up_to(&self) -> Option<Offset> {
        let offset = self.cleaned_up_to.load(Ordering::Acquire);
        (offset != NEVER_CLEANED).then_some(Offset(offset))
    }

    pub(crate) fn set_cleaned_up_to(&self, offset: Option<i64>) {
        self.cleaned_up_to.store(offset.unwrap_or(NEVER_CLEANED), Ordering::Release);
        self.dir.mark_cleaner_offsets_changed();
    }

    /// The first place where records are missing that were there once, although the log goes on behind them: a recovery has
    /// found a segment damaged or gone. Whoever follows another that has them cuts the log there and fetches the rest anew;
    /// for who leads, what is left is better than nothing.
    ///
    /// One before the log's start is where the log began once. What is missing there may have been deleted, which the
    /// leader's start tells.
    pub fn hole(&self) -> Option<Offset> {
        self.holes.lock().first().copied().map(Offset)
    }

    /// The first such place that is not before the log's start. What is missing there is missing, whatever the leader begins
    /// with.
    pub fn hole_within(&self) -> Option<Offset> {
        let start = self.log_start_offset().get();
        self.holes.lock().iter().copied().find(|&hole| start <= hole).map(Offset)
    }

    /// Notes that the log was cut at `offset`, and with it what lies behind the holes from there on. The caller holds
    /// `reshaping`.
    pub(crate) fn close_hole(&self, offset: i64) -> Result<(), LogError> {
        self.keep_holes(|hole| hole < offset)
    }

    /// Takes what there is for all that there should be.
    pub fn forget_hole(&self) -> Result<(), LogError> {
        self.forget_holes(|_| false)
    }

    /// Takes the log's start for its beginning: nothing is missing before it.
    pub fn forget_late_beginning(&self) -> Result<(), LogError> {
        self.forget_holes(|hole| self.log_start_offset().get() <= hole)
    }

    fn forget_holes(&self, is_kept: impl Fn(i64) -> bool) -> Result<(), LogError> {
        // Holes come with a log: where there is none now there never will be, and whoever takes the lead does not wait for a
        // cleaner's syncs.
        if self.hole().is_none() {
            return Ok(());
        }
        let _reshaping = self.reshaping.lock();
        self.check_usable()?;
        self.keep_holes(is_kept)
    }

    /// The caller holds `reshaping` and has seen that the log is in use: the directory's name may be another log's else.
    fn keep_holes(&self, is_kept: impl Fn(i64) -> bool) -> Result<(), LogError> {
        let mut holes = self.holes.lock();
        let kept: Vec<i64> = holes.iter().copied().filter(|&hole| is_kept(hole)).collect();
        if kept.len() == holes.len() {
            return Ok(());
        }
        let path = self.path().join(names::HOLE);
        if kept.is_empty() {
            let removed = self.dir.disk.remove_file_if_there(&path);
            removed.map_err(|source| self.dir.cut_failed("remove", &path, source))?;
        } else {
            let written = self.dir.disk.replace_file(&path, holes::format(&kept).as_bytes());
            written.map_err(|source| self.dir.write_failed("write", &path, source))?;
        }
        *holes = kept;
        Ok(())
    }

    /// Notes that the log is clean below `offset`, unless it was cut since `cut_count`.
    pub(crate) fn finish_clean(&self, cut_count: u64, offset: i64) {
        let _reshaping = self.reshaping.lock();
        if self.view.lock().cut_count == cut_count {
            self.set_cleaned_up_to(Some(offset));
        }
    }

    /// Notes that the log was cut: what is appended from `offset` on is not clean. The caller holds `reshaping`.
    pub(crate) fn note_cut(&self, view: &mut View, offset: i64) {
        view.cut_count += 1;
        if self.cleaned_up_to.load(Ordering::Acquire) > offset {
            self.set_cleaned_up_to(Some(offset));
        }
    }

    /// Bytes of record data.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    /// The log directory that holds this log.
    pub fn log_dir(&self) -> &Path {
        &self.dir.path
    }

    /// Producers with state in this log (`DescribeProducers`).
    pub fn active_producers(&self) -> Vec<ProducerSummary> {
        self.writer.lock().producers.summaries()
    }

    /// How many segments the log has.
    pub fn segment_count(&self) -> usize {
        self.view.lock().segments.len()
    }

    /// The newest leader epoch that the log holds.
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.view.lock().epochs.latest().map(|entry| LeaderEpoch(entry.epoch))
    }

    /// The epoch of the last record, where the log has one. Unlike [`latest_epoch`](Self::latest_epoch) it is never one
    /// that has begun and in which nothing was appended.
    pub fn last_record_epoch(&self) -> Option<LeaderEpoch> {
        self.epoch_before(self.log_end_offset())
    }

    /// The epoch of the last record below `end_offset`, at which the log ends or will end.
    pub fn epoch_before(&self, end_offset: Offset) -> Option<LeaderEpoch> {
        self.view.lock().epochs.epoch_for_offset(end_offset.get().saturating_sub(1)).map(LeaderEpoch)
    }

    /// Where `leader_epoch` ends, or `None` where the log does not know.
    pub fn end_offset_for_epoch(&self, leader_epoch: LeaderEpoch) -> Option<EpochEndOffset> {
        let view = self.view.lock();
        let log_end_offset = self.log_end_offset().get();
        let (epoch, end_offset) = view.epochs.end_offset_for(leader_epoch.get(), log_end_offset)?;
        Some(EpochEndOffset { leader_epoch: LeaderEpoch(epoch), end_offset: Offset(end_offset) })
    }

    /// Notes that `leader_epoch` begins at the log's end, before its leader appends anything. An epoch below the
    /// newest that the log holds changes nothing.
    pub fn begin_epoch(&self, leader_epoch: LeaderEpoch) -> Result<(), LogError> {
        let mut writer = self.writer.lock();
        self.check_usable()?;
        if self.latest_epoch().is_some_and(|latest| leader_epoch < latest) {
            return Ok(());
        }
        self.assign_epoch(&mut writer, leader_epoch.get(), self.log_end_offset().get())
    }

    /// Whether the log remembers anything of a producer in this epoch or a later one.
    pub fn knows_producer(&self, producer_id: ProducerId, epoch: ProducerEpoch) -> bool {
        self.writer.lock().producers.knows_epoch(producer_id, epoch)
    }

    /// Notes that this log's leader was elected now, and that another led before it: producers may have sent batches there
    /// of which nobody has heard yet (ADR 14).
    pub fn note_election(&self, now: Now) {
        self.writer.lock().elected = Some(now.monotonic);
    }

    /// Fails once the log is closed or its directory offline.
    pub fn check_usable(&self) -> Result<(), LogError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(LogError::Closed);
        }
        self.dir.check_online()
    }

    /// Closes the log for good: later calls fail, and its open files are let go.
    pub(crate) fn close(&self) {
        // Whoever is putting segments in place finishes first: afterwards the directory's name may be another log's.
        let _reshaping = self.reshaping.lock();
        let mut writer = self.writer.lock();
        self.closed.store(true, Ordering::Release);
        writer.active_file = None;
        let mut view = self.view.lock();
        view.ring = None;
        self.renew_file_number(&mut view);
    }

    /// Makes sure that no file opened so far is taken for one made from now on.
    pub(crate) fn renew_file_number(&self, view: &mut View) {
        self.dir.shared.files.forget_log(view.file_number);
        view.file_number = self.dir.shared.next_file_number();
    }

    /// The partition's directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.partition_path(&self.partition)
    }

    /// Makes the names in the partition's directory durable, and that others are gone.
    pub(crate) fn sync_names(&self) -> Result<(), LogError> {
        let path = self.path();
        self.dir.disk.sync_dir(&path).map_err(|source| self.dir.sync_failed(&path, source))
    }

    /// The path of one of its numbered files.
    pub(crate) fn file_path(&self, offset: i64, extension: &str) -> PathBuf {
        self.dir.file_path(&self.partition, offset, extension)
    }

    /// A segment's file for reading, opened at most once as long as it is in use. `file_number` is the view's.
    pub(crate) fn open_file(
        &self,
        file_number: u64,
        base_offset: i64,
        kind: FileKind,
    ) -> io::Result<Arc<dyn DiskFile>> {
        let extension = match kind {
            FileKind::Log => names::LOG,
            FileKind::Index => names::INDEX,
            FileKind::TimeIndex => names::TIME_INDEX,
        };
        self.dir.shared.files.get(FileKey { log: file_number, base_offset, kind }, || {
            let path = self.file_path(base_offset, extension);
            let is_swapping = {
                let view = self.view.lock();
                view.file_number == file_number && view.swapping == Some(base_offset)
            };
            if is_swapping {
                match self.dir.open(&names::with_suffix(&path, names::SWAP), OpenMode::Read) {
                    // It has its final name by now.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    opened => return opened,
                }
            }
            self.dir.open(&path, OpenMode::Read)
        })
    }

    /// Notes in the journal that batches are about to be appended, unless that was done since the last checkpoint.
    pub(crate) fn note_append(&self, writer: &mut Writer) -> Result<(), LogError> {
        self.make_id_durable(writer)?;
        self.write_owed_epochs(writer)?;
        if writer.noted_generation != Some(self.dir.generation()) {
            writer.noted_generation = Some(self.note(writer, NoteKind::Append, 0)?);
        }
        Ok(())
    }

    /// Notes in the journal what is about to happen to the log, and gives the journal's generation.
    pub(crate) fn note(&self, writer: &mut Writer, kind: NoteKind, offset: i64) -> Result<u64, LogError> {
        self.make_id_durable(writer)?;
        self.dir.note(&self.partition, self.topic_id(), kind, offset)
    }

    /// Notes in the journal where the log is about to begin, or that it owes that where the disk is full.
    pub(crate) fn note_start(&self, writer: &mut Writer, offset: i64) -> Result<(), LogError> {
        self.make_id_durable(writer)?;
        self.dir.note_or_owe(&self.partition, self.topic_id(), NoteKind::LogStart, offset)
    }

    /// Makes durable whose log this is before the first batch, as Kafka does (KIP-516), and before anything that the journal says
    /// of it: a log that has lost that with the power would be taken for the next topic's of the same name, records and all, and
    /// what the journal says for another's. A synced checkpoint has it too.
    pub(crate) fn make_id_durable(&self, writer: &mut Writer) -> Result<(), LogError> {
        if !writer.id_unsynced {
            return Ok(());
        }
        let path = self.path().join(names::PARTITION_METADATA);
        let file = self.dir.open(&path, OpenMode::ReadWrite);
        let synced =
            file.and_then(|file| file.sync_data()).and_then(|()| self.dir.disk.sync_dir(&self.path()));
        match synced {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.dir.sync_failed(&path, error));
            }
            Ok(()) | Err(_) => {}
        }
        writer.id_unsynced = false;
        Ok(())
    }

    /// Notes that an epoch starts, in the file first: the epoch must be there before data of it is.
    pub(crate) fn assign_epoch(
        &self,
        writer: &mut Writer,
        epoch: i32,
        start_offset: i64,
    ) -> Result<(), LogError> {
        let mut epochs = {
            let view = self.view.lock();
            if !view.epochs.would_assign(epoch, start_offset) {
                return Ok(());
            }
            view.epochs.clone()
        };
        epochs.assign(epoch, start_offset);
        self.store_epochs(writer, epochs)
    }

    /// Notes that the leader's next batch, at `base_offset`, is of `epoch`. An epoch that was begun at the log's end when
    /// this replica led, and of which it has no records, is not the leader's history and gives way.
    pub(crate) fn take_over_epoch(
        &self,
        writer: &mut Writer,
        epoch: i32,
        base_offset: i64,
    ) -> Result<(), LogError> {
        let mut epochs = self.view.lock().epochs.clone();
        let has_dropped = epochs.truncate_from_end(self.log_end_offset().get());
        if epochs.assign(epoch, base_offset) || has_dropped {
            self.store_epochs(writer, epochs)
        } else {
            Ok(())
        }
    }

    /// Writes the epochs' file and lets readers see them.
    pub(crate) fn store_epochs(&self, writer: &mut Writer, epochs: EpochCache) -> Result<(), LogError> {
        let path = self.path().join(names::LEADER_EPOCH_CHECKPOINT);
        replace_unsynced(&self.dir, &path, epochs.to_file().as_bytes())?;
        writer.dir_unsynced = true;
        writer.epochs_unwritten = false;
        self.dir.mark_changed();
        self.view.lock().epochs = epochs;
        Ok(())
    }

    /// As [`store_epochs`](Self::store_epochs), of epochs that are no more: what keeps their file from being written for the
    /// moment must not keep them in a log that has changed already. The file is written before the next append; until then
    /// a recovery knows of the change from the journal.
    pub(crate) fn store_or_owe_epochs(
        &self,
        writer: &mut Writer,
        epochs: EpochCache,
    ) -> Result<(), LogError> {
        match self.store_epochs(writer, epochs.clone()) {
            Err(error) if error.passes() => {
                writer.epochs_unwritten = true;
                self.dir.mark_changed();
                self.view.lock().epochs = epochs;
                Ok(())
            }
            stored => stored,
        }
    }

    /// Writes the file of the epochs where it is behind.
    pub(crate) fn write_owed_epochs(&self, writer: &mut Writer) -> Result<(), LogError> {
        if writer.epochs_unwritten {
            let epochs = self.view.lock().epochs.clone();
            self.store_epochs(writer, epochs)?;
        }
        Ok(())
    }
}

/// Replaces a small file so that whoever dies meanwhile leaves the old or the new one; the next sync of the log makes
/// it durable.
pub(crate) fn replace_unsynced(dir: &LogDir, path: &Path, contents: &[u8]) -> Result<(), LogError> {
    let temporary = names::with_suffix(path, names::TMP);
    let write = || {
        let file = dir.open(&temporary, OpenMode::Create)?;
        file.truncate(0)?;
        file.write_all_at(contents, 0)?;
        dir.disk.rename(&temporary, path)
    };
    write().map_err(|source| dir.write_failed("write", path, source))
}
