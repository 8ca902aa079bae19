//! Leader epochs: from the checkpoint, from their file, and from the batches.
//!
//! The file has no checksum, is written without a sync, and may be of any time after a loss of power. So it is asked only
//! where the checkpoint cannot know, and never where the log begins: a list that begins later than the log may be that of
//! records that were deleted and came back with the power, or one that has lost its beginning. In both cases the batches
//! tell the epochs of what is there, and no record goes for it.

use chronik_disk::{DirEntry, OpenMode};

use super::Recovery;
use crate::epoch_cache::{EpochCache, EpochEntry};
use crate::scan::{BatchWalker, ScanError};
use crate::segment::Segment;
use crate::{LogError, names};

impl Recovery<'_> {
    pub(super) fn load_epochs(&mut self, entries: &[DirEntry], has_segments: bool) {
        let there = entries.iter().any(|entry| entry.name == names::LEADER_EPOCH_CHECKPOINT);
        let path = self.path.join(names::LEADER_EPOCH_CHECKPOINT);
        if let Some(checkpoint) = &self.known.checkpoint {
            self.epochs = checkpoint.epochs.clone();
            if self.was_cut() {
                self.cut_epochs();
            } else if !there && !self.epochs.entries().is_empty() {
                tracing::warn!(path = %path.display(), "the leader epochs are missing; they are written anew from the checkpoint");
                self.epochs_changed = true;
            }
            return;
        }
        match self.read_epochs() {
            Some(epochs) => {
                self.epochs = epochs;
                // A full disk may have kept it from being written at the cut.
                self.cut_epochs();
            }
            None if there || has_segments => {
                tracing::warn!(path = %path.display(), "the leader epochs are missing or damaged; they are read from the batches");
                self.epochs_changed = true;
            }
            None => {}
        }
    }

    /// Forgets the epochs from where the log was cut on. What came after that is read anew and tells its own, unless it was
    /// cleaned.
    fn cut_epochs(&mut self) {
        if let Some(cut_offset) = self.cut_offset() {
            self.epochs.truncate_from_end(cut_offset);
            if cut_offset < self.cleaned_end() {
                self.add_epochs_from(cut_offset);
            }
        }
    }

    /// What the file says; `None` where there is none, or it is damaged.
    fn read_epochs(&self) -> Option<EpochCache> {
        let contents = self.dir.disk.read_file(&self.path.join(names::LEADER_EPOCH_CHECKPOINT)).ok()?;
        EpochCache::from_file(std::str::from_utf8(&contents).ok()?)
    }

    /// Takes over from the file what begins at or after `offset` and follows what is known.
    fn add_epochs_from(&mut self, offset: i64) {
        let Some(file) = self.read_epochs() else { return };
        let latest = self.epochs.latest().map_or(-1, |latest| latest.epoch);
        for entry in file.entries() {
            if offset <= entry.start_offset && latest < entry.epoch {
                self.epochs.assign(entry.epoch, entry.start_offset);
            }
        }
    }

    /// Reads the epochs of batches that lie before the first one in the list: whoever has others there could not be told
    /// apart. Most of the time there are none.
    pub(super) fn complete_epochs(&mut self, segments: &[Segment], log_start: i64) -> Result<(), LogError> {
        let known = self.epochs.entries().to_vec();
        let next = known.first().map_or(i64::MAX, |first| first.start_offset);
        let concerned =
            segments.iter().filter(|segment| segment.base_offset < next && segment.size_bytes > 0);
        if next <= log_start {
            return Ok(());
        }
        let mut found = Vec::new();
        for segment in concerned {
            let path = self.dir.file_path(&self.partition, segment.base_offset, names::LOG);
            match self.find_epochs(segment, next, &mut found) {
                Ok(true) => {}
                Ok(false) => break,
                Err(ScanError::Io(source)) => return Err(LogError::io("read", &path, source)),
                // Whoever reads there is told; the log is as whole as it was.
                Err(ScanError::Batch { position, error }) => {
                    tracing::warn!(path = %path.display(), position, %error, "the leader epochs cannot be read");
                    break;
                }
            }
        }
        // No checksum covers a batch's epoch. One above those that follow is none.
        let epoch_max = known.first().map_or(i32::MAX, |first| first.epoch);
        found.retain(|entry: &EpochEntry| entry.epoch <= epoch_max);
        if !found.is_empty() {
            tracing::warn!(path = %self.path.display(), "the leader epochs begin later than the log; what comes before is read from the batches");
            self.epochs = EpochCache::from_entries(found.into_iter().chain(known));
            self.epochs_changed = true;
        }
        Ok(())
    }

    /// Adds the epochs of a segment's batches before `end_offset`. False where there is nothing more to be found: the batches
    /// are from before there were epochs.
    fn find_epochs(
        &self,
        segment: &Segment,
        end_offset: i64,
        found: &mut Vec<EpochEntry>,
    ) -> Result<bool, ScanError> {
        let path = self.dir.file_path(&self.partition, segment.base_offset, names::LOG);
        let file = self.dir.open(&path, OpenMode::Read)?;
        let mut headers = BatchWalker::headers(&*file, 0, segment.size_bytes);
        let mut next_offset = segment.base_offset;
        loop {
            let latest = found.last().map_or(-1, |entry| entry.epoch);
            headers.expect(next_offset, latest);
            let Some(batch) = headers.next_header()? else { return Ok(true) };
            let start_offset = batch.header.base_offset.get();
            if end_offset <= start_offset {
                return Ok(true);
            }
            let epoch = batch.header.partition_leader_epoch.get();
            if epoch < 0 {
                return Ok(false);
            }
            if latest < epoch {
                found.push(EpochEntry { epoch, start_offset });
            }
            next_offset = batch.last_offset().saturating_add(1);
        }
    }
}
