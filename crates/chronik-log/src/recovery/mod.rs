//! Bringing one partition's log back after a restart.
//!
//! The rule for every segment is the same: what the checkpoint vouches for is taken as it is, by its size; what was
//! appended since is read, each batch held against its CRC, its offsets and its epoch; the log ends before the first
//! batch that fails (LOG-2). What the checkpoint vouches for depends on what happened:
//!
//! | since the checkpoint | believed without a look |
//! |---|---|
//! | clean shutdown | everything |
//! | the process died | everything in the checkpoint, unless the journal says that the log was cut |
//! | the process could not sync something | what lies below the recovery point; the rest is written again too |
//! | the machine stopped (another boot id) | what lies below the recovery point |
//! | no checkpoint | nothing |
//! | no checkpoint, and Kafka has shut down cleanly | a closed segment whose index leads to batches that end where the next segment begins |
//! | segments were cleaned since | the same; all below the note was synced before it was written |
//!
//! A file that is missing or damaged is put right from the others, with one warning.

mod epochs;
mod files;
mod hole;
mod indexes;
mod producers;
mod segments;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chronik_disk::{DirEntry, OpenMode};
use chronik_types::{Now, TopicId, TopicPartition};

use crate::checkpoint::PartitionCheckpoint;
use crate::dir::LogDir;
use crate::epoch_cache::EpochCache;
use crate::journal::{Note, NoteKind};
use crate::log::{Log, LogParts, replace_unsynced};
use crate::partition_metadata;
use crate::producer_state::ProducerState;
use crate::segment::Segment;
use crate::{LogConfig, LogError, names};

pub(crate) use producers::rebuild_producers;

/// Who wrote a log directory last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LastWriter {
    #[default]
    Chronik,
    /// Kafka: what may look as if it were lost is not to be removed.
    Kafka,
    /// Kafka, which ended in good order, so that all of it was synced.
    KafkaWhole,
}

/// What is known of a partition before its directory is looked at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// What the last checkpoint says of it.
    pub(crate) checkpoint: Option<PartitionCheckpoint>,
    /// What the journal says happened since, in order.
    pub(crate) notes: Vec<Note>,
    /// Whether the machine stopped since.
    pub(crate) rebooted: bool,
    /// Whether a sync has failed since the machine started. What is read may be in memory only, and the system does not
    /// know that: what is not certain to be on the disk has to be written again for the next sync to mean anything.
    pub(crate) has_failed_sync: bool,
    /// Whether that checkpoint was the last act of a clean shutdown.
    pub(crate) clean: bool,
    /// Who wrote the directory last.
    pub(crate) last_writer: LastWriter,
    /// Kafka's own checkpoints, for such a directory: log start, high watermark.
    pub(crate) kafka_log_start: Option<i64>,
    pub(crate) kafka_high_watermark: Option<i64>,
    /// How far the log was cleaned, in Kafka's file or Chronik's, which are the same.
    pub(crate) cleaned_up_to: Option<i64>,
}

/// One partition while it is recovered.
struct Recovery<'a> {
    dir: &'a Arc<LogDir>,
    partition: TopicPartition,
    path: PathBuf,
    /// Whose log it is.
    topic_id: TopicId,
    known: Known,
    config: Arc<LogConfig>,
    now: Now,
    /// Sizes of the numbered files that are there, by offset and extension.
    files: BTreeMap<(i64, String), u64>,
    epochs: EpochCache,
    epochs_changed: bool,
    producers: ProducerState,
    /// The offset up to which `producers` is known to be right; `None` where it has to be made anew.
    producers_end: Option<i64>,
    snapshots: BTreeSet<i64>,
    /// Base offsets of the cleaned segments that this recovery put in place.
    put_in_place: BTreeSet<i64>,
    /// Whether a batch is not what was written. Without a power loss nothing but its last write, which nobody was told
    /// of, can be torn; what lay behind a damaged batch has to be fetched again with it.
    is_damaged: bool,
    /// Base offsets of the segments whose files wait for their removal, and of whose deletion nothing else tells.
    deleted: BTreeSet<i64>,
    /// The offsets from which on segments have lost what they held, with others behind them.
    lost_from: BTreeSet<i64>,
    /// What the file of the holes holds, if there is one.
    hole_file: Option<Vec<u8>>,
}

impl Known {
    /// Once the partition was deleted, nothing that was known before is about the log that is there now.
    fn forget_deleted(&mut self) {
        let Some(at) = self.notes.iter().rposition(|note| note.kind == NoteKind::Delete) else { return };
        self.notes.drain(..=at);
        self.forget_log();
    }

    /// What is there is another log than the one that all this was known of.
    fn forget_log(&mut self) {
        self.checkpoint = None;
        self.clean = false;
        self.cleaned_up_to = None;
        self.kafka_log_start = None;
        self.kafka_high_watermark = None;
        self.last_writer = LastWriter::Chronik;
    }
}

/// Recovers the log in a partition's directory.
pub(crate) fn recover(
    dir: &Arc<LogDir>,
    partition: &TopicPartition,
    mut known: Known,
    config: Arc<LogConfig>,
    now: Now,
) -> Result<Log, LogError> {
    known.forget_deleted();
    let path = dir.partition_path(partition);
    let entries = dir.disk.read_dir(&path).map_err(|source| LogError::io("list", &path, source))?;
    let mut recovery = Recovery {
        dir,
        partition: partition.clone(),
        path,
        topic_id: TopicId::ZERO,
        known,
        config,
        now,
        files: BTreeMap::new(),
        epochs: EpochCache::default(),
        epochs_changed: false,
        producers: ProducerState::default(),
        producers_end: None,
        snapshots: BTreeSet::new(),
        put_in_place: BTreeSet::new(),
        is_damaged: false,
        lost_from: BTreeSet::new(),
        hole_file: None,
        deleted: BTreeSet::new(),
    };
    recovery.topic_id = recovery.find_topic_id(&entries)?;
    recovery.forget_others_notes();
    let entries = recovery.finish_interrupted(entries)?;
    recovery.take_files(&entries);
    recovery.run(&entries)
}

impl Recovery<'_> {
    fn run(mut self, entries: &[DirEntry]) -> Result<Log, LogError> {
        let topic_id = self.topic_id;
        self.read_hole_file(entries)?;
        let bases: Vec<(i64, u64)> = self
            .files
            .iter()
            .filter(|((_, extension), _)| extension == names::LOG)
            .map(|((base_offset, _), &len)| (*base_offset, len))
            .collect();
        self.load_epochs(entries, !bases.is_empty());
        self.load_producers();
        let mut segments = Vec::new();
        let mut lost = Vec::new();
        for (at, &(base_offset, len)) in bases.iter().enumerate() {
            if self.is_beyond_damage() || self.is_beyond_a_hole(&segments, base_offset) {
                self.warn(
                    base_offset,
                    names::LOG,
                    "what came before is lost; the segment and those after it are removed",
                );
                lost.extend(bases.iter().skip(at).map(|(base_offset, _)| *base_offset));
                break;
            }
            let next_base = bases.get(at + 1).map(|&(next, _)| next);
            let segment = self.recover_segment(base_offset, len, next_base)?;
            // A segment of which compaction has left nothing stays, so that the log starts where it did.
            let had_records = self.had_records(base_offset);
            let was_emptied = len == 0
                && !had_records
                && (self.config.cleanup_policy.compact || self.was_cleaned(base_offset));
            if let Some(next_base) = next_base.filter(|_| segment.size_bytes == 0 && !was_emptied) {
                self.warn(
                    base_offset,
                    names::LOG,
                    "the segment holds nothing that can be read; it is removed",
                );
                lost.push(base_offset);
                if self.known.rebooted || had_records {
                    self.note_lost(base_offset, next_base);
                }
                // A power loss has taken the contents of a file that others follow. Without this the log would begin, or
                // go on, at the next one, as if what is missing had been deleted.
                self.is_damaged |= self.known.rebooted;
            } else {
                segments.push(segment);
            }
        }
        if !lost.is_empty() {
            self.keep_lost()?;
        }
        self.remove_segments(&lost)?;
        let offsets = self.settle_offsets(&mut segments)?;
        self.complete_epochs(&segments, offsets.log_start)?;
        let holes = self.settle_holes(&segments, &offsets)?;
        self.remove_orphans(&segments)?;
        let producers = self.settle_producers(&segments, offsets.log_end)?;
        let cleaned_up_to = self.cleaned_up_to();
        self.epochs_changed |= self.known.has_failed_sync && !self.epochs.entries().is_empty();
        self.epochs_changed |= self.was_cut();
        self.epochs_changed |= self.epochs.truncate_from_end(offsets.log_end);
        self.epochs_changed |= self.epochs.truncate_from_start(offsets.log_start);
        if self.epochs_changed {
            let path = self.path.join(names::LEADER_EPOCH_CHECKPOINT);
            let contents = self.epochs.to_file();
            // Mostly the file is right already and only the checkpoint is older.
            if self.known.has_failed_sync {
                let written = self.dir.disk.replace_file(&path, contents.as_bytes());
                written.map_err(|source| self.dir.write_failed("write", &path, source))?;
            } else if self.dir.disk.read_file(&path).ok().as_deref() != Some(contents.as_bytes()) {
                replace_unsynced(self.dir, &path, contents.as_bytes())?;
            }
            self.dir.mark_changed();
        }
        self.settle_deleted(offsets.log_start)?;
        let is_in_checkpoint =
            self.known.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.topic_id == topic_id);
        let parts = LogParts {
            segments,
            epochs: self.epochs,
            producers,
            snapshots: self.snapshots,
            log_start_offset: offsets.log_start,
            log_end_offset: offsets.log_end,
            high_watermark: offsets.high_watermark,
            recovery_point: offsets.recovery_point,
            cleaned_up_to,
            // A checkpoint has it too: the first one behind a new id is synced. Whoever claims a log that is nobody's writes
            // it anew.
            id_unsynced: topic_id != TopicId::ZERO && !is_in_checkpoint,
            holes,
        };
        let must_be_synced = self.config.flush_messages.is_some();
        let log = Log::new(Arc::clone(self.dir), self.partition, topic_id, self.config, parts);
        if must_be_synced {
            // A replica that follows from here on says with its first fetch that it has all of this on its disk.
            log.sync()?;
        }
        Ok(log)
    }

    /// Whether a power loss took data before a segment that no one was told is durable. Then it is as if the segment
    /// had never been written: a log has no holes of that kind. (Compaction leaves holes, in synced segments, and what
    /// follows such a log has them between any two.)
    ///
    /// Of what may be missing before the first segment its leader knows more: that of a compacted log may begin behind its
    /// start, and then so does what follows it from there. Such a log stays, and may have lost its
    /// [beginning](Self::missing_beginning).
    ///
    /// Without a checkpoint nothing tells where the log should begin, and holes are left to logs that may have been
    /// compacted and to those that Kafka wrote, which come with checkpoints of Kafka's.
    fn is_beyond_a_hole(&self, before: &[Segment], base_offset: i64) -> bool {
        let Some(before) = before.last() else { return false };
        if !self.known.rebooted || self.followed_at_the_checkpoint(before, base_offset) {
            return false;
        }
        let compact = self.config.cleanup_policy.compact;
        let kept_below = match &self.known.checkpoint {
            Some(checkpoint) => {
                // What was cut off is not synced any more, but gaps in it may be the leader's.
                let cut_offset = self.cut_offset().filter(|_| !compact).unwrap_or(i64::MAX);
                checkpoint.recovery_point.min(cut_offset)
            }
            None if compact || self.known.last_writer != LastWriter::Chronik => {
                return false;
            }
            None => self.cleaned_up_to().unwrap_or(i64::MIN),
        };
        before.next_offset < base_offset && kept_below.max(self.cleaned_end()) < base_offset
    }

    /// Whether nothing lay between two segments when the checkpoint was made, and nothing of the first one is missing.
    fn followed_at_the_checkpoint(&self, before: &Segment, base_offset: i64) -> bool {
        let Some(checkpoint) = &self.known.checkpoint else { return false };
        let mut known = checkpoint.segments.iter().rev().skip_while(|known| known.base_offset != base_offset);
        // What was cut off may have come again at other offsets.
        known.next().is_some()
            && self.cut_offset().is_none_or(|cut_offset| base_offset < cut_offset)
            && known.next().is_some_and(|known| known.next_offset <= before.next_offset)
    }

    /// Whether a segment may have been emptied by compaction, by a policy that need not be the topic's any more.
    fn was_cleaned(&self, base_offset: i64) -> bool {
        self.known_segment(base_offset).is_some_and(|known| known.size_bytes == 0)
            || base_offset < self.cleaned_end()
            || self.cleaned_up_to().is_some_and(|offset| base_offset < offset)
    }

    /// Whether the checkpoint knows of records in a segment that was not cleaned since.
    fn had_records(&self, base_offset: i64) -> bool {
        self.cleaned_end() <= base_offset
            && !self.was_cut()
            && self.known_segment(base_offset).is_some_and(|known| known.size_bytes > 0)
    }

    /// What the checkpoint says of a segment.
    fn known_segment(&self, base_offset: i64) -> Option<&Segment> {
        let segments = &self.known.checkpoint.as_ref()?.segments;
        segments.iter().find(|segment| segment.base_offset == base_offset)
    }

    /// Whether a segment before is damaged, and nothing says that what follows was synced.
    fn is_beyond_damage(&self) -> bool {
        let may_be_synced = self.known.rebooted && !self.known.clean && self.known.checkpoint.is_some();
        self.is_damaged && !may_be_synced && !self.config.cleanup_policy.compact
    }

    /// Segments below this offset may be cleaned ones, and not what the checkpoint says of them. All of it was synced
    /// before the first of them was put in place.
    fn cleaned_end(&self) -> i64 {
        self.known.notes.iter().fold(i64::MIN, |end, note| match note.kind {
            NoteKind::Clean => end.max(note.offset),
            NoteKind::Cut => end.min(note.offset),
            NoteKind::Restart => i64::MIN,
            NoteKind::Append | NoteKind::LogStart | NoteKind::Delete => end,
        })
    }

    /// How far the log was cleaned: nothing that was appended after a cut is.
    fn cleaned_up_to(&self) -> Option<i64> {
        if self.noted(NoteKind::Restart) {
            return None;
        }
        let cut_offset = self.cut_offset().unwrap_or(i64::MAX);
        self.known.cleaned_up_to.map(|offset| offset.min(cut_offset)).filter(|&offset| offset >= 0)
    }

    fn warn(&self, offset: i64, extension: &str, what: &str) {
        let path = self.dir.file_path(&self.partition, offset, extension);
        tracing::warn!(path = %path.display(), "{what}");
    }

    fn take_files(&mut self, entries: &[DirEntry]) {
        for entry in entries.iter().filter(|entry| !entry.is_dir) {
            if let Some((offset, extension)) = names::parse_file(&entry.name) {
                if extension == names::SNAPSHOT {
                    self.snapshots.insert(offset);
                } else {
                    self.files.insert((offset, extension.to_owned()), entry.len_bytes);
                }
            }
        }
    }

    fn file_len(&self, offset: i64, extension: &str) -> Option<u64> {
        self.files.get(&(offset, extension.to_owned())).copied()
    }

    /// Whose log this is. A checkpoint that may be older than the directory may speak of another topic of the same name,
    /// that was deleted since; then it says nothing of this one.
    fn find_topic_id(&mut self, entries: &[DirEntry]) -> Result<TopicId, LogError> {
        let there =
            entries.iter().any(|entry| entry.name == names::PARTITION_METADATA && entry.len_bytes > 0);
        // A checkpoint of a log that was nobody's yet says nothing of who has claimed it since.
        let from_checkpoint = self.known.checkpoint.as_ref().map(|checkpoint| checkpoint.topic_id);
        let from_checkpoint = from_checkpoint.filter(|topic_id| *topic_id != TopicId::ZERO);
        // The journal tells of a deletion, and only a power loss takes parts of the journal.
        let is_certain = self.known.clean || !self.known.rebooted;
        let path = self.path.join(names::PARTITION_METADATA);
        if let (true, true, Some(topic_id)) = (there, is_certain, from_checkpoint) {
            self.write_topic_id_again(&path, topic_id)?;
            return Ok(topic_id);
        }
        if there
            && let Some(topic_id) =
                self.dir.disk.read_file(&path).ok().as_deref().and_then(partition_metadata::parse)
        {
            if from_checkpoint.is_some_and(|known| known != topic_id) {
                self.known.forget_log();
            }
            self.write_topic_id_again(&path, topic_id)?;
            return Ok(topic_id);
        }
        let topic_id = from_checkpoint.unwrap_or(TopicId::ZERO);
        if topic_id == TopicId::ZERO {
            tracing::warn!(path = %path.display(), "the topic id is missing; the topic of this name that is opened next is taken to be the owner");
        } else {
            tracing::warn!(path = %path.display(), %topic_id, "the topic id is missing; it is written anew from the checkpoint");
            replace_unsynced(self.dir, &path, partition_metadata::format(topic_id).as_bytes())?;
        }
        Ok(topic_id)
    }

    /// A power loss may take the note of a deletion and leave those before it, which are about the deleted log. The id of
    /// a log is durable before the first note that names it, so that a log which has lost its id has none.
    fn forget_others_notes(&mut self) {
        let topic_id = self.topic_id;
        if topic_id != TopicId::ZERO || self.known.rebooted {
            self.known.notes.retain(|note| note.topic_id == TopicId::ZERO || note.topic_id == topic_id);
        }
    }

    /// What could not be synced, and is taken for synced, is written again.
    fn write_topic_id_again(&self, path: &Path, topic_id: TopicId) -> Result<(), LogError> {
        if self.known.has_failed_sync {
            let contents = partition_metadata::format(topic_id);
            let file = self.dir.open(path, OpenMode::ReadWrite);
            let written = file.and_then(|file| file.write_all_at(contents.as_bytes(), 0).map(|()| file));
            let file = written.map_err(|source| self.dir.write_failed("write", path, source))?;
            file.sync_data().map_err(|source| self.dir.sync_failed(path, source))?;
        }
        Ok(())
    }

    fn load_producers(&mut self) {
        let was_cut = self.was_cut();
        if let Some(checkpoint) = &mut self.known.checkpoint
            && let Some(producers) = checkpoint.producers.take()
        {
            self.producers_end = (!was_cut).then_some(checkpoint.log_end_offset);
            self.producers = producers;
        }
    }

    fn noted(&self, kind: NoteKind) -> bool {
        self.known.notes.iter().any(|note| note.kind == kind)
    }

    fn was_cut(&self) -> bool {
        self.cut_offset().is_some()
    }

    /// The lowest offset at which the log was cut since the checkpoint. What lies below is as the checkpoint has it.
    fn cut_offset(&self) -> Option<i64> {
        let notes = self.known.notes.iter();
        notes
            .filter_map(|note| match note.kind {
                NoteKind::Cut => Some(note.offset),
                NoteKind::Restart => Some(i64::MIN),
                NoteKind::Append | NoteKind::LogStart | NoteKind::Delete | NoteKind::Clean => None,
            })
            .min()
    }

    /// Where the log begins, if it began at `start` at the checkpoint.
    fn noted_start(&self, start: i64) -> i64 {
        self.known.notes.iter().fold(start, |start, note| match note.kind {
            NoteKind::Restart => note.offset,
            NoteKind::LogStart => start.max(note.offset),
            NoteKind::Append | NoteKind::Cut | NoteKind::Delete | NoteKind::Clean => start,
        })
    }

    /// Where the log begins, as far as that is known without its files.
    fn known_start(&self) -> i64 {
        self.noted_start(match &self.known.checkpoint {
            Some(checkpoint) => checkpoint.log_start_offset,
            None => self.known.kafka_log_start.unwrap_or(0),
        })
    }

    fn settle_offsets(&mut self, segments: &mut Vec<Segment>) -> Result<Offsets, LogError> {
        let restart = self.known.notes.iter().rev().find(|note| note.kind == NoteKind::Restart);
        let mut offsets = Offsets::default();
        let mut checkpoint_end = 0;
        if let Some(checkpoint) = &self.known.checkpoint {
            offsets.high_watermark = checkpoint.high_watermark;
            offsets.recovery_point = checkpoint.recovery_point;
            checkpoint_end = checkpoint.log_end_offset;
        } else {
            offsets.high_watermark = self.known.kafka_high_watermark.unwrap_or(0);
        }
        if let Some(note) = restart {
            offsets.recovery_point = note.offset;
            checkpoint_end = note.offset;
        }
        if let Some(cut_offset) = self.cut_offset() {
            offsets.recovery_point = offsets.recovery_point.min(cut_offset);
        }
        offsets.log_start = self.known_start();
        if let Some(first) = segments.first() {
            offsets.log_start = offsets.log_start.max(first.base_offset);
        }
        let found_end = segments.last().map_or(offsets.log_start, |segment| segment.next_offset);
        offsets.log_end = found_end;
        // Whatever the power has taken, what was synced is there, up to where it was cut.
        if self.known.rebooted && found_end < offsets.recovery_point {
            self.dir.shared.note_loss();
            // What is appended from here on is not what the checkpoint says was synced.
            self.dir.note(&self.partition, self.topic_id, NoteKind::Cut, found_end)?;
        }
        if found_end < checkpoint_end && !self.was_cut() && !self.known.rebooted {
            tracing::warn!(
                path = %self.path.display(), found_end, checkpoint_end,
                "the log ends before its checkpoint: data that was there is gone"
            );
            self.dir.shared.note_loss();
            let lost_file =
                self.known.checkpoint.as_ref().and_then(|c| c.segments.last()).is_some_and(|last| {
                    segments.binary_search_by_key(&last.base_offset, |segment| segment.base_offset).is_err()
                });
            if lost_file {
                // Offsets of records that were acknowledged are not given out again.
                self.start_segment_at(segments, checkpoint_end)?;
                offsets.log_end = checkpoint_end;
            } else {
                // Nor will the next process believe it to be as long, once it has grown again.
                self.dir.note(&self.partition, self.topic_id, NoteKind::Cut, found_end)?;
            }
        }
        if offsets.log_end < offsets.log_start {
            let beyond: Vec<i64> = segments.drain(..).map(|segment| segment.base_offset).collect();
            self.remove_segments(&beyond)?;
            offsets.log_end = offsets.log_start;
        }
        offsets.recovery_point = offsets.recovery_point.max(self.cleaned_end());
        offsets.recovery_point = offsets.recovery_point.clamp(offsets.log_start, offsets.log_end);
        Ok(offsets)
    }

    fn start_segment_at(&mut self, segments: &mut Vec<Segment>, base_offset: i64) -> Result<(), LogError> {
        let path = self.dir.file_path(&self.partition, base_offset, names::LOG);
        self.dir
            .open(&path, OpenMode::Create)
            .map_err(|source| self.dir.write_failed("create", &path, source))?;
        segments.push(Segment::new(base_offset, self.now.wall.get()));
        self.dir.mark_changed();
        Ok(())
    }

    fn settle_producers(&mut self, segments: &[Segment], log_end: i64) -> Result<ProducerState, LogError> {
        let beyond: Vec<i64> = self.snapshots.iter().copied().filter(|&offset| log_end < offset).collect();
        for &offset in &beyond {
            self.snapshots.remove(&offset);
            self.remove_file(offset, names::SNAPSHOT)?;
        }
        if !beyond.is_empty() {
            self.sync_names()?;
        }
        // Segments that were deleted since the checkpoint could tell what came after it. Without them its state is that of
        // another time, whatever was replayed onto it, and producers would be refused that have gone on meanwhile.
        let first_base = segments.first().map_or(log_end, |segment| segment.base_offset);
        let checkpoint = self.known.checkpoint.as_ref();
        let is_followed = checkpoint.is_some_and(|checkpoint| first_base <= checkpoint.log_end_offset);
        if is_followed && self.producers_end.is_some_and(|end| end <= log_end) {
            return Ok(std::mem::take(&mut self.producers));
        }
        let (mut producers, damaged) =
            rebuild_producers(self.dir, &self.partition, segments, &self.snapshots, log_end)?;
        if let Some(cut_offset) = self.cut_offset() {
            producers.remember(&self.producers, cut_offset);
        }
        for offset in damaged {
            self.snapshots.remove(&offset);
        }
        Ok(producers)
    }
}

#[derive(Debug, Default)]
struct Offsets {
    log_start: i64,
    log_end: i64,
    high_watermark: i64,
    recovery_point: i64,
}
