//! What a log remembers of its idempotent producers (KIP-98), and Kafka's `.snapshot` files.
//!
//! A producer numbers its records. The log keeps the last five batches of each producer: a batch that it finds
//! among them is a retry and is answered from memory; any other must follow the last one. Rules as in Kafka 4.3.1, but
//! for the third, which Kafka answers as out of order (ADR 12):
//!
//! | batch | known state | outcome |
//! |---|---|---|
//! | epoch below the known one | any | `INVALID_PRODUCER_EPOCH` |
//! | same epoch and same sequence range as one of the last five | any | duplicate |
//! | same epoch, older than those five, and all of it known to be in the log | any | duplicate, with no offset |
//! | epoch above the known one | any | sequence must be 0 |
//! | any | none | any sequence is taken |
//! | same epoch | last sequence `s` | sequence must be `s + 1`, or 0 after 2147483647 |

use std::collections::BTreeMap;

use chronik_protocol::records::BatchHeader;
use chronik_types::{Offset, ProducerEpoch, ProducerId, TimestampMs};

use crate::AppendError;
use crate::bytes_io::{ByteReader, put_i16, put_i32, put_i64, put_u32};

/// How many batches of a producer are remembered: as many as a client may have in flight.
pub(crate) const BATCHES_MAX: usize = 5;

/// One producer as `DescribeProducers` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerSummary {
    /// The producer.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: ProducerEpoch,
    /// The last sequence number appended, −1 where there is none.
    pub last_sequence: i32,
    /// The timestamp of its last batch.
    pub last_timestamp: TimestampMs,
    /// The epoch of the coordinator that wrote its last marker, −1 where there is none.
    pub coordinator_epoch: i32,
    /// Where its open transaction starts, if it has one.
    pub current_txn_start_offset: Option<Offset>,
}

/// A batch that a producer appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchMetadata {
    pub(crate) last_sequence: i32,
    pub(crate) last_offset: i64,
    /// Last offset less first offset, which is also last sequence less first sequence.
    pub(crate) offset_delta: i32,
    pub(crate) timestamp: i64,
}

impl BatchMetadata {
    pub(crate) fn first_offset(&self) -> i64 {
        self.last_offset.saturating_sub(i64::from(self.offset_delta))
    }

    /// Sequence numbers wrap from 2147483647 to 0.
    fn first_sequence(&self) -> i32 {
        if self.last_sequence < 0 {
            return self.last_sequence;
        }
        let difference = i64::from(self.last_sequence) - i64::from(self.offset_delta);
        i32::try_from(difference & 0x7fff_ffff).unwrap_or(-1)
    }
}

/// What is known of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProducerEntry {
    pub(crate) producer_epoch: i16,
    pub(crate) coordinator_epoch: i32,
    pub(crate) last_timestamp: i64,
    pub(crate) current_txn_first_offset: Option<i64>,
    batches: [BatchMetadata; BATCHES_MAX],
    batch_count: u8,
    /// Every sequence number of this epoch from here to the last is known to be in the log. It is not written to disk: what
    /// is read from there knows of the batches that it holds.
    known_from: i32,
}

impl ProducerEntry {
    /// A producer of which nothing is known.
    const UNKNOWN: Self = Self {
        producer_epoch: -1,
        coordinator_epoch: -1,
        last_timestamp: -1,
        current_txn_first_offset: None,
        batches: [BatchMetadata { last_sequence: 0, last_offset: 0, offset_delta: 0, timestamp: 0 }; 5],
        batch_count: 0,
        known_from: -1,
    };

    /// Oldest first.
    pub(crate) fn batches(&self) -> &[BatchMetadata] {
        self.batches.get(..usize::from(self.batch_count)).unwrap_or_default()
    }

    fn last_sequence(&self) -> i32 {
        self.batches().last().map_or(-1, |batch| batch.last_sequence)
    }

    fn set_epoch(&mut self, producer_epoch: i16) {
        if self.producer_epoch != producer_epoch {
            self.producer_epoch = producer_epoch;
            self.batch_count = 0;
        }
    }

    /// Whether these sequence numbers are in the log, in batches before those that are remembered.
    fn holds_older(&self, first_sequence: i32, last_sequence: i32) -> bool {
        let oldest = self.batches().first().map_or(-1, BatchMetadata::first_sequence);
        0 <= self.known_from
            && self.known_from <= first_sequence
            && first_sequence <= last_sequence
            && last_sequence < oldest
            // Where numbers wrap among those that are remembered, or are about to, a lower one is not an older one.
            && oldest <= self.last_sequence()
            && !is_ahead(first_sequence, oldest)
    }

    fn push(&mut self, batch: BatchMetadata) {
        let (first_sequence, last_sequence) = (batch.first_sequence(), batch.last_sequence);
        if last_sequence < first_sequence {
            // Numbers begin anew at 0, and those before them mean nothing any more.
            self.known_from = 0;
        } else if self.batch_count == 0
            || i64::from(first_sequence) != i64::from(self.last_sequence()).saturating_add(1)
        {
            self.known_from = first_sequence;
        }
        if usize::from(self.batch_count) == BATCHES_MAX {
            self.batches.rotate_left(1);
            self.batch_count -= 1;
        }
        if let Some(slot) = self.batches.get_mut(usize::from(self.batch_count)) {
            *slot = batch;
            self.batch_count += 1;
        }
    }

    /// Adds the batches of `older`, an earlier state of this producer, that lie before those known here and below
    /// `end_offset`, if nothing is missing between them.
    fn remember(&mut self, older: &Self, end_offset: i64) {
        let Some(first) = self.batches().first().copied() else { return };
        let below = first.first_offset().min(end_offset);
        let count = older.batches().partition_point(|batch| batch.last_offset < below);
        let before = older.batches().get(..count).unwrap_or_default();
        let follows = before
            .last()
            .is_some_and(|last| i64::from(last.last_sequence) + 1 == i64::from(first.first_sequence()));
        if older.producer_epoch != self.producer_epoch || !follows {
            return;
        }
        let mut merged = Self { batch_count: 0, ..*self };
        for batch in before.iter().chain(self.batches()) {
            merged.push(*batch);
        }
        // Where numbers are missing among those that are known here, it stays behind them.
        if self.known_from == first.first_sequence() {
            merged.known_from = older.known_from;
        } else {
            merged.known_from = self.known_from;
        }
        *self = merged;
    }

    /// Takes over a data batch without checking it.
    fn add_batch(&mut self, header: &BatchHeader, base_offset: i64) {
        self.set_epoch(header.producer_epoch.get());
        self.push(BatchMetadata {
            last_sequence: header.last_sequence(),
            last_offset: base_offset.saturating_add(i64::from(header.last_offset_delta)),
            offset_delta: header.last_offset_delta,
            timestamp: header.max_timestamp.get(),
        });
        self.last_timestamp = header.max_timestamp.get();
        if header.attributes.is_transactional() && self.current_txn_first_offset.is_none() {
            self.current_txn_first_offset = Some(base_offset);
        }
    }

    /// Takes over the marker that ends a transaction.
    fn end_transaction(&mut self, header: &BatchHeader, coordinator_epoch: i32) {
        self.set_epoch(header.producer_epoch.get());
        self.coordinator_epoch = coordinator_epoch;
        self.last_timestamp = header.max_timestamp.get();
        self.current_txn_first_offset = None;
    }

    fn is_expired(&self, now: TimestampMs, expiration_ms: u64) -> bool {
        self.current_txn_first_offset.is_none()
            && i128::from(now.get()) - i128::from(self.last_timestamp) >= i128::from(expiration_ms)
    }
}

/// What a batch would do to the state.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Prepared {
    /// The batch has no producer.
    Stateless,
    /// The batch was appended before.
    Duplicate(BatchMetadata),
    /// The batch was appended before, somewhere before this offset.
    OldDuplicate {
        /// Where the oldest batch that is remembered starts.
        before: i64,
    },
    /// The producer's state once the batch is appended.
    Update(Box<ProducerEntry>),
}

/// What is to be undone when a write fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Undo {
    producer_id: i64,
    previous: Option<ProducerEntry>,
}

/// What of a producer must stay in the log for its state to be found there again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastRecord {
    /// The last offset of its last data batch; `None` where its last trace is a marker.
    pub(crate) last_data_offset: Option<i64>,
    pub(crate) producer_epoch: i16,
}

/// What is known before a batch that is further on than its producer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gap {
    /// The producer's last sequence number.
    After(i32),
    /// Nothing: its batches may have been deleted, or none has come yet.
    Unknown,
}

/// The producers of one log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProducerState {
    entries: BTreeMap<i64, ProducerEntry>,
}

impl ProducerState {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Whether anything is remembered of a producer in this epoch or a later one.
    pub(crate) fn knows_epoch(&self, producer_id: ProducerId, epoch: ProducerEpoch) -> bool {
        self.entries.get(&producer_id.get()).is_some_and(|entry| epoch.get() <= entry.producer_epoch)
    }

    /// Where the oldest open transaction starts.
    pub(crate) fn first_unstable_offset(&self) -> Option<i64> {
        self.entries.values().filter_map(|entry| entry.current_txn_first_offset).min()
    }

    /// Checks a batch that is to be appended at `base_offset`. `marker_epoch` is the coordinator epoch of the
    /// marker in a control batch. `check_sequence` is set for clients.
    pub(crate) fn prepare(
        &self,
        header: &BatchHeader,
        base_offset: i64,
        marker_epoch: Option<i32>,
        check_sequence: bool,
    ) -> Result<Prepared, AppendError> {
        let producer_id = header.producer_id.get();
        if producer_id < 0 {
            return Ok(Prepared::Stateless);
        }
        let current = self.entries.get(&producer_id).unwrap_or(&ProducerEntry::UNKNOWN);
        let epoch = header.producer_epoch.get();
        if check_sequence && epoch == current.producer_epoch {
            let range = (header.base_sequence, header.last_sequence());
            let same = current.batches().iter().find(|b| (b.first_sequence(), b.last_sequence) == range);
            if let Some(batch) = same {
                return Ok(Prepared::Duplicate(*batch));
            }
            if let Some(oldest) = current.batches().first()
                && current.holds_older(range.0, range.1)
            {
                return Ok(Prepared::OldDuplicate { before: oldest.first_offset() });
            }
        }
        if epoch < current.producer_epoch {
            return Err(AppendError::InvalidProducerEpoch {
                producer_id: header.producer_id,
                epoch: header.producer_epoch,
                current_epoch: ProducerEpoch(current.producer_epoch),
            });
        }
        let mut updated = *current;
        if let Some(coordinator_epoch) = marker_epoch {
            if current.coordinator_epoch > coordinator_epoch {
                return Err(AppendError::TransactionCoordinatorFenced {
                    producer_id: header.producer_id,
                    epoch: coordinator_epoch,
                    current_epoch: current.coordinator_epoch,
                });
            }
            updated.end_transaction(header, coordinator_epoch);
        } else {
            if check_sequence {
                check_follows(current, header)?;
            }
            if current.current_txn_first_offset.is_some() && !header.attributes.is_transactional() {
                return Err(AppendError::InvalidTxnState { producer_id: header.producer_id });
            }
            updated.add_batch(header, base_offset);
        }
        Ok(Prepared::Update(Box::new(updated)))
    }

    /// Whether earlier batches of a client's producer are missing before this one, and the last sequence number that is
    /// there.
    pub(crate) fn gap_before(&self, header: &BatchHeader) -> Option<Gap> {
        let sequence = header.base_sequence;
        if header.producer_id.get() < 0 || sequence < 0 {
            return None;
        }
        let Some(current) = self.entries.get(&header.producer_id.get()) else {
            return (sequence != 0).then_some(Gap::Unknown);
        };
        let last_sequence = current.last_sequence();
        let has_gap = if header.producer_epoch.get() == current.producer_epoch {
            is_ahead(sequence, last_sequence.wrapping_add(1) & i32::MAX)
        } else {
            current.producer_epoch < header.producer_epoch.get() && sequence != 0
        };
        has_gap.then_some(Gap::After(last_sequence))
    }

    /// Puts a producer's new state in place.
    pub(crate) fn apply(&mut self, producer_id: ProducerId, entry: ProducerEntry) -> Undo {
        let previous = self.entries.insert(producer_id.get(), entry);
        Undo { producer_id: producer_id.get(), previous }
    }

    /// Takes back [`apply`](Self::apply); several are taken back last first.
    pub(crate) fn undo(&mut self, undo: Undo) {
        match undo.previous {
            Some(entry) => self.entries.insert(undo.producer_id, entry),
            None => self.entries.remove(&undo.producer_id),
        };
    }

    /// Adds what an earlier state knows of batches below `end_offset`, up to which the log is what it was then. A snapshot
    /// holds the last batch of each producer only, and those before it may be sent again.
    pub(crate) fn remember(&mut self, older: &Self, end_offset: i64) {
        for (producer_id, entry) in &mut self.entries {
            if let Some(older) = older.entries.get(producer_id) {
                entry.remember(older, end_offset);
            }
        }
    }

    /// Takes over a batch that is in the log already, from the leader or in recovery: nothing is refused.
    pub(crate) fn replay(&mut self, header: &BatchHeader, marker_epoch: Option<i32>) -> Option<Undo> {
        let producer_id = header.producer_id.get();
        if producer_id < 0 {
            return None;
        }
        let previous = self.entries.get(&producer_id).copied();
        let mut entry = previous.unwrap_or(ProducerEntry::UNKNOWN);
        match marker_epoch {
            Some(coordinator_epoch) => entry.end_transaction(header, coordinator_epoch),
            // A control batch without a marker is what compaction leaves of one.
            None if header.attributes.is_control() => return None,
            None => entry.add_batch(header, header.base_offset.get()),
        }
        self.entries.insert(producer_id, entry);
        Some(Undo { producer_id, previous })
    }

    /// Forgets the producers that were silent for `expiration_ms` and have no transaction open.
    pub(crate) fn expire(&mut self, now: TimestampMs, expiration_ms: u64) -> usize {
        let before = self.entries.len();
        self.entries.retain(|_, entry| !entry.is_expired(now, expiration_ms));
        before - self.entries.len()
    }

    /// The last trace of each producer, which compaction keeps.
    pub(crate) fn last_records(&self) -> BTreeMap<i64, LastRecord> {
        let last = |entry: &ProducerEntry| LastRecord {
            last_data_offset: entry.batches().last().map(|batch| batch.last_offset),
            producer_epoch: entry.producer_epoch,
        };
        self.entries.iter().map(|(&producer_id, entry)| (producer_id, last(entry))).collect()
    }

    pub(crate) fn summaries(&self) -> Vec<ProducerSummary> {
        self.entries
            .iter()
            .map(|(&producer_id, entry)| ProducerSummary {
                producer_id: ProducerId(producer_id),
                producer_epoch: ProducerEpoch(entry.producer_epoch),
                last_sequence: entry.last_sequence(),
                last_timestamp: TimestampMs(entry.last_timestamp),
                coordinator_epoch: entry.coordinator_epoch,
                current_txn_start_offset: entry.current_txn_first_offset.map(Offset),
            })
            .collect()
    }

    /// Kafka's snapshot file, version 1: the version, a CRC-32C over what follows it, the producers with the last
    /// batch of each.
    pub(crate) fn to_snapshot(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(4 + self.entries.len() * SNAPSHOT_ENTRY_BYTES);
        put_u32(&mut body, u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        for (&producer_id, entry) in &self.entries {
            let last = entry.batches().last();
            put_i64(&mut body, producer_id);
            put_i16(&mut body, entry.producer_epoch);
            put_i32(&mut body, entry.last_sequence());
            put_i64(&mut body, last.map_or(-1, |batch| batch.last_offset));
            put_i32(&mut body, last.map_or(0, |batch| batch.offset_delta));
            put_i64(&mut body, entry.last_timestamp);
            put_i32(&mut body, entry.coordinator_epoch);
            put_i64(&mut body, entry.current_txn_first_offset.unwrap_or(-1));
        }
        let mut file = Vec::with_capacity(6 + body.len());
        put_i16(&mut file, SNAPSHOT_VERSION);
        put_u32(&mut file, crc32c::crc32c(&body));
        file.extend_from_slice(&body);
        file
    }

    /// Reads a snapshot file; `None` when it is not whole or does not check.
    pub(crate) fn from_snapshot(file: &[u8]) -> Option<Self> {
        let mut reader = ByteReader::new(file);
        if reader.read_i16()? != SNAPSHOT_VERSION {
            return None;
        }
        let crc = reader.read_u32()?;
        if crc != crc32c::crc32c(reader.rest()) {
            return None;
        }
        let count = reader.read_u32()?;
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let producer_id = reader.read_i64()?;
            let mut entry = ProducerEntry { producer_epoch: reader.read_i16()?, ..ProducerEntry::UNKNOWN };
            let last_sequence = reader.read_i32()?;
            let last_offset = reader.read_i64()?;
            let offset_delta = reader.read_i32()?;
            entry.last_timestamp = reader.read_i64()?;
            entry.coordinator_epoch = reader.read_i32()?;
            entry.current_txn_first_offset = Some(reader.read_i64()?).filter(|&offset| offset >= 0);
            if last_offset >= 0 {
                let timestamp = entry.last_timestamp;
                entry.push(BatchMetadata { last_sequence, last_offset, offset_delta, timestamp });
            }
            entries.insert(producer_id, entry);
        }
        Some(Self { entries })
    }

    /// All that is known, for the checkpoint: unlike a snapshot it keeps all five batches.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        for (&producer_id, entry) in &self.entries {
            put_i64(out, producer_id);
            put_i16(out, entry.producer_epoch);
            put_i32(out, entry.coordinator_epoch);
            put_i64(out, entry.last_timestamp);
            put_i64(out, entry.current_txn_first_offset.unwrap_or(-1));
            out.push(entry.batch_count);
            for batch in entry.batches() {
                put_i32(out, batch.last_sequence);
                put_i64(out, batch.last_offset);
                put_i32(out, batch.offset_delta);
                put_i64(out, batch.timestamp);
            }
        }
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub(crate) fn decode(reader: &mut ByteReader<'_>) -> Option<Self> {
        let count = reader.read_u32()?;
        let mut entries = BTreeMap::new();
        for _ in 0..count {
            let producer_id = reader.read_i64()?;
            let mut entry = ProducerEntry {
                producer_epoch: reader.read_i16()?,
                coordinator_epoch: reader.read_i32()?,
                last_timestamp: reader.read_i64()?,
                current_txn_first_offset: Some(reader.read_i64()?).filter(|&offset| offset >= 0),
                ..ProducerEntry::UNKNOWN
            };
            let batch_count = reader.read_bytes(1)?.first().copied()?;
            for _ in 0..batch_count {
                entry.push(BatchMetadata {
                    last_sequence: reader.read_i32()?,
                    last_offset: reader.read_i64()?,
                    offset_delta: reader.read_i32()?,
                    timestamp: reader.read_i64()?,
                });
            }
            entries.insert(producer_id, entry);
        }
        Some(Self { entries })
    }
}

const SNAPSHOT_VERSION: i16 = 1;
const SNAPSHOT_ENTRY_BYTES: usize = 46;

/// Whether one sequence number comes after another: numbers wrap, and of two the nearer way round counts.
fn is_ahead(sequence: i32, of: i32) -> bool {
    let distance = (i64::from(sequence) - i64::from(of)) & i64::from(i32::MAX);
    (1..SEQUENCES_AHEAD_MAX).contains(&distance)
}

/// Half of all sequence numbers.
const SEQUENCES_AHEAD_MAX: i64 = 1 << 30;

/// Whether a client's data batch follows what its producer appended last.
fn check_follows(current: &ProducerEntry, header: &BatchHeader) -> Result<(), AppendError> {
    let sequence = header.base_sequence;
    let last_sequence = current.last_sequence();
    let follows = if current.producer_epoch == -1 {
        // Nothing is known: the producer's records may have been deleted. Any sequence is taken.
        true
    } else if header.producer_epoch.get() != current.producer_epoch {
        sequence == 0
    } else {
        i64::from(sequence) == i64::from(last_sequence) + 1 || (sequence == 0 && last_sequence == i32::MAX)
    };
    if follows {
        Ok(())
    } else {
        Err(AppendError::OutOfOrderSequence { producer_id: header.producer_id, sequence, last_sequence })
    }
}

#[cfg(test)]
mod tests {
    use chronik_protocol::records::{BatchBuilder, BatchOptions};

    use super::*;

    /// A batch of these numbers, as it is in a log.
    fn numbers(first: i32, last: i32) -> BatchHeader {
        let options = BatchOptions {
            producer_id: ProducerId(1),
            producer_epoch: ProducerEpoch(0),
            base_sequence: first,
            ..BatchOptions::default()
        };
        let mut builder = BatchBuilder::new(options);
        builder.append(TimestampMs(1), None, Some(b"v"), &[]).expect("there is room");
        let batch = builder.finish().expect("there is a record");
        let header = BatchHeader::parse(&batch).expect("it was just built");
        BatchHeader { last_offset_delta: last - first, ..header }
    }

    /// ADR 12: after all numbers were used once, 0 is the next one and not the oldest.
    #[test]
    fn what_comes_after_the_last_number_is_no_old_duplicate() {
        let max = i32::MAX;
        let mut state = ProducerState::default();
        state.replay(&numbers(0, max - 50), None);
        for first in [max - 49, max - 39, max - 29, max - 19, max - 9] {
            let next = numbers(first, first + 9);
            assert!(matches!(state.prepare(&next, 0, None, true), Ok(Prepared::Update(_))), "{first}");
            state.replay(&next, None);
        }
        assert!(matches!(
            state.prepare(&numbers(5, 6), 0, None, true),
            Err(AppendError::OutOfOrderSequence { .. })
        ));
        for lap in 0..8 {
            let next = numbers(lap * 10, lap * 10 + 9);
            assert!(matches!(state.prepare(&next, 0, None, true), Ok(Prepared::Update(_))), "{lap}");
            state.replay(&next, None);
        }
        let old = state.prepare(&numbers(0, 9), 0, None, true);
        assert!(matches!(old, Ok(Prepared::OldDuplicate { .. })), "{old:?}");
    }
}
