//! The disk in memory under a broker, on which something else can happen in the middle of a write.

use std::io::{self, IoSlice};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use chronik_disk::{Disk, DiskFile, DiskLayer, FileLayer, OpenMode, SimDisk};
use parking_lot::Mutex;

type Meanwhile = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// A disk in memory.
#[derive(Clone, Default)]
pub(super) struct TestDisk {
    below: SimDisk,
    meanwhile: Meanwhile,
}

impl TestDisk {
    /// Has `work` done in the middle of the next write, by the thread that writes.
    pub(super) fn within_next_write(&self, work: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock() = Some(Box::new(work));
    }

    /// Whether that write has not come yet.
    pub(super) fn awaits_write(&self) -> bool {
        self.meanwhile.lock().is_some()
    }
}

impl Deref for TestDisk {
    type Target = SimDisk;

    fn deref(&self) -> &SimDisk {
        &self.below
    }
}

impl DiskLayer for TestDisk {
    fn below(&self) -> &dyn Disk {
        &self.below
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let below = Disk::open(&self.below, path, mode)?;
        Ok(Arc::new(TestFile { below, meanwhile: Arc::clone(&self.meanwhile) }))
    }
}

struct TestFile {
    below: Arc<dyn DiskFile>,
    meanwhile: Meanwhile,
}

impl TestFile {
    fn begin_write(&self) {
        let work = self.meanwhile.lock().take();
        if let Some(work) = work {
            work();
        }
    }
}

impl FileLayer for TestFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.below
    }

    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> io::Result<()> {
        self.begin_write();
        self.below.write_all_at(bytes, offset_bytes)
    }

    fn write_all_vectored_at(&self, slices: &mut [IoSlice<'_>], offset_bytes: u64) -> io::Result<()> {
        self.begin_write();
        self.below.write_all_vectored_at(slices, offset_bytes)
    }
}
