//! Reading batches.
//!
//! A read looks into the tail ring first. What is not there is told as a region of a segment file, found by the index
//! and a walk over the few headers behind its entry; the records themselves are not touched.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use chronik_disk::DiskFile;
use chronik_types::Offset;

use crate::file_cache::FileKind;
use crate::index::{Found, OffsetEntry, find_on_disk};
use crate::log::{Log, View};
use crate::scan::{BatchWalker, ScanError};
use crate::segment::Segment;
use crate::stats::add;
use crate::{LogError, names};

/// What to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    /// The batch that holds this offset comes first.
    pub start_offset: Offset,
    /// The most bytes wanted.
    pub max_bytes: usize,
    /// Whether the first batch is given even when it is larger than `max_bytes` (KIP-74).
    pub at_least_one_batch: bool,
    /// No batch that reaches this offset is given: the high watermark, the last stable offset, or the log's end.
    pub upper_bound_offset: Offset,
}

/// Record data, where it lies. Always whole batches.
#[derive(Clone, Debug, Default)]
pub enum ReadData {
    /// Nothing.
    #[default]
    Empty,
    /// Batches in memory, in order.
    Memory(Vec<Bytes>),
    /// A region of a segment file.
    File(FileRegion),
}

/// A region of a segment file. The file stays readable while this is held, even when the segment is deleted.
///
/// Below the high watermark its bytes never change. Above it they may, when the log is cut and written anew; whoever
/// reads there (a replica) checks each batch's CRC.
#[derive(Clone)]
pub struct FileRegion {
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Where the region starts, in bytes.
    pub position: u64,
    /// How long it is, in bytes.
    pub len_bytes: u64,
}

impl fmt::Debug for FileRegion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileRegion({}+{})", self.position, self.len_bytes)
    }
}

/// What a read gave.
#[derive(Clone, Debug)]
pub struct ReadResult {
    /// The batches.
    pub data: ReadData,
    /// Their length in bytes.
    pub len_bytes: u64,
    /// Base offset of the first batch: at or below the offset asked for, or above it where the log has a gap. The
    /// offset asked for when there is no data.
    pub first_offset: Offset,
    /// The offset to read next: after the last batch given, or the offset asked for.
    pub next_offset: Offset,
    /// The log's first offset at that moment.
    pub log_start_offset: Offset,
    /// The log's end at that moment.
    pub log_end_offset: Offset,
}

/// How often a read starts anew when the segment that it chose is gone before it could open it, or replaced while it
/// looked.
pub(crate) const ATTEMPTS_MAX: usize = 8;

/// A segment as a read that has chosen it goes on with it, without the view's lock.
struct Target {
    base_offset: i64,
    next_offset: i64,
    size_bytes: u64,
    /// Tells the segment's open files from those of others that had the same name.
    file_number: u64,
    /// The index entry at or before the offset asked for.
    start: Found<OffsetEntry>,
    /// The index entry at or before the upper bound, if the segment reaches beyond the bound.
    end: Option<Found<OffsetEntry>>,
}

/// What the view says about a read.
enum Plan {
    Done(ReadResult),
    File(Target),
}

impl Log {
    /// Reads batches from an offset on. Fails when the offset lies outside the log; an offset at or above the
    /// upper bound gives no data.
    pub fn read(&self, request: ReadRequest) -> Result<ReadResult, LogError> {
        let mut attempts_left = ATTEMPTS_MAX;
        loop {
            self.check_usable()?;
            let target = match self.plan_read(&request)? {
                Plan::Done(result) => return Ok(result),
                Plan::File(target) => target,
            };
            let found = self.read_file(&request, &target);
            if self.view.lock().file_number != target.file_number && attempts_left > 0 {
                // The segment was replaced meanwhile, so what was found may be of another file than was planned for.
                attempts_left -= 1;
                continue;
            }
            match found {
                Ok(Some(result)) => return Ok(result),
                // The rest of the segment is a gap: its last batches are missing. What follows is in the next one.
                Ok(None) => {
                    let request = ReadRequest { start_offset: Offset(target.next_offset), ..request };
                    return self.read(request);
                }
                Err(ScanError::Io(error)) if error.kind() == io::ErrorKind::NotFound && attempts_left > 0 => {
                    attempts_left -= 1;
                }
                Err(error) => return Err(self.read_failed(target.base_offset, error)),
            }
        }
    }

    pub(crate) fn read_failed(&self, base_offset: i64, error: ScanError) -> LogError {
        let path = self.file_path(base_offset, names::LOG);
        match error {
            ScanError::Io(source) => LogError::Io { attempt: "read", path, source: Arc::new(source) },
            ScanError::Batch { position, error } => LogError::Corrupt { path, position, source: error },
        }
    }

    fn plan_read(&self, request: &ReadRequest) -> Result<Plan, LogError> {
        let view = self.view.lock();
        let (log_start_offset, log_end_offset) = (self.log_start_offset(), self.log_end_offset());
        let start_offset = request.start_offset;
        if start_offset < log_start_offset || log_end_offset < start_offset {
            return Err(LogError::OffsetOutOfRange {
                offset: start_offset,
                log_start_offset,
                log_end_offset,
            });
        }
        let mut result = ReadResult {
            data: ReadData::Empty,
            len_bytes: 0,
            first_offset: start_offset,
            next_offset: start_offset,
            log_start_offset,
            log_end_offset,
        };
        let upper_bound = request.upper_bound_offset.min(log_end_offset);
        if upper_bound <= start_offset {
            return Ok(Plan::Done(result));
        }
        if read_ring(&view, request, upper_bound, &mut result) {
            add(&self.dir.shared.counters.read_from_memory_count, 1);
            return Ok(Plan::Done(result));
        }
        Ok(match choose_segment(&view.segments, start_offset.get()) {
            None => Plan::Done(result),
            Some(segment) => Plan::File(Target {
                base_offset: segment.base_offset,
                next_offset: segment.next_offset,
                size_bytes: segment.size_bytes,
                file_number: view.file_number,
                start: segment.find_offset(start_offset.get()),
                end: (upper_bound.get() < segment.next_offset)
                    .then(|| segment.find_offset(upper_bound.get())),
            }),
        })
    }

    /// Finds the region of the batches asked for. `None` where the segment ends before the offset.
    fn read_file(&self, request: &ReadRequest, target: &Target) -> Result<Option<ReadResult>, ScanError> {
        let base_offset = target.base_offset;
        let file = self.open_file(target.file_number, base_offset, FileKind::Log)?;
        let start_offset = request.start_offset.get();
        let upper_bound = request.upper_bound_offset.get();
        let from = self.resolve(target, target.start, below_offset(target, start_offset))?;
        let mut walker = BatchWalker::headers(&*file, from, target.size_bytes);
        let first = loop {
            match walker.next_header()? {
                None => return Ok(None),
                Some(found) if found.last_offset() >= start_offset => break found,
                Some(_) => {}
            }
        };
        let mut result = ReadResult {
            data: ReadData::Empty,
            len_bytes: 0,
            first_offset: request.start_offset,
            next_offset: request.start_offset,
            log_start_offset: self.log_start_offset(),
            log_end_offset: self.log_end_offset(),
        };
        let max_bytes = request.max_bytes as u64;
        let first_is_too_large = first.header.size_bytes as u64 > max_bytes;
        if upper_bound <= first.last_offset() || (first_is_too_large && !request.at_least_one_batch) {
            return Ok(Some(result));
        }
        let limit = first.position.saturating_add(max_bytes);
        let mut end_position = first.end_position();
        let mut next_offset = first.last_offset().saturating_add(1);
        if end_position < limit {
            if target.end.is_none() && target.size_bytes <= limit {
                // All the rest of the segment: no need to look at it.
                end_position = target.size_bytes;
                next_offset = target.next_offset;
            } else {
                let skip_to = self.last_known_before(target, limit, upper_bound)?;
                let mut walker = BatchWalker::headers(&*file, skip_to.max(end_position), target.size_bytes);
                while let Some(found) = walker.next_header()? {
                    if limit < found.end_position() || upper_bound <= found.last_offset() {
                        // Where the index skipped batches, they all lie before this one.
                        end_position = end_position.max(found.position);
                        next_offset = next_offset.max(found.header.base_offset.get());
                        break;
                    }
                    end_position = found.end_position();
                    next_offset = found.last_offset().saturating_add(1);
                }
            }
        }
        let len_bytes = end_position - first.position;
        result.data = ReadData::File(FileRegion { file, position: first.position, len_bytes });
        result.len_bytes = len_bytes;
        result.first_offset = first.header.base_offset;
        result.next_offset = Offset(next_offset);
        add(&self.dir.shared.counters.read_from_file_count, 1);
        Ok(Some(result))
    }

    /// Where the batch starts that an index entry names; looks into the index file where the entry is there. The
    /// beginning of the segment where there is none, or where it does not name a batch.
    fn resolve(
        &self,
        target: &Target,
        found: Found<OffsetEntry>,
        at_or_below: impl Fn(&OffsetEntry) -> bool,
    ) -> Result<u64, ScanError> {
        let entry = match found {
            Found::Nothing => None,
            Found::Entry(entry) => Some(entry),
            Found::OnDisk(count) => self.search_index(target, count, at_or_below)?,
        };
        let Some(entry) = entry else { return Ok(0) };
        let position = u64::from(entry.position);
        let file = self.open_file(target.file_number, target.base_offset, FileKind::Log)?;
        let named = BatchWalker::headers(&*file, position, target.size_bytes).next_header();
        let offset = target.base_offset.saturating_add(i64::from(entry.relative_offset));
        match named {
            Ok(Some(batch)) if batch.last_offset() == offset => Ok(position),
            Err(ScanError::Io(error)) => Err(error.into()),
            Ok(_) | Err(ScanError::Batch { .. }) if self.view.lock().file_number != target.file_number => {
                // The segment was replaced, and whoever asked starts anew.
                Ok(0)
            }
            Ok(_) | Err(ScanError::Batch { .. }) => {
                let path = self.file_path(target.base_offset, names::INDEX);
                tracing::warn!(path = %path.display(), "the offset index is damaged; reading the segment from its beginning");
                Ok(0)
            }
        }
    }

    /// A position at or before the batch that holds `offset`, where a batch starts.
    pub(crate) fn position_before(
        &self,
        file_number: u64,
        base_offset: i64,
        size_bytes: u64,
        offset: i64,
    ) -> Result<u64, ScanError> {
        let start = {
            let view = self.view.lock();
            find_segment(&view, file_number, base_offset)
                .map_or(Found::Nothing, |segment| segment.find_offset(offset))
        };
        let target = Target { base_offset, next_offset: i64::MAX, size_bytes, file_number, start, end: None };
        self.resolve(&target, start, below_offset(&target, offset))
    }

    /// A position that is known to be the start of a batch, at or before both `limit` and the upper bound: the walk
    /// for the region's end starts there.
    fn last_known_before(&self, target: &Target, limit: u64, upper_bound: i64) -> Result<u64, ScanError> {
        let by_bound = match target.end {
            None => u64::MAX,
            Some(found) => self.resolve(target, found, below_offset(target, upper_bound))?,
        };
        let found = {
            let view = self.view.lock();
            find_segment(&view, target.file_number, target.base_offset)
                .map_or(Found::Nothing, |segment| segment.find_position(limit))
        };
        let by_limit = self.resolve(target, found, |entry| u64::from(entry.position) <= limit)?;
        Ok(by_limit.min(by_bound))
    }

    fn search_index(
        &self,
        target: &Target,
        count: u32,
        at_or_below: impl Fn(&OffsetEntry) -> bool,
    ) -> io::Result<Option<OffsetEntry>> {
        match self.open_file(target.file_number, target.base_offset, FileKind::Index) {
            Ok(index) => find_on_disk(&*index, count, at_or_below),
            // Without its index a segment is read from its beginning; the next start makes the index anew.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The segment of that name, unless it is another one by now.
fn find_segment(view: &View, file_number: u64, base_offset: i64) -> Option<&Segment> {
    if view.file_number != file_number {
        return None;
    }
    let at = view.segments.binary_search_by_key(&base_offset, |segment| segment.base_offset).ok()?;
    view.segments.get(at)
}

/// Whether an index entry names a batch that ends at or before `offset`.
fn below_offset(target: &Target, offset: i64) -> impl Fn(&OffsetEntry) -> bool + use<> {
    let relative = offset.saturating_sub(target.base_offset);
    move |entry| i64::from(entry.relative_offset) <= relative
}

/// The segment that holds an offset, or the next one with data where the log has a gap.
pub(crate) fn choose_segment(segments: &[Segment], offset: i64) -> Option<&Segment> {
    let after = segments.partition_point(|segment| segment.next_offset <= offset);
    segments.get(after..)?.iter().find(|segment| segment.size_bytes > 0)
}

/// Reads from the tail ring. False where it does not reach back to the offset.
fn read_ring(view: &View, request: &ReadRequest, upper_bound: Offset, result: &mut ReadResult) -> bool {
    let Some(batches) = view.ring.as_ref().and_then(|ring| ring.batches_from(request.start_offset.get()))
    else {
        return false;
    };
    let mut slices = Vec::new();
    let max_bytes = request.max_bytes as u64;
    for batch in batches {
        let len = batch.bytes.len() as u64;
        let fits = result.len_bytes.saturating_add(len) <= max_bytes
            || (slices.is_empty() && request.at_least_one_batch);
        if !fits || upper_bound.get() <= batch.last_offset {
            break;
        }
        if slices.is_empty() {
            result.first_offset = Offset(batch.base_offset);
        }
        result.next_offset = Offset(batch.last_offset.saturating_add(1));
        result.len_bytes += len;
        slices.push(batch.bytes.clone());
    }
    if !slices.is_empty() {
        result.data = ReadData::Memory(slices);
    }
    true
}
