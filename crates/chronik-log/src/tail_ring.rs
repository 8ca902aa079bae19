//! The batches that were appended last, kept in memory for the readers at the log's end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// A batch smaller than this is copied out of the request that brought it, so that a small batch does not keep a
/// large request in memory. Above it the copy would cost more than it saves.
const COPY_BELOW_BYTES: usize = 16 * 1024;

/// Memory that all tail rings share, counted where it is held.
#[derive(Debug)]
pub struct MemoryBudget {
    limit_bytes: u64,
    used_bytes: AtomicU64,
}

impl MemoryBudget {
    /// A budget of `limit_bytes`.
    pub fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, used_bytes: AtomicU64::new(0) }
    }

    /// Bytes held now.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Takes `bytes` where they are left.
    pub(crate) fn try_take(&self, bytes: u64) -> bool {
        self.used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|&sum| sum <= self.limit_bytes)
            })
            .is_ok()
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// One batch in memory.
#[derive(Clone, Debug)]
pub(crate) struct RingBatch {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    pub(crate) bytes: Bytes,
}

/// The last batches of one log, without a gap up to the log's end.
#[derive(Debug)]
pub(crate) struct TailRing {
    batches: VecDeque<RingBatch>,
    bytes: u64,
    budget: Arc<MemoryBudget>,
}

impl TailRing {
    pub(crate) fn new(budget: Arc<MemoryBudget>) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, budget }
    }

    /// Adds a batch at the end; older ones go to make room. When there is no room even so, the ring ends up empty:
    /// it must never have a gap before the log's end.
    pub(crate) fn push(&mut self, base_offset: i64, last_offset: i64, bytes: &Bytes, bytes_max: u64) {
        let len = bytes.len() as u64;
        while self.bytes.saturating_add(len) > bytes_max && self.pop_front() {}
        if len > bytes_max {
            return;
        }
        while !self.budget.try_take(len) {
            if !self.pop_front() {
                return;
            }
        }
        self.bytes += len;
        let bytes =
            if bytes.len() < COPY_BELOW_BYTES { Bytes::copy_from_slice(bytes) } else { bytes.clone() };
        self.batches.push_back(RingBatch { base_offset, last_offset, bytes });
    }

    fn pop_front(&mut self) -> bool {
        let Some(batch) = self.batches.pop_front() else { return false };
        self.release(&batch);
        true
    }

    fn release(&mut self, batch: &RingBatch) {
        let len = batch.bytes.len() as u64;
        self.bytes -= len;
        self.budget.give_back(len);
    }

    /// The batches from the one that holds `offset` on, or `None` where the ring does not reach back so far.
    pub(crate) fn batches_from(&self, offset: i64) -> Option<impl Iterator<Item = &RingBatch>> {
        if self.batches.front()?.base_offset > offset {
            return None;
        }
        let first = self.batches.partition_point(|batch| batch.last_offset < offset);
        Some(self.batches.range(first..))
    }

    /// Drops what ends below `offset`: the file has something else there now.
    pub(crate) fn forget_below(&mut self, offset: i64) {
        while self.batches.front().is_some_and(|batch| batch.last_offset < offset) && self.pop_front() {}
    }

    /// Drops what reaches `offset`.
    pub(crate) fn truncate(&mut self, offset: i64) {
        while self.batches.back().is_some_and(|batch| batch.last_offset >= offset) {
            if let Some(batch) = self.batches.pop_back() {
                self.release(&batch);
            }
        }
    }

    #[cfg(test)]
    fn check(&self) {
        assert_eq!(self.bytes, self.batches.iter().map(|batch| batch.bytes.len() as u64).sum::<u64>());
    }
}

impl Drop for TailRing {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(ring: &TailRing, from: i64) -> Option<Vec<i64>> {
        ring.batches_from(from).map(|batches| batches.map(|batch| batch.base_offset).collect())
    }

    #[test]
    fn old_batches_make_room_for_new_ones() {
        let budget = Arc::new(MemoryBudget::new(1000));
        let mut ring = TailRing::new(Arc::clone(&budget));
        for batch in 0..10_i64 {
            ring.push(batch * 10, batch * 10 + 9, &Bytes::from(vec![0; 100]), 350);
            ring.check();
        }
        assert_eq!(budget.used_bytes(), 300);
        assert_eq!(offsets(&ring, 69), None);
        assert_eq!(offsets(&ring, 70), Some(vec![70, 80, 90]));
        assert_eq!(offsets(&ring, 85), Some(vec![80, 90]));
        assert_eq!(offsets(&ring, 100), Some(vec![]));
        ring.forget_below(79);
        assert_eq!(offsets(&ring, 70), Some(vec![70, 80, 90]), "a batch goes as a whole");
        ring.truncate(90);
        assert_eq!(offsets(&ring, 70), Some(vec![70, 80]));
        ring.forget_below(80);
        ring.check();
        assert_eq!(offsets(&ring, 70), None);
        assert_eq!(offsets(&ring, 80), Some(vec![80]));
        ring.truncate(75);
        assert_eq!(offsets(&ring, 80), None);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_batch_that_does_not_fit_leaves_no_gap() {
        let budget = Arc::new(MemoryBudget::new(250));
        let mut ring = TailRing::new(Arc::clone(&budget));
        let mut other = TailRing::new(Arc::clone(&budget));
        other.push(0, 0, &Bytes::from(vec![0; 100]), 1000);
        ring.push(0, 0, &Bytes::from(vec![0; 100]), 1000);
        ring.push(1, 1, &Bytes::from(vec![0; 100]), 1000);
        assert_eq!(offsets(&ring, 1), Some(vec![1]), "the shared budget pushed the first one out");
        ring.push(2, 2, &Bytes::from(vec![0; 200]), 1000);
        assert_eq!(offsets(&ring, 2), None);
        drop(other);
        assert_eq!(budget.used_bytes(), 0);
    }
}
