//! Finding offsets by time, and the log's ends.

use std::io;

use chronik_protocol::records::{RECORDS_INFLATED_BYTES_MAX, find_record};
use chronik_types::{LeaderEpoch, Offset, TimestampMs};

use crate::LogError;
use crate::file_cache::FileKind;
use crate::index::{Found, TimeEntry, find_on_disk};
use crate::log::Log;
use crate::reader::ATTEMPTS_MAX;
use crate::scan::{BatchWalker, FoundBatch, ScanError};

/// A moment in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampAndOffset {
    /// The record's timestamp, −1 where only an offset was asked for.
    pub timestamp: TimestampMs,
    /// The record's offset.
    pub offset: Offset,
    /// The leader epoch under which it was appended, −1 where unknown.
    pub leader_epoch: LeaderEpoch,
}

/// Where to look in a log; the codes are those of `ListOffsets`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetQuery {
    /// −2, and −4 as nothing is tiered: the log's first offset.
    Earliest,
    /// −1: the log's end. (The broker gives the high watermark or last stable offset to consumers.)
    Latest,
    /// −3: the record with the largest timestamp (KIP-734).
    MaxTimestamp,
    /// −5: the last offset in tiered storage (KIP-1005); there is none.
    LatestTiered,
    /// The first record whose timestamp is at or after this one.
    Timestamp(TimestampMs),
}

/// Which record of a batch is wanted.
#[derive(Clone, Copy)]
struct Wanted {
    timestamp: i64,
    min_offset: i64,
}

/// A segment to look in, and what its time index says in memory.
#[derive(Clone, Copy)]
struct Candidate {
    file_number: u64,
    base_offset: i64,
    next_offset: i64,
    size_bytes: u64,
    time: Found<TimeEntry>,
}

impl Log {
    /// Finds an offset by time.
    pub fn offset_for(&self, query: OffsetQuery) -> Result<Option<TimestampAndOffset>, LogError> {
        self.check_usable()?;
        match query {
            OffsetQuery::Earliest => Ok(Some(self.earliest())),
            OffsetQuery::Latest => Ok(Some(TimestampAndOffset {
                timestamp: TimestampMs::NONE,
                offset: self.log_end_offset(),
                leader_epoch: self.latest_epoch().unwrap_or(LeaderEpoch::NONE),
            })),
            OffsetQuery::LatestTiered => Ok(None),
            OffsetQuery::MaxTimestamp => self.settled(Self::max_timestamp),
            OffsetQuery::Timestamp(timestamp) => self.settled(|log| log.first_at_or_after(timestamp.get())),
        }
    }

    /// What a lookup finds while no segment is replaced under it.
    fn settled<T>(&self, lookup: impl Fn(&Self) -> Result<T, LogError>) -> Result<T, LogError> {
        let mut attempts_left = ATTEMPTS_MAX;
        loop {
            let file_number = self.view.lock().file_number;
            let found = lookup(self);
            if attempts_left == 0 || self.view.lock().file_number == file_number {
                return found;
            }
            attempts_left -= 1;
        }
    }

    fn earliest(&self) -> TimestampAndOffset {
        let view = self.view.lock();
        let offset = self.log_start_offset();
        let first = view.epochs.entries().first().filter(|entry| entry.start_offset <= offset.get());
        let leader_epoch = first.map_or(LeaderEpoch::NONE, |entry| LeaderEpoch(entry.epoch));
        TimestampAndOffset { timestamp: TimestampMs::NONE, offset, leader_epoch }
    }

    fn max_timestamp(&self) -> Result<Option<TimestampAndOffset>, LogError> {
        let found = {
            let view = self.view.lock();
            let with_time = view.segments.iter().filter(|segment| segment.max_timestamp >= 0);
            // Of several segments with the same largest timestamp the first one counts.
            let segment = with_time.rev().max_by_key(|segment| segment.max_timestamp);
            segment.map(|segment| {
                let candidate = Candidate {
                    file_number: view.file_number,
                    base_offset: segment.base_offset,
                    next_offset: segment.next_offset,
                    size_bytes: segment.size_bytes,
                    time: Found::Nothing,
                };
                let wanted = Wanted { timestamp: segment.max_timestamp, min_offset: segment.base_offset };
                (candidate, wanted, segment.offset_of_max_timestamp)
            })
        };
        let Some((candidate, wanted, near_offset)) = found else { return Ok(None) };
        self.search(candidate, wanted, near_offset)
            .map_err(|error| self.read_failed(candidate.base_offset, error))
    }

    fn first_at_or_after(&self, timestamp: i64) -> Result<Option<TimestampAndOffset>, LogError> {
        let min_offset = self.log_start_offset().get();
        let candidates: Vec<Candidate> = {
            let view = self.view.lock();
            let holds = view
                .segments
                .iter()
                .filter(|segment| min_offset < segment.next_offset && timestamp <= segment.max_timestamp);
            holds
                .map(|segment| Candidate {
                    file_number: view.file_number,
                    base_offset: segment.base_offset,
                    next_offset: segment.next_offset,
                    size_bytes: segment.size_bytes,
                    time: segment.find_time(timestamp),
                })
                .collect()
        };
        // The first one has the record, unless that was before the log's start.
        for candidate in candidates {
            let wanted = Wanted { timestamp, min_offset };
            let failed = |error| self.read_failed(candidate.base_offset, error);
            let near_offset = self.indexed_offset(candidate, timestamp).map_err(failed)?.max(min_offset);
            if let Some(found) = self.search(candidate, wanted, near_offset).map_err(failed)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The last offset for which the time index says that nothing before its batch is as new as `timestamp`.
    fn indexed_offset(&self, candidate: Candidate, timestamp: i64) -> Result<i64, ScanError> {
        let entry = match candidate.time {
            Found::Nothing => None,
            Found::Entry(entry) => Some(entry),
            Found::OnDisk(count) => {
                match self.open_file(candidate.file_number, candidate.base_offset, FileKind::TimeIndex) {
                    Ok(index) => {
                        find_on_disk(&*index, count, |entry: &TimeEntry| entry.timestamp <= timestamp)?
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let Some(entry) = entry else { return Ok(candidate.base_offset) };
        let offset = candidate.base_offset.saturating_add(i64::from(entry.relative_offset));
        // An entry names a batch by its last offset, and that batch has its timestamp. One that does not is damaged.
        let named = self.batch_at(candidate, offset)?;
        let matches = named.is_some_and(|batch| {
            batch.last_offset() == offset && batch.header.max_timestamp.get() == entry.timestamp
        });
        if !matches {
            let path = self.file_path(candidate.base_offset, crate::names::TIME_INDEX);
            tracing::warn!(path = %path.display(), "the time index is damaged; searching the segment from its beginning");
            return Ok(candidate.base_offset);
        }
        Ok(offset)
    }

    /// The batch that holds `offset`.
    fn batch_at(&self, candidate: Candidate, offset: i64) -> Result<Option<FoundBatch>, ScanError> {
        let Candidate { file_number, base_offset, size_bytes, .. } = candidate;
        let file = self.open_file(file_number, base_offset, FileKind::Log)?;
        let from = self.position_before(file_number, base_offset, size_bytes, offset)?;
        let mut walker = BatchWalker::headers(&*file, from, size_bytes);
        while let Some(found) = walker.next_header()? {
            if offset <= found.last_offset() {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The first record that is wanted, from the batch that holds `near_offset` on.
    fn search(
        &self,
        candidate: Candidate,
        wanted: Wanted,
        near_offset: i64,
    ) -> Result<Option<TimestampAndOffset>, ScanError> {
        let Candidate { file_number, base_offset, size_bytes, next_offset, .. } = candidate;
        let file = self.open_file(file_number, base_offset, FileKind::Log)?;
        let from =
            self.position_before(file_number, base_offset, size_bytes, near_offset.min(next_offset))?;
        let mut walker = BatchWalker::headers(&*file, from, size_bytes);
        while let Some(found) = walker.next_header()? {
            if found.header.max_timestamp.get() < wanted.timestamp || found.last_offset() < wanted.min_offset
            {
                continue;
            }
            let mut batch = vec![0; found.header.size_bytes];
            let read = file.read_at(&mut batch, found.position)?;
            batch.truncate(read);
            let check = found.header.check_crc(&batch);
            check.map_err(|error| ScanError::Batch { position: found.position, error })?;
            // No batch is stored any more that cannot be read, but an older log may hold one. It must not keep what lies
            // behind it from being found: it stands as one record with the header's last timestamp.
            let (timestamp, min_offset) = (TimestampMs(wanted.timestamp), Offset(wanted.min_offset));
            let record = find_record(&batch, timestamp, min_offset, RECORDS_INFLATED_BYTES_MAX)
                .unwrap_or_else(|_| {
                    let header = &found.header;
                    let is_wanted = wanted.timestamp <= header.max_timestamp.get();
                    is_wanted
                        .then(|| (header.max_timestamp, header.base_offset.max(Offset(wanted.min_offset))))
                });
            if let Some((timestamp, offset)) = record {
                let leader_epoch = found.header.partition_leader_epoch;
                return Ok(Some(TimestampAndOffset { timestamp, offset, leader_epoch }));
            }
        }
        Ok(None)
    }
}
