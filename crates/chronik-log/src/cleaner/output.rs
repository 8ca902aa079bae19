//! The segment that a clean writes, under a name that a restart throws away.

use std::sync::Arc;

use chronik_disk::{DiskFile, OpenMode};
use chronik_protocol::records::BatchHeader;

use crate::index::encode_all;
use crate::log::Log;
use crate::segment::{BatchFacts, SEGMENT_BYTES_MAX, Segment};
use crate::{LogError, names};

/// How much is collected before it is written.
const WRITE_BYTES: usize = 1024 * 1024;
/// How much is written before it is synced, so that no sync takes long.
const SYNC_BYTES: u64 = 32 * 1024 * 1024;

/// The files that a cleaned segment has.
pub(super) const EXTENSIONS: [&str; 3] = [names::INDEX, names::TIME_INDEX, names::LOG];

/// A cleaned segment while it is written.
pub(super) struct Output {
    file: Arc<dyn DiskFile>,
    pub(super) segment: Segment,
    buffer: Vec<u8>,
    /// Bytes in the file; what is in `buffer` comes after them.
    written_bytes: u64,
    synced_bytes: u64,
    index_interval_bytes: u64,
    /// Whether any batch is not the one that was read.
    pub(super) changed: bool,
}

impl Output {
    /// Begins the segment that takes the place of `first` and of those after it.
    pub(super) fn create(log: &Log, first: &Segment, index_interval_bytes: u64) -> Result<Self, LogError> {
        // The directory's name may be another log's once this one is closed.
        let _reshaping = log.reshaping.lock();
        log.check_usable()?;
        let path = cleaned_path(log, first.base_offset, names::LOG);
        let create = || {
            let file = log.dir.open(&path, OpenMode::Create)?;
            file.truncate(0)?;
            Ok(file)
        };
        let file = create().map_err(|source| log.dir.write_failed("create", &path, source))?;
        Ok(Self {
            file,
            segment: Segment::new(first.base_offset, first.created_ms),
            buffer: Vec::new(),
            written_bytes: 0,
            synced_bytes: 0,
            index_interval_bytes,
            changed: false,
        })
    }

    /// Adds a batch. Gives the bytes that were written to the disk meanwhile; false stands for a segment that has grown
    /// beyond what positions can tell.
    pub(super) fn push(
        &mut self,
        log: &Log,
        header: &BatchHeader,
        batch: &[u8],
    ) -> Result<Option<u64>, LogError> {
        let facts = BatchFacts {
            base_offset: header.base_offset.get(),
            last_offset: header.last_offset().map_or(i64::MAX, chronik_types::Offset::get),
            max_timestamp: header.max_timestamp.get(),
            size_bytes: batch.len() as u64,
        };
        if self.segment.size_bytes.saturating_add(facts.size_bytes) > SEGMENT_BYTES_MAX {
            return Ok(None);
        }
        self.segment.add(facts, self.index_interval_bytes);
        self.buffer.extend_from_slice(batch);
        if self.buffer.len() < WRITE_BYTES {
            return Ok(Some(0));
        }
        let written = self.flush(log)?;
        if self.written_bytes - self.synced_bytes >= SYNC_BYTES {
            self.sync(log)?;
        }
        Ok(Some(written))
    }

    fn flush(&mut self, log: &Log) -> Result<u64, LogError> {
        let path = cleaned_path(log, self.segment.base_offset, names::LOG);
        self.file
            .write_all_at(&self.buffer, self.written_bytes)
            .map_err(|source| log.dir.write_failed("write", &path, source))?;
        let bytes = self.buffer.len() as u64;
        self.written_bytes += bytes;
        self.buffer.clear();
        Ok(bytes)
    }

    fn sync(&mut self, log: &Log) -> Result<(), LogError> {
        let path = cleaned_path(log, self.segment.base_offset, names::LOG);
        self.file.sync_data().map_err(|source| log.dir.sync_failed(&path, source))?;
        self.synced_bytes = self.written_bytes;
        Ok(())
    }

    /// Writes what is left and the indexes, syncs it all and gives the segment. `last` is the last of those that it
    /// replaces. Gives the bytes too that were written.
    pub(super) fn finish(mut self, log: &Log, last: &Segment) -> Result<(Segment, u64), LogError> {
        let mut bytes = self.flush(log)?;
        self.sync(log)?;
        let mut segment = self.segment;
        segment.add_time_entry();
        segment.last_append_ms = last.last_append_ms;
        let offsets = encode_all(segment.offset_index.unwritten());
        let times = encode_all(segment.time_index.unwritten());
        for (extension, entries) in [(names::INDEX, &offsets), (names::TIME_INDEX, &times)] {
            write_index(log, segment.base_offset, extension, entries)?;
            bytes += entries.len() as u64;
        }
        segment.offset_index.mark_written(segment.offset_index.unwritten().len());
        segment.time_index.mark_written(segment.time_index.unwritten().len());
        Ok((segment, bytes))
    }
}

fn write_index(log: &Log, base_offset: i64, extension: &str, entries: &[u8]) -> Result<(), LogError> {
    // As in `create`.
    let _reshaping = log.reshaping.lock();
    log.check_usable()?;
    let path = cleaned_path(log, base_offset, extension);
    let write = || {
        let file = log.dir.open(&path, OpenMode::Create)?;
        file.truncate(0)?;
        if entries.is_empty() { Ok(file) } else { file.write_all_at(entries, 0).map(|()| file) }
    };
    let file = write().map_err(|source| log.dir.write_failed("write", &path, source))?;
    file.sync_data().map_err(|source| log.dir.sync_failed(&path, source))
}

pub(super) fn cleaned_path(log: &Log, base_offset: i64, extension: &str) -> std::path::PathBuf {
    names::with_suffix(&log.file_path(base_offset, extension), names::CLEANED)
}

/// Removes the files of a cleaned segment that is not wanted any more.
pub(super) fn discard(log: &Log, base_offset: i64) {
    let _reshaping = log.reshaping.lock();
    if log.check_usable().is_err() {
        return;
    }
    for extension in EXTENSIONS {
        for suffix in [names::CLEANED, names::SWAP] {
            let path = names::with_suffix(&log.file_path(base_offset, extension), suffix);
            if let Err(error) = log.dir.disk.remove_file_if_there(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove; the next start tries again");
            }
        }
    }
}
