//! Indexes: whether they are whole, making them anew, and believing a segment by the end of its index.

use std::io;

use chronik_disk::OpenMode;

use super::Recovery;
use crate::index::{Index, IndexEntry, OffsetEntry, TimeEntry, encode_all, read_entry};
use crate::scan::{BatchWalker, ScanError};
use crate::segment::{BatchFacts, Segment};
use crate::{LogError, names};

impl Recovery<'_> {
    /// Whether the index files of a segment that is taken from the checkpoint have what the checkpoint counts on. Bytes
    /// beyond that are cut off.
    pub(super) fn indexes_are_whole(&self, segment: &Segment) -> Result<bool, LogError> {
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

    pub(super) fn cut_file(&self, offset: i64, extension: &str, len: u64) -> Result<(), LogError> {
        let path = self.dir.file_path(&self.partition, offset, extension);
        let cut = self.dir.open(&path, OpenMode::ReadWrite).and_then(|file| file.truncate(len));
        cut.map_err(|source| self.dir.write_failed("cut", &path, source))
    }

    /// Makes a segment's indexes anew from its headers.
    pub(super) fn rebuild_indexes(&self, segment: &mut Segment) -> Result<(), LogError> {
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

    pub(super) fn write_closed_indexes(&self, segment: &mut Segment) -> Result<(), LogError> {
        self.append_index(segment.base_offset, names::INDEX, &mut segment.offset_index)?;
        self.append_index(segment.base_offset, names::TIME_INDEX, &mut segment.time_index)
    }

    pub(super) fn append_index<E: IndexEntry>(
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

    /// A closed segment that was synced and that no checkpoint knows: its last index entry must lead to batches that are
    /// intact and end where the next segment begins. Then the rest is believed.
    pub(super) fn take_by_tail(
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
            let (mut first_found, mut last_epoch) = (None, None);
            let (mut max_timestamp, mut offset_of_max) =
                (last_time.timestamp, base_offset.saturating_add(i64::from(last_time.relative_offset)));
            while let Some((found, _)) = walker.next_batch()? {
                first_found.get_or_insert(found.last_offset());
                next_offset = found.last_offset().saturating_add(1);
                last_epoch = Some(found.header.partition_leader_epoch.get());
                if found.header.max_timestamp.get() > max_timestamp {
                    (max_timestamp, offset_of_max) = (found.header.max_timestamp.get(), found.last_offset());
                }
            }
            let indexed = base_offset.saturating_add(i64::from(last.relative_offset));
            // An older file of epochs does not know those that came last.
            let knows_epoch = last_epoch.filter(|&epoch| epoch >= 0)
                == self.epochs.epoch_for_offset(next_offset.saturating_sub(1));
            if first_found != Some(indexed) || next_base < next_offset || !knows_epoch {
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
}
