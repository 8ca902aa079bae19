//! Files that a restart finds and that do not belong to the log any more, or not yet.

use std::io;

use chronik_disk::{DirEntry, OpenMode};

use super::Recovery;
use crate::scan::BatchWalker;
use crate::segment::Segment;
use crate::{LogError, names};

impl Recovery<'_> {
    /// Ends what a restart interrupted: files on their way out go, a segment that compaction was about to put in place
    /// is put in place.
    pub(super) fn finish_interrupted(&self, entries: Vec<DirEntry>) -> Result<Vec<DirEntry>, LogError> {
        let mut changed = false;
        let mut swapped = Vec::new();
        for entry in &entries {
            let name = &entry.name;
            if [names::DELETED, names::CLEANED, names::TMP].iter().any(|suffix| name.ends_with(suffix)) {
                let path = self.path.join(name);
                self.dir.disk.remove_file(&path).map_err(|e| self.dir.write_failed("remove", &path, e))?;
                changed = true;
            } else if let Some(target) = name.strip_suffix(names::SWAP) {
                swapped.push((name.clone(), target.to_owned()));
            }
        }
        // The data takes its place first, as its indexes can be made from it.
        swapped.sort_by_key(|(_, target)| !target.ends_with(names::LOG));
        for (from, to) in &swapped {
            if to.ends_with(&format!(".{}", names::LOG)) {
                self.remove_replaced(from, to)?;
            }
            let (from, to) = (self.path.join(from), self.path.join(to));
            self.dir.disk.rename(&from, &to).map_err(|e| self.dir.write_failed("rename", &from, e))?;
            changed = true;
        }
        if !changed {
            return Ok(entries);
        }
        self.dir.disk.read_dir(&self.path).map_err(|source| LogError::io("list", &self.path, source))
    }

    /// Removes the segments whose offsets a compacted segment covers.
    pub(super) fn remove_replaced(&self, swap: &str, target: &str) -> Result<(), LogError> {
        let Some((base_offset, _)) = names::parse_file(target) else { return Ok(()) };
        let path = self.path.join(swap);
        let io_failed = |source| LogError::io("read", &path, source);
        let file = self.dir.open(&path, OpenMode::Read).map_err(io_failed)?;
        let mut walker = BatchWalker::headers(&*file, 0, file.len_bytes().map_err(io_failed)?);
        let mut last_offset = base_offset;
        while let Ok(Some(found)) = walker.next_header() {
            last_offset = last_offset.max(found.last_offset());
        }
        for entry in self.dir.disk.read_dir(&self.path).map_err(io_failed)? {
            let Some((offset, extension)) = names::parse_file(&entry.name) else { continue };
            let replaced = [names::LOG, names::INDEX, names::TIME_INDEX, names::TXN_INDEX];
            if base_offset <= offset && offset <= last_offset && replaced.contains(&extension) {
                let path = self.path.join(&entry.name);
                self.dir.disk.remove_file(&path).map_err(|e| self.dir.write_failed("remove", &path, e))?;
            }
        }
        Ok(())
    }

    pub(super) fn remove_segment_files(&mut self, base_offset: i64) -> Result<(), LogError> {
        for extension in [names::INDEX, names::TIME_INDEX, names::TXN_INDEX, names::LOG] {
            self.remove_file(base_offset, extension)?;
        }
        Ok(())
    }

    pub(super) fn remove_file(&mut self, offset: i64, extension: &str) -> Result<(), LogError> {
        let path = self.dir.file_path(&self.partition, offset, extension);
        self.files.remove(&(offset, extension.to_owned()));
        match self.dir.disk.remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.dir.write_failed("remove", &path, error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
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
