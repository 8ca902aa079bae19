//! Disks that are broken on purpose, and what lies on them in the end.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chronik_disk::{Disk, DiskFile, DiskLayer, DiskLock, FileLayer, OpenMode, SimDisk};
use chronik_protocol::records::BatchIter;

use super::rot;
use super::sabotage::Sabotage;

/// Where a batch has the last byte of its base offset and the first of its leader epoch. No checksum covers them.
const BASE_OFFSET_END: u64 = 7;
const LEADER_EPOCH_AT: u64 = 12;
/// The file in which every log begins.
const FIRST_SEGMENT: &str = "00000000000000000000.log";
/// Which of a file's syncs fails.
const FAILED_SYNC: u64 = 2;

/// What a disk does wrong.
#[derive(Clone, Copy)]
pub(super) enum Breakage {
    /// Syncs of logs do nothing.
    SyncsNothing,
    /// Nobody hears of failed syncs of logs.
    HidesFailedSyncs,
    /// A sync of each file with this in its name fails.
    FailsSyncs(&'static str),
    /// No directory can be locked.
    LocksNothing,
}

impl Breakage {
    fn concerns(self, path: &Path) -> bool {
        match self {
            Self::SyncsNothing | Self::HidesFailedSyncs => {
                path.extension().is_some_and(|extension| extension == "log")
            }
            Self::FailsSyncs(part) => path.to_string_lossy().contains(part),
            Self::LocksNothing => false,
        }
    }
}

pub(super) struct BrokenDisk {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) breakage: Breakage,
}

struct BrokenFile {
    file: Arc<dyn DiskFile>,
    breakage: Breakage,
    sync_count: AtomicU64,
}

impl DiskLayer for BrokenDisk {
    fn below(&self) -> &dyn Disk {
        &*self.disk
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        if !self.breakage.concerns(path) {
            return Ok(file);
        }
        Ok(Arc::new(BrokenFile { file, breakage: self.breakage, sync_count: AtomicU64::new(0) }))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        match self.breakage {
            Breakage::LocksNothing => Err(io::ErrorKind::WouldBlock.into()),
            Breakage::SyncsNothing | Breakage::HidesFailedSyncs | Breakage::FailsSyncs(_) => {
                self.disk.lock(path)
            }
        }
    }
}

impl FileLayer for BrokenFile {
    fn below(&self) -> &dyn DiskFile {
        &*self.file
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.breakage {
            Breakage::SyncsNothing => Ok(()),
            Breakage::HidesFailedSyncs => {
                drop(self.file.sync_data());
                Ok(())
            }
            Breakage::FailsSyncs(_) if self.sync_count.fetch_add(1, Ordering::Relaxed) + 1 == FAILED_SYNC => {
                Err(io::Error::other("sabotage"))
            }
            Breakage::FailsSyncs(_) | Breakage::LocksNothing => self.file.sync_data(),
        }
    }
}

/// Damages every log on a disk, each at its last batch.
pub(super) fn damage(disk: &SimDisk, sabotage: Sabotage) {
    for path in rot::segments(disk) {
        let bytes = disk.read_file(&path).unwrap_or_default();
        let sizes = BatchIter::new(&bytes).map_while(Result::ok).map(|batch| batch.bytes.len());
        let Some(last_size) = sizes.last() else { continue };
        let size = bytes.len() as u64;
        let last = size.saturating_sub(last_size as u64);
        let done = match sabotage {
            Sabotage::DamageDisks => disk.corrupt(&path, size - 1, 1),
            Sabotage::MoveBatches => disk.corrupt(&path, last + BASE_OFFSET_END, 0x40),
            Sabotage::AgeBatches => disk.corrupt(&path, last + LEADER_EPOCH_AT, 0x80),
            Sabotage::TearLogs => {
                disk.open(&path, OpenMode::ReadWrite).and_then(|file| file.truncate(size - 1))
            }
            Sabotage::LoseFirstSegments if !path.ends_with(FIRST_SEGMENT) => Ok(()),
            Sabotage::LoseFirstSegments => disk.remove_file(&path),
            _ => return,
        };
        debug_assert!(done.is_ok(), "a file that was read can be changed");
    }
}
