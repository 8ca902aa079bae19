//! Transactions, as far as compaction must know how they ended.
//!
//! A record of a transaction that was aborted must not take the place of an older one, and one of a transaction that
//! is still open may yet be aborted. So what a transaction wrote waits beside the key map until its marker comes, and
//! a pass ends before the first transaction whose marker it has not seen.

use std::collections::{BTreeMap, BTreeSet};

use chronik_protocol::records::{BatchError, BatchHeader, ControlType, RecordIter};

use super::filter::INFLATED_BYTES_MAX;
use super::key_map::{KeyHash, KeyMap};

/// How a transaction ended, or that a control batch says nothing about it.
pub(super) fn control_type(batch: &[u8]) -> Result<Option<ControlType>, BatchError> {
    let mut records = RecordIter::new(batch, INFLATED_BYTES_MAX)?;
    match records.next_record()? {
        Some(record) => ControlType::from_key(record.key.unwrap_or_default()).map(Some),
        // What compaction leaves of a marker.
        None => Ok(None),
    }
}

/// A transaction that is open at the place which the walk has reached.
#[derive(Debug)]
struct Open {
    first_offset: i64,
    keys: Vec<(KeyHash, i64)>,
}

/// The transactions of the dirty part of a log, while it is walked from its beginning.
#[derive(Debug, Default)]
pub(super) struct DirtyTransactions {
    open: BTreeMap<i64, Open>,
    open_key_count: usize,
    /// By producer: the first offset and the marker's offset of each transaction that was aborted.
    aborted: BTreeMap<i64, Vec<(i64, i64)>>,
    aborted_count: usize,
}

impl DirtyTransactions {
    /// Entries held, which count like keys of the map.
    pub(super) fn len(&self) -> usize {
        self.open_key_count + self.aborted_count
    }

    /// Notes a data batch of a transaction.
    pub(super) fn begin_batch(&mut self, header: &BatchHeader) {
        self.open
            .entry(header.producer_id.get())
            .or_insert_with(|| Open { first_offset: header.base_offset.get(), keys: Vec::new() });
    }

    /// Notes a record of such a batch.
    pub(super) fn add(&mut self, producer_id: i64, hash: KeyHash, offset: i64) {
        if let Some(open) = self.open.get_mut(&producer_id) {
            open.keys.push((hash, offset));
            self.open_key_count += 1;
        }
    }

    /// Notes the end of a transaction. What was committed goes into the map; there is room, as what waited was counted.
    pub(super) fn end(&mut self, header: &BatchHeader, control_type: ControlType, map: &mut KeyMap) {
        let producer_id = header.producer_id.get();
        let Some(open) = self.open.remove(&producer_id) else { return };
        self.open_key_count -= open.keys.len();
        match control_type {
            ControlType::Abort => {
                self.aborted
                    .entry(producer_id)
                    .or_default()
                    .push((open.first_offset, header.base_offset.get()));
                self.aborted_count += 1;
            }
            ControlType::Commit | ControlType::Other(_) => {
                for (hash, offset) in open.keys {
                    map.put(hash, offset);
                }
            }
        }
    }

    /// Where the oldest transaction begins that has not ended.
    pub(super) fn first_open_offset(&self) -> Option<i64> {
        self.open.values().map(|open| open.first_offset).min()
    }

    /// Whether a data batch belongs to a transaction that was aborted.
    pub(super) fn is_aborted(&self, header: &BatchHeader) -> bool {
        let offset = header.base_offset.get();
        header.attributes.is_transactional()
            && self.aborted.get(&header.producer_id.get()).is_some_and(|transactions| {
                let after = transactions.partition_point(|&(_, marker)| marker < offset);
                transactions.get(after).is_some_and(|&(first, _)| first <= offset)
            })
    }
}

/// The transactions of which data was met while a log is rewritten from its beginning.
#[derive(Debug, Default)]
pub(super) struct MetTransactions {
    producers: BTreeSet<i64>,
}

impl MetTransactions {
    /// Notes a data batch, kept or not.
    pub(super) fn data(&mut self, header: &BatchHeader) {
        if header.attributes.is_transactional() {
            self.producers.insert(header.producer_id.get());
        }
    }

    /// Notes a control batch, and says whether it may go: nothing of its transaction is left before it.
    pub(super) fn control(&mut self, header: &BatchHeader, control_type: Option<ControlType>) -> bool {
        match control_type {
            Some(ControlType::Abort | ControlType::Commit) => {
                !self.producers.remove(&header.producer_id.get())
            }
            Some(ControlType::Other(_)) => false,
            None => true,
        }
    }
}
