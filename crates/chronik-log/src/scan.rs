//! Walking the batches of a segment file.

use std::io;

use chronik_disk::DiskFile;
use chronik_protocol::records::{BATCH_HEADER_BYTES, BatchError, BatchHeader};

/// How much is read at a time when every byte is looked at.
const SCAN_BUFFER_BYTES: usize = 256 * 1024;
/// How much is read at a time when only headers are looked at: the distance between two index entries, mostly.
const WALK_BUFFER_BYTES: usize = 4096;

/// How often a header is read that is read differently each time.
const DOUBTFUL_READS_MAX: usize = 5;

/// One batch of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoundBatch {
    pub(crate) header: BatchHeader,
    pub(crate) position: u64,
}

impl FoundBatch {
    pub(crate) fn end_position(&self) -> u64 {
        self.position.saturating_add(self.header.size_bytes as u64)
    }

    pub(crate) fn last_offset(&self) -> i64 {
        self.header.last_offset().map_or(i64::MAX, chronik_types::Offset::get)
    }
}

/// Why a walk cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScanError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("bad batch at byte {position}: {error}")]
    Batch { position: u64, error: BatchError },
}

/// Walks the batches of a file from a position on. What lies at or beyond `end` does not exist for it.
pub(crate) struct BatchWalker<'a> {
    file: &'a dyn DiskFile,
    position: u64,
    end: u64,
    buffer: Vec<u8>,
    buffer_position: u64,
    chunk_bytes: usize,
    expected: Option<Expected>,
}

/// What an append would have written next.
#[derive(Clone, Copy, Debug)]
struct Expected {
    base_offset: i64,
    epoch: i32,
}

/// Where a walk was left, with what it had read ahead.
#[derive(Debug, Default)]
pub(crate) struct SavedWalk {
    pub(crate) position: u64,
    buffer: Vec<u8>,
    buffer_position: u64,
}

impl SavedWalk {
    /// A walk that begins at `position`.
    pub(crate) fn at(position: u64) -> Self {
        Self { position, ..Self::default() }
    }
}

impl<'a> BatchWalker<'a> {
    /// Goes on with a walk over whole batches.
    pub(crate) fn resume(file: &'a dyn DiskFile, saved: SavedWalk, end: u64) -> Self {
        let SavedWalk { position, buffer, buffer_position } = saved;
        Self { file, position, end, buffer, buffer_position, chunk_bytes: SCAN_BUFFER_BYTES, expected: None }
    }

    /// Leaves a walk so that [`resume`](Self::resume) can go on with it.
    pub(crate) fn save(self) -> SavedWalk {
        SavedWalk { position: self.position, buffer: self.buffer, buffer_position: self.buffer_position }
    }

    /// A walker that looks at headers.
    pub(crate) fn headers(file: &'a dyn DiskFile, position: u64, end: u64) -> Self {
        let chunk_bytes = WALK_BUFFER_BYTES;
        Self { file, position, end, buffer: Vec::new(), buffer_position: 0, chunk_bytes, expected: None }
    }

    /// A walker that looks at whole batches.
    pub(crate) fn batches(file: &'a dyn DiskFile, position: u64, end: u64) -> Self {
        Self { chunk_bytes: SCAN_BUFFER_BYTES, ..Self::headers(file, position, end) }
    }

    /// Says where the next batch begins if it follows without a gap in the same epoch, and that what is decided by
    /// the walk is for good: another offset or epoch, which no CRC covers, must be found twice. A bit may have flipped on
    /// its way from the disk.
    pub(crate) fn expect(&mut self, base_offset: i64, epoch: i32) {
        self.expected = Some(Expected { base_offset, epoch });
    }

    /// The next batch's header; `None` at the end. A batch that is cut off is an error.
    pub(crate) fn next_header(&mut self) -> Result<Option<FoundBatch>, ScanError> {
        let Some(found) = self.peek_certain()? else { return Ok(None) };
        self.position = found.end_position();
        Ok(Some(found))
    }

    /// The next batch with its bytes, its CRC checked.
    pub(crate) fn next_batch(&mut self) -> Result<Option<(FoundBatch, &[u8])>, ScanError> {
        let Some(found) = self.peek_certain()? else { return Ok(None) };
        self.position = found.end_position();
        let bytes = self.bytes_at(found.position, found.header.size_bytes)?;
        if bytes.len() < found.header.size_bytes {
            let error =
                BatchError::Truncated { needed_bytes: found.header.size_bytes, available_bytes: bytes.len() };
            return Err(ScanError::Batch { position: found.position, error });
        }
        found
            .header
            .check_crc(bytes)
            .map_err(|error| ScanError::Batch { position: found.position, error })?;
        Ok(Some((found, bytes)))
    }

    /// The next batch's header, found again where it is not what was [expected](Self::expect).
    fn peek_certain(&mut self) -> Result<Option<FoundBatch>, ScanError> {
        let mut found = self.peek()?;
        let Some(expected) = self.expected.take() else { return Ok(found) };
        for _ in 0..DOUBTFUL_READS_MAX {
            let Some(batch) = &found else { break };
            let is_expected = batch.header.base_offset.get() == expected.base_offset
                && batch.header.partition_leader_epoch.get() == expected.epoch;
            // Gaps can be many, so only the header is read again, and what was read ahead stays.
            if is_expected || self.header_at(batch.position)? == Some(batch.header) {
                break;
            }
            self.buffer.clear();
            found = self.peek()?;
        }
        Ok(found)
    }

    /// The header that lies in the file at `position`, whatever was read there before.
    fn header_at(&self, position: u64) -> io::Result<Option<BatchHeader>> {
        let mut bytes = [0; BATCH_HEADER_BYTES];
        let read = self.file.read_at(&mut bytes, position)?;
        Ok(BatchHeader::parse(bytes.get(..read).unwrap_or_default()).ok())
    }

    fn peek(&mut self) -> Result<Option<FoundBatch>, ScanError> {
        let (position, end) = (self.position, self.end);
        if position >= end {
            return Ok(None);
        }
        let bytes = self.bytes_at(position, BATCH_HEADER_BYTES)?;
        let header = BatchHeader::parse(bytes).and_then(|header| {
            let available = usize::try_from(end - position).unwrap_or(usize::MAX);
            if header.size_bytes > available {
                Err(BatchError::Truncated { needed_bytes: header.size_bytes, available_bytes: available })
            } else if header.last_offset_delta < 0 || header.last_offset().is_none() {
                Err(BatchError::Inconsistent("its last offset is not an offset"))
            } else {
                Ok(header)
            }
        });
        match header {
            Ok(header) => Ok(Some(FoundBatch { header, position })),
            Err(error) => Err(ScanError::Batch { position, error }),
        }
    }

    /// Up to `len` bytes at `position`, fewer at the end.
    fn bytes_at(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        let wanted = usize::try_from(self.end.saturating_sub(position)).unwrap_or(usize::MAX).min(len);
        let offset = position.checked_sub(self.buffer_position).and_then(|at| usize::try_from(at).ok());
        let held =
            offset.is_some_and(|at| at.checked_add(wanted).is_some_and(|end| end <= self.buffer.len()));
        if !held {
            let until_end = usize::try_from(self.end.saturating_sub(position)).unwrap_or(usize::MAX);
            let chunk = self.chunk_bytes.max(wanted).min(until_end);
            self.buffer.resize(chunk, 0);
            let read = self.file.read_at(&mut self.buffer, position)?;
            self.buffer.truncate(read);
            self.buffer_position = position;
        }
        let at = usize::try_from(position - self.buffer_position).unwrap_or(usize::MAX);
        let rest = self.buffer.get(at..).unwrap_or_default();
        Ok(rest.get(..wanted).unwrap_or(rest))
    }
}
