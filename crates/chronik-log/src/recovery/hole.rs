//! Logs that lack records before their end.
//!
//! What lies behind a segment that is gone or damaged may be all that is left of it, and is kept where it can be trusted;
//! else the log goes on at the offset at which it ended, so that none is given out twice. A follower goes back to the hole
//! and fetches from there. Until it has done so, or leads, a file keeps where the hole is, since the next checkpoint takes
//! what there is for what there should be.

use chronik_disk::DirEntry;

use super::{LastWriter, Recovery};
use crate::segment::Segment;
use crate::{LogError, names};

impl Recovery<'_> {
    /// Notes that a segment has lost what it held from `offset` on.
    pub(super) fn lose_from(&mut self, offset: i64) {
        self.lost_from = Some(self.lost_from.map_or(offset, |lowest| lowest.min(offset)));
    }

    /// Where the log lacks records that it once had and does not end: as this recovery has found, or an earlier one that
    /// nobody has acted upon.
    pub(super) fn settle_hole(
        &mut self,
        entries: &[DirEntry],
        segments: &[Segment],
        log_end: i64,
    ) -> Result<Option<i64>, LogError> {
        let path = self.path.join(names::HOLE);
        let noted = if entries.iter().any(|entry| entry.name == names::HOLE) {
            let contents = self.dir.disk.read_file(&path).map_err(|e| LogError::io("read", &path, e))?;
            // One that is damaged may have been anywhere.
            Some(parse(&contents).unwrap_or(0))
        } else {
            None
        };
        let missing = self.missing_segment(segments);
        if let Some(offset) = missing {
            self.warn(offset, names::LOG, "the segment is gone, though others behind it are there");
            self.dir.shared.note_loss();
            // The next checkpoint knows nothing of what is missing, so that it is told once.
            self.dir.mark_changed();
        }
        let late = self.missing_beginning(segments);
        if let Some(offset) = late
            && noted != late
        {
            self.warn(offset, names::LOG, "the log began here once, or further on, and does not any more");
        }
        let found = [noted, self.lost_from, missing, late].into_iter().flatten().min();
        let hole = found.filter(|&offset| offset < log_end);
        if hole != noted {
            let outcome = match hole {
                Some(offset) => self.dir.disk.replace_file(&path, format!("{offset}\n").as_bytes()),
                None => self.dir.disk.remove_file(&path),
            };
            outcome.map_err(|source| self.dir.write_failed("write", &path, source))?;
        }
        Ok(hole)
    }

    /// Notes what a segment has lost that the checkpoint knows, if others are behind it: it may end between two batches.
    pub(super) fn compare_with_known(&mut self, found: &Segment, known: &Segment) {
        let Some(checkpoint) = &self.known.checkpoint else { return };
        let synced_end = if self.known.rebooted { checkpoint.recovery_point } else { i64::MAX };
        let certain_end = known.next_offset.min(self.cut_offset().unwrap_or(i64::MAX)).min(synced_end);
        if found.next_offset < certain_end && self.noted_start(checkpoint.log_start_offset) < certain_end {
            self.dir.shared.note_loss();
            self.lose_from(found.next_offset);
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

    /// Where a segment should begin that the checkpoint knows and that is not there, though others behind it are. What was
    /// deleted from the log's start is not missing, nor is what cleaning has put into other segments. The notes of a
    /// deletion may be missing where the disk was full; the files that wait for their removal tell of it then. (Behind a
    /// segment that is there, they tell of a cut, after which another segment may have begun at the same offset.)
    fn missing_segment(&self, segments: &[Segment]) -> Option<i64> {
        let checkpoint = self.known.checkpoint.as_ref()?;
        let start = self.noted_start(checkpoint.log_start_offset);
        let cut_offset = self.cut_offset().unwrap_or(i64::MAX);
        let (first, last) = (segments.first()?.base_offset, segments.last()?.base_offset);
        let mut known = checkpoint.segments.iter().filter(|known| {
            known.size_bytes > 0
                && start < known.next_offset
                && self.cleaned_end() <= known.base_offset
                && known.next_offset <= cut_offset
                && known.base_offset < last
                && !(known.base_offset < first && self.deleted.contains(&known.base_offset))
        });
        let missing = known.find(|known| {
            segments.binary_search_by_key(&known.base_offset, |segment| segment.base_offset).is_err()
        });
        missing.map(|known| known.base_offset.max(start))
    }
}

/// What the file says; `None` where it is damaged.
fn parse(contents: &[u8]) -> Option<i64> {
    std::str::from_utf8(contents).ok()?.strip_suffix('\n')?.parse().ok()
}
