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
//! | the machine stopped (another boot id) | what lies below the recovery point |
//! | no checkpoint | a closed segment whose index leads to batches that end where the next segment begins |
//!
//! A file that is missing or damaged is put right from the others, with one warning.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use chronik_disk::{DirEntry, DiskFile, OpenMode};
use chronik_protocol::records::BatchError;
use chronik_types::{Now, TopicId, TopicPartition};

use crate::checkpoint::PartitionCheckpoint;
use crate::dir::LogDir;
use crate::epoch_cache::EpochCache;
use crate::index::{Index, IndexEntry, OffsetEntry, TimeEntry, encode_all, read_entry};
use crate::journal::{Note, NoteKind};
use crate::log::{Log, LogParts, replace_unsynced};
use crate::marker::marker_epoch;
use crate::partition_metadata;
use crate::producer_state::ProducerState;
use crate::scan::{BatchWalker, FoundBatch, ScanError};
use crate::segment::{BatchFacts, Segment};
use crate::{LogConfig, LogError, names};

/// What is known of a partition before its directory is looked at.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// What the last checkpoint says of it.
    pub(crate) checkpoint: Option<PartitionCheckpoint>,
    /// What the journal says happened since, in order.
    pub(crate) notes: Vec<Note>,
    /// Whether the machine stopped since.
    pub(crate) rebooted: bool,
    /// Whether that checkpoint was the last act of a clean shutdown.
    pub(crate) clean: bool,
    /// Kafka's own checkpoints, for a directory that Kafka wrote: log start, high watermark.
    pub(crate) kafka_log_start: Option<i64>,
    pub(crate) kafka_high_watermark: Option<i64>,
}

/// One partition while it is recovered.
struct Recovery<'a> {
    dir: &'a Arc<LogDir>,
    partition: TopicPartition,
    path: PathBuf,
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
}

/// Recovers the log in a partition's directory.
pub(crate) fn recover(
    dir: &Arc<LogDir>,
    partition: &TopicPartition,
    known: Known,
    config: Arc<LogConfig>,
    now: Now,
) -> Result<Log, LogError> {
    let path = dir.partition_path(partition);
    let entries = dir.disk.read_dir(&path).map_err(|source| LogError::io("list", &path, source))?;
    let mut recovery = Recovery {
        dir,
        partition: partition.clone(),
        path,
        known,
        config,
        now,
        files: BTreeMap::new(),
        epochs: EpochCache::default(),
        epochs_changed: false,
        producers: ProducerState::default(),
        producers_end: None,
        snapshots: BTreeSet::new(),
    };
    let entries = recovery.finish_interrupted(entries)?;
    recovery.take_files(&entries);
    recovery.run(&entries)
}

impl Recovery<'_> {
    fn run(mut self, entries: &[DirEntry]) -> Result<Log, LogError> {
        let topic_id = self.topic_id(entries)?;
        let bases: Vec<(i64, u64)> = self
            .files
            .iter()
            .filter(|((_, extension), _)| extension == names::LOG)
            .map(|((base_offset, _), &len)| (*base_offset, len))
            .collect();
        self.load_epochs(entries, !bases.is_empty());
        self.load_producers();
        let mut segments = Vec::new();
        for (at, &(base_offset, len)) in bases.iter().enumerate() {
            if self.is_beyond_a_hole(&segments, base_offset) {
                self.warn(
                    base_offset,
                    names::LOG,
                    "the power loss took what came before; the segment and those after it are removed",
                );
                for &(lost, _) in bases.get(at..).unwrap_or_default() {
                    self.remove_segment_files(lost)?;
                }
                break;
            }
            let next_base = bases.get(at + 1).map(|&(next, _)| next);
            let segment = self.recover_segment(base_offset, len, next_base)?;
            if next_base.is_none() || segment.size_bytes > 0 {
                segments.push(segment);
            } else {
                self.warn(
                    base_offset,
                    names::LOG,
                    "the segment holds nothing that can be read; it is removed",
                );
                self.remove_segment_files(base_offset)?;
            }
        }
        let offsets = self.settle_offsets(&mut segments)?;
        self.remove_orphans(&segments)?;
        let producers = self.settle_producers(&segments, offsets.log_end)?;
        self.epochs_changed |= self.epochs.truncate_from_end(offsets.log_end);
        self.epochs_changed |= self.epochs.truncate_from_start(offsets.log_start);
        if self.epochs_changed {
            let path = self.path.join(names::LEADER_EPOCH_CHECKPOINT);
            let contents = self.epochs.to_file();
            // Mostly the file is right already and only the checkpoint is older.
            if self.dir.disk.read_file(&path).ok().as_deref() != Some(contents.as_bytes()) {
                replace_unsynced(self.dir, &path, contents.as_bytes())?;
            }
            self.dir.mark_changed();
        }
        let parts = LogParts {
            segments,
            epochs: self.epochs,
            producers,
            snapshots: self.snapshots,
            log_start_offset: offsets.log_start,
            log_end_offset: offsets.log_end,
            high_watermark: offsets.high_watermark,
            recovery_point: offsets.recovery_point,
        };
        Ok(Log::new(Arc::clone(self.dir), self.partition, topic_id, self.config, parts))
    }

    /// Whether a power loss took data before a segment that no one was told is durable. Then it is as if the segment
    /// had never been written: a log has no holes of that kind. (Compaction leaves holes, in synced segments.)
    fn is_beyond_a_hole(&self, before: &[Segment], base_offset: i64) -> bool {
        let (true, Some(checkpoint)) = (self.known.rebooted, &self.known.checkpoint) else { return false };
        let expected = before.last().map_or(checkpoint.log_start_offset, |segment| segment.next_offset);
        expected < base_offset && checkpoint.recovery_point < base_offset
    }

    fn warn(&self, offset: i64, extension: &str, what: &str) {
        let path = self.dir.file_path(&self.partition, offset, extension);
        tracing::warn!(path = %path.display(), "{what}");
    }

    /// Ends what a restart interrupted: files on their way out go, a segment that compaction was about to put in place
    /// is put in place.
    fn finish_interrupted(&self, entries: Vec<DirEntry>) -> Result<Vec<DirEntry>, LogError> {
        let mut changed = false;
        let mut swapped = Vec::new();
        for entry in &entries {
            let name = &entry.name;
            if [names::DELETED, names::CLEANED, names::TMP].iter().any(|suffix| name.ends_with(suffix)) {
                let path = self.path.join(name);
                self.dir.disk.remove_file(&path).map_err(|e| self.dir.write_failed("remove", &path, e))?;
                changed = true;
            } else if let Some(target) = name.strip_suffix(names::SWAP) {
                swapped.push((name.clone(), target.to_owned()));
            }
        }
        // The data takes its place first, as its indexes can be made from it.
        swapped.sort_by_key(|(_, target)| !target.ends_with(names::LOG));
        for (from, to) in &swapped {
            if to.ends_with(&format!(".{}", names::LOG)) {
                self.remove_replaced(from, to)?;
            }
            let (from, to) = (self.path.join(from), self.path.join(to));
            self.dir.disk.rename(&from, &to).map_err(|e| self.dir.write_failed("rename", &from, e))?;
            changed = true;
        }
        if !changed {
            return Ok(entries);
        }
        self.dir.disk.read_dir(&self.path).map_err(|source| LogError::io("list", &self.path, source))
    }

    /// Removes the segments whose offsets a compacted segment covers.
    fn remove_replaced(&self, swap: &str, target: &str) -> Result<(), LogError> {
        let Some((base_offset, _)) = names::parse_file(target) else { return Ok(()) };
        let path = self.path.join(swap);
        let io_failed = |source| LogError::io("read", &path, source);
        let file = self.dir.open(&path, OpenMode::Read).map_err(io_failed)?;
        let mut walker = BatchWalker::headers(&*file, 0, file.len_bytes().map_err(io_failed)?);
        let mut last_offset = base_offset;
        while let Ok(Some(found)) = walker.next_header() {
            last_offset = last_offset.max(found.last_offset());
        }
        for entry in self.dir.disk.read_dir(&self.path).map_err(io_failed)? {
            let Some((offset, extension)) = names::parse_file(&entry.name) else { continue };
            let replaced = [names::LOG, names::INDEX, names::TIME_INDEX, names::TXN_INDEX];
            if base_offset <= offset && offset <= last_offset && replaced.contains(&extension) {
                let path = self.path.join(&entry.name);
                self.dir.disk.remove_file(&path).map_err(|e| self.dir.write_failed("remove", &path, e))?;
            }
        }
        Ok(())
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

    fn topic_id(&self, entries: &[DirEntry]) -> Result<TopicId, LogError> {
        let there =
            entries.iter().any(|entry| entry.name == names::PARTITION_METADATA && entry.len_bytes > 0);
        let from_checkpoint = self.known.checkpoint.as_ref().map(|checkpoint| checkpoint.topic_id);
        if let (true, Some(topic_id)) = (there, from_checkpoint) {
            return Ok(topic_id);
        }
        let path = self.path.join(names::PARTITION_METADATA);
        if there
            && let Some(topic_id) =
                self.dir.disk.read_file(&path).ok().as_deref().and_then(partition_metadata::parse)
        {
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

    fn load_epochs(&mut self, entries: &[DirEntry], has_segments: bool) {
        let there = entries.iter().any(|entry| entry.name == names::LEADER_EPOCH_CHECKPOINT);
        let path = self.path.join(names::LEADER_EPOCH_CHECKPOINT);
        if let (Some(checkpoint), false) = (&self.known.checkpoint, self.was_cut()) {
            self.epochs = checkpoint.epochs.clone();
            if !there && !self.epochs.entries().is_empty() {
                tracing::warn!(path = %path.display(), "the leader epochs are missing; they are written anew from the checkpoint");
                self.epochs_changed = true;
            }
            return;
        }
        let found = self
            .dir
            .disk
            .read_file(&path)
            .ok()
            .and_then(|contents| EpochCache::from_file(std::str::from_utf8(&contents).ok()?));
        match found {
            Some(epochs) => self.epochs = epochs,
            None if there || has_segments => {
                tracing::warn!(path = %path.display(), "the leader epochs are missing or damaged; they are read from the batches");
                self.epochs_changed = true;
            }
            None => {}
        }
    }

    fn load_producers(&mut self) {
        if self.was_cut() {
            return;
        }
        if let Some(checkpoint) = &mut self.known.checkpoint
            && let Some(producers) = checkpoint.producers.take()
        {
            self.producers_end = Some(checkpoint.log_end_offset);
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
                NoteKind::Append | NoteKind::LogStart | NoteKind::Delete => None,
            })
            .min()
    }

    fn recover_segment(
        &mut self,
        base_offset: i64,
        len: u64,
        next_base: Option<i64>,
    ) -> Result<Segment, LogError> {
        let cut_offset = self.cut_offset().unwrap_or(i64::MAX);
        let (known, is_last_known, recovery_point) = match &self.known.checkpoint {
            None => (None, false, 0),
            Some(checkpoint) => {
                let known = checkpoint.segments.iter().find(|s| s.base_offset == base_offset).cloned();
                let last = checkpoint.segments.last().map(|s| s.base_offset);
                (known, last == Some(base_offset), checkpoint.recovery_point)
            }
        };
        let Some(mut segment) = known else {
            if self.known.checkpoint.is_none()
                && let Some(next_base) = next_base
                && let Some(segment) = self.take_by_tail(base_offset, len, next_base)?
            {
                return Ok(segment);
            }
            return self.rescan(base_offset, len, next_base, base_offset);
        };
        let cut = cut_offset < segment.next_offset;
        // After a reboot only synced data is believed, and of the last segment, whose indexes are synced by a clean
        // shutdown only, the headers are read again.
        let undisturbed = self.known.clean && self.known.notes.is_empty();
        let synced = segment.next_offset <= recovery_point && (next_base.is_some() || undisturbed);
        if cut || (self.known.rebooted && !synced) {
            return self.rescan(base_offset, len, next_base, recovery_point.min(cut_offset));
        }
        let (checked_bytes, is_closed) = (segment.size_bytes, next_base.is_some() && !is_last_known);
        if len < checked_bytes || (is_closed && len != checked_bytes) {
            let what = format!(
                "the segment has {len} bytes and the checkpoint knows {checked_bytes}; it is read anew"
            );
            self.warn(base_offset, names::LOG, &what);
            return self.rescan(base_offset, len, next_base, base_offset);
        }
        if !self.indexes_are_whole(&segment)? {
            self.rebuild_indexes(&mut segment)?;
        }
        if checked_bytes < len {
            if !self.noted(NoteKind::Append) && !self.known.rebooted {
                self.warn(
                    base_offset,
                    names::LOG,
                    "the segment has grown and the journal does not know of it",
                );
            }
            self.scan(&mut segment, len, next_base, base_offset)?;
        }
        Ok(segment)
    }

    /// Reads a segment from its beginning. Batches that end below `check_from` are not held against their CRC.
    fn rescan(
        &mut self,
        base_offset: i64,
        len: u64,
        next_base: Option<i64>,
        check_from: i64,
    ) -> Result<Segment, LogError> {
        let mut segment = Segment::new(base_offset, self.now.wall.get());
        for (extension, size) in [(names::INDEX, OffsetEntry::BYTES), (names::TIME_INDEX, TimeEntry::BYTES)] {
            if self.file_len(base_offset, extension).is_some_and(|len| len > 0 && size > 0) {
                self.cut_file(base_offset, extension, 0)?;
            }
        }
        // What is read again is not counted twice.
        if self.producers_end.is_some_and(|end| base_offset < end) {
            self.producers_end = None;
        }
        self.scan(&mut segment, len, next_base, check_from)?;
        Ok(segment)
    }

    /// Reads what a segment holds beyond what is known of it, and cuts it before the first bad batch.
    fn scan(
        &mut self,
        segment: &mut Segment,
        len: u64,
        next_base: Option<i64>,
        check_from: i64,
    ) -> Result<(), LogError> {
        let base_offset = segment.base_offset;
        let path = self.dir.file_path(&self.partition, base_offset, names::LOG);
        let file = self
            .dir
            .open(&path, OpenMode::ReadWrite)
            .map_err(|source| LogError::io("open", &path, source))?;
        let bad = self.scan_file(&*file, segment, len, next_base, check_from);
        match bad {
            Ok(()) => {}
            Err(ScanError::Io(source)) => return Err(LogError::io("read", &path, source)),
            Err(ScanError::Batch { position, error }) => {
                let lost_bytes = len.saturating_sub(segment.size_bytes);
                tracing::warn!(path = %path.display(), position, lost_bytes, reason = %error, "the segment is cut before its first bad batch");
            }
        }
        if segment.size_bytes < len {
            file.truncate(segment.size_bytes).map_err(|e| self.dir.write_failed("cut", &path, e))?;
        }
        if next_base.is_some() {
            // A segment that is closed has all its index entries on disk.
            segment.add_time_entry();
            self.write_closed_indexes(segment)?;
        }
        self.dir.mark_changed();
        Ok(())
    }

    fn scan_file(
        &mut self,
        file: &dyn DiskFile,
        segment: &mut Segment,
        len: u64,
        next_base: Option<i64>,
        check_from: i64,
    ) -> Result<(), ScanError> {
        let mut headers = BatchWalker::headers(file, segment.size_bytes, len);
        let mut next_unchecked = segment.size_bytes;
        // First what was synced, by its headers.
        while segment.next_offset < check_from {
            let Some(found) = headers.next_header()? else { return Ok(()) };
            if check_from <= found.last_offset() {
                break;
            }
            let marker = read_marker(file, &found)?;
            self.take_batch(segment, &found, marker, next_base)?;
            next_unchecked = found.end_position();
        }
        let mut batches = BatchWalker::batches(file, next_unchecked, len);
        while let Some((found, bytes)) = batches.next_batch()? {
            let marker = marker_epoch(&found.header, bytes);
            self.take_batch(segment, &found, marker, next_base)?;
        }
        Ok(())
    }

    /// Takes a batch over, if it can follow what comes before it.
    fn take_batch(
        &mut self,
        segment: &mut Segment,
        found: &FoundBatch,
        marker: Option<i32>,
        next_base: Option<i64>,
    ) -> Result<(), ScanError> {
        let header = &found.header;
        let bad =
            |reason| ScanError::Batch { position: found.position, error: BatchError::Inconsistent(reason) };
        let base_offset = header.base_offset.get();
        let last_offset = found.last_offset();
        // Offsets and epoch lie outside the CRC. Compaction leaves gaps, in segments that are closed; appends do not.
        let gap_is_normal =
            next_base.is_some() || self.config.cleanup_policy.compact || segment.size_bytes == 0;
        if base_offset < segment.next_offset || (!gap_is_normal && segment.next_offset < base_offset) {
            return Err(bad("its base offset does not follow"));
        }
        if next_base.is_some_and(|next| next <= last_offset) {
            return Err(bad("its offsets reach into the next segment"));
        }
        if segment.relative(last_offset).is_none_or(|relative| i32::try_from(relative).is_err()) {
            return Err(bad("its offsets are too far from the segment's"));
        }
        let epoch = header.partition_leader_epoch.get();
        let latest = self.epochs.epoch_for_offset(base_offset).unwrap_or(-1);
        if epoch < latest {
            return Err(bad("its leader epoch is below that of an earlier batch"));
        }
        if self.epochs.latest().is_none_or(|entry| entry.epoch < epoch) && epoch >= 0 {
            self.epochs.assign(epoch, base_offset);
            self.epochs_changed = true;
        }
        if self.producers_end.is_some_and(|end| end <= base_offset) {
            self.producers.replay(header, marker);
            self.producers_end = Some(last_offset.saturating_add(1));
        }
        let facts = BatchFacts {
            base_offset,
            last_offset,
            max_timestamp: header.max_timestamp.get(),
            size_bytes: header.size_bytes as u64,
        };
        segment.add(facts, self.config.index_interval_bytes);
        segment.last_append_ms = self.now.wall.get();
        Ok(())
    }

    /// Whether the index files of a segment that is taken from the checkpoint have what the checkpoint counts on. Bytes
    /// beyond that are cut off.
    fn indexes_are_whole(&self, segment: &Segment) -> Result<bool, LogError> {
        let base_offset = segment.base_offset;
        let wanted = [
            (names::INDEX, u64::from(segment.offset_index.on_disk_count()) * OffsetEntry::BYTES as u64),
            (names::TIME_INDEX, u64::from(segment.time_index.on_disk_count()) * TimeEntry::BYTES as u64),
        ];
        for (extension, wanted_bytes) in wanted {
            let len = self.file_len(base_offset, extension).unwrap_or(0);
            if len < wanted_bytes {
                self.warn(base_offset, extension, "the index is missing or cut off; it is made anew");
                return Ok(false);
            }
            if wanted_bytes < len {
                self.cut_file(base_offset, extension, wanted_bytes)?;
            }
        }
        Ok(true)
    }

    fn cut_file(&self, offset: i64, extension: &str, len: u64) -> Result<(), LogError> {
        let path = self.dir.file_path(&self.partition, offset, extension);
        let cut = self.dir.open(&path, OpenMode::ReadWrite).and_then(|file| file.truncate(len));
        cut.map_err(|source| self.dir.write_failed("cut", &path, source))
    }

    /// Makes a segment's indexes anew from its headers.
    fn rebuild_indexes(&self, segment: &mut Segment) -> Result<(), LogError> {
        let path = self.dir.file_path(&self.partition, segment.base_offset, names::LOG);
        let mut fresh = Segment::new(segment.base_offset, segment.created_ms);
        let walk = || -> Result<Segment, ScanError> {
            let file = self.dir.open(&path, OpenMode::Read)?;
            let mut walker = BatchWalker::headers(&*file, 0, segment.size_bytes);
            while let Some(found) = walker.next_header()? {
                let facts = BatchFacts {
                    base_offset: found.header.base_offset.get(),
                    last_offset: found.last_offset(),
                    max_timestamp: found.header.max_timestamp.get(),
                    size_bytes: found.header.size_bytes as u64,
                };
                fresh.add(facts, self.config.index_interval_bytes);
            }
            Ok(fresh)
        };
        let fresh = walk().map_err(|error| match error {
            ScanError::Io(source) => LogError::io("read", &path, source),
            ScanError::Batch { position, error } => {
                LogError::Corrupt { path: path.clone(), position, source: error }
            }
        })?;
        segment.offset_index = fresh.offset_index;
        segment.time_index = fresh.time_index;
        segment.bytes_since_index = fresh.bytes_since_index;
        segment.add_time_entry();
        self.write_closed_indexes(segment)
    }

    fn write_closed_indexes(&self, segment: &mut Segment) -> Result<(), LogError> {
        self.append_index(segment.base_offset, names::INDEX, &mut segment.offset_index)?;
        self.append_index(segment.base_offset, names::TIME_INDEX, &mut segment.time_index)
    }

    fn append_index<E: IndexEntry>(
        &self,
        base_offset: i64,
        extension: &str,
        index: &mut Index<E>,
    ) -> Result<(), LogError> {
        let path = self.dir.file_path(&self.partition, base_offset, extension);
        let kept = u64::from(index.on_disk_count()) * E::BYTES as u64;
        let write = || {
            let file = self.dir.open(&path, OpenMode::Create)?;
            file.truncate(kept)?;
            file.write_all_at(&encode_all(index.unwritten()), kept)
        };
        write().map_err(|source| self.dir.write_failed("write", &path, source))?;
        index.mark_written(index.unwritten().len());
        Ok(())
    }

    /// A closed segment without a checkpoint: its last index entry must lead to batches that are intact and end where
    /// the next segment begins. Then the rest is believed.
    fn take_by_tail(
        &mut self,
        base_offset: i64,
        len: u64,
        next_base: i64,
    ) -> Result<Option<Segment>, LogError> {
        if self.epochs_changed {
            // The epochs have to be read from the batches anyway.
            return Ok(None);
        }
        let index_len = self.file_len(base_offset, names::INDEX).unwrap_or(0);
        let time_len = self.file_len(base_offset, names::TIME_INDEX).unwrap_or(0);
        let (offset_count, time_count) = (index_len / 8, time_len / 12);
        let (Ok(offset_count), Ok(time_count)) = (u32::try_from(offset_count), u32::try_from(time_count))
        else {
            return Ok(None);
        };
        let whole = index_len.is_multiple_of(8) && time_len.is_multiple_of(12);
        let (Some(last_at), Some(last_time_at), true) =
            (offset_count.checked_sub(1), time_count.checked_sub(1), whole)
        else {
            return Ok(None);
        };
        let read = || -> Result<Option<Segment>, ScanError> {
            let open = |extension| {
                self.dir.open(&self.dir.file_path(&self.partition, base_offset, extension), OpenMode::Read)
            };
            let last: Option<OffsetEntry> = read_entry(&*open(names::INDEX)?, last_at)?;
            let last_time: Option<TimeEntry> = read_entry(&*open(names::TIME_INDEX)?, last_time_at)?;
            let (Some(last), Some(last_time)) = (last, last_time) else { return Ok(None) };
            let file = open(names::LOG)?;
            let first = BatchWalker::headers(&*file, 0, len).next_header()?;
            let mut walker = BatchWalker::batches(&*file, u64::from(last.position), len);
            let mut next_offset = base_offset;
            let mut first_found = None;
            let (mut max_timestamp, mut offset_of_max) =
                (last_time.timestamp, base_offset.saturating_add(i64::from(last_time.relative_offset)));
            while let Some((found, _)) = walker.next_batch()? {
                first_found.get_or_insert(found.last_offset());
                next_offset = found.last_offset().saturating_add(1);
                if found.header.max_timestamp.get() > max_timestamp {
                    (max_timestamp, offset_of_max) = (found.header.max_timestamp.get(), found.last_offset());
                }
            }
            let indexed = base_offset.saturating_add(i64::from(last.relative_offset));
            if first_found != Some(indexed) || next_base < next_offset {
                return Ok(None);
            }
            let mut segment = Segment::new(base_offset, self.now.wall.get());
            segment.next_offset = next_offset;
            segment.size_bytes = len;
            segment.max_timestamp = max_timestamp;
            segment.offset_of_max_timestamp = offset_of_max;
            segment.first_timestamp = first.map_or(-1, |found| found.header.max_timestamp.get());
            // Nobody knows when it was appended to; its newest record tells best.
            segment.last_append_ms = max_timestamp.min(self.now.wall.get());
            segment.offset_index = Index::on_disk(offset_count, Some(last));
            segment.time_index = Index::on_disk(time_count, Some(last_time));
            Ok(Some(segment))
        };
        match read() {
            Ok(segment) => Ok(segment),
            Err(ScanError::Io(source)) if source.kind() != io::ErrorKind::NotFound => {
                Err(LogError::io("read", &self.path, source))
            }
            Err(_) => Ok(None),
        }
    }

    fn remove_segment_files(&mut self, base_offset: i64) -> Result<(), LogError> {
        for extension in [names::INDEX, names::TIME_INDEX, names::TXN_INDEX, names::LOG] {
            self.remove_file(base_offset, extension)?;
        }
        Ok(())
    }

    fn remove_file(&mut self, offset: i64, extension: &str) -> Result<(), LogError> {
        let path = self.dir.file_path(&self.partition, offset, extension);
        self.files.remove(&(offset, extension.to_owned()));
        match self.dir.disk.remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.dir.write_failed("remove", &path, error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes indexes that have lost their segment.
    fn remove_orphans(&mut self, segments: &[Segment]) -> Result<(), LogError> {
        let orphans: Vec<(i64, String)> = self
            .files
            .keys()
            .filter(|(offset, _)| segments.binary_search_by_key(offset, |s| s.base_offset).is_err())
            .filter(|(_, extension)| {
                [names::INDEX, names::TIME_INDEX, names::TXN_INDEX].contains(&&**extension)
            })
            .cloned()
            .collect();
        for (offset, extension) in orphans {
            self.warn(offset, &extension, "the index has no segment; it is removed");
            self.remove_file(offset, &extension)?;
        }
        Ok(())
    }

    fn settle_offsets(&mut self, segments: &mut Vec<Segment>) -> Result<Offsets, LogError> {
        let restart = self.known.notes.iter().rev().find(|note| note.kind == NoteKind::Restart);
        let moved = self.known.notes.iter().filter(|note| note.kind == NoteKind::LogStart);
        let mut offsets = Offsets::default();
        let mut checkpoint_end = 0;
        if let Some(checkpoint) = &self.known.checkpoint {
            offsets.log_start = checkpoint.log_start_offset;
            offsets.high_watermark = checkpoint.high_watermark;
            offsets.recovery_point = checkpoint.recovery_point;
            checkpoint_end = checkpoint.log_end_offset;
        } else {
            offsets.log_start = self.known.kafka_log_start.unwrap_or(0);
            offsets.high_watermark = self.known.kafka_high_watermark.unwrap_or(0);
        }
        if let Some(note) = restart {
            offsets.log_start = note.offset;
            offsets.recovery_point = note.offset;
            checkpoint_end = note.offset;
        }
        if let Some(cut_offset) = self.cut_offset() {
            offsets.recovery_point = offsets.recovery_point.min(cut_offset);
        }
        offsets.log_start = moved.map(|note| note.offset).fold(offsets.log_start, i64::max);
        if let Some(first) = segments.first() {
            offsets.log_start = offsets.log_start.max(first.base_offset);
        }
        let found_end = segments.last().map_or(offsets.log_start, |segment| segment.next_offset);
        offsets.log_end = found_end;
        if found_end < checkpoint_end && !self.was_cut() && !self.known.rebooted {
            tracing::warn!(
                path = %self.path.display(), found_end, checkpoint_end,
                "the log ends before its checkpoint: data that was there is gone"
            );
            let lost_file =
                self.known.checkpoint.as_ref().and_then(|c| c.segments.last()).is_some_and(|last| {
                    segments.binary_search_by_key(&last.base_offset, |segment| segment.base_offset).is_err()
                });
            if lost_file {
                // Offsets of records that were acknowledged are not given out again.
                self.start_segment_at(segments, checkpoint_end)?;
                offsets.log_end = checkpoint_end;
            }
        }
        if offsets.log_end < offsets.log_start {
            for segment in std::mem::take(segments) {
                self.remove_segment_files(segment.base_offset)?;
            }
            offsets.log_end = offsets.log_start;
        }
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
        for offset in beyond {
            self.snapshots.remove(&offset);
            self.remove_file(offset, names::SNAPSHOT)?;
        }
        if self.producers_end.is_some_and(|end| end <= log_end) {
            return Ok(std::mem::take(&mut self.producers));
        }
        let (producers, damaged) =
            rebuild_producers(self.dir, &self.partition, segments, &self.snapshots, log_end)?;
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

/// The marker in a batch whose header was found.
fn read_marker(file: &dyn DiskFile, found: &FoundBatch) -> Result<Option<i32>, ScanError> {
    if !found.header.attributes.is_control() {
        return Ok(None);
    }
    let mut bytes = vec![0; found.header.size_bytes];
    let read = file.read_at(&mut bytes, found.position)?;
    bytes.truncate(read);
    Ok(marker_epoch(&found.header, &bytes))
}

/// The producers' state as of `end_offset`: the last good snapshot before it, and what the batches after that say. Gives
/// the snapshots too that turned out damaged; their files are removed.
pub(crate) fn rebuild_producers(
    dir: &LogDir,
    partition: &TopicPartition,
    segments: &[Segment],
    snapshots: &BTreeSet<i64>,
    end_offset: i64,
) -> Result<(ProducerState, Vec<i64>), LogError> {
    let mut damaged = Vec::new();
    let mut producers = ProducerState::default();
    let mut from_offset = i64::MIN;
    for &offset in snapshots.range(..=end_offset).rev() {
        let path = dir.file_path(partition, offset, names::SNAPSHOT);
        let snapshot = dir.disk.read_file(&path).ok().as_deref().and_then(ProducerState::from_snapshot);
        if let Some(snapshot) = snapshot {
            producers = snapshot;
            from_offset = offset;
            break;
        }
        tracing::warn!(path = %path.display(), "the producer snapshot is damaged; an earlier one is taken");
        damaged.push(offset);
        match dir.disk.remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(dir.write_failed("remove", &path, error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    for segment in segments.iter().filter(|segment| from_offset < segment.next_offset) {
        let path = dir.file_path(partition, segment.base_offset, names::LOG);
        let replay = |producers: &mut ProducerState| -> Result<(), ScanError> {
            let file = dir.open(&path, OpenMode::Read)?;
            let mut walker = BatchWalker::headers(&*file, 0, segment.size_bytes);
            while let Some(found) = walker.next_header()? {
                if end_offset <= found.header.base_offset.get() {
                    break;
                }
                if from_offset <= found.header.base_offset.get() {
                    let marker = read_marker(&*file, &found)?;
                    producers.replay(&found.header, marker);
                }
            }
            Ok(())
        };
        replay(&mut producers).map_err(|error| match error {
            ScanError::Io(source) => LogError::io("read", &path, source),
            ScanError::Batch { position, error } => {
                LogError::Corrupt { path: path.clone(), position, source: error }
            }
        })?;
    }
    Ok((producers, damaged))
}
