//! Where each leader epoch starts in a log (KIP-101), and Kafka's `leader-epoch-checkpoint` file.

use std::fmt::Write as _;

/// One leader epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpochEntry {
    pub(crate) epoch: i32,
    pub(crate) start_offset: i64,
}

/// The leader epochs of a log; epochs and start offsets both increase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EpochCache {
    entries: Vec<EpochEntry>,
}

impl EpochCache {
    /// The entries that can stand together; one that contradicts a later one gives way to it.
    pub(crate) fn from_entries(entries: impl IntoIterator<Item = EpochEntry>) -> Self {
        let mut cache = Self::default();
        for entry in entries {
            if entry.epoch >= 0 && entry.start_offset >= 0 {
                cache.assign(entry.epoch, entry.start_offset);
            }
        }
        cache
    }

    pub(crate) fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }

    pub(crate) fn latest(&self) -> Option<EpochEntry> {
        self.entries.last().copied()
    }

    /// Whether [`assign`](Self::assign) would change anything.
    pub(crate) fn would_assign(&self, epoch: i32, start_offset: i64) -> bool {
        epoch >= 0
            && self.latest().is_none_or(|latest| latest.epoch != epoch || start_offset < latest.start_offset)
    }

    /// Notes that `epoch` starts at `start_offset`. Entries that contradict it are dropped.
    pub(crate) fn assign(&mut self, epoch: i32, start_offset: i64) -> bool {
        if !self.would_assign(epoch, start_offset) {
            return false;
        }
        let keep =
            self.entries.partition_point(|entry| entry.epoch < epoch && entry.start_offset < start_offset);
        self.entries.truncate(keep);
        self.entries.push(EpochEntry { epoch, start_offset });
        true
    }

    /// The epoch asked for, or the one before it that the log holds, with the offset where the next one starts (the
    /// log's end for the latest). `None` for an epoch above all known ones.
    pub(crate) fn end_offset_for(&self, epoch: i32, log_end_offset: i64) -> Option<(i32, i64)> {
        if epoch < 0 {
            return None;
        }
        if self.latest()?.epoch == epoch {
            return Some((epoch, log_end_offset));
        }
        let next = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let higher = self.entries.get(next)?;
        // Below the first known epoch the records are gone; the follower is to go on from where the log starts.
        let found = next.checked_sub(1).and_then(|at| self.entries.get(at));
        Some((found.map_or(epoch, |entry| entry.epoch), higher.start_offset))
    }

    /// The epoch under which `offset` was or will be appended.
    pub(crate) fn epoch_for_offset(&self, offset: i64) -> Option<i32> {
        let next = self.entries.partition_point(|entry| entry.start_offset <= offset);
        next.checked_sub(1).and_then(|at| self.entries.get(at)).map(|entry| entry.epoch)
    }

    /// Drops the epochs that start at or after `end_offset`.
    pub(crate) fn truncate_from_end(&mut self, end_offset: i64) -> bool {
        let before = self.entries.len();
        self.entries.truncate(self.entries.partition_point(|entry| entry.start_offset < end_offset));
        self.entries.len() != before
    }

    /// Drops the epochs that end at or before `start_offset`; the one that spans it starts there from now on.
    pub(crate) fn truncate_from_start(&mut self, start_offset: i64) -> bool {
        let spanning = self.entries.partition_point(|entry| entry.start_offset <= start_offset);
        let Some(last) = spanning.checked_sub(1) else { return false };
        let unchanged = last == 0 && self.entries.first().is_some_and(|e| e.start_offset == start_offset);
        self.entries.drain(..last);
        if let Some(first) = self.entries.first_mut() {
            first.start_offset = start_offset;
        }
        !unchanged
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// The file's contents: version 0, the number of entries, an entry on each line.
    pub(crate) fn to_file(&self) -> String {
        let mut text = format!("0\n{}\n", self.entries.len());
        for entry in &self.entries {
            writeln!(text, "{} {}", entry.epoch, entry.start_offset).expect("a String takes everything");
        }
        text
    }

    /// Reads what [`to_file`](Self::to_file) writes; `None` for anything else. Every line has its end: without that a number
    /// may have lost digits.
    pub(crate) fn from_file(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.lines();
        if lines.next()? != "0" {
            return None;
        }
        let count: usize = lines.next()?.parse().ok()?;
        let mut entries = Vec::new();
        for line in lines {
            let (epoch, start_offset) = line.split_once(' ')?;
            let entry =
                EpochEntry { epoch: epoch.parse().ok()?, start_offset: start_offset.trim().parse().ok()? };
            if entry.epoch < 0 || entry.start_offset < 0 {
                return None;
            }
            entries.push(entry);
        }
        (entries.len() == count).then(|| Self::from_entries(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(entries: &[(i32, i64)]) -> EpochCache {
        EpochCache::from_entries(
            entries.iter().map(|&(epoch, start_offset)| EpochEntry { epoch, start_offset }),
        )
    }

    #[test]
    fn end_offsets_follow_kip_101() {
        let epochs = cache(&[(2, 10), (4, 30), (7, 60)]);
        let check = |epoch, expected| assert_eq!(epochs.end_offset_for(epoch, 100), expected, "{epoch}");
        check(-1, None);
        check(0, Some((0, 10)));
        check(2, Some((2, 30)));
        check(3, Some((2, 30)));
        check(4, Some((4, 60)));
        check(6, Some((4, 60)));
        check(7, Some((7, 100)));
        check(8, None);
        assert_eq!(EpochCache::default().end_offset_for(0, 5), None);
        assert_eq!(epochs.epoch_for_offset(9), None);
        assert_eq!(epochs.epoch_for_offset(59), Some(4));
        assert_eq!(epochs.epoch_for_offset(60), Some(7));
    }

    #[test]
    fn assigning_drops_what_contradicts() {
        let mut epochs = cache(&[(1, 0), (2, 10)]);
        assert!(!epochs.assign(2, 20), "the latest epoch keeps its start");
        assert!(!epochs.assign(-1, 20));
        assert!(epochs.assign(3, 10));
        assert_eq!(epochs, cache(&[(1, 0), (3, 10)]));
        assert!(epochs.assign(2, 5));
        assert_eq!(epochs.entries().len(), 2);
        assert_eq!(epochs.latest(), Some(EpochEntry { epoch: 2, start_offset: 5 }));
    }

    #[test]
    fn truncation_from_both_ends() {
        let mut epochs = cache(&[(1, 0), (2, 10), (3, 20)]);
        assert!(!epochs.truncate_from_end(21));
        assert!(epochs.truncate_from_end(20));
        assert_eq!(epochs, cache(&[(1, 0), (2, 10)]));
        assert!(epochs.truncate_from_start(12));
        assert_eq!(epochs, cache(&[(2, 12)]));
        assert!(!epochs.truncate_from_start(12));
        assert!(!epochs.truncate_from_start(5));
    }

    #[test]
    fn the_file_goes_there_and_back() {
        let epochs = cache(&[(0, 0), (5, 1234)]);
        assert_eq!(epochs.to_file(), "0\n2\n0 0\n5 1234\n");
        assert_eq!(EpochCache::from_file(&epochs.to_file()), Some(epochs));
        for bad in ["", "1\n0\n", "0\n2\n0 0\n", "0\n1\n0 x\n", "0\n1\n-1 0\n", "0\nx\n", "0\n1\n0 12"] {
            assert_eq!(EpochCache::from_file(bad), None, "{bad:?}");
        }
    }
}
