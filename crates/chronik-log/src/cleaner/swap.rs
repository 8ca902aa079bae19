//! Putting a cleaned segment in the place of those that it replaces, so that a crash at any step leaves either the old
//! segments or the new one.
//!
//! | step | a restart that finds it so |
//! |---|---|
//! | `.cleaned` files are written and synced | removes them |
//! | the journal says that segments up to an offset are replaced | as before |
//! | the indexes, then the data are called `.swap` | as before until the data is; then it puts the new segment in place |
//! | readers see the new segment, under that name | … |
//! | the old files lose their names | … |
//! | the indexes, then the data get their final names | takes the new segment |
//!
//! The directory is synced after each change of names on which a later one relies. No other lock than `reshaping` is
//! held while the disk works, so nobody who appends or reads waits for it.

use std::io::ErrorKind;
use std::sync::atomic::Ordering;

use chronik_types::Now;

use super::output::{EXTENSIONS, cleaned_path};
use crate::journal::NoteKind;
use crate::log::{Log, View};
use crate::segment::Segment;
use crate::{LogError, names};

impl Log {
    /// Replaces `replaced` by `cleaned`, whose files are there under `.cleaned` names. `end_offset` is the base offset of
    /// the first segment that stays; everything below it is synced. False where the log has changed since `cut_count`,
    /// or the segments are not the log's any more; nothing is done then.
    pub(super) fn replace_segments(
        &self,
        now: Now,
        cut_count: u64,
        replaced: &[Segment],
        cleaned: Segment,
        end_offset: i64,
    ) -> Result<bool, LogError> {
        let _reshaping = self.reshaping.lock();
        self.check_usable()?;
        if find(&self.view.lock(), cut_count, replaced).is_none() {
            return Ok(false);
        }
        let base_offset = cleaned.base_offset;
        // Appends do not wait for the sync of the note.
        self.make_id_durable(&mut self.writer.lock())?;
        self.dir.note(&self.partition, self.topic_id(), NoteKind::Clean, end_offset)?;
        self.name_swap(base_offset)?;
        // From here on the new segment is the log's, whatever happens.
        {
            let mut view = self.view.lock();
            let Some(at) = find(&view, cut_count, replaced) else { return Err(LogError::Closed) };
            let before: u64 = replaced.iter().map(|segment| segment.size_bytes).sum();
            let after = cleaned.size_bytes;
            view.segments.splice(at..at + replaced.len(), [cleaned]);
            view.swapping = Some(base_offset);
            // Readers would go on to see from memory what is no longer there, for as long as nothing displaces it.
            if let Some(ring) = &mut view.ring {
                ring.forget_below(end_offset);
            }
            self.renew_file_number(&mut view);
            self.size_bytes.fetch_sub(before, Ordering::Relaxed);
            self.size_bytes.fetch_add(after, Ordering::Relaxed);
        }
        self.take_names(now, replaced)?;
        self.sync_names()?;
        self.name_finally(base_offset)?;
        self.view.lock().swapping = None;
        self.sync_names()?;
        let mut writer = self.writer.lock();
        for segment in replaced {
            writer.unsynced.remove(&segment.base_offset);
            if segment.base_offset != base_offset {
                writer.snapshots.remove(&segment.base_offset);
            }
        }
        Ok(true)
    }

    /// Renames the cleaned files so that a restart puts them in place. The data's name is what counts, so it comes last.
    fn name_swap(&self, base_offset: i64) -> Result<(), LogError> {
        for extension in EXTENSIONS {
            let from = cleaned_path(self, base_offset, extension);
            let to = names::with_suffix(&self.file_path(base_offset, extension), names::SWAP);
            // A full disk leaves the old segments; the names are taken back with the rest of the clean.
            let renamed = self.dir.disk.rename(&from, &to);
            renamed.map_err(|source| self.dir.write_failed("rename", &from, source))?;
        }
        self.sync_names()
    }

    /// Renames the old files. Who reads in one goes on; it is removed after the delay.
    fn take_names(&self, now: Now, replaced: &[Segment]) -> Result<(), LogError> {
        let due = now.monotonic.plus_ms(self.config().file_delete_delay_ms);
        let first = replaced.first().map(|segment| segment.base_offset);
        for segment in replaced {
            let base_offset = segment.base_offset;
            // The snapshot belongs to the offset at which a segment begins, and the new one begins where the first did.
            let snapshot = (Some(base_offset) != first).then_some(names::SNAPSHOT);
            let extensions = [names::TXN_INDEX, names::TIME_INDEX, names::INDEX, names::LOG];
            for extension in snapshot.into_iter().chain(extensions) {
                let path = self.file_path(base_offset, extension);
                let retired = names::with_suffix(&path, names::DELETED);
                match self.dir.disk.rename(&path, &retired) {
                    Ok(()) => self.dir.removals.push_file(due, retired),
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(self.dir.cut_failed("rename", &path, error)),
                }
            }
        }
        Ok(())
    }

    /// Gives the new segment its final names, the data's last: as long as it has not got it, a restart does all of it.
    fn name_finally(&self, base_offset: i64) -> Result<(), LogError> {
        for extension in EXTENSIONS {
            let to = self.file_path(base_offset, extension);
            let from = names::with_suffix(&to, names::SWAP);
            let renamed = self.dir.disk.rename(&from, &to);
            renamed.map_err(|source| self.dir.cut_failed("rename", &from, source))?;
        }
        Ok(())
    }
}

/// Where the segments are in the view, if they are what they were.
fn find(view: &View, cut_count: u64, replaced: &[Segment]) -> Option<usize> {
    let first = replaced.first()?;
    if view.cut_count != cut_count {
        return None;
    }
    let at = view.segments.binary_search_by_key(&first.base_offset, |segment| segment.base_offset).ok()?;
    let found = view.segments.get(at..at.checked_add(replaced.len())?)?;
    let same = found.iter().zip(replaced).all(|(now, then)| {
        (now.base_offset, now.next_offset, now.size_bytes)
            == (then.base_offset, then.next_offset, then.size_bytes)
    });
    // The last segment is appended to and never cleaned.
    (same && at + replaced.len() < view.segments.len()).then_some(at)
}
