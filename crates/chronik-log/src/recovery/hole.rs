//! Logs that lack records before their end.
//!
//! What lies behind a segment that is gone or damaged may be all that is left of it, and is kept where it can be trusted;
//! else the log goes on at the offset at which it ended, so that none is given out twice. A follower goes back to the hole
//! and fetches from there. Until it has done so, or leads, a file keeps where the hole is, since the next checkpoint takes
//! what there is for what there should be.

use std::collections::BTreeSet;

use chronik_disk::DirEntry;

use super::{LastWriter, Offsets, Recovery};
use crate::segment::Segment;
use crate::{LogError, holes, names};

impl Recovery<'_> {
    /// Where the log lacks records that it once had and does not end: as this recovery has found, or an earlier one that
    /// nobody has acted upon. All places are kept: what the leader says of the first may say nothing of the others.
    pub(super) fn settle_holes(
        &mut self,
        segments: &[Segment],
        offsets: &Offsets,
    ) -> Result<Vec<i64>, LogError> {
        // They may have been anywhere where the file is damaged, at the beginning and behind it.
        let anywhere = || vec![0, offsets.log_start];
        let noted = self.hole_file.as_deref().map(|contents| holes::parse(contents).unwrap_or_else(anywhere));
        let mut found: BTreeSet<i64> = noted.into_iter().flatten().collect();
        for offset in self.missing_segments(segments) {
            self.warn(offset, names::LOG, "the segment is gone, though others behind it are there");
            self.dir.shared.note_loss();
            // The next checkpoint knows nothing of what is missing, so that it is told once.
            self.dir.mark_changed();
            found.insert(offset);
        }
        if let Some(offset) = self.missing_beginning(segments)
            && found.insert(offset)
        {
            self.warn(offset, names::LOG, "the log began here once, or further on, and does not any more");
        }
        found.append(&mut self.lost_from);
        let holes: Vec<i64> = found.range(..offsets.log_end).copied().collect();
        self.write_hole_file(&holes)?;
        Ok(holes)
    }

    pub(super) fn read_hole_file(&mut self, entries: &[DirEntry]) -> Result<(), LogError> {
        if entries.iter().any(|entry| entry.name == names::HOLE) {
            let path = self.path.join(names::HOLE);
            let contents = self.dir.disk.read_file(&path);
            self.hole_file = Some(contents.map_err(|source| LogError::io("read", &path, source))?);
        }
        Ok(())
    }

    /// Writes down what was found to be missing, before anything that shows it is changed: this recovery may not come to its
    /// end.
    pub(super) fn keep_lost(&mut self) -> Result<(), LogError> {
        let noted = match self.hole_file.as_deref().map(holes::parse) {
            None => Vec::new(),
            Some(Some(noted)) => noted,
            // A file that is damaged says already that it may be anywhere.
            Some(None) => return Ok(()),
        };
        let holes: BTreeSet<i64> = noted.into_iter().chain(self.lost_from.iter().copied()).collect();
        self.write_hole_file(&holes.into_iter().collect::<Vec<_>>())
    }

    fn write_hole_file(&mut self, holes: &[i64]) -> Result<(), LogError> {
        let contents = Some(holes::format(holes).into_bytes()).filter(|contents| !contents.is_empty());
        if self.hole_file != contents {
            let path = self.path.join(names::HOLE);
            let outcome = match &contents {
                Some(contents) => self.dir.disk.replace_file(&path, contents),
                None => self.dir.disk.remove_file(&path),
            };
            outcome.map_err(|source| self.dir.write_failed("write", &path, source))?;
            self.hole_file = contents;
        }
        Ok(())
    }

    /// Notes what a segment has lost that the checkpoint knows, if others are behind it: it may end between two batches.
    pub(super) fn compare_with_known(&mut self, found: &Segment, known: &Segment) {
        let Some(checkpoint) = &self.known.checkpoint else { return };
        let synced_end = if self.known.rebooted { checkpoint.recovery_point } else { i64::MAX };
        let certain_end = known.next_offset.min(self.cut_offset().unwrap_or(i64::MAX)).min(synced_end);
        if found.next_offset < certain_end && self.known_start() < certain_end {
            self.dir.shared.note_loss();
            self.note_lost(found.next_offset, certain_end);
        }
    }

    /// Notes that records are missing from `offset` on, with others behind them that begin at `next` or later. What lies
    /// below the log's start is deleted, and a hole there would pass for a beginning that the leader has deleted too.
    pub(super) fn note_lost(&mut self, offset: i64, next: i64) {
        let start = self.known_start();
        if start < next {
            self.lost_from.insert(offset.max(start));
        }
    }

    /// Where a log began that begins further on since a loss of power. Its first segments may be gone, or they were deleted
    /// and the note of it is lost; what the leader's log begins with tells which. A log that follows a compacted one from its
    /// start may have begun behind it, which the checkpoint knows. Where that is older than the log, it is asked for in
    /// vain, and fetched once more: of what was made since, nobody can tell whether something came before it. Kafka's files
    /// do not always tell where its logs begin.
    fn missing_beginning(&self, segments: &[Segment]) -> Option<i64> {
        if !self.known.rebooted || self.known.last_writer != LastWriter::Chronik {
            return None;
        }
        let checkpoint = self.known.checkpoint.as_ref();
        let start = self.noted_start(checkpoint.map_or(0, |checkpoint| checkpoint.log_start_offset));
        let known =
            checkpoint.and_then(|checkpoint| checkpoint.segments.first()).map(|known| known.base_offset);
        // What was cut off may have come again behind the start.
        let known = known.filter(|&known| self.cut_offset().is_none_or(|cut_offset| known < cut_offset));
        let began = known.map_or(start, |known| known.max(start));
        (began < segments.first()?.base_offset).then_some(began)
    }

    /// Where segments should begin that the checkpoint knows and that are not there, though others behind them are. What was
    /// deleted from the log's start is not missing, nor is what cleaning has put into other segments. The notes of a
    /// deletion may be missing where the disk was full; the files that wait for their removal tell of it then. (Behind a
    /// segment that is there, they tell of a cut, after which another segment may have begun at the same offset.)
    fn missing_segments(&self, segments: &[Segment]) -> Vec<i64> {
        let (Some(checkpoint), Some(first), Some(last)) =
            (&self.known.checkpoint, segments.first(), segments.last())
        else {
            return Vec::new();
        };
        let start = self.noted_start(checkpoint.log_start_offset);
        let cut_offset = self.cut_offset().unwrap_or(i64::MAX);
        let known = checkpoint.segments.iter().filter(|known| {
            known.size_bytes > 0
                && start < known.next_offset
                && self.cleaned_end() <= known.base_offset
                && known.next_offset <= cut_offset
                && known.base_offset < last.base_offset
                && !(known.base_offset < first.base_offset && self.deleted.contains(&known.base_offset))
        });
        let is_missing = |base_offset: &i64| {
            segments.binary_search_by_key(base_offset, |segment| segment.base_offset).is_err()
        };
        let missing = known.map(|known| known.base_offset).filter(is_missing);
        missing.map(|base_offset| base_offset.max(start)).collect()
    }
}
