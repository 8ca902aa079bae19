//! The files that are open for reading, few at a time.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use chronik_disk::DiskFile;
use parking_lot::Mutex;

/// Which file of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileKind {
    Log,
    Index,
    TimeIndex,
}

/// Names an open file: the log by its number in this process, the segment by its base offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileKey {
    pub(crate) log: u64,
    pub(crate) base_offset: i64,
    pub(crate) kind: FileKind,
}

/// Open files by name. When more are open than `capacity`, the quarter that was used longest ago is let go; whoever
/// still holds one of those keeps it open.
pub(crate) struct FileCache {
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    files: BTreeMap<FileKey, Slot>,
    uses: u64,
}

struct Slot {
    file: Arc<dyn DiskFile>,
    last_use: u64,
}

impl FileCache {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(4), inner: Mutex::default() }
    }

    /// The open file, or what `open` opens.
    pub(crate) fn get(
        &self,
        key: FileKey,
        open: impl FnOnce() -> io::Result<Arc<dyn DiskFile>>,
    ) -> io::Result<Arc<dyn DiskFile>> {
        {
            let mut inner = self.inner.lock();
            inner.uses += 1;
            let uses = inner.uses;
            if let Some(slot) = inner.files.get_mut(&key) {
                slot.last_use = uses;
                return Ok(Arc::clone(&slot.file));
            }
        }
        // Opened outside the lock, so two threads may both open it; the later one is kept and both are good.
        let file = open()?;
        let mut inner = self.inner.lock();
        if inner.files.len() >= self.capacity {
            inner.evict(self.capacity / 4);
        }
        let last_use = inner.uses;
        inner.files.insert(key, Slot { file: Arc::clone(&file), last_use });
        Ok(file)
    }

    /// Forgets the files of one segment.
    pub(crate) fn forget_segment(&self, log: u64, base_offset: i64) {
        let mut inner = self.inner.lock();
        for kind in [FileKind::Log, FileKind::Index, FileKind::TimeIndex] {
            inner.files.remove(&FileKey { log, base_offset, kind });
        }
    }

    /// Forgets all files of a log.
    pub(crate) fn forget_log(&self, log: u64) {
        self.inner.lock().files.retain(|key, _| key.log != log);
    }
}

impl Inner {
    fn evict(&mut self, count: usize) {
        let mut uses: Vec<u64> = self.files.values().map(|slot| slot.last_use).collect();
        uses.sort_unstable();
        let threshold = uses.get(count).copied().unwrap_or(u64::MAX);
        self.files.retain(|_, slot| slot.last_use >= threshold);
    }
}
