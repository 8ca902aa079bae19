//! Segments: which are believed, and reading those that are not.

use std::io;
use std::path::Path;

use chronik_disk::{DiskFile, OpenMode};
use chronik_protocol::records::BatchError;

use super::producers::read_marker;
use super::{LastWriter, Recovery};
use crate::index::{IndexEntry, OffsetEntry, TimeEntry};
use crate::journal::NoteKind;
use crate::marker::marker_epoch;
use crate::scan::{BatchWalker, FoundBatch, ScanError};
use crate::segment::{BatchFacts, Segment};
use crate::{LogError, names};

/// How often a file is scanned at most until its first bad batch is found where it was found the last time.
const SCANS_MAX: usize = 5;

impl Recovery<'_> {
    pub(super) fn recover_segment(
        &mut self,
        base_offset: i64,
        len: u64,
        next_base: Option<i64>,
    ) -> Result<Segment, LogError> {
        let cut_offset = self.cut_offset().unwrap_or(i64::MAX);
        let (is_last_known, recovery_point) = match &self.known.checkpoint {
            None => (false, 0),
            Some(checkpoint) => {
                let last = checkpoint.segments.last().map(|s| s.base_offset);
                (last == Some(base_offset), checkpoint.recovery_point)
            }
        };
        let was_cleaned = base_offset < self.cleaned_end() || self.put_in_place.contains(&base_offset);
        if was_cleaned && let Some(next_base) = next_base {
            if let Some(segment) = self.take_by_tail(base_offset, len, next_base)? {
                // Its batches have told the producers' state nothing; the snapshots behind it know.
                if self.producers_end.is_some_and(|end| end < segment.next_offset) {
                    self.producers_end = None;
                }
                return Ok(segment);
            }
            return self.reread(base_offset, len, Some(next_base), self.cleaned_end());
        }
        let Some(mut segment) = self.known_segment(base_offset).cloned() else {
            if self.known.checkpoint.is_none()
                && self.known.last_writer == LastWriter::KafkaWhole
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
        let is_closed = next_base.is_some() && !is_last_known;
        let synced = segment.next_offset <= recovery_point && (is_closed || undisturbed);
        // What lies below the recovery point may only have been deleted, and never synced: after a failed sync all of it
        // is looked at.
        let check_from =
            if self.known.has_failed_sync { base_offset } else { recovery_point.min(cut_offset) };
        if cut || ((self.known.rebooted || self.known.has_failed_sync) && !synced) {
            return self.rescan_known(&segment, len, next_base, check_from);
        }
        let checked_bytes = segment.size_bytes;
        if len < checked_bytes || (is_closed && len != checked_bytes) {
            let what = format!(
                "the segment has {len} bytes and the checkpoint knows {checked_bytes}; it is read anew"
            );
            self.warn(base_offset, names::LOG, &what);
            if len < checked_bytes {
                self.dir.shared.note_loss();
            }
            return self.rescan_known(&segment, len, next_base, base_offset);
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

    /// As [`rescan`](Self::rescan), of a segment that the checkpoint knows; tells what is missing of it.
    fn rescan_known(
        &mut self,
        known: &Segment,
        len: u64,
        next_base: Option<i64>,
        check_from: i64,
    ) -> Result<Segment, LogError> {
        let found = self.rescan(known.base_offset, len, next_base, check_from)?;
        if next_base.is_some() {
            self.compare_with_known(&found, known);
        }
        Ok(found)
    }

    /// Reads a segment from its beginning. Batches that end below `check_from` are not held against their CRC.
    pub(super) fn rescan(
        &mut self,
        base_offset: i64,
        len: u64,
        next_base: Option<i64>,
        check_from: i64,
    ) -> Result<Segment, LogError> {
        // What is read again is not counted twice.
        if self.producers_end.is_some_and(|end| base_offset < end) {
            self.producers_end = None;
        }
        self.reread(base_offset, len, next_base, check_from)
    }

    /// Reads a segment from its beginning and takes the producers' state for right where it is known.
    fn reread(
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
        self.scan(&mut segment, len, next_base, check_from)?;
        Ok(segment)
    }

    /// Reads what a segment holds beyond what is known of it, and cuts it before the first bad batch.
    pub(super) fn scan(
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
        if let Some((position, error)) =
            self.find_bad_batch(&*file, &path, segment, len, next_base, check_from)?
        {
            let lost_bytes = len.saturating_sub(segment.size_bytes);
            // A process that dies in an append leaves the beginning of a batch behind, at the end of the log.
            let was_being_appended =
                matches!(error, BatchError::Truncated { .. }) && next_base.is_none() && !self.known.clean;
            if !was_being_appended {
                self.dir.shared.note_loss();
                self.is_damaged = true;
                if let Some(next_base) = next_base {
                    self.note_lost(segment.next_offset, next_base);
                }
            }
            tracing::warn!(path = %path.display(), position, lost_bytes, reason = %error, "the segment is cut before its first bad batch");
        }
        if segment.size_bytes < len {
            if next_base.is_some() {
                self.keep_lost()?;
            }
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

    /// Scans a file to its end, or to its first bad batch, which it gives once two scans in a row have ended there in the
    /// same way. A bit that flips on its way from the disk must not decide what goes: where this is the last replica in
    /// sync, it leads afterwards although others have what it has cut.
    fn find_bad_batch(
        &mut self,
        file: &dyn DiskFile,
        path: &Path,
        segment: &mut Segment,
        len: u64,
        next_base: Option<i64>,
        check_from: i64,
    ) -> Result<Option<(u64, BatchError)>, LogError> {
        let before = (segment.clone(), self.epochs.clone(), self.producers.clone());
        let (epochs_changed, producers_end) = (self.epochs_changed, self.producers_end);
        let mut last = None;
        for _ in 0..SCANS_MAX {
            let bad = match self.scan_file(file, segment, len, next_base, check_from) {
                Ok(()) => return Ok(None),
                Err(ScanError::Io(source)) => return Err(LogError::io("read", path, source)),
                Err(ScanError::Batch { position, error }) => (position, error),
            };
            if last.replace(bad) == Some(bad) {
                return Ok(Some(bad));
            }
            // The batches before it are read again too: no checksum covers the length, offset and epoch in a header.
            (*segment, self.epochs, self.producers) = before.clone();
            (self.epochs_changed, self.producers_end) = (epochs_changed, producers_end);
        }
        let position = last.map_or(segment.size_bytes, |(position, _)| position);
        let source = BatchError::Inconsistent("its file is read differently each time");
        Err(LogError::Corrupt { path: path.to_owned(), position, source })
    }

    pub(super) fn scan_file(
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
            headers.expect(segment.next_offset, self.epoch_at(segment.next_offset));
            let Some(found) = headers.next_header()? else { return Ok(()) };
            if check_from <= found.last_offset() {
                break;
            }
            let marker = read_marker(file, &found)?;
            self.take_batch(segment, &found, marker, next_base)?;
            next_unchecked = found.end_position();
        }
        let mut batches = BatchWalker::batches(file, next_unchecked, len);
        loop {
            batches.expect(segment.next_offset, self.epoch_at(segment.next_offset));
            let Some((found, bytes)) = batches.next_batch()? else { return Ok(()) };
            let marker = marker_epoch(&found.header, bytes);
            self.take_batch(segment, &found, marker, next_base)?;
            if self.known.has_failed_sync {
                file.write_all_at(bytes, found.position).map_err(|source| {
                    let path = self.dir.file_path(&self.partition, segment.base_offset, names::LOG);
                    io::Error::other(self.dir.write_failed("write again", &path, source))
                })?;
            }
        }
    }

    fn epoch_at(&self, offset: i64) -> i32 {
        self.epochs.epoch_for_offset(offset).unwrap_or(-1)
    }

    /// Takes a batch over, if it can follow what comes before it.
    pub(super) fn take_batch(
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
}
