//! What becomes of one batch.
//!
//! | the batch | becomes |
//! |---|---|
//! | all of its records stay, and no delete horizon is to be set | the same bytes |
//! | some of its records stay | a batch with the same base and last offset, producer, epochs, codec and timestamps |
//! | none stays, and it is its producer's last, or the last of the part that is cleaned | a batch without records |
//! | none stays | nothing |
//!
//! A record stays when it lies beyond what the key map covers, or when it is the last of its key and is no tombstone
//! whose time has come. The first clean that meets a tombstone which stays, or a marker of a transaction of which
//! nothing is left, writes into its batch when it may go (KIP-534).

use std::collections::BTreeMap;

use bytes::BytesMut;
use chronik_protocol::records::{
    BatchBuilder, BatchError, BatchHeader, BatchOptions, BuildError, Record, RecordIter, empty_batch,
};
use chronik_types::TimestampMs;

use super::key_map::KeyMap;
use crate::producer_state::LastRecord;

/// The most bytes that a batch is inflated to. A larger one is no batch that a broker has taken.
pub(super) const INFLATED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Why a batch could not be cleaned.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilterError {
    #[error("{0}")]
    Read(#[from] BatchError),
    #[error("it cannot be written anew: {0}")]
    Build(#[from] BuildError),
}

/// What becomes of a batch.
#[derive(Debug)]
pub(super) enum Filtered {
    /// It stays as it is.
    Verbatim,
    /// This takes its place.
    Rewritten(BytesMut),
    /// It goes.
    Gone,
}

/// What a batch is held against.
pub(super) struct Filter<'a> {
    pub(super) map: &'a KeyMap,
    /// The last offset that the map covers.
    pub(super) latest_offset: i64,
    /// The first offset that is not cleaned. The batch that ends there stays, so that the end is not lost.
    pub(super) upper_bound: i64,
    /// When the pass began.
    pub(super) now_ms: i64,
    pub(super) delete_retention_ms: u64,
    pub(super) last_records: &'a BTreeMap<i64, LastRecord>,
}

impl Filter<'_> {
    /// Decides about a batch whose CRC was checked. `is_discardable` says of data that its transaction was aborted, and
    /// of a marker that nothing of its transaction is left.
    pub(super) fn apply(
        &self,
        header: &BatchHeader,
        batch: &[u8],
        is_discardable: bool,
    ) -> Result<Filtered, FilterError> {
        let is_control = header.attributes.is_control();
        let horizon = header.attributes.has_delete_horizon().then_some(header.base_timestamp.get());
        let is_due = horizon.is_some_and(|horizon| horizon <= self.now_ms);
        let discarded = is_discardable && (!is_control || is_due);
        if discarded {
            return Ok(self.without_records(header));
        }
        let mut records = RecordIter::new(batch, INFLATED_BYTES_MAX)?;
        let mut kept = Vec::new();
        let mut has_tombstones = false;
        while let Some(record) = records.next_record()? {
            let stays = is_control || self.stays(&record, is_due);
            has_tombstones |= stays && record.value.is_none();
            kept.push(stays);
        }
        if !kept.contains(&true) {
            return Ok(self.without_records(header));
        }
        let sets_horizon = horizon.is_none() && (has_tombstones || (is_control && is_discardable));
        if !sets_horizon && !kept.contains(&false) {
            return Ok(Filtered::Verbatim);
        }
        let mut options = BatchOptions::like(header);
        if sets_horizon {
            let delay_ms = i64::try_from(self.delete_retention_ms).unwrap_or(i64::MAX);
            options.delete_horizon = Some(TimestampMs(self.now_ms.saturating_add(delay_ms)));
        }
        let mut builder = BatchBuilder::with_capacity(options, batch.len());
        let mut records = RecordIter::new(batch, INFLATED_BYTES_MAX)?;
        for stays in kept {
            let Some(record) = records.next_record()? else { break };
            if stays {
                builder.append_record(&record)?;
            }
        }
        let last_offset = header
            .last_offset()
            .ok_or(FilterError::Read(BatchError::Inconsistent("its last offset is not an offset")))?;
        Ok(Filtered::Rewritten(builder.finish_at(last_offset)?))
    }

    fn stays(&self, record: &Record<'_>, horizon_is_due: bool) -> bool {
        let offset = record.offset.get();
        if self.latest_offset < offset {
            return true;
        }
        // Without a key it cannot be told which record it replaces. Nobody can write one here any more.
        let Some(key) = record.key else { return false };
        let is_last = self.map.get(self.map.hash(key)).is_none_or(|last| last <= offset);
        is_last && (record.value.is_some() || !horizon_is_due)
    }

    fn without_records(&self, header: &BatchHeader) -> Filtered {
        if !self.keeps_empty(header) {
            return Filtered::Gone;
        }
        if header.record_count == 0 { Filtered::Verbatim } else { Filtered::Rewritten(empty_batch(header)) }
    }

    /// Whether a batch stays even without records: it is all that tells its producer's epoch and sequence, or how far
    /// the log was cleaned.
    fn keeps_empty(&self, header: &BatchHeader) -> bool {
        let last_offset = header.last_offset().map_or(i64::MAX, chronik_types::Offset::get);
        if last_offset.saturating_add(1) == self.upper_bound {
            return true;
        }
        let last = self.last_records.get(&header.producer_id.get());
        header.producer_id.get() >= 0
            && last.is_some_and(|last| match last.last_data_offset {
                Some(offset) => last_offset == offset,
                None => header.attributes.is_control() && header.producer_epoch.get() == last.producer_epoch,
            })
    }
}
