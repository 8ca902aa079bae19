//! Cutting a log: at its end when a replica diverged from its leader, at its start when records are deleted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chronik_disk::{DiskFile, OpenMode};
use chronik_protocol::records::BatchError;
use chronik_types::{Now, Offset};

use crate::error::is_disk_full;
use crate::index::{OffsetEntry, TimeEntry};
use crate::journal::NoteKind;
use crate::log::{Log, Writer};
use crate::producer_state::ProducerState;
use crate::recovery::rebuild_producers;
use crate::scan::{BatchWalker, ScanError};
use crate::segment::Segment;
use crate::{LogError, names};

/// How often the place of a cut is looked for again until it is found where it was the last time.
const CUT_READS_MAX: usize = 4;

impl Log {
    /// Cuts the log so that it ends at or before `offset`, and forgets the leader epochs that begin at or after its new
    /// end. False where it ended there already.
    pub fn truncate_to(&self, now: Now, offset: Offset) -> Result<bool, LogError> {
        let _reshaping = self.reshaping.lock();
        let _syncing = self.syncing.lock();
        let mut writer = self.writer.lock();
        self.check_usable()?;
        if self.log_end_offset() <= offset {
            if self.log_end_offset() == offset {
                // An epoch that begins here has no records, and the leader does not know it.
                let mut epochs = self.view.lock().epochs.clone();
                if epochs.truncate_from_end(offset.get()) {
                    self.store_epochs(&mut writer, epochs)?;
                }
            }
            // An earlier cut may have failed to write down where holes are left.
            self.close_hole(self.log_end_offset().get())?;
            return Ok(false);
        }
        let first = self.view.lock().segments.first().map(|segment| segment.base_offset);
        let log_start_offset = self.log_start_offset();
        if offset <= log_start_offset || first.is_none_or(|first| offset.get() <= first) {
            self.clear(&mut writer, now, offset.get())?;
            return Ok(true);
        }
        let last = {
            let view = self.view.lock();
            let keep = view.segments.partition_point(|segment| segment.base_offset < offset.get());
            keep.checked_sub(1).and_then(|last| view.segments.get(last).cloned())
        };
        let Some(mut last) = last else { return Err(LogError::Closed) };
        let path = self.file_path(last.base_offset, names::LOG);
        let opened = self.dir.open(&path, OpenMode::ReadWrite);
        let file = opened.map_err(|source| LogError::io("open", &path, source))?;
        let (end_bytes, end_offset) = self.find_cut(&*file, &last, offset.get())?;
        if end_offset < log_start_offset.get() {
            // The batch that goes reaches below the start of the log. Nothing is left.
            self.clear(&mut writer, now, log_start_offset.get())?;
            return Ok(true);
        }
        // Before anything changes: a log that is cut and remembers what it has lost takes that for duplicates.
        let producers = self.producers_at(&mut writer, end_offset)?;
        // Whatever is appended after the cut is under the same note.
        writer.noted_generation = Some(self.note(&mut writer, NoteKind::Cut, end_offset)?);
        let gone = {
            let mut view = self.view.lock();
            self.note_cut(&mut view, end_offset);
            if let Some(ring) = &mut view.ring {
                ring.truncate(end_offset);
            }
            let keep = view.segments.partition_point(|segment| segment.base_offset <= last.base_offset);
            let gone = view.segments.split_off(keep);
            if !gone.is_empty() {
                self.renew_file_number(&mut view);
            }
            gone
        };
        writer.active_file = Some(Arc::clone(&file));
        let delay_ms = self.config().file_delete_delay_ms;
        for segment in &gone {
            self.retire_segment(&mut writer, now, segment.base_offset, delay_ms)?;
        }
        let are_snapshots_gone = self.remove_snapshots(&mut writer, |snapshot| end_offset < snapshot)?;
        if !gone.is_empty() || are_snapshots_gone {
            // Or a power loss might bring one of them back behind what is appended now: segments, and what producers had sent.
            self.sync_names()?;
        }
        self.cut_segment(&mut writer, &*file, &mut last, end_bytes, end_offset)?;
        if let Some(slot) = self.view.lock().segments.last_mut() {
            *slot = last;
        }
        self.end_at(&mut writer, end_offset)?;
        self.publish_first_unstable_offset(&producers);
        writer.producers = producers;
        self.close_hole(offset.get())?;
        self.dir.mark_changed();
        Ok(true)
    }

    /// Throws everything away and starts at `offset`.
    pub fn truncate_fully_and_start_at(&self, now: Now, offset: Offset) -> Result<(), LogError> {
        let _reshaping = self.reshaping.lock();
        let _syncing = self.syncing.lock();
        let mut writer = self.writer.lock();
        self.check_usable()?;
        self.clear(&mut writer, now, offset.get())
    }

    fn clear(&self, writer: &mut Writer, now: Now, offset: i64) -> Result<(), LogError> {
        writer.noted_generation = Some(self.note(writer, NoteKind::Restart, offset)?);
        let gone = {
            let mut view = self.view.lock();
            view.ring = None;
            view.cut_count += 1;
            self.set_cleaned_up_to(None);
            self.renew_file_number(&mut view);
            self.log_start_offset.store(offset, Ordering::Release);
            self.log_end_offset.store(offset, Ordering::Release);
            self.high_watermark.store(offset, Ordering::Release);
            std::mem::take(&mut view.segments)
        };
        writer.active_file = None;
        self.size_bytes.store(0, Ordering::Relaxed);
        self.recovery_point.store(offset, Ordering::Release);
        for segment in &gone {
            self.retire_segment(writer, now, segment.base_offset, 0)?;
        }
        if self.remove_snapshots(writer, |_| true)? || !gone.is_empty() {
            // Or a power loss might bring one of them back, and the log would begin with it.
            self.sync_names()?;
        }
        writer.unsynced.clear();
        writer.producers.clear();
        self.publish_first_unstable_offset(&writer.producers);
        let mut epochs = self.view.lock().epochs.clone();
        epochs.clear();
        self.store_or_owe_epochs(writer, epochs)?;
        self.close_hole(i64::MIN)
    }

    /// Moves the log's start to `offset` (KIP-107), which must not be above the high watermark, and gives the new
    /// start. Whole segments before it go with the next maintenance.
    pub fn delete_records(&self, offset: Offset) -> Result<Offset, LogError> {
        let mut writer = self.writer.lock();
        self.check_usable()?;
        let (log_start_offset, log_end_offset) = (self.log_start_offset(), self.log_end_offset());
        if self.high_watermark() < offset {
            return Err(LogError::OffsetOutOfRange { offset, log_start_offset, log_end_offset });
        }
        if offset <= log_start_offset {
            return Ok(log_start_offset);
        }
        // The journal has it before the client has its answer, if there is room: deleted records do not come back.
        self.note_start(&mut writer, offset.get())?;
        self.move_start(&mut writer, offset.get())?;
        self.dir.mark_start_moved();
        Ok(offset)
    }

    /// Lets the log start at `offset` from now on.
    pub(crate) fn move_start(&self, writer: &mut Writer, offset: i64) -> Result<(), LogError> {
        self.log_start_offset.fetch_max(offset, Ordering::AcqRel);
        self.high_watermark.fetch_max(offset, Ordering::AcqRel);
        self.recovery_point.fetch_max(offset, Ordering::AcqRel);
        let mut epochs = self.view.lock().epochs.clone();
        if epochs.truncate_from_start(offset) {
            self.store_or_owe_epochs(writer, epochs)?;
        }
        self.dir.mark_changed();
        Ok(())
    }

    /// Takes a segment's files out of the log: they lose their names now and are removed after the delay.
    pub(crate) fn retire_segment(
        &self,
        writer: &mut Writer,
        now: Now,
        base_offset: i64,
        delay_ms: u64,
    ) -> Result<(), LogError> {
        writer.unsynced.remove(&base_offset);
        writer.dir_unsynced = true;
        writer.snapshots.remove(&base_offset);
        let due = now.monotonic.plus_ms(delay_ms);
        // The data goes last: a segment that still has its data is whole again after a restart.
        let extensions = [names::SNAPSHOT, names::TXN_INDEX, names::TIME_INDEX, names::INDEX, names::LOG];
        for extension in extensions {
            let path = self.file_path(base_offset, extension);
            let retired = self.file_path(base_offset, &format!("{extension}{}", names::DELETED));
            match self.dir.disk.rename(&path, &retired) {
                Ok(()) => self.dir.removals.push_file(due, retired),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                // Even a new name can want space; without it the file goes at once.
                Err(error) if is_disk_full(&error) => {
                    let removed = self.dir.disk.remove_file(&path);
                    removed.map_err(|source| self.dir.cut_failed("remove", &path, source))?;
                }
                Err(error) => return Err(self.dir.cut_failed("rename", &path, error)),
            }
        }
        Ok(())
    }

    /// Where a segment ends, in bytes and as an offset, once what holds `offset` or more is cut off.
    ///
    /// Headers are not held against checksums here, and a bit that flips on its way from the disk must not decide what
    /// goes: what is found must be found twice.
    fn find_cut(&self, file: &dyn DiskFile, segment: &Segment, offset: i64) -> Result<(u64, i64), LogError> {
        let base_offset = segment.base_offset;
        let failed = |error| self.read_failed(base_offset, error);
        let file_number = self.view.lock().file_number;
        let find = || {
            // The batch before the one that goes is looked at too: where it ends, the log ends.
            let from =
                self.position_before(file_number, base_offset, segment.size_bytes, offset.saturating_sub(1))?;
            find_end(file, from, segment, offset)
        };
        let mut found = find().map_err(failed)?;
        for _ in 0..CUT_READS_MAX {
            let before = std::mem::replace(&mut found, find().map_err(failed)?);
            if before == found {
                return Ok(found);
            }
        }
        let source = BatchError::Inconsistent("its headers are read differently each time");
        Err(LogError::Corrupt { path: self.file_path(base_offset, names::LOG), position: found.0, source })
    }

    /// Cuts the last segment, which ends there then.
    fn cut_segment(
        &self,
        writer: &mut Writer,
        file: &dyn DiskFile,
        segment: &mut Segment,
        end_bytes: u64,
        end_offset: i64,
    ) -> Result<(), LogError> {
        let base_offset = segment.base_offset;
        let path = self.file_path(base_offset, names::LOG);
        if end_bytes < segment.size_bytes {
            file.truncate(end_bytes).map_err(|source| self.dir.cut_failed("cut", &path, source))?;
            // What is appended now must not come to lie before, or between, batches that the power brings back.
            file.sync_data().map_err(|source| self.dir.sync_failed(&path, source))?;
        }
        let relative = segment.relative(end_offset).unwrap_or(0);
        self.cut_indexes(segment, relative)?;
        segment.size_bytes = end_bytes;
        segment.next_offset = end_offset;
        refresh_max_timestamp(segment, file).map_err(|error| {
            let error = self.read_failed(base_offset, error);
            // The file is shorter already than the log knows.
            self.dir.take_offline(&error);
            error
        })?;
        writer.unsynced.insert(base_offset);
        Ok(())
    }

    fn cut_indexes(&self, segment: &mut Segment, relative_end: u32) -> Result<(), LogError> {
        let path = self.file_path(segment.base_offset, names::INDEX);
        let index = self.open_index(&path, segment.offset_index.on_disk_count())?;
        segment
            .offset_index
            .truncate(index.as_deref(), |entry: &OffsetEntry| entry.relative_offset < relative_end)
            .map_err(|source| self.dir.cut_failed("cut", &path, source))?;
        let path = self.file_path(segment.base_offset, names::TIME_INDEX);
        let index = self.open_index(&path, segment.time_index.on_disk_count())?;
        segment
            .time_index
            .truncate(index.as_deref(), |entry: &TimeEntry| entry.relative_offset < relative_end)
            .map_err(|source| self.dir.cut_failed("cut", &path, source))
    }

    fn open_index(
        &self,
        path: &std::path::Path,
        on_disk_count: u32,
    ) -> Result<Option<Arc<dyn DiskFile>>, LogError> {
        if on_disk_count == 0 {
            return Ok(None);
        }
        match self.dir.open(path, OpenMode::ReadWrite) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.dir.cut_failed("open", path, source)),
        }
    }

    /// Sets the log's end after a cut, and what must not lie beyond it.
    fn end_at(&self, writer: &mut Writer, end_offset: i64) -> Result<(), LogError> {
        let mut epochs = {
            let view = self.view.lock();
            self.log_end_offset.store(end_offset, Ordering::Release);
            let size_bytes = view.segments.iter().map(|segment| segment.size_bytes).sum();
            self.size_bytes.store(size_bytes, Ordering::Relaxed);
            view.epochs.clone()
        };
        self.high_watermark.fetch_min(end_offset, Ordering::AcqRel);
        self.recovery_point.fetch_min(end_offset, Ordering::AcqRel);
        if epochs.truncate_from_end(end_offset) {
            self.store_or_owe_epochs(writer, epochs)?;
        }
        Ok(())
    }

    /// The producers' state as it was when the log ended at `end_offset`.
    fn producers_at(&self, writer: &mut Writer, end_offset: i64) -> Result<ProducerState, LogError> {
        let mut segments = self.view.lock().segments.clone();
        segments.retain(|segment| segment.base_offset < end_offset);
        let (mut producers, damaged) =
            rebuild_producers(&self.dir, &self.partition, &segments, &writer.snapshots, end_offset)?;
        producers.remember(&writer.producers, end_offset);
        for snapshot in damaged {
            writer.snapshots.remove(&snapshot);
        }
        Ok(producers)
    }

    /// Removes snapshots, and says whether there were any.
    pub(crate) fn remove_snapshots(
        &self,
        writer: &mut Writer,
        gone: impl Fn(i64) -> bool,
    ) -> Result<bool, LogError> {
        let (remove, keep): (BTreeSet<i64>, BTreeSet<i64>) =
            writer.snapshots.iter().partition(|&&snapshot| gone(snapshot));
        writer.snapshots = keep;
        // Names that came back with the power would be believed.
        writer.dir_unsynced |= !remove.is_empty();
        for &snapshot in &remove {
            let path = self.file_path(snapshot, names::SNAPSHOT);
            let removed = self.dir.disk.remove_file_if_there(&path);
            removed.map_err(|source| self.dir.cut_failed("remove", &path, source))?;
        }
        Ok(!remove.is_empty())
    }
}

/// See [`Log::find_cut`]; `from` is a batch's position. The end is not beyond what is there: where offsets are missing at
/// the end, the leader tells what follows them.
fn find_end(file: &dyn DiskFile, from: u64, segment: &Segment, offset: i64) -> Result<(u64, i64), ScanError> {
    let mut walker = BatchWalker::headers(file, from, segment.size_bytes);
    let mut behind = (from == 0).then_some(segment.base_offset);
    while let Some(found) = walker.next_header()? {
        if offset <= found.last_offset() {
            return Ok((found.position, behind.unwrap_or(offset).min(found.header.base_offset.get())));
        }
        behind = Some(found.last_offset().saturating_add(1));
    }
    Ok((segment.size_bytes, behind.unwrap_or(offset)))
}

/// Finds a cut segment's largest timestamp: the time index knows it up to its last entry, the rest is walked.
fn refresh_max_timestamp(segment: &mut Segment, file: &dyn DiskFile) -> Result<(), ScanError> {
    let indexed = segment.time_index.last();
    segment.max_timestamp = indexed.map_or(-1, |entry| entry.timestamp);
    segment.offset_of_max_timestamp =
        indexed.map_or(-1, |entry| segment.base_offset.saturating_add(i64::from(entry.relative_offset)));
    let from = segment.offset_index.last().map_or(0, |entry| u64::from(entry.position));
    segment.bytes_since_index = segment.size_bytes.saturating_sub(from);
    let mut walker = BatchWalker::headers(file, from, segment.size_bytes);
    while let Some(found) = walker.next_header()? {
        let timestamp = found.header.max_timestamp.get();
        if timestamp > segment.max_timestamp {
            segment.max_timestamp = timestamp;
            segment.offset_of_max_timestamp = found.last_offset();
        }
    }
    if segment.size_bytes == 0 {
        segment.first_timestamp = -1;
    }
    Ok(())
}
