//! Files that a restart finds and that do not belong to the log any more, or not yet.

use chronik_disk::{DirEntry, OpenMode};

use super::Recovery;
use crate::journal::NoteKind;
use crate::scan::BatchWalker;
use crate::segment::Segment;
use crate::{LogError, names};

impl Recovery<'_> {
    /// Ends what a restart interrupted: files on their way out go, a segment that compaction was about to put in place
    /// is put in place.
    ///
    /// A cleaned segment counts from the moment when its data is called `.log.swap`. Before that all of it goes; from
    /// then on it replaces the old segments, however many of these are still there.
    pub(super) fn finish_interrupted(&mut self, entries: Vec<DirEntry>) -> Result<Vec<DirEntry>, LogError> {
        let mut changed = false;
        let mut swapped = Vec::new();
        let data_swap = format!("{}{}", names::LOG, names::SWAP);
        let index_swaps = [names::INDEX, names::TIME_INDEX, names::TXN_INDEX]
            .map(|extension| format!("{extension}{}", names::SWAP));
        let mut swapped_indexes = Vec::new();
        for entry in &entries {
            let name = &entry.name;
            if let Some((base_offset, names::LOG)) =
                name.strip_suffix(names::DELETED).and_then(names::parse_file)
                && self.tells_of_deletion(base_offset)
            {
                self.empty_deleted(base_offset, entry)?;
                continue;
            }
            if [names::DELETED, names::CLEANED, names::TMP].iter().any(|suffix| name.ends_with(suffix)) {
                self.remove(name)?;
                changed = true;
                continue;
            }
            match names::parse_file(name) {
                Some((base_offset, extension)) if extension == data_swap => swapped.push(base_offset),
                Some((base_offset, extension)) if index_swaps.iter().any(|swap| swap == extension) => {
                    swapped_indexes.push((base_offset, name.clone()));
                }
                _ if name.ends_with(names::SWAP) => {
                    self.remove(name)?;
                    changed = true;
                }
                _ => {}
            }
        }
        for &base_offset in &swapped {
            self.remove_replaced(base_offset)?;
        }
        for (base_offset, name) in &swapped_indexes {
            match name.strip_suffix(names::SWAP) {
                Some(target) if swapped.contains(base_offset) => self.rename(name, target)?,
                // An index without its data: the data never came so far, or has its place already.
                _ => self.remove(name)?,
            }
            changed = true;
        }
        for &base_offset in &swapped {
            let target = names::file(base_offset, names::LOG);
            self.rename(&format!("{target}{}", names::SWAP), &target)?;
            self.put_in_place.insert(base_offset);
            changed = true;
        }
        if !changed {
            return Ok(entries);
        }
        if !swapped.is_empty() {
            // The next checkpoint makes the journal go that tells what the cleaned segment replaces.
            self.sync_names()?;
        }
        self.dir.disk.read_dir(&self.path).map_err(|source| LogError::io("list", &self.path, source))
    }

    /// Whether nothing but its file, which waits for its removal, tells that a segment was deleted which the checkpoint knows:
    /// on a full disk the note of it may be missing.
    fn tells_of_deletion(&self, base_offset: i64) -> bool {
        let Some(checkpoint) = &self.known.checkpoint else { return false };
        let start = self.noted_start(checkpoint.log_start_offset);
        let cut_offset = self.cut_offset().unwrap_or(i64::MAX);
        self.cleaned_end() <= base_offset
            && self
                .known_segment(base_offset)
                .is_some_and(|known| start < known.next_offset && known.next_offset <= cut_offset)
    }

    /// Gives the room of a deleted segment back. Its name stays until something else tells of the deletion: this recovery may
    /// fail, or the process end before it has made a checkpoint.
    fn empty_deleted(&mut self, base_offset: i64, entry: &DirEntry) -> Result<(), LogError> {
        if self.deleted.is_empty() {
            // A power loss must not bring the old name back, and a segment with nothing in it.
            self.sync_names()?;
        }
        self.deleted.insert(base_offset);
        if entry.len_bytes > 0 {
            let path = self.path.join(&entry.name);
            let emptied = self.dir.open(&path, OpenMode::ReadWrite).and_then(|file| file.truncate(0));
            emptied.map_err(|source| self.dir.write_failed("cut", &path, source))?;
        }
        Ok(())
    }

    /// Has the journal tell what the names of deleted segments tell, and removes them. Where the disk is too full for that,
    /// they stay for as long as others of that kind do.
    pub(super) fn settle_deleted(&mut self, log_start: i64) -> Result<(), LogError> {
        if self.deleted.is_empty() {
            return Ok(());
        }
        let noted = self.dir.note(&self.partition, self.topic_id, NoteKind::LogStart, log_start);
        let is_noted = match noted.and_then(|_| self.dir.sync_notes()) {
            Ok(()) => true,
            Err(LogError::DiskFull { .. }) => false,
            Err(error) => return Err(error),
        };
        for base_offset in std::mem::take(&mut self.deleted) {
            let name = format!("{}{}", names::file(base_offset, names::LOG), names::DELETED);
            if is_noted {
                self.remove(&name)?;
            } else {
                let due = self.now.monotonic.plus_ms(self.config.file_delete_delay_ms);
                self.dir.removals.push_file(due, self.path.join(name));
            }
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), LogError> {
        let path = self.path.join(name);
        // The topic's id may have been written anew since the directory was listed, by a file of the same name.
        self.dir.disk.remove_file_if_there(&path).map_err(|e| self.dir.write_failed("remove", &path, e))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), LogError> {
        let (from, to) = (self.path.join(from), self.path.join(to));
        self.dir.disk.rename(&from, &to).map_err(|e| self.dir.write_failed("rename", &from, e))
    }

    /// Removes the segments that a compacted segment replaces: up to where the journal says, or, in a directory that
    /// Kafka wrote, as far as its offsets reach.
    fn remove_replaced(&self, base_offset: i64) -> Result<(), LogError> {
        let noted = self.known.notes.iter().rev().find(|note| note.kind == NoteKind::Clean);
        let end_offset = match noted.filter(|note| base_offset < note.offset) {
            Some(note) => note.offset,
            None => self.end_of_swapped(base_offset)?,
        };
        let entries = self.dir.disk.read_dir(&self.path);
        for entry in entries.map_err(|source| LogError::io("list", &self.path, source))? {
            let Some((offset, extension)) = names::parse_file(&entry.name) else { continue };
            let replaced = [names::LOG, names::INDEX, names::TIME_INDEX, names::TXN_INDEX];
            if base_offset <= offset && offset < end_offset && replaced.contains(&extension) {
                self.remove(&entry.name)?;
            }
        }
        Ok(())
    }

    /// The offset after the last batch of a compacted segment that is not in its place yet.
    fn end_of_swapped(&self, base_offset: i64) -> Result<i64, LogError> {
        let path = self.path.join(format!("{}{}", names::file(base_offset, names::LOG), names::SWAP));
        let io_failed = |source| LogError::io("read", &path, source);
        let file = self.dir.open(&path, OpenMode::Read).map_err(io_failed)?;
        let mut walker = BatchWalker::headers(&*file, 0, file.len_bytes().map_err(io_failed)?);
        let mut end_offset = base_offset.saturating_add(1);
        while let Ok(Some(found)) = walker.next_header() {
            end_offset = end_offset.max(found.last_offset().saturating_add(1));
        }
        Ok(end_offset)
    }

    /// Removes segments, told from the first to the last, the last first: if the power fails meanwhile, what is left has no hole, and begins where it did.
    pub(super) fn remove_segments(&mut self, base_offsets: &[i64]) -> Result<(), LogError> {
        for &base_offset in base_offsets.iter().rev() {
            self.remove_segment_files(base_offset)?;
        }
        if base_offsets.is_empty() { Ok(()) } else { self.sync_names() }
    }

    /// Makes durable what was removed: it must not come back behind what is appended from now on.
    pub(super) fn sync_names(&self) -> Result<(), LogError> {
        let synced = self.dir.disk.sync_dir(&self.path);
        synced.map_err(|source| self.dir.sync_failed(&self.path, source))
    }

    fn remove_segment_files(&mut self, base_offset: i64) -> Result<(), LogError> {
        for extension in [names::INDEX, names::TIME_INDEX, names::TXN_INDEX, names::LOG] {
            self.remove_file(base_offset, extension)?;
        }
        Ok(())
    }

    pub(super) fn remove_file(&mut self, offset: i64, extension: &str) -> Result<(), LogError> {
        let path = self.dir.file_path(&self.partition, offset, extension);
        self.files.remove(&(offset, extension.to_owned()));
        let removed = self.dir.disk.remove_file_if_there(&path);
        removed.map_err(|source| self.dir.write_failed("remove", &path, source))
    }

    /// Removes indexes that have lost their segment.
    pub(super) fn remove_orphans(&mut self, segments: &[Segment]) -> Result<(), LogError> {
        let orphans: Vec<(i64, String)> = self
            .files
            .keys()
            .filter(|(offset, _)| segments.binary_search_by_key(offset, |s| s.base_offset).is_err())
            .filter(|(_, extension)| {
                [names::INDEX, names::TIME_INDEX, names::TXN_INDEX].contains(&&**extension)
            })
            .cloned()
            .collect();
        for (offset, extension) in orphans {
            self.warn(offset, &extension, "the index has no segment; it is removed");
            self.remove_file(offset, &extension)?;
        }
        Ok(())
    }
}
