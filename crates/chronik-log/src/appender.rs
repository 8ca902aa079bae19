//! Appending to a log.
//!
//! Batches that are appended together go into the file with one vectored write. Until that write has succeeded
//! nothing of them is visible, and what they did to the producers' state can be taken back.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use chronik_disk::{DiskFile, OpenMode};
use chronik_protocol::records::{BatchHeader, patch_append};
use chronik_types::{LeaderEpoch, Now, Offset, ProducerId, TimestampMs};

use crate::append::{AppendOrigin, Appended, PendingBatch, ReplicaAppended, UNKNOWN_OFFSET};
use crate::log::{Log, Writer};
use crate::marker::marker_epoch;
use crate::producer_state::{BatchMetadata, Gap, Prepared, Undo};
use crate::segment::{BatchFacts, Segment};
use crate::stats::add;
use crate::tail_ring::TailRing;
use crate::validate::{ValidatedBatch, validate};
use crate::{AppendError, LogConfig, LogError, names};

/// The most batches of one vectored write; what a system takes in one call (`IOV_MAX`).
const GROUP_BATCHES_MAX: usize = 1024;

/// How long after an election a batch with a gap before it is sent back to be sent again: as long as a client may wait for
/// an answer of the leader before (librdkafka's `socket.timeout.ms`).
const EARLIER_BATCHES_MS_MAX: u64 = 60_000;
/// The same for a producer of which nothing is known, in a log whose first records are deleted. Its batches may be among
/// them, and it would wait for nothing.
const FIRST_BATCHES_MS_MAX: u64 = 10_000;

/// Batches that are stamped and wait for their write.
#[derive(Default)]
struct Group {
    batches: Vec<GroupBatch>,
    bytes: u64,
    undo: Vec<Undo>,
}

struct GroupBatch {
    bytes: Bytes,
    facts: BatchFacts,
    record_count: u64,
    /// Where the batch's result goes.
    index: usize,
    log_append_time: TimestampMs,
}

/// One append call while it runs.
struct Appending<'a> {
    log: &'a Log,
    writer: &'a mut Writer,
    config: &'a LogConfig,
    now: Now,
    next_offset: i64,
    group: Group,
    results: Vec<Option<Result<Appended, AppendError>>>,
    tail: Tail,
}

/// Whether what is appended stays in memory for readers at the log's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tail {
    /// The leader's: consumers and followers read there.
    Kept,
    /// A follower's, of which nobody reads. Its memory is the leaders'.
    Dropped,
}

impl Log {
    /// Appends one batch under `leader_epoch`.
    pub fn append(
        &self,
        now: Now,
        batch: BytesMut,
        origin: AppendOrigin,
        leader_epoch: LeaderEpoch,
    ) -> Result<Appended, AppendError> {
        let mut results = self.append_many(now, vec![PendingBatch { batch, origin }], leader_epoch);
        results.pop().unwrap_or(Err(AppendError::Log(LogError::Closed)))
    }

    /// Appends several batches with one vectored write. Each has its own result, in order: one that is refused
    /// does not fail the others.
    pub fn append_many(
        &self,
        now: Now,
        batches: Vec<PendingBatch>,
        leader_epoch: LeaderEpoch,
    ) -> Vec<Result<Appended, AppendError>> {
        let config = self.config();
        let validated = batches.into_iter().map(|pending| validate(pending, &config, now)).collect();
        self.append_all(now, validated, leader_epoch)
    }

    /// Like [`Log::append_many`] with batches that [`Log::validate`] has let pass.
    pub fn append_validated(
        &self,
        now: Now,
        batches: Vec<ValidatedBatch>,
        leader_epoch: LeaderEpoch,
    ) -> Vec<Result<Appended, AppendError>> {
        self.append_all(now, batches.into_iter().map(Ok).collect(), leader_epoch)
    }

    fn append_all(
        &self,
        now: Now,
        validated: Vec<Result<ValidatedBatch, AppendError>>,
        leader_epoch: LeaderEpoch,
    ) -> Vec<Result<Appended, AppendError>> {
        if validated.iter().all(Result::is_err) {
            return validated.into_iter().filter_map(Result::err).map(Err).collect();
        }
        let config = self.config();
        let mut writer = self.writer.lock();
        let count = validated.len();
        if let Err(error) = self.prepare_append(&mut writer, leader_epoch) {
            return validated
                .into_iter()
                .map(|batch| Err(batch.err().unwrap_or_else(|| error.clone())))
                .collect();
        }
        let mut appending = Appending::new(self, &mut writer, &config, now, count, Tail::Kept);
        let mut begun = BTreeSet::new();
        for (index, batch) in validated.into_iter().enumerate() {
            let outcome = batch.and_then(|batch| {
                appending.check_begun(&mut begun, &batch.header)?;
                appending.add_client_batch(index, batch, leader_epoch)
            });
            if let Err(error) = outcome {
                appending.settle(index, Err(error));
            }
        }
        // An error is in the results of the batches that it concerns.
        drop(appending.write_group());
        appending.finish()
    }

    /// Appends what was fetched from the leader, verbatim: whole batches, offsets at or after the log's end. A
    /// last batch that is cut off is ignored.
    pub fn append_as_follower(
        &self,
        now: Now,
        records: Bytes,
        leader_epoch: LeaderEpoch,
    ) -> Result<ReplicaAppended, AppendError> {
        let config = self.config();
        let batches = split_batches(records)?;
        let mut writer = self.writer.lock();
        self.check_usable()?;
        self.note_append(&mut writer)?;
        let before = self.log_end_offset();
        let first_offset = batches.first().map_or(before, |(header, _)| header.base_offset);
        let mut appending = Appending::new(self, &mut writer, &config, now, batches.len(), Tail::Dropped);
        for (index, (header, bytes)) in batches.into_iter().enumerate() {
            if let Err(error) = appending.add_replica_batch(index, &header, bytes, leader_epoch) {
                // What was taken before it is in the producers' state, and so must be in the log, or undone.
                drop(appending.write_group());
                return Err(error);
            }
        }
        appending.write_group()?;
        let sync_up_to = appending
            .finish()
            .into_iter()
            .try_fold(None, |_, result| result.map(|appended| appended.sync_up_to))?;
        Ok(ReplicaAppended {
            first_offset,
            log_end_offset: self.log_end_offset(),
            leader_epoch: self.latest_epoch().unwrap_or(LeaderEpoch::NONE),
            sync_up_to,
        })
    }

    fn prepare_append(&self, writer: &mut Writer, leader_epoch: LeaderEpoch) -> Result<(), AppendError> {
        self.check_usable()?;
        let latest_epoch = self.latest_epoch().unwrap_or(LeaderEpoch::NONE);
        if leader_epoch < latest_epoch {
            return Err(AppendError::LeaderEpochRegressed { epoch: leader_epoch, latest_epoch });
        }
        self.note_append(writer)?;
        Ok(self.assign_epoch(writer, leader_epoch.get(), self.log_end_offset().get())?)
    }

    /// `segment.ms` less what this log's jitter takes off. The jitter is spread by the partition's name.
    fn rolled_after_ms(&self, config: &LogConfig) -> u64 {
        if config.segment_jitter_ms == 0 {
            return config.segment_ms;
        }
        let jitter = config.segment_jitter_ms.min(config.segment_ms);
        let spread = crc32c::crc32c(self.partition.to_string().as_bytes());
        let less = (u128::from(jitter) * u128::from(spread)) >> 32;
        config.segment_ms.saturating_sub(u64::try_from(less).unwrap_or(0))
    }

    /// Closes the last segment and begins one at `base_offset`.
    pub(crate) fn roll(&self, writer: &mut Writer, now: Now, base_offset: i64) -> Result<(), LogError> {
        let (closing, ahead) = {
            let mut view = self.view.lock();
            // A replica's segment begins with its first batch, behind what compaction has removed. If that was not written,
            // what comes instead may lie before it.
            let ahead = view.segments.last().is_some_and(|segment| base_offset < segment.base_offset);
            let closing = view.segments.last_mut().map(|segment| {
                segment.add_time_entry();
                segment.base_offset
            });
            (closing, closing.filter(|_| ahead))
        };
        if let Some(closing) = closing {
            // Before one that is ahead all are closed.
            if ahead.is_none() {
                self.write_indexes(closing)?;
                // What was synced so far had no indexes, which are believed after a loss of power.
                writer.unsynced.insert(closing);
            }
            self.take_snapshot(writer, base_offset)?;
        }
        let file = self.create_segment_file(base_offset)?;
        writer.active_file = Some(file);
        writer.dir_unsynced = true;
        {
            let mut view = self.view.lock();
            if ahead.is_some() {
                view.segments.pop();
                self.renew_file_number(&mut view);
            }
            view.segments.push(Segment::new(base_offset, now.wall.get()));
        }
        if let Some(ahead) = ahead {
            self.retire_segment(writer, now, ahead, 0)?;
        }
        if closing.is_some() {
            add(&self.dir.shared.counters.rolled_segment_count, 1);
        }
        self.dir.mark_changed();
        Ok(())
    }

    fn create_segment_file(&self, base_offset: i64) -> Result<Arc<dyn DiskFile>, LogError> {
        let path = self.file_path(base_offset, names::LOG);
        let create = || {
            let file = self.dir.open(&path, OpenMode::Create)?;
            // A file of this name that is not in the log is the leftover of a failed attempt.
            if file.len_bytes()? > 0 {
                file.truncate(0)?;
            }
            Ok(file)
        };
        create().map_err(|source| self.dir.write_failed("create", &path, source))
    }

    /// The file that appends go to.
    pub(crate) fn active_file(
        &self,
        writer: &mut Writer,
        base_offset: i64,
    ) -> Result<Arc<dyn DiskFile>, LogError> {
        if let Some(file) = &writer.active_file {
            return Ok(Arc::clone(file));
        }
        let path = self.file_path(base_offset, names::LOG);
        let file = self
            .dir
            .open(&path, OpenMode::ReadWrite)
            .map_err(|source| self.dir.write_failed("open", &path, source))?;
        writer.active_file = Some(Arc::clone(&file));
        Ok(file)
    }
}

impl<'a> Appending<'a> {
    fn new(
        log: &'a Log,
        writer: &'a mut Writer,
        config: &'a LogConfig,
        now: Now,
        count: usize,
        tail: Tail,
    ) -> Self {
        Self {
            log,
            writer,
            config,
            now,
            next_offset: log.log_end_offset().get(),
            group: Group::default(),
            results: (0..count).map(|_| None).collect(),
            tail,
        }
    }

    fn settle(&mut self, index: usize, result: Result<Appended, AppendError>) {
        if let Some(slot) = self.results.get_mut(index) {
            *slot = Some(result);
        }
    }

    fn finish(self) -> Vec<Result<Appended, AppendError>> {
        self.results
            .into_iter()
            .map(|result| result.unwrap_or(Err(AppendError::Log(LogError::Closed))))
            .collect()
    }

    /// Where a producer's first batch has failed just now, those that came with it are not taken in its stead: it would be out
    /// of order for ever (ADR 14). `begun` has the producers whose first batches came along.
    fn check_begun(&self, begun: &mut BTreeSet<ProducerId>, header: &BatchHeader) -> Result<(), AppendError> {
        let (producer_id, sequence) = (header.producer_id, header.base_sequence);
        if producer_id.get() >= 0 && sequence == 0 {
            begun.insert(producer_id);
        }
        let is_known = || self.writer.producers.knows_epoch(producer_id, header.producer_epoch);
        if sequence > 0 && begun.contains(&producer_id) && !is_known() {
            return Err(AppendError::SequenceAhead { producer_id, sequence, last_sequence: -1 });
        }
        Ok(())
    }

    /// Checks a batch against its producer's state, stamps it and adds it to the group.
    fn add_client_batch(
        &mut self,
        index: usize,
        validated: ValidatedBatch,
        leader_epoch: LeaderEpoch,
    ) -> Result<(), AppendError> {
        let ValidatedBatch { mut batch, header, origin, log_append_time } = validated;
        let facts = self.make_room(self.next_offset, &header)?;
        let check_sequence = origin == AppendOrigin::Client;
        let marker = marker_epoch(&header, &batch);
        let prepared = self.writer.producers.prepare(&header, facts.base_offset, marker, check_sequence);
        if check_sequence
            && matches!(prepared, Ok(Prepared::Update(_)) | Err(AppendError::OutOfOrderSequence { .. }))
        {
            self.check_not_ahead(&header)?;
        }
        let entry = match prepared? {
            Prepared::Stateless => None,
            Prepared::Update(entry) => Some(entry),
            Prepared::Duplicate(earlier) => {
                // The earlier one may still wait in this group. Its write decides for both.
                self.write_group()?;
                self.settle(index, Ok(self.duplicate_of(earlier)));
                return Ok(());
            }
            Prepared::OldDuplicate { before } => {
                self.write_group()?;
                let earlier =
                    BatchMetadata { last_offset: before - 1, timestamp: -1, ..BatchMetadata::default() };
                let appended = Appended { first_offset: UNKNOWN_OFFSET, ..self.duplicate_of(earlier) };
                self.settle(index, Ok(appended));
                return Ok(());
            }
        };
        if let Some(entry) = entry {
            self.group.undo.push(self.writer.producers.apply(header.producer_id, *entry));
        }
        patch_append(&mut batch, Offset(facts.base_offset), leader_epoch);
        self.push(index, batch.freeze(), facts, &header, log_append_time);
        Ok(())
    }

    /// Soon after an election, a producer's batch may come before those that it sent to the leader before.
    fn check_not_ahead(&self, header: &BatchHeader) -> Result<(), AppendError> {
        let Some(elected) = self.writer.elected else { return Ok(()) };
        let Some(gap) = self.writer.producers.gap_before(header) else { return Ok(()) };
        let (last_sequence, wait_ms_max) = match gap {
            Gap::After(last_sequence) => (last_sequence, EARLIER_BATCHES_MS_MAX),
            Gap::Unknown if self.log.log_start_offset() == Offset::ZERO => (-1, EARLIER_BATCHES_MS_MAX),
            Gap::Unknown => (-1, FIRST_BATCHES_MS_MAX),
        };
        if wait_ms_max <= self.now.monotonic.since_ms(elected) {
            return Ok(());
        }
        let (producer_id, sequence) = (header.producer_id, header.base_sequence);
        Err(AppendError::SequenceAhead { producer_id, sequence, last_sequence })
    }

    fn duplicate_of(&self, earlier: BatchMetadata) -> Appended {
        add(&self.log.dir.shared.counters.duplicate_batch_count, 1);
        Appended {
            first_offset: Offset(earlier.first_offset()),
            last_offset: Offset(earlier.last_offset),
            log_append_time: TimestampMs(earlier.timestamp),
            log_start_offset: self.log.log_start_offset(),
            is_duplicate: true,
            // The batch may be in the log and not on the disk yet; then its second acknowledgement waits as its
            // first one does.
            sync_up_to: self
                .config
                .flush_messages
                .map(|_| Offset(earlier.last_offset).next())
                .filter(|&end| self.log.recovery_point() < end),
        }
    }

    /// Checks that a replicated batch continues the log, and adds it to the group.
    fn add_replica_batch(
        &mut self,
        index: usize,
        header: &BatchHeader,
        bytes: Bytes,
        leader_epoch: LeaderEpoch,
    ) -> Result<(), AppendError> {
        let base_offset = header.base_offset.get();
        if base_offset < self.next_offset {
            let log_end_offset = Offset(self.next_offset);
            return Err(AppendError::UnexpectedOffset { base_offset: header.base_offset, log_end_offset });
        }
        let epoch = header.partition_leader_epoch;
        // No checksum covers the epoch, and no leader has batches of a later one.
        if leader_epoch < epoch {
            return Err(AppendError::LeaderEpochAhead { epoch, leader_epoch });
        }
        let latest_epoch = self.log.epoch_before(Offset(self.next_offset)).unwrap_or(LeaderEpoch::NONE);
        if epoch < latest_epoch {
            return Err(AppendError::LeaderEpochRegressed { epoch, latest_epoch });
        }
        let facts = self.make_room(base_offset, header)?;
        if self.log.latest_epoch().unwrap_or(LeaderEpoch::NONE) != epoch {
            // The epoch is only known to begin here once everything before it is in the log.
            self.write_group()?;
            self.log.take_over_epoch(self.writer, epoch.get(), base_offset)?;
        }
        let marker = marker_epoch(header, &bytes);
        self.group.undo.extend(self.writer.producers.replay(header, marker));
        self.push(index, bytes, facts, header, TimestampMs::NONE);
        Ok(())
    }

    fn push(
        &mut self,
        index: usize,
        bytes: Bytes,
        facts: BatchFacts,
        header: &BatchHeader,
        log_append_time: TimestampMs,
    ) {
        self.next_offset = facts.last_offset.saturating_add(1);
        self.group.bytes += facts.size_bytes;
        let record_count = u64::try_from(header.record_count).unwrap_or(0);
        self.group.batches.push(GroupBatch { bytes, facts, record_count, index, log_append_time });
    }

    /// Makes sure that the last segment takes the batch, rolling it where it does not.
    fn make_room(&mut self, base_offset: i64, header: &BatchHeader) -> Result<BatchFacts, AppendError> {
        let last_offset = base_offset
            .checked_add(i64::from(header.last_offset_delta))
            .filter(|&offset| offset < i64::MAX)
            .ok_or(AppendError::OffsetsExhausted)?;
        let size_bytes = header.size_bytes as u64;
        if size_bytes > self.config.segment_bytes {
            let max_bytes = self.config.segment_bytes;
            return Err(AppendError::LargerThanSegment { size_bytes, max_bytes });
        }
        let facts =
            BatchFacts { base_offset, last_offset, max_timestamp: header.max_timestamp.get(), size_bytes };
        let rolled_after_ms = self.log.rolled_after_ms(self.config);
        let pending_bytes = self.group.bytes;
        let full = self.log.view.lock().segments.last().is_none_or(|segment| {
            segment.is_full_for(facts, pending_bytes, self.config, rolled_after_ms, self.now.wall.get())
        });
        if full || self.group.batches.len() >= GROUP_BATCHES_MAX {
            self.write_group()?;
        }
        if full {
            self.log.roll(self.writer, self.now, base_offset)?;
        }
        Ok(facts)
    }

    /// Writes the group and lets readers see it; or, when the write fails, takes all of it back.
    fn write_group(&mut self) -> Result<(), LogError> {
        let group = std::mem::take(&mut self.group);
        if group.batches.is_empty() {
            return Ok(());
        }
        match self.write(&group) {
            Ok(()) => {
                self.publish(group);
                Ok(())
            }
            Err(error) => {
                for undo in group.undo.into_iter().rev() {
                    self.writer.producers.undo(undo);
                }
                for batch in group.batches {
                    self.settle(batch.index, Err(error.clone().into()));
                }
                self.next_offset = self.log.log_end_offset().get();
                Err(error)
            }
        }
    }

    fn write(&mut self, group: &Group) -> Result<(), LogError> {
        let segment = self.log.view.lock().segments.last().map(|s| (s.base_offset, s.size_bytes));
        let Some((base_offset, position)) = segment else { return Err(LogError::Closed) };
        let file = self.log.active_file(self.writer, base_offset)?;
        let mut slices: Vec<IoSlice<'_>> =
            group.batches.iter().map(|batch| IoSlice::new(&batch.bytes)).collect();
        let written = file.write_all_vectored_at(&mut slices, position);
        let Err(source) = written else { return Ok(()) };
        let path = self.log.file_path(base_offset, names::LOG);
        let error = self.log.dir.write_failed("append to", &path, source);
        if matches!(error, LogError::DiskFull { .. }) {
            add(&self.log.dir.shared.counters.disk_full_count, 1);
            // What was written of the batches must not be found by a recovery, nor stay in the way of the next append.
            if let Err(source) = file.truncate(position) {
                let error = LogError::io("cut back a failed append to", &path, source);
                self.log.dir.take_offline(&error);
            }
        }
        Err(error)
    }

    fn publish(&mut self, group: Group) {
        let log = self.log;
        let record_count: u64 = group.batches.iter().map(|batch| batch.record_count).sum();
        let counters = &log.dir.shared.counters;
        add(&counters.append_write_count, 1);
        add(&counters.appended_batch_count, group.batches.len() as u64);
        add(&counters.appended_bytes, group.bytes);
        // Dropped outside the lock.
        let mut old_ring = None;
        {
            let mut view = log.view.lock();
            let view = &mut *view;
            let mut ring =
                match self.tail {
                    Tail::Kept => Some(view.ring.get_or_insert_with(|| {
                        Box::new(TailRing::new(Arc::clone(&log.dir.shared.tail_memory)))
                    })),
                    Tail::Dropped => {
                        // It reaches up to the log's end, or there is none.
                        old_ring = view.ring.take();
                        None
                    }
                };
            if let Some(segment) = view.segments.last_mut() {
                for batch in &group.batches {
                    segment.add(batch.facts, self.config.index_interval_bytes);
                    let BatchFacts { base_offset, last_offset, .. } = batch.facts;
                    if let Some(ring) = &mut ring {
                        let bytes_max = log.dir.shared.options.tail_ring_bytes_max;
                        ring.push(base_offset, last_offset, &batch.bytes, bytes_max);
                    }
                }
                segment.last_append_ms = self.now.wall.get();
                self.writer.unsynced.insert(segment.base_offset);
            }
            log.log_end_offset.store(self.next_offset, Ordering::Release);
        }
        drop(old_ring);
        log.size_bytes.fetch_add(group.bytes, Ordering::Relaxed);
        log.dir.count_appended(group.bytes);
        if !group.undo.is_empty() {
            log.publish_first_unstable_offset(&self.writer.producers);
        }
        self.writer.last_append = self.now.monotonic;
        self.writer.unsynced_since.get_or_insert(self.now.monotonic);
        self.writer.unsynced_record_count += record_count;
        let wants_sync =
            self.config.flush_messages.is_some_and(|max| self.writer.unsynced_record_count >= max);
        if wants_sync {
            self.writer.unsynced_record_count = 0;
        }
        let log_start_offset = log.log_start_offset();
        let sync_up_to = wants_sync.then_some(Offset(self.next_offset));
        for batch in group.batches {
            let appended = Appended {
                first_offset: Offset(batch.facts.base_offset),
                last_offset: Offset(batch.facts.last_offset),
                log_append_time: batch.log_append_time,
                log_start_offset,
                is_duplicate: false,
                sync_up_to,
            };
            self.settle(batch.index, Ok(appended));
        }
    }
}

/// The whole batches at the front of what a leader sent, each with its header and checked.
fn split_batches(mut records: Bytes) -> Result<Vec<(BatchHeader, Bytes)>, AppendError> {
    use chronik_protocol::records::BatchError;

    let mut batches = Vec::new();
    let mut next_offset = None;
    while !records.is_empty() {
        let header = match BatchHeader::parse(&records) {
            Err(BatchError::Truncated { .. }) => break,
            parsed => parsed.map_err(AppendError::Batch)?,
        };
        if header.size_bytes > records.len() {
            break;
        }
        let batch = records.split_to(header.size_bytes);
        header.check_crc(&batch).map_err(AppendError::Batch)?;
        let last_offset = header
            .last_offset()
            .filter(|_| header.last_offset_delta >= 0 && header.base_offset.get() >= 0)
            .ok_or(AppendError::Batch(BatchError::Inconsistent("its last offset is not an offset")))?;
        if let Some(expected) = next_offset.filter(|&expected| header.base_offset < expected) {
            let base_offset = header.base_offset;
            return Err(AppendError::UnexpectedOffset { base_offset, log_end_offset: expected });
        }
        next_offset = Some(last_offset.next());
        batches.push((header, batch));
    }
    Ok(batches)
}
