//! One clean of one log, in small steps.
//!
//! First the dirty part is read for the last offset of each key. Then everything below the end of that is written
//! anew, a group of segments at a time, in order: an older value of a key is gone from the disk before the tombstone
//! that made it go.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use chronik_disk::{DiskFile, OpenMode};
use chronik_protocol::records::{BatchHeader, RecordIter};
use chronik_types::{Now, Offset};

use super::CleanerOptions;
use super::choose::{Dirt, group};
use super::filter::{Filter, FilterError, Filtered, INFLATED_BYTES_MAX};
use super::key_map::KeyMap;
use super::output::{Output, discard};
use super::transactions::{DirtyTransactions, MetTransactions, control_type};
use crate::log::Log;
use crate::producer_state::LastRecord;
use crate::scan::{BatchWalker, SavedWalk, ScanError};
use crate::segment::Segment;
use crate::{LogConfig, LogError, names};

/// Why a pass ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum CleanError {
    /// The log was cut, deleted or is not compacted any more, or retention took a segment.
    #[error("the log has changed")]
    Changed,
    #[error("{path} holds a batch at byte {position} that cannot be cleaned: {source}")]
    Batch { path: PathBuf, position: u64, source: FilterError },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the cleaned segment of {0} would be larger than a segment can be")]
    TooLarge(PathBuf),
    #[error("its first transaction has more keys than the map holds; raise log.cleaner.dedupe.buffer.size")]
    MapTooSmall,
    #[error("nothing can be cleaned before a transaction ends")]
    OpenTransaction,
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What a step has done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Bytes read and written.
    pub(super) io_bytes: u64,
    /// Whether the pass is at its end.
    pub(super) is_done: bool,
}

/// A segment that is being read.
struct Reader {
    file: Arc<dyn DiskFile>,
    walk: SavedWalk,
}

enum Phase {
    /// Reading the dirty part.
    Index,
    /// Writing.
    Rewrite {
        /// What is left to do, the next one last; indexes of `segments`.
        groups: Vec<Range<usize>>,
        current: Option<Box<Rewriting>>,
    },
}

/// A group of segments that is written anew.
struct Rewriting {
    range: Range<usize>,
    output: Output,
    last_records: std::collections::BTreeMap<i64, LastRecord>,
}

/// One clean of one log.
pub(super) struct Pass {
    pub(super) log: Arc<Log>,
    config: Arc<LogConfig>,
    started: Now,
    dirt: Dirt,
    pub(super) cut_count: u64,
    /// The segments below the upper bound, as they were when the pass began.
    segments: Vec<Segment>,
    /// The segment that is being read.
    at: usize,
    reader: Option<Reader>,
    map: KeyMap,
    dirty_transactions: DirtyTransactions,
    met_transactions: MetTransactions,
    /// The last offset that the map covers.
    latest_offset: i64,
    phase: Phase,
    pub(super) read_bytes: u64,
    pub(super) written_bytes: u64,
    pub(super) replaced_bytes: u64,
}

impl Pass {
    /// Begins a clean. Everything that it will look at is made durable first: a record must not go because of a later
    /// one that a power loss could still take.
    pub(super) fn begin(
        log: Arc<Log>,
        config: Arc<LogConfig>,
        dirt: Dirt,
        options: &CleanerOptions,
        now: Now,
    ) -> Result<Self, CleanError> {
        log.sync_up_to(Offset(dirt.upper_bound))?;
        let (cut_count, segments): (u64, Vec<Segment>) = {
            let view = log.view.lock();
            let below = view.segments.iter().take_while(|segment| segment.base_offset < dirt.upper_bound);
            (view.cut_count, below.cloned().collect())
        };
        let at = segments.partition_point(|segment| segment.next_offset <= dirt.first_dirty_offset);
        // No key is met more often than there are offsets.
        let offset_count: u64 = segments
            .iter()
            .skip(at)
            .map(|segment| {
                segment.next_offset.saturating_sub(segment.base_offset.max(dirt.first_dirty_offset))
            })
            .map(|count| u64::try_from(count).unwrap_or(0))
            .sum();
        let map = KeyMap::new(
            options.map_bytes(),
            options.dedupe_buffer_load_factor,
            offset_count,
            options.hash_secret,
        );
        Ok(Self {
            log,
            config,
            started: now,
            dirt,
            cut_count,
            segments,
            at,
            reader: None,
            map,
            dirty_transactions: DirtyTransactions::default(),
            met_transactions: MetTransactions::default(),
            latest_offset: dirt.upper_bound.saturating_sub(1),
            phase: Phase::Index,
            read_bytes: 0,
            written_bytes: 0,
            replaced_bytes: 0,
        })
    }

    /// The offset up to which the log is clean once the pass is done.
    pub(super) fn end_offset(&self) -> i64 {
        self.latest_offset.saturating_add(1)
    }

    /// Bytes of the key map.
    pub(super) fn map_bytes(&self) -> usize {
        self.map.size_bytes()
    }

    /// Goes on for about `step_bytes`.
    pub(super) fn step(&mut self, now: Now, step_bytes: u64) -> Result<Progress, CleanError> {
        self.check_unchanged()?;
        let before = self.read_bytes + self.written_bytes;
        let result = match &self.phase {
            Phase::Index => self.index(step_bytes).map(|()| false),
            Phase::Rewrite { .. } => self.rewrite(now, step_bytes),
        };
        match result {
            Ok(is_done) => Ok(Progress { io_bytes: self.read_bytes + self.written_bytes - before, is_done }),
            // What was read may be of a segment that is being cut or removed.
            Err(error) => self.check_unchanged().and(Err(error)),
        }
    }

    /// Gives up, and leaves nothing of what was written.
    pub(super) fn abandon(self) {
        if let Phase::Rewrite { current: Some(current), .. } = self.phase {
            discard(&self.log, current.output.segment.base_offset);
        }
    }

    fn check_unchanged(&self) -> Result<(), CleanError> {
        let unchanged = self.log.check_usable().is_ok()
            && self.log.config().cleanup_policy.compact
            && self.log.view.lock().cut_count == self.cut_count;
        if unchanged { Ok(()) } else { Err(CleanError::Changed) }
    }

    /// Reads on in the dirty part.
    fn index(&mut self, step_bytes: u64) -> Result<(), CleanError> {
        let Some(segment) = self.segments.get(self.at) else {
            return self.end_index();
        };
        let (base_offset, size_bytes) = (segment.base_offset, segment.size_bytes);
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.open(base_offset, self.first_dirty_position(base_offset, size_bytes))?,
        };
        let file = Arc::clone(&reader.file);
        let begun_at = reader.walk.position;
        let mut walker = BatchWalker::resume(&*file, std::mem::take(&mut reader.walk), size_bytes);
        let mut full_at = None;
        let at_end = loop {
            let next = walker.next_batch();
            let Some((found, batch)) = next.map_err(|error| read_failed(&self.log, base_offset, error))?
            else {
                break true;
            };
            let indexed = self.index_batch(&found.header, batch);
            full_at =
                indexed.map_err(|source| batch_failed(&self.log, base_offset, found.position, source))?;
            if full_at.is_some() || found.end_position().saturating_sub(begun_at) >= step_bytes {
                break false;
            }
        };
        reader.walk = walker.save();
        self.read_bytes += reader.walk.position.saturating_sub(begun_at);
        if let Some(offset) = full_at {
            self.latest_offset = offset.saturating_sub(1);
            return self.end_index();
        }
        if at_end {
            self.at += 1;
        } else {
            self.reader = Some(reader);
        }
        Ok(())
    }

    /// Takes a batch's keys into the map. Gives the offset of the first record that found no room.
    fn index_batch(&mut self, header: &BatchHeader, batch: &[u8]) -> Result<Option<i64>, FilterError> {
        if header.attributes.is_control() {
            if let Some(control_type) = control_type(batch)? {
                self.dirty_transactions.end(header, control_type, &mut self.map);
            }
            return Ok(None);
        }
        let is_transactional = header.attributes.is_transactional() && header.record_count > 0;
        if is_transactional {
            self.dirty_transactions.begin_batch(header);
        }
        let mut records = RecordIter::new(batch, INFLATED_BYTES_MAX)?;
        while let Some(record) = records.next_record()? {
            let offset = record.offset.get();
            let (Some(key), false) = (record.key, offset < self.dirt.first_dirty_offset) else { continue };
            let hash = self.map.hash(key);
            let waiting = self.dirty_transactions.len();
            if is_transactional {
                if self.map.len() + waiting >= self.map.len_max() {
                    return Ok(Some(offset));
                }
                self.dirty_transactions.add(header.producer_id.get(), hash, offset);
            } else if !(self.map.len() + waiting < self.map.len_max() || self.map.get(hash).is_some())
                || !self.map.put(hash, offset)
            {
                return Ok(Some(offset));
            }
        }
        Ok(None)
    }

    /// The map is as it will be: plans what is written.
    fn end_index(&mut self) -> Result<(), CleanError> {
        let open = self.dirty_transactions.first_open_offset();
        let before_open = open.map_or(i64::MAX, |offset| offset.saturating_sub(1));
        let was_full = self.latest_offset < self.dirt.upper_bound.saturating_sub(1);
        self.latest_offset = self.latest_offset.min(before_open);
        if self.end_offset() <= self.dirt.first_dirty_offset {
            return Err(if was_full { CleanError::MapTooSmall } else { CleanError::OpenTransaction });
        }
        let count = self.segments.partition_point(|segment| segment.base_offset < self.end_offset());
        let ends = group(self.segments.get(..count).unwrap_or_default(), &self.config, self.next_base(count));
        let mut groups: Vec<Range<usize>> = Vec::with_capacity(ends.len());
        for end in ends {
            let start = groups.last().map_or(0, |last| last.end);
            groups.push(start..end);
        }
        groups.reverse();
        self.reader = None;
        self.phase = Phase::Rewrite { groups, current: None };
        Ok(())
    }

    /// The base offset of the segment at `at`, or of the first one that is not cleaned.
    fn next_base(&self, at: usize) -> i64 {
        self.segments.get(at).map_or(self.dirt.upper_bound, |segment| segment.base_offset)
    }

    /// Writes on. True when everything is written and in place.
    fn rewrite(&mut self, now: Now, step_bytes: u64) -> Result<bool, CleanError> {
        let Phase::Rewrite { groups, current } = &mut self.phase else { return Ok(true) };
        let Some(mut rewriting) = current.take() else {
            let Some(range) = groups.pop() else { return Ok(true) };
            let Some(first) = self.segments.get(range.start) else { return Ok(true) };
            self.at = range.start;
            let output = Output::create(&self.log, first, self.config.index_interval_bytes)?;
            let last_records = self.log.writer.lock().producers.last_records();
            if let Phase::Rewrite { current, .. } = &mut self.phase {
                *current = Some(Box::new(Rewriting { range, output, last_records }));
            }
            return Ok(false);
        };
        if self.at == rewriting.range.end {
            self.put_in_place(now, *rewriting)?;
            return Ok(false);
        }
        let result = self.rewrite_segment(&mut rewriting, step_bytes);
        if let Phase::Rewrite { current, .. } = &mut self.phase {
            *current = Some(rewriting);
        }
        result.map(|()| false)
    }

    fn rewrite_segment(&mut self, rewriting: &mut Rewriting, step_bytes: u64) -> Result<(), CleanError> {
        let Some(segment) = self.segments.get(self.at) else { return Err(CleanError::Changed) };
        let (base_offset, size_bytes) = (segment.base_offset, segment.size_bytes);
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.open(base_offset, 0)?,
        };
        let filter = Filter {
            map: &self.map,
            latest_offset: self.latest_offset,
            upper_bound: self.dirt.upper_bound,
            now_ms: self.started.wall.get(),
            delete_retention_ms: self.config.delete_retention_ms,
            last_records: &rewriting.last_records,
        };
        let file = Arc::clone(&reader.file);
        let begun_at = reader.walk.position;
        let mut walker = BatchWalker::resume(&*file, std::mem::take(&mut reader.walk), size_bytes);
        let at_end = loop {
            let next = walker.next_batch();
            let Some((found, batch)) = next.map_err(|error| read_failed(&self.log, base_offset, error))?
            else {
                break true;
            };
            let header = &found.header;
            let log = &self.log;
            let failed = |source| batch_failed(log, base_offset, found.position, source);
            let is_discardable = if header.attributes.is_control() {
                let control_type = control_type(batch).map_err(|error| failed(error.into()))?;
                self.met_transactions.control(header, control_type)
            } else {
                self.met_transactions.data(header);
                self.dirty_transactions.is_aborted(header)
            };
            let written = match filter.apply(header, batch, is_discardable).map_err(failed)? {
                Filtered::Verbatim => rewriting.output.push(&self.log, header, batch)?,
                Filtered::Rewritten(batch) => {
                    rewriting.output.changed = true;
                    let header = BatchHeader::parse(&batch).map_err(|error| failed(error.into()))?;
                    rewriting.output.push(&self.log, &header, &batch)?
                }
                Filtered::Gone => {
                    rewriting.output.changed = true;
                    Some(0)
                }
            };
            let path = || self.log.file_path(rewriting.output.segment.base_offset, names::LOG);
            self.written_bytes += written.ok_or_else(|| CleanError::TooLarge(path()))?;
            if found.end_position().saturating_sub(begun_at) >= step_bytes {
                break false;
            }
        };
        reader.walk = walker.save();
        self.read_bytes += reader.walk.position.saturating_sub(begun_at);
        if at_end {
            self.at += 1;
        } else {
            self.reader = Some(reader);
        }
        Ok(())
    }

    /// Ends a group.
    fn put_in_place(&mut self, now: Now, rewriting: Rewriting) -> Result<(), CleanError> {
        let Rewriting { range, output, .. } = rewriting;
        let base_offset = output.segment.base_offset;
        let replaced = self.segments.get(range.clone()).unwrap_or_default();
        let (true, Some(last)) = (output.changed || replaced.len() > 1, replaced.last()) else {
            // What is there is what was written.
            discard(&self.log, base_offset);
            return Ok(());
        };
        let before: u64 = replaced.iter().map(|segment| segment.size_bytes).sum();
        let end_offset = self.next_base(range.end);
        let outcome = output.finish(&self.log, last).and_then(|(cleaned, bytes)| {
            let after = cleaned.size_bytes;
            let replaced = self.log.replace_segments(now, self.cut_count, replaced, cleaned, end_offset)?;
            Ok((replaced, after, bytes))
        });
        match outcome {
            Ok((true, after, bytes)) => {
                self.written_bytes += bytes;
                self.replaced_bytes += before.saturating_sub(after);
                Ok(())
            }
            Ok((false, ..)) => {
                discard(&self.log, base_offset);
                Err(CleanError::Changed)
            }
            Err(error) => {
                discard(&self.log, base_offset);
                Err(error.into())
            }
        }
    }

    fn open(&self, base_offset: i64, position: u64) -> Result<Reader, CleanError> {
        let path = self.log.file_path(base_offset, names::LOG);
        match self.log.dir.open(&path, OpenMode::Read) {
            Ok(file) => Ok(Reader { file, walk: SavedWalk::at(position) }),
            // Retention was here.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(CleanError::Changed),
            Err(source) => Err(CleanError::Read { path, source }),
        }
    }

    /// A position in the segment at or before the first dirty offset.
    fn first_dirty_position(&self, base_offset: i64, size_bytes: u64) -> u64 {
        if self.dirt.first_dirty_offset <= base_offset {
            return 0;
        }
        let file_number = self.log.view.lock().file_number;
        let offset = self.dirt.first_dirty_offset;
        self.log.position_before(file_number, base_offset, size_bytes, offset).unwrap_or(0)
    }
}

fn read_failed(log: &Log, base_offset: i64, error: ScanError) -> CleanError {
    let path = log.file_path(base_offset, names::LOG);
    match error {
        ScanError::Io(source) => CleanError::Read { path, source },
        ScanError::Batch { position, error } => CleanError::Batch { path, position, source: error.into() },
    }
}

fn batch_failed(log: &Log, base_offset: i64, position: u64, source: FilterError) -> CleanError {
    CleanError::Batch { path: log.file_path(base_offset, names::LOG), position, source }
}
