//! A disk that says that it has synced, and has not.

use std::io;
use std::path::Path;
use std::sync::Arc;

use chronik_disk::{Disk, DiskFile, DiskLayer, FileLayer, OpenMode, SimDisk};

/// A disk whose syncs do nothing.
pub(crate) struct LyingDisk(pub(crate) SimDisk);

struct LyingFile(Arc<dyn DiskFile>);

impl DiskLayer for LyingDisk {
    fn below(&self) -> &dyn Disk {
        &self.0
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let existed = self.0.exists(path)?;
        let file = self.0.open(path, mode)?;
        // A new file starts out whole, or the node would not even start again.
        if !existed {
            file.sync_data()?;
        }
        Ok(Arc::new(LyingFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.open(from, OpenMode::ReadWrite)?.sync_data()?;
        self.0.rename(from, to)
    }
}

impl FileLayer for LyingFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.0
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}
